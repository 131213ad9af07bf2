"""The posterior is the one that brute force finds, whatever the unit, the seed and the number of threads."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis as an
from analysis.curves.curve import R
from analysis.posteriors import conditional, noise, posterior, quadrature
from analysis.posteriors.priors import Priors
from tests.made import TRUE, ar1, as_run, codes, counted, noisy


def covariance(gaps, rho, tau, white):
    """tau^2 rho^|t_i - t_j| + diag(white), written out."""
    time = np.concatenate([[0.0], np.cumsum(gaps[1:])])
    return tau**2 * rho ** np.abs(time[:, None] - time) + np.diag(white)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25))
def test_the_filter_is_the_dense_covariance(seed, n):
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.1, 3.0, n))
    gaps = noise.spacing(time)
    for nodes, white in (
        (noise.unknown_share(gaps), None),
        (noise.known_white(gaps, v := rng.uniform(0.5, 2.0, n), np.array(noise.TAU_LEVELS)), v),
    ):
        z, curves = rng.normal(size=n), rng.normal(size=(3, n))
        solved, quadratic, log_det = nodes.solve(z), nodes.quadratic(curves), nodes.log_det()
        pick = np.arange(3) % len(nodes.rho)
        for k in range(len(nodes.rho)):
            V = covariance(gaps, nodes.rho[k], nodes.tau[k], np.full(n, nodes.white[k]) if white is None else white)
            inverse = np.linalg.inv(V)
            assert solved[k] == pytest.approx(inverse @ z, rel=1e-7, abs=1e-7)
            assert quadratic[k] == pytest.approx(np.einsum("mi,ij,mj->m", curves, inverse, curves), rel=1e-7)
            assert log_det[k] == pytest.approx(np.linalg.slogdet(V)[1], rel=1e-9, abs=1e-7)
        each = nodes.quadratic_each(curves, pick)
        assert each == pytest.approx(quadratic[pick, np.arange(3)], rel=1e-12)
        assert math.isclose(np.exp(nodes.log_prior).sum(), 1.0, rel_tol=1e-9)


def brute_force(C, y, rhos, R0_prior, box):
    """Mean and sd of R0, A, ln B, ln C_mid by adding up likelihood x prior over a grid of all of them and of rho.

    `box` holds the ends of each, with nearly all the mass between them, and how many points.

    sigma is integrated with p(sigma) = 1 / sigma, R0 having a prior in its units: sd .2 where sigma is what the best
    curve leaves under that noise.
    """
    priors, n = Priors(), len(C)
    axes = [low + (high - low) * (np.arange(size) + 0.5) / size for low, high, size in box]
    gaps = noise.spacing(C)
    R0, A, b, m = (g.ravel() for g in np.meshgrid(*axes, indexing="ij"))
    prior_b = -0.5 * ((b - priors.log_B[0]) / priors.log_B[1]) ** 2
    residual = np.empty((len(b), n))
    for i in range(n):
        s = 1.0 / (1.0 + np.exp(-np.exp(b) * (math.log(C[i]) - m)))
        residual[:, i] = y[i] - R0 * (1.0 - s) - A * s
    log_p = []
    for rho in rhos:
        for white, weight in zip(noise.WHITE_SHARES, noise.WHITE_PRIOR, strict=True):
            V = covariance(gaps, rho, math.sqrt(1 - white), np.full(n, white))
            S = ((residual @ np.linalg.inv(V)) * residual).sum(axis=1) + n * priors.least_sigma**2
            ratio = S.min() / (n - 1) / R0_prior[1] ** 2
            S += ratio * (R0 - R0_prior[0]) ** 2
            of_noise = math.log(weight) - 0.5 * np.linalg.slogdet(V)[1] + 0.5 * math.log(ratio)
            log_p.append(of_noise - 0.5 * (n + 1) * np.log(S) + prior_b)
    top = max(p.max() for p in log_p)
    weight = sum(np.exp(p - top) for p in log_p)
    weight /= weight.sum()
    moments = [(weight @ v, weight @ v**2) for v in (R0, A, b, m)]
    return [first for first, _ in moments], [math.sqrt(second - first**2) for first, second in moments]


def agrees(found, mean, sd, within):
    for k, values in enumerate((found.R0, found.A, np.log(found.B), np.log(found.C_mid))):
        average = float(found.weight @ values)
        assert average == pytest.approx(mean[k], abs=within * sd[k])
        assert math.sqrt(found.weight @ (values - average) ** 2) == pytest.approx(sd[k], rel=within)


def test_brute_force_over_every_parameter_agrees():
    """Few noisy points: no narrow peak."""
    rng = np.random.default_rng(4)
    C = np.linspace(0.5, 8.0, 12)
    y = R(C, **TRUE) + rng.normal(0.0, 0.03, 12)
    prior = (0.15, 0.2)
    found = posterior.posterior(C, y, priors=Priors(rho=(0.4, 0.4), R0=prior), draws=40_000)
    box = ((0.0, 0.5, 26), (0.0, 1.0, 40), (-2.05, 2.85, 30), (math.log(0.5) - 2.0, math.log(160.0), 56))
    agrees(found, *brute_force(C, y, [0.4], prior, box), within=0.04)


def test_brute_force_over_the_correlation_too_agrees():
    C = np.linspace(0.5, 8.0, 20)
    y = R(C, **TRUE) + ar1(20, 0.03, 0.6, 5)
    prior = (0.15, 0.2)
    rhos = (np.arange(12) + 0.5) / 12
    found = posterior.posterior(C, y, priors=Priors(R0=prior), draws=40_000)
    box = ((0.0, 0.4, 22), (0.5, 1.0, 28), (-0.4, 2.4, 24), (0.0, 1.8, 30))
    agrees(found, *brute_force(C, y, rhos, prior, box), within=0.04)


@pytest.mark.parametrize("k", [0.5, 1.5, 5.0])
def test_finer_cells_and_more_draws_change_no_limit(k, monkeypatch):
    run = noisy(3, k=k, n=40)
    C, y = run.data["gpu_hours"], run.data["pass_rate"]
    usual = posterior.posterior(C, y)
    monkeypatch.setattr(quadrature, "HEAVY", 0.0005)
    monkeypatch.setattr(quadrature, "CELLS", 60_000)
    monkeypatch.setattr(quadrature, "NEGLIGIBLE", 1e-9)
    fine = posterior.posterior(C, y, draws=40_000, seed=1)
    for name in ("A", "B", "C_mid", "R0"):
        mine, theirs = (np.log(p.quantile(getattr(p, name), [0.025, 0.5, 0.975])) for p in (usual, fine))
        assert mine == pytest.approx(theirs, abs=0.06 * (theirs[2] - theirs[0])), name
    assert usual.effective > 1000


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-20, 20), st.floats(0.4, 6.0))
def test_a_unit_of_compute_leaves_every_draw_where_it_was(seed, exponent, k):
    run, factor = noisy(seed, k=k), 10.0**exponent
    other = as_run(run.data["gpu_hours"] * factor, run.data["pass_rate"])
    one, two = an.fit(run), an.fit(other)
    for name, unit in (("A", 1.0), ("R0", 1.0), ("B", 1.0), ("C_mid", factor)):
        p, q = one.params[name], two.params[name]
        for mine, theirs in ((p.value, q.value), (p.lo, q.lo), (p.hi, q.hi)):
            assert (mine is None) == (theirs is None)
            assert mine is None or theirs == pytest.approx(mine * unit, rel=1e-9, abs=1e-9 * unit)
    assert codes(one) == codes(two)
    assert two.reach == (None if one.reach is None else pytest.approx(one.reach, rel=1e-6))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(25)))
def test_the_order_of_rows_leaves_no_trace(order):
    run = noisy(1)
    shuffled = as_run(run.data["gpu_hours"][list(order)], run.data["pass_rate"][list(order)])
    one, two = an.fit(run), an.fit(shuffled)
    assert one.to_dict() == two.to_dict() and (one.draws.A == two.draws.A).all()


def test_a_duplicated_row_is_reported():
    run = noisy(1)
    twice = as_run(*(np.append(run.data[name], run.data[name][7]) for name in ("gpu_hours", "pass_rate")))
    assert "rows-duplicated" in codes(an.fit(twice)) and "rows-duplicated" not in codes(an.fit(run))


def test_the_same_bytes_for_any_number_of_threads():
    code = "from tests.made import *; print(an.fit(noisy(0)).to_json()); print(an.fit(noisy(1, k=0.7)).to_json())"
    out = {
        threads: subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert out["1"] == out["2"] and out["1"].count("C_mid") > 1


def test_the_seed_moves_draws_and_hardly_the_limits():
    one, two, again = (an.fit(noisy(2), seed=seed) for seed in (0, 1, 0))
    assert (one.draws.A == again.draws.A).all() and not (one.draws.A == two.draws.A).all()
    A, B = one.params["A"], two.params["A"]
    assert A.lo == pytest.approx(B.lo, abs=0.05 * (A.hi - A.lo)) and A.lo != B.lo


def test_limits_know_of_correlation_that_the_plain_ones_do_not():
    wide = narrow = 0.0
    for seed in range(6):
        run = noisy(seed, k=5.0, n=60, rho=0.7)
        ours, plain = an.fit(run).params["A"], an.fit(run, method="lsq").params["A"]
        wide, narrow = wide + ours.hi - ours.lo, narrow + plain.hi - plain.lo
    assert wide > 1.6 * narrow


def test_priors_are_settable_and_stated():
    run = noisy(0, k=0.7)
    low = an.fit(run, priors=Priors(ceiling=0.8))
    assert low.params["A"].hi <= 0.8 and low.draws.A.max() <= 0.8
    assert low.report["priors"]["ceiling"] == 0.8 and "0.8" in low.checklist()
    steep = an.fit(run, priors=Priors(log_B=(math.log(4.0), 0.05)))
    assert steep.params["B"].value == pytest.approx(4.0, rel=0.1)


def test_known_evaluation_noise_comes_from_the_counts_and_is_said():
    rng = np.random.default_rng(0)
    compute = np.linspace(0.0, 10.0, 30)
    ability = rng.beta(0.5, 0.5, 64)
    curve = R(compute, **TRUE)
    rates = np.clip(ability[None] * 0 + curve[:, None] + 0.3 * (ability - ability.mean()), 0.0, 1.0)
    correct = rng.binomial(8, rates)
    column, each = np.empty(30, dtype=object), np.empty(30, dtype=object)
    column[:], each[:] = correct.tolist(), [8] * 30
    run = as_run(compute, correct.mean(axis=1) / 8, correct=column, k=each)
    fit = an.fit(run)
    expected = [noise.evaluation_variance(row, 8) for row in correct]
    assert fit.evaluation_sd**2 == pytest.approx(expected)
    assert "prompts-fixed" in codes(fit) and "known from the counts" in fit.report["method"]
    A, wider = fit.params["A"], fit.A_population
    assert wider.lo < A.lo and wider.hi > A.hi
    sample = an.fit(run, prompts="sample")
    assert (sample.params["A"].lo, sample.params["A"].hi) == (wider.lo, wider.hi)
    with pytest.raises(an.UserError, match="counts of two prompts"):
        an.fit(noisy(0), prompts="sample")


def test_variance_of_an_evaluation_and_of_its_prompts_by_simulation():
    rng = np.random.default_rng(1)
    rates = rng.beta(0.5, 0.5, 40)
    counts = rng.binomial(6, rates, (20_000, 40))
    estimates = [noise.evaluation_variance(row, 6) for row in counts[:4000]]
    assert np.mean(estimates) == pytest.approx((counts.mean(axis=1) / 6).var(), rel=0.05)
    fresh = rng.beta(0.5, 0.5, (20_000, 40))
    between = [noise.prompt_variance(rng.binomial(6, row), 6) for row in fresh[:4000]]
    assert np.mean(between) == pytest.approx(fresh.mean(axis=1).var(), rel=0.05)
    assert noise.evaluation_variance(np.array([1, 0]), 1) is None


def test_a_sample_without_one_possible_draw_says_so():
    """A prior that holds R0 outside [0, 1] leaves no draw; equal weights would look like a good sample."""
    run = noisy(0)
    found = posterior.posterior(run.data["gpu_hours"], run.data["pass_rate"], priors=Priors(R0=(-5.0, 1e-6)))
    assert found.effective == 1.0
    fit = an.fit(run, priors=Priors(R0=(-5.0, 1e-6)))
    assert "posterior-grid" in codes(fit) and fit.params["A"].lo is None and not fit.params["A"].identified


def test_many_evaluations_leave_the_correlation_known_and_the_limits_smooth(monkeypatch):
    """With nodes over the whole range one of them holds all the mass, and limits of A are wrong by a factor."""
    C = np.linspace(0.1, 5.0, 1000)
    y = R(C, **TRUE) + ar1(1000, 0.01, 0.83, 3)
    found = posterior.posterior(C, y)
    monkeypatch.setattr(noise, "NARROW_NODES", 64)
    fine = posterior.posterior(C, y)
    spread = [math.sqrt(p.weight @ (p.rho - p.weight @ p.rho) ** 2) for p in (found, fine)]
    assert spread[0] == pytest.approx(spread[1], rel=0.1) and spread[0] > 0.01
    widths = [np.ptp(p.quantile(p.A, [0.025, 0.975])) for p in (found, fine)]
    assert widths[0] == pytest.approx(widths[1], rel=0.08)


def test_many_evaluations_with_counts_narrow_the_noise_and_leave_the_limits(monkeypatch):
    """Run noise that is seen clearly: narrowed, no node of the noise is left at tau = 0."""
    rate = R(np.linspace(0.0, 8.0, 260), **TRUE) + ar1(260, 0.01, 0.7, 1)
    run = counted(np.repeat(rate[:, None], 256, axis=1), last=8.0, seed=1)
    narrowed = an.fit(run)
    monkeypatch.setattr(conditional, "WIDE_NODES", 10**6)
    whole = an.fit(run)
    limits = np.array([[f.params["A"].lo, f.params["A"].value, f.params["A"].hi] for f in (narrowed, whole)])
    assert limits[0] != pytest.approx(limits[1], abs=1e-9)
    assert limits[0] == pytest.approx(limits[1], abs=0.05 * np.ptp(limits[1]))


def test_no_run_noise_weighs_the_same_against_a_part_of_the_correlations():
    """tau = 0 stands for all rho: next to the nodes of half of them it keeps its mass relative to these."""
    gaps, variance, levels = noise.spacing(np.arange(5.0)), np.full(5, 0.5), np.array(noise.TAU_LEVELS)

    def odds(nodes):
        prior = np.exp(nodes.log_prior)
        return prior[nodes.tau == 0.0].sum() / prior[(nodes.tau > 0.0) & (nodes.rho < 0.5)].sum()

    whole = noise.known_white(gaps, variance, levels)
    part = noise.known_white(gaps, variance, levels, (0.0, 0.5), rho_share=0.5)
    assert odds(part) == pytest.approx(odds(whole), rel=1e-12)
    above = noise.known_white(gaps, variance, levels[3:], (0.2, 0.5), rho_share=0.3)
    assert (above.tau > 0.0).all() and np.exp(above.log_prior).sum() == pytest.approx(1.0)


def test_a_held_R0_is_held_in_every_draw():
    run = noisy(1, R0=0.0)
    found = posterior.posterior(run.data["gpu_hours"], run.data["pass_rate"], r0=0.0)
    assert (found.R0 == 0.0).all() and found.effective > 3000


def test_draws_of_two_runs_are_independent():
    """A difference is taken row by row: the rows of two runs must not have been drawn with the same numbers."""
    a, b = (posterior.posterior(r.data["gpu_hours"], r.data["pass_rate"]) for r in (noisy(1), noisy(2)))
    for name in ("A", "C_mid", "B"):
        assert abs(np.corrcoef(getattr(a, name), getattr(b, name))[0, 1]) < 0.06


def test_single_precision_is_read_as_the_numbers_it_holds():
    run = noisy(3)
    C, y = (run.data[name].astype(np.float32) for name in ("gpu_hours", "pass_rate"))
    one, two = posterior.posterior(C, y), posterior.posterior(C.astype(float), y.astype(float))
    assert (one.A == two.A).all() and (one.C_mid == two.C_mid).all()
