"""Turn the cells of a log into numbers, and say what was left out.

Promises: a pass rate comes out as a fraction or not at all; nothing is dropped or rescaled without a finding.
Cells may be text (CSV) or JSON values. Lines are counted from 1, as editors do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.findings import Finding, finding
from scalerl.runlog import UserError

Array = NDArray[np.float64]
RESTARTS = 3  # compute falling back more often than this is disorder, not runs joined end to end


class UnitError(UserError):
    """The values of a column are neither fractions nor clearly percent."""


@dataclass(frozen=True)
class Table:
    """Raw cells by column, with the line of each row and how messages name the file.

    `cut` says that the file ends in half a line, which is not among the rows; `doubled` are names that stood over more
    than one column, none of which is among the columns.
    """

    where: str
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    cut: bool = False
    doubled: tuple[str, ...] = ()


def printable(text: str) -> str:
    """Replace what may reach neither a terminal nor XML: control characters and lone surrogates."""
    return "".join(c if c.isprintable() else "?" for c in text)


def number(cell: object) -> float | None:
    """Return the finite number that a cell holds; NaN for an empty cell, None for anything else.

    Examples
    --------
    >>> number(" 0.25 "), number(""), number("n/a"), number("inf"), number(True)
    (0.25, nan, None, None, None)
    """
    if cell is None or cell == "":
        return math.nan
    if isinstance(cell, str):
        if "_" in cell:
            return None
    elif isinstance(cell, bool) or not isinstance(cell, (int, float)):
        return None
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return math.nan if isinstance(cell, str) and not cell.strip() else None
    return value if math.isfinite(value) else None


def figures(cells: Sequence[object]) -> list[float]:
    """Return the number of each cell, NaN where it holds none.

    Examples
    --------
    >>> figures(["0.5", "", "n/a", 2])
    [0.5, nan, nan, 2.0]
    """
    return [math.nan if (value := number(cell)) is None else value for cell in cells]


def known_figures(cells: Sequence[object]) -> list[float]:
    """Return the numbers among the cells, in order.

    Examples
    --------
    >>> known_figures(["0.5", "", "n/a", 2])
    [0.5, 2.0]
    """
    return [value for value in figures(cells) if not math.isnan(value)]


def clean(
    table: Table, *, axes: Sequence[str], y: str, scale: float | None, zero: float = 0.0
) -> tuple[dict[str, Array], list[int], tuple[Finding, ...]]:
    """Return compute axes and ``pass_rate`` of the usable rows, which rows those are, and findings.

    Parameters
    ----------
    table : Table
    axes : sequence of str
        Compute columns; the first must be usable in a row that is kept, the others may be missing.
    y : str
        Column of the pass rate.
    scale : float, optional
        Factor that makes a fraction of `y`; without it percent is recognised where that is safe.
    zero : float
        Value of `y` that means none; taken away before `scale`.

    Raises
    ------
    UserError
        If no row is usable or the unit of the pass rate is in doubt.
    """
    main = axes[0]
    compute = [number(cell) for cell in table.columns[main]]
    rate = [number(cell) for cell in table.columns[y]]
    kept, empty, bad = [], [], []
    for i, (c, r) in enumerate(zip(compute, rate, strict=True)):
        if r is not None and math.isnan(r):
            empty.append(i)
        elif r is None or c is None or math.isnan(c) or c < 0.0:
            bad.append(i)
        else:
            kept.append(i)
    if not kept:
        total = len(table.lines)
        what = f"none of the {total} rows holds a number in both {main} and {y}"
        raise UserError(f"{table.where}: {what}{_hint(table, (main, y), bad)}")

    findings = []
    if empty:
        findings.append(finding("rows-empty", f"{len(empty)} of {len(rate)} rows have no {y}", float(len(empty))))
    if bad:
        what = f"{len(bad)} rows left out: not a usable number in {main} or {y} ({_lines(table, bad)})"
        what += _hint(table, (main, y), bad)
        findings.append(finding("rows-dropped", what, float(len(bad))))
    data = {main: np.array([compute[i] for i in kept], dtype=float)}
    for axis in axes[1:]:
        values = [number(table.columns[axis][i]) for i in kept]
        if all(v is not None and v >= 0.0 for v in values):
            data[axis] = np.array(values, dtype=float)
        else:
            findings.append(finding("axis-missing", f"{axis} is not a number in every row and is not offered as x"))
    fraction, said = as_fraction(np.array([rate[i] for i in kept], dtype=float) - zero, table.where, y, scale)
    data["pass_rate"] = fraction
    return data, kept, (*findings, *said, *_order(table, main, compute, data[main]))


def as_fraction(values: Array, where: str, y: str, scale: float | None) -> tuple[Array, list[Finding]]:
    """Return pass rates as fractions, and a finding if they were not.

    Without `scale`: values within [0, 1] are fractions; values that are all 0 or within (1, 100] with a maximum
    of 2 or more are percent; everything else is refused, because a guess would move A a hundredfold.
    """
    low, high = float(values.min()), float(values.max())
    if scale is not None:
        scaled = values * scale
        if low * scale < 0.0 or high * scale > 1.0 or not scale > 0.0:
            span = f"{low * scale:g} to {high * scale:g}"
            raise UserError(f"{where}: {y} times {scale:g} runs from {span}; a pass rate lies between 0 and 1")
        said = [] if scale == 1.0 else [finding("scaled", f"{y} is multiplied by {scale:g}, as asked", scale)]
        return scaled, said
    if low >= 0.0 and high <= 1.0:
        return values, []
    if low >= 0.0 and 2.0 <= high <= 100.0 and bool(np.all((values == 0.0) | (values > 1.0))):
        said = [finding("percent", f"{y} runs from {low:g} to {high:g}: read as percent and divided by 100", high)]
        return values / 100.0, said
    if low < 0.0:
        hint = "choose another column with --y, or say what no and all right answers give with --y-range LO:HI"
    elif high > 100.0:
        hint = f"choose another column with --y, or a factor with --scale (--scale {1 / high:.2g})"
    else:
        hint = (
            "if these are percent say --scale 0.01, if not choose another column with --y (--scale 1 is for fractions)"
        )
    raise UnitError(f"{where}: {y} runs from {low:g} to {high:g}, neither fractions nor clearly percent; {hint}")


def _order(table: Table, main: str, compute: Sequence[float | None], kept: Array) -> list[Finding]:
    """What the order of the rows gives away: all rows with a compute are looked at, evaluated or not."""
    findings = []
    seen = ((line, c) for line, c in zip(table.lines, compute, strict=True) if c is not None and not math.isnan(c))
    falls = [line for (_, before), (line, c) in pairwise(seen) if c < before]
    if len(falls) > RESTARTS:
        what = f"{main} falls in {len(falls)} places (first at line {falls[0]}); the rows are sorted by it"
        findings.append(finding("compute-unordered", what, float(len(falls))))
    elif falls:
        what = (
            f"{main} falls back at line {', '.join(map(str, falls))}: several runs in one file, or a restart; "
            "all rows are used as one run, so split the file if they are not"
        )
        findings.append(finding("compute-restarts", what, float(len(falls))))
    repeated = len(kept) - len(np.unique(kept))
    if repeated:
        what = f"{repeated} evaluations stand at a compute that another one has too; each counts as a point"
        findings.append(finding("compute-repeated", what, float(repeated)))
    return findings


def _hint(table: Table, columns: Sequence[str], rows: Sequence[int]) -> str:
    """What ails the cells, where it is a habit of spreadsheets."""
    texts = [cell.strip() for name in columns for i in rows if isinstance(cell := table.columns[name][i], str)]
    if any(number(text.removesuffix("%")) is not None for text in texts if text.endswith("%")):
        return "; write 65.0 and not 65.0%"
    if any(text.count(",") == 1 and number(text.replace(",", ".")) is not None for text in texts):
        return "; write decimals with a point, not a comma"
    return ""


def _lines(table: Table, rows: Sequence[int], most: int = 3) -> str:
    named = ", ".join(str(table.lines[i]) for i in rows[:most])
    return f"line{'s' if len(rows) > 1 else ''} {named}{', ...' if len(rows) > most else ''}"
