"""Read a Parquet file as a plain table.

Promises: the columns that hold numbers, texts or truth values, as the file has them; a file that is small on disk and
vast in memory is refused before it is unfolded. Columns of lists, objects, times and bytes are left out and said.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, printable
from analysis.readers.found import Found, step_of
from analysis.readers.labels import label_of_path, parts_of
from analysis.readers.scalars import MOST_CELLS
from scalerl.runlog import UserError, read_regular

NAME = "parquet"
MAGIC = b"PAR1"
_MOST_BYTES = 4 << 30  # uncompressed
_ENOUGH = "'scalerl[data]'"  # the extra that holds pyarrow


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file begins as Parquet does."""
    return path.is_file() and head.startswith(MAGIC)


def read(path: Path) -> list[Found]:
    """Read the runs of a table: one, or one for each that columns `recipe`, `seed` or `run` tell apart.

    Raises
    ------
    UserError
        If it is no Parquet file, is damaged, or holds more than fits in memory.
    """
    table, left_out, sha256 = read_parquet(path)
    findings: tuple[Finding, ...] = ()
    if left_out:
        shown = ", ".join(left_out[:4])
        what = f"{len(left_out)} columns are left out, as they hold neither numbers nor texts or share a name: {shown}"
        findings = (finding("columns-left-out", what, float(len(left_out))),)
    step = step_of(table.columns)
    return [
        Found(label, part, path, sha256, NAME, step=step, findings=findings)
        for label, part in parts_of(table, label_of_path(path))
    ]


def read_parquet(path: Path) -> tuple[Table, list[str], str]:
    """Return the table of a Parquet file, the columns that were left out, and the hash of the file.

    Raises
    ------
    UserError
    """
    data = read_regular(path)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: Parquet needs the package pyarrow: pip install {_ENOUGH}") from error
    try:
        source = pa.BufferReader(data)
        schema = pq.read_schema(source)
        fields = list(schema)
        usable = [f.name for f in fields if _holds_cells(pa.types, f.type)]
        # Texts that repeat stay one text in memory, whatever the number of rows.
        texts = [f.name for f in fields if f.name in usable and not _is_number(pa.types, f.type)]
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
        rows = file.metadata.num_rows
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        if rows * max(len(usable), 1) > MOST_CELLS or sum(group.total_byte_size for group in groups) > _MOST_BYTES:
            what = f"{rows} rows of {len(usable)} columns are more than fit in memory"
            raise UserError(f"{path}: {what}; keep the columns that you need")
        columns: dict[str, list[Any]] = {}
        for name in usable:
            if schema.names.count(name) == 1:  # of a name that stands twice neither can be meant
                column = file.read([name]).column(name)
                column.validate(full=True)  # of damage that no sum tells: places outside a dictionary or a text
                columns[printable(name)] = [cell for chunk in column.chunks for cell in _cells(chunk)]
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        first = printable(str(error).strip().split("\n")[0])[:200]
        raise UserError(f"{path}: cannot be read as Parquet: {first}") from error
    if not columns or not rows:
        raise UserError(f"{path}: no {'row' if columns else 'column of numbers'} in it")
    if any(len(cells) != rows for cells in columns.values()):
        raise UserError(f"{path}: columns that do not hold the {rows} rows that it names: the file is damaged")
    left_out = [printable(f.name) for f in fields if printable(f.name) not in columns]
    return Table(printable(str(path)), columns, range(1, rows + 1)), left_out, hashlib.sha256(data).hexdigest()


def _is_number(types: Any, kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _holds_cells(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return _is_number(types, kind) or bool(types.is_string(kind) or types.is_large_string(kind))


def _cells(chunk: Any) -> list[Any]:
    """The cells of a chunk; texts of a dictionary are one object however often they stand."""
    if hasattr(chunk, "dictionary"):
        texts = chunk.dictionary.to_pylist()
        return [None if i is None else texts[i] for i in chunk.indices.to_pylist()]
    cells: list[Any] = chunk.to_pylist()
    return cells
