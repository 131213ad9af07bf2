"""Read what Weights & Biases leaves on disk: a CSV from its page, a history table, or the folder of an offline run.

Promises: runs that stand side by side in a CSV come out one by one; a history (``run.scan_history()``, written as
Parquet or CSV) is read as it is; of offline folders every row that was logged, those of one run as its attempts.
Damage ends a file's rows there and is said. Two things cannot be seen in an export and are said where they may matter:
the page hands out samples or averages over buckets; and when a run was resumed, W&B refused the rows whose step it had,
so that what stays there is of the attempt that died.

An offline file is LevelDB's log format; the messages in it are read by the package's own classes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, number, printable
from analysis.readers.csvfile import read_csv
from analysis.readers.formats import head_of
from analysis.readers.found import Found
from analysis.readers.labels import label_of_name, label_of_path, parts_of
from analysis.readers.parquet_table import MAGIC as PARQUET
from analysis.readers.parquet_table import read_parquet
from analysis.readers.scalars import Scalars, flat
from scalerl.runlog import UserError, read_regular

NAME = "wandb"
_OFFLINE = b":W&B"
_BETWEEN = " - "  # between run and metric in the header of a page's CSV
_LOW, _HIGH = "__MIN", "__MAX"
_OWN = {"_step", "_timestamp"}  # columns that every history has
_TYPE = "._type"  # of what is no figure: a picture, a table, a histogram
_BLOCK, _HEAD = 32768, 7  # bytes of a block of the log, and of the head of a piece in it
_LONG_PAUSE = 20.0  # times the usual time between rows
_PAUSE_S = 600.0


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file or folder is one that W&B wrote, or its history as a table."""
    if head.startswith(_OFFLINE):
        return True
    if head.startswith(PARQUET):
        return all(name.encode() in _tail(path) for name in _OWN)
    if head:
        names = _names(head)
        return set(names) >= _OWN or _is_ui(names)
    return path.is_dir() and bool(_offline_files(path))


def read(path: Path) -> list[Found]:
    """Read an export, an offline file, the folder of a run, or a folder ``wandb`` of these.

    Raises
    ------
    UserError
        If it is none of these or holds no row.
    """
    if path.is_dir():
        files = _offline_files(path)
        if not files:
            raise UserError(f"{path}: no offline run in it (a file run-<id>.wandb)")
        return _offline(path, files)
    head = head_of(path)
    if head.startswith(_OFFLINE):
        return _offline(path, [path])
    if head.startswith(PARQUET):
        table, _, sha256 = read_parquet(path)
        return _history(path, table, sha256)
    data, table = read_csv(path)
    sha256 = hashlib.sha256(data).hexdigest()
    return _page(path, table, sha256) if _is_ui(list(table.columns)) else _history(path, table, sha256)


def _tail(path: Path) -> bytes:
    """The end of a file, where Parquet keeps its columns."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - (1 << 18)))
            return file.read()
    except OSError:
        return b""


def _names(head: bytes) -> list[str]:
    """The names in the first line of a CSV."""
    line = head.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip()
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _is_ui(names: list[str]) -> bool:
    return any(_BETWEEN in name and {name + _LOW, name + _HIGH} <= set(names) for name in names[1:])


def _page(path: Path, table: Table, sha256: str) -> list[Found]:
    """The runs of a CSV that the page wrote: columns ``<run> - <metric>`` with ``__MIN`` and ``__MAX`` beside each."""
    x = next(iter(table.columns))
    runs: dict[str, dict[str, str]] = {}
    for name in table.columns:
        if _BETWEEN in name and not name.endswith((_LOW, _HIGH)):
            run, metric = name.rsplit(_BETWEEN, 1)
            runs.setdefault(run, {})[metric] = name
    found = []
    for run, metrics in runs.items():
        cells = [table.columns[name] for name in metrics.values()]
        rows = [i for i in range(len(table.lines)) if any(column[i] != "" for column in cells)]
        averaged = sum(
            _differs(table, name, i) for name in metrics.values() if name + _LOW in table.columns for i in rows
        )
        what = f"{len(rows)} points that W&B's page handed out: a sample of what was logged"
        if averaged:
            what += f", and {averaged} of them are averages over buckets (MIN and MAX differ)"
        what += "; run.scan_history() gives all of it"
        label = label_of_name(printable(run))
        columns = {x: [table.columns[x][i] for i in rows]}
        columns |= {printable(metric): [table.columns[name][i] for i in rows] for metric, name in metrics.items()}
        part = Table(table.where, columns, [table.lines[i] for i in rows], table.cut)
        step = x if x.strip().lower() in {"step", "_step"} or x.lower().endswith("global_step") else None
        said = finding("sampled", what, float(len(rows)), severity="warning" if averaged else "note")
        found.append(Found(label, part, path, sha256, NAME, step=step, findings=(said,)))
    return [one for one in found if one.table.lines]


def _differs(table: Table, name: str, i: int) -> bool:
    low, high = table.columns[name + _LOW][i], table.columns[name + _HIGH][i]
    return bool(low != high and number(low) != number(high))


def _history(path: Path, table: Table, sha256: str) -> list[Found]:
    return [
        Found(label, part, path, sha256, NAME, step="_step", findings=_pauses(part))
        for label, part in parts_of(table, label_of_path(path))
    ]


def _pauses(table: Table) -> tuple[Finding, ...]:
    """A clock that stands still for long, in rows whose steps only rise, may hide a resumed run's refused rows."""
    clock = [number(cell) for cell in table.columns.get("_timestamp", ())]
    known = [(i, time) for i, time in enumerate(clock) if time is not None and not math.isnan(time)]
    gaps = [(b - a, i) for (_, a), (i, b) in pairwise(known)]
    if not gaps:
        return ()
    usual = median(gap for gap, _ in gaps)
    long = [(gap, i) for gap, i in gaps if gap > max(_PAUSE_S, _LONG_PAUSE * usual)]
    if not long:
        return ()
    gap, i = long[0]
    step = printable(str(table.columns["_step"][i])) if "_step" in table.columns else "?"
    what = f"nothing was logged for {gap / 3600.0:.2g} h before step {step}"
    what += f" and in {len(long) - 1} more places" if len(long) > 1 else ""
    what += "; if the run was resumed there, W&B refused rows of steps that it had: those are of the attempt that died"
    return (finding("refused-rows", what, float(len(long))),)


@dataclass
class _Offline:
    """One offline file: an attempt of a run."""

    path: Path
    sha256: str
    run: str = ""
    name: str = ""
    begin: float = math.inf
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    fault: Finding | None = None


def _offline_files(path: Path) -> list[Path]:
    """The offline files of a run's folder, or of a folder ``wandb`` of these."""

    def inside(folder: Path) -> list[Path]:
        try:
            return sorted(p for p in folder.iterdir() if not p.is_symlink())
        except (OSError, ValueError):
            return []

    def files(folder: Path) -> list[Path]:
        return [p for p in inside(folder) if p.name.startswith("run-") and p.suffix == ".wandb" and p.is_file()]

    if own := files(path):
        return own
    runs = [p for p in inside(path) if p.name.startswith(("offline-run-", "run-")) and p.is_dir()]
    return [file for run in runs for file in files(run)]


def _offline(path: Path, files: list[Path]) -> list[Found]:
    runs: dict[str, list[_Offline]] = {}
    for one in sorted((_attempt(file) for file in files), key=lambda one: one.begin):
        runs.setdefault(one.run or one.path.stem, []).append(one)
    found = [_run(attempts) for attempts in runs.values() if any(one.rows for one in attempts)]
    if not found:
        said = next((one.fault.message for group in runs.values() for one in group if one.fault is not None), "")
        raise UserError(f"{path}: no row of a history in it{f' ({said})' if said else ''}")
    return found


def _run(attempts: list[_Offline]) -> Found:
    last = attempts[-1]
    scalars = Scalars(str(last.path))
    for one in attempts:
        scalars.start()
        for row in one.rows:
            step = row.pop("_step", None)
            scalars.add_row(step if isinstance(step, int) else None, None, row)
    table, starts = scalars.table("_step")
    label = label_of_name(printable(last.name or last.run or last.path.stem))
    seed = last.config.get("seed")
    if label.seed is None and isinstance(seed, int) and not isinstance(seed, bool):
        label = replace(label, seed=seed)
    digests = [one.sha256 for one in attempts]
    return Found(
        label,
        table,
        last.path if len(attempts) == 1 else last.path.parent.parent,
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        NAME,
        step="_step" if "_step" in table.columns else None,
        starts=starts,
        header={"run_id": printable(last.run), "config": last.config},
        findings=tuple(one.fault for one in attempts if one.fault is not None),
        start_time=_iso(attempts[0].begin),
    )


def _iso(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None


def _attempt(path: Path) -> _Offline:
    """The rows of one offline file, up to its first fault."""
    data = read_regular(path)
    found = _Offline(path, hashlib.sha256(data).hexdigest())
    if not data.startswith(_OFFLINE):
        raise UserError(f"{path}: not a file of an offline run")
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    fault = None
    for record, problem in _records(data):
        if problem is not None:
            fault = problem
            break
        try:
            said = messages.Record.FromString(record)
        except DecodeError:
            fault = "a record is no message of W&B"
            break
        kind = said.WhichOneof("record_type")
        if kind == "history":
            cells: dict[str, Any] = {}
            for item in said.history.item:
                _put(item, cells)
            if said.history.HasField("step"):
                cells.setdefault("_step", said.history.step.num)
            for media in [name[: -len(_TYPE)] for name in cells if name.endswith(_TYPE)]:
                cells = {name: cell for name, cell in cells.items() if not name.startswith(f"{media}.")}
            if cells.keys() - {"_step", "_timestamp", "_runtime"}:
                found.rows.append(cells)
        elif kind == "run":
            found.run, found.name = said.run.run_id or found.run, said.run.display_name or found.name
            if said.run.HasField("start_time"):
                found.begin = min(found.begin, said.run.start_time.seconds + said.run.start_time.nanos * 1e-9)
            _configure(found, said.run.config.update)
        elif kind == "config":
            _configure(found, said.config.update)
    if fault is not None:
        what = f"{printable(path.name)}: {fault}; the {len(found.rows)} rows before it are used"
        found.fault = finding("log-cut" if "ends inside" in fault else "log-damaged", what)
    return found


def _put(item: Any, cells: dict[str, Any]) -> None:
    """Add the cells of one item of a history or a configuration: usually one."""
    try:
        value = json.loads(item.value_json)
    except (ValueError, RecursionError):
        return
    nested = item.nested_key
    name = item.key if not nested else nested[0] if len(nested) == 1 else ".".join(nested)  # as W&B's page names it
    if type(value) in (int, float) and name.isprintable():
        cells[name] = value
    else:
        cells |= flat({name: value}, ".")


def _configure(found: _Offline, updates: Any) -> None:
    for item in updates:
        if "_wandb" not in (item.key, *item.nested_key[:1]):  # its own figures
            _put(item, found.config)


def _records(data: bytes) -> Iterator[tuple[bytes, str | None]]:
    """The records of a log, each of one or more checked pieces, and what is wrong with the first bad one."""
    parts: list[bytes] = []
    position = len(_OFFLINE) + 3  # behind the name, two magic bytes and a version
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEAD:  # what is left of a block is too short for a piece
            position += left
            continue
        if position + _HEAD > len(data):
            yield b"", f"the file ends inside a record (byte {position})"
            return
        stored, length, kind = struct.unpack_from("<IHB", data, position)
        piece = data[position + _HEAD : position + _HEAD + length]
        if _HEAD + length > left or kind not in (1, 2, 3, 4):
            yield b"", f"the record at byte {position} is damaged"
            return
        if len(piece) < length:
            yield b"", f"the file ends inside a record (byte {position})"
            return
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != stored:
            yield b"", f"the record at byte {position} is damaged"
            return
        position += _HEAD + length
        if kind in (1, 2):
            parts = []
        parts.append(piece)
        if kind in (1, 4):
            yield b"".join(parts), None
            parts = []
