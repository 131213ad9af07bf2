"""Every doubt is raised by a run that deserves it and not by its neighbour just inside the threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

import analysis as an
from analysis.curves.leastsquares import Optimum, default_box
from analysis.findings import CODES, finding
from analysis.fits import doubts
from analysis.fits.results import Param
from scalerl.runlog import UserError
from tests.made import TRUE


def codes(found):
    return [f.code for f in found]


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
