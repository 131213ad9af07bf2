"""The law is exact at both ends, stable in between, and its derivatives and inverse belong to it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.curves.curve import R, compute_to, gradient, slope

R0S, AS = st.floats(0.0, 0.4), st.floats(0.45, 1.0)
BS, MIDS = st.floats(0.3, 6.0), st.floats(1e-6, 1e9)


@given(st.floats(1e-3, 1e3), R0S, AS, BS, MIDS)
def test_value_is_the_formula(ratio, R0, A, B, C_mid):
    C = ratio * C_mid
    assert R(C, R0, A, B, C_mid) == pytest.approx(R0 + (A - R0) / (1 + (C_mid / C) ** B), rel=1e-12)


@pytest.mark.parametrize("B", [1e-3, 1.0, 50.0, 1e4])
@pytest.mark.parametrize("C_mid", [1e-12, 1.0, 1e12])
def test_zero_gives_R0_and_a_huge_compute_stays_finite_without_a_warning(B, C_mid):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = R([0.0, 1e-300, 1.0, 1e30], 0.1, 0.7, B, C_mid)
        assert values[0] == 0.1
        assert np.all(np.isfinite(values)) and np.all(np.diff(values) >= 0.0)
        assert np.all(np.isfinite(gradient([0.0, 1e-300, 1.0, 1e30], 0.1, 0.7, B, C_mid)))
        assert slope(0.0, 0.1, 0.7, B, C_mid) == 0.0


def test_half_of_the_gain_is_reached_at_C_mid():
    assert R(3.0, 0.1, 0.7, 2.5, 3.0) == pytest.approx(0.4, abs=1e-15)


def test_scalars_give_scalars_and_arrays_keep_their_shape():
    assert np.ndim(R(1.0, 0.1, 0.7, 2.0, 3.0)) == 0
    assert R(np.ones((2, 3)), 0.1, 0.7, 2.0, 3.0).shape == (2, 3)
    assert gradient(np.ones((2, 3)), 0.1, 0.7, 2.0, 3.0).shape == (2, 3, 4)


@given(st.floats(1e-2, 1e2), R0S, AS, BS)
def test_gradient_matches_central_differences(C, R0, A, B):
    point, at = np.array([R0, A, B, 1.0]), gradient(C, R0, A, B, 1.0)
    for i in range(4):
        h = 1e-6
        up, down = point.copy(), point.copy()
        up[i], down[i] = point[i] + h, point[i] - h
        assert at[i] == pytest.approx((R(C, *up) - R(C, *down)) / (2 * h), rel=1e-5, abs=1e-8)


@given(st.floats(1e-2, 1e2), R0S, AS, BS)
def test_slope_is_the_derivative_in_log_compute(C, R0, A, B):
    h = 1e-5
    expected = (R(C * math.exp(h), R0, A, B, 1.0) - R(C * math.exp(-h), R0, A, B, 1.0)) / (2 * h)
    assert slope(C, R0, A, B, 1.0) == pytest.approx(expected, rel=1e-4, abs=1e-8)


@given(st.floats(0.02, 0.98), R0S, AS, BS, MIDS)
def test_inverse_undoes_the_value(share, R0, A, B, C_mid):
    target = R0 + share * (A - R0)
    assert R(compute_to(target, R0, A, B, C_mid), R0, A, B, C_mid) == pytest.approx(target, rel=1e-9)


def test_a_target_at_the_ceiling_is_never_reached_and_one_at_the_start_is_free():
    assert compute_to(0.7, 0.1, 0.7, 1.5, 2.0) == math.inf
    assert compute_to(0.9, 0.1, 0.7, 1.5, 2.0) == math.inf
    assert compute_to(0.1, 0.1, 0.7, 1.5, 2.0) == 0.0


def test_what_is_not_a_number_stays_that_like_everywhere_in_numpy():
    """A missing target must not read as one that is never reached, nor a missing curve as one that is there at once."""
    nan, curve = math.nan, (0.1, 0.7, 1.5, 2.0)
    assert np.isnan(compute_to(nan, *curve)) and np.ndim(compute_to(nan, *curve)) == 0
    assert np.array_equal(compute_to([0.05, nan, 0.4, 0.7], *curve), [0.0, nan, 2.0, math.inf], equal_nan=True)
    for i in range(4):
        broken = (*curve[:i], nan, *curve[i + 1 :])
        assert np.isnan(compute_to(0.4, *broken)) and np.isnan(R(3.0, *broken)) and np.isnan(slope(3.0, *broken))
    assert np.isnan(R(nan, *curve)) and np.isnan(slope(nan, *curve)) and np.isnan(gradient(nan, *curve)).all()
    assert compute_to([-math.inf, math.inf], *curve).tolist() == [0.0, math.inf]


def test_a_falling_curve_is_inverted_downwards():
    assert compute_to(0.4, 0.7, 0.1, 1.5, 2.0) == pytest.approx(2.0)
    assert compute_to(0.05, 0.7, 0.1, 1.5, 2.0) == math.inf
    assert compute_to(0.8, 0.7, 0.1, 1.5, 2.0) == 0.0


def test_a_compute_too_large_for_a_float_is_infinity_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute_to(0.7 - 1e-12, 0.1, 0.7, 0.01, 1.0) == math.inf
