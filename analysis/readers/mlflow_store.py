"""Read the stores of MLflow: a database file (``mlflow.db``) or the older folder ``mlruns``.

Promises: every point of every run that is not deleted, with the parameters and tags of the run; NaN and infinity come
back as what was logged. The database is copied and neither locked nor written (`analysis.readers.sqlitecopy`); no YAML
is loaded. Metrics of the machine (``system/...``), which count their own steps, are left out and counted.
"""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import number, printable
from analysis.readers.found import Found
from analysis.readers.labels import label_of_name
from analysis.readers.scalars import Scalars
from analysis.readers.sqlitecopy import names_table, opened
from scalerl.runlog import UserError, read_regular

NAME = "mlflow"
TABLES = {
    "runs": ("run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id"),
    "metrics": ("key", "value", "timestamp", "run_uuid", "step", "is_nan"),
    "params": ("key", "value", "run_uuid"),
    "tags": ("key", "value", "run_uuid"),
    "experiments": ("experiment_id", "name"),
}
_RUNS = """SELECT runs.run_uuid, runs.name, runs.start_time, runs.end_time, runs.lifecycle_stage, experiments.name
    FROM runs LEFT JOIN experiments ON runs.experiment_id = experiments.experiment_id
    ORDER BY runs.start_time, runs.run_uuid"""
_METRICS = "SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = ? ORDER BY timestamp, rowid"
_SYSTEM = "system/"
_INFINITE = 1.7976931348623157e308  # what the database keeps in the place of infinity
_LARGEST = 1 << 63  # of a whole number, as a database holds it
_LONG = 500  # characters of a tag or parameter from which on it is an artefact and no setting
_META = re.compile(r"(\w+): (.*)")

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file is a database with MLflow's tables, or a folder has its ``meta.yaml`` files."""
    if head:
        return names_table(path, head, "experiments", "latest_metrics", *TABLES)
    return path.is_dir() and bool(_run_folders(path))


def read(path: Path) -> list[Found]:
    """Read the runs of a database, or of a folder of the older store: all of it, an experiment or a run.

    Raises
    ------
    UserError
        If it is no such store, or no run in it has a metric.
    """
    found, deleted = _of_folder(path) if path.is_dir() else _of_database(path)
    if not found:
        raise UserError(f"{path}: no run with a metric in it{f' ({deleted} are deleted)' if deleted else ''}")
    if deleted:
        found[0] = replace(found[0], dropped={**found[0].dropped, "deleted runs": deleted})
    return found


def _of_database(path: Path) -> tuple[list[Found], int]:
    found, deleted = [], 0
    with opened(path, TABLES, "an MLflow database") as (connection, sha256):
        for run, name, start, end, stage, experiment in connection.execute(_RUNS).fetchall():
            if stage == "deleted":
                deleted += 1
                continue
            about = {
                table: _pairs(connection.execute(sql, (run,)))
                for table, sql in (
                    ("params", "SELECT key, value FROM params WHERE run_uuid = ?"),
                    ("tags", "SELECT key, value FROM tags WHERE run_uuid = ?"),
                )
            }
            header = {"run_id": _text(run), "experiment": _text(experiment), **about}
            called = str(name or about["tags"].get("mlflow.runName") or run)
            points = _points(connection.execute(_METRICS, (run,)))
            found += _run(path, sha256, called, header, points, times=(start, end))
    return found, deleted


def _pairs(rows: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in rows if len(_text(value)) <= _LONG}


def _points(rows: sqlite3.Cursor) -> Iterator[Point]:
    names: dict[str, str] = {}  # one text for each name, not one for each point
    for key, value, time, step, is_nan in rows:
        if not isinstance(value, (int, float)) or not isinstance(step, int) or not isinstance(key, str):
            continue
        cell = math.nan if is_nan else math.copysign(math.inf, value) if abs(value) >= _INFINITE else float(value)
        yield names.setdefault(key, key), cell, time if isinstance(time, int) else 0, step


def _run(
    path: Path, sha256: str, name: str, header: Mapping[str, Any], points: Iterable[Point], *, times: tuple[Any, Any]
) -> list[Found]:
    """One run; none where it has no metric."""
    scalars, system = Scalars(str(path)), 0
    for key, value, time, step in points:
        if key.startswith(_SYSTEM):
            system += 1
            continue
        scalars.add(printable(key), step, value, time / 1000.0 if time > 0 else None)
    if not len(scalars):
        return []
    table, _ = scalars.table()
    label = label_of_name(printable(name))
    seed = number(header["params"].get("seed"))
    if label.seed is None and seed is not None and seed == seed // 1:
        label = replace(label, seed=int(seed))
    findings: tuple[Finding, ...] = ()
    if len(scalars) > 1 and set(table.columns["step"]) == {0}:
        what = "every point is at step 0, as none was logged: rows are in the order of their times"
        findings = (finding("no-steps", what),)
        table = replace(table, columns={key: cells for key, cells in table.columns.items() if key != "step"})
    return [
        Found(
            label,
            table,
            path,
            sha256,
            NAME,
            step=None if findings else "step",
            header=header,
            findings=findings,
            dropped={"metrics of the machine": system} if system else {},
            start_time=_iso(times[0]),
            end_time=_iso(times[1]),
        )
    ]


def _iso(milliseconds: object) -> str | None:
    value = number(milliseconds)
    try:
        return datetime.fromtimestamp(value / 1000.0, UTC).isoformat(timespec="milliseconds") if value else None
    except (ValueError, OverflowError, OSError):
        return None


def _text(value: object) -> str:
    return printable(str(value)) if value is not None else ""


def _of_folder(path: Path) -> tuple[list[Found], int]:
    found, deleted = [], 0
    for folder in _run_folders(path):
        meta = _meta(folder / "meta.yaml")
        if meta.get("lifecycle_stage") == "deleted":
            deleted += 1
            continue
        digest = hashlib.sha256()
        about = {kind: _texts(folder / kind) for kind in ("params", "tags")}
        points = sorted(_file_points(folder / "metrics", digest), key=lambda point: point[2])
        experiment = _meta(folder.parent / "meta.yaml").get("name", "")
        header = {"run_id": printable(folder.name), "experiment": experiment, **about}
        name = about["tags"].get("mlflow.runName") or meta.get("run_name") or folder.name
        times = (meta.get("start_time"), meta.get("end_time"))
        found += _run(folder, digest.hexdigest(), name, header, points, times=times)
    return found, deleted


def _run_folders(path: Path) -> list[Path]:
    """The runs in a folder that is a run, an experiment or a store; links are not followed."""

    def is_run(folder: Path) -> bool:
        return (folder / "meta.yaml").is_file() and (folder / "metrics").is_dir()

    if is_run(path):
        return [path]
    inside = _folders(path)
    if (path / "meta.yaml").is_file():
        return [folder for folder in inside if is_run(folder)]
    return [run for one in inside if (one / "meta.yaml").is_file() for run in _folders(one) if is_run(run)]


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith("."))
    except (OSError, ValueError):
        return []


def _meta(path: Path) -> dict[str, str]:
    """The plain lines of a ``meta.yaml``; what spans lines or has a tag is no setting that is needed."""
    try:
        lines = read_regular(path).decode("utf-8", "replace").splitlines()
    except UserError:
        return {}
    pairs = [match.groups() for line in lines[:200] if (match := _META.fullmatch(line)) is not None]
    return {key: printable(value.strip().strip("'\"")) for key, value in pairs}


def _texts(folder: Path) -> dict[str, str]:
    files = _files(folder)
    read = ((name, read_regular(file).decode("utf-8", "replace").strip()) for name, file in files)
    return {printable(name): printable(text) for name, text in read if len(text) <= _LONG}


def _files(folder: Path, before: str = "", depth: int = 8) -> list[tuple[str, Path]]:
    """Files below a folder with their names from there; a name with ``/`` is a folder in a folder."""
    try:
        inside = sorted(p for p in folder.iterdir() if not p.is_symlink())
    except (OSError, ValueError):
        return []
    found = []
    for entry in inside:
        if entry.is_dir():
            found += _files(entry, f"{before}{entry.name}/", depth - 1) if depth else []
        elif entry.is_file():
            found.append((before + entry.name, entry))
    return found


def _file_points(folder: Path, digest: Any) -> Iterator[Point]:
    """Points of the files ``metrics/<name>``, lines ``milliseconds value step``."""
    for key, file in _files(folder):
        data = read_regular(file)
        digest.update(data)
        lines = data.decode("utf-8", "replace").split("\n")
        for i, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            parts = line.split()
            try:
                time, value = int(parts[0]), float(parts[1])
                step = int(parts[2]) if len(parts) > 2 else 0
                if max(abs(time), abs(step)) >= _LARGEST:
                    raise ValueError
            except (ValueError, IndexError) as error:
                if i == len(lines):  # no line end: it was still being written
                    break
                what = f"no line of the form 'milliseconds value step': {printable(line[:60])!r}"
                raise UserError(f"{file}:{i}: {what}") from error
            yield key, value, time, step
