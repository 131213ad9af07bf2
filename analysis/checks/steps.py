"""The updates of a run, read from its log: one array a figure, and the moving means that the checks look at.

Promises: what a row does not say is NaN in an array and None in a result; reading changes nothing in the `Run`.
Does not promise that two logs hold the same figures: older ones lack some, and a table has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.curves.solver import Array, Index
from analysis.readers.cleaning import number
from analysis.schema import Run
from scalerl.runlog import COMPUTE_AXES, STEP_FIELDS, read_log

WINDOW = 10  # updates in a moving mean: the memory of the trainer's own guards


@dataclass(frozen=True, eq=False)
class Steps:
    """The updates of a run.

    Attributes
    ----------
    columns : mapping of field to array, shape (updates,)
        Figures of `scalerl.runlog.STEP_FIELDS` and the compute axes, NaN where a row has none; fields that no row has
        are left out.
    events : tuple of mapping
        Rows of kind ``event``.
    evaluate_s : float or None
        Wall seconds of all evaluations, where every one says them.
    missing : str
        Why there are no updates; empty where there are.
    """

    columns: Mapping[str, Array] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    evaluate_s: float | None = None
    missing: str = ""

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)

    def column(self, name: str) -> Array | None:
        """Return a figure, shape (updates,), or None where no row has it."""
        values = self.columns.get(name)
        return None if values is None or not np.isfinite(values).any() else values

    def at(self, place: Any, x: str) -> dict[str, float] | None:
        """Return update and compute of a row, as far as the log says them."""
        known = {a: self.columns[a][place] for a in dict.fromkeys(("step", x)) if a in self.columns}
        return {a: float(v) for a, v in known.items() if math.isfinite(v)} or None


def read_steps(run: Run) -> Steps:
    """Read the updates of a run from the log that it was read from.

    Parameters
    ----------
    run : Run
        From `analysis.read`.

    Returns
    -------
    Steps
        Without rows where the run comes from a table, its file is gone, or the log holds evaluations only.

    Raises
    ------
    UserError
        If the log was damaged since the run was read.

    Examples
    --------
    >>> import analysis as an
    >>> steps = read_steps(an.read("data/runs/grpo")[0])
    >>> len(steps), float(steps.columns["entropy"][0].round(3))
    (110, 0.308)
    """
    if not run.source.name.endswith((".jsonl", ".jsonl.gz")):
        return Steps(missing="a table of evaluations, without rows of updates")
    if not run.source.exists():
        return Steps(missing=f"{run.source} is not there any more")
    rows = read_log(run.source).rows
    events = tuple(row for row in rows if row.get("kind") == "event")
    updates = [row for row in rows if row.get("kind") == "step"]
    looked = [read_number(row.get("evaluate_s")) for row in rows if row.get("kind") == "eval"]
    told = [s for s in looked if s is not None]
    evaluate_s = sum(told) if looked and len(told) == len(looked) else None
    if not updates:
        return Steps(events=events, evaluate_s=evaluate_s, missing="the log has no rows of kind step")
    columns = {}
    for name in (*COMPUTE_AXES, *STEP_FIELDS):
        if any(name in row for row in updates):
            columns[name] = np.array([_value(row.get(name)) for row in updates])
    return Steps(columns, events, evaluate_s)


def read_number(cell: object) -> float | None:
    """Return the finite number that a cell holds, true being 1; None for anything else.

    Examples
    --------
    >>> read_number(True), read_number(0.5), read_number(None), read_number("x")
    (1.0, 0.5, None, None)
    """
    value = float(cell) if isinstance(cell, bool) else number(cell)
    return None if value is None or math.isnan(value) else value


def _value(cell: object) -> float:
    value = read_number(cell)
    return math.nan if value is None else value


def moving_mean(values: Array, window: int = WINDOW) -> tuple[Array, Index]:
    """Return the means over whole windows, and the last row of each; unknown values are left out of a mean.

    Parameters
    ----------
    values : array, shape (n,)
    window : int
        Rows in a mean; all of them where there are fewer.

    Returns
    -------
    means, rows : array, shape (n - window + 1,)
        A mean is NaN where its window holds fewer known values than half of it.

    Examples
    --------
    >>> means, rows = moving_mean(np.array([1.0, 2.0, 3.0, 6.0]), 2)
    >>> means.tolist(), rows.tolist()
    ([1.5, 2.5, 4.5], [1, 2, 3])
    """
    width = min(window, len(values))
    parts = np.lib.stride_tricks.sliding_window_view(values, width)
    known = np.isfinite(parts)
    count = known.sum(axis=1)
    total = np.where(known, parts, 0.0).sum(axis=1)
    means = np.where(2 * count >= width, total / np.maximum(count, 1), np.nan)
    return np.asarray(means, dtype=float), np.arange(width - 1, len(values), dtype=np.intp)
