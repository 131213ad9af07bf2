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
from typing import Any, NamedTuple

from analysis.findings import Finding, finding
from analysis.readers.cleaning import RESTARTS, Table, figures, known_figures
from analysis.readers.found import Found
from analysis.readers.totals import (
    added,
    by_clock,
    ends_of,
    falls,
    in_turn,
    pauses,
    ran_through,
    resets,
    so_far,
    span,
    usual_gap,
)
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
    totals = set()
    for name in (n for n in dict.fromkeys((*COMPUTE_AXES, *DERIVED)) if n in columns and n != "step"):
        if steps is not None and _of_each_step(figures(columns[name]), found.starts):
            columns[name] = list(_total(found, _Rule(name, "each", ""), steps)[0])
            what = f"{name} falls from row to row: taken for that of one step and added up"
            said[name] = (finding("axis-derived", what, severity="warning"),)
            continue
        totals.add(name)
        columns[name], findings = _logged_total(found, name)
        if findings:
            said[name] = findings
    if "gpu_hours" in columns and devices is not None:
        what = f"gpu_hours is in the log and is taken from there; {devices:g} devices, as asked, change nothing"
        said["gpu_hours"] = (*said.get("gpu_hours", ()), finding("axis-chosen", what))
    if "gpu_hours" not in columns and (rule := _time_rule(columns, steps is not None)) is not None:
        axis, factor = ("gpu_hours", held * rule.hours) if held else ("wall_hours", rule.hours)
        amounts, lost = _total(found, rule, steps)
        paused = (
            pauses([v * rule.unit for v in figures(columns[rule.column])], found.starts) if rule.kind == "clock" else 0
        )
        if axis not in columns:
            columns[axis] = [v * factor for v in amounts]
            devices_of = f"x {held:g} device{'s' if held != 1 else ''}" if held else ""
            source = "as asked" if devices is not None else "as the log says"
            what = f"gpu_hours: {rule.says} {devices_of}, {source}" if held else f"wall_hours: {rule.says}"
            what += f"; {paused} pauses of the clock count as the usual gap" if paused else ""
            what += "" if held else "; how many devices is not in the log (--devices N makes gpu_hours of it)"
            said[axis] = (finding("axis-derived", what),)
        if lost > 0.0 and axis not in totals:
            said[axis] = (*said.get(axis, ()), _work_lost(lost * factor, axis))
    if "tokens" not in columns and (rule := _token_rule(columns, steps is not None)) is not None:
        columns["tokens"] = list(_total(found, rule, steps)[0])
        said["tokens"] = (finding("axis-derived", f"tokens: {rule.says}"),)
    if steps is not None:
        own = found.step is not None and found.step.rsplit("/", maxsplit=1)[-1] == "_step"
        columns["step"] = columns[found.step or ""]  # a column of that name may count the steps of each epoch
        what = "compute is training steps: the log holds neither time nor tokens"
        what = "compute is _step, which counts calls of log() and not updates: name another (--x)" if own else what
        said["step"] = () if set(said) - {"step"} and not own else (finding("axis-steps", what),)
    late = _begun_late(steps, {axis: f for axis, f in said.items() if axis not in totals})
    return Axes(replace(found.table, columns=columns), said | late)


def _logged_total(found: Found, name: str) -> tuple[Sequence[Any], tuple[Finding, ...]]:
    """A running total of the log without the work that later attempts took back, and what is to be said of that."""
    cells = found.table.columns[name]
    values, lost = figures(cells), [figures(table.columns[name]) for table in found.lost]
    ends = ends_of(lost)
    usual = usual_gap(values, set(found.starts))
    again = {i for i in found.starts if falls(values, i)}
    through = {i for i in found.starts if ran_through(values, i, ends, usual)} - again
    said = []
    if again or through:
        cells = list(so_far(values, set(found.starts) if again else through, ends))
        did = ["begins again at a resume"] * bool(again) + ["ran on through work that was taken back"] * bool(through)
        what = f"{name} {' and '.join(did)}; it is moved to go on from the checkpoint"
        said.append(finding("axis-derived", what))
    if (gone := sum(span(v, usual) for v in lost)) > 0.0:
        said.append(_work_lost(gone, name))
    return cells, tuple(said)


def _work_lost(gone: float, axis: str) -> Finding:
    what = f"{gone:.3g} {axis} of work were taken back by later attempts: not in the curve"
    return finding("work-lost", what, gone)


def _of_each_step(values: Sequence[float], starts: Sequence[int]) -> bool:
    """Whether figures that should be running totals fall as those of single steps do."""
    known = [(i, v) for i, v in enumerate(values) if not math.isnan(v)]
    fallen = sum(b < a for (_, a), (i, b) in pairwise(known) if i not in starts)
    return fallen > RESTARTS and fallen > OF_EACH * len(known)


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
        gone = sum(added(v, s)[-1] if v else 0.0 for v, s in zip(lost, lost_steps, strict=True))
        return added(values, steps), gone
    values = [v * rule.unit for v in in_turn(values, found.table.lines)]
    lost = [[v * rule.unit for v in one] for one in lost]
    starts = {*found.starts, *(() if rule.kind == "clock" else resets(values))}
    gone = sum(span(v, usual_gap(values, starts)) for v in lost)
    if rule.kind == "clock":
        return by_clock(values, starts, steps), gone
    return so_far(values, starts, ends_of(lost)), gone
