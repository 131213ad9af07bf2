"""The CSV of ``--log-file``: the evaluations of a run as a table, written anew from its log each time.

Promises: a file that holds anything but evaluations of this run is never overwritten.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scalerl.runlog import HEADER_FILE, LOG_FILE, MODEL_FOLDER, SAMPLES_FILE, UserError, read_log
from scalerl.runlog.lost import all_rows

CSV_COLUMNS = ("step", "gpu_hours", "cpu_s", "tokens_generated", "tokens_trained", "flops", "pass_rate", "accuracy")


def begin_csv(run: Path, path: Path) -> None:
    """Make the CSV with its header line.

    Raises
    ------
    UserError
        If something is there, or it cannot be written.
    """
    own = {run / name for name in ("", HEADER_FILE, LOG_FILE, SAMPLES_FILE, MODEL_FOLDER)}
    if path.resolve() in {file.resolve() for file in own}:
        raise UserError(f"{path}: is a file of the run itself; choose another --log-file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", newline="", encoding="utf-8") as file:
            file.write(_lines([])[0])
    except FileExistsError as error:
        raise UserError(f"{path}: exists already; choose another --log-file or move it away") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror} (--log-file)") from error


def write_csv(run: Path, path: Path) -> None:
    """Write the evaluations in the log of a run, beside and renamed."""
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text("".join(_lines(read_log(run / LOG_FILE).rows)), encoding="utf-8", newline="")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror} (--log-file)") from error


def refuse_foreign_csv(run: Path, path: Path) -> None:
    """Raise `UserError` if a file holds a whole line that is no evaluation of this run, lost ones included."""
    try:
        held = path.read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror} (--log-file)") from error
    known = set(_lines(all_rows(run)))
    if any(line.endswith("\n") and line not in known for line in held):
        raise UserError(f"{path}: holds other lines than the evaluations of {run}; move it away, it is made anew")


def _lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the header and a line for each eval row among `rows`."""
    table: list[tuple[Any, ...]] = [CSV_COLUMNS]
    for row in rows:
        if row.get("kind") == "eval":
            table.append(tuple(row.get("pass_rate" if name == "accuracy" else name) for name in CSV_COLUMNS))
    lines = []
    for cells in table:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        lines.append(text.getvalue())
    return lines
