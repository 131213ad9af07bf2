"""Running totals: of figures of one step each, of a clock, and as logged by several attempts of a run.

Promises: a total never falls, and goes on from the checkpoint where a later attempt did. Knows columns of figures, NaN
where a row has none, and not what they are of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

PAUSE_S, LONG_PAUSE = 600.0, 20.0  # a gap of the clock over both, in seconds and in usual gaps, is no work


def in_turn(values: Sequence[float], lines: Sequence[int]) -> list[float]:
    """The figures without those of rows that were logged after rows of later steps: a late evaluation's clock."""
    out = list(values)
    first = math.inf
    for i in range(len(values) - 1, -1, -1):
        if lines[i] > first:
            out[i] = math.nan
        first = min(first, lines[i])
    return out


def resets(values: Sequence[float]) -> set[int]:
    """Rows at which a running total is lower than before: its program was started again, with no step lost."""
    found, before = set(), -math.inf
    for i, value in enumerate(values):
        if value < before:
            found.add(i)
        before = before if math.isnan(value) else value
    return found


def added(values: Sequence[float], steps: Sequence[float] | None) -> list[float]:
    """Sum of figures of one step each; one that is logged every n steps stands for n, rows between lie between."""
    if steps is None:
        return list(np.cumsum([v if v >= 0.0 else 0.0 for v in values]))
    at = [(s, v) for v, s in zip(values, steps, strict=True) if not math.isnan(v + s) and v >= 0.0]
    if not at:
        return [0.0] * len(values)
    gaps = [b - a for (a, _), (b, _) in pairwise(at) if b > a]
    first = at[0][0]
    before = first - min(median(gaps), max(first, 1.0)) if gaps else first - 1.0
    where, total = [before], [0.0]
    for step, value in at:
        total.append(total[-1] + value * max(step - where[-1], 0.0))
        where.append(max(step, where[-1]))
    known = np.interp([where[0] if math.isnan(s) else s for s in steps], where, total)
    out, last = [], 0.0
    for step, value in zip(steps, known, strict=True):  # a row without a step stands at what was spent by then
        last = last if math.isnan(step) else max(float(value), last)
        out.append(last)
    return out


def falls(values: Sequence[float], start: int) -> bool:
    """Whether a running total is lower where an attempt begins than it was before."""
    before, after = _around(values, start)
    return after <= before


def ran_through(values: Sequence[float], start: int, ends: Sequence[float], usual: float) -> bool:
    """Whether a running total goes on where an attempt begins from the end of one that was given up (`ends`)."""
    before, after = _around(values, start)
    ended = max((end for end in ends if before <= end < after), default=before)
    return before < ended and _unlike(after - ended, usual) < _unlike(after - before, usual)


def _around(values: Sequence[float], start: int) -> tuple[float, float]:
    """The last figure before a row and the first from it on; without one, such that nothing fell."""
    before = next((v for v in reversed(values[:start]) if not math.isnan(v)), -math.inf)
    return before, next((v for v in values[start:] if not math.isnan(v)), math.inf)


def _unlike(step: float, usual: float) -> float:
    """How far a step is from the usual one, either way."""
    return abs(math.log(max(step, 1e-12) / max(usual, 1e-12)))


def ends_of(lost: Sequence[Sequence[float]]) -> list[float]:
    """The last value of a total in each of the attempts that were given up."""
    return [max((v for v in one if not math.isnan(v)), default=-math.inf) for one in lost]


def so_far(values: Sequence[float], starts: set[int], ends: Sequence[float]) -> list[float]:
    """A running total as logged; where it begins again or counts given-up work, it is moved to go on from before.

    At the start of an attempt a total goes on from the checkpoint, begins again at 0, or ran through the given-up work
    (`ends`: its last values). Of what is possible, the one counts whose first increment is most like the usual one.
    """
    usual = usual_gap(values, starts)
    out: list[float] = []
    offset, raw_before, begins = 0.0, 0.0, False
    for i, value in enumerate(values):
        begins = begins or i in starts
        before = out[-1] if out else math.nan
        if math.isnan(value):
            out.append(before)
            continue
        if begins and not math.isnan(before):
            end = max((e for e in ends if raw_before <= e <= value), default=raw_before)
            steps = [value, *(value - base for base in (raw_before, end) if value >= base)]
            taken = min(steps, key=lambda step: _unlike(step, usual))
            offset = before + taken - value
        out.append(value + offset if math.isnan(before) else max(value + offset, before))  # rounding must not lower it
        raw_before, begins = value, False
    return out


def by_clock(values: Sequence[float], starts: set[int], steps: Sequence[float] | None) -> list[float]:
    """Time between rows of one attempt; the way to its first row, and a pause of the clock, is the median one."""
    usual = usual_gap(values, starts)
    total, out, before, begins = 0.0, [], math.nan, False
    for i, value in enumerate(values):
        begins = begins or i in starts
        if not math.isnan(value):
            if math.isnan(before):
                total += usual if steps is None or not steps[i] <= 0.0 else 0.0
            else:
                gap = max(value - before, 0.0)
                total += usual if begins or _is_pause(gap, usual) else gap
            before, begins = value, False
        out.append(total)
    return out


def usual_gap(values: Sequence[float], starts: set[int]) -> float:
    """Return the median step of a running total within an attempt, in its unit; 0 where there is none."""
    known = [(i, v) for i, v in enumerate(values) if not math.isnan(v)]
    gaps = [b - a for (_, a), (i, b) in pairwise(known) if i not in starts and b >= a]
    return median(gaps) if gaps else 0.0


def _is_pause(gap: float, usual: float) -> bool:
    return gap > max(PAUSE_S, LONG_PAUSE * usual)


def pauses(values: Sequence[float], starts: Sequence[int]) -> int:
    """Count the gaps of a clock, in seconds, in which nothing can have run."""
    usual = usual_gap(values, set(starts))
    known = [(i, v) for i, v in enumerate(values) if not math.isnan(v)]
    return sum(_is_pause(b - a, usual) for (_, a), (i, b) in pairwise(known) if i not in starts)


def span(values: Sequence[float], usual: float) -> float:
    """What the rows of given-up work took: from first to last, and the way to the first."""
    known = [v for v in values if not math.isnan(v)]
    return known[-1] - known[0] + usual if known else 0.0
