"""The data sets that policies of a run were evaluated on afterwards (``scalerl evaluate --run``), a curve each.

Promises: rows of other data sets never enter the run's own curve; they are read from the log only when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.readers.cleaning import Table, clean, number, printable
from analysis.readers.own import describe_rows
from analysis.schema import Run
from scalerl.runlog import UserError, read_log

OWN = "own evaluations"


def data_sets(run: Run) -> list[Run]:
    """Return a run's own evaluations and, for each data set in its log, one more run, all over the run's compute.

    Raises
    ------
    UserError
        If the log has no row of kind downstream.
    """
    rows = read_log(run.source).rows if run.format == "scalerl" and run.source.exists() else []
    named = [(line, row) for line, row in enumerate(rows, start=1) if row.get("kind") == "downstream"]
    names = list(dict.fromkeys(str(row.get("data_set")) for _, row in named))
    if not names:
        raise UserError(f"{run.name}: no other data set in its log; add one with scalerl evaluate --run")
    found = [replace(run, name=OWN, recipe=OWN)]
    for name in names:
        mine = [(line, row) for line, row in named if str(row.get("data_set")) == name]
        mine.sort(key=lambda pair: _compute(pair[1], run.axes[0]))  # policies are evaluated in any order
        columns = {key: [row.get(key) for _, row in mine] for key in dict.fromkeys(k for _, row in mine for k in row)}
        table = Table(f"{run.source}, {printable(name)}", columns, [line for line, _ in mine])
        axes = [axis for axis in run.axes if axis in columns]
        if run.axes[0] not in axes or "pass_rate" not in columns:
            raise UserError(f"{table.where}: has no {run.axes[0]} or no pass_rate")
        data, kept, findings = clean(table, axes=axes, y="pass_rate", scale=None)
        extras, about = describe_rows(table, kept)
        label = printable(name)
        of = np.full(len(data["pass_rate"]), label, dtype=object)
        made = replace(
            run, name=label, recipe=label, data={**data, **extras, "data_set": of}, findings=(*findings, *about)
        )
        found.append(replace(made, axes=tuple(axis for axis in axes if axis in data)))
    return found


def _compute(row: Mapping[str, Any], axis: str) -> float:
    value = number(row.get(axis))
    return math.inf if value is None or math.isnan(value) else value
