"""What a run decides while it trains: its learning rate, its batch size, when to stop, which policy to keep.

Pure Python. Each controller is told figures of the log and answers with the fields of an event (`old`, `new` and a
`reason` in words), or with None where it leaves things as they are. What it remembers is in its `state`, so that a run
that was killed decides as it would have.

Three of them listen to the evaluation pass rate, which is a function of seed and configuration. `BatchSize` listens to
the clock: a run with it cannot be repeated, and its header says so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from scalerl.config import ScaleRLConfig

GROW, SHRINK = 1.2, 0.8  # factors of a batch below the target, and above
ABOVE = 1.1  # times the target: from there on a batch shrinks
WINDOWS = 5  # latest measurements of a batch size that count

Fields = dict[str, Any]


@dataclass
class Rise:
    """The best of a series of pass rates, and how many of them in a row did not beat it.

    Examples
    --------
    >>> rise = Rise(min_gain=0.01)
    >>> [rise.watch(step, rate) for step, rate in enumerate([0.1, 0.105, 0.2])], rise.since
    ([True, False, True], 0)
    """

    min_gain: float = 0.0
    """A rate is a gain if it is above the best by more than this."""
    best: float | None = None
    step: int = 0
    """Of the best."""
    since: int = 0
    """Rates after the best, or after the latest decision."""

    def watch(self, step: int, pass_rate: float) -> bool:
        """Take in the next pass rate; return whether it is a gain."""
        gained = self.best is None or pass_rate > self.best + self.min_gain
        if gained:
            self.best, self.step, self.since = pass_rate, step, 0
        else:
            self.since += 1
        return gained

    def state(self) -> Fields:
        """Return what a checkpoint must keep."""
        return {"best": self.best, "step": self.step, "since": self.since}

    def restore(self, state: Fields) -> None:
        """Go on from a kept state."""
        self.best, self.step, self.since = state["best"], state["step"], state["since"]

    def __str__(self) -> str:
        count = "1 evaluation" if self.since == 1 else f"{self.since} evaluations"
        more = f" by more than {self.min_gain:g}" if self.min_gain else ""
        return f"{count} did not beat the pass rate of {self.best:.4g} at step {self.step}{more}"


class LearningRate:
    """Lower the learning rate when the evaluation pass rate no longer rises (``lr_schedule: plateau``).

    Evaluations during the warm-up may set the best pass rate but are not counted as ones without a gain. After a cut
    the count begins anew, the best stays. This is torch's ``ReduceLROnPlateau`` with ``mode="max"``, except that its
    patience is how many evaluations are tolerated: ours of 5 is its 4.

    Examples
    --------
    >>> rate = LearningRate(ScaleRLConfig(lr_schedule="plateau", plateau_patience=2, warmup_steps=0))
    >>> [rate.watch(step, 0.3) is not None for step in range(5)], rate.peak
    ([False, False, True, False, True], 1.25e-07)
    """

    def __init__(self, config: ScaleRLConfig) -> None:
        self.config = config
        self.peak = config.learning_rate
        """Learning rate after the warm-up."""
        self.rise = Rise(config.plateau_min_gain)

    def watch(self, step: int, pass_rate: float) -> Fields | None:
        """Take in an evaluation."""
        config = self.config
        if config.lr_schedule == "constant":
            return None
        if self.rise.watch(step, pass_rate) or step < config.warmup_steps:
            self.rise.since = 0
            return None
        if self.rise.since < config.plateau_patience:
            return None
        reason, old = str(self.rise), self.peak
        self.peak, self.rise.since = max(config.plateau_floor, old * config.plateau_factor), 0
        return {"old": old, "new": self.peak, "reason": reason} if self.peak < old else None

    def state(self) -> Fields:
        """Return what a checkpoint must keep."""
        return {"peak": self.peak, **self.rise.state()}

    def restore(self, state: Fields) -> None:
        """Go on from a kept state."""
        self.peak = state["peak"]
        self.rise.restore(state)


class EarlyStopping:
    """End a run whose evaluation pass rate no longer rises.

    Examples
    --------
    >>> stopping = EarlyStopping(ScaleRLConfig(early_stopping_patience=2))
    >>> for step, rate in enumerate([0.3, 0.3, 0.2]):
    ...     stopping.watch(step, rate)
    >>> stopping.stopped, stopping.fields()["reason"]
    (True, '2 evaluations did not beat the pass rate of 0.3 at step 0')
    """

    def __init__(self, config: ScaleRLConfig) -> None:
        self.patience = config.early_stopping_patience
        self.rise = Rise(config.early_stopping_min_gain)
        self.latest: float | None = None

    def watch(self, step: int, pass_rate: float) -> None:
        """Take in an evaluation."""
        self.rise.watch(step, pass_rate)
        self.latest = pass_rate

    @property
    def stopped(self) -> bool:
        """Whether the run should end; a larger patience takes it back."""
        return self.patience is not None and self.rise.since >= self.patience

    def fields(self) -> Fields:
        """Return the fields of the event: the best and the latest pass rate."""
        return {"old": self.rise.best, "new": self.latest, "reason": str(self.rise)}

    def state(self) -> Fields:
        """Return what a checkpoint must keep."""
        return {"latest": self.latest, **self.rise.state()}

    def restore(self, state: Fields) -> None:
        """Go on from a kept state."""
        self.latest = state["latest"]
        self.rise.restore(state)


class Best:
    """Say which evaluation is the best so far; of equal ones the first.

    Examples
    --------
    >>> best = Best()
    >>> best.watch(0, 0.25), best.watch(2, 0.25)
    ({'old': None, 'new': 0.25, 'reason': 'first evaluation'}, None)
    """

    def __init__(self) -> None:
        self.rise = Rise()

    def watch(self, step: int, pass_rate: float) -> Fields | None:
        """Take in an evaluation."""
        old, before = self.rise.best, self.rise.step
        if not self.rise.watch(step, pass_rate):
            return None
        reason = "first evaluation" if old is None else f"highest pass rate so far; before at step {before}"
        return {"old": old, "new": pass_rate, "reason": reason}

    def state(self) -> Fields:
        """Return what a checkpoint must keep."""
        return self.rise.state()

    def restore(self, state: Fields) -> None:
        """Go on from a kept state."""
        self.rise.restore(state)


@dataclass
class Window:
    """The updates at one batch size from which its speed is measured."""

    updates: int = 0
    wall_s: float = 0.0
    """Metered wall seconds when it began."""
    flops: float = 0.0
    """FLOPs of the run when it began."""


@dataclass
class BatchSize:
    """Find the smallest batch that keeps the machine nearly as busy as it can be (``dynamic_batch_size``).

    Speed is FLOPs per metered second: the run's own compute axes, so that idle time counts against it, and a filter
    that leaves tokens out of the loss, or completions that grow, change work and time alike. Efficiency is the speed of
    a size as a share of the fastest size seen, for no machine tells how fast it could be. Large batches are fast and
    give few updates; so a batch shrinks (x .8) while it keeps more than 1.1 times the target, and grows (x 1.2) when it
    falls below the target.

    A window is `batch_size_every` updates in a row whose batches all had the present size. Batches that began at
    another size are not counted: with PipelineRL-k those are the k updates after a change, at most. The speed of a size
    is the median of its latest `WINDOWS` windows: measured against the single fastest one, every other would look slow
    on a machine that is busy now and then, and the batch would only grow.

    Parameters
    ----------
    config : ScaleRLConfig
        The fields batch_size, batch_size_min, batch_size_max, batch_size_every, efficiency_target,
        generations_per_prompt are read.
    """

    config: ScaleRLConfig
    size: int = field(init=False)
    """Completions an update, from the next batch that begins."""
    speeds: dict[int, list[float]] = field(default_factory=dict)
    """FLOPs per metered second of the latest windows of each size."""
    window: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        self.size = self.config.batch_size

    def watch(self, trained: int, wall_s: float, flops: float) -> Fields | None:
        """Take in an update on `trained` completions, with the run's metered wall seconds and FLOPs up to now."""
        config = self.config
        if not config.dynamic_batch_size:
            return None
        if trained != self.size:
            self.window = Window(0, wall_s, flops)
            return None
        self.window.updates += 1
        if self.window.updates < config.batch_size_every or wall_s <= self.window.wall_s:
            return None
        measured = (flops - self.window.flops) / (wall_s - self.window.wall_s)
        self.window, old = Window(0, wall_s, flops), self.size
        self.speeds[old] = [*self.speeds.get(old, []), measured][-WINDOWS:]
        speed, fastest = median(self.speeds[old]), max(map(median, self.speeds.values()))
        if not fastest:  # nothing was computed yet
            return None
        efficiency = speed / fastest
        self.size = next_batch_size(
            old,
            efficiency,
            target=config.efficiency_target,
            generations=config.generations_per_prompt,
            least=config.batch_size_min,
            most=config.batch_size_max,
        )
        if self.size == old:
            return None
        limit, side = (1.0, "below") if self.size > old else (ABOVE, "above")
        return {
            "old": old,
            "new": self.size,
            "efficiency": efficiency,
            "flops_per_s": speed,
            "reason": f"efficiency {efficiency:.3g} is {side} {limit * config.efficiency_target:.3g}",
        }

    def state(self) -> Fields:
        """Return what a checkpoint must keep."""
        return {"size": self.size, "speeds": dict(self.speeds), "window": asdict(self.window)}

    def restore(self, state: Fields) -> None:
        """Go on from a kept state."""
        self.size, self.window = state["size"], Window(**state["window"])
        self.speeds = {int(size): list(measured) for size, measured in state["speeds"].items()}


def next_batch_size(size: int, efficiency: float, *, target: float, generations: int, least: int, most: int) -> int:
    """Return the batch size that follows: x 1.2 below the target, x .8 above 1.1 times it.

    It is a multiple of `generations`, as near to the product as one lies but never the same size again, and stays
    between `least` and `most`.

    Examples
    --------
    >>> [next_batch_size(512, e, target=0.8, generations=16, least=256, most=2048) for e in (0.7, 0.85, 0.95)]
    [608, 512, 416]
    """
    groups = size // generations
    if efficiency < target:
        groups = max(groups + 1, round(groups * GROW))
    elif efficiency > ABOVE * target:
        groups = min(groups - 1, round(groups * SHRINK))
    lowest, highest = math.ceil(least / generations), most // generations
    return min(max(groups, lowest), highest) * generations


class Controllers:
    """All that decide, together."""

    def __init__(self, config: ScaleRLConfig) -> None:
        self.learning_rate = LearningRate(config)
        self.batch_size = BatchSize(config)
        self.stopping = EarlyStopping(config)
        self.best = Best()

    def state(self) -> dict[str, Fields]:
        """Return what a checkpoint must keep."""
        return {name: controller.state() for name, controller in vars(self).items()}

    def restore(self, state: dict[str, Fields]) -> None:
        """Go on from a kept state."""
        for name, controller in vars(self).items():
            controller.restore(state[name])
