"""The CSV of ``--log-file``: the evaluations of a run as a table, written anew from its log each time.

Promises: a file that holds anything but evaluations of this run is never overwritten, nor is FILE.part beside it.
"""

from __future__ import annotations

import csv
import io
import os
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
        If something is there or beside it, or it cannot be written.
    """
    own = {run / name for name in ("", HEADER_FILE, LOG_FILE, SAMPLES_FILE, MODEL_FOLDER)}
    if path.resolve() in {file.resolve() for file in own}:
        raise UserError(f"{path}: is a file of the run itself; choose another --log-file")
    if os.path.lexists(beside := _beside(path)):
        raise UserError(f"{beside}: exists already, and {path} is written by way of it; move it away (--log-file)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", newline="", encoding="utf-8") as file:
            file.write(_lines([])[0])
    except FileExistsError as error:
        raise UserError(f"{path}: exists already; choose another --log-file or move it away") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror} (--log-file)") from error


def write_csv(run: Path, path: Path) -> None:
    """Write the evaluations in the log of a run, beside and renamed.

    Raises
    ------
    UserError
        If one of the two files holds what is no evaluation of this run, or cannot be written.
    """
    refuse_foreign_csv(run, path)
    beside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # a kill left it
        with beside.open("x", encoding="utf-8", newline="") as file:
            file.writelines(_lines(read_log(run / LOG_FILE).rows))
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror} (--log-file)") from error


def refuse_foreign_csv(run: Path, path: Path) -> None:
    """Raise `UserError` if a CSV, or FILE.part beside it, holds a line that is no evaluation of this run.

    Lost evaluations are its own, too, and of the last line a kill may have left the beginning.
    """
    known: set[bytes] | None = None
    for file in (path, _beside(path)):
        try:
            *whole, last = file.read_bytes().split(b"\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror} (--log-file)") from error
        if known is None:
            known = {line.encode().removesuffix(b"\n") for line in _lines(all_rows(run))}
        if not known.issuperset(whole) or not any(line.startswith(last) for line in known):
            raise UserError(f"{file}: holds other lines than the evaluations of {run}; move it away, it is made anew")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".part")


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
