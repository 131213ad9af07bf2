"""Write the rows of runs, whoever logged them, as one table: CSV, JSON lines or Parquet.

Promises: the surviving branch of each run, a row a step, all columns under their own names, the derived compute axes
and ``run``, ``recipe``, ``seed`` in front; numbers stay the numbers that were logged. A text that a spreadsheet would
take for a formula gets an apostrophe before it in CSV.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.readers.cleaning import number
from analysis.readers.listing import Listed
from scalerl.runlog import UserError, read_log

if TYPE_CHECKING:
    import pyarrow as pa

TO = ("csv", "jsonl", "parquet")
FRONT = ("run", "recipe", "seed")


def rows_of(runs: Sequence[Listed]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names of all columns and the rows of all runs; a cell that is missing is None."""
    rows = []
    seeded = all(run.found.label.seed is not None for run in runs)  # a table with a seed says one in every row
    for run in runs:
        label = run.found.label
        front: dict[str, Any] = {"run": label.name, "recipe": label.recipe or label.name}
        front |= {"seed": label.seed} if seeded else {}
        if run.found.format == "scalerl":
            logged = read_log(run.found.path).rows
            for row in logged:
                if row.get("kind") in ("step", "eval"):
                    cells = {name: _cell(cell) for name, cell in row.items() if name not in (*FRONT, "kind")}
                    rows.append(front | {"row": row["kind"]} | cells)
            continue
        columns = {name: cells for name, cells in run.table.columns.items() if name not in FRONT}
        for i in range(len(run.table.lines)):
            rows.append(front | {name: _cell(cells[i]) for name, cells in columns.items()})
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def convert(runs: Sequence[Listed], to: str) -> bytes:
    """Return runs as the content of a file of kind `to`.

    Raises
    ------
    UserError
        If there is no such kind, or pyarrow is not installed.
    """
    names, rows = rows_of(runs)
    if to == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, [_inert(name) for name in names], lineterminator="\n")
        writer.writeheader()
        writer.writerows({_inert(name): _inert(row.get(name)) for name in names} for row in rows)
        return text.getvalue().encode()
    if to == "jsonl":
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    if to == "parquet":
        return _parquet(names, rows)
    raise UserError(f"--to {to}: there are {', '.join(TO)}")


def _cell(cell: Any) -> Any:
    """The number that a cell holds, its text where it is none; None where it is empty or not finite."""
    if isinstance(cell, bool):
        return cell
    value = number(cell)
    if value is not None:
        if math.isnan(value):
            return None
        if isinstance(cell, str) and len(cell.strip()) > 1 and cell.strip().isdigit() and cell.strip()[0] == "0":
            return cell  # 007 is a name
        return int(cell) if isinstance(cell, int) else value
    if isinstance(cell, float):
        return None
    if isinstance(cell, list):
        return [_cell(inner) for inner in cell]
    if isinstance(cell, dict):
        return {name: _cell(inner) for name, inner in cell.items()}
    return cell if isinstance(cell, str) else str(cell)


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet executes."""
    if isinstance(cell, (list, dict)):
        return json.dumps(cell)
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell


def _parquet(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise UserError("--to parquet needs the package pyarrow: pip install 'scalerl[data]'") from error
    columns = {name: _column([row.get(name) for row in rows], pa) for name in names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def _column(cells: list[Any], pa: Any) -> pa.Array:
    """One type a column: numbers where all are, text where any is not."""
    known = [c for c in cells if c is not None]
    if all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in known):
        exact = all(isinstance(c, int) and abs(c) < 2**63 for c in known)
        return pa.array(cells if exact else [None if c is None else float(c) for c in cells])
    return pa.array([None if c is None else c if isinstance(c, str) else json.dumps(c) for c in cells])
