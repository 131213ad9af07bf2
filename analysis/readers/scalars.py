"""Gather scalars that a store keeps one by one (name, step, value) into the rows of a table.

Promises: every pair of step and value that went in stands in the table once, none is averaged or replaced; memory is
bounded by `MOST_CELLS`, whatever the data. A scalar joins the row of its step where that row has no such name yet; a
name that is logged at a step behind its last one, or again at a step that others have passed, begins a new stretch of
rows, since there the run was taken back; only inside a stretch are rows put in the order of their steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from analysis.readers.cleaning import Table, printable
from scalerl.runlog import UserError

STEP, WALL_TIME = "step", "wall_time"
_DEPTH = 8  # levels of objects in objects
_LONG = 1000  # characters
MOST_CELLS = 50_000_000  # of a table, 8 bytes each


class Scalars:
    """A table in the making.

    Parameters
    ----------
    where : str
        How messages name the store.

    Examples
    --------
    >>> scalars = Scalars("mine")
    >>> for name, step, value in [("loss", 1, 0.9), ("acc", 1, 0.1), ("loss", 2, 0.8), ("loss", 1, 0.7)]:
    ...     scalars.add(name, step, value, 0.0)
    >>> table, starts = scalars.table()
    >>> table.columns["step"], table.columns["loss"], table.columns["acc"]
    ([1, 2, 1], [0.9, 0.8, 0.7], [0.1, None, None])
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._columns: dict[str, list[Any]] = {}
        self._steps: list[Any] = []
        self._times: list[float | None] = []
        self._rows: dict[int, int] = {}  # of this stretch: step -> its last row
        self._last: dict[str, int] = {}  # of this stretch: name -> its last step
        self._most = -math.inf  # of this stretch: the last step of any name
        self._stretches: list[int] = []
        self._starts: list[int] = []
        self._pivoted = False
        self._cells = 0

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def start(self) -> None:
        """Begin another attempt: what follows joins no row that stands."""
        if self._steps and (not self._starts or self._starts[-1] != len(self._steps)):
            self._starts.append(len(self._steps))
            self._stretch()

    def add(self, name: str, step: int, value: Any, time: float | None) -> None:
        """Add one scalar; `time` is in seconds since 1970."""
        self._pivoted = True
        last = self._last.get(name)
        if last is not None and (step < last or step == last < self._most):
            self._stretch()
        self._last[name] = step
        self._most = max(self._most, step)
        row = self._rows.get(step)
        column = self._columns.get(name)
        if row is None or (column is not None and len(column) > row and column[row] is not None):
            row = self._rows[step] = len(self._steps)
            self._steps.append(step)
            self._times.append(time)
        self._put(name, row, value)

    def add_row(self, step: Any, time: float | None, cells: Mapping[str, Any]) -> None:
        """Add a row as it is; it keeps its place."""
        self._steps.append(step)
        self._times.append(time)
        for name, value in cells.items():
            self._put(name, len(self._steps) - 1, value)

    def table(self, step: str = STEP) -> tuple[Table, tuple[int, ...]]:
        """Return the table, its step column called `step`, and the rows at which attempts start."""
        count = len(self._steps)
        self._bound(count * (len(self._columns) + 2))
        for column in self._columns.values():
            column.extend([None] * (count - len(column)))
        columns: dict[str, list[Any]] = {}
        if any(one is not None for one in self._steps):
            columns[step] = self._steps
        if any(one is not None for one in self._times) and WALL_TIME not in self._columns:
            columns[WALL_TIME] = self._times
        columns |= {name: cells for name, cells in self._columns.items() if name not in columns}
        order = self._order() if self._pivoted else None
        if order is not None:
            columns = {name: [cells[i] for i in order] for name, cells in columns.items()}
        return Table(printable(self._where), columns, range(1, count + 1)), tuple(self._starts)

    def _put(self, name: str, row: int, value: Any) -> None:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = []
        gap = row - len(column)
        if gap >= 0:
            self._cells += gap + 1
            if gap:
                self._bound(self._cells)
                column.extend([None] * gap)
            column.append(value)
        else:
            column[row] = value

    def _bound(self, cells: int) -> None:
        if cells > MOST_CELLS:
            what = f"{len(self._columns)} metrics over {len(self._steps)} steps are more than fit in memory"
            raise UserError(f"{printable(self._where)}: {what}; export those that you need as CSV")

    def _stretch(self) -> None:
        self._stretches.append(len(self._steps))
        self._rows, self._last, self._most = {}, {}, -math.inf

    def _order(self) -> list[int] | None:
        """The rows by step inside each stretch; None where they are in order."""
        steps, order, moved = self._steps, [], False
        bounds = [0, *self._stretches, len(steps)]
        for first, last in pairwise(bounds):
            some = list(range(first, last))
            some.sort(key=steps.__getitem__)
            moved = moved or some != list(range(first, last))
            order += some
        return order if moved else None


def flat(cells: Mapping[str, Any], between: str, before: str = "", depth: int = _DEPTH) -> dict[str, Any]:
    """Return numbers and texts with their names, those of an object inside joined to its own by `between`.

    Lists, pictures, tables and histograms (objects with a ``_type``) and long texts are no figures and are left out.

    Examples
    --------
    >>> flat({"acc": 0.5, "val": {"math": {"acc": True}}, "hist": {"_type": "histogram", "bins": [1]}, "ids": [1]}, "/")
    {'acc': 0.5, 'val/math/acc': True}
    """
    found: dict[str, Any] = {}
    if "_type" in cells:
        return found
    for key, value in cells.items():
        name = before + key if before else key
        if not name.isprintable():
            name = printable(name)
        if isinstance(value, (int, float)):
            found.setdefault(name, value)
        elif isinstance(value, str) and len(value) <= _LONG:
            found.setdefault(name, value if value.isprintable() else printable(value))
        elif isinstance(value, dict) and depth:
            for inner, cell in flat(value, between, name + between, depth - 1).items():
                found.setdefault(inner, cell)
    return found
