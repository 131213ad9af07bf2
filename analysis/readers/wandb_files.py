"""Read what Weights & Biases leaves on disk: a CSV from its page, a history table, or the folder of an offline run.

Promises: runs that stand side by side in a CSV come out one by one; a history (``run.scan_history()``, written as
Parquet or CSV) is read as it is; of offline folders every row that was logged, those of one run as its attempts.
Damage ends a file's rows there and is said. Two things cannot be seen in an export and are said where they may matter:
the page hands out samples or averages over buckets; and when a run was resumed, W&B refused the rows whose step it had,
so that what stays there is of the attempt that died.
"""

from __future__ import annotations

import csv
import hashlib
import math
from itertools import pairwise
from pathlib import Path
from statistics import median

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, number, printable
from analysis.readers.csvfile import read_csv, said_of_doubled
from analysis.readers.formats import head_of
from analysis.readers.found import Found, step_of
from analysis.readers.labels import label_of_name, label_of_path, parts_of
from analysis.readers.parquet_table import MAGIC as PARQUET
from analysis.readers.parquet_table import read_parquet
from analysis.readers.totals import LONG_PAUSE, PAUSE_S
from analysis.readers.wandb_offline import MAGIC, NAME, offline_files, read_offline
from scalerl.runlog import UserError

_BETWEEN = " - "  # between run and metric in the header of a page's CSV
_LOW, _HIGH = "__MIN", "__MAX"
_OWN = {"_step", "_timestamp"}  # columns that every history has


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file or folder is one that W&B wrote, or its history as a table."""
    if head.startswith(MAGIC):
        return True
    if head.startswith(PARQUET):
        return all(name.encode() in _tail(path) for name in _OWN)
    if head:
        names = _names(head)
        return set(names) >= _OWN or _is_ui(names)
    return path.is_dir() and bool(offline_files(path))


def read(path: Path) -> list[Found]:
    """Read an export, an offline file, the folder of a run, or a folder ``wandb`` of these.

    Raises
    ------
    UserError
        If it is none of these or holds no row.
    """
    if path.is_dir():
        files = offline_files(path)
        if not files:
            raise UserError(f"{path}: no offline run in it (a file run-<id>.wandb)")
        return read_offline(path, files)
    head = head_of(path)
    if head.startswith(MAGIC):
        return read_offline(path, [path])
    if head.startswith(PARQUET):
        table, _, sha256 = read_parquet(path)
        return _history(path, table, sha256)
    data, table = read_csv(path)
    sha256 = hashlib.sha256(data).hexdigest()
    twice = sorted({name.rsplit(_BETWEEN, 1)[0] for name in table.doubled if _BETWEEN in name})
    if twice and _is_ui([*table.columns, *table.doubled]):
        what = f"more than one run is called {printable(twice[0])}: rename them in W&B, or export run.scan_history()"
        raise UserError(f"{path}: {what}")
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
    return any(_BETWEEN in name and {name + _LOW, name + _HIGH} <= set(names) for name in names)


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
            _differs(table, name, i)
            for name in metrics.values()
            if {name + _LOW, name + _HIGH} <= table.columns.keys()
            for i in rows
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
    found = [one for one in found if one.table.lines]
    if not found:
        raise UserError(f"{path}: no row of it holds a value of a run")
    return found


def _differs(table: Table, name: str, i: int) -> bool:
    low, high = table.columns[name + _LOW][i], table.columns[name + _HIGH][i]
    return bool(low != high and number(low) != number(high))


def _history(path: Path, table: Table, sha256: str) -> list[Found]:
    return [
        Found(
            label,
            part,
            path,
            sha256,
            NAME,
            step=step_of(part.columns),
            findings=(*_pauses(part), *said_of_doubled(table)),
        )
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
    long = [(gap, i) for gap, i in gaps if gap > max(PAUSE_S, LONG_PAUSE * usual)]
    if not long:
        return ()
    gap, i = long[0]
    step = printable(str(table.columns["_step"][i])) if "_step" in table.columns else "?"
    what = f"nothing was logged for {gap / 3600.0:.2g} h before step {step}"
    what += f" and in {len(long) - 1} more places" if len(long) > 1 else ""
    what += "; if the run was resumed there, W&B refused rows of steps that it had: those are of the attempt that died"
    return (finding("refused-rows", what, float(len(long))),)
