"""pass@k against exact fractions and every subset; majority by hand; intervals by simulation and by formulas."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.passk import covered
from scalerl.passk import majority, over_prompts, pass_at_k, powers


def test_pass_at_k_is_the_closed_form_to_the_last_bits():
    for n in (1, 2, 7, 16, 33):
        for c in range(n + 1):
            for k in range(1, n + 1):
                exact = 1 - Fraction(comb(n - c, k), comb(n, k))
                assert pass_at_k(c, n, k) == pytest.approx(float(exact), rel=1e-14, abs=0)


def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_right_one():
    for n in range(1, 9):
        for c in range(n + 1):
            right = [i < c for i in range(n)]
            for k in range(1, n + 1):
                held = [any(chosen) for chosen in combinations(right, k)]
                assert pass_at_k(c, n, k) == pytest.approx(sum(held) / len(held), rel=1e-14, abs=0)


def test_pass_at_k_of_a_huge_sample_stays_a_number():
    assert pass_at_k(1, 10**5, 7) == pytest.approx(7e-5, rel=1e-9)
    assert pass_at_k(50_000, 10**5, 100) == 1.0
    for wrong in ((-1, 4, 2), (5, 4, 2), (1, 4, 0), (1, 4, 5)):
        with pytest.raises(ValueError, match="pass_at_k"):
            pass_at_k(*wrong)


def test_the_ks_double_and_end_at_k():
    assert [powers(k) for k in (1, 2, 3, 4, 16)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 8, 16]]


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 1.0),
        (["7", "8", "8"], [True, False, False], 0.0),
        (["7", "8"], [True, False], 0.5),
        (["8", "7"], [False, True], 0.5),
        (["7", "7", "8", "8", "9"], [True, True, False, False, False], 0.5),
        ([None, None, "7"], [False, False, True], 1.0),
        ([None, None], [False, False], 0.0),
    ],
)
def test_the_majority_counts_answers_and_a_tie_counts_its_right_share(answers, right, expected):
    assert majority(answers, right) == expected


def test_with_one_completion_a_prompt_the_interval_is_nearly_wilsons():
    values = [1.0] * 37 + [0.0] * 63
    score = over_prompts(values)
    wilson = stats.binomtest(37, 100).proportion_ci(method="wilson")
    assert score.value == pytest.approx(0.37)
    assert (score.lo, score.hi) == (pytest.approx(wilson.low, abs=0.003), pytest.approx(wilson.high, abs=0.003))
    assert score.lo < wilson.low
    assert score.hi > wilson.high


def test_far_from_the_ends_the_interval_is_students():
    values = [0.25, 0.5, 0.75] * 200
    score = over_prompts(values)
    t = stats.ttest_1samp(values, 0.5).confidence_interval(0.95)
    assert (score.lo, score.hi) == (pytest.approx(t.low, abs=2e-4), pytest.approx(t.high, abs=2e-4))


def test_where_all_prompts_agree_the_interval_is_that_of_a_share_never_seen():
    never = over_prompts([0.0] * 50)
    assert never.hi == pytest.approx(stats.beta.ppf(0.95, 1, 50))  # Clopper and Pearson, one-sided
    assert never.lo == 0.0
    half = over_prompts([0.5] * 50)
    assert half.value == 0.5
    assert half.hi - half.lo == pytest.approx(never.hi)
    assert over_prompts([1.0]).lo == pytest.approx(0.05)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_limits_hold_the_mean_and_stay_within_0_and_1(counts):
    score = over_prompts([c / 4 for c in counts])
    assert 0.0 <= score.lo <= score.value <= score.hi <= 1.0
    assert score.lo < score.hi


@pytest.mark.parametrize("case", [0, 3, 4, 7])
def test_the_interval_holds_the_truth_as_often_as_it_says(case):
    """300 repetitions: below 275 is a chance of 1 in 1,000 at 95 %. Plain t fails cases 3 and 7."""
    low = int(stats.binom.ppf(0.001, 300, 0.95))
    _, ours, plain = covered(case, 300, seed=1)
    assert ours * 300 >= low
    if case in (3, 7):
        assert plain * 300 < low
