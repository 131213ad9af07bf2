"""A run that peaks and falls is told from one that only rises, or has one bad evaluation, at every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

import analysis as an
from analysis.curves.curve import R
from analysis.fits import decays
from tests.made import ar1, as_run, values


def codes(found):
    return [f.code for f in found]


def rising(n=40, sd=0.01, rho=0.0, seed=0):
    C = np.linspace(0.0, 10.0, n)
    return C, R(C, 0.1, 0.6, 3.0, 1.0) + ar1(n, sd, rho, seed)


def fitted(C, y):
    return values(an.fit(as_run(C, y), level=None))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("n", [25, 60])
def test_a_collapse_is_found_and_the_peak_is_offered(share, n):
    C, y = rising(n)
    y = y - np.where(np.arange(n) >= share * n, 0.3, 0.0)
    found = decays.decay(C, y, fitted(C, y))
    assert codes(found) == ["decay"] and C[int(share * n) - 1] * 0.5 < found[0].figure <= C[math.ceil(share * n) - 1]
    to = float(found[0].message.split("--to ")[1].rstrip(")"))
    assert found[0].figure <= to and np.count_nonzero(to >= C) == np.count_nonzero(found[0].figure >= C)


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_a_slow_decay_is_found(rate):
    C, y = rising(60)
    y = y - rate * np.maximum(C - 4.0, 0.0)
    found = decays.decay(C, y, fitted(C, y))
    assert codes(found) == ["decay"] and 2.5 < found[0].figure < 5.5


def test_one_bad_evaluation_is_no_collapse_and_two_at_the_end_are():
    C, y = rising(40)
    for place in (20, 39):
        one = y - np.where(np.arange(40) == place, 0.3, 0.0)
        assert decays.decay(C, one, fitted(C, one)) == []
    two = y - np.where(np.arange(40) >= 38, 0.3, 0.0)
    assert codes(decays.decay(C, two, fitted(C, two))) == ["decay"]


def test_a_collapse_needs_a_quarter_of_the_range_and_ten_points():
    def falls_by(share, n=40):
        y = np.r_[np.linspace(0.0, 1.0, n // 2), np.ones(n - n // 2)]
        y[-2:] -= share
        return decays.collapse(0.1 + 0.5 * y + ar1(n, 1e-5))

    assert falls_by(0.27) == pytest.approx(0.135, abs=0.01) and falls_by(0.24) is None
    assert falls_by(0.9, n=10) is not None and falls_by(0.9, n=9) is None
    flat = np.r_[np.full(20, 0.3), np.full(20, 0.309)]
    assert decays.collapse(np.r_[flat, np.full(9, 0.2995)] + ar1(49, 1e-5)) is None  # under a point of pass rate
    assert decays.collapse(np.r_[flat + 0.002, np.full(9, 0.2995)] + ar1(49, 1e-5)) is not None


@pytest.mark.parametrize(("second", "found"), [(0.11, True), (0.09, False)])
def test_the_whole_end_must_have_fallen(second, found):
    """Two evaluations that fall by x and .3: x must be half of their mean fall, which is at x = .1."""
    y = np.r_[np.linspace(0.1, 0.6, 20), np.full(20, 0.6)]
    y[-2:] -= [second, 0.3]
    assert (decays.collapse(y + ar1(40, 1e-6)) is not None) == found


def collapses(fallen, *, n=20, drop=0.06, rho=0.0):
    """Of 200 runs that gain .1 in noise of .02, how many are said to collapse when their last evaluations drop."""
    C = np.linspace(0.0, 10.0, n)
    y = R(C, 0.1, 0.2, 2.0, 2.0) - drop * (np.arange(n) >= n - fallen)
    return sum(decays.collapse(y + ar1(n, 0.02, rho, seed)) is not None for seed in range(200))


def test_a_drop_must_stand_far_above_the_noise_that_the_run_shows():
    assert collapses(0, n=60, rho=0.5) <= 8  # correlated noise wanders, and no wander is a collapse
    assert collapses(0, n=60) == 0
    assert collapses(2, rho=0.5) >= 80  # three standard deviations, twice, are seen about every second time


@pytest.mark.parametrize(("fallen", "n", "least"), [(4, 20, 75), (6, 60, 110)])
def test_a_fifth_or_a_tenth_that_has_fallen_shows_where_two_evaluations_would_drown(fallen, n, least):
    assert collapses(fallen, n=n) >= least


def test_a_collapse_needs_a_rise_before_it():
    y = np.linspace(0.8, 0.2, 40) + ar1(40, 1e-4)
    assert decays.collapse(y) is None
    C = np.linspace(0.0, 8.0, 40)
    falls = {"R0": 0.7, "A": 0.2, "B": 1.8, "C_mid": 2.0}
    for seed in range(20):
        assert decays.decay(C, R(C, **falls) + ar1(40, 0.01, seed=seed), falls) == []


@pytest.mark.parametrize(("drop", "found"), [(0.0105, True), (0.0095, False)])
def test_a_plateau_that_falls_by_less_than_a_point_is_level(drop, found):
    C = np.geomspace(0.1, 100.0, 60)
    values = {"R0": 0.1, "A": 0.6, "B": 4.0, "C_mid": 0.5}
    curve = np.asarray(R(C, **values))
    level = curve >= curve[0] + 0.9 * (curve[-1] - curve[0])
    t = np.log(C[level])
    y = curve.copy()
    y[level] = 0.6 - drop * (t - t[0]) / np.ptp(t) + ar1(int(level.sum()), 1e-5)
    got = decays.falling_plateau(C, y, values)
    assert (got is not None) == found and (not found or got == pytest.approx(drop, abs=2e-4))


def test_the_level_of_a_falling_plateau_is_one_in_a_hundred():
    C = np.geomspace(1.0, 100.0, 5)
    values = {"R0": 0.1, "A": 0.6, "B": 9.0, "C_mid": 1e-3}  # level from the first point on

    def p_value(size):
        y = 0.6 - 0.05 * np.arange(5) + size * np.array([1.0, -1.0, 0.0, -1.0, 1.0])
        fit = scipy.stats.linregress(np.log(C), y, alternative="less")
        return float(fit.pvalue), decays.falling_plateau(C, y, values)

    sizes = np.linspace(0.001, 0.2, 400)
    for p, drop in map(p_value, sizes):
        assert (drop is not None) == (p <= 0.01), p
    falls = np.array([0.6, 0.55, 0.499, 0.45])
    assert decays.falling_plateau(C[:4], falls, values) and not decays.falling_plateau(C[:3], falls[:3], values)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_runs_that_only_rise_are_rarely_called_decaying(rho):
    called = sum(
        bool(decays.decay(*rising(60, 0.01, rho, seed), {"R0": 0.1, "A": 0.6, "B": 3.0, "C_mid": 1.0}))
        for seed in range(200)
    )
    assert called <= 6


# ---- the peak, and a slide behind it


def test_a_lucky_evaluation_is_not_the_peak():
    y = np.r_[np.linspace(0.1, 0.6, 30), np.full(10, 0.6)]
    y[20] += 0.5
    assert decays.peak(y) >= 29


def test_a_peak_may_last_an_eighth_of_the_run():
    y = np.r_[np.linspace(0.1, 0.59, 10), np.full(5, 0.6), np.linspace(0.3, 0.5, 25)]
    assert 10 <= decays.peak(y) <= 14


STEEP = {"R0": 0.1, "A": 0.9, "B": 50.0, "C_mid": 40.0}  # a fitted curve that never levels, so that no plateau is tried


def peaked(place, wiggle=0.0, fall=0.1, n=40):
    """A rise to the peak at a place, a tenth of the run near it, and a line down by less than a quarter of the rise."""
    C = np.arange(1.0, n + 1.0)
    y = np.r_[np.linspace(0.1, 0.6, place), 0.62, np.full(n - place - 1, 0.6)]
    behind = place + 1 + n // 10
    t = np.log(C[behind:])
    y[behind:] -= fall * (t - t[0]) / np.ptp(t) - wiggle * (-1.0) ** np.arange(n - behind)
    return C, y, behind


def test_a_slide_behind_the_peak_is_said_if_chance_gives_it_in_one_of_a_thousand_runs():
    ps = []
    for wiggle in np.linspace(0.005, 0.03, 400):
        C, y, behind = peaked(19, wiggle, fall=0.05)
        ps.append(scipy.stats.linregress(np.log(C[behind:]), y[behind:], alternative="less").pvalue)
        assert codes(decays.decay(C, y, STEEP)) == ["decay"] * int(ps[-1] <= 0.001), ps[-1]
    between = np.histogram(ps, [0.0, 0.0005, 0.001, 0.002, 1.0])[0]
    assert (between > 0).all()  # half and twice the level lie among what was tried


@pytest.mark.parametrize(("place", "found"), [(29, True), (30, False)])
def test_a_slide_needs_six_evaluations_beyond_the_tenth_of_the_run_at_the_peak(place, found):
    C, y, behind = peaked(place, 1e-4)
    assert len(C) - behind == (6 if found else 5)
    said = decays.decay(C, y, STEEP)
    assert codes(said) == ["decay"] * found and (not found or said[0].figure == C[place])
