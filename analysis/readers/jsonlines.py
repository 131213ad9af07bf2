"""Read JSON lines: one flat or nested object a line with a step or a compute column, as own training loops write them.

Promises: no line is lost without being counted under a reason and a line number; half a last line is left out as one
that is still being written. Nothing is evaluated; what is too deep, too long or named twice in one object is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.columns import Columns, Dropped, flat, rates_of
from analysis.readers.found import STEPS, Found, step_of
from analysis.readers.labels import Label, label_of_path, parts_of
from analysis.readers.textfile import TextFile, text_of
from scalerl.runlog import COMPUTE_AXES, UserError

Row = dict[str, Any]
RATES = (
    re.compile(r"^(?:eval|val|test|validation)[/_-].*(?:pass_?rate|accuracy|acc$|pass(?:@|_at_)1$)", re.I),
    re.compile(r"^(?:eval|val|test|validation)[/_-].*(?:correct|solve|success)", re.I),
    re.compile(r"^(?:eval_?|val_?|test_?)?(?:pass_rate|accuracy|acc)$", re.I),
)
_PROMPTS = frozenset({"prompt", "completion", "messages", "question", "answer", "response", "text", "problem"})
_AXES = frozenset((*STEPS, *COMPUTE_AXES, "tokens", "num_tokens", "total_tokens", "_runtime", "runtime", "epoch"))
_PLAIN_NAMES = frozenset({"metrics", "metric", "log", "logs", "history", "train", "training", "results", "trainer_log"})
_ENDS = frozenset({"", "\n", "\r\n"})
_DIGITS = 18  # of a whole number that is kept as one


def recognise(path: Path, head: bytes) -> bool:  # noqa: ARG001, every format has the two
    """Whether a file holds JSON objects, one a line, with a step or a compute column."""
    rows = rows_of_head(head)
    return any(_is_row(flat(row)) for row in rows) and not any(_PROMPTS & row.keys() for row in rows)


def read(path: Path) -> list[Found]:
    """Read the runs of a file of JSON lines, told apart by columns ``recipe``, ``seed`` or ``run``."""
    file, dropped = TextFile(path), Dropped()
    columns = Columns(file.size)
    for line, row in objects(file, dropped):
        columns.add(line, row)
    table = columns.table(str(path), cut=bool(dropped.count["half a last line"]))
    if not table.lines:
        raise UserError(f"{path}:1: no JSON object in it; one object a line is read")
    step = step_of(table.columns)
    findings = (*dropped.findings(), *columns.findings(), *said_of_cut(table.cut, len(table.lines)))
    return [
        Found(
            label=label,
            table=part,
            path=path,
            sha256=file.sha256,
            format="jsonl",
            step=step,
            rates=rates_of(part.columns, RATES),
            findings=findings,
            dropped=dict(dropped.count),
        )
        for label, part in parts_of(table, label_of_log(path))
    ]


def objects(file: TextFile, dropped: Dropped) -> Iterator[tuple[int, Row]]:
    """Yield the objects of a file with their lines; count what is none.

    Parameters
    ----------
    file : TextFile
    dropped : Dropped
        Counts "not JSON", "not an object", "nested too deep", "a name stands twice", "half a last line", "too long".
    """
    scan = _DECODER.raw_decode
    last: tuple[str, int] | None = None
    for line, text in file:
        if last is not None:
            dropped.add(*last)
            last = None
        if not text or text.isspace():
            continue
        try:
            row, end = scan(text, 0) if text[0] == "{" else (_DECODER.decode(text), len(text))
            if text[end:] not in _ENDS and not text[end:].isspace():
                raise ValueError("more behind the object")
        except _TwiceError:
            dropped.add("a name stands twice", line)
        except RecursionError:
            dropped.add("nested too deep", line)
        except ValueError:
            last = ("not JSON", line)  # unless it is the last and still being written
        else:
            if type(row) is dict and row:
                if not text.isascii() and _broken(text):
                    dropped.add("not text in UTF-8", line)
                else:
                    yield line, row
            else:
                dropped.add("not an object", line)
    if last is not None:
        dropped.add("half a last line" if file.cut else last[0], None if file.cut else last[1])
    if file.too_long:
        dropped.count["too long"] += file.too_long


def rows_of_head(head: bytes, most: int = 40) -> list[Row]:
    """Return the objects on the first lines of a file, where each of these lines is one; none otherwise."""
    if not head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(b"{"):
        return []
    rows, bad = [], 0
    lines = [line for line in text_of(head).split("\n")[: most + 1] if line.strip()]
    for line in lines[:most]:
        try:
            row = _DECODER.decode(line.strip())
        except (ValueError, RecursionError):
            row = None
        if type(row) is dict and row:
            rows.append(row)
        else:
            bad += 1
    return rows if bad * 3 <= len(lines) else []


def said_of_cut(cut: bool, rows: int) -> Sequence[Finding]:
    """Return the finding that a last line is cut."""
    what = f"the last line of the file has no end and is cut; the {rows} rows before it are used"
    return [finding("log-cut", what)] if cut else []


def label_of_log(path: Path) -> Label:
    """Return the label of a log: from its name, or its folder where the name is one that every run has.

    Examples
    --------
    >>> label_of_log(Path("/runs/grpo_seed3/metrics.jsonl"))
    Label(name='grpo_seed3', recipe='grpo', seed=3)
    """
    folder = path.resolve().parent
    plain = path.stem.lower() in _PLAIN_NAMES and folder.name
    return label_of_path(folder.with_name(f"{folder.name}.log") if plain else path)


def _is_row(row: Row) -> bool:
    names = {name.lower() for name in row}
    numbers = [name for name, value in row.items() if type(value) in (int, float)]
    return (bool(_AXES & names) and len(numbers) > 1) or ("step" in names and len(row) > 1 and _holds_numbers(row))


def _holds_numbers(row: Row) -> bool:
    inner = [value for value in row.values() if isinstance(value, dict)]
    return any(type(value) in (int, float) for one in inner for value in one.values())


def _broken(text: str) -> bool:
    """Whether bytes did not decode, or half a character was escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class _TwiceError(ValueError):
    """One object names a key twice, with two values."""


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        for name, value in pairs:
            if row[name] != value and not (row[name] != row[name] and value != value):  # noqa: PLR0124, two NaN are one
                raise _TwiceError(name)
    return row


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS else float(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)
