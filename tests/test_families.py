"""Every family keeps the promises of the one interface: stable, monotone, with its own derivatives and inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analysis.curves import curve
from analysis.curves.families import B_RANGE, FAMILIES, SIGMOID, get_family
from scalerl.runlog import UserError

# Floats that are awkward as computes: nothing, the least float, the largest compute that is promised.
AWKWARD = np.array([0.0, 5e-324, 1e-300, 1e-30, 1e-3, 1.0, 7.0, 1e3, 1e12, 1e24, 1e30])
OF_A_LOG = {
    "B": (0.3, 6.0),
    "B1": (0.05, 3.0),
    "B2": (0.05, 3.0),
    "f": (0.05, 4.0),
    "g": (0.2, 5.0),
    "C_break": (1.0, 100.0),
    "C_mid": (1.0, 100.0),
    "C_s": (1.0, 100.0),
    "C_first": (0.5, 0.5),
    "C_last": (50.0, 50.0),
}
WITH_SHAPE = [name for name, family in FAMILIES.items() if not family.last_only]
WITH_LIMIT = [name for name, family in FAMILIES.items() if family.asymptote]

few = settings(max_examples=12, deadline=None)
every = pytest.mark.parametrize("name", list(FAMILIES))


def shapes(family, ranges=OF_A_LOG):
    """Vectors of the natural shape, uniform in logarithms."""
    logs = [st.floats(*np.log(ranges[name])) for name in family.shape]
    return st.tuples(*logs).map(lambda values: np.exp(np.array(values)))


def curves(family, ranges=OF_A_LOG):
    """Rising curves: P0, P1 and the shape."""
    levels = st.tuples(st.floats(0.0, 0.4), st.floats(0.45, 1.0))
    return st.builds(lambda level, shape: np.concatenate([level, shape]), levels, shapes(family, ranges))


def inside(family, computes):
    """The computes where the family is finite."""
    return computes if family.at_zero else computes[computes > 0.0]


@every
@few
@given(data=st.data())
def test_the_gradient_is_that_of_central_differences(name, data):
    family = get_family(name)
    params = data.draw(curves(family))
    C = np.exp(np.linspace(math.log(0.3), math.log(300.0), 25))
    at = family.gradient(C, params)
    for k in range(len(params)):
        h = 1e-4 * max(abs(params[k]), 0.01)
        moved = [family.value(C, params + j * h * np.eye(len(params))[k]) for j in (-2, -1, 1, 2)]
        numeric = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * h)
        size = np.abs(at[:, k]).max() + 1.0 / max(abs(params[k]), 0.01)
        assert at[:, k] == pytest.approx(numeric, abs=1e-9 * size)


@every
@few
@given(data=st.data())
def test_the_slope_is_the_derivative_in_log_compute(name, data):
    family = get_family(name)
    params = data.draw(curves(family))
    C, h = np.exp(np.linspace(-1.0, 6.0, 25)), 1e-3
    moved = [family.value(C * math.exp(j * h), params) for j in (-2, -1, 1, 2)]
    numeric = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * h)
    assert family.slope(C, params) == pytest.approx(numeric, abs=1e-8 * (1 + np.abs(numeric).max()))


@every
@few
@given(data=st.data())
def test_curves_rise_from_P0_or_minus_infinity_to_their_limit(name, data):
    family = get_family(name)
    params = data.draw(curves(family))
    values = family.value(AWKWARD, params)
    finite = values[np.isfinite(values)]  # some are minus infinity where compute is next to nothing
    assert (np.diff(finite) >= -1e-15 * np.abs(finite[1:])).all()
    if family.last_only:
        assert (values == params[1]).all()
    else:
        assert values[0] == (params[0] if family.at_zero else -math.inf)
    if family.asymptote:
        assert family.limit(params) == params[1] >= values.max() - 1e-15
        assert family.value(1e30, params) == pytest.approx(params[1], abs=0.05)  # B is at least .05: 10^-1.5 is left
    else:
        assert family.limit(params) is None


@every
@few
@given(data=st.data())
def test_nothing_is_lost_or_warned_of_between_0_and_1e30_at_extreme_shapes(name, data):
    """Warnings are errors here."""
    family = get_family(name)
    exponent, compute = (1e-3, 1e4), (1e-12, 1e24)
    extreme = {key: compute if key.startswith("C_") else exponent for key in OF_A_LOG}
    params = data.draw(curves(family, extreme))
    assume(name != "log_linear" or abs(math.log(params[2] / params[3])) > 1e-3)
    C = inside(family, AWKWARD)
    if not family.at_zero:  # before C_first they fall beyond any float; from there on all is finite
        assert not np.isnan(family.value(C, params)).any()
        C = C[params[-1] <= C]
    for found in (family.value(C, params), family.gradient(C, params), family.slope(C, params)):
        assert np.isfinite(found).all()
    levels = np.linspace(params[0], params[1], 7)
    reached = family.compute_to(levels, params)
    assert not np.isnan(reached).any() and (reached >= 0.0).all()


@pytest.mark.parametrize("name", WITH_SHAPE)
@few
@given(data=st.data(), share=st.floats(0.001, 0.999))
def test_the_inverse_undoes_the_value(name, data, share):
    family = get_family(name)
    params = data.draw(curves(family))
    target = params[0] + share * (params[1] - params[0])
    C = family.compute_to(target, params)
    assert family.value(C, params) == pytest.approx(target, rel=1e-10)


def test_the_inverse_goes_through_numbers_beyond_any_float():
    """share^(-1/g) is 10^1000 here, its root that makes the compute is not."""
    params = [0.0, 1.0, 100.0, 3.0, 1e-3]
    C = get_family("ll5").compute_to(0.1, params)
    assert pytest.approx(3.0 * 10.0**-10.0, rel=1e-12) == C
    assert get_family("ll5").value(C, params) == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("name", WITH_LIMIT)
@few
@given(data=st.data())
def test_the_limit_is_never_reached_and_the_start_is_free(name, data):
    family = get_family(name)
    params = data.draw(curves(family))
    assert (family.compute_to([params[1], params[1] + 0.1], params) == math.inf).all()
    below = family.compute_to([params[0] - 0.1, params[0]], params)
    start = params[-1] if not family.at_zero else 0.0
    assert (below <= start * (1 + 1e-12)).all() and below[1] == pytest.approx(start)


@every
@few
@given(data=st.data())
def test_a_falling_curve_is_the_mirror_image(name, data):
    family = get_family(name)
    params = data.draw(curves(family))
    falling = np.concatenate([1.0 - params[:2], params[2:]])
    C = inside(family, AWKWARD)
    assert family.value(C, falling) == pytest.approx(1.0 - family.value(C, params), rel=1e-12, abs=1e-15)
    if not family.last_only:
        target = params[0] + np.array([-0.05, 0.2, 0.7]) * (params[1] - params[0])
        assert family.compute_to(1.0 - target, falling) == pytest.approx(family.compute_to(target, params), rel=1e-9)


@every
@few
@given(data=st.data(), factor=st.floats(1e-9, 1e18))
def test_another_unit_of_compute_scales_the_compute_like_parameters_only(name, data, factor):
    family = get_family(name)
    params = data.draw(curves(family))
    compute_like = np.array([key.startswith("C_") for key in family.parameters])
    scaled = np.where(compute_like, params * factor, params)
    C = np.exp(np.linspace(-1.0, 6.0, 25))
    assert family.value(C * factor, scaled) == pytest.approx(family.value(C, params), rel=1e-9, abs=1e-12)
    level = 0.5 * (params[0] + params[1])
    assert family.compute_to(level, scaled) == pytest.approx(factor * family.compute_to(level, params), rel=1e-9)


@every
def test_starts_and_bounds_move_with_the_unit_of_compute(name):
    family = get_family(name)
    log_c, shift = np.log([0.5, 1.0, 3.0, 8.0]), math.log(1e6)
    moves = np.array([key.startswith("C_") for key in family.shape], dtype=float)
    for before, after in zip(family.bounds(log_c), family.bounds(log_c + shift), strict=True):
        assert after == pytest.approx(before + moves * shift)
    for k, (before, after) in enumerate(zip(family.grid(log_c), family.grid(log_c + shift), strict=True)):
        assert after == pytest.approx(before + moves[k] * shift)


@every
@pytest.mark.parametrize("computes", [[1.0], [1.0, 2.0], list(np.geomspace(1e-3, 1e5, 300))])
def test_starts_are_inside_the_bounds_and_exactly_the_fixed_parameters_are_pinned(name, computes):
    family = get_family(name)
    log_c = np.log(computes)
    (low, high), grid = family.bounds(log_c), family.grid(log_c)
    assert low.shape == high.shape == (len(family.shape),) == (len(grid),)
    pinned = tuple(key for key, a, b in zip(family.shape, low, high, strict=True) if a == b)
    assert pinned == tuple(key for key in family.fixed if key in family.shape)
    for k, axis in enumerate(grid):
        assert (np.diff(axis) > 0).all() and low[k] <= axis[0] and axis[-1] <= high[k]


@every
@few
@given(data=st.data())
def test_rows_of_shapes_and_rows_of_computes_give_what_each_gives_alone(name, data):
    family = get_family(name)
    rows = np.stack([data.draw(curves(family)) for _ in range(3)])
    log_c = np.log(np.exp(np.linspace(-1.0, 4.0, 5)) * np.array([[1.0], [2.0], [3.0]]))
    theta = np.log(rows[:, 2:])
    s, derivatives = family.rise(log_c, theta)
    shared, _ = family.rise(log_c[0], theta)
    assert s.shape == shared.shape == (3, 5) and derivatives.shape == (3, len(family.shape), 5)
    for k in range(3):
        alone, own = family.rise(log_c[k], theta[k : k + 1])
        assert (alone[0] == s[k]).all() and (own[0] == derivatives[k]).all()
    together = family.value(np.exp(log_c[0]), rows)
    assert (together[1] == family.value(np.exp(log_c[0]), rows[1])).all()


@few
@given(data=st.data(), C=st.floats(0.0, 1e30), share=st.floats(-0.2, 1.2))
def test_the_sigmoid_is_the_public_curve(data, C, share):
    params = data.draw(curves(SIGMOID))
    target = params[0] + share * (params[1] - params[0])
    assert SIGMOID.value(C, params) == pytest.approx(curve.R(C, *params), rel=1e-14)
    assert SIGMOID.gradient(C, params) == pytest.approx(curve.gradient(C, *params), rel=1e-12, abs=1e-15)
    assert SIGMOID.slope(C, params) == pytest.approx(curve.slope(C, *params), rel=1e-12, abs=1e-300)
    assert SIGMOID.compute_to(target, params) == pytest.approx(curve.compute_to(target, *params), rel=1e-12)


def formulas(C, shape):
    """The curves from 0 to 1 as they are written in the literature; B and so on are in `shape`."""
    B, C_s, g = shape.get("B", 1.0), shape.get("C_s", 1.0), shape.get("g", 1.0)
    B1, B2, d, f, first = (shape.get(key, 1.0) for key in ("B1", "B2", "C_break", "f", "C_first"))

    def bnsl(x):  # arXiv 2210.14891, equation 1, with a = 0, b = 1
        return x**-B1 * (1 + (x / d) ** (1 / f)) ** (-(B2 - B1) * f)

    return {
        "sigmoid": lambda: 1 / (1 + (shape["C_mid"] / C) ** B),
        "power_law": lambda: 1 - (C / first) ** -B,
        "shifted_power_law": lambda: 1 - (1 + C / C_s) ** -B,
        "gompertz": lambda: np.exp(-math.log(2) * np.exp(-B * np.log(C / shape["C_mid"]))),
        "ll5": lambda: (1 + np.exp(-B * (np.log(C) - math.log(C_s)))) ** -g,
        "stretched_exponential": lambda: 1 - np.exp(-((C / C_s) ** B)),
        "saturating_exponential": lambda: 1 - np.exp(-C / C_s),
        "broken_power_law": lambda: 1 - bnsl(C) / bnsl(first),
        "log_linear": lambda: np.log(C / first) / math.log(shape.get("C_last", 2.0) / first),
    }


@pytest.mark.parametrize("name", WITH_SHAPE)
@few
@given(data=st.data())
def test_the_value_is_the_formula(name, data):
    family = get_family(name)
    shape = data.draw(shapes(family))
    C = np.geomspace(0.5, 200.0, 12)
    with np.errstate(over="ignore"):
        expected = formulas(C, dict(zip(family.shape, shape, strict=True)))[name]()
    assert family.value(C, [0.0, 1.0, *shape]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(data=st.data())
def test_families_that_hold_others(data):
    B, C_s = data.draw(st.floats(0.3, 5)), data.draw(st.floats(0.1, 50))
    C = np.geomspace(0.5, 200.0, 12)
    assert get_family("ll5").value(C, [0.1, 0.7, B, C_s, 1.0]) == pytest.approx(SIGMOID.value(C, [0.1, 0.7, B, C_s]))
    assert get_family("stretched_exponential").value(C, [0.1, 0.7, 1.0, C_s]) == pytest.approx(
        get_family("saturating_exponential").value(C, [0.1, 0.7, C_s])
    )
    assert get_family("broken_power_law").value(C, [0.1, 0.7, B, B, C_s, 0.5, 0.5]) == pytest.approx(
        get_family("power_law").value(C, [0.1, 0.7, B, 0.5])
    )


def test_half_of_the_gain_is_reached_at_every_C_mid():
    for family in FAMILIES.values():
        if "C_mid" in family.shape:
            assert family.value(3.0, [0.1, 0.7, 2.5, 3.0]) == pytest.approx(0.4, abs=1e-15)


def test_the_sigmoids_starts_and_bounds_are_what_fits_were_measured_with():
    log_c = np.log([1.0, 2.0, 4.0])
    low, high = SIGMOID.bounds(log_c)
    assert np.exp(low) == pytest.approx([B_RANGE[0], 1e-3]) and np.exp(high) == pytest.approx([B_RANGE[1], 4e3])
    log_B, mids = SIGMOID.grid(log_c)
    assert len(log_B) == 11 and len(mids) == 32 and mids[0] == -2.0 and mids[-1] == log_c[-1] + 3.0


def test_names_count_and_say_what_is_estimated():
    assert len(FAMILIES) == 10 and next(iter(FAMILIES)) == "sigmoid"
    for name, family in FAMILIES.items():
        assert family.name == name and family.equation.startswith("R = ")
        for key in family.free:
            assert key in family.equation
    assert {name: len(family.free) for name, family in FAMILIES.items()} == {
        "sigmoid": 4,
        "power_law": 3,
        "shifted_power_law": 4,
        "gompertz": 4,
        "ll5": 5,
        "stretched_exponential": 4,
        "saturating_exponential": 3,
        "broken_power_law": 6,
        "log_linear": 2,
        "last_value": 1,
    }


def test_parameters_by_name_or_in_order():
    named = {"C_mid": 2.0, "B": 1.5, "A": 0.7, "R0": 0.1}
    assert SIGMOID.value(2.0, named) == SIGMOID.value(2.0, [0.1, 0.7, 1.5, 2.0]) == pytest.approx(0.4)
    assert np.ndim(SIGMOID.value(2.0, named)) == 0 and SIGMOID.value([[1.0, 2.0]], named).shape == (1, 2)
    assert SIGMOID.gradient([[1.0, 2.0]], named).shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: get_family("sigmiod"), "'sigmiod'.*sigmoid, power_law"),
        (lambda: SIGMOID.value(1.0, {"R0": 0.1, "A": 0.7}), "R0, A, B, C_mid, got R0, A"),
        (lambda: SIGMOID.value(1.0, [0.1, 0.7, 1.5]), "R0, A, B, C_mid"),
        (lambda: SIGMOID.value(1.0, [0.1, 0.7, 0.0, 1.0]), "B, C_mid must be above 0"),
        (lambda: SIGMOID.value(-1.0, [0.1, 0.7, 1.0, 1.0]), "at least 0"),
        (lambda: SIGMOID.value(math.inf, [0.1, 0.7, 1.0, 1.0]), "limit"),
        (lambda: SIGMOID.compute_to(math.nan, [0.1, 0.7, 1.0, 1.0]), "not a number"),
        (lambda: SIGMOID.slope(1.0, [[0.1, 0.7, 1.0, 1.0]]), "one vector"),
        (lambda: get_family("power_law").gradient(0.0, [0.1, 0.7, 1.0, 1.0]), "power_law.*C = 0"),
        (lambda: get_family("log_linear").slope(0.0, [0.1, 0.7, 1.0, 2.0]), "log_linear.*C = 0"),
    ],
)
def test_what_cannot_be_answered_is_said(call, said):
    with pytest.raises(UserError, match=said):
        call()
