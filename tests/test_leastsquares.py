"""Least squares finds what a blind search finds, for any order of the rows and any unit of compute."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis as an
from analysis.curves.curve import R
from analysis.curves.families import SIGMOID
from analysis.curves.leastsquares import Problem, default_box
from analysis.curves.projection import fit_many
from analysis.curves.reduced import Bounds, Model
from analysis.curves.solver import minimise
from benchmarks.simulate import Cell, simulate
from tests.made import as_run, codes, law, noisy, values


def least_squares(run, level=0.95):
    return an.fit(run, method="profile", correlated=False, level=level)


# ---- the optimum


@settings(max_examples=80, deadline=None)
@given(
    st.floats(0.01, 0.35),
    st.floats(0.4, 1.0),
    st.floats(0.5, 4.0),
    st.floats(-9, 9),
    st.floats(1.5, 6.0),
    st.booleans(),
)
def test_noise_free_curves_are_recovered(R0, A, B, log_mid, k, with_zero):  # noqa: PLR0917
    C_mid = 10.0**log_mid
    compute = np.geomspace(0.05 * C_mid, k * C_mid, 20)
    compute = np.r_[0.0, compute] if with_zero else compute
    fit = least_squares(as_run(compute, R(compute, R0, A, B, C_mid)))
    got = values(fit)
    assert abs(got["A"] - A) <= 1e-8 * A
    assert abs(got["B"] - B) <= 1e-8 * B
    assert abs(got["C_mid"] - C_mid) <= 1e-8 * C_mid
    assert abs(got["R0"] - R0) <= 1e-8 * (A - R0)
    assert "exact-data" in codes(fit) and all(p.lo is None and p.hi is None for p in fit.params.values())


@pytest.mark.parametrize("seed", range(8))
def test_no_search_with_scipy_finds_a_smaller_sum_of_squares(seed):
    rng = np.random.default_rng(seed)
    run = noisy(seed, k=rng.uniform(0.7, 6.0), sd=0.02, B=rng.uniform(0.6, 4.0))
    x, y = run.data["gpu_hours"][1:], run.data["pass_rate"][1:]
    fit = least_squares(as_run(x, y), level=None)
    ours = float(((law(x, **values(fit)) - y) ** 2).sum())
    bounds = ([0, 0, 0.05, x[0] / 1000], [1, 1, 50, 1000 * x[-1]])
    theirs = math.inf
    for _ in range(15):
        start = [rng.uniform(0, 0.4), rng.uniform(0.4, 1), rng.uniform(0.3, 6), math.exp(rng.uniform(-2, 3))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                got = scipy.optimize.curve_fit(law, x, y, p0=start, bounds=bounds, max_nfev=2000)[0]
            except RuntimeError:
                continue
        theirs = min(theirs, float(((law(x, *got) - y) ** 2).sum()))
    assert ours <= theirs * (1 + 1e-7)


@pytest.mark.parametrize("seed", [10, 21, 101, 106, 353, 412])
def test_rugged_sums_of_squares_are_searched_in_every_valley(seed):
    """Few, noisy points have several valleys; on these seeds one start, or few far apart, miss the deepest."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(6, 40)), rng.uniform(0.3, 8)
    x = np.linspace(0, 2 * k, n)
    curve = R(x, rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.9), rng.uniform(0.5, 4), 2.0)
    y = np.clip(curve + rng.choice([0.01, 0.05, 0.1]) * rng.normal(size=n), 0, 1)
    with np.errstate(divide="ignore"):
        problem, box = Problem(np.log(x), y), default_box(x)
    blind = box.low[2:] + (box.high - box.low)[2:] * rng.uniform(size=(150, 2))
    tried = fit_many(problem.log_compute, np.tile(y, (150, 1)), start=blind, starts=0)
    assert problem.fit(box).sse <= tried.sse.min() * (1 + 1e-7)


def test_a_dense_grid_with_the_linear_part_solved_finds_no_better():
    run = noisy(3, k=2.0, sd=0.015)
    x, y = run.data["gpu_hours"][1:], run.data["pass_rate"][1:]
    fit = least_squares(as_run(x, y), level=None)
    best = math.inf
    for B in np.geomspace(0.1, 20, 120):
        for C_mid in np.geomspace(0.05, 200, 160):
            s = 1 / (1 + (C_mid / x) ** B)
            (r0, a), *_ = np.linalg.lstsq(np.stack([1 - s, s], axis=1), y, rcond=None)
            if 0 <= r0 <= 1 and 0 <= a <= 1:
                best = min(best, float(((r0 * (1 - s) + a * s - y) ** 2).sum()))
    assert float(((law(x, **values(fit)) - y) ** 2).sum()) <= best


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-9, 12))
def test_a_unit_of_compute_scales_C_mid_and_nothing_else(seed, exponent):
    run, factor = noisy(seed), 10.0**exponent
    other = as_run(run.data["gpu_hours"] * factor, run.data["pass_rate"])
    one, two = least_squares(run), least_squares(other)
    for name, unit in (("A", 1.0), ("R0", 1.0), ("B", 1.0), ("C_mid", factor)):
        p, q = one.params[name], two.params[name]
        assert q.value == pytest.approx(p.value * unit, rel=1e-6)
        for mine, theirs in ((p.lo, q.lo), (p.hi, q.hi)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert theirs == pytest.approx(mine * unit, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(25)))
def test_the_order_of_rows_does_not_matter_and_the_input_is_not_changed(order):
    run = noisy(1)
    before = {name: column.copy() for name, column in run.data.items()}
    shuffled = as_run(run.data["gpu_hours"][list(order)], run.data["pass_rate"][list(order)])
    assert least_squares(shuffled).to_dict()["params"] == least_squares(run).to_dict()["params"]
    assert all(np.array_equal(before[name], run.data[name]) for name in before)


def test_float32_is_read_as_the_numbers_it_holds():
    run = noisy(2)
    low = {name: column.astype(np.float32) for name, column in run.data.items()}
    same = {name: column.astype(np.float64) for name, column in low.items()}
    assert (
        least_squares(as_run(low["gpu_hours"], low["pass_rate"])).to_dict()
        == least_squares(as_run(same["gpu_hours"], same["pass_rate"])).to_dict()
    )


def test_every_value_stays_inside_its_range():
    for seed in range(20):
        got = values(least_squares(noisy(seed, k=0.4, n=9, sd=0.05), level=None))
        assert 0 <= got["A"] <= 1 and 0 <= got["R0"] <= 1 and 0.05 <= got["B"] <= 50 and got["C_mid"] > 0


def test_a_descent_along_a_bound_of_A_takes_few_steps_and_ends_where_one_without_walls_does():
    """Curves that end before their midpoint: half of them fit best at A = 1."""
    curves = [simulate(Cell(0.5, 60, 0.0), i) for i in range(100)]
    log_c, y = np.log(curves[0].compute / curves[0].params[3]), np.stack([c.pass_rate for c in curves])
    low, high = SIGMOID.bounds(log_c)
    bounds = Bounds(*(np.tile(row, (100, 1)) for row in ([0.0, 0.0], [1.0, 1.0], low, high)))
    model = Model(SIGMOID, log_c, y, None, bounds)
    near = fit_many(log_c, y).shape + np.random.default_rng(0).normal(0.0, 0.1, (100, 2))

    def open_model(theta, rows):
        return replace(model(theta, rows), wall=np.zeros((len(rows), 2)))

    walled, plain = (minimise(m, near, low, high, longest=2.0, damping=1e-5) for m in (model, open_model))
    assert (walled.local.linear[:, 1] == 1.0).sum() > 30
    assert walled.converged.all()
    assert walled.iterations.sum() < 0.7 * plain.iterations.sum()
    assert (walled.sse <= plain.sse * (1.0 + 1e-9)).all()
