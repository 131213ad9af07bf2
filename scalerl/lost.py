"""Cut a log back to a checkpoint: the surviving curve stays, what is behind it moves whole to ``lost/``, and is billed.

Every file ``lost/attempt-N.jsonl`` begins with a row of kind ``lost`` that says how many GPU-hours went into it; the
rows that follow are as they were in the log. N is the last attempt that wrote some of them, or the next free number.
Each step can be repeated, so a kill in between loses or doubles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.runlog import LOG_FILE, LOST_FOLDER, SAMPLES_FILE, RunLogError, read_regular


class Cut(NamedTuple):
    """What was cut off a log."""

    attempt: int
    """Number of the attempt that begins now."""
    rows: int
    """Rows moved by this cut."""
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


def missing_bill(folder: Path) -> float:
    """Return the GPU-hours that events of the log call lost and no file in ``lost/`` accounts for."""
    said = max((row["gpu_hours_lost"] for row in rows_of(folder) if "gpu_hours_lost" in row), default=0.0)
    return max(0.0, said - _billed(folder)) if said > _billed(folder) * (1 + 1e-12) else 0.0


def cut_back(folder: Path, fd: int, at: Mapping[str, Any] | None) -> Cut:
    """Cut the open log back to a mark, or to nothing where there is no checkpoint."""
    end = at["log_bytes"] if at else 0
    log = read_regular(folder / LOG_FILE)
    kept, tail = log[:end], log[end:]
    attempts = [row["attempt"] for row in _rows(kept) + _rows(tail) if isinstance(row.get("attempt"), int)]
    attempts += [int(path.stem.removeprefix("attempt-")) for path in (folder / LOST_FOLDER).glob("attempt-*.jsonl")]
    lost, missing = _rows(tail), missing_bill(folder)
    if tail:
        begun = at["gpu_hours"] if at else 0.0
        reached = max((row["gpu_hours"] for row in lost if "gpu_hours" in row), default=begun)
        last = max((row["attempt"] for row in lost if "attempt" in row), default=max(attempts, default=1))
        bill = {"kind": "lost", "attempt": last, "gpu_hours_lost": reached - begun, "rows": len(lost)}
        number = _write_free(folder / LOST_FOLDER, last, json.dumps(bill).encode() + b"\n" + tail)
        attempts.append(number)
        _cut_samples(folder, number, at["samples_bytes"] if at else 0)
    os.ftruncate(fd, end)
    os.fsync(fd)
    return Cut(max(attempts, default=0) + 1, len(lost), _billed(folder) + missing)


def _cut_samples(folder: Path, number: int, end: int) -> None:
    path = folder / SAMPLES_FILE
    samples = read_regular(path) if path.exists() else b""
    if samples[end:]:
        _write(folder / LOST_FOLDER / f"samples-{number}.jsonl", samples[end:])
        os.truncate(path, end)


def _billed(folder: Path) -> float:
    """Return the GPU-hours of all files of lost rows."""
    total = 0.0
    for path in sorted((folder / LOST_FOLDER).glob("attempt-*.jsonl")):
        first = _rows(read_regular(path))[:1]
        total += sum(float(row.get("gpu_hours_lost", 0.0)) for row in first)
    return total


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
