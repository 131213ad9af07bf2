"""What a reader hands on: one run as a file of another program tells it, rows in the order they were written.

Promises: the names of columns and the cells are those of the file; nothing is chosen, scaled, sorted or dropped without
a word here. Which rows are of one run and survived: `analysis.readers.lineage`; the compute axis:
`analysis.readers.axes`; the pass rate: `analysis.readers.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.findings import Finding
from analysis.readers.cleaning import Table
from analysis.readers.labels import Label
from analysis.schema import Event

# Names of the training step, the best first. W&B's own `_step` counts calls of log(): it is the last resort.
STEPS = (
    *("step", "global_step", "training_step", "train_step", "trainer/global_step", "train/global_step"),
    *("training/global_step", "train/step", "trainer/step", "iteration", "iter", "update", "progress/batch", "_step"),
)


@dataclass(frozen=True)
class Found:
    """One run as it stands in a file, a folder or a store.

    Attributes
    ----------
    label : Label
        Name, recipe and seed, as far as the file says them.
    table : Table
        One row for each time that something was logged; cells as the file has them, empty ones None or ``""``.
    path : Path
        The file, or the folder of a format that is one.
    sha256 : str
        Of the file; of a folder, of all files that were read, in order (`digest`).
    format : str
        Name of the format, a key of `analysis.readers.formats.FORMATS`.
    step : str, optional
        Column of the training step. With it attempts and branches are told apart.
    starts : tuple of int
        Rows at which another attempt begins, where the file itself says so (one event file an attempt).
    rates : tuple of str
        Columns in which this format is known to hold pass rates of evaluations, best first.
    devices : int, optional
        Devices that the run held, where the log says it.
    header : mapping
        What the file says of how the run was made.
    lost : tuple of Table
        Rows of attempts that a later attempt took back, one table an attempt; set by `analysis.readers.lineage`.
    dropped : mapping of str to int
        Lines or records that are no row, counted by reason ("prose", "progress bar", "not JSON").
    """

    label: Label
    table: Table
    path: Path
    sha256: str
    format: str
    step: str | None = None
    starts: tuple[int, ...] = ()
    rates: tuple[str, ...] = ()
    devices: int | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    lost: tuple[Table, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    start_time: str | None = None
    end_time: str | None = None
    events: tuple[Event, ...] = ()


def step_of(names: Iterable[str]) -> str | None:
    """Return the column of the training step among the names of columns.

    Examples
    --------
    >>> step_of(["_step", "loss", "train/global_step"]), step_of(["loss", "Global_Step"]), step_of(["loss", "time"])
    ('train/global_step', 'Global_Step', None)
    """
    low = {name.strip().lower(): name for name in names}
    return next((low[name] for name in STEPS if name in low), None)


def table_of_rows(where: str, rows: Iterable[Mapping[str, Any]], lines: Iterable[int] | None = None) -> Table:
    """Return rows of named cells as a table; a cell that a row lacks is None.

    Parameters
    ----------
    where : str
        How messages name the file.
    rows : iterable of mapping
    lines : iterable of int, optional
        Line of each row; by default they are counted from 1.

    Examples
    --------
    >>> table_of_rows("a.json", [{"step": 1}, {"step": 2, "eval_acc": 0.5}]).columns["eval_acc"]
    [None, 0.5]
    """
    columns: dict[str, list[Any]] = {}
    count = 0
    for i, row in enumerate(rows):
        for name, cell in row.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = []
            if len(column) < i:
                column.extend([None] * (i - len(column)))
            column.append(cell)
        count = i + 1
    for column in columns.values():
        column.extend([None] * (count - len(column)))
    return Table(where, columns, list(lines) if lines is not None else range(1, count + 1))
