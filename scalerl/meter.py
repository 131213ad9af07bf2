"""Meter the compute of a run: GPU-hours, process CPU-seconds, and the seconds spent in each phase.

Promises: `gpu_hours` is the wall time of the metered interval times the devices held, divided by 3600, idle time
included. What runs inside `apart` (evaluation, checkpoints) is left out of both `gpu_hours` and `cpu_s` and has
a total of its own. Phase seconds are a breakdown of a step, not a sum that must add up to it.

Does not promise: utilisation. A device that is held and idle costs what a busy one costs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Meter:
    """Measure what a run costs.

    Parameters
    ----------
    devices : int
        Devices held for the whole run. On a CPU one process counts as one device.
    wall, cpu : callables returning seconds
        Clocks; replaceable so that the arithmetic can be tested.

    Examples
    --------
    >>> ticks = iter([0.0, 3600.0, 3600.0, 4000.0, 4000.0, 4000.0])
    >>> meter = Meter(devices=2, wall=lambda: next(ticks), cpu=lambda: 0.0)
    >>> meter.start()
    >>> with meter.apart("evaluate"):        # one hour has gone by; the evaluation takes 400 s
    ...     pass
    >>> meter.gpu_hours
    2.0
    >>> meter.apart_s["evaluate"]
    400.0
    """

    def __init__(
        self,
        devices: int = 1,
        *,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.devices = devices
        self.apart_s: dict[str, float] = defaultdict(float)
        self._wall, self._cpu = wall, cpu
        self._phase_s: dict[str, float] = defaultdict(float)
        self._wall_total = self._cpu_total = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin (or go on with) the metered interval."""
        if self._since is None:
            self._since = (self._wall(), self._cpu())

    def stop(self) -> None:
        """End the metered interval; what was metered stays."""
        if self._since is not None:
            wall, cpu = self._since
            self._wall_total += self._wall() - wall
            self._cpu_total += self._cpu() - cpu
            self._since = None

    @property
    def wall_s(self) -> float:
        """Metered wall seconds so far."""
        return self._wall_total + (0.0 if self._since is None else self._wall() - self._since[0])

    @property
    def cpu_s(self) -> float:
        """Metered CPU seconds of this process so far."""
        return self._cpu_total + (0.0 if self._since is None else self._cpu() - self._since[1])

    @property
    def gpu_hours(self) -> float:
        """Metered wall time x devices held, in hours."""
        return self.wall_s * self.devices / 3600.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the wall seconds of the block under `name` in the current step's breakdown."""
        begin = self._wall()
        try:
            yield
        finally:
            self._phase_s[name] += self._wall() - begin

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Stop the metered interval for the block and count its wall seconds under `apart_s[name]`."""
        running = self._since is not None
        self.stop()
        begin = self._wall()
        try:
            yield
        finally:
            self.apart_s[name] += self._wall() - begin
            if running:
                self.start()

    def state(self) -> dict[str, Any]:
        """Return what was metered so far."""
        return {"wall_s": self.wall_s, "cpu_s": self.cpu_s, "apart_s": dict(self.apart_s)}

    def restore(self, wall_s: float, cpu_s: float, apart_s: Mapping[str, float]) -> None:
        """Go on from what was metered before, in another process maybe; the meter stands still."""
        self._wall_total, self._cpu_total, self._since = wall_s, cpu_s, None
        self.apart_s.update(apart_s)

    def reset(self) -> None:
        """Forget what was metered, and go on from zero; a meter that stands still goes on standing."""
        self._wall_total = self._cpu_total = 0.0
        if self._since is not None:
            self._since = (self._wall(), self._cpu())

    def take_phases(self) -> dict[str, float]:
        """Return the seconds by phase since the last call, and begin a new breakdown."""
        phases, self._phase_s = dict(self._phase_s), defaultdict(float)
        return phases
