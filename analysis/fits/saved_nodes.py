"""Checked values of a saved fit: each knows where it stands in the text, so that damage is one line that says where."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from scalerl.runlog import UserError

# Of a column; every other one is kept as objects.
KINDS = (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip


class Node:
    """A value of the text with the path that messages name."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def fail(self, wanted: str) -> NoReturn:
        shown = repr(self.value)
        raise UserError(f"not a saved fit: {self.where}: {shown[:40]}{'...' * (len(shown) > 40)} is not {wanted}")

    def __getitem__(self, key: str) -> Node:
        if key not in self.mapping():
            raise UserError(f"not a saved fit: {self.where} has no {key}")
        return Node(self.value[key], f"{self.where}.{key}")

    def mapping(self) -> dict[str, Any]:
        return dict(self.value) if isinstance(self.value, dict) else self.fail("an object")

    def items(self) -> list[tuple[str, Node]]:
        return [(key, self[key]) for key in self.mapping()]

    def list(self) -> list[Node]:
        if not isinstance(self.value, list):
            self.fail("a list")
        return [Node(v, f"{self.where}[{i}]") for i, v in enumerate(self.value)]

    def text(self) -> str:
        return self.value if isinstance(self.value, str) else self.fail("text")

    def flag(self) -> bool:
        return self.value if isinstance(self.value, bool) else self.fail("true or false")

    def number(self) -> float:
        value = self.value
        is_number = value in {"inf", "-inf"} if isinstance(value, str) else type(value) in {int, float}
        if not is_number or abs(value if type(value) is int else 0) > 2**1000:  # more than a float holds
            self.fail("a number")
        return float(value)

    def optional_number(self) -> float | None:
        return None if self.value is None else self.number()

    def optional_text(self) -> str | None:
        return None if self.value is None else self.text()

    def array(self, length: int | None = None, *, missing: bool = False) -> Any:
        """A column, of this length if it is said; with `missing` null stands for NaN in floats."""
        kind, values = self["kind"].text(), self["values"].list()
        if kind == "object":
            array: Any = np.empty(len(values), dtype=object)
            array[:] = [_uncoded(v.value) for v in values]
        elif kind in KINDS:
            if kind.startswith("float"):
                read: list[float] = [math.nan if missing and v.value is None else v.number() for v in values]
            else:
                read = [v.whole(kind) for v in values]
            shape = [n.whole("int64") for n in self["shape"].list()]
            if math.prod(shape) != len(values) or any(n < 0 for n in shape):
                self["shape"].fail(f"the shape of {len(values)} values")
            array = np.array(read, dtype=kind).reshape(shape)
        else:
            self["kind"].fail(f"one of {', '.join((*KINDS, 'object'))}")
        if length is not None and len(array) != length:
            raise UserError(f"not a saved fit: {self.where} has {len(array)} values where {length} belong")
        return array

    def whole(self, kind: str) -> int:
        if kind == "bool":
            return self.value if isinstance(self.value, bool) else self.fail("true or false")
        ends = np.iinfo(kind)
        if type(self.value) is not int or not ends.min <= self.value <= ends.max:
            self.fail("a whole number" if kind == "int64" else f"a whole number of kind {kind}")
        return int(self.value)


def _uncoded(value: Any) -> Any:
    """An entry of a column of objects as it was before `saved` wrote it."""
    if isinstance(value, list):
        return [_uncoded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["float"] and value["float"] in {"inf", "-inf", "nan"}:
        return float(value["float"])
    return {key: _uncoded(v) for key, v in value.items()}
