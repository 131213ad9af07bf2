"""Read what verl prints: lines ``step:N - key:value - ...`` among everything else that its processes say.

Promises: only a line, or a worker's part of one, that begins with ``step:N - `` is a row; colours, Ray's prefixes and
numpy's names around numbers are taken off, and what another process glued behind the last value is left away. The
devices are those of the printed configuration, where it is there.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.readers.columns import Columns, Dropped
from analysis.readers.found import Found
from analysis.readers.printed import NUMBER, Alike, by_worker, cell, found_on_console, plain
from analysis.readers.textfile import TextFile, encoding_of, text_of

LOOKED_AT = 1 << 23  # bytes of a file in which a row must stand: much is printed before the first step
RATES = (
    re.compile(r"^val-core/.*/acc/mean@\d+$"),
    re.compile(r"^val-core/.*/reward/mean@\d+$"),
    re.compile(r"^val/test_score/"),
    re.compile(r"^val(?:-core|-aux)?/.*(?:acc(?:uracy)?|success_rate|score)(?:/mean)?(?:@\d+)?$"),
)
_ROW = re.compile(r"(?:^|(?:it/s|s/it)\])\s*step:(\d{1,15}) - (?=\S)")
_ROW_BYTES = re.compile(
    rb"(?:^|[\r\n]|\x1b\[[\d;]*m|pid=\d{1,9}\)) ?(?:\x1b\[[\d;]*m ?)*step:\d{1,15} - [^\s:]{1,200}:\S"
)
_GLUED = re.compile(rf"([^\s:][^:]*+):({NUMBER.pattern})", re.I)
_COULD_BE_ITS_DIGITS = tuple("%-/:.")  # ".15" and "55%|##" printed as one: where the number ends is not known
_SECTION = re.compile(r"^[ {]?'(\w+)': \{")
_COUNT = re.compile(r"'(n_gpus_per_node|nnodes)': (\d{1,6})\b")
_OVERRIDE = re.compile(r"(?<![\w.])\+?trainer\.(n_gpus_per_node|nnodes)=(\d{1,6})(?!\d)")


def recognise(path: Path, head: bytes) -> bool:
    """Whether a line ``step:N - key:value`` stands in the first megabytes of a file."""
    if not head or head.lstrip()[:2] in (b'{"', b"{\n"):
        return False
    try:
        with path.open("rb") as file:
            data = file.read(LOOKED_AT)
    except OSError:
        return False
    if encoding_of(head) != "utf-8-sig":
        data = text_of(data).encode("utf-8", errors="replace")
    return _ROW_BYTES.search(data.removeprefix(BOM_UTF8)) is not None


def read(path: Path) -> list[Found]:
    """Read the run of a console log of verl."""
    file, dropped, devices = TextFile(path), Dropped(), _Devices()
    columns, rows = Columns(file.size), Alike(_only_row)
    for line, text in file:
        if alike := rows.match(text):
            columns.add_figures(line, *alike)
            continue
        for part in by_worker(plain(text)) if "step:" in text or "\x1b" in text or "pid=" in text else (text,):
            if row := _row(part):
                columns.add(line, row)
                rows.learn(text, row)
            elif part.strip():
                dropped.add("prose")
                devices.look(part)
    like = "step:1 - key:value in it; verl prints them with logger=console"
    found = found_on_console(file, columns, dropped, known_as="verl-console", rates=RATES, like=like)
    header = {f"trainer.{name}": value for name, value in devices.said.items()}
    return [replace(found, devices=devices.count, header=header)]


def _only_row(text: str) -> dict[str, Any]:
    """The row of a line on which nothing else stands."""
    parts = by_worker(plain(text))
    return _row(parts[0]) if len(parts) == 1 else {}


def _row(text: str) -> dict[str, Any]:
    """The cells of a row; nothing where a text is none."""
    found = _ROW.search(text) if "step:" in text else None
    cells = _cells(text[found.end() :]) if found else {}
    return {"step": int(found[1]), **cells} if found and cells else {}


def _cells(text: str) -> dict[str, Any]:
    """The cells of ``key:value - key:value``; names may hold colons and spaces, values do not."""
    cells: dict[str, Any] = {}
    fields = text.split(" - ")
    for i, field in enumerate(fields):
        name, colon, value = field.strip().rpartition(":")
        if not colon or not name:
            continue
        value = value.strip()
        found = cell(value)
        if isinstance(found, str) and i == len(fields) - 1 and (glued := _GLUED.match(field.strip())):
            rest = field.strip()[glued.end() :]
            if rest == "%" or rest[:1] not in _COULD_BE_ITS_DIGITS:  # a progress bar begins where the value ends
                name, found = glued[1], cell(glued[2])
        cells[name] = found
    return cells if any(not isinstance(value, str) for value in cells.values()) else {}


class _Devices:
    """Devices by the configuration that verl prints, or by the options of its command."""

    def __init__(self) -> None:
        self.said: dict[str, int] = {}
        self._section = ""
        self._apart = False

    def look(self, text: str) -> None:
        """Look at a line that is no row."""
        if "'" in text:
            if found := _SECTION.match(text):
                self._section = found[1]
                self._apart |= found[1] == "rollout"
            elif text[:2] != "  " and not text.startswith("{"):
                self._section = ""
            if self._section == "trainer":
                self.said.update((name, int(value)) for name, value in _COUNT.findall(text))
        if "trainer.n" in text:
            for name, value in _OVERRIDE.findall(text):
                self.said.setdefault(name, int(value))

    @property
    def count(self) -> int | None:
        """Their number; None where it is not said, or generators have devices of their own."""
        each, nodes = self.said.get("n_gpus_per_node"), self.said.get("nnodes")
        return each * nodes if each and nodes and not self._apart else None
