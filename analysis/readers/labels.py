"""Which recipe and which seed a table is of: from its own columns, from its file's name, or as the reader says.

Promises: a table that holds the rows of several runs, told apart by columns `recipe`, `seed` or `run`, is cut into
these runs; a name is read as recipe and seed only where it ends in ``_seed3``, ``-seed3``, ``_s3`` or ``-s3``, or the
file is ``seed3.csv`` in the folder of its recipe. Numbers are never touched here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from analysis.readers.cleaning import Table, number, printable
from analysis.readers.columns import some_rows
from analysis.schema import Run
from scalerl.runlog import UserError

COLUMNS = ("recipe", "seed", "run")
_ENDING = re.compile(r"(?P<recipe>.*[^-_.])[-_.](?:seed|s)[-_]?(?P<seed>\d{1,9})", re.IGNORECASE)
_SEED_ALONE = re.compile(r"(?:seed|s)[-_]?(?P<seed>\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True)
class Label:
    """What a table is called; `recipe` is None where nothing says it."""

    name: str
    recipe: str | None = None
    seed: int | None = None


def label_of_name(name: str) -> Label:
    """Return recipe and seed of a name that holds both.

    Examples
    --------
    >>> label_of_name("grpo_seed3"), label_of_name("qwen3-math")
    (Label(name='grpo_seed3', recipe='grpo', seed=3), Label(name='qwen3-math', recipe=None, seed=None))
    """
    found = _ENDING.fullmatch(name)
    return Label(name) if found is None else Label(name, found["recipe"], int(found["seed"]))


def label_of_path(path: Path) -> Label:
    """Return recipe and seed of a file: from its name, or its folder where the name is a seed alone.

    Examples
    --------
    >>> label_of_path(Path("runs/grpo/seed1.csv"))
    Label(name='grpo/seed1', recipe='grpo', seed=1)
    """
    name = printable(path.stem)
    alone = _SEED_ALONE.fullmatch(name)
    if alone is None:
        return label_of_name(name)
    folder = printable(path.resolve().parent.name)
    return Label(f"{folder}/{name}", folder, int(alone["seed"])) if folder else Label(name, None, int(alone["seed"]))


def parts_of(table: Table, whole: Label) -> list[tuple[Label, Table]]:
    """Return the runs of a table, in the order of their first rows; the table itself where no column tells runs apart.

    Parameters
    ----------
    table : Table
    whole : Label
        What its file's name says.

    Raises
    ------
    UserError
        If a row does not say which run it is of, or a seed is no whole number.
    """
    places = {column.strip().lower(): column for column in table.columns}
    columns = [places[name] for name in COLUMNS if name in places]
    if not columns:
        return [(whole, table)]
    cells = {places[name]: table.columns[places[name]] for name in COLUMNS if name in places}
    rows: dict[tuple[str, ...], list[int]] = {}
    empty = []
    for i in range(len(table.lines)):
        key = tuple("" if (cell := cells[column][i]) is None else str(cell).strip() for column in columns)
        if not all(key):
            empty.append(table.lines[i])
        rows.setdefault(key, []).append(i)
    if (empty and len(rows) == 1) or 1 < len(rows) == len(table.lines):
        return [(whole, table)]  # columns that hold nothing, or another value in each row, tell no runs apart
    if empty:
        told = ", ".join(map(str, empty[:3])) + (", ..." if len(empty) > 3 else "")
        what = f"{' or '.join(columns)} is empty at line {told}; say of every row which run it is of"
        raise UserError(f"{table.where}: {what}")
    here = [name for name in COLUMNS if name in places]
    if len(rows) == 1 and here == ["seed"]:  # the file is the run, and its own name is kept
        (key,) = rows
        return [(replace(whole, seed=_seed(key[0], table)), table)]
    labels = [_label(dict(zip(here, key, strict=True)), whole, table) for key in rows]
    count = Counter(label.name for label in labels)
    labels = [replace(a, name=f"{a.recipe}/{a.name}") if count[a.name] > 1 else a for a in labels]
    return [(label, some_rows(table, some)) for label, some in zip(labels, rows.values(), strict=True)]


def _label(said: Mapping[str, str], whole: Label, table: Table) -> Label:
    run = printable(said["run"]) if "run" in said else None
    named = label_of_name(run) if run is not None else whole
    recipe = printable(said["recipe"]) if "recipe" in said else named.recipe
    seed = _seed(said["seed"], table) if "seed" in said else named.seed
    if run is not None:
        return Label(run, recipe, seed)
    if "seed" not in said:
        return Label(recipe or whole.name, recipe, seed)
    recipe = recipe or whole.name
    return Label(f"{recipe}/seed{seed}", recipe, seed)


def _seed(cell: str, table: Table) -> int:
    value = number(cell)
    if value is None or value != int(value):
        raise UserError(f"{table.where}: seed: {printable(cell[:60])!r} is no whole number")
    return int(value)


def relabelled(runs: Iterable[Run], recipes: Mapping[str, str | Sequence[str]]) -> list[Run]:
    """Return the runs with the recipe of each whose name matches a pattern, and names that say it.

    Parameters
    ----------
    runs : iterable of Run
    recipes : mapping of recipe to pattern or patterns
        Patterns such as ``mine_*``, of the names of runs, or with a slash, such as ``*/batch-256/*``, of their paths.

    Raises
    ------
    UserError
        If a pattern matches no run, or a run is given two recipes.
    """
    runs = list(runs)
    found: dict[str, str] = {}
    for recipe, patterns in recipes.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matching = [run.name for run in runs if _matches(run, pattern)]
            if not matching:
                names = ", ".join(run.name for run in runs)
                raise UserError(f"recipe {recipe}: no run matches {pattern}; there are {names} (--recipe)")
            if twice := [name for name in matching if found.get(name, recipe) != recipe]:
                what = f"{twice[0]} is also of recipe {found[twice[0]]}"
                raise UserError(f"recipe {recipe}: {what}; write patterns that do not overlap (--recipe)")
            found |= dict.fromkeys(matching, recipe)
    named = [_renamed(run, found[run.name]) if run.name in found else run.name for run in runs]
    count = Counter(named)
    return [
        replace(run, recipe=found.get(run.name, run.recipe), name=name if count[name] == 1 else run.name)
        for run, name in zip(runs, named, strict=True)
    ]


def _matches(run: Run, pattern: str) -> bool:
    by_path = "/" in pattern and fnmatchcase(run.source.resolve().as_posix(), pattern)
    return by_path or fnmatchcase(run.name, pattern)


def _renamed(run: Run, recipe: str) -> str:
    """Return what a run of another recipe is called: a name that was made of recipe and seed is made anew."""
    made = f"{run.recipe}/seed{run.seed}"
    return f"{recipe}/seed{run.seed}" if run.name == made or run.name.startswith(f"{made} (") else run.name
