"""Read a log and its header: whole rows, a cut last line reported, damage named by path and line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.runlog.files import RunLogError, read_regular, unpacked
from scalerl.runlog.schema import HEADER_FILE, LOG_FILE, SCHEMA_VERSION

PACKED = f"{LOG_FILE}.gz"


class LogContent(NamedTuple):
    """Rows of a log, and whether its last line was cut (the cut line is not among the rows)."""

    rows: list[dict[str, Any]]
    cut: bool


def read_log(path: str | os.PathLike[str]) -> LogContent:
    """Read a ``log.jsonl``, or a ``log.jsonl.gz`` as shipped runs have it.

    A process that dies can leave half a last line: that one is left out and reported in `cut`. Damage anywhere
    else is an error.

    Raises
    ------
    RunLogError
        With path and line, if the file cannot be read, is empty, or a line is not a JSON object.
    """
    data = read_regular(path)
    if Path(path).suffix == ".gz":
        data = unpacked(path, data)
    if not data.strip():
        raise RunLogError(f"{path}: the log is empty")
    lines = data.split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and rows:  # no newline behind it: the write was cut
                return LogContent(rows, cut=True)
            raise RunLogError(f"{path}:{number}: not a JSON object; the log is damaged here") from error
        if not isinstance(row, dict):
            raise RunLogError(f"{path}:{number}: not a JSON object; the log is damaged here")
        rows.append(row)
    return LogContent(rows, cut=False)


def log_in(folder: str | os.PathLike[str]) -> Path:
    """Return the log of a run folder; of one that was shipped, packed."""
    plain, packed = Path(folder) / LOG_FILE, Path(folder) / PACKED
    return packed if packed.exists() and not plain.exists() else plain


def read_header(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the ``run.json`` of a run folder.

    Raises
    ------
    RunLogError
        If it is missing, not a JSON object, or of a schema this version does not know.
    """
    path = Path(folder) / HEADER_FILE
    try:
        header = json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise RunLogError(f"{path}: not JSON: {error}") from error
    version = header.get("schema_version") if isinstance(header, dict) else None
    if not isinstance(header, dict) or type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise RunLogError(f"{path}: schema_version is {version!r}; this version reads 1 to {SCHEMA_VERSION}")
    return dict(header)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # made once: it costs more than a row
