"""Read runs, whoever wrote them: run folders, files, folders of these, and patterns.

Promises: one `Run` a run, or one for each run of a table that tells several apart (`analysis.readers.labels`), with its
evaluations in fractions and a finding for everything that was left out, derived or changed; what cannot be read is one
`UserError` that says where and what to do. Reading executes nothing.

The way of a log: `places` (what a path stands for) -> a reader of `formats` (cells as they are) -> `lineage` (runs,
attempts, branches) -> `axes` (compute) -> `metrics` (pass rate) -> `cleaning` (numbers) -> `analysis.schema.Run`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.findings import Finding, finding
from analysis.readers.axes import derive
from analysis.readers.cleaning import Table, UnitError, as_fraction, clean, known_figures, printable
from analysis.readers.csvfile import ColumnError, choose_compute, other_axes
from analysis.readers.formats import read_as
from analysis.readers.found import Found
from analysis.readers.labels import COLUMNS as LABELS
from analysis.readers.labels import relabelled
from analysis.readers.lineage import lineages
from analysis.readers.metrics import candidates, choose_rate, scale_of
from analysis.readers.own import busy, describe_rows
from analysis.readers.places import PathLike, Place, places
from analysis.schema import Run, Runs
from scalerl.runlog import UserError

# The order in which a compute axis is taken where none is asked for: hours, then work, then steps.
AXES = ("gpu_hours", "wall_hours", "cpu_s", "tokens_generated", "tokens_trained", "tokens", "flops", "step")


ANY_TABLE = frozenset({"table", "jsonl", "parquet"})  # what these hold cannot be told from their form


def read(
    paths: PathLike | Iterable[PathLike],
    *,
    x: str | None = None,
    y: str | Sequence[str] | None = None,
    scale: float | None = None,
    y_range: tuple[float, float] | None = None,
    recipes: Mapping[str, str | Sequence[str]] | None = None,
    format: str | None = None,  # noqa: A002, as the option --format
    devices: float | None = None,
) -> Runs:
    """Read the runs at `paths`.

    Parameters
    ----------
    paths : path or iterable of paths
        A run folder, a log or store of any format in `analysis.readers.formats.FORMATS`, a folder that holds these, or
        a pattern such as ``runs/*``. One CSV file may hold several runs, told apart by columns ``recipe``, ``seed`` or
        ``run``; names such as ``grpo_seed1.csv``, ``grpo-s1.csv`` and ``grpo/seed1.csv`` say recipe and seed.
    x : str, optional
        Compute column; by default the first of `AXES` that is there or follows from what is.
    y : str or sequence of str, optional
        Pass-rate column, or several of which each run has the first that it holds; by default ``pass_rate``,
        ``accuracy``, or the one evaluation that the format knows.
    scale : float, optional
        Factor that makes a fraction of `y`, where the unit cannot be told from the values.
    y_range : (float, float), optional
        In the place of `scale`: the values of `y` that mean none and all, such as ``(-1, 1)``.
    recipes : mapping of recipe to pattern, optional
        Runs whose name, or with a slash in it whose path, matches the pattern (``{"grpo": "grpo_*"}``,
        ``{"small": "*/batch-256/*"}``) are seeds of that recipe.
    format : str, optional
        Key of `FORMATS`; by default the format is told from the content.
    devices : float, optional
        Devices that each run held, where its log holds seconds and not GPU-hours.

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
    if devices is not None and not 0.0 < devices < 1e9:
        raise UserError(f"devices: {devices:g} is no number of devices (--devices)")
    skipped: list[Path] = []
    refused: list[UserError] = []
    told: list[tuple[Run, bool]] = []
    for place in places(several(paths), skipped, format):
        try:
            chosen = [_chosen(one, x, y, devices) for one in found_at(place)]
        except UserError as error:
            if place.named or place.format not in ANY_TABLE:  # one that lies in a folder may be of anything
                raise
            refused.append(error)
            skipped.append(place.path)
            continue
        chosen = _with_evaluations(chosen)
        unit = _common_unit(chosen, scale, y_range)
        told += [(_run(one, scale, y_range, unit), one.found.label.recipe is not None) for one in chosen]
    if refused and not told:
        raise refused[0]
    runs = _with_unique_names([run for run, _ in told], [said for _, said in told])
    return Runs(runs if recipes is None else relabelled(runs, recipes), skipped)


def several(paths: PathLike | Iterable[PathLike]) -> list[PathLike]:
    """Return one path or several as a list."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def found_at(place: Place) -> list[Found]:
    """Return the runs at a place, each as its surviving branch, before a column is chosen."""
    return [run for one in read_as(place.format, place.path) for run in lineages(one)]


FIXED = ("table", "scalerl")  # formats in which a later row has no column that the rows so far have not


class _Chosen(NamedTuple):
    """A run with its axes, the main one first, and its pass rate chosen."""

    found: Found
    table: Table
    axes: tuple[str, ...]
    rate: str
    said: tuple[Finding, ...]


def _chosen(found: Found, x: str | None, y: str | Sequence[str] | None, devices: float | None) -> _Chosen:
    own = found.format == "scalerl"
    table, made = (found.table, {}) if own else derive(found, devices)
    try:
        main = choose_compute(table, x, AXES)
        rate, said = choose_rate(replace(found, table=table), first_of(table, y))
    except ColumnError as error:
        if found.format in FIXED:
            raise
        raise UserError(str(error)) from error  # the first evaluation may bring the column
    if main == rate:
        raise UserError(f"{table.where}: {main} is named as compute and as pass rate; choose two columns")
    if main == "pass_rate":
        raise UserError(f"{table.where}: a compute column cannot be called pass_rate; rename it")
    axes = (main, *(axis for axis in AXES if axis in table.columns and axis not in {main, rate}))
    others = []
    if found.format == "table" and x is None:
        others = other_axes(table, main, ignored=(rate, *LABELS, *made))
    if own and devices is not None:
        said.append(finding("axis-chosen", f"{devices:g} devices, as asked, change nothing: the log has its own"))
    if not own and not (others and main == "step"):
        said += [f for f in made.get(main, ()) if x is None or f.code != "axis-steps"]
    said += others
    return _Chosen(found, table, axes, rate, tuple(said))


def first_of(table: Table, names: str | Sequence[str] | None) -> str | None:
    """Return the first of several names that the table has; the first of all where it has none."""
    if names is None or isinstance(names, str):
        return names
    return next((name for name in names if name in table.columns), names[0] if names else None)


def _with_evaluations(runs: list[_Chosen]) -> list[_Chosen]:
    """Of several runs in one file, those with an evaluation: one that died before its first is no reason to refuse."""
    good = [one for one in runs if known_figures(one.table.columns[one.rate])]
    if not good or len(good) == len(runs):
        return runs
    what = f"{len(runs) - len(good)} of {len(runs)} runs in the file have no evaluation and are left out"
    return [one._replace(said=(*one.said, finding("rows-empty", what))) for one in good]


def _common_unit(runs: Sequence[_Chosen], scale: float | None, y_range: tuple[float, float] | None) -> Finding | None:
    """The finding that all runs of one file are in percent: a weak run among them may stay below 1."""
    if len(runs) < 2 or scale is not None or y_range is not None:
        return None
    known = np.array([value for one in runs for value in known_figures(one.table.columns[one.rate])])
    if not len(known):
        return None
    said = as_fraction(known, runs[0].table.where, runs[0].rate, None)[1]
    return next((f for f in said if f.code == "percent"), None)


def _run(chosen: _Chosen, scale: float | None, y_range: tuple[float, float] | None, percent: Finding | None) -> Run:
    found, table = chosen.found, chosen.table
    factor, zero = scale_of(table.where, scale, y_range)
    factor = 0.01 if percent is not None else factor
    try:
        data, kept, findings = clean(table, axes=chosen.axes, y=chosen.rate, scale=factor, zero=zero)
    except UnitError as error:
        likely = [c.column for c in candidates(table, ignored=chosen.axes) if c.column != chosen.rate and c.high <= 1.0]
        raise UserError(f"{error}; likely: --y {printable(likely[0])}" if likely else str(error)) from error
    if percent is not None:
        findings = tuple(percent if f.code == "scaled" else f for f in findings)
    extras, about = describe_rows(table, kept) if found.format == "scalerl" else ({}, [])
    return Run(
        name=found.label.name,
        recipe=found.label.name if found.label.recipe is None else found.label.recipe,
        seed=found.label.seed,
        data={**data, **extras},
        axes=tuple(a for a in chosen.axes if a in data),
        findings=(*found.findings, *findings, *about, *busy(found.header, data), *chosen.said),
        source=found.path,
        sha256=found.sha256,
        format=found.format,
        header=found.header,
        start_time=found.start_time,
        end_time=found.end_time,
        events=found.events,
    )


def run_of_table(found: Found, *, x: str | None, y: str | None, scale: float | None) -> Run:
    """Return one table as one run; what `read` does to each run that it finds."""
    return _run(_chosen(found, x, y, None), scale, None, None)


def _with_unique_names(runs: Sequence[Run], said: Sequence[bool]) -> list[Run]:
    """Runs of one name get what tells them apart: a number inside one file or store, their folder, their whole path."""
    same, number = Counter((run.source, run.name) for run in runs), Counter[tuple[Path, str]]()
    numbered = []
    for run in runs:  # names in a store of MLflow or trackio may repeat
        number[run.source, run.name] += 1
        again = same[run.source, run.name] > 1
        numbered.append(replace(run, name=f"{run.name} #{number[run.source, run.name]}") if again else run)
    runs = numbered
    for label in (lambda r: r.source.resolve().parent.name, lambda r: str(r.source.resolve())):
        count = Counter(run.name for run in runs)
        base: Mapping[int, str] = {id(r): f"{r.name.split(' (')[0]} ({printable(label(r))})" for r in runs}
        runs = [replace(r, name=base[id(r)]) if count[r.name] > 1 else r for r in runs]
    # Where nothing says the recipe, two files of one name are two recipes until someone says otherwise.
    return [run if told else replace(run, recipe=run.name) for run, told in zip(runs, said, strict=True)]
