"""One generator of a simulated run, between two events; `scalerl.simulate.engine` says what happens to it."""

from __future__ import annotations

import math
from typing import Protocol

ALIKE = 1e-9  # of a token: two clocks this close agree


class Lengths(Protocol):
    """Length of each completion, end token included, by its number."""

    def __getitem__(self, number: int, /) -> int: ...


class Device:
    """A device at a boundary between two tokens, and what is in work on it."""

    __slots__ = ("busy_s", "decoded", "ends", "number", "stamp", "tick", "ticking", "time", "version", "versions")

    def __init__(self, number: int) -> None:
        self.number = number
        self.time = 0.0
        self.tick = 0  # tokens decoded one by one so far
        self.ends: list[tuple[int, int]] = []  # tick and number of every completion in work, a heap
        self.version = 0
        self.versions = 0  # sum of the version over the ticks
        self.busy_s = 0.0
        self.decoded = 0
        self.ticking = 0.0  # seconds of a tick with what is in work now
        self.stamp = 0  # events of before the latest change are void

    def forward(self, ticks: int) -> None:
        """Decode."""
        seconds = ticks * self.ticking
        self.tick += ticks
        self.time += seconds
        self.busy_s += seconds
        self.versions += ticks * self.version
        self.decoded += ticks * len(self.ends)

    def align(self, now: float) -> None:
        """Decode up to the first boundary that is not before a time."""
        if now <= self.time:
            return
        if not self.ends:
            self.time = now
            return
        ticks = math.ceil((now - self.time) / self.ticking - ALIKE)
        self.forward(min(ticks, self.ends[0][0] - self.tick))
