"""Our own runs: a ``log.jsonl`` with the ``run.json`` beside it, by the trainer or by `scalerl.runlog.RunLog`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, printable
from analysis.readers.found import Found
from analysis.readers.labels import Label
from analysis.readers.regimes import read_events
from analysis.readers.scalars import MOST_CELLS
from scalerl.runlog import HEADER_FILE, LOG_FILE, PACKED, UserError, log_in, read_header, read_log, read_regular

BUSY = 1.3  # wall seconds a CPU-second from which on a run on a CPU is said to have shared its machine
KINDS = ("step", "eval", "event", "downstream")
DESCRIBING = ("n_prompts", "k", "correct", "prompt_set", "attempt")
_ENDINGS = ("end", "interrupted", "failed")


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a folder holds a log of ours, or a file is one."""
    if not head:
        return path.is_dir() and log_in(path).exists()
    if path.name in {LOG_FILE, PACKED}:
        return True
    try:
        first = json.loads(head.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.get("kind") in KINDS


def read(path: Path) -> list[Found]:
    """Read the evaluations of a run.

    Raises
    ------
    UserError
        If the log is broken or holds no evaluation.
    """
    path = log_in(path) if path.is_dir() else path
    content = read_log(path)
    rows = [row for row in content.rows if row.get("kind") == "eval"]
    if not rows:
        raise UserError(f"{path}: no evaluation in it (no row of kind eval), so there is no curve to fit")
    keys = dict.fromkeys(k for row in rows for k in row)
    if len(keys) * len(rows) > MOST_CELLS:
        raise UserError(f"{path}: {len(rows)} evaluations of {len(keys)} different fields are more than fit in memory")
    columns = {printable(key): [row.get(key) for row in rows] for key in keys}
    lines = [i for i, row in enumerate(content.rows, start=1) if row.get("kind") == "eval"]
    said: list[Finding] = []
    if content.cut:
        said.append(finding("log-cut", f"the last line of the log is cut; {len(rows)} whole evaluations are used"))
    header: dict[str, Any] = {}
    if (path.parent / HEADER_FILE).exists():
        header = read_header(path.parent)
    else:
        said.append(finding("no-header", f"no {HEADER_FILE} beside the log: recipe and seed are unknown"))
    last = [row for row in content.rows if row.get("kind") != "downstream"][-1]  # those are written after the fact
    ended = not content.cut and last.get("event") in _ENDINGS  # a row behind an end belongs to a run that went on
    recipe = printable(str(header.get("recipe") or path.parent.resolve().name))
    seed = header.get("seed")
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
    return [
        Found(
            label=Label(recipe if seed is None else f"{recipe}/seed{seed}", recipe, seed),
            table=Table(printable(str(path)), columns, lines),
            path=path,
            sha256=hashlib.sha256(read_regular(path)).hexdigest(),
            format="scalerl",
            header=header,
            findings=tuple(said),
            start_time=_text(header.get("start_time")),
            end_time=_text(last.get("time")) if ended else None,
            events=read_events(content.rows, train_prompts(header)),
        )
    ]


def describe_rows(table: Table, kept: Sequence[int]) -> tuple[dict[str, Any], list[Finding]]:
    """Columns that describe an evaluation, kept as logged, and what they give away."""
    extras: dict[str, Any] = {}
    for name in DESCRIBING:
        if name in table.columns:
            column = np.empty(len(kept), dtype=object)
            column[:] = [table.columns[name][i] for i in kept]
            extras[name] = column
    findings = []
    if len({str(p) for p in extras.get("prompt_set", ())}) > 1:
        findings.append(finding("prompt-set-changed", "the evaluation prompts change inside the run (prompt_set)"))
    attempts = {str(a) for a in extras.get("attempt", ())}
    if len(attempts) > 1:
        what = f"the run was resumed ({len(attempts)} attempts); every evaluation is kept"
        findings.append(finding("resumed", what, float(len(attempts))))
    return extras, findings


def busy(header: Mapping[str, Any], data: Mapping[str, Any]) -> list[Finding]:
    """Wall time far above CPU time at the last evaluation of a run on a CPU, where one process is one device."""
    devices = header.get("devices")
    if not isinstance(devices, dict) or "cpu" not in str(devices.get("kind")).lower():
        return []
    count = devices.get("count", 1)
    if type(count) is not int or count < 1 or not {"gpu_hours", "cpu_s"} <= set(data):
        return []
    wall_s, cpu_s = float(data["gpu_hours"][-1]) * 3600.0 / count, float(data["cpu_s"][-1])
    if cpu_s <= 0.0 or wall_s <= BUSY * cpu_s:
        return []
    what = (
        f"wall time is {wall_s / cpu_s:.2g} x the CPU time: the machine was busy, so gpu_hours say little here; "
        "fit over CPU-seconds too (--x cpu_s)"
    )
    return [finding("busy-machine", what, wall_s / cpu_s)]


def train_prompts(header: Mapping[str, Any]) -> int | None:
    """Return how many train prompts a run has, as its header says; None where it does not."""
    data = header.get("data")
    train = data.get("train") if isinstance(data, dict) else None
    items = train.get("items") if isinstance(train, dict) else None
    return items if type(items) is int and items > 0 else None


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None
