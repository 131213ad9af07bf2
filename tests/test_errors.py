"""Standard errors: exact where an exact answer is known, None where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import analysis as an
from analysis.curves.errors import (
    effective_compute,
    hessian_covariance,
    jacobian_covariance,
    log_likelihood,
    standard_errors,
)
from analysis.curves.families import FAMILIES, SIGMOID, get_family
from analysis.curves.projection import fit_many
from analysis.curves.whitening import Whitener
from scalerl.runlog import UserError
from tests import made

BOTH = pytest.mark.parametrize("covariance_of", [jacobian_covariance, hessian_covariance])
C = np.concatenate([[0.0], np.geomspace(0.1, 12.0, 29)])
TRUTH = np.array([0.12, 0.7, 1.4, 2.0])


def noisy(seed=0, sd=0.02):
    return SIGMOID.value(C, TRUTH) + np.random.default_rng(seed).normal(0, sd, len(C))


def log_linear_data(seed=0):
    x = np.linspace(0.0, 3.0, 12)
    return np.exp(x), 0.2 + 0.1 * x + np.random.default_rng(seed).normal(0, 0.02, len(x))


@BOTH
def test_a_straight_lines_errors_are_those_of_linear_regression(covariance_of):
    line = get_family("log_linear")
    compute, y = log_linear_data()
    fit = stats.linregress(np.log(compute), y)
    params = [fit.intercept, fit.intercept + 3 * fit.slope, 1.0, math.exp(3.0)]
    covariance = covariance_of(line, compute, y, params)
    assert math.sqrt(covariance[0, 0]) == pytest.approx(fit.intercept_stderr, rel=1e-9)
    slope = np.array([-1.0, 1.0]) / 3.0
    assert math.sqrt(slope @ covariance @ slope) == pytest.approx(fit.stderr, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(B=st.floats(0.4, 5.0), C_mid=st.floats(0.3, 8.0), R0=st.floats(0.0, 0.4), seed=st.integers(0, 99))
def test_the_hessian_is_that_of_a_complex_step_through_the_formula(B, C_mid, R0, seed):
    """Of the sum of squares written out; at any point where it is a minimum's, the inverse is compared."""
    params, y = np.array([R0, 0.7, B, C_mid]), noisy(seed)
    compute, observed = C[1:], y[1:]

    def half_gradient(p):
        s = 1 / (1 + (p[3] / compute) ** p[2])
        bend = (p[1] - p[0]) * s * (1 - s)
        rows = [1 - s, s, bend * np.log(compute / p[3]), -bend * p[2] / p[3]]
        return np.stack(rows) @ (p[0] * (1 - s) + p[1] * s - observed)

    hessian = np.stack([half_gradient(params + 1e-30j * np.eye(4)[k]).imag / 1e-30 for k in range(4)])
    found = hessian_covariance(SIGMOID, compute, observed, params)
    residual = SIGMOID.value(compute, params) - observed
    size = np.sqrt(np.abs(np.diag(hessian)))
    values = np.linalg.eigvalsh(hessian / np.outer(size, size))
    if found is None:
        assert values[0] < 1e-7  # no minimum
    else:
        expected = np.linalg.inv(hessian) * (residual @ residual) / (len(compute) - 4)
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.abs(found - expected).max() <= (1e-8 / values[0] * scale).max()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.last_only])
def test_both_errors_agree_where_the_residuals_are_small(name):
    """The Hessian differs from J'J by residuals times curvature only; B and C_mid of 1 are inside every range."""
    family = get_family(name)
    compute = np.geomspace(0.05, 60.0, 80)
    shape = {"B1": 0.3, "B2": 1.6, "f": 0.4, "g": 0.7, "C_break": 3.0, "C_first": 0.05, "C_last": 60.0}
    params = np.array([0.1, 0.7, *(shape.get(key, 1.2) for key in family.shape)])
    y = family.value(compute, params) + np.random.default_rng(0).normal(0, 1e-7, len(compute))
    ours = [standard_errors(of(family, compute, y, params)) for of in (jacobian_covariance, hessian_covariance)]
    assert len(ours[0]) == len(family.free) and ours[1] == pytest.approx(ours[0], rel=1e-3)


def test_errors_say_how_far_fits_scatter():
    """The standard deviation of a thousand fits is the mean standard error; a wrong factor would show."""
    sd, curves = 0.005, 1000
    y = SIGMOID.value(C, TRUTH) + np.random.default_rng(1).normal(0, sd, (curves, len(C)))
    with np.errstate(divide="ignore"):
        fits = fit_many(np.log(C), y, linear_low=-np.inf, linear_high=np.inf).natural()
    for of in (jacobian_covariance, hessian_covariance):
        errors = np.array([standard_errors(of(SIGMOID, C, y[k], fits[k])) for k in range(60)])
        assert np.median(errors, axis=0) == pytest.approx(fits.std(axis=0), rel=0.12)


@BOTH
def test_weights_are_those_of_repeated_points(covariance_of):
    """A weight of 4 on every point is the same fit with half the noise, and sigma^2 falls by nothing."""
    y, root = noisy(), np.full(len(C), 2.0)
    params = TRUTH
    plain = covariance_of(SIGMOID, C, y, params)
    assert covariance_of(SIGMOID, C, y, params, whiten=Whitener(root)) == pytest.approx(plain, rel=1e-6)
    first = np.where(np.arange(len(C)) < 15, 1.0, 1e-8)  # points without weight count for the degrees of freedom only
    lone = covariance_of(SIGMOID, C, y, params, whiten=Whitener(first))
    short = covariance_of(SIGMOID, C[:15], y[:15], params)
    assert lone is None or lone == pytest.approx(short * (15 - 4) / (len(C) - 4), rel=1e-4)


@BOTH
def test_a_fixed_parameter_has_no_error_and_lowers_those_of_the_others(covariance_of):
    y = noisy()
    free = ("A", "B", "C_mid")
    held = standard_errors(covariance_of(SIGMOID, C, y, TRUTH, free=free))
    assert held.shape == (3,) and (held < standard_errors(covariance_of(SIGMOID, C, y, TRUTH))[1:] * 1.1).all()


@BOTH
def test_where_there_is_no_answer_there_is_none(covariance_of):
    y = noisy()
    flat = [0.4, 0.4, 1.5, 2.0]  # B and C_mid have no effect
    assert covariance_of(SIGMOID, C, y, flat) is None
    assert covariance_of(SIGMOID, C[:4], y[:4], TRUTH) is None  # no degrees of freedom
    assert covariance_of(SIGMOID, C, SIGMOID.value(C, TRUTH), TRUTH) is None  # no residuals
    assert covariance_of(SIGMOID, C, y, [0.1, 0.7, 2.0, 1e25]) is None  # the rise is beyond the data
    twice = covariance_of(SIGMOID, np.ones(9), np.linspace(0.3, 0.5, 9), TRUTH)  # one compute, four parameters
    assert twice is None and standard_errors(twice) is None


def test_a_point_that_is_no_minimum_has_no_observed_information():
    y = noisy()
    assert hessian_covariance(SIGMOID, C, y, [0.7, 0.1, 1.4, 2.0]) is None
    assert jacobian_covariance(SIGMOID, C, y, [0.7, 0.1, 1.4, 2.0]) is not None


def test_the_last_value_has_one_parameter():
    family = get_family("last_value")
    y = np.array([0.4, 0.5, 0.6])
    for of in (jacobian_covariance, hessian_covariance):
        assert of(family, [1.0, 2.0, 3.0], y, [0.0, 0.5]) == pytest.approx(np.array([[0.01 / 3]]))


def test_log_likelihood_is_that_of_normal_noise():
    residual = np.random.default_rng(0).normal(0, 0.3, 50)
    expected = stats.norm(0, residual.std(mean=0.0)).logpdf(residual).sum()
    assert log_likelihood(residual) == pytest.approx(expected, rel=1e-12)
    assert log_likelihood([0.0, 0.0]) is None and log_likelihood([]) is None


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.asymptote and f.at_zero])
def test_an_effective_compute_and_its_error_are_the_inverse_and_its_derivative(name):
    family = get_family(name)
    shape = {"B": 1.4, "C_mid": 2.0, "C_s": 3.0, "g": 0.6}
    params = np.array([0.1, 0.7, *(shape[key] for key in family.shape)])
    size = len(params)
    covariance = np.diag(np.linspace(0.01, 0.03, size)) ** 2 + 1e-5
    for share in (0.1, 0.9):

        def at(p, share=share):
            return family.compute_to(p[0] + share * (p[1] - p[0]), p)

        h = 1e-5
        slope = np.array([(at(params + h * e) - at(params - h * e)) / (2 * h) for e in np.eye(size)])
        found = effective_compute(family, params, share, covariance)
        assert math.isclose(found.C, at(params), rel_tol=1e-12)
        assert found.standard_error == pytest.approx(math.sqrt(slope @ covariance @ slope), rel=1e-6)
        assert effective_compute(family, params, share).standard_error is None


def test_what_has_no_gain_has_no_effective_compute():
    for name in ("log_linear", "last_value", "power_law"):
        family = get_family(name)
        with pytest.raises(UserError, match=name):
            effective_compute(family, [0.1, 0.7, *([1.0, 2.0][: len(family.shape)])], 0.1)
    with pytest.raises(UserError, match="between 0 and 1"):
        effective_compute(SIGMOID, TRUTH, 1.0)
    with pytest.raises(UserError, match="no D; it has R0, A, B, C_mid"):
        jacobian_covariance(SIGMOID, C, noisy(), TRUTH, free=("A", "D"))


@pytest.mark.parametrize(("fields", "name"), [({"A": 1.3, "k": 0.8}, "A"), ({"R0": -0.2}, "R0")])
def test_a_parameter_on_a_bound_has_no_standard_error(fields, name):
    """The curve wants to go on past the bound, so the sum of squares has no minimum there to measure the width of."""
    fit = an.fit(made.noisy(0, n=40, **fields), method="lsq")
    on_bound = {n for n, end in (("A", 1.0), ("R0", 0.0)) if fit.params[n].value == pytest.approx(end, abs=1e-7)}
    assert on_bound == {name} and "at-bound" in made.codes(fit)
    for other, p in fit.params.items():
        assert (p.se is None) == (p.lo is None) == (other == name)
        assert other != name or p.se_observed is None


def test_the_hessians_error_is_none_where_the_sum_of_squares_bends_down():
    """At a maximum or saddle; a point on a slope that bends up has one, since only H is looked at."""
    compute = np.geomspace(0.1, 50.0, 40)
    y = SIGMOID.value(compute, [0.1, 0.7, 1.5, 2.0]) + np.random.default_rng(0).normal(0.0, 0.01, 40)
    assert hessian_covariance(SIGMOID, compute, y, [0.1, 0.7, 1.5, 40.0]) is None
    assert hessian_covariance(SIGMOID, compute, y, [0.1, 0.72, 1.5, 2.0]) is not None
