"""Read a CSV file into raw cells, and choose its columns.

Promises: comma, semicolon and tab are told from the header line; a file that is not a table of text is one
`UserError`; a last line that is still being written is left out. A cell is only ever data.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, number, printable
from analysis.readers.columns import BLOCK, Texts
from analysis.readers.found import Found, step_of
from analysis.readers.labels import label_of_path, parts_of
from scalerl.runlog import UserError, read_regular

# Spreadsheets save "Unicode text" this way. The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))

# Words in the name of a column that may be compute: cumulative columns that carry one are named beside the chosen one.
_COMPUTE_WORD = re.compile(
    r"(?:^|[^a-z])(?:gpus?|cpus?|hours?|hrs?|h|seconds?|secs?|s|time|wall|walltime|tokens?|flops?|compute|steps?|"
    r"epochs?|iterations?|iters?|updates?|samples?|examples?)(?![a-z])"
)

_MOST_ABSENT = 10_000_000  # cells that rows lack; rows of few cells under a header of thousands fill any memory
_LONG = 80  # characters of a name that an error shows; a longer one is nothing that is typed


class ColumnError(UserError):
    """A log with rows has no column of the name that was asked for."""


def recognise(path: Path, head: bytes) -> bool:
    """Return whether a file is a table by its name; what else is text is one only where it was named."""
    return path.suffix.lower() in {".csv", ".tsv"} and (bool(head) or path.is_file())


def read(path: Path) -> list[Found]:
    """Read the runs of a table: one, or one for each that its columns tell apart.

    Raises
    ------
    UserError
        If the file is no table.
    """
    data, table = read_csv(path)
    sha256 = hashlib.sha256(data).hexdigest()
    said: tuple[Finding, ...] = ()
    if table.cut:
        what = f"the last line of the file has no end and is cut; the {len(table.lines)} rows before it are used"
        said = (finding("log-cut", what),)
    said += said_of_doubled(table)
    return [
        Found(label, part, path, sha256, "table", step=step_of(part.columns), findings=said)
        for label, part in parts_of(table, label_of_path(path))
    ]


def said_of_doubled(table: Table) -> tuple[Finding, ...]:
    """Return the finding that columns of one name are left out, since none of them can be meant."""
    if not table.doubled:
        return ()
    shown = ", ".join(name[:80] for name in table.doubled[:4]) + (", ..." if len(table.doubled) > 4 else "")
    what = f"more than one column is called {shown}: none of them is read"
    return (finding("columns-left-out", what, severity="warning"),)


def read_csv(path: Path) -> tuple[bytes, Table]:
    """Return the bytes of a CSV file and its cells.

    Raises
    ------
    UserError
        If the file cannot be read, is empty, is not text, or has no row under its header.
    """
    data = read_regular(path)
    if not data.strip():
        raise UserError(f"{path}: the file is empty")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        nulls = "\0" in data.decode(encoding)
    except UnicodeDecodeError as error:
        shown = encoding.upper().removesuffix("-SIG")
        raise UserError(f"{path}: not a text file in {shown} (byte {error.start}); save it as CSV in UTF-8") from error
    if nulls and data[:200].count(0) * 3 >= len(data[:200]):
        raise UserError(
            f"{path}: not a text file in UTF-8, but like UTF-16 or UTF-32 unmarked; save it as CSV in UTF-8"
        )
    if nulls:
        raise UserError(f"{path}: not a text file (it holds null bytes); give a CSV file or a run folder")
    names, columns, lines, widths = _cells(path, data, encoding)
    if not names:
        raise UserError(f"{path}: the file is empty")
    if not lines:
        shown = ", ".join(names)
        shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
        raise UserError(f"{path}: a header and no rows (columns: {printable(shown)})")
    cut = len(lines) > 1 and not data.endswith((b"\n", b"\r", b"\n\0", b"\r\0", b"\0\n", b"\0\r")) and _is_cut(widths)
    if cut:
        lines.pop()
        for column in columns:
            column.pop()
    taken = Counter(names)
    # a name that stands twice is left out, since neither can be meant
    kept = {name: column for name, column in zip(names, columns, strict=True) if taken[name] == 1 and name}
    doubled = tuple(name for name, count in taken.items() if count > 1 and name)
    return data, Table(printable(str(path)), kept, lines, cut, doubled)


class _Widths(NamedTuple):
    """Of all rows but the last, the shortest last cell by number of cells; and of the last row."""

    shortest: dict[int, int]
    whole: int
    last: tuple[int, int]


def _is_cut(widths: _Widths) -> bool:
    """Whether the last line was still being written: cells missing, or a last one shorter than all of a usual row."""
    usual = max(widths.shortest)
    cells, end = widths.last
    if cells != usual:
        return cells < usual
    return widths.whole > 2 and end < widths.shortest[usual]


def _cells(path: Path, data: bytes, encoding: str) -> tuple[list[str], list[Texts], array[int], _Widths]:
    """Names, cells by column, the line on which each row ends, and how wide rows are.

    Decoded as it is read: a text of a hundred megabytes beside its bytes and its cells would be too much.
    """
    text = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="")
    header = next((line for line in text if line.strip("\r\n")), "")
    delimiter = max(",;\t", key=header.count)
    text.seek(0)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    names: list[str] = []
    columns: list[Texts] = []
    rows: list[list[str]] = []
    lines = array("q")
    shortest: dict[int, int] = {}
    last = (0, 0)
    begin, absent = 1, 0
    try:
        for row in reader:
            if not any(map(str.strip, row)):
                pass
            elif not names:
                names = [printable(name.strip()) for name in row]
                columns = [Texts() for _ in names]
            else:
                if lines:
                    shortest[last[0]] = min(shortest.get(last[0], last[1]), last[1])
                last = (len(row), len(row[-1].strip()))
                lines.append(reader.line_num)
                absent += max(0, len(names) - len(row))
                if absent > _MOST_ABSENT + len(data):
                    raise UserError(
                        f"{path}:{reader.line_num}: most of the {len(names)} columns are empty in most rows"
                    )
                if len(row) > len(names) and any(map(str.strip, row[len(names) :])):
                    what = f"{len(row)} cells under {len(names)} columns; quote texts, write decimals with a point"
                    raise UserError(f"{path}:{reader.line_num}: {what}")
                rows.append(row)
                if len(rows) == BLOCK:
                    _move(rows, columns)
            begin = reader.line_num + 1
    except csv.Error as error:
        what = "a quote opens and does not close" if "unexpected end" in str(error) else str(error)
        raise UserError(f"{path}:{begin}: not CSV: {what}") from error
    _move(rows, columns)
    return names, columns, lines, _Widths(shortest, len(lines) - 1, last)


def _move(rows: list[list[str]], columns: list[Texts]) -> None:
    """Move the cells of rows to their columns; a short row reads as empty cells there."""
    for row in rows:
        row.extend([""] * (len(columns) - len(row)))
    for column, cells in zip(columns, zip(*rows, strict=False), strict=False):
        column.extend(cells)
    rows.clear()


def choose_compute(table: Table, x: str | None, known: Sequence[str]) -> str:
    """Return the compute column: `x`, or the first of `known` that is there."""
    return choose(table, x, known, "compute", "--x")


def other_axes(table: Table, chosen: str, ignored: Sequence[str] = ()) -> list[Finding]:
    """Say which compute column was chosen where others could have been; nothing where there is no choice.

    Examples
    --------
    >>> table = Table("mine.csv", {"step": ["0", "9"], "hours": ["0", "1.5"], "accuracy": [".1", ".2"]}, [2, 3])
    >>> [f.message for f in other_axes(table, "step")]
    ['compute is step; hours could be it too (--x hours)']
    """
    low = {name.lower() for name in (*ignored, chosen)}
    others = [name for name in table.columns if name.lower() not in low and _COMPUTE_WORD.search(name.lower())]
    others = [name for name in others if _cumulative(table.columns[name])]
    if not others:
        return []
    shown = ", ".join(map(printable, others[:4])) + (", ..." if len(others) > 4 else "")
    return [finding("axis-chosen", f"compute is {chosen}; {shown} could be it too (--x {printable(others[0])})")]


def _cumulative(cells: Sequence[object]) -> bool:
    """Whether a column holds numbers that rise and never fall."""
    values = [v for v in map(number, cells) if v is None or not math.isnan(v)]
    known = [v for v in values if v is not None]
    return len(known) == len(values) > 1 and known[-1] > known[0] >= 0.0 and all(a <= b for a, b in pairwise(known))


def choose(table: Table, name: str | None, known: Sequence[str], what: str, option: str) -> str:
    """Return the column `name`, or the first of `known` that is there.

    Raises
    ------
    UserError
        That lists the columns and names the nearest one; a `ColumnError` where `name` is not there.
    """
    if name is not None and not name.strip():
        raise ColumnError(f"{table.where}: {option} is empty; name a column or leave {option} away")
    if name is not None and name in table.columns:
        return name
    there = [known_name for known_name in known if known_name in table.columns]
    if name is None and there:
        return there[0]
    columns = list(table.columns)
    asked = f"no column {name!r}" if name is not None else f"no {what} column ({', '.join(known)})"
    shown = ", ".join(name[:_LONG] for name in columns[:30])[:500] + (", ..." if len(columns) > 30 else "")
    near = _nearest([name] if name is not None else known, columns)
    hint = f"did you mean {option} {near}?" if near else f"choose one with {option}"
    kind = ColumnError if name is not None else UserError
    raise kind(f"{table.where}: {asked}; it has {printable(shown) or 'no named column'}; {hint}")


def _nearest(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    """The column most like one of `wanted`; a shared word (eval_acc, accuracy) counts most."""

    def likeness(column: str) -> float:
        low = column.lower()
        word = any(part[:3] in low.split("_") or part in low for w in wanted for part in w.lower().split("_"))
        return max(difflib.SequenceMatcher(None, low, w.lower()).ratio() for w in wanted) + 0.5 * word

    best = max((column for column in columns if len(column) <= _LONG), key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.5 else None
