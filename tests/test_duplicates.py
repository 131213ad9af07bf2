"""Near duplicates against plain sets, and contamination: what was put in is found, what is merely alike is not."""

# ruff: noqa: S311 - random rows, no secrets
from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.preparing.contamination import find_hits
from scalerl.preparing.duplicates import COMMON_AT_LEAST, Shingles, components, near_pairs
from scalerl.preparing.pipeline import Options, prepare_rows
from scalerl.preparing.text import gram_hashes, normalise, tokenise

WORDS = [f"word{n}" for n in range(3000)]


def plain_grams(text: str) -> set[tuple[str, ...]]:
    """Token 3-grams, written out: every token with the two that follow."""
    tokens = re.findall(r"\w+|[^\w\s]", text) + [""] * 2
    return {tuple(tokens[n : n + 3]) for n in range(len(tokens) - 2)}


def plain_jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def made_texts(seed: int, count: int = 150) -> list[str]:
    """Texts of random words, most of them followed by copies with a few words changed."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randrange(1, 60))
        texts.append(" ".join(words))
        for _ in range(rng.randrange(4)):
            words = [rng.choice(WORDS) if rng.random() < 0.04 else word for word in words]
            texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.95])
def test_the_pairs_found_are_those_of_plain_sets(threshold):
    texts = made_texts(seed=1)
    shingles = Shingles(tokenise(texts))
    assert not len(shingles.common)
    found = set(map(tuple, near_pairs(shingles, shingles.signatures(), threshold).tolist()))
    grams = [plain_grams(text) for text in texts]
    pairs = [(i, j) for j in range(len(texts)) for i in range(j)]
    true = {(i, j) for i, j in pairs if plain_jaccard(grams[i], grams[j]) >= threshold}
    assert found <= true and len(true) > 30
    missed = sum((1 - plain_jaccard(grams[i], grams[j]) ** 5) ** 20 for i, j in true)  # expected
    assert len(true - found) <= 2 + 3 * missed


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text("ab+ ½x", max_size=12), min_size=1, max_size=6), n=st.integers(1, 5))
def test_grams_lie_inside_one_text(texts, n):
    tokens = tokenise(texts)
    split = [re.findall(r"\w+|[^\w\s]", text) for text in texts]
    assert np.diff(tokens.starts).tolist() == [len(words) for words in split]
    hashes, positions = gram_hashes(tokens, n)
    expected = [tuple(words[at : at + n]) for words in split for at in range(len(words) - n + 1)]
    assert len(hashes) == len(expected) == len(positions)
    assert len(set(hashes.tolist())) == len(set(expected))
    names = dict(zip(hashes.tolist(), expected, strict=True))
    assert [names[h] for h in hashes.tolist()] == expected
    words = [[word for word in row if re.match(r"\w", word)] for row in split]
    assert np.diff(tokens.words().starts).tolist() == [len(row) for row in words]


def test_one_spelling_keeps_mathematics_apart():
    assert normalise("\uff21\uff22\u00a0 x²\n") == "ab x^2" != normalise("ab x2")
    assert normalise("x^2 + 3") != normalise("x^2 - 3")


def test_an_ending_that_all_share_makes_no_near_duplicates():
    ending = " let us think step by step and put the final answer into a box at the very end of the text if you please"
    texts = [f"what is {n} plus {7 * n % 1000}?{ending}" for n in range(200)]
    assert plain_jaccard(plain_grams(texts[0]), plain_grams(texts[1])) > 0.7
    shingles = Shingles(tokenise(texts))
    assert len(shingles.common) > 15
    assert not len(near_pairs(shingles, shingles.signatures(), 0.7))
    few = texts[:COMMON_AT_LEAST]  # so few that nothing is common
    shingles = Shingles(tokenise(few))
    assert len(set(components(len(few), near_pairs(shingles, shingles.signatures(), 0.7)).tolist())) == 1


def long_prompt(rng: random.Random, words: int = 40) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def prepare(tmp_path, rows: list[dict], **options):
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = prepare_rows(Options(inputs=(str(tmp_path / "raw.jsonl"),), **options), str(tmp_path / "out"))
    splits = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in report.splits}
    return report.content(), splits


def test_near_duplicates_go_if_numbers_and_answer_agree_and_else_share_a_split(tmp_path):
    rng = random.Random(0)
    rows, families = [], 40
    for family in range(families):
        text = long_prompt(rng)
        rows.append({"prompt": f"{text} has 5 legs", "answer": "20", "solution": "worked"})
        rows.append({"prompt": f"{text} had 5 legs", "answer": "20"})  # goes: it has fewer columns
        rows.append({"prompt": f"{text} has 6 legs", "answer": "24"})  # another problem
        rows.append({"prompt": f"{text} with 5 legs", "answer": f"other {family}"})  # another answer
    report, splits = prepare(tmp_path, rows, sizes=(0, 18, 12))
    gone = report["rejected"].pop("near_duplicate")
    assert not report["rejected"] and gone["count"] == families
    place = "{}:{}".format
    file = tmp_path / "raw.jsonl"
    assert {(row["row"], row["of"]) for row in gone["rows"]} == {
        (place(file, 4 * f + 2), place(file, 4 * f + 1)) for f in range(families)
    }
    where: dict[str, set[str]] = {}
    for name, items in splits.items():
        for item in items:
            where.setdefault(item["prompt"].split()[0] + item["prompt"].split()[1], set()).add(name)
    assert len(where) == families and all(len(names) == 1 for names in where.values())
    assert report["near_groups"] == {"groups": families, "prompts": 3 * families, "largest": 3}
    assert len(splits["eval"]) == 18 and len(splits["test"]) == 12


def test_one_prompt_with_two_answers_is_taken_from_neither(tmp_path):
    rows = [{"prompt": f"{n} + 1", "answer": str(n + 1)} for n in range(30)]
    rows += [{"prompt": "5 + 1", "answer": "$6$"}, {"prompt": "6 + 1", "answer": "8"}]
    report, _ = prepare(tmp_path, rows)
    assert {reason: entry["count"] for reason, entry in report["rejected"].items()} == {
        "conflicting_answers": 2,
        "duplicate": 1,
    }


def test_off_leaves_near_duplicates_in(tmp_path):
    text = long_prompt(random.Random(0))
    rows = [{"prompt": f"{text} {n % 2} {'again' * (n > 9)}", "answer": "1"} for n in range(20)]
    report, _ = prepare(tmp_path, [{**row, "prompt": f"{row['prompt']} {n}"} for n, row in enumerate(rows)], near=None)
    assert not report["rejected"] and report["near_groups"]["groups"] == 0


def test_contamination_is_found_by_kind_and_its_report_names_both_rows(tmp_path):
    rng = random.Random(3)
    tests = [long_prompt(rng) for _ in range(5)] + [
        "Which of these nine small numbers is a prime - or a square?",
        "2 + 2?",
    ]
    fresh = [{"prompt": long_prompt(rng), "answer": "1"} for _ in range(40)]
    near = tests[1].split()
    near[3] = "other"
    bad = [
        (tests[0].upper(), "same", 1),
        (" ".join(near), "near", 2),
        (f"{long_prompt(rng)} {' '.join(tests[2].split()[5:18])} {long_prompt(rng)}", "words", 3),
        (f"Now then: {tests[5]} Say it.", "whole", 6),
        ("2 +   2?", "same", 7),
    ]
    innocent = [
        f"{long_prompt(rng)} {' '.join(tests[2].split()[5:17])} {long_prompt(rng)}",  # twelve words only
        f"Now then: {tests[5].replace('-', '+')} Say it.",  # another symbol
        "Ann asks: 2 + 2? Or is it 3?",  # too short a test prompt to be looked for inside
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"problem": text}) + "\n" for text in tests) + "{}\n")
    rows = fresh + [{"prompt": text, "answer": "1"} for text, _, _ in bad]
    rows += [{"prompt": text, "answer": "1"} for text in innocent]
    report, _ = prepare(tmp_path, rows, decontaminate=(str(tmp_path / "test.jsonl"),))
    listed = {(row["row"], row["of"], row["how"]) for row in report["rejected"].pop("contaminated")["rows"]}
    assert listed == {
        (f"{tmp_path}/raw.jsonl:{41 + n}", f"{tmp_path}/test.jsonl:{test}", kind)
        for n, (_, kind, test) in enumerate(bad)
    }
    assert not report["rejected"]
    assert report["unread_tests"] == [{"row": f"{tmp_path}/test.jsonl:8", "reason": "missing_prompt"}]
    told = report["contamination"][0]
    assert (told["rows_hit"], told["by"]) == (5, {"same": 2, "near": 1, "words": 1, "whole": 1})


def test_words_that_many_rows_share_are_no_contamination_and_are_listed():
    ending = "let us think step by step and put the final answer into a box please"
    rng = random.Random(0)
    texts = [f"{long_prompt(rng)} {ending}" for _ in range(60)]
    tests = [f"{long_prompt(rng)} {ending}"]
    hits, ignored = find_hits(texts, tokenise(texts), None, tests)
    assert not hits and {rows for _, rows in ignored} == {60}
    assert {words for words, _ in ignored} == {" ".join(ending.split()[n : n + 13]) for n in range(3)}
    few = texts[:COMMON_AT_LEAST]
    hits, ignored = find_hits(few, tokenise(few), None, tests)
    assert {hit.kind for hit in hits} == {"words"} and len(hits) == COMMON_AT_LEAST and not ignored
    assert all(hit.detail in ending for hit in hits)
