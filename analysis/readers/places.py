"""Which files and folders a path stands for: a run, a folder of runs, a pattern of either.

Promises: a folder that is a run is one run and is not searched further; otherwise folders below it are, to a depth of
`DEPTH`; loose files count where no folder is a run. What may not be opened is passed over and named; links that lead
back are not followed for ever.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis.readers.cleaning import printable
from analysis.readers.formats import FORMATS, recognise
from scalerl.runlog import HEADER_FILE, LOG_FILE, PACKED, SAMPLES_FILE, UserError, log_in

DEPTH = 4  # levels of folders that are searched for runs
_ENDINGS = {".jsonl", ".csv", ".tsv"}
# Files of other programs are looked into where they lie in a folder only if their name could be of a log.
_LOOKED_INTO = _ENDINGS | {".json", ".parquet", ".txt", ".log", ".out", ".db", ".sqlite", ".sqlite3", ".wandb"}
_EVENTS = "tfevents"

PathLike = str | os.PathLike[str]


class Place(NamedTuple):
    """Something to read, in which format, and whether it was named or lay in a folder."""

    path: Path
    format: str
    named: bool


def places(paths: Sequence[PathLike], skipped: list[Path], fmt: str | None = None) -> list[Place]:
    """Return what `paths` stand for, without repetition; what holds no run among several is added to `skipped`.

    Raises
    ------
    UserError
        If a path does not exist, cannot be opened or holds no run.
    """
    if not paths:
        raise UserError("no path was given; name a run folder, a log.jsonl or a CSV file")
    if any(not os.fspath(path) for path in paths):
        raise UserError("a path is empty; name a run folder, a log.jsonl or a CSV file")
    if fmt is not None and fmt not in FORMATS:
        raise UserError(f"--format {fmt}: there is no such format; there are {', '.join(FORMATS)}")
    bystanders = [Path(path) for path in paths if len(paths) > 1 and fmt is None and _holds_no_run(path)]
    if len(bystanders) == len(paths):
        bystanders = []  # then the first of them gives the reason
    skipped += bystanders
    found = [place for path in paths if Path(path) not in bystanders for place in _of_path(path, skipped, fmt)]
    named = {place.path.resolve() for place in found if place.named}
    unique = {place.path.resolve(): place for place in found}
    return [place._replace(named=where in named) for where, place in unique.items()]


def _holds_no_run(path: PathLike) -> bool:
    """Whether a path among several is a bystander: a folder without a run, or a file that is no log by its name."""
    here = Path(path)
    try:
        if here.is_dir():
            return not (here / HEADER_FILE).exists() and not _folders(here, DEPTH, []) and not _files(here)
        if here.exists() and here.name != SAMPLES_FILE and here.suffix.lower() in _ENDINGS:
            return False
        return here.exists() and (here.name == SAMPLES_FILE or _loose(here) is None)
    except (OSError, ValueError):
        return False


def _of_path(path: PathLike, closed: list[Path], fmt: str | None) -> list[Place]:
    text = os.fspath(path)
    here = Path(text)
    try:
        if here.exists() and fmt is not None:
            return [Place(here, fmt, True)]
        if here.is_dir():
            return _in_folder(here, closed)
        if not here.exists() and any(c in text for c in "*?["):
            return _in_pattern(text, closed, fmt)
        if not here.exists():
            raise UserError(f"{printable(text)}: there is no such file or folder")
        return [Place(here, recognise(here) or ("scalerl" if here.suffix == ".jsonl" else "table"), True)]
    except (OSError, ValueError) as error:  # no permission to look; a null byte in the name
        if isinstance(error, UserError):
            raise
        raise UserError(f"{text!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _in_folder(folder: Path, closed: list[Path]) -> list[Place]:
    before = len(closed)
    found = _folders(folder, DEPTH, closed)
    if found:
        roots = {place.path.parent if place.path.name in {LOG_FILE, PACKED} else place.path for place in found}
        beside = [place for place in _files(folder) if not roots & set(place.path.parents)]
        # A table beside runs may be a copy of one of them (--log-file): it is read where it is named.
        closed += [place.path for place in beside if place.format == "table"]
        return [*found, *(place for place in beside if place.format != "table")]
    if len(closed) > before:
        raise UserError(f"{closed[before]}: cannot be opened, and no other run lies in {folder}")
    if (folder / HEADER_FILE).exists():
        raise UserError(f"{folder}: has a {HEADER_FILE} but no {LOG_FILE}; the run has not logged anything")
    if files := _files(folder):
        return files
    raise UserError(f"{folder}: no run in it (a run is a folder with a {LOG_FILE}, or a CSV file; scalerl logs --help)")


def _folders(folder: Path, depth: int, closed: list[Path]) -> list[Place]:
    """The folders that are runs, from `folder` itself down."""
    try:
        fmt = recognise(folder)
        if fmt == "scalerl":
            return [Place(log_in(folder), fmt, False)]
        if fmt is not None and depth == 0:
            return [Place(folder, fmt, False)]
        if depth == 0:
            return []
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if fmt is not None:  # a trainer's folder may hold the log that our callback keeps of the same run
            ours = [p for p in below if recognise(p) == "scalerl"]
            return [Place(log_in(p), "scalerl", False) for p in ours] or [Place(folder, fmt, False)]
    except OSError:  # one closed folder must not hide the runs beside it
        closed.append(folder)
        return []
    return [place for p in below for place in _folders(p, depth - 1, closed)]


def _files(folder: Path, depth: int = DEPTH) -> list[Place]:
    """The files in a folder and below it that are logs, those of one folder together."""
    try:
        inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        found = [Place(p, fmt, False) for p in inside if p.is_file() and (fmt := _loose(p)) is not None]
        below = [p for p in inside if p.is_dir()] if depth else []
    except OSError:
        return []
    return [*found, *(place for p in below for place in _files(p, depth - 1))]


def _loose(path: Path) -> str | None:
    """The format of a file that lies in a folder, None where it need not be a log."""
    low = path.suffix.lower()
    if path.name in {SAMPLES_FILE, HEADER_FILE} or (low not in _LOOKED_INTO and _EVENTS not in path.name):
        return None
    return recognise(path)


def _in_pattern(pattern: str, closed: list[Path], fmt: str | None) -> list[Place]:
    """Matches that are runs; a pattern may also match pictures and notes that lie beside them."""
    found: list[Place] = []
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207, a pattern may be absolute
        if fmt is not None:
            found.append(Place(match, fmt, True))
        elif match.is_dir():
            found += _folders(match, DEPTH, closed) or _files(match)
        elif match.suffix in _ENDINGS and match.name != SAMPLES_FILE:
            known = recognise(match) or ("scalerl" if match.suffix == ".jsonl" else "table")
            found.append(Place(match, known, True))
        elif (known_loose := _loose(match)) is not None:
            found.append(Place(match, known_loose, True))
    if not found:
        raise UserError(f"{pattern}: matches no run folder, log.jsonl or CSV file")
    return found
