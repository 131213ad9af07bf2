"""Read offline runs of Weights & Biases: files ``run-<id>.wandb``.

Promises: every row of the history, the files of one run as its attempts in the order of their beginnings; a file is
checked piece by piece, and a damaged one is read up to the fault, which is said. The frames are those of LevelDB's log
(https://github.com/google/leveldb/blob/main/doc/log_format.md); the messages in them are read by the package's own
classes, which itself has no reader in Python.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import printable
from analysis.readers.found import Found, step_of
from analysis.readers.labels import label_of_name
from analysis.readers.scalars import Scalars, flat
from scalerl.runlog import UserError, read_regular

NAME = "wandb"
MAGIC = b":W&B"
_TYPE = "._type"  # of what is no figure: a picture, a table, a histogram
_BLOCK, _HEAD = 32768, 7  # bytes of a block of the log, and of the head of a piece in it


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


def offline_files(path: Path) -> list[Path]:
    """Return the offline files of a run's folder, or of a folder ``wandb`` of these; links are not followed."""

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


def read_offline(path: Path, files: list[Path]) -> list[Found]:
    """Return the runs in offline files, those of one run id as one.

    Raises
    ------
    UserError
        If a file is none of an offline run, or no row is in any.
    """
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
        step=step_of(table.columns),
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
    if not data.startswith(MAGIC):
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
    position = len(MAGIC) + 3  # behind the name, two magic bytes and a version
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
