"""Every doubt is raised by a run that deserves it and not by its neighbour just inside the threshold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import analysis as an
from analysis import decays, doubts, misfits
from analysis.curve import R
from analysis.findings import CODES, finding
from analysis.leastsquares import Optimum, default_box
from analysis.results import Param
from scalerl.runlog import UserError

TRUE = {"R0": 0.12, "A": 0.74, "B": 1.8, "C_mid": 2.0}


def codes(found):
    return [f.code for f in found]


def noise(n, sd=0.01, rho=0.0, seed=0):
    e = np.random.default_rng(seed).normal(0.0, 1.0, n)
    for i in range(1, n):
        e[i] = rho * e[i - 1] + math.sqrt(1.0 - rho**2) * e[i]
    return sd * e


# ---- findings


def test_a_finding_has_the_severity_of_its_code_unless_told():
    assert finding("misfit", "x").severity == CODES["misfit"][0] == "warning"
    assert finding("correlated-residuals", "x", severity="note").severity == "note"


# ---- points


@pytest.mark.parametrize(
    ("n", "distinct", "code"),
    [
        (3, 3, "no-fit"),
        (9, 3, "no-fit"),
        (4, 4, "no-interval"),
        (5, 4, "few-points"),
        (7, 7, "few-points"),
        (8, 8, None),
    ],
)
def test_how_many_points_are_few(n, distinct, code):
    assert codes(doubts.of_points(n, distinct, 4)) == ([code] if code else [])


def test_a_row_that_stands_twice_is_a_doubt_and_two_evaluations_at_one_compute_are_none():
    C, y = np.array([0.0, 1.0, 2.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.31, 0.4])
    assert doubts.of_rows(C, y) == []
    twice = doubts.of_rows(np.r_[C, 1.0], np.r_[y, 0.2])
    assert codes(twice) == ["rows-duplicated"] and twice[0].figure == 1.0 and "compute 1;" in twice[0].message


def test_a_table_joined_to_its_copy_is_called_that_in_any_order():
    C, y = np.arange(3.0), np.array([0.1, 0.2, 0.3])
    for order in (np.arange(6), np.array([3, 0, 5, 1, 4, 2])):
        whole = doubts.of_rows(np.tile(C, 2)[order], np.tile(y, 2)[order])
        assert codes(whole) == ["concatenated"] and whole[0].figure == 2.0
    assert codes(doubts.of_rows(np.tile(C, 2)[:5], np.tile(y, 2)[:5])) == ["rows-duplicated"]
    assert codes(doubts.of_rows(np.tile(C[:2], 2), np.tile(y[:2], 2))) == ["rows-duplicated"]


def test_mixed_units_are_refused_at_reading(tmp_path):
    file = tmp_path / "mixed.csv"
    file.write_text("gpu_hours,accuracy\n0,0.5\n1,0.55\n2,60\n3,65\n")
    with pytest.raises(UserError, match="neither fractions nor clearly percent"):
        an.read(file)


# ---- optimum and intervals


def optimum(**values):
    v = {**TRUE, **values}
    return Optimum(np.array([v["R0"], v["A"], math.log(v["B"]), math.log(v["C_mid"])]), 1.0, np.zeros(2)), v


@pytest.mark.parametrize(("last", "early"), [(3.99, True), (4.0, False)])
def test_twice_C_mid_is_where_the_ceiling_begins_to_show(last, early):
    best, values = optimum()
    found = doubts.of_optimum(best, default_box(np.linspace(0, 4, 9)), values, last, "gpu_hours")
    assert codes(found) == ["not-past-midpoint"] * early
    assert not early or (found[0].figure == pytest.approx(last / 2) and "2 C_mid = 4 gpu_hours" in found[0].message)


def test_a_falling_curve_has_no_ceiling_to_miss():
    best, values = optimum(R0=0.8, A=0.3)
    assert doubts.of_optimum(best, default_box(np.linspace(0, 4, 9)), values, 1.0, "gpu_hours") == []
    assert codes(doubts.falling(values)) == ["falling-curve"] and doubts.falling(TRUE) == []
    assert doubts.falling({**TRUE, "A": TRUE["R0"]}) == []


@pytest.mark.parametrize(("away", "on_edge"), [(0.0, True), (0.9e-6, True), (1.1e-6, False), (1e-3, False)])
def test_what_counts_as_on_the_edge(away, on_edge):
    box = default_box(np.linspace(0, 4, 9))
    best, values = optimum(A=1.0 - away)
    assert codes(doubts.of_optimum(best, box, values, 9.0, "x")) == ["at-bound"] * on_edge
    assert doubts.of_optimum(best, box.fix(1, float(best.theta[1])), values, 9.0, "x") == []  # held, not driven there


def test_open_limits_are_named_and_a_held_parameter_has_none():
    closed, open_, held = (
        Param(1.0, 0.5, 2.0, True),
        Param(1.0, 0.5, None, False),
        Param(1.0, None, None, False, fixed=True),
    )
    assert doubts.of_intervals({"A": closed, "R0": held}) == []
    found = doubts.of_intervals({"A": open_, "B": Param(1.0, None, None, False), "R0": held})
    assert codes(found) == ["open-interval"] and "A (upper), B (lower and upper)" in found[0].message
    assert found[0].figure == 2.0


def test_flat_is_no_better_than_a_constant_by_the_F_test():
    y = np.array([0.30, 0.32, 0.29, 0.31, 0.30, 0.32, 0.31, 0.29])
    around = float(((y - y.mean()) ** 2).sum())
    critical = scipy.stats.f.isf(0.01, 3, 4)
    sse = around / (1.0 + critical * 3 / 4)
    assert codes(doubts.flat(y, sse * 1.001, 4)) == ["flat-curve"] and doubts.flat(y, sse * 0.999, 4) == []
    assert doubts.flat(y, sse * 1.001, 4)[0].figure == pytest.approx(0.01, rel=0.01)
    assert doubts.flat(np.sort(y), around * 0.999, 4) == []  # a plain trend says that there is a change


# ---- correlation


def residual_with(rho_hat, n=40):
    """Residuals whose lag-1 autocorrelation is this one to the last digits."""
    base, other = np.ones(n), np.cos(np.pi * np.arange(n))  # autocorrelations near 1 and -1, orthogonal for even n
    low, high = 0.0, 0.5 * np.pi

    def lag(angle):
        r = np.cos(angle) * base + np.sin(angle) * other
        return float(r[1:] @ r[:-1]) / float(r @ r), r

    for _ in range(100):
        angle = 0.5 * (low + high)
        low, high = (angle, high) if lag(angle)[0] > rho_hat else (low, angle)
    return lag(angle)[1]


@pytest.mark.parametrize(("rho", "warned"), [(0.301, True), (0.299, False), (-0.9, False)])
def test_from_which_correlation_on_the_interval_is_too_narrow(rho, warned):
    found = doubts.of_residuals(residual_with(rho))
    assert codes(found) == ["correlated-residuals" if warned else "independent-noise"]
    assert found[0].severity == ("warning" if warned else "note") and found[0].figure == pytest.approx(rho)
    accounted = doubts.of_residuals(residual_with(rho), accounts=True, rho=0.414)
    assert codes(accounted) == ["correlated-residuals"] * warned
    if warned:
        assert accounted[0].severity == "note" and accounted[0].figure == 0.414
        assert accounted[0].message == "residuals are correlated (rho .41); the interval accounts for it"


def test_few_residuals_do_not_show_a_correlation():
    assert codes(doubts.of_residuals(np.ones(8))) == ["correlated-residuals"]
    few = doubts.of_residuals(np.ones(7))
    assert codes(few) == ["independent-noise"] and few[0].figure is None
    assert doubts.of_residuals(np.ones(7), accounts=True) == []


def test_one_seed_has_no_variance_between_seeds():
    assert codes(doubts.one_seed(1)) == ["one-seed"] and doubts.one_seed(2) == []
    assert doubts.one_seed(1, 0.02)[0].figure == 0.02


# ---- decay


def rising(n=40, sd=0.01, rho=0.0, seed=0):
    C = np.linspace(0.0, 10.0, n)
    return C, R(C, 0.1, 0.6, 3.0, 1.0) + noise(n, sd, rho, seed)


def fitted(C, y):
    run = an.Run("m", "m", None, {"gpu_hours": C, "pass_rate": y}, ("gpu_hours",), (), Path("none"), "")
    return {name: p.value for name, p in an.fit(run, level=None).params.items()}


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
        return decays.collapse(0.1 + 0.5 * y + noise(n, 1e-5))

    assert falls_by(0.27) == pytest.approx(0.135, abs=0.01) and falls_by(0.24) is None
    assert falls_by(0.9, n=10) is not None and falls_by(0.9, n=9) is None
    flat = np.r_[np.full(20, 0.3), np.full(20, 0.309)]
    assert decays.collapse(np.r_[flat, np.full(9, 0.2995)] + noise(49, 1e-5)) is None  # under a point of pass rate
    assert decays.collapse(np.r_[flat + 0.002, np.full(9, 0.2995)] + noise(49, 1e-5)) is not None


@pytest.mark.parametrize(("second", "found"), [(0.11, True), (0.09, False)])
def test_the_whole_end_must_have_fallen(second, found):
    """Two evaluations that fall by .3 and x: x must be half of their mean fall, which is at x = .1."""
    y = np.r_[np.linspace(0.1, 0.6, 20), np.full(20, 0.6)]
    y[-2:] -= [0.3, second]
    assert (decays.collapse(y + noise(40, 1e-6)) is not None) == found


def test_a_collapse_needs_a_rise_before_it():
    y = np.linspace(0.8, 0.2, 40) + noise(40, 1e-4)
    assert decays.collapse(y) is None
    C = np.linspace(0.0, 8.0, 40)
    falls = {"R0": 0.7, "A": 0.2, "B": 1.8, "C_mid": 2.0}
    for seed in range(20):
        assert decays.decay(C, R(C, **falls) + noise(40, 0.01, seed=seed), falls) == []


@pytest.mark.parametrize(("drop", "found"), [(0.0105, True), (0.0095, False)])
def test_a_plateau_that_falls_by_less_than_a_point_is_level(drop, found):
    C = np.geomspace(0.1, 100.0, 60)
    values = {"R0": 0.1, "A": 0.6, "B": 4.0, "C_mid": 0.5}
    curve = np.asarray(R(C, **values))
    level = curve >= curve[0] + 0.9 * (curve[-1] - curve[0])
    t = np.log(C[level])
    y = curve.copy()
    y[level] = 0.6 - drop * (t - t[0]) / np.ptp(t) + noise(int(level.sum()), 1e-5)
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
    assert decays.falling_plateau(C[:3], np.array([0.6, 0.5, 0.4]), values) is None


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_runs_that_only_rise_are_rarely_called_decaying(rho):
    called = sum(
        bool(decays.decay(*rising(60, 0.01, rho, seed), {"R0": 0.1, "A": 0.6, "B": 3.0, "C_mid": 1.0}))
        for seed in range(200)
    )
    assert called <= 6


# ---- misfit


def test_replicates_give_the_classical_lack_of_fit():
    rng = np.random.default_rng(0)
    C = np.repeat(np.arange(1.0, 9.0), 3)
    y, curve = rng.normal(0.5, 0.01, 24), np.full(24, 0.5)
    test = misfits.lack_of_fit(C, y, curve, 2)
    means = y.reshape(8, 3).mean(axis=1)
    F = 3 * ((means - 0.5) ** 2).sum() / 6 / (((y.reshape(8, 3) - means[:, None]) ** 2).sum() / 16)
    assert math.isclose(test.F, F) and (test.between, test.within) == (6, 16)
    assert test.p == pytest.approx(scipy.stats.f.sf(F, 6, 16))
    assert misfits.lack_of_fit(np.arange(9.0), y[:9], curve[:9], 2) is None
    assert misfits.lack_of_fit(C, y, curve, 8) is None


def gompertz(C):
    return 0.1 + 0.6 * np.exp(-np.exp(-1.5 * np.log(np.maximum(C, 1e-9) / 2.0)))


def test_another_law_is_a_misfit_and_this_one_is_none():
    C = np.linspace(0.1, 10.0, 100)
    for law, expected in ((gompertz, ["misfit"]), (lambda C: R(C, **TRUE), [])):
        y = law(C) + noise(100, 0.003)
        found = misfits.misfit(C, y, fitted(C, y))
        assert codes(found) == expected
        assert not expected or 0.002 < found[0].figure < 0.02


def test_correlated_noise_is_rarely_called_a_misfit():
    called = 0
    for seed in range(150):
        C = np.linspace(0.2, 10.0, 60)
        residual = noise(60, 0.01, 0.7, seed)
        found = misfits._structure(residual, misfits.gradient(C, **TRUE))
        called += found[0] <= misfits.MISFIT_LEVEL
    assert called <= 5


def test_a_misfit_too_small_to_matter_or_of_too_few_points_is_none():
    C = np.linspace(0.2, 10.0, 60)
    bend = np.cos(np.pi * 5 * (np.arange(60) + 0.5) / 60)
    for size, said in ((0.0024, True), (0.0034, True), (0.002, False)):  # a cosine has an RMS of .71 of its size
        y = R(C, **TRUE) + size * bend + noise(60, 1e-4)
        assert bool(misfits.misfit(C, y, TRUE)) == (said and size * 0.7 > misfits.MISFIT_SIZE)
    for n, said in ((12, True), (11, False)):
        C = np.linspace(0.2, 10.0, n)
        wave = 0.1 * np.cos(np.pi * 3 * (np.arange(n) + 0.5) / n)
        assert bool(misfits.misfit(C, R(C, **TRUE) + wave + noise(n, 1e-5), TRUE)) == said


def test_replicates_by_design_are_tested_against_each_other():
    C = np.repeat(np.linspace(0.5, 10.0, 10), 3)
    y = R(C, **TRUE) + noise(30, 0.003)
    assert misfits.misfit(C, y, TRUE) == []
    wavy = misfits.misfit(C, y + 0.02 * np.sin(3 * C), TRUE)
    assert codes(wavy) == ["misfit"] and wavy[0].message.startswith("replicates")


@pytest.mark.parametrize(("repeated", "by_design"), [(5, True), (4, False)])
def test_half_of_the_computes_evaluated_again_are_a_design(repeated, by_design):
    places = np.linspace(0.5, 10.0, 10)
    C = np.sort(np.r_[places, np.repeat(places[:repeated], 3)])
    found = misfits.misfit(C, R(C, **TRUE) + 0.03 * np.sin(3 * C) + noise(len(C), 1e-3), TRUE)
    assert any(f.message.startswith("replicates") for f in found) == by_design


# ---- noise that grows, outliers


@pytest.mark.parametrize(("n", "found"), [(60, True), (20, True), (19, False)])
def test_noise_that_grows_is_found(n, found):
    fit = np.full(n, 0.5)
    residual = np.where(np.arange(n) % 2, 0.01, -0.01) * np.linspace(0.2, 4.0, n) ** 2
    said = misfits.noise_grows(residual, fit)
    assert codes(said) == ["noise-grows"] * found
    if found:
        third = n // 3
        assert said[0].figure == pytest.approx(
            np.sqrt(np.mean(residual[-third:] ** 2) / np.mean(residual[:third] ** 2))
        )


def test_growth_must_be_by_half_and_more_than_chance():
    n = 300
    fit = np.full(n, 0.5)
    size = np.linspace(1.0, 2.0, n)
    even = np.where(np.arange(n) % 2, 1.0, -1.0)
    for power, said in ((0.55, False), (0.95, True)):  # last third over first about 1.3 and 1.55
        residual = even * size**power
        ratio = np.sqrt(np.mean(residual[-100:] ** 2) / np.mean(residual[:100] ** 2))
        assert bool(misfits.noise_grows(residual, fit)) == said == (ratio >= 1.5)


@pytest.mark.parametrize("kind", ["even", "correlated", "counts that rise", "counts near 1"])
def test_ordinary_noise_is_rarely_called_growing_or_full_of_outliers(kind):
    grows = out = 0
    for seed in range(200):
        C = np.linspace(0.0, 10.0, 60)
        top = {"counts that rise": 0.5, "counts near 1": 0.98}.get(kind, 0.74)
        fit = np.asarray(R(C, 0.02, top, 1.8, 2.0))
        if kind.startswith("counts"):
            residual = np.random.default_rng(seed).binomial(256, fit) / 256 - fit
        else:
            residual = noise(60, 0.02, 0.7 if kind == "correlated" else 0.0, seed)
        grows += bool(misfits.noise_grows(residual, fit))
        out += bool(misfits.outliers(C, residual, fit))
    assert grows <= 5 and out <= 5


def test_an_outlier_is_named_with_its_compute_and_a_near_one_is_not():
    n = 40
    C, fit = np.linspace(0.0, 10.0, n), np.full(n, 0.5)
    base = 0.01 * np.where(np.arange(n) % 2, 1.0, -1.0)  # median size .01
    limit = scipy.stats.t.isf(0.005 / n, 0.37 * 36) * 0.01 / scipy.stats.norm.ppf(0.75) * math.sqrt(n / 36)
    for size, said in ((1.01 * limit, True), (0.99 * limit, False)):
        residual = base.copy()
        residual[25] = -size
        found = misfits.outliers(C, residual, fit)
        assert codes(found) == ["outliers"] * said
        assert not said or (found[0].figure == C[25] and f"{size:.3f} at compute 6.41" in found[0].message)


def test_outliers_are_not_sought_in_few_points_nor_within_a_point_of_pass_rate():
    fit = np.full(40, 0.5)
    tiny = 1e-5 * np.where(np.arange(40) % 2, 1.0, -1.0)
    for size, said in ((0.0101, True), (0.0099, False)):
        residual = tiny.copy()
        residual[3] = size
        assert bool(misfits.outliers(np.arange(40.0), residual, fit)) == said
    few = np.r_[tiny[:9], 0.5]
    assert misfits.outliers(np.arange(10.0), few, fit[:10]) and not misfits.outliers(np.arange(9.0), few[1:], fit[:9])
