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
from typing import Any, Protocol


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
        return {"wall_s": self.wall_s, "cpu_s": self.cpu_s, "apart_s": dict(self.apart_s), "devices": self.devices}

    def restore(self, wall_s: float, cpu_s: float, apart_s: Mapping[str, float], devices: int | None = None) -> None:
        """Go on from what was metered before, in another process maybe; the meter stands still.

        With another number of `devices` before, the GPU-hours stay what they were, and the wall seconds do not.
        """
        wall_s = wall_s if devices in (None, self.devices) else wall_s * devices / self.devices
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

    def take_fields(self) -> dict[str, float]:
        """Return what a step row says of where the time went since the last call: seconds by phase."""
        return {f"{name}_s": seconds for name, seconds in self.take_phases().items()}


class Beside(Protocol):
    """What a meter asks of generators that work beside the trainer."""

    @property
    def cpu_s(self) -> float:
        """CPU-seconds of all of them so far."""

    def begin(self) -> None:
        """Start them, and return when they are ready."""

    def pause(self) -> None:
        """Let them stand still, and return when they do."""

    def go_on(self) -> None:
        """Let them work again."""

    def take_seconds(self) -> dict[str, float]:
        """Return wall seconds since the last call, by what was done; ``generator_busy`` is among them."""


class JointMeter(Meter):
    """Meter a trainer and the generators beside it as one; they work only while the meter runs.

    Parameters
    ----------
    generators : Beside
    devices : int
        Devices that all of them hold.
    generators_hold : float
        How many of those are the generators'.
    wall, cpu : callables returning seconds
        Clocks; `cpu` without the generators.
    """

    def __init__(
        self,
        generators: Beside,
        devices: int,
        generators_hold: float,
        *,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        super().__init__(devices, wall=wall, cpu=lambda: cpu() + generators.cpu_s)
        self._generators, self._hold = generators, generators_hold
        self._told_s = 0.0  # wall seconds at the last row
        self._before = 0.0  # GPU-hours that generators held, beyond what as many as now would have
        generators.pause()

    def start(self) -> None:
        """Begin the metered interval, and let the generators work."""
        self._generators.begin()  # starting is not billed
        super().start()
        self._generators.go_on()  # behind the clock: what wakes up first may be another process

    def stop(self) -> None:
        """Let the generators stand still, and end the metered interval."""
        self._generators.pause()
        super().stop()

    @property
    def generator_gpu_hours(self) -> float:
        """Metered wall time x devices that the generators hold, in hours."""
        return self._before + self.wall_s * self._hold / 3600

    def state(self) -> dict[str, Any]:
        """Return what was metered so far."""
        return {**super().state(), "generator_gpu_hours": self.generator_gpu_hours}

    def restore(
        self,
        wall_s: float,
        cpu_s: float,
        apart_s: Mapping[str, float],
        devices: int | None = None,
        generator_gpu_hours: float | None = None,
    ) -> None:
        """Go on from what was metered before, with more or fewer generators maybe; the meter stands still."""
        super().restore(wall_s, cpu_s, apart_s, devices)
        self._told_s = self.wall_s
        if generator_gpu_hours is not None:  # not in checkpoints from before it was counted
            self._before = generator_gpu_hours - self.wall_s * self._hold / 3600

    def reset(self) -> None:
        """Forget what was metered, and go on from zero."""
        super().reset()
        self._told_s = self._before = 0.0

    def take_phases(self) -> dict[str, float]:
        """Return the seconds by phase, and what the generators did meanwhile."""
        return {**super().take_phases(), **self._generators.take_seconds()}

    def take_fields(self) -> dict[str, float]:
        """Return seconds by phase, and by role GPU-hours since the start and the idle share since the last call.

        A trainer is idle while it waits for completions. Generators are idle while they do not work, in the mean.
        """
        fields = super().take_fields()
        wall = self.wall_s
        hours = self._before + wall * self._hold / 3600
        took, self._told_s = max(wall - self._told_s, 1e-9), wall
        idle = {"generator": 1 - fields["generator_busy_s"] / took, "learner": fields.get("generate_s", 0.0) / took}
        fields |= {"generator_gpu_hours": hours, "learner_gpu_hours": wall * self.devices / 3600 - hours}
        # What is told a moment late may fall into the next row, which then has more than it took.
        return fields | {f"{role}_idle_share": min(1.0, max(0.0, share)) for role, share in idle.items()}
