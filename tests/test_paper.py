"""The published grid says where it ends, and a report of any method says what that method did."""

from __future__ import annotations

import numpy as np
import pytest

import analysis as an
from analysis.fits import papergrid
from tests.made import TRUE, codes, noisy


def said(fit, code):
    return [f.message for f in fit.findings if f.code == code]


@pytest.mark.parametrize(("A", "found"), [(0.95, 0.8), (0.3, 0.45)])
def test_a_grid_that_ends_before_the_ceiling_says_so(A, found):
    fit = an.fit(noisy(0, k=6.0, n=40, A=A), method="paper")
    assert fit.params["A"].value == pytest.approx(found)
    assert any(f"A = {found:g}" in what for what in said(fit, "at-bound"))


def test_a_grid_with_the_ceiling_inside_is_at_no_bound_and_says_nothing_of_intervals():
    fit = an.fit(noisy(0, k=6.0, n=40), method="paper")
    assert not {"at-bound", "open-interval", "independent-noise", "correlated-residuals"} & set(codes(fit))
    assert "method-failed" in codes(fit) and all(p.se is None for p in fit.params.values())


def test_the_midpoint_of_the_grids_own_curve_is_looked_at_in_the_unit_of_compute():
    early = an.fit(noisy(0, k=1.0, n=40), method="paper")
    C_mid = early.params["C_mid"].value
    assert early.compute[-1] < 2.0 * C_mid and any(
        f"{2.0 * C_mid:.3g} gpu_hours" in what for what in said(early, "not-past-midpoint")
    )
    assert any("C_mid = 1.6" in what for what in said(early, "at-bound")) == (C_mid == pytest.approx(1.6))


def test_the_report_of_the_grid_is_of_the_grid():
    fit = an.fit(noisy(0, k=6.0, n=40), method="paper")
    report, R0 = fit.report, fit.pass_rate[0]
    assert report["free parameters"] == ["A", "B", "C_mid"] and fit.params["R0"].fixed
    assert report["bounds"] == {
        "R0": f"held at {R0:.4g}", "A": "0.45 to 0.8", "B": "0.05 to 50", "C_mid": "0.024 to 9.6",
    }  # fmt: skip
    assert report["starts"] == "B 0.5, 1.5, 4 in each of 71 x 100 cells" and "sum of squared" in report["loss"]
    residual = fit.predict(fit.compute) - fit.pass_rate
    assert fit.noise["sigma"] == pytest.approx(float(residual @ residual / (fit.n - 3)) ** 0.5, rel=1e-9)
    assert "R0 held" in an.fit(noisy(0, k=6.0), method="paper", r0=0.1).report["method"]
    assert papergrid.Grid().box(12.0, R0).free.tolist() == [False, True, True, True]


def test_the_report_of_the_posterior_is_of_its_priors():
    run = noisy(0, k=6.0)
    fit = an.fit(run)
    bounds, compute = fit.report["bounds"], run.data["gpu_hours"]
    assert bounds["C_mid"] == f"{compute[1] * np.exp(-2.0):.4g} to {compute[-1] * 20.0:.4g}"
    assert bounds["B"] == f"{1.5 * np.exp(-2.45):.4g} to {1.5 * np.exp(2.45):.4g}" and bounds["A"] == "0 to 1"
    assert "normal noise" in fit.report["loss"] and "quadtree" in fit.report["starts"]
    assert fit.report["evaluation noise"] == "share 0, 0.33, 0.67 of the variance, prior weights 0.7, 0.18, 0.12"
    narrow = an.fit(run, priors=an.Priors(C_mid=(0.5, 2.0), ceiling=0.9, log_B=(0.0, 0.1)), r0=TRUE["R0"])
    assert narrow.report["bounds"] == {
        "R0": "held at 0.12", "A": "0 to 0.9", "B": f"{np.exp(-0.35):.4g} to {np.exp(0.35):.4g}",
        "C_mid": f"{0.5 * compute[1]:.4g} to {2.0 * compute[-1]:.4g}",
    }  # fmt: skip


def test_counts_are_said_to_give_the_evaluations_own_noise():
    fit = an.fit(an.read("data/runs")[0])
    assert fit.report["evaluation noise"] == "variance of each evaluation known from its counts"


def test_the_report_of_the_profile_names_its_noise():
    run = noisy(0, k=6.0)
    assert an.fit(run, method="profile").report["loss"] == "generalised least squares under AR(1) noise"
    for options in ({"method": "profile", "correlated": False}, {"method": "lsq"}, {"level": None}):
        report = an.fit(run, **options).report
        assert (
            report["loss"] == "sum of squared residuals, every evaluation with weight 1" and "grid" in report["starts"]
        )
        assert "evaluation noise" not in report
