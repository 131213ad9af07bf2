"""Text as the duplicates and the contamination see it: one spelling, tokens, and hashes of them as arrays."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_TOKEN = re.compile(r"\w+|[^\w\s]")
# NFKC would turn x squared into x2: written as powers first.
_POWERS = str.maketrans({power: f"^{digit}" for digit, power in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})


class Tokens(NamedTuple):
    """Token hashes of many texts end to end; text i is ``values[starts[i]:starts[i + 1]]``.

    The lowest bit of a hash is 1 for a word or number and 0 for a symbol.
    """

    values: Hashes
    starts: NDArray[np.int64]

    def words(self) -> Tokens:
        """Return the words alone, without symbols."""
        is_word = (self.values & np.uint64(1)).astype(bool)
        before = np.concatenate([[0], np.cumsum(is_word)])
        return Tokens(self.values[is_word], before[self.starts])

    def of(self, index: int) -> Hashes:
        """Return the tokens of one text."""
        return self.values[self.starts[index] : self.starts[index + 1]]

    def row_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which text each position belongs to."""
        return np.searchsorted(self.starts, positions, side="right") - 1


def normalise(text: str) -> str:
    """Return a text in one spelling: Unicode NFKC, no case, single spaces. Symbols stay: they carry mathematics.

    Examples
    --------
    >>> normalise("  Find X² + 1\\n")
    'find x^2 + 1'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_POWERS))
    return " ".join(text.casefold().split())


def digest(text: str, seed: int = 0) -> bytes:
    """Return a 16-byte hash of a text that is the same everywhere."""
    return hashlib.blake2b(text.encode(), digest_size=16, salt=seed.to_bytes(8, "little")).digest()


def tokenise(texts: Iterable[str]) -> Tokens:
    """Split normalised texts into words, numbers and single symbols, and hash these.

    Examples
    --------
    >>> tokens = tokenise(["x + 1", "1+x", ""])
    >>> tokens.starts.tolist(), len(tokens.words().values)
    ([0, 3, 6, 6], 4)
    """
    known = _Known()
    parts, lengths = [np.empty(0, np.uint64)], [0]
    for text in texts:
        tokens = _TOKEN.findall(text)
        parts.append(np.fromiter(map(known.__getitem__, tokens), np.uint64, len(tokens)))
        lengths.append(len(tokens))
    return Tokens(np.concatenate(parts), np.cumsum(lengths))


class _Known(dict[str, int]):
    """Hashes of tokens, computed once each; Python's own `hash` of a text differs between processes."""

    def __missing__(self, token: str) -> int:
        value = int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little") & ~1
        value |= token[0].isalnum() or token[0] == "_"
        self[token] = value
        return value


def gram_hashes(tokens: Tokens, n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of all n-grams that lie inside one text, and the positions where they start."""
    count = len(tokens.values) - n + 1
    if count < 1:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes = np.zeros(count, np.uint64)
    for shift in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + tokens.values[shift : shift + count]
    left = np.repeat(tokens.starts[1:], np.diff(tokens.starts))[:count] - np.arange(count)  # tokens to the text's end
    inside = np.flatnonzero(left >= n)
    return mix(hashes[inside]), inside


def mix(hashes: Hashes) -> Hashes:
    """Spread hashes over all 64 bits (the finaliser of splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
