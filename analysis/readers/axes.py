"""The compute axis of a run that another program logged: what the log says, or what follows from it, and which it was.

Promises: an axis is a column of the file or is made by one of the rules below, and a finding says which; devices are
never assumed. A log without a number of devices has ``wall_hours``, the hours of the job, until someone says how many
it held (``devices=``, ``--devices``). Where a later attempt went on from a checkpoint, the axis goes on from there.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, number
from analysis.readers.found import Found

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
EPOCH_1985 = 5e8  # a clock that shows less counts from something else
DERIVED = ("gpu_hours", "wall_hours", "tokens")


class Axes(NamedTuple):
    """A table with the axes added, and of each what is to be said where it is used."""

    table: Table
    said: dict[str, tuple[Finding, ...]]


class _Rule(NamedTuple):
    """How an axis is made: its column, what kind of figure that holds, and a sentence for people."""

    column: str
    kind: str  # "each": of one step; "so far": a running total; "clock"
    says: str


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
    steps = None if found.step is None or found.step not in columns else _numbers(columns[found.step])
    if "gpu_hours" not in columns and (rule := _time_rule(columns)) is not None:
        axis, factor = ("gpu_hours", held / 3600.0) if held else ("wall_hours", 1 / 3600.0)
        seconds, lost_s = _total(found, rule, steps)
        columns[axis] = [s * factor for s in seconds]
        what = (
            f"gpu_hours: {rule.says} x {held:g} device{'s' if held != 1 else ''}"
            if held
            else f"wall_hours: {rule.says}"
        )
        what += (", as asked" if devices is not None else ", as the log says") if held else ""
        what += "" if held else "; how many devices is not in the log (--devices N makes gpu_hours of it)"
        said[axis] = (finding("axis-derived", what),)
        if lost_s > 0.0:
            what = f"{lost_s * factor:.3g} {axis} of work were taken back by later attempts: not in the curve"
            said[axis] += (finding("work-lost", what, lost_s * factor),)
    if "tokens" not in columns and (rule := _token_rule(columns)) is not None:
        columns["tokens"] = list(_total(found, rule, steps)[0])
        said["tokens"] = (finding("axis-derived", f"tokens: {rule.says}"),)
    if steps is not None:
        columns.setdefault("step", columns[found.step or ""])
        said["step"] = (finding("axis-steps", "compute is training steps: the log holds neither time nor tokens"),)
        if len(said) > 1:
            said["step"] = ()
    return Axes(replace(found.table, columns=columns), said)


def _find(columns: Mapping[str, Sequence[object]], known: Sequence[str]) -> str | None:
    """The first column of a known name that holds a number."""
    low = {re.sub(r"^train/", "", name.strip().lower()): name for name in reversed(list(columns))}
    for name in known:
        if name in low and any(not math.isnan(v) for v in _numbers(columns[low[name]])):
            return low[name]
    return None


def _time_rule(columns: Mapping[str, Sequence[object]]) -> _Rule | None:
    if (name := _find(columns, STEP_SECONDS)) is not None:
        return _Rule(name, "each", f"{name}, seconds a step, added up")
    if (name := _find(columns, SECONDS_SO_FAR)) is not None:
        return _Rule(name, "so far", f"{name}, seconds since the start, pauses and evaluations included")
    name = _find(columns, CLOCKS)
    if name is not None and min(v for v in _numbers(columns[name]) if not math.isnan(v)) > EPOCH_1985:
        return _Rule(
            name, "clock", f"time between rows by {name}, pauses and evaluations included, gaps at restarts not"
        )
    return None


def _token_rule(columns: Mapping[str, Sequence[object]]) -> _Rule | None:
    if (name := _find(columns, TOKENS_SO_FAR)) is not None and max(_known(columns[name]), default=0.0) > 0.0:
        return _Rule(name, "so far", f"{name}, which counts them from the start")
    if (name := _find(columns, TOKENS_OF_STEP)) is not None:
        return _Rule(name, "each", f"{name}, tokens a step, added up")
    return None


def _total(found: Found, rule: _Rule, steps: Sequence[float] | None) -> tuple[list[float], float]:
    """Running total at each row of the surviving branch, and what the given-up rows add to the bill."""
    values = _numbers(found.table.columns[rule.column])
    starts = set(found.starts)
    lost = [_numbers(table.columns[rule.column]) for table in found.lost]
    if rule.kind == "each":
        lost_steps = [_numbers(t.columns[found.step]) if found.step else None for t in found.lost]
        gone = sum(_added(v, s)[-1] if v else 0.0 for v, s in zip(lost, lost_steps, strict=True))
        return _added(values, steps), gone
    spans = [_span(v) for v in lost]
    if rule.kind == "clock":
        return _by_clock(values, starts, steps), sum(spans)
    ends = [max((v for v in one if not math.isnan(v)), default=-math.inf) for one in lost]
    return _so_far(values, starts, ends), sum(spans)


def _added(values: Sequence[float], steps: Sequence[float] | None) -> list[float]:
    """Sum of figures of one step each; one that is logged every n steps stands for n."""
    total, out = 0.0, []
    at = [s for v, s in zip(values, steps, strict=True) if not math.isnan(v + s)] if steps is not None else []
    gaps = [b - a for a, b in itertools.pairwise(at) if b > a]
    before = at[0] - min(median(gaps), max(at[0], 1.0)) if gaps else (at[0] - 1.0 if at else 0.0)
    for i, value in enumerate(values):
        if not math.isnan(value) and value >= 0.0:
            count = 1.0
            if steps is not None and not math.isnan(steps[i]):
                count, before = max(steps[i] - before, 0.0), steps[i]
            total += value * count
        out.append(total)
    return out


def _so_far(values: Sequence[float], starts: set[int], ends: Sequence[float]) -> list[float]:
    """A running total as logged; where it begins again or counts given-up work, it is moved to go on from before."""
    out: list[float] = []
    offset, raw_before = 0.0, 0.0
    for i, value in enumerate(values):
        if math.isnan(value):
            out.append(out[-1] if out else math.nan)
            continue
        if i in starts and out:
            end = max((e for e in ends if raw_before <= e <= value), default=raw_before)
            offset = out[-1] if value < raw_before else offset - (end - raw_before)
        out.append(value + offset)
        raw_before = value
    return out


def _by_clock(values: Sequence[float], starts: set[int], steps: Sequence[float] | None) -> list[float]:
    """Time between rows of one attempt; the way to an attempt's first row is taken to be the median one."""
    gaps = [
        b - a
        for i, (a, b) in enumerate(itertools.pairwise(values), start=1)
        if i not in starts and b >= a and not math.isnan(a + b)
    ]
    usual = median(gaps) if gaps else 0.0
    total, out, before = 0.0, [], math.nan
    for i, value in enumerate(values):
        if not math.isnan(value):
            if math.isnan(before):
                total += usual if steps is None or not steps[i] <= 0.0 else 0.0
            else:
                total += usual if i in starts else max(value - before, 0.0)
            before = value
        out.append(total)
    return out


def _span(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return known[-1] - known[0] if known else 0.0


def _known(cells: Sequence[object]) -> list[float]:
    return [v for v in _numbers(cells) if not math.isnan(v)]


def _numbers(cells: Sequence[object]) -> list[float]:
    return [math.nan if (v := number(cell)) is None else v for cell in cells]
