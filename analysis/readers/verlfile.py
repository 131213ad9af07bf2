"""Read what verl's file logger writes: JSON lines ``{"step": n, "data": {name: value}}``.

Promises: as of `analysis.readers.jsonlines`; columns are called as in ``data``.
"""

from __future__ import annotations

from pathlib import Path

from analysis.readers.columns import Columns, Dropped, rates_of
from analysis.readers.found import Found
from analysis.readers.jsonlines import label_of_log, objects, rows_of_head, said_of_cut
from analysis.readers.textfile import TextFile
from analysis.readers.verlconsole import RATES
from scalerl.runlog import UserError

_KEYS = {"step", "data"}


def recognise(path: Path, head: bytes) -> bool:  # noqa: ARG001, every format has the two
    """Whether every object of a file holds a step, its data and nothing else."""
    rows = rows_of_head(head)
    return bool(rows) and all(row.keys() == _KEYS and isinstance(row["data"], dict) for row in rows)


def read(path: Path) -> list[Found]:
    """Read the run of a file that verl's file logger wrote."""
    file, dropped = TextFile(path), Dropped()
    columns = Columns(file.size)
    for line, row in objects(file, dropped):
        data = row.get("data")
        if "step" in row and isinstance(data, dict):
            columns.add(line, {"step": row["step"], **{k: v for k, v in data.items() if k != "step"}})
        else:
            dropped.add("without step or data", line)
    table = columns.table(str(path), cut=bool(dropped.count["half a last line"]))
    if not table.lines:
        raise UserError(f'{path}:1: no line such as {{"step": 1, "data": {{...}}}} in it')
    return [
        Found(
            label=label_of_log(path),
            table=table,
            path=path,
            sha256=file.sha256,
            format="verl-file",
            step="step",
            rates=rates_of(table.columns, RATES),
            findings=(*dropped.findings(), *columns.findings(), *said_of_cut(table.cut, len(table.lines))),
            dropped=dict(dropped.count),
        )
    ]
