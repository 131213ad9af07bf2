"""Read runs: run folders, ``log.jsonl`` files, CSV files, folders of runs or of CSV files, and patterns of these.

Promises: one `Run` a log, or one for each run of a table that tells several apart (`analysis.readers.labels`), with its
evaluations in fractions and a finding for everything that was left out or changed; what cannot be read is one
`UserError` that says where and what to do. Reading executes nothing.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, clean, printable
from analysis.readers.csvfile import choose, choose_compute, other_axes, read_csv
from analysis.readers.labels import COLUMNS as LABELS
from analysis.readers.labels import label_of_path, parts_of, relabelled
from analysis.readers.regimes import read_events
from analysis.schema import Run, Runs
from scalerl.runlog import (
    COMPUTE_AXES,
    HEADER_FILE,
    LOG_FILE,
    SAMPLES_FILE,
    UserError,
    read_header,
    read_log,
    read_regular,
)

PASS_RATE_COLUMNS = ("pass_rate", "accuracy")
DEPTH = 4  # levels of folders that are searched for runs
BUSY = 1.3  # wall seconds a CPU-second from which on a run on a CPU is said to have shared its machine
_ENDINGS = ("end", "interrupted", "failed")
_TABLES = {".jsonl", ".csv", ".tsv"}

PathLike = str | os.PathLike[str]


def read(
    paths: PathLike | Iterable[PathLike],
    *,
    x: str | None = None,
    y: str | None = None,
    scale: float | None = None,
    recipes: Mapping[str, str | Sequence[str]] | None = None,
) -> Runs:
    """Read the runs at `paths`.

    Parameters
    ----------
    paths : path or iterable of paths
        A run folder, a ``log.jsonl``, a CSV file, a folder that holds run folders or CSV files, or a pattern such as
        ``runs/*``. One CSV file may hold several runs, told apart by columns ``recipe``, ``seed`` or ``run``; names
        such as ``grpo_seed1.csv``, ``grpo-s1.csv`` and ``grpo/seed1.csv`` say recipe and seed.
    x : str, optional
        Compute column; by default the first of `scalerl.runlog.COMPUTE_AXES` that is there.
    y : str, optional
        Pass-rate column; by default ``pass_rate`` or ``accuracy``.
    scale : float, optional
        Factor that makes a fraction of `y`, where the unit cannot be told from the values.
    recipes : mapping of recipe to pattern, optional
        Runs whose name matches the pattern (``{"grpo": "grpo_*"}``) are seeds of that recipe.

    Returns
    -------
    Runs
        Sorted within a folder, otherwise in the order given; names are unique. Of several paths, as a shell makes
        them of ``runs/*``, those that plainly hold no run are left out and stand in ``skipped``, and so do folders
        that may not be opened.

    Raises
    ------
    UserError
        If a path cannot be read as a run.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
    >>> _ = file.write_text("gpu_hours,accuracy\\n0,0.10\\n1,0.25\\n")
    >>> read(file)["mine"].data["pass_rate"].tolist()
    [0.1, 0.25]
    """
    given: list[PathLike] = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise UserError("no path was given; name a run folder, a log.jsonl or a CSV file")
    if any(not os.fspath(path) for path in given):
        raise UserError("a path is empty; name a run folder, a log.jsonl or a CSV file")
    skipped = [Path(path) for path in given if len(given) > 1 and _holds_no_run(path)]
    if len(skipped) == len(given):
        skipped = []  # then the first of them gives the reason
    used = [path for path in given if Path(path) not in skipped]
    sources = [(source, Path(path).is_dir()) for path in used for source in _sources(path, skipped)]
    named = {_resolved(source) for source, searched in sources if not searched}
    unique = {_resolved(source): source for source, _ in sources}
    found: list[tuple[Run, bool]] = []
    refused: list[UserError] = []
    for place, source in unique.items():
        if source.suffix == ".jsonl":
            found.append((_read_log(source, x, y, scale), True))
            continue
        try:
            found += _read_csv(source, x, y, scale)
        except UserError as error:
            if place in named:  # a table that lies in a folder may be of anything; one that was named is meant
                raise
            refused.append(error)
            skipped.append(source)
    if not found and refused:
        raise refused[0]
    runs = _with_unique_names([run for run, _ in found], [said for _, said in found])
    return Runs(runs if recipes is None else relabelled(runs, recipes), skipped)


def _holds_no_run(path: PathLike) -> bool:
    """Whether a path among several is a bystander: a folder without a run, or a file that is no log by its name."""
    here = Path(path)
    try:
        if here.is_dir():
            return not (here / HEADER_FILE).exists() and not _runs_below(here, DEPTH, []) and not _tables_below(here)
        return here.exists() and (here.suffix.lower() not in _TABLES or here.name == SAMPLES_FILE)
    except (OSError, ValueError):
        return False


def _sources(path: PathLike, closed: list[Path]) -> list[Path]:
    """The log files that `path` stands for; folders below it that may not be opened are added to `closed`."""
    text = os.fspath(path)
    here = Path(text)
    try:
        if here.is_dir():
            return _in_folder(here, closed)
        if not here.exists() and any(c in text for c in "*?["):
            return _in_pattern(text, closed)
        if not here.exists():
            raise UserError(f"{printable(text)}: there is no such file or folder")
    except (OSError, ValueError) as error:  # no permission to look; a null byte in the name
        raise UserError(f"{text!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return [here]


def _in_folder(folder: Path, closed: list[Path]) -> list[Path]:
    before = len(closed)
    found = _runs_below(folder, DEPTH, closed)
    if found:
        return found
    if len(closed) > before:
        raise UserError(f"{closed[before]}: cannot be opened, and no other run lies in {folder}")
    if (folder / HEADER_FILE).exists():
        raise UserError(f"{folder}: has a {HEADER_FILE} but no {LOG_FILE}; the run has not logged anything")
    if tables := _tables_below(folder):
        return tables
    raise UserError(f"{folder}: no run in it (a run is a folder with a {LOG_FILE}, or a CSV file)")


def _runs_below(folder: Path, depth: int, closed: list[Path]) -> list[Path]:
    log = folder / LOG_FILE
    try:
        if log.exists():
            return [log]
        if depth == 0:
            return []
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # one closed folder must not hide the runs beside it
        closed.append(folder)
        return []
    return [log for p in below for log in _runs_below(p, depth - 1, closed)]


def _tables_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The CSV files in a folder and below it, those of one folder together; they count where no run folder is there."""
    try:
        inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        found = [p for p in inside if p.suffix.lower() == ".csv" and p.is_file()]
        below = [p for p in inside if p.is_dir()] if depth else []
    except OSError:
        return []
    return [*found, *(table for p in below for table in _tables_below(p, depth - 1))]


def _in_pattern(pattern: str, closed: list[Path]) -> list[Path]:
    """Matches that are runs; a pattern may also match pictures and notes that lie beside them."""
    found: list[Path] = []
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207, a pattern may be absolute
        if match.is_dir():
            found += _runs_below(match, DEPTH, closed) or _tables_below(match)
        elif match.suffix in _TABLES and match.name != SAMPLES_FILE:
            found.append(match)
    if not found:
        raise UserError(f"{pattern}: matches no run folder, log.jsonl or CSV file")
    return found


def _read_log(path: Path, x: str | None, y: str | None, scale: float | None) -> Run:
    """Read a ``log.jsonl`` with the ``run.json`` beside it."""
    content = read_log(path)
    sha256 = _sha256(path)
    rows = [row for row in content.rows if row.get("kind") == "eval"]
    if not rows:
        raise UserError(f"{path}: no evaluation in it (no row of kind eval), so there is no curve to fit")
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(k for row in rows for k in row)}
    lines = [i for i, row in enumerate(content.rows, start=1) if row.get("kind") == "eval"]
    table = Table(printable(str(path)), columns, lines)
    axes, rate = columns_of(table, x, y)
    data, kept, findings = clean(table, axes=axes, y=rate, scale=scale)

    said: list[Finding] = []
    if content.cut:
        said.append(finding("log-cut", f"the last line of the log is cut; {len(rows)} whole evaluations are used"))
    header: dict[str, Any] = {}
    if (path.parent / HEADER_FILE).exists():
        header = read_header(path.parent)
    else:
        said.append(finding("no-header", f"no {HEADER_FILE} beside the log: recipe and seed are unknown"))
    extras, about = describe_rows(table, kept)
    last = [row for row in content.rows if row.get("kind") != "downstream"][-1]  # those are written after the fact
    ended = not content.cut and last.get("event") in _ENDINGS  # a row behind an end belongs to a run that went on
    recipe = printable(str(header.get("recipe") or path.parent.resolve().name))
    seed = header.get("seed")
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
    return Run(
        name=recipe if seed is None else f"{recipe}/seed{seed}",
        recipe=recipe,
        seed=seed,
        data={**data, **extras},
        axes=tuple(a for a in axes if a in data),
        findings=(*said, *findings, *about, *_busy(header, data)),
        source=path,
        sha256=sha256,
        header=header,
        start_time=_text(header.get("start_time")),
        end_time=_text(last.get("time")) if ended else None,
        events=read_events(content.rows),
    )


def describe_rows(table: Table, kept: Sequence[int]) -> tuple[dict[str, Any], list[Finding]]:
    """Columns that describe an evaluation, kept as logged, and what they give away."""
    extras: dict[str, Any] = {}
    for name in ("n_prompts", "k", "correct", "prompt_set", "attempt"):
        if name in table.columns:
            column = np.empty(len(kept), dtype=object)
            column[:] = [table.columns[name][i] for i in kept]
            extras[name] = column
    findings = []
    if len({str(p) for p in extras.get("prompt_set", ())}) > 1:
        findings.append(finding("prompt-set-changed", "the evaluation prompts change inside the run (prompt_set)"))
    attempts = {str(a) for a in extras.get("attempt", ())}
    if len(attempts) > 1:
        what = f"the run was resumed ({len(attempts)} attempts); every evaluation is kept"
        findings.append(finding("resumed", what, float(len(attempts))))
    return extras, findings


def _busy(header: Mapping[str, Any], data: Mapping[str, Any]) -> list[Finding]:
    """Wall time far above CPU time at the last evaluation of a run on a CPU, where one process is one device."""
    devices = header.get("devices")
    if not isinstance(devices, dict) or "cpu" not in str(devices.get("kind")).lower():
        return []
    count = devices.get("count", 1)
    if type(count) is not int or count < 1 or not {"gpu_hours", "cpu_s"} <= set(data):
        return []
    wall_s, cpu_s = float(data["gpu_hours"][-1]) * 3600.0 / count, float(data["cpu_s"][-1])
    if cpu_s <= 0.0 or wall_s <= BUSY * cpu_s:
        return []
    what = (
        f"wall time is {wall_s / cpu_s:.2g} x the CPU time: the machine was busy, so gpu_hours say little here; "
        "fit over CPU-seconds too (--x cpu_s)"
    )
    return [finding("busy-machine", what, wall_s / cpu_s)]


def _read_csv(path: Path, x: str | None, y: str | None, scale: float | None) -> list[tuple[Run, bool]]:
    """The runs of a CSV file, each with whether something says of which recipe it is."""
    data_bytes, table = read_csv(path)
    axes, rate = columns_of(table, x, y)
    whole = label_of_path(path)
    parts = parts_of(table, whole)
    percent = None
    if len(parts) > 1:  # the unit is one for the whole file: a weak run in percent may stay below 1
        said = clean(table, axes=axes, y=rate, scale=scale)[2]
        percent = next((f for f in said if f.code == "percent"), None)
    sha256 = hashlib.sha256(data_bytes).hexdigest()
    made = []
    for label, part in parts:
        data, _, findings = clean(part, axes=axes, y=rate, scale=scale if percent is None else 0.01)
        if percent is not None:
            findings = tuple(percent if f.code == "scaled" else f for f in findings)
        findings += tuple(other_axes(part, axes[0], ignored=(rate, *LABELS)) if x is None else ())
        if table.cut:
            what = f"the last line of the file has no end and is cut; the {len(table.lines)} rows before it are used"
            findings += (finding("log-cut", what),)
        run = Run(
            name=label.name,
            recipe=label.name if label.recipe is None else label.recipe,
            seed=label.seed,
            data=data,
            axes=tuple(a for a in axes if a in data),
            findings=findings,
            source=path,
            sha256=sha256,
        )
        made.append((run, label.recipe is not None))
    return made


def columns_of(table: Table, x: str | None, y: str | None) -> tuple[tuple[str, ...], str]:
    """Compute axes, the main one first, and the column of the pass rate."""
    main, rate = choose_compute(table, x, tuple(COMPUTE_AXES)), choose(table, y, PASS_RATE_COLUMNS, "pass-rate", "--y")
    if main == rate:
        raise UserError(f"{table.where}: {main} is named as compute and as pass rate; choose two columns")
    if main == "pass_rate":
        raise UserError(f"{table.where}: a compute column cannot be called pass_rate; rename it")
    return (main, *(axis for axis in COMPUTE_AXES if axis in table.columns and axis not in {main, rate})), rate


def _with_unique_names(runs: Sequence[Run], said: Sequence[bool]) -> list[Run]:
    """Runs of one name get what tells them apart: their folder, then their whole path."""
    for label in (lambda r: r.source.resolve().parent.name, lambda r: str(r.source.resolve())):
        count = Counter(run.name for run in runs)
        base: Mapping[int, str] = {id(r): f"{r.name.split(' (')[0]} ({printable(label(r))})" for r in runs}
        runs = [replace(r, name=base[id(r)]) if count[r.name] > 1 else r for r in runs]
    # Where nothing says the recipe, two files of one name are two recipes until someone says otherwise.
    return [run if told else replace(run, recipe=run.name) for run, told in zip(runs, said, strict=True)]


def _resolved(path: Path) -> Path:
    return path.resolve()


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_regular(path)).hexdigest()


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None
