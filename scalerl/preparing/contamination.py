"""Overlap with test prompts: the same prompt, nearly the same, or 13 words in a row.

Thirteen words in a row are the usual mark of contamination (Brown et al. 2020, appendix C). A test prompt of fewer
words counts where the whole of it, symbols included, stands in a row's prompt; below eight words it would stand in
many by chance, so there only the same or nearly the same prompt counts. Runs of 13 words that many of the rows share
(an instruction that all end with) are no sign of anything; the report lists them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scalerl.preparing.duplicates import Shingles, Signatures, common_grams, near_across
from scalerl.preparing.text import Tokens, gram_hashes, normalise, tokenise

WORDS = 13
FEWEST_WORDS = 8


class Hit(NamedTuple):
    """Prompt `row` overlaps with test prompt `test`; `kind` is same, near, words or whole."""

    row: int
    test: int
    kind: str
    detail: str = ""


def find_hits(
    texts: Sequence[str],
    tokens: Tokens,
    near: tuple[Shingles, Signatures, float] | None,
    tests: Sequence[str],
) -> tuple[list[Hit], list[tuple[str, int]]]:
    """Return for each contaminated text one hit, and the runs of 13 words that were ignored with their counts.

    Parameters
    ----------
    texts : sequence of str
        Normalised prompts; `tokens` are theirs.
    near : shingles and signatures of the texts and the threshold, optional
        Looks for near duplicates of test prompts, too.
    tests : sequence of str
        Test prompts as they stand in their files.
    """
    plain = [normalise(test) for test in tests]
    hits: dict[int, Hit] = {}
    known = {text: index for index, text in reversed(list(enumerate(plain)))}
    for row, text in enumerate(texts):
        if text in known:
            hits[row] = Hit(row, known[text], "same")
    test_tokens = tokenise(plain)
    if near is not None:
        shingles, signatures, threshold = near
        theirs = Shingles(test_tokens, common=shingles.common)
        pairs = near_across(shingles, signatures, theirs, theirs.signatures(), threshold)
        for row, test, similarity in sorted(pairs, key=lambda pair: -pair[2]):
            hits.setdefault(row, Hit(row, test, "near", f"similarity {similarity:.2f}"))
    found, ignored = _words_in_a_row(texts, tokens.words(), plain, test_tokens.words())
    for hit in [*found, *_whole_prompts(tokens, test_tokens)]:
        hits.setdefault(hit.row, hit)
    return [hits[row] for row in sorted(hits)], ignored


def _words_in_a_row(
    texts: Sequence[str], words: Tokens, plain: Sequence[str], test_words: Tokens
) -> tuple[list[Hit], list[tuple[str, int]]]:
    test_grams, test_positions = gram_hashes(test_words, WORDS)
    wanted, first = np.unique(test_grams, return_index=True)
    grams, positions = gram_hashes(words, WORDS)
    shared = np.flatnonzero(np.isin(grams, wanted))
    grams, rows = grams[shared], words.row_of(positions[shared])
    common = common_grams(grams, rows, len(texts))
    tests = test_words.row_of(test_positions[first])
    hits: dict[int, Hit] = {}
    ignored: dict[int, set[int]] = {}
    for gram, position, row in zip(grams, positions[shared], rows.tolist(), strict=True):
        if gram in common:
            ignored.setdefault(int(gram), set()).add(row)
        elif row not in hits:
            test = int(tests[np.searchsorted(wanted, gram)])
            hits[row] = Hit(row, test, "words", _words_at(texts[row], int(position - words.starts[row])))
    told = []
    for gram, holders in ignored.items():
        at = int(test_positions[first[np.searchsorted(wanted, np.uint64(gram))]])
        test = int(test_words.row_of(np.array([at]))[0])
        told.append((_words_at(plain[test], at - int(test_words.starts[test])), len(holders)))
    return list(hits.values()), sorted(told)


def _words_at(text: str, place: int) -> str:
    return " ".join(re.findall(r"\w+", text)[place : place + WORDS])


def _whole_prompts(tokens: Tokens, test_tokens: Tokens) -> list[Hit]:
    """Find test prompts of 8 to 12 words that stand whole in a row's prompt."""
    words = np.diff(test_tokens.words().starts)
    begins: dict[int, list[int]] = {}  # hash of the first eight tokens -> tests
    first_grams, places = gram_hashes(test_tokens, FEWEST_WORDS)
    for gram, place in zip(first_grams.tolist(), places.tolist(), strict=True):
        test = int(test_tokens.row_of(np.array([place]))[0])
        if place == test_tokens.starts[test] and FEWEST_WORDS <= words[test] < WORDS:
            begins.setdefault(gram, []).append(test)
    if not begins:
        return []
    grams, positions = gram_hashes(tokens, FEWEST_WORDS)
    hits = []
    for index in np.flatnonzero(np.isin(grams, np.array(list(begins), np.uint64))).tolist():
        start = int(positions[index])
        row = int(tokens.row_of(np.array([start]))[0])
        for test in begins[int(grams[index])]:
            whole = test_tokens.of(test)
            if np.array_equal(tokens.values[start : min(start + len(whole), tokens.starts[row + 1])], whole):
                hits.append(Hit(row, test, "whole"))
    return hits
