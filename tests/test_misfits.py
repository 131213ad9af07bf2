"""What residuals give away is said where it is there, and rarely where chance or correlated noise made it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

import analysis as an
from analysis.curves.curve import R
from analysis.fits import misfits
from tests.made import TRUE, ar1, as_run, values


def codes(found):
    return [f.code for f in found]


def fitted(C, y):
    return values(an.fit(as_run(C, y), level=None))


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
        y = law(C) + ar1(100, 0.003)
        found = misfits.misfit(C, y, fitted(C, y))
        assert codes(found) == expected
        assert not expected or 0.002 < found[0].figure < 0.02


def test_correlated_noise_is_rarely_called_a_misfit():
    called = 0
    for seed in range(150):
        C = np.linspace(0.2, 10.0, 60)
        residual = ar1(60, 0.01, 0.7, seed)
        found = misfits._structure(residual, misfits.gradient(C, **TRUE))
        called += found[0] <= misfits.MISFIT_LEVEL
    assert called <= 5


def wave(halves, n=60):
    """So many half waves over the order of the points, with an RMS of 1."""
    return np.sqrt(2.0) * np.cos(np.pi * halves * (np.arange(n) + 0.5) / n)


def test_a_misfit_too_small_to_matter_or_of_too_few_points_is_none():
    C = np.linspace(0.2, 10.0, 60)
    for size, said in ((0.0023, True), (0.0018, False)):  # a fifth of a point of pass rate matters
        y = R(C, **TRUE) + size * wave(5) + ar1(60, 1e-4)
        assert bool(misfits.misfit(C, y, TRUE)) == said
    for n, said in ((12, True), (11, False)):
        C = np.linspace(0.2, 10.0, n)
        assert bool(misfits.misfit(C, R(C, **TRUE) + 0.07 * wave(3, n) + ar1(n, 1e-5), TRUE)) == said


@pytest.mark.parametrize(("halves", "said"), [(6, True), (10, False)])
def test_three_waves_along_the_run_are_a_shape_and_five_are_taken_for_noise(halves, said):
    C = np.linspace(0.2, 10.0, 60)
    assert bool(misfits.misfit(C, R(C, **TRUE) + 0.003 * wave(halves) + ar1(60, 1e-3), TRUE)) == said


def test_a_shape_is_said_only_where_no_plausible_correlation_explains_it_and_then_it_is():
    """Excused too easily, a shape of 1.5 noise is never said; too strictly, and the noise itself is a shape."""
    C = np.linspace(0.2, 10.0, 60)

    def said(size, rho):
        made = (R(C, **TRUE) + size * wave(5) + ar1(60, 0.01, rho, seed) for seed in range(300))
        return sum(bool(misfits.misfit(C, y, TRUE)) for y in made)

    assert said(0.0, 0.7) <= 5 and said(0.0, 0.9) <= 10
    assert 50 <= said(0.0105, 0.3) <= 105


def test_replicates_by_design_are_tested_against_each_other():
    C = np.repeat(np.linspace(0.5, 10.0, 10), 3)
    y = R(C, **TRUE) + ar1(30, 0.003)
    assert misfits.misfit(C, y, TRUE) == []
    wavy = misfits.misfit(C, y + 0.02 * np.sin(3 * C), TRUE)
    assert codes(wavy) == ["misfit"] and wavy[0].message.startswith("replicates")


def test_replicates_deny_the_law_at_one_in_two_hundred():
    C = np.repeat(np.linspace(0.5, 10.0, 10), 3)
    ps = []
    for size in np.linspace(0.0, 0.01, 200):
        y = R(C, **TRUE) + size * np.sin(3 * C) + ar1(30, 0.003)
        group = y.reshape(10, 3).mean(axis=1)
        pure, off = ((y.reshape(10, 3) - group[:, None]) ** 2).sum() / 20, 3 * ((group - R(C[::3], **TRUE)) ** 2).sum()
        ps.append(scipy.stats.f.sf(off / 6 / pure, 6, 20))
        assert bool(misfits.misfit(C, y, TRUE)) == (ps[-1] <= 0.005), ps[-1]
    assert (np.histogram(ps, [0.0, 0.0025, 0.005, 0.01, 1.0])[0] > 0).all()


@pytest.mark.parametrize(("repeated", "by_design"), [(5, True), (4, False)])
def test_half_of_the_computes_evaluated_again_are_a_design(repeated, by_design):
    places = np.linspace(0.5, 10.0, 10)
    C = np.sort(np.r_[places, np.repeat(places[:repeated], 3)])
    found = misfits.misfit(C, R(C, **TRUE) + 0.03 * np.sin(3 * C) + ar1(len(C), 1e-3), TRUE)
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


@pytest.mark.parametrize(("growth", "said"), [(1.52, True), (1.48, False)])
def test_growth_must_be_by_half(growth, said):
    size = np.repeat([1.0, math.sqrt(growth), growth], 100)
    residual = np.where(np.arange(300) % 2, size, -size)
    assert bool(misfits.noise_grows(residual, np.full(300, 0.5))) == said


def test_growth_that_chance_gives_in_more_than_three_of_a_thousand_runs_is_not_said():
    """Sizes in shuffled order, neighbours unrelated: there the level is that of Spearman's rank correlation."""
    rng, n, ps = np.random.default_rng(0), 40, []
    order = np.arange(n)
    while len(ps) < 300:
        size = np.exp(0.025 * order + rng.normal(0.0, 0.7, n))
        rank = scipy.stats.rankdata(size)
        rest = rank - np.polyval(np.polyfit(order, rank, 1), order)
        third = [math.sqrt(np.mean(part**2)) for part in (size[:13], size[-13:])]
        p = scipy.stats.spearmanr(order, size, alternative="greater").pvalue
        if rest[1:] @ rest[:-1] > 0.0 or third[1] < 1.6 * third[0] or p > 0.02:
            continue
        ps.append(p)
        residual = np.where(order % 2, size, -size)
        assert bool(misfits.noise_grows(residual, np.full(n, 0.5))) == (p <= 0.003), p
    assert (np.histogram(ps, [0.0, 0.0015, 0.003, 0.006, 1.0])[0] > 0).all()


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
            residual = ar1(60, 0.02, 0.7 if kind == "correlated" else 0.0, seed)
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


@pytest.mark.parametrize(("beyond", "said"), [(1.02, True), (0.98, False)])
def test_noise_near_0_is_taken_for_that_at_one_per_cent(beyond, said):
    """Nearly all points at a pass rate of 0 where counts hardly vary, one at .5 where they do, five times as much."""
    n = 40
    fit, residual = np.zeros(n), 0.01 * np.where(np.arange(n) % 2, 1.0, -1.0)
    limit = scipy.stats.t.isf(0.005 / n, 0.37 * 36) * 0.01 / scipy.stats.norm.ppf(0.75) * math.sqrt(n / 36)
    fit[25], residual[25] = 0.5, beyond * limit * 0.5 / math.sqrt(0.01 * 0.99)
    assert codes(misfits.outliers(np.arange(n), residual, fit)) == ["outliers"] * said
