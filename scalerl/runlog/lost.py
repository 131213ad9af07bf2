"""Cut a log back to a checkpoint: the surviving curve stays, what is behind it moves whole to ``lost/``, and is billed.

Every file ``lost/attempt-N.jsonl`` begins with a row of kind ``lost`` that says how many GPU-hours went into it; the
rows that follow are as they were in the log. N is the last attempt that wrote some of them, or the next free number.
Rows of kind ``downstream`` that score a policy from before the cut stay in the log as well. Each step can be repeated,
so a kill in between loses or doubles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.runlog.files import RunLogError, read_regular
from scalerl.runlog.schema import LOG_FILE, LOST_FOLDER, SAMPLES_FILE


class Cut(NamedTuple):
    """What was cut off a log."""

    attempt: int
    """Number of the attempt that begins now."""
    rows: int
    """Rows of updates and evaluations moved by this cut; an event that ended the run is moved, too, and is no loss."""
    gpu_hours_lost: float
    """GPU-hours in all that was ever cut off this run."""


def mark(folder: Path, gpu_hours: float) -> dict[str, Any]:
    """Return where log and samples end now; `cut_back` cuts there."""
    log = read_regular(folder / LOG_FILE)
    samples = folder / SAMPLES_FILE
    return {
        "log_bytes": len(log),
        "log_sha256": hashlib.sha256(log).hexdigest(),
        "samples_bytes": samples.stat().st_size if samples.exists() else 0,
        "gpu_hours": gpu_hours,
    }


def check_mark(folder: Path, at: Mapping[str, Any]) -> None:
    """Raise `RunLogError` if the log does not begin with what it held at a mark."""
    path = folder / LOG_FILE
    log = read_regular(path)[: at["log_bytes"]]
    if hashlib.sha256(log).hexdigest() != at["log_sha256"]:
        raise RunLogError(f"{path}: is not the log that the checkpoint was written with: cut or changed before its end")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a log, damaged or not."""
    path = folder / LOG_FILE
    return _rows(read_regular(path)) if path.exists() else []


def all_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a log and of all that was cut off it."""
    return rows_of(folder) + [row for path in _files(folder).values() for row in _rows(read_regular(path))]


def missing_bill(folder: Path) -> float:
    """Return the GPU-hours that events of the log call lost and no file in ``lost/`` accounts for."""
    said = max(_values(rows_of(folder), "gpu_hours_lost"), default=0.0)
    return max(0.0, said - _billed(folder)) if said > _billed(folder) * (1 + 1e-12) else 0.0


def cut_back(folder: Path, fd: int, at: Mapping[str, Any] | None) -> Cut:
    """Cut the open log back to a mark, or to nothing where there is no checkpoint."""
    end = at["log_bytes"] if at else 0
    log = read_regular(folder / LOG_FILE)
    kept, tail = log[:end], log[end:]
    attempts = [*_values(_rows(kept) + _rows(tail), "attempt", int), *_files(folder)]
    lost, missing = _rows(tail), missing_bill(folder)
    if tail:
        begun = at["gpu_hours"] if at else 0.0
        reached = max(_values(lost, "gpu_hours"), default=begun)
        last = max(_values(lost, "attempt", int), default=max(attempts, default=1))
        bill = {"kind": "lost", "attempt": last, "gpu_hours_lost": reached - begun, "rows": len(lost)}
        number = _write_free(folder / LOST_FOLDER, last, json.dumps(bill).encode() + b"\n" + tail)
        attempts.append(number)
        _cut_samples(folder, number, at["samples_bytes"] if at else 0)
    os.ftruncate(fd, end)
    still_true = _downstream(tail, at["gpu_hours"] if at else 0.0)
    if kept and not kept.endswith(b"\n"):  # an editor may strip it; the next row would be glued on
        still_true = b"\n" + still_true
    if still_true:  # killed before this line, they are in `lost/` alone
        os.pwrite(fd, still_true, end)
    os.fsync(fd)
    gone = sum(row.get("kind") in ("step", "eval") for row in lost)
    return Cut(max(attempts, default=0) + 1, gone, _billed(folder) + missing)


def _downstream(tail: bytes, gpu_hours: float) -> bytes:
    """Return the lines that score policies from before the cut, which stay what they are."""
    kept = []
    for line in tail.splitlines(keepends=True):
        for row in _rows(line):
            if row.get("kind") == "downstream" and all(at <= gpu_hours for at in _values([row], "gpu_hours")):
                kept.append(line if line.endswith(b"\n") else line + b"\n")
    return b"".join(kept)


def _cut_samples(folder: Path, number: int, end: int) -> None:
    path = folder / SAMPLES_FILE
    samples = read_regular(path) if path.exists() else b""
    if samples[end:]:
        _write(folder / LOST_FOLDER / f"samples-{number}.jsonl", samples[end:])
        os.truncate(path, end)


def _billed(folder: Path) -> float:
    """Return the GPU-hours of all files of lost rows."""
    total = 0.0
    for path in _files(folder).values():
        total += sum(_values(_rows(read_regular(path))[:1], "gpu_hours_lost"))
    return total


def _files(folder: Path) -> dict[int, Path]:
    """Return the files of lost rows by number, in order; a copy that somebody made is none."""
    found = {path.stem.removeprefix("attempt-"): path for path in (folder / LOST_FOLDER).glob("attempt-*.jsonl")}
    return {int(number): found[number] for number in sorted(found) if number.isdecimal()}


def _values(rows: Sequence[Mapping[str, Any]], name: str, kind: type = float) -> list[Any]:
    """Return the numbers that rows have under a name; what somebody wrote there that is none is passed over."""
    kinds = (int, float) if kind is float else (int,)
    return [row[name] for row in rows if isinstance(row.get(name), kinds)]


def _rows(data: bytes) -> list[dict[str, Any]]:
    """Return the whole rows of a piece of log; half a line at its end is none."""
    rows = []
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _write_free(folder: Path, number: int, content: bytes) -> int:
    """Write ``attempt-N.jsonl`` with the first N from `number` on that is free, or holds this already; return N."""
    while (path := folder / f"attempt-{number}.jsonl").exists() and read_regular(path) != content:
        number += 1
    _write(path, content)
    return number


def _write(path: Path, content: bytes) -> None:
    """Write beside and rename."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
