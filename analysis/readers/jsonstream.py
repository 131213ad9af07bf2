"""Read one large JSON document piece by piece: the members of its object, and the items of a list inside it.

Promises: what is held at a time is one value and a buffer; a value longer than `LONGEST` characters, a document that
breaks off and one nested too deep are one `UserError` with path and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from analysis.readers.textfile import TextFile
from scalerl.runlog import UserError

LONGEST = 1 << 24
_SPACE = re.compile(r"[ \t\r\n]*")
_DIGITS = 18  # of a whole number that is kept as one


class Pieces:
    """The text of a document, from the place that was read to on."""

    def __init__(self, file: TextFile) -> None:
        self._path = file.path
        self._blocks = file.blocks()
        self._buffer = ""
        self._at = 0
        self._line, self._counted = 1, 0

    def _more(self) -> bool:
        """Append at least as much as there is, so that asking again costs little."""
        self._count()
        parts = [self._buffer[self._at :]]
        wanted = max(1, len(parts[0]))
        while wanted > 0 and (block := next(self._blocks, "")):
            parts.append(block)
            wanted -= len(block)
        self._buffer, self._at, self._counted = "".join(parts), 0, 0
        return len(parts) > 1

    def _count(self) -> int:
        self._line += self._buffer.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def fail(self, what: str) -> NoReturn:
        """Raise the error of this place."""
        raise UserError(f"{self._path}:{self._count()}: not JSON: {what}")

    def peek(self) -> str:
        """Return the next character that is no space; none at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Step over one of the characters that are expected here, and return it."""
        found = self.peek()
        if not found or found not in expected:
            self.fail(f"{found!r} where {' or '.join(expected)} is expected" if found else "the file breaks off here")
        self._at += 1
        return found

    def value(self) -> Any:
        """Read one whole value."""
        if not self.peek():
            self.fail("the file breaks off here")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except RecursionError:
                self.fail("nested too deep")
            except ValueError as error:
                if len(self._buffer) - self._at <= LONGEST and self._more():
                    continue
                self.fail(getattr(error, "msg", None) or "a value cannot be read")
            if end < len(self._buffer) or not self._more():  # what follows may belong to a number
                self._at = end
                return value

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yield the items of the list that begins here, each with its line."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            self.peek()
            yield self._count(), self.value()
            if self.take(",]") == "]":
                return


def members(pieces: Pieces) -> Iterator[str]:
    """Yield the names in the object that a document is; the caller reads each value before the next."""
    if pieces.peek() == "\ufeff":
        pieces.take("\ufeff")
    pieces.take("{")
    if pieces.peek() == "}":
        pieces.take("}")
        return
    while True:
        name = pieces.value()
        if not isinstance(name, str):
            pieces.fail("a name is expected here")
        pieces.take(":")
        yield name
        if pieces.take(",}") == "}":
            return


def member(pieces: Pieces) -> Any:
    """Read the value of the name that was yielded last."""
    return pieces.value()


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS else float(text)


_DECODER = json.JSONDecoder(parse_int=_whole)
