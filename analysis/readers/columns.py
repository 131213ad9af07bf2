"""Gather the rows of a log into columns, in memory that its file's size bounds.

Promises: cells are kept as they came; a row is never lost; a column is left out only where a file names so many that
their empty cells would outgrow it, and that is counted. Deeply nested or listed cells are not numbers and are left out.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, known_figures, printable

DEPTH = 8  # levels of objects in objects that become names joined by "/"
ROOM = 1 << 20  # empty cells that any file may have
BLOCK = 4096  # rows
_NAMED = 5  # lines that a finding names


class Dropped:
    """Lines that are no row: how many of each kind, and where the first stand."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}

    def add(self, reason: str, line: int | None = None) -> None:
        """Count one; a line is remembered for reasons that are damage and not prose."""
        self.count[reason] += 1
        if line is not None and len(self._lines.setdefault(reason, [])) < _NAMED:
            self._lines[reason].append(line)

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding for the damaged lines."""
        if not self._lines:
            return ()
        said, total = [], 0
        for reason, lines in self._lines.items():
            number = self.count[reason]
            total += number
            said.append(f"{reason} (line {', '.join(map(str, lines))}{', ...' if number > len(lines) else ''})")
        what = f"{total} line{'s' if total > 1 else ''} left out: {'; '.join(said)}"
        return (finding("rows-dropped", what, float(total)),)


class Columns:
    """Rows of a file of `size` bytes, as columns.

    Examples
    --------
    >>> columns = Columns(100)
    >>> columns.add(1, {"step": 1, "eval": {"acc": 0.5}})
    >>> columns.add(2, {"step": 2})
    >>> columns.table("a.jsonl").columns
    {'step': [1, 2], 'eval/acc': [0.5, None]}
    """

    def __init__(self, size: int) -> None:
        self._room = max(ROOM, size // 4)
        self._columns: dict[str, list[Any]] = {}
        self._lines = array("q")
        self._names: dict[str, str] = {}
        self._filled = 0
        self._texts: dict[str, str] = {}
        self._alike: tuple[str, ...] = ()
        self._figures: list[tuple[str, ...]] = []
        self.left_out: set[str] = set()

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: int, row: Mapping[str, Any]) -> None:
        """Add a row: names to cells, objects inside it joined by ``/``."""
        self._settle()
        columns, i, filled = self._columns, len(self._lines), 0
        for name, value in row.items():
            kind = type(value)
            if kind is not float and kind is not int:
                if kind is dict:
                    self._filled += filled
                    self.add(line, flat(row))  # what is in place already is passed over
                    return
                if kind is str:
                    value = self._text(value)  # noqa: PLW2901
                elif kind is list and not all(type(item) in (int, float, bool) for item in value):
                    continue
            column = columns.get(name)
            if column is None:
                column = self._new(name, i)
                if column is None:
                    continue
            gap = i - len(column)
            if gap < 0:
                continue  # two names that are one when printed
            if gap:
                column.extend([None] * gap)
            column.append(value)
            filled += 1
        self._filled += filled
        self._lines.append(line)
        if not i & 4095:
            self._make_room()

    def add_figures(self, line: int, names: tuple[str, ...], figures: tuple[str, ...]) -> None:
        """Add a row of printed numbers, which are read together with those of other rows of the same names."""
        if names is not self._alike:
            self._settle()
            self._alike = names
        i = len(self._lines)
        self._figures.append(figures)
        self._lines.append(line)
        if not i & 511:
            self._settle()
        if not i & 4095:
            self._make_room()

    def _settle(self) -> None:
        """Read the numbers of the rows that wait."""
        rows, self._figures = self._figures, []
        begin = len(self._lines) - len(rows)
        for name, figures in zip(self._alike, zip(*rows, strict=True), strict=False):
            column = self._columns.get(name)
            if column is None:
                column = self._new(name, begin)
                if column is None:
                    continue
            column.extend([None] * (begin - len(column)))
            column.extend([int(text) if text.isdigit() and len(text) < 16 else float(text) for text in figures])
            self._filled += len(rows)

    def _text(self, value: str) -> str:
        """A text that is kept once, however many rows hold it, and that can be written."""
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            value = printable(value)
        return self._texts.setdefault(value, value) if len(self._texts) < 4096 else value

    def _new(self, name: str, i: int) -> list[Any] | None:
        """A column that begins at row `i`; none where there is no room for another."""
        if not name.isprintable():
            clean = self._names.setdefault(name, printable(name)) if len(self._names) < 4096 else printable(name)
            if clean in self._columns:
                return self._columns[clean]
            name = clean
        if len(name) > 300 or (i + 1) * (len(self._columns) + 1) - self._filled > self._room:
            if len(self.left_out) < 1000:
                self.left_out.add(name[:80])
            return None
        column = self._columns[name] = []
        return column

    def _make_room(self) -> None:
        """Leave out the columns with the fewest cells while the empty ones outgrow the file."""
        self._settle()
        rows = len(self._lines)
        if rows * len(self._columns) - self._filled <= self._room:
            return
        cells = {name: sum(cell is not None for cell in column) for name, column in self._columns.items()}
        for name in sorted(cells, key=lambda name: cells[name]):
            if rows * len(self._columns) - self._filled <= self._room:
                break
            self._filled -= cells[name]
            del self._columns[name]
            self.left_out.add(name)

    def table(self, where: str, *, cut: bool = False) -> Table:
        """Return all rows; none are taken after that."""
        self._make_room()
        count = len(self._lines)
        for column in self._columns.values():
            column.extend([None] * (count - len(column)))
        return Table(printable(where), self._columns, self._lines, cut)

    def findings(self) -> tuple[Finding, ...]:
        """Return a finding where columns were left out."""
        if not self.left_out:
            return ()
        first = ", ".join(printable(name) for name in sorted(self.left_out)[:3])
        what = f"{len(self.left_out)} columns that hold few cells are left out ({first}, ...)"
        return (finding("rows-dropped", what, float(len(self.left_out))),)


class Texts(Sequence[str]):  # noqa: PLW1641, it changes
    """The texts of a column in hardly more memory than they have in their file: joined, in blocks; none holds a null.

    Examples
    --------
    >>> column = Texts(["0.5", "", "n/a"])
    >>> column[2], list(column), column == ["0.5", "", "n/a"]
    ('n/a', ['0.5', '', 'n/a'], True)
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._blocks: list[str] = []
        self._last: list[str] = []  # those behind the last block, never none
        self._at, self._looked_at = -1, [""]
        self.extend(texts)

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts."""
        self._last.extend(texts)
        while len(self._last) > BLOCK:
            self._blocks.append("\0".join(self._last[:BLOCK]))
            del self._last[:BLOCK]

    def pop(self) -> str:
        """Take the last text away."""
        return self._last.pop()

    def __len__(self) -> int:
        return len(self._blocks) * BLOCK + len(self._last)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return list(self)[i]
        block, at = divmod(range(len(self))[i], BLOCK)
        if block == len(self._blocks):
            return self._last[at]
        if block != self._at:
            self._at, self._looked_at = block, self._blocks[block].split("\0")
        return self._looked_at[at]

    def __iter__(self) -> Iterator[str]:
        for block in self._blocks:
            yield from block.split("\0")
        yield from self._last

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def some_rows(table: Table, rows: Sequence[int]) -> Table:
    """Return some rows of a table, in the order given."""
    columns: dict[str, Sequence[Any]] = {}
    for name, cells in table.columns.items():
        at_hand = list(cells) if isinstance(cells, Texts) else cells
        column = [at_hand[i] for i in rows]
        columns[name] = Texts(column) if isinstance(cells, Texts) else column
    return Table(table.where, columns, [table.lines[i] for i in rows])


def flat(row: Mapping[str, Any], before: str = "", depth: int = DEPTH) -> dict[str, Any]:
    """Return a row without objects inside it: their names are joined to their own by ``/``.

    Examples
    --------
    >>> flat({"step": 1, "val": {"math": {"acc": 0.5}}})
    {'step': 1, 'val/math/acc': 0.5}
    """
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if type(value) is not dict:
            cells.setdefault(before + name, value)
        elif depth:
            for inner, cell in flat(value, f"{before}{name}/", depth - 1).items():
                cells.setdefault(inner, cell)
    return cells


def rates_of(columns: Mapping[str, Sequence[Any]], patterns: Sequence[re.Pattern[str]]) -> tuple[str, ...]:
    """Return the columns whose names match and whose numbers are fractions or percent, by pattern.

    Examples
    --------
    >>> rates_of({"acc": [None, 0.5], "acc_sum": [2.5, 0.5], "acc_percent": [50.0, 0.0]}, [re.compile("acc")])
    ('acc', 'acc_percent')
    """
    ranked: list[tuple[bool, int, int, str]] = []
    for name, cells in columns.items():
        rank = next((i for i, pattern in enumerate(patterns) if pattern.search(name)), None)
        numbers = known_figures(cells) if rank is not None else []
        if rank is None or not numbers:
            continue
        fraction = 0.0 <= min(numbers) <= max(numbers) <= 1.0
        if fraction or (all(c == 0.0 or 1.0 < c <= 100.0 for c in numbers) and max(numbers) > 3.0):
            ranked.append((not fraction, rank, len(ranked), name))
    return tuple(name for *_, name in sorted(ranked))
