"""Read a printed Python dict of numbers and texts without evaluating it: TRL, OpenRLHF and SkyRL print such ones.

Promises: time and memory grow with the length of the text only; nothing is evaluated, imported or called; what is not
a dict with quoted names is None. A list, a dict or a call as a value is stepped over and is no cell.
"""

from __future__ import annotations

import re

from analysis.readers.printed import cell

_TEXT = r"'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\""
_NAME = re.compile(rf"\s*+({_TEXT})\s*+:\s*+", re.S)
_VALUE = re.compile(
    rf"({_TEXT}|[^\s,{{}}\[\]()'\"]++(?:\([^,{{}}\[\]()'\"]*+(?:,[^{{}}\[\]()]*+)?\))?)\s*+(?=[,}}])", re.S
)
_HARD = re.compile(r"[\"\\\[\](){]")
_NEXT = re.compile(r"\s*+([,}])")
_STEP = re.compile(rf"{_TEXT}|[\[({{]|[\])}}]|[^\[\](){{}}'\"]++", re.S)
_OPEN, _CLOSE = frozenset("[({"), frozenset("])}")


def parse(text: str, at: int = 0) -> tuple[dict[str, object], int] | None:
    """Return the dict that begins at a place of a text, and where it ends; None where there is none.

    Examples
    --------
    >>> parse("{'loss': '0.5', 'reward': np.float64(0.125), 'ids': [1, 2], 'note': None} and more")
    ({'loss': 0.5, 'reward': 0.125, 'note': None}, 73)
    >>> parse("{not: a dict}") is None
    True
    """
    if not text.startswith("{", at):
        return None
    if (quick := _quick(text, at)) is not None:
        return quick
    cells: dict[str, object] = {}
    at += 1
    while True:
        named = _NAME.match(text, at)
        if named is None:
            closed = _NEXT.match(text, at)  # behind a last comma
            return (cells, closed.end()) if closed and closed[1] == "}" and cells else None
        name, at = _unquoted(named[1]), named.end()
        if found := _VALUE.match(text, at):
            cells[name] = cell(_unquoted(found[1]) if found[1][0] in "'\"" else found[1])
            end: int | None = found.end()
        else:
            end = _past(text, at)
        after = None if end is None else _NEXT.match(text, end)
        if after is None:
            return None
        at = after.end()
        if after[1] == "}":
            return cells, at


def _quick(text: str, at: int) -> tuple[dict[str, object], int] | None:
    """A dict whose names and texts hold no quotes and whose values no brackets, as nearly all are."""
    end = text.find("}", at)
    inner = text[at + 1 : end]
    if end < 0 or inner[:1] != "'" or _HARD.search(inner):
        return None
    cells: dict[str, object] = {}
    for pair in inner[1:].split(", '"):
        name, colon, value = pair.partition("': ")
        if value[:1] == "'":
            if value.count("'") != 2 or value[-1] != "'":
                return None
            value = value[1:-1]
        elif "'" in value or "," in value or ":" in value or not value:
            return None
        if "'" in name or not colon:
            return None
        cells[name] = cell(value)
    return cells, end + 1


def _past(text: str, at: int) -> int | None:
    """Where a value ends that has brackets."""
    depth = 0
    while found := _STEP.match(text, at):
        if found[0] in _OPEN:
            depth += 1
        elif found[0] in _CLOSE:
            if depth == 0:
                return at
            depth -= 1
            if depth == 0:
                return found.end()
        elif depth == 0 and found[0].strip():
            return at + found[0].index(",") if "," in found[0] else found.end() if _opens(text, found.end()) else None
        at = found.end()
    return None


def _opens(text: str, at: int) -> bool:
    return text[at : at + 1] in _OPEN


def _unquoted(text: str) -> str:
    """A text without its quotes; what is escaped stays so, but for quotes."""
    inner = text[1:-1]
    return inner.replace("\\'", "'").replace('\\"', '"') if "\\" in inner else inner
