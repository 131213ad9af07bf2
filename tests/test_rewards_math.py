"""Answers by math-verify agree with a table checked by hand; where they do not, it says so here by name."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from scalerl.rewards import exact, mathematics

with (Path(__file__).parent / "data" / "math_pairs.csv").open(newline="") as file:
    PAIRS = [(row["reference"], row["completion"], row["right"] == "right") for row in csv.DictReader(file)]

# Where math-verify says otherwise than the hand: it rounds to six decimals, and does not read periods of decimals.
DISAGREES = {(r"\frac{1}{3}", r"\boxed{0.333333}"), (r"\frac{1}{3}", r"\boxed{0.\overline{3}}")}


def test_the_table_is_large_and_tricky_both_ways():
    assert len({pair[:2] for pair in PAIRS}) == len(PAIRS) >= 200
    assert sum(not right for *_, right in PAIRS) >= 80 and sum(right for *_, right in PAIRS) >= 80


def test_every_pair_is_judged_as_by_hand_but_for_those_named():
    wrong = {
        (reference, completion)
        for reference, completion, right in PAIRS
        if mathematics.score({"answer": reference}, completion) is not right
    }
    assert wrong == DISAGREES


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (r"\boxed{3} would be wrong, so \boxed{4}", True),  # the last one counts, and it alone
        (r"\boxed{4}, \boxed{3}", False),
        (r"4, or \boxed{4", False),  # cut off: nobody knows what would have followed
        (r"\boxed{}", False),
        ("", False),
        ("4" * 5000, False),
        (r"\boxed{\frac{8}{2}} \$ \} {", True),
        ("\ud800 \\boxed{4}", True),
    ],
)
def test_which_answer_counts(completion, right):
    assert mathematics.score({"answer": "4"}, completion) is right


@pytest.mark.parametrize(
    "reference", ["10 000", "$10 000$", r"\boxed{10 000}", r"So it is \boxed{10 000}.", "10000", "10,000"]
)
def test_a_blank_between_thousands_is_none_in_a_reference_either(reference):
    for completion in (
        r"\boxed{10 000}",
        r"\boxed{10000}",
        r"\boxed{10,000}",
        r"\boxed{10\,000}",
        "The answer is 10000.",
    ):
        assert mathematics.score({"answer": reference}, completion), completion
    for completion in (r"\boxed{10}", r"\boxed{0}", r"\boxed{(10, 0)}", "The answer is 10."):
        assert not mathematics.score({"answer": reference}, completion), completion


def test_a_reference_that_cannot_be_read_is_no_fault_of_the_completion():
    with pytest.raises(ValueError, match="the reference answer '  ' cannot be read"):
        mathematics.score({"answer": "  "}, "4")


@pytest.mark.parametrize(
    ("answer", "completion", "right"),
    [
        ("New York", " new \n YORK ", True),
        ("straße", "STRASSE", True),
        ("New York", "NewYork", False),
        ("42", "42.", False),
        ("42", "", False),
    ],
)
def test_exact_forgives_case_and_white_space_only(answer, completion, right):
    assert exact.score({"answer": answer}, completion) is right
    assert exact.score({"answer": "-", "answers": ["other", answer]}, completion) is right
