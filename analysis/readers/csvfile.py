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
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, number, printable
from analysis.readers.found import Found
from analysis.readers.labels import label_of_path, parts_of
from scalerl.runlog import UserError, read_regular

# Spreadsheets save "Unicode text" this way. The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))

# Words in the name of a column that may be compute: cumulative columns that carry one are named beside the chosen one.
_COMPUTE_WORD = re.compile(
    r"(?:^|[^a-z])(?:gpus?|cpus?|hours?|hrs?|h|seconds?|secs?|s|time|wall|walltime|tokens?|flops?|compute|steps?|"
    r"epochs?|iterations?|iters?|updates?|samples?|examples?)(?![a-z])"
)


STEPS = ("step", "global_step", "_step", "training_step", "iteration", "update", "trainer/global_step")


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
    return [
        Found(label, part, path, sha256, "table", step=step_of(part), findings=said)
        for label, part in parts_of(table, label_of_path(path))
    ]


def step_of(table: Table) -> str | None:
    """Return the column of the training step, by its name."""
    return next((name for known in STEPS for name in table.columns if name.strip().lower() == known), None)


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
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        shown = encoding.upper().removesuffix("-SIG")
        raise UserError(f"{path}: not a text file in {shown} (byte {error.start}); save it as CSV in UTF-8") from error
    if "\0" in text and data[:200].count(0) * 3 >= len(data[:200]):
        raise UserError(
            f"{path}: not a text file in UTF-8, but like UTF-16 or UTF-32 unmarked; save it as CSV in UTF-8"
        )
    if "\0" in text:
        raise UserError(f"{path}: not a text file (it holds null bytes); give a CSV file or a run folder")
    lines, rows = _rows(path, text)
    names = [name.strip() for name in rows[0]]
    if len(rows) == 1:
        raise UserError(f"{path}: a header and no rows (columns: {', '.join(names)})")
    cut = len(rows) > 2 and _is_cut(text, rows)
    lines, rows = (lines[:-1], rows[:-1]) if cut else (lines, rows)
    taken = Counter(names)
    columns = {
        # a short row reads as empty cells there; a name that stands twice is left out, since neither can be meant
        name: [row[i] if i < len(row) else "" for row in rows[1:]]
        for i, name in enumerate(names)
        if taken[name] == 1 and name
    }
    return data, Table(printable(str(path)), columns, lines[1:], cut)


def _is_cut(text: str, rows: Sequence[Sequence[str]]) -> bool:
    """Whether the last line was still being written: no line end, and cells missing or a last one shorter than all."""
    if text.endswith(("\n", "\r")):
        return False
    *whole, last = rows[1:]
    usual = max(map(len, whole))
    if len(last) != usual:
        return len(last) < usual
    return len(whole) > 2 and len(last[-1].strip()) < min(len(row[-1].strip()) for row in whole if len(row) == usual)


def _rows(path: Path, text: str) -> tuple[list[int], list[list[str]]]:
    """Non-empty rows and the line on which each ends."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines, rows = [], []
    begin = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(reader.line_num)
                rows.append(row)
            begin = reader.line_num + 1
    except csv.Error as error:
        what = "a quote opens and does not close" if "unexpected end" in str(error) else str(error)
        raise UserError(f"{path}:{begin}: not CSV: {what}") from error
    return lines, rows


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
    shown = ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "")
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

    best = max(columns, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.5 else None
