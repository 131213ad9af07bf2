"""Read consoles of other loops: ``[Step 1/300] loss=0.3 reward=0.5``, ``step: 3, loss: 0.3``, and the dicts that
OpenRLHF and SkyRL print behind a step.

Promises: a line is a row only where all that stands behind its step is names and numbers; prose, however many numbers
it has, is counted and left out. Nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.readers.columns import Columns, Dropped
from analysis.readers.found import Found
from analysis.readers.printed import (
    NAME,
    NUMBER,
    Alike,
    Figures,
    by_worker,
    cell,
    console_text,
    found_on_console,
    plain,
)
from analysis.readers.pythondict import parse
from analysis.readers.textfile import TextFile

RATES = (
    re.compile(r"^eval/all/(?:pass_at_1|avg_score)$"),  # SkyRL
    re.compile(r"^eval/.*/(?:pass_at_1|avg_score)$"),
    re.compile(r"^eval_.*_pass1$"),  # OpenRLHF
    re.compile(r"^(?:eval|val|test)[/_-]?.*(?:acc(?:uracy)?|pass(?:_rate|@1)|correct|solved?)$", re.I),
)
# A step may stand behind what loggers put before a line: a date, a level, a place in the code.
_STEP = re.compile(
    r"(?<![A-Za-z])(?:step|iter(?:ation)?|update)\b[ ]{0,4}[:=#]?[ ]{0,4}"
    r"(\d{1,15})(?:[ ]?/[ ]?(\d{1,15}))?\]?[ ]{0,4}[:|,-]{0,2}(?:(?=[ ]|$)|(?<=[,|])(?=\w))",
    re.I,
)
_BEFORE = re.compile(
    r"(?:(?:.{0,300}[\]|>)]|.{0,300}:\d{1,6}:?|.{0,300} -|.{0,200}\b(?:INFO|DEBUG|WARNING|SUCCESS)\b.{0,120})\s?)?"
    r"\W{0,4}(?:global[ _]|train(?:ing)?[ _])?",
    re.I | re.S,
)
_SPLIT = re.compile(r"(?<![\w./:])(train(?![ _]?$)|eval|evaluation|val|valid|validation|test)(?![\w./:])", re.I)
_EVALUATED = re.compile(r"\bglobal_step (\d{1,15}), eval_metrics: (?=\{)")
_BETWEEN = re.compile(r"\s{0,8}+[|,;]\s{0,8}|\s{1,8}-\s{1,8}|\s{1,8}(?=[A-Za-z_][\w./@%-]*+=)")
_PAIR = re.compile(r"([A-Za-z_][\w./@%()-]*+(?: [\w./@%()-]{1,40}+){0,3}?)\s?[=:]\s?(\S.{0,80})")
_UNITS = re.compile(r"(?: ?(?:s|ms|sec|seconds|tok/s|tokens/s|it/s|GB|MB|%))?$")
_LONGEST = 1 << 18  # characters of one printed dict
_LOOKED_AT = 1 << 21


def recognise(path: Path, head: bytes) -> bool:
    """Whether lines with a step and nothing but names and numbers stand in the first megabytes of a file."""
    text = console_text(path, head, _LOOKED_AT)
    if not text or text.count("\0") * 10 > len(text):
        return False
    rows = _rows(((i, line) for i, line in enumerate(re.split(r"[\r\n]", text), start=1)), Dropped())
    first, second = next(rows, None), next(rows, None)
    return second is not None or (first is not None and len(first[1]) > 3)


def read(path: Path) -> list[Found]:
    """Read the run of a console log."""
    file, dropped = TextFile(path), Dropped()
    columns = Columns(file.size)
    for line, row in _rows(file, dropped):
        if isinstance(row, tuple):
            columns.add_figures(line, *row)
        else:
            columns.add(line, row)
    like = "[Step 1/300] loss=0.3 reward=0.5 in it"
    return [found_on_console(file, columns, dropped, known_as="console", rates=RATES, like=like)]


def _rows(
    lines: Iterator[tuple[int, str]] | TextFile, dropped: Dropped
) -> Iterator[tuple[int, dict[str, Any] | Figures]]:
    """The rows with their lines; a dict that goes on over several lines is put together again."""
    begun: tuple[int, int] | None = None  # line and step of an open dict
    parts: list[str] = []
    size = 0
    rows = Alike(_row)
    for line, text in lines:
        for part in by_worker(plain(text)):
            bare = part.strip()
            if not bare:
                continue
            if begun is not None and bare[:1] in "{'\"":
                parts.append(bare)
                size += len(bare)
                if bare.endswith("}"):
                    if parsed := parse(" ".join(parts)):
                        yield begun[0], {"step": begun[1], **parsed[0]}
                    begun = None
                elif size > _LONGEST:
                    begun = None
                continue
            found = _STEP.search(bare[:400])
            if found is not None and found.start() > 1 and not _BEFORE.fullmatch(bare[: found.start()]):
                found = None
            split = _SPLIT.search(bare[: found.start()]) if found is not None else None
            evaluated = _EVALUATED.search(bare) if "eval_metrics" in bare else None
            if evaluated is not None and (parsed := parse(bare, evaluated.end())):
                yield line, {"step": int(evaluated[1]), **parsed[0]}
            elif found is None:
                dropped.add("prose")
            elif split is not None and (row := _row(bare[found.start() :])):
                yield line, {"split": split[1].lower(), **row}
            elif alike := rows.match(text := bare[found.start() :]):
                yield line, alike
            elif found.end() == len(bare):
                begun, parts, size = (line, int(found[1])), [], 0
            elif row := _row(text):
                yield line, row
                rows.learn(text, row)
            else:
                dropped.add("prose")


def _row(text: str) -> dict[str, Any]:
    """The cells of a text that begins with a step; nothing where it is no row."""
    found = _STEP.match(text)
    cells = _cells(text[found.end() :].strip()) if found else {}
    if found is None or not cells:
        return {}
    total = {} if found[2] is None else {"total_steps": int(found[2])}
    return {"step": int(found[1]), **total, **cells}


def _cells(text: str) -> dict[str, Any]:
    """The cells of names and numbers; nothing where anything else stands between them."""
    if text.startswith("{"):
        parsed = parse(text)
        return parsed[0] if parsed and not text[parsed[1] :].strip() else {}
    cells: dict[str, Any] = {}
    fields = text.split()
    for field in fields if text.count("=") == len(fields) else ():  # the quick way through nearly all such lines
        name, _, value = field.partition("=")
        number = cell(value)
        if not isinstance(number, (int, float)) or not NAME.fullmatch(name):
            break
        cells[name] = number
    else:
        if cells:
            return cells
    cells = {}
    for field in _BETWEEN.split(text):
        if not field:
            continue
        pair = _PAIR.fullmatch(field.strip())
        if pair is None:
            return {}
        cells[pair[1]] = found = cell(pair[2])
        if isinstance(found, str):
            start = NUMBER.match(found)
            if start is None or not _UNITS.fullmatch(found[start.end() :]):
                return {}
            if found.endswith("%"):
                percent = cell(start[0])
                cells[pair[1]] = percent / 100.0 if isinstance(percent, (int, float)) else found
            # other units stay: one line may say 40ms and the next 1.2s
    numbers = sum(isinstance(value, (int, float)) for value in cells.values())
    return cells if numbers > 1 or (numbers and "=" in text) else {}
