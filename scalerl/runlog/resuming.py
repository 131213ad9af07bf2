"""Where a run goes on: by the mark of a checkpoint, or by the step that a loop says it resumes from.

The trainer keeps marks with its checkpoints and hands over a `Resume`. A loop that writes its own checkpoints only says
the step; `find` looks up in the log where that step ended, and what had been spent by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.runlog.files import RunLogError, read_regular
from scalerl.runlog.schema import COMPUTE_AXES, LOG_FILE, SAMPLES_FILE

AXES = tuple(axis for axis in COMPUTE_AXES if axis != "step")
COUNTED = ("tokens_generated", "tokens_trained", "flops")
POINTS = ("step", "eval")
SAVED = "saved"  # event of `RunLog.saved`


class Resume(NamedTuple):
    """Where a run goes on."""

    step: int
    mark: Mapping[str, Any] | None
    """Where its log ended then (`scalerl.runlog.lost.mark`); None to begin anew."""
    fields: Mapping[str, Any]
    """More for the event that is written."""
    stamp: tuple[int, ...] | None = None
    """Of the log when it was read; one that another process wrote to since is refused."""


class Reached(NamedTuple):
    """How far the rows of a log go."""

    step: int = -1
    """Of the last update; -1 before the first."""
    point: int = -1
    """Of the last update or evaluation."""
    axes: Mapping[str, float] = {}
    """Compute spent, on every axis that a row tells."""


def reached(rows: Sequence[Mapping[str, Any]]) -> Reached:
    """Return how far rows go; scores that were added afterwards are no part of it."""
    steps = [row["step"] for row in rows if row.get("kind") == "step" and type(row.get("step")) is int]
    points = [row["step"] for row in rows if _is_point(row)]
    axes: dict[str, float] = {}
    for row in rows:
        if _is_point(row):
            axes |= {a: row[a] for a in AXES if type(row.get(a)) in (int, float)}
    return Reached(max(steps, default=-1), max(points, default=-1), axes)


def find(folder: Path, step: int) -> tuple[Resume, Reached]:
    """Return where in its log a run stood at a step, and what it had spent.

    The cut is behind the last row of that step or an earlier one. Where the log has no row of the step itself, because
    it is not written at every step, the axes are read off the line between the rows around it, or are those of the last
    row where none comes behind it, and the event says so.

    Raises
    ------
    RunLogError
        If the log is damaged before the cut, or has come to its end and would begin anew.
    """
    kept: list[Mapping[str, Any]] = []
    beyond: Mapping[str, Any] | None = None
    last: Mapping[str, Any] | None = None
    position = end = damaged = 0
    log = read_regular(folder / LOG_FILE)
    for number, line in enumerate(log.split(b"\n"), start=1):
        position = min(position + len(line) + 1, len(log))  # the last line may have no newline
        row = _row(line)
        if row is None:
            damaged = damaged or (number if line.strip() else 0)
            continue
        last = row if row.get("kind") != "downstream" else last
        if beyond is None and _is_point(row):
            if row["step"] > step or step == 0:
                beyond = row
            elif damaged:  # behind the cut it is moved away with the rest
                raise RunLogError(f"{folder / LOG_FILE}:{damaged}: not a JSON object; the log is damaged here")
            else:
                kept.append(row)
                end = position
    if step == 0:
        if last is not None and last.get("event") == "end":
            raise RunLogError(f"{folder}: holds a run that has ended; choose another folder to begin anew")
        return Resume(0, None, {}), Reached()
    if not kept:
        raise RunLogError(f"{folder}: its log has no row of step {step} or before; resume_step=0 begins anew")
    found = reached(kept)
    axes, fields = dict(found.axes), {}
    if found.point < step:
        axes = _between(found, beyond, step)
        how = "is read off the rows around it"
        if beyond is None:
            how = f"is that of the last row, at step {found.point}; what came behind it was never written down"
        fields = {"estimated": f"the log has no row of step {step}: its compute {how}"}
    mark = {"log_bytes": end, "samples_bytes": _samples_end(folder, step), "gpu_hours": axes.get("gpu_hours", 0.0)}
    return Resume(step, mark, fields), found._replace(axes=axes)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_point(row: Mapping[str, Any]) -> bool:
    """Whether a row says what was spent by a step: an update, an evaluation, a checkpoint."""
    counts = row.get("kind") in POINTS or row.get("event") == SAVED
    return counts and type(row.get("step")) is int


def _between(before: Reached, beyond: Mapping[str, Any] | None, step: int) -> dict[str, float]:
    axes = dict(before.axes)
    if beyond is None:
        return axes
    share = (step - before.point) / (beyond["step"] - before.point)
    for axis, value in before.axes.items():
        ahead = beyond.get(axis)
        if isinstance(ahead, (int, float)) and ahead > value:
            middle = value + (ahead - value) * share
            axes[axis] = round(middle) if type(value) is int else middle
    return axes


def _samples_end(folder: Path, step: int) -> int:
    """Return where the samples of a step end."""
    path = folder / SAMPLES_FILE
    position = end = 0
    for line in read_regular(path).split(b"\n") if path.exists() else ():
        position += len(line) + 1
        row = _row(line)
        if row is not None and type(row.get("step")) is int and row["step"] <= step:
            end = position
    return end
