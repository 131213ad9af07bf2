"""Read the event files of TensorBoard, a folder of them, or the CSV file that its page downloads.

Promises: every scalar of the files, no reservoir sampling; each file is checked record by record, and a damaged one is
read up to the fault, which is said. A folder that holds event files is a run, and so is each folder below it;
``train``, ``eval``, ``validation`` and ``test`` are parts of the run above them, their names before the tags. Files of
one run that share a tag are its attempts, in the order of their first times; files that share none were written side by
side. Does not read histograms, pictures or compressed files.

The messages in a file are read by the package's own classes, their frames by `analysis.readers.tfrecord`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, printable
from analysis.readers.csvfile import read_csv
from analysis.readers.formats import head_of
from analysis.readers.found import Found
from analysis.readers.labels import Label, label_of_name, label_of_path
from analysis.readers.scalars import Scalars
from analysis.readers.tfrecord import LARGE, records
from scalerl.runlog import UserError, read_regular

NAME = "tensorboard"
PARTS = ("train", "eval", "validation", "valid", "val", "test")  # folders that Keras and others make inside a run
PLAIN = ("tensorboard", "tensorboard_log", "tb", "tb_logs", "logs", "events", "runs")  # folders that name no run
DEPTH = 4
_UI_HEADER = ("wall time", "step", "value")
_UI_POINTS = 1000  # scalars of a tag that TensorBoard keeps in memory and hands out, unless told otherwise
_VERSION = b"brain.Event:"  # the first record of every event file


@dataclass
class _Events:
    """Scalars of one file: (tag, step, value, seconds since 1970), and what else it says."""

    path: Path
    sha256: str
    scalars: list[tuple[str, int, float, float]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    fault: Finding | None = None

    @property
    def begins(self) -> float:
        return self.scalars[0][3]

    @property
    def tags(self) -> set[str]:
        return {scalar[0] for scalar in self.scalars}


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file begins as an event file does, or a folder or a part of a run in it holds one."""
    if head:
        first = head.split(b"\n", 1)[0].strip().decode("utf-8", "replace").lower().replace('"', "")
        return _VERSION in head[:64] or tuple(first.lstrip("\ufeff").split(",")) == _UI_HEADER
    return any(_event_files(folder) for folder in (path, *(path / part for part in PARTS)))


def read(path: Path) -> list[Found]:
    """Read an event file as one run, or a folder as the runs in it and below.

    Raises
    ------
    UserError
        If a file is no event file from its beginning, or no scalar is in any.
    """
    if not path.is_dir():
        head = head_of(path)
        if head and _VERSION not in head[:64]:
            return [_ui_csv(path)]
        return [_run(path, _label(path.parent), [("", _events(path))])]
    runs = _runs_below(path)
    made = []
    for folder, parts in runs:
        events = [(before, _events(file)) for before, file in parts]
        if len(runs) == 1 or any(one.scalars for _, one in events):  # a folder of hyperparameters is no run
            made.append(_run(folder, _label(folder), events))
    if not made:
        raise UserError(
            f"{path}: {f'no scalar in the event files of its {len(runs)} folders' if runs else 'no event file in it'}"
        )
    return made


def _runs_below(top: Path) -> list[tuple[Path, list[tuple[str, Path]]]]:
    """Folders that are runs, with their event files and what stands before the tags of each."""
    found, seen = [], set()

    def search(folder: Path, depth: int) -> None:
        place = folder.resolve()
        if place in seen:  # a link that leads back
            return
        seen.add(place)
        parts = [("", file) for file in _event_files(folder)]
        below = sorted(p for p in _entries(folder) if p.is_dir() and not p.name.startswith("."))
        for part in [p for p in below if p.name in PARTS]:
            parts += [(f"{part.name}/", file) for file in _event_files(part)]
        if parts:
            found.append((folder, parts))
        for one in below if depth else ():
            if one.name not in PARTS:
                search(one, depth - 1)

    search(top, DEPTH)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (OSError, ValueError):
        return []


def _event_files(folder: Path) -> list[Path]:
    return sorted(p for p in _entries(folder) if "tfevents" in p.name and not p.name.endswith(".csv") and p.is_file())


def _label(folder: Path) -> Label:
    place = folder.resolve()
    if place.name.lower() in PLAIN and place.parent.name:
        place = place.parent
    return label_of_path(place.with_name(place.name + ".d")) if place.name else Label(".")


def _run(path: Path, label: Label, parts: list[tuple[str, _Events]]) -> Found:
    """One run of the event files of a folder."""
    findings = [one.fault for _, one in parts if one.fault is not None]
    written = [(before, one) for before, one in parts if one.scalars]
    if not written:
        said = f" ({findings[0].message})" if findings else ""
        raise UserError(f"{path}: no scalar in {'it' if path.is_file() else 'the event files of it'}{said}")
    attempts: list[list[tuple[str, _Events]]] = []
    tags: set[str] = set()
    for before, one in sorted(written, key=lambda pair: pair[1].begins):
        own = {before + tag for tag in one.tags}
        if not attempts or own & tags:
            attempts.append([])
            tags = set()
        attempts[-1].append((before, one))
        tags |= own
    scalars = Scalars(str(path))
    names: dict[tuple[str, str], str] = {}
    for attempt in attempts:
        scalars.start()
        for before, one in attempt:
            for tag, at, value, time in one.scalars:
                name = names.get((before, tag))
                if name is None:
                    name = names[before, tag] = printable(before + tag)
                scalars.add(name, at, value, time)
    if any(len(attempt) > 1 for attempt in attempts):
        most = max(map(len, attempts))
        what = f"{most} event files that share no tag are read as written side by side, in one attempt"
        findings.append(finding("files-merged", what, float(most)))
    texts = {printable(tag): text for _, one in written for tag, text in one.texts.items()}
    step = "step" if "step" not in names.values() else "global_step"
    table, starts = scalars.table(step)
    seed = _seed(texts)
    digests = [one.sha256 for _, one in parts]
    return Found(
        label if seed is None or label.seed is not None else replace(label, seed=seed),
        table,
        path,
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        NAME,
        step=step,
        starts=starts,
        header=texts,
        findings=tuple(findings),
    )


def _seed(texts: dict[str, str]) -> int | None:
    """The seed among the arguments that Hugging Face's Trainer writes beside its scalars."""
    try:
        said = json.loads(texts.get("args", ""))
    except (ValueError, RecursionError):
        return None
    seed = said.get("seed") if isinstance(said, dict) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _events(path: Path) -> _Events:
    """The scalars of one event file, up to its first fault."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2

    data = read_regular(path)
    found = _Events(path, hashlib.sha256(data).hexdigest())
    at, size, fault = records(data)
    if fault is not None and not len(at):
        found.fault = finding("log-damaged", f"{printable(path.name)}: {fault}; nothing of the file is used")
        return found
    scalar_tags: set[str] = set()
    known: dict[str, str] = {}  # one text for each tag, not one for each scalar
    for i, (first, length) in enumerate(zip(at.tolist(), size.tolist(), strict=True), start=1):
        try:
            event = event_pb2.Event.FromString(data[first : first + length])
        except DecodeError:
            fault = f"record {i} (byte {first}) is no event"
            break
        time, step = event.wall_time, event.step
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if kind == "simple_value":
                tag = value.tag
                found.scalars.append((known.setdefault(tag, tag), step, value.simple_value, time))
            elif kind == "tensor":
                plugin = value.metadata.plugin_data.plugin_name
                if plugin == "scalars":
                    scalar_tags.add(value.tag)
                if plugin == "text" and value.tag not in found.texts:
                    text = b"\n".join(value.tensor.string_val[:8])[:LARGE].decode("utf-8", "replace")
                    found.texts[value.tag.removesuffix("/text_summary")] = text
                elif value.tag in scalar_tags:
                    cell = _of_tensor(value.tensor)
                    if cell is not None:
                        found.scalars.append((known.setdefault(value.tag, value.tag), step, cell, time))
    if fault is not None:
        what = f"{printable(path.name)}: {fault}; the {len(found.scalars)} scalars before it are used"
        found.fault = finding("log-cut" if "ends inside" in fault else "log-damaged", what)
    return found


def _of_tensor(tensor: Any) -> float | None:
    """The number that a tensor of one element holds."""
    from tensorboard.util.tensor_util import make_ndarray

    if any(d.size != 1 for d in tensor.tensor_shape.dim):  # a shape is not believed before it is known to be small
        return None
    try:
        value: float = np.asarray(make_ndarray(tensor)).reshape(-1)[0].item()
        return float(value)
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, OverflowError):  # the first: of texts
        return None


def _ui_csv(path: Path) -> Found:
    """One tag of one run, as TensorBoard's page downloads it: ``run-<run>-tag-<tag>.csv`` or ``<run>.csv``."""
    data, table = read_csv(path)
    names = {name.lower(): name for name in table.columns}
    if tuple(names) != _UI_HEADER:
        raise UserError(f"{path}: neither an event file nor a CSV file with the columns Wall time, Step, Value")
    run, _, tag = path.stem.removeprefix("run-").partition("-tag-")
    tag = printable(tag) or "Value"
    columns = {"step": table.columns[names["step"]], "wall_time": table.columns[names["wall time"]]}
    columns[tag] = table.columns[names["value"]]
    findings: tuple[Finding, ...] = ()
    if len(table.lines) == _UI_POINTS:
        what = f"{_UI_POINTS} rows: TensorBoard hands out a sample of that size; read its event files instead"
        findings = (finding("sampled", what, float(_UI_POINTS)),)
    label = label_of_name(printable(run)) if run else label_of_path(path)
    made = Table(table.where, columns, table.lines, table.cut)
    return Found(label, made, path, hashlib.sha256(data).hexdigest(), NAME, step="step", findings=findings)
