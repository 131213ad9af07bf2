"""Take a table that is in memory as a run: a DataFrame, or columns by name.

Promises: the same checks and findings as for a file with the same cells; a cell that is no number is never read as one.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.readers.cleaning import Table, printable
from analysis.readers.found import Found, step_of
from analysis.readers.labels import COLUMNS as LABELS
from analysis.readers.labels import Label, parts_of
from analysis.readers.lineage import lineages
from analysis.readers.logs import run_of_table
from analysis.schema import Run
from scalerl.runlog import UserError

if TYPE_CHECKING:
    import pandas as pd


def read_frame(
    frame: pd.DataFrame | Mapping[str, Any],
    name: str = "run",
    *,
    recipe: str | None = None,
    seed: int | None = None,
    x: str | None = None,
    y: str | None = None,
    scale: float | None = None,
) -> Run:
    """Take a table that is in memory already as one run, through the same checks as a file.

    Parameters
    ----------
    frame : DataFrame or mapping of str to array-like
        One row an evaluation: a compute column and a pass-rate column, named as in a CSV file.
    name, recipe, seed
        What the run is called, by default `name`, and of which recipe it is which seed.
    x, y, scale
        As in `read`.

    Returns
    -------
    Run

    Raises
    ------
    UserError
        If columns are missing or of different length, or no row holds two numbers.

    Examples
    --------
    >>> run = read_frame({"gpu_hours": [0.0, 1.0, 2.0], "accuracy": [10, 25, 40]}, "mine", scale=0.01)
    >>> run.name, run.data["pass_rate"].tolist()
    ('mine', [0.1, 0.25, 0.4])
    """
    if not hasattr(frame, "items"):
        raise UserError(f"read_frame: {type(frame).__name__} is no table; give a DataFrame or a mapping of columns")
    if not isinstance(name, str):
        raise UserError(f"read_frame: the name of a run is a text, not {name!r}")
    try:
        seed = None if seed is None else operator.index(seed)
    except TypeError as error:
        raise UserError(f"{name}: seed: {seed!r} is not a whole number") from error
    names = Counter(str(key) for key, _ in frame.items())
    # a name that stands twice is left out, as in a file: neither can be meant
    columns = {str(key): _cells(name, str(key), column) for key, column in frame.items() if names[str(key)] == 1}
    lengths = {key: len(column) if isinstance(column, list) else 0 for key, column in columns.items()}
    if len(set(lengths.values())) != 1 or not max(lengths.values()):
        shown = ", ".join(f"{key} {n}" for key, n in lengths.items()) or "no column"
        raise UserError(f"{name}: columns must be of one length, with at least one row ({shown})")
    name = printable(name)
    table = Table(name, columns, range(1, max(lengths.values()) + 1))
    parts = parts_of(table, Label(name))
    if len(parts) > 1:
        by = ", ".join(repr(key) for key in columns if key.strip().lower() in LABELS)
        what = f"holds {len(parts)} runs; take them one by one: [read_frame(part, str(key)) for key, part in "
        raise UserError(f"{name}: {what}frame.groupby([{by}])]")
    said = parts[0][0]
    recipe, seed = said.recipe if recipe is None else recipe, said.seed if seed is None else seed
    label = Label(name, name if recipe is None else printable(recipe), seed)
    found = lineages(Found(label, table, Path(name), "", "table", step=step_of(table.columns)))
    if len(found) > 1:
        raise UserError(
            f"{name}: {found[0].step} starts again: {len(found)} runs one after the other; give one at a time"
        )
    run = run_of_table(found[0], x=x, y=y, scale=scale)
    told = repr(sorted((key, values.tolist()) for key, values in run.data.items()))
    return replace(run, sha256=hashlib.sha256(told.encode()).hexdigest())


def _cells(run: str, key: str, column: Any) -> Any:
    """The cells of a column in memory, empty where a number is missing."""
    kind = getattr(getattr(column, "dtype", None), "kind", "")
    if kind in ("m", "M"):
        raise UserError(f"{run}: column {key} holds times; give compute as numbers")
    if isinstance(column, np.ma.MaskedArray):
        cells = np.ma.filled(column.astype(object), None).tolist()
    elif hasattr(column, "to_numpy"):  # pandas has several marks for a missing value
        cells = column.to_numpy(dtype=object, na_value=None).tolist()
    else:
        cells = column.tolist() if isinstance(column, np.ndarray) else column
        cells = list(cells) if isinstance(cells, Iterable) and not isinstance(cells, (str, bytes)) else cells
    return [_cell(cell) for cell in cells] if isinstance(cells, list) else cells


def _cell(cell: Any) -> Any:
    """A number of numpy or of the standard library as Python's own; None for NaN."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, (Decimal, Fraction)) and not (isinstance(cell, Decimal) and not cell.is_finite()):
        return float(cell)
    return None if isinstance(cell, float) and math.isnan(cell) else cell
