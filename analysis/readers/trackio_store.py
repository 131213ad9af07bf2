"""Read the database of trackio (``<project>.db`` in its folder, usually ~/.cache/huggingface/trackio).

Promises: every row of every run, those in the write-ahead log of a run that is going on included; the database is
copied and neither locked nor written (`analysis.readers.sqlitecopy`). Figures of the machine (``system_metrics``) and
pictures, tables and traces are not read.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import printable
from analysis.readers.found import Found, step_of
from analysis.readers.labels import label_of_name
from analysis.readers.scalars import Scalars, flat
from analysis.readers.sqlitecopy import names_table, opened
from scalerl.runlog import UserError

NAME = "trackio"
TABLES = {"metrics": ("id", "timestamp", "run_name", "step", "metrics")}
_RUNS = "SELECT run_id FROM metrics GROUP BY run_id ORDER BY min(id)"
_ROWS = "SELECT id, timestamp, run_name, step, metrics FROM metrics WHERE run_id IS ? ORDER BY id"
_CONFIG = "SELECT config FROM configs WHERE run_id IS ?"
# Before a run had an id, its name told it apart.
_OLD_RUNS = "SELECT run_name FROM metrics GROUP BY run_name ORDER BY min(id)"
_OLD_ROWS = "SELECT id, timestamp, run_name, step, metrics FROM metrics WHERE run_name IS ? ORDER BY id"
_OLD_CONFIG = "SELECT config FROM configs WHERE run_name IS ?"
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # JSON has no other way to say these


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file is a database with trackio's tables."""
    return names_table(path, head, "metrics", "configs")


def read(path: Path) -> list[Found]:
    """Read the runs of a project.

    Raises
    ------
    UserError
        If it is no database of trackio, or no run in it has logged anything.
    """
    with opened(path, TABLES, "a trackio database") as (connection, sha256):
        named = "run_id" in {row[0] for row in connection.execute("SELECT name FROM pragma_table_info('metrics')")}
        runs, rows, config = (_RUNS, _ROWS, _CONFIG) if named else (_OLD_RUNS, _OLD_ROWS, _OLD_CONFIG)
        found = [
            run
            for key in connection.execute(runs).fetchall()
            for run in _run(path, sha256, connection.execute(rows, key), _config(connection, config, key))
        ]
    if not found:
        raise UserError(f"{path}: no run in it has logged anything")
    return found


def _run(path: Path, sha256: str, rows: Iterator[tuple[Any, ...]], config: dict[str, Any]) -> list[Found]:
    """One run; none where it has no row."""
    scalars, name, bad = Scalars(str(path)), "", []
    begin = None
    for place, time, run_name, step, metrics in rows:
        name = name or str(run_name)
        begin = begin or time
        cells = _cells(metrics)
        if cells is None:
            bad.append(place)
            continue
        cells |= {key: _WORDS[value] for key, value in cells.items() if type(value) is str and value in _WORDS}
        scalars.add_row(step if isinstance(step, int) else None, _seconds(time), cells)
    if not len(scalars):
        return []
    table, _ = scalars.table("step" if "step" not in scalars else "_step")
    label = label_of_name(printable(name))
    seed = config.get("seed")
    if label.seed is None and isinstance(seed, int) and not isinstance(seed, bool):
        label = replace(label, seed=seed)
    findings: tuple[Finding, ...] = ()
    if bad:
        places = ", ".join(printable(str(place))[:20] for place in bad[:3])
        what = f"{len(bad)} rows of {label.name} are not a JSON object (id {places})"
        findings = (finding("rows-dropped", what, float(len(bad))),)
    run = Found(
        label,
        table,
        path,
        sha256,
        NAME,
        step=step_of(table.columns),
        header={"config": config} if config else {},
        findings=findings,
        dropped={"not a JSON object": len(bad)} if bad else {},
        start_time=begin if _seconds(begin) is not None else None,
    )
    return [run]


def _cells(text: object) -> dict[str, Any] | None:
    if not isinstance(text, (str, bytes)):
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return flat(row, "/") if isinstance(row, dict) else None


def _config(connection: sqlite3.Connection, sql: str, key: tuple[Any, ...]) -> dict[str, Any]:
    try:
        said = connection.execute(sql, key).fetchone()
    except sqlite3.OperationalError:  # versions before 0.1 have no such table
        return {}
    return (_cells(said[0]) or {}) if said is not None else {}


def _seconds(time: object) -> float | None:
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else None
    except (ValueError, OverflowError):
        return None
