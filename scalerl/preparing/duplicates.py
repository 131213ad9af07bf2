"""Exact and near duplicates, in a way that does not depend on the order of the rows.

Near means: the Jaccard similarity of the sets of token 3-grams reaches a threshold. Pairs to compare are found by
MinHash (Broder 1997) in 20 bands of 5 values, signatures by `datasketch`; each found pair is then compared exactly, so
nothing is near that is not. What is found is a matter of chance: a pair at similarity s is missed with probability
(1 - s^5)^20, .0004 at .8. Grams that stand in many prompts (an instruction that all of them end with) count for
nothing, or short prompts with the same ending would all be near one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scalerl.preparing.text import Hashes, Tokens, gram_hashes, mix
from scalerl.runlog import UserError

GRAM = 3
BANDS, ROWS = 20, 5
COMMON_SHARE, COMMON_AT_LEAST = 0.02, 10
_MOST_IN_FULL = (
    64  # members of one bucket that are compared each with each; of a larger one, in a chain and to its first
)
_MOST_ACROSS = 16  # texts of one bucket of the other side that a text is compared with

Signatures = NDArray[np.uint64]
Pairs = NDArray[np.int64]


class Shingles:
    """The sets of token 3-grams of many texts, a gram at every token; the last two reach past the end."""

    def __init__(self, tokens: Tokens, common: Hashes | None = None) -> None:
        count = len(tokens.starts) - 1
        padded = np.zeros(len(tokens.values) + (GRAM - 1) * count, np.uint64)
        rows = np.repeat(np.arange(count, dtype=np.int32), np.diff(tokens.starts))
        padded[np.arange(len(rows)) + np.int64(GRAM - 1) * rows] = tokens.values
        grams, _ = gram_hashes(Tokens(padded, tokens.starts + (GRAM - 1) * np.arange(count + 1)), GRAM)
        self.common = common_grams(grams, rows, count) if common is None else common
        rare = ~np.isin(grams, self.common)
        rare |= ~np.bincount(rows, rare, count).astype(bool)[rows]  # a text of nothing but common grams keeps them
        self._grams = grams[rare]
        self._starts = np.concatenate([[0], np.cumsum(rare)])[tokens.starts]
        self._sets: dict[int, frozenset[int]] = {}

    def __len__(self) -> int:
        return len(self._starts) - 1

    def set_of(self, index: int) -> frozenset[int]:
        """Return the grams of one text."""
        if index not in self._sets:
            self._sets[index] = frozenset(self._grams[self._starts[index] : self._starts[index + 1]].tolist())
        return self._sets[index]

    def signatures(self) -> Signatures:
        """Return the MinHash values (texts, BANDS x ROWS)."""
        try:
            from datasketch import MinHash
        except ModuleNotFoundError as error:
            raise UserError(
                "near duplicates are looked for with datasketch, which is missing: "
                "pip install 'scalerl[data]', or leave them in by --near-duplicates off"
            ) from error
        signed = np.empty((len(self), BANDS * ROWS), np.uint64)
        texts = (
            (self._grams[start:end] >> np.uint64(32)).tolist()
            for start, end in zip(self._starts[:-1], self._starts[1:], strict=True)
        )
        for index, minhash in enumerate(MinHash.generator(texts, num_perm=BANDS * ROWS, hashfunc=int)):
            signed[index] = minhash.hashvalues
        return signed


def common_grams(grams: Hashes, rows: NDArray[np.signedinteger[Any]], count: int) -> Hashes:
    """Return the grams that stand in more than 2 % of `count` texts (and in more than 10)."""
    order = np.argsort(grams, kind="stable")  # the rows of one gram stay in order
    grams, rows = grams[order], rows[order]
    first = np.ones(len(grams), bool)  # of a gram in a text
    first[1:] = (grams[1:] != grams[:-1]) | (rows[1:] != rows[:-1])
    names, texts = np.unique(grams[first], return_counts=True)
    return names[texts > max(COMMON_AT_LEAST, COMMON_SHARE * count)]


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Return the share of the union that both sets have.

    Examples
    --------
    >>> jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 4}))
    0.5
    """
    shared = len(one & other)
    return shared / max(1, len(one) + len(other) - shared)


def near_pairs(shingles: Shingles, signatures: Signatures, threshold: float) -> Pairs:
    """Return the found pairs (i, j), i < j, of texts whose similarity reaches the threshold."""
    found = [
        np.sort(np.array(_pairs_of(bucket), np.int64).reshape(-1, 2), axis=1)
        for band in _band_keys(signatures)
        for bucket in _buckets(band)
    ]
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)
    agree = _agreement(signatures, signatures, pairs) >= threshold - 0.25  # six standard deviations below it
    pairs = pairs[agree]
    near = [jaccard(shingles.set_of(i), shingles.set_of(j)) >= threshold for i, j in pairs.tolist()]
    reached: Pairs = pairs[np.array(near, bool)]
    return reached


def near_across(
    mine: Shingles, my_signatures: Signatures, theirs: Shingles, their_signatures: Signatures, threshold: float
) -> list[tuple[int, int, float]]:
    """Return (i, j, similarity) for the found pairs of a text of mine and a text of theirs."""
    found = [np.empty((0, 2), np.int64)]
    for my_keys, their_keys in zip(_band_keys(my_signatures), _band_keys(their_signatures), strict=True):
        where: dict[int, list[int]] = {}
        for j, key in enumerate(their_keys.tolist()):
            where.setdefault(key, []).append(j)
        known = np.flatnonzero(np.isin(my_keys, their_keys)).tolist()
        pairs = [(i, j) for i in known for j in where[int(my_keys[i])][:_MOST_ACROSS]]
        found.append(np.array(pairs, np.int64).reshape(-1, 2))
    candidates = np.unique(np.concatenate(found), axis=0)
    candidates = candidates[_agreement(my_signatures, their_signatures, candidates) >= threshold - 0.25]
    rated = [(i, j, jaccard(mine.set_of(i), theirs.set_of(j))) for i, j in candidates.tolist()]
    return [(i, j, similarity) for i, j, similarity in rated if similarity >= threshold]


def components(count: int, pairs: Pairs) -> NDArray[np.int64]:
    """Return for each of `count` texts the number of the group it belongs to; a pair is in one group.

    Examples
    --------
    >>> components(4, np.array([[0, 2]])).tolist()
    [0, 1, 0, 2]
    """
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _band_keys(signatures: Signatures) -> Iterator[Hashes]:
    for band in range(BANDS):
        keys = np.zeros(len(signatures), np.uint64)
        for column in range(band * ROWS, (band + 1) * ROWS):
            keys = mix(keys + signatures[:, column])
        yield keys


def _buckets(keys: Hashes) -> Iterator[list[int]]:
    """Yield the members of each key that two or more texts have, in the order of the texts."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield order[start:end].tolist()


def _pairs_of(bucket: list[int]) -> list[tuple[int, int]]:
    if len(bucket) <= _MOST_IN_FULL:
        return [(i, j) for place, i in enumerate(bucket) for j in bucket[place + 1 :]]
    return [*((bucket[0], j) for j in bucket[1:]), *pairwise(bucket[1:])]


def _agreement(mine: Signatures, theirs: Signatures, pairs: Pairs) -> NDArray[np.float64]:
    """Return the share of equal MinHash values of each pair, an estimate of its similarity."""
    agreed = np.empty(len(pairs))
    for start in range(0, len(pairs), 10_000):
        i, j = pairs[start : start + 10_000].T
        agreed[start : start + 10_000] = (mine[i] == theirs[j]).mean(axis=1)
    return agreed
