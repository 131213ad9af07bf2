"""The evaluations of a run on one compute axis, in order, with what their counts say of their own noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.curves.solver import Array
from analysis.posteriors.noise import evaluation_variance
from analysis.schema import Run

Window = tuple[float | None, float | None]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluations:
    """Evaluations in order of compute, (n,) each; `variance` from the counts, where all have them."""

    compute: Array
    pass_rate: Array
    time: Array
    variance: Array | None
    correct: tuple[tuple[Array, int], ...]

    def some(self, use: Mask) -> Evaluations:
        """Those that `use` (n,) marks."""
        kept = tuple(c for c, keep in zip(self.correct, use, strict=True) if keep) if self.correct else ()
        variance = None if self.variance is None else self.variance[use]
        return Evaluations(self.compute[use], self.pass_rate[use], self.time[use], variance, kept)


def evaluations_of(run: Run, x: str) -> Evaluations:
    """Return the evaluations of a run in order of compute on the axis `x`, in its unit.

    Noise decays over updates where the run logs them and they grow with compute, otherwise over compute.
    """
    compute = np.asarray(run.data[x], dtype=float)
    pass_rate = np.asarray(run.data["pass_rate"], dtype=float)
    steps = np.asarray(run.data["step"], dtype=float) if "step" in run.axes else compute
    order = np.lexsort((pass_rate, steps, compute))
    steps = steps[order]
    time = steps if (np.diff(steps) >= 0.0).all() and steps[-1] > steps[0] else compute[order]
    counts = _counts(run, order)
    variance = [evaluation_variance(correct, k) for correct, k in counts]
    known = None if not variance or None in variance else np.array(variance, dtype=float)
    return Evaluations(compute[order], pass_rate[order], time, known, counts if known is not None else ())


def _counts(run: Run, order: NDArray[np.intp]) -> tuple[tuple[Array, int], ...]:
    """Correct completions of each prompt and completions a prompt, by evaluation; nothing unless all have them."""
    if "correct" not in run.data or "k" not in run.data:
        return ()
    found = []
    for i in order:
        correct, k = run.data["correct"][i], run.data["k"][i]
        if not isinstance(correct, (list, tuple)) or not correct or type(k) is not int or k < 2:
            return ()
        if any(type(c) is not int or not 0 <= c <= k for c in correct):
            return ()
        found.append((np.array(correct, dtype=float), k))
    return tuple(found)


def inside(compute: Array, window: Window) -> Mask:
    """Return which compute (n,) lies in [from, to]; None is open."""
    low, high = window
    inside: Mask = np.ones(len(compute), dtype=bool)
    if low is not None:
        inside &= compute >= low
    if high is not None:
        inside &= compute <= high
    return inside
