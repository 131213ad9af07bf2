"""The compute axis of a run that another program logged: what the log says, or what follows from it, and which it was.

Promises: an axis is a column of the file or is made by one of the rules below, and a finding says which; devices are
never assumed. A log without a number of devices has ``wall_hours``, the hours of the job, until someone says how many
it held (``devices=``, ``--devices``). Where a later attempt went on from a checkpoint, the axis goes on from there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np

from analysis.findings import Finding, finding
from analysis.readers.cleaning import RESTARTS, Table, figures, known_figures
from analysis.readers.found import Found
from scalerl.runlog import COMPUTE_AXES

# Names in logs, without a leading train/: seconds of one step; seconds so far; a clock, in seconds since 1970; tokens.
STEP_SECONDS = (
    "step_time",  # TRL
    "timing_s/step",  # verl
    "timing/step",  # verl of 2024, SkyRL
    "timing/step_total",  # OpenRLHF
    "perf/time_per_step",  # verl
    "time/step",  # prime-rl
    "time_per_step_s",
)
SECONDS_SO_FAR = ("_runtime", "elapsed_s", "relative time (process)")
CLOCKS = ("wall_time", "_timestamp", "wall time", "time")  # prime-rl says time
TOKENS_SO_FAR = ("num_tokens", "num_input_tokens_seen", "total_tokens", "progress/total_tokens")
TOKENS_OF_STEP = ("perf/total_num_tokens",)
PAUSE_S, LONG_PAUSE = 600.0, 20.0  # a gap of the clock over both, in seconds and in usual gaps, is no work
EPOCH_1985 = 5e8  # a clock that shows less counts from something else
UNITS = ((1e11, 1e-3, "milliseconds"), (1e14, 1e-6, "microseconds"), (1e17, 1e-9, "nanoseconds"))  # of clocks, from
OF_EACH = 0.2  # share of rows in which a running total falls from which on it is none
DERIVED = ("gpu_hours", "wall_hours", "tokens")


class Axes(NamedTuple):
    """A table with the axes added, and of each what is to be said where it is used."""

    table: Table
    said: dict[str, tuple[Finding, ...]]


class _Rule(NamedTuple):
    """How an axis is made: its column, what kind of figure that holds, a sentence for people, hours in its unit."""

    column: str
    kind: str  # "each": of one step; "so far": a running total; "clock"
    says: str
    hours: float = 1 / 3600.0
    unit: float = 1.0  # what makes seconds of a clock


def derive(found: Found, devices: float | None = None) -> Axes:
    """Return the axes that follow from what was logged.

    Parameters
    ----------
    found : Found
        One run, its surviving branch (`analysis.readers.lineage`).
    devices : float, optional
        Devices that the run held; what the log says by default.

    Returns
    -------
    Axes
        With the columns of `DERIVED` that could be made and are not in the file already, and the training step as
        ``step``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from analysis.readers.labels import Label
    >>> table = Table("a.jsonl", {"step": [1, 2], "timing_s/step": [1800.0, 3600.0]}, [1, 2])
    >>> made = derive(Found(Label("a"), table, Path("a.jsonl"), "", "verl-file", step="step"), devices=8)
    >>> list(made.said), made.table.columns["gpu_hours"]
    (['gpu_hours', 'step'], [4.0, 12.0])
    """
    columns = dict(found.table.columns)
    said: dict[str, tuple[Finding, ...]] = {}
    held = found.devices if devices is None else devices
    steps = None if found.step is None or found.step not in columns else figures(columns[found.step])
    for name in (*COMPUTE_AXES, *DERIVED):
        if name in columns and name != "step" and _falls(figures(columns[name]), found.starts):
            columns[name] = list(_so_far(figures(columns[name]), set(found.starts), ()))
            what = f"{name} begins again at a resume; it is moved to go on from the checkpoint"
            said[name] = (finding("axis-derived", what),)
    for name in (*COMPUTE_AXES, *DERIVED):
        if name in columns and name != "step" and steps is not None and _of_each_step(figures(columns[name])):
            columns[name] = list(_total(found, _Rule(name, "each", ""), steps)[0])
            what = f"{name} falls from row to row: taken for that of one step and added up"
            said[name] = (finding("axis-derived", what, severity="warning"),)
    if "gpu_hours" in columns and devices is not None:
        what = f"gpu_hours is in the log and is taken as it is; {devices:g} devices, as asked, change nothing"
        said["gpu_hours"] = (*said.get("gpu_hours", ()), finding("axis-chosen", what))
    if "gpu_hours" not in columns and (rule := _time_rule(columns, steps is not None)) is not None:
        axis, factor = ("gpu_hours", held * rule.hours) if held else ("wall_hours", rule.hours)
        amounts, lost = _total(found, rule, steps)
        pauses = (
            _pauses([v * rule.unit for v in figures(columns[rule.column])], found.starts) if rule.kind == "clock" else 0
        )
        if axis not in columns:
            columns[axis] = [v * factor for v in amounts]
            devices_of = f"x {held:g} device{'s' if held != 1 else ''}" if held else ""
            source = "as asked" if devices is not None else "as the log says"
            what = f"gpu_hours: {rule.says} {devices_of}, {source}" if held else f"wall_hours: {rule.says}"
            what += f"; {pauses} pauses of the clock count as the usual gap" if pauses else ""
            what += "" if held else "; how many devices is not in the log (--devices N makes gpu_hours of it)"
            said[axis] = (finding("axis-derived", what),)
        if lost > 0.0:
            what = f"{lost * factor:.3g} {axis} of work were taken back by later attempts: not in the curve"
            said[axis] = (*said.get(axis, ()), finding("work-lost", what, lost * factor))
    if "tokens" not in columns and (rule := _token_rule(columns, steps is not None)) is not None:
        columns["tokens"] = list(_total(found, rule, steps)[0])
        said["tokens"] = (finding("axis-derived", f"tokens: {rule.says}"),)
    if steps is not None:
        own = found.step is not None and found.step.rsplit("/", maxsplit=1)[-1] == "_step"
        columns["step"] = columns[found.step or ""]  # a column of that name may count the steps of each epoch
        what = "compute is training steps: the log holds neither time nor tokens"
        what = "compute is _step, which counts calls of log() and not updates: name another (--x)" if own else what
        said["step"] = () if set(said) - {"step"} and not own else (finding("axis-steps", what),)
    return Axes(replace(found.table, columns=columns), _begun_late(steps, said))


def _of_each_step(values: Sequence[float]) -> bool:
    """Whether figures that should be running totals fall as those of single steps do."""
    known = [v for v in values if not math.isnan(v)]
    falls = sum(b < a for a, b in pairwise(known))
    return falls > RESTARTS and falls > OF_EACH * len(known)


def _begun_late(steps: Sequence[float] | None, said: dict[str, tuple[Finding, ...]]) -> dict[str, tuple[Finding, ...]]:
    """Say of derived axes that a log which begins in the middle of a run does not know what was spent before."""
    known = [s for s in steps or () if not math.isnan(s)]
    gaps = [b - a for a, b in pairwise(known) if b > a]
    if not gaps or known[0] <= 2.0 * max(gaps[0], median(gaps), 1.0):
        return said
    what = f"the log begins at step {known[0]:g}: what was spent before is not in it; the part before is another file?"
    late = finding("log-begins-late", what, known[0])
    return {axis: (*findings, late) if axis in DERIVED else findings for axis, findings in said.items()}


def _find(columns: Mapping[str, Sequence[object]], known: Sequence[str]) -> str | None:
    """The first column of a known name that holds a number."""
    low = {re.sub(r"^train/", "", name.strip().lower()): name for name in reversed(list(columns))}
    for name in known:
        if name in low and any(not math.isnan(v) for v in figures(columns[low[name]])):
            return low[name]
    return None


def _time_rule(columns: Mapping[str, Sequence[object]], steps: bool) -> _Rule | None:
    if "wall_hours" in columns and known_figures(columns["wall_hours"]):
        return _Rule("wall_hours", "so far", "wall_hours, as logged", 1.0)
    if steps and (name := _find(columns, STEP_SECONDS)) is not None:
        return _Rule(name, "each", f"{name}, seconds a step, added up")
    if (name := _find(columns, SECONDS_SO_FAR)) is not None:
        return _Rule(name, "so far", f"{name}, seconds since the start, pauses and evaluations included")
    name = _find(columns, CLOCKS)
    if name is not None and min(known_figures(columns[name])) > EPOCH_1985:
        least = min(known_figures(columns[name]))
        unit, word = next(((u, f" in {word}") for start, u, word in reversed(UNITS) if least > start), (1.0, ""))
        says = f"time between rows by {name}{word}, evaluations included, gaps between attempts not"
        return _Rule(name, "clock", says, unit=unit)
    return None


def _token_rule(columns: Mapping[str, Sequence[object]], steps: bool) -> _Rule | None:
    if (name := _find(columns, TOKENS_SO_FAR)) is not None and max(known_figures(columns[name]), default=0.0) > 0.0:
        return _Rule(name, "so far", f"{name}, which counts them from the start")
    if steps and (name := _find(columns, TOKENS_OF_STEP)) is not None:
        return _Rule(name, "each", f"{name}, tokens a step, added up")
    return None


def _total(found: Found, rule: _Rule, steps: Sequence[float] | None) -> tuple[list[float], float]:
    """Running total at each row of the surviving branch, and what the given-up rows add to the bill."""
    values = figures(found.table.columns[rule.column])
    lost = [figures(table.columns[rule.column]) for table in found.lost]
    if rule.kind == "each":
        lost_steps = [figures(t.columns[found.step]) if found.step else None for t in found.lost]
        gone = sum(_added(v, s)[-1] if v else 0.0 for v, s in zip(lost, lost_steps, strict=True))
        return _added(values, steps), gone
    values = [v * rule.unit for v in _in_turn(values, found.table.lines)]
    lost = [[v * rule.unit for v in one] for one in lost]
    starts = {*found.starts, *(() if rule.kind == "clock" else _resets(values))}
    gone = sum(_span(v, _usual_gap(values, starts)) for v in lost)
    if rule.kind == "clock":
        return _by_clock(values, starts, steps), gone
    ends = [max((v for v in one if not math.isnan(v)), default=-math.inf) for one in lost]
    return _so_far(values, starts, ends), gone


def _in_turn(values: Sequence[float], lines: Sequence[int]) -> list[float]:
    """The figures without those of rows that were logged after rows of later steps: a late evaluation's clock."""
    out = list(values)
    first = math.inf
    for i in range(len(values) - 1, -1, -1):
        if lines[i] > first:
            out[i] = math.nan
        first = min(first, lines[i])
    return out


def _resets(values: Sequence[float]) -> set[int]:
    """Rows at which a running total is lower than before: its program was started again, with no step lost."""
    found, before = set(), -math.inf
    for i, value in enumerate(values):
        if value < before:
            found.add(i)
        before = before if math.isnan(value) else value
    return found


def _added(values: Sequence[float], steps: Sequence[float] | None) -> list[float]:
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


def _falls(values: Sequence[float], starts: Sequence[int]) -> bool:
    """Whether a running total is lower where an attempt begins than it was before."""
    for start in starts:
        before = [v for v in values[:start] if not math.isnan(v)]
        after = next((v for v in values[start:] if not math.isnan(v)), math.inf)
        if before and after <= before[-1]:
            return True
    return False


def _so_far(values: Sequence[float], starts: set[int], ends: Sequence[float]) -> list[float]:
    """A running total as logged; where it begins again or counts given-up work, it is moved to go on from before.

    At the start of an attempt a total goes on from the checkpoint, begins again at 0, or ran through the given-up work
    (`ends`: its last values). Of what is possible, the one counts whose first increment is most like the usual one.
    """
    usual = max(_usual_gap(values, starts), 1e-12)
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
            taken = min(steps, key=lambda step: abs(math.log(max(step, 1e-12) / usual)))
            offset = before + taken - value
        out.append(value + offset if math.isnan(before) else max(value + offset, before))  # rounding must not lower it
        raw_before, begins = value, False
    return out


def _by_clock(values: Sequence[float], starts: set[int], steps: Sequence[float] | None) -> list[float]:
    """Time between rows of one attempt; the way to its first row, and a pause of the clock, is the median one."""
    usual = _usual_gap(values, starts)
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


def _usual_gap(values: Sequence[float], starts: set[int]) -> float:
    known = [(i, v) for i, v in enumerate(values) if not math.isnan(v)]
    gaps = [b - a for (_, a), (i, b) in pairwise(known) if i not in starts and b >= a]
    return median(gaps) if gaps else 0.0


def _is_pause(gap: float, usual: float) -> bool:
    return gap > max(PAUSE_S, LONG_PAUSE * usual)


def _pauses(values: Sequence[float], starts: Sequence[int]) -> int:
    usual = _usual_gap(values, set(starts))
    known = [(i, v) for i, v in enumerate(values) if not math.isnan(v)]
    return sum(_is_pause(b - a, usual) for (_, a), (i, b) in pairwise(known) if i not in starts)


def _span(values: Sequence[float], usual: float) -> float:
    """What the rows of given-up work took: from first to last, and the way to the first."""
    known = [v for v in values if not math.isnan(v)]
    return known[-1] - known[0] + usual if known else 0.0
