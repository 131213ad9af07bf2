"""The reach keeps to either side of the mean curve what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.curves.leastsquares import Problem, default_box
from analysis.fits import bootstrap
from analysis.fits.reach import half_widths, reach
from analysis.posteriors.draws import Draws
from tests.made import noisy


def ceilings(A):
    """Draws of curves that are at their ceilings at any compute."""
    A = np.asarray(A)
    one = np.ones(len(A))
    return Draws(0.1 * one, A, one, 1e-12 * one, 0.0 * one, 0.01 * one, one / len(A))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_band_that_is_wider_on_one_side_is_measured_there(sign):
    """Half of such a band is .015 wide, but one limit is .03 from the middle."""
    draws = ceilings(0.6 + sign * 0.03 * (np.arange(100) >= 90))
    assert half_widths(draws, 1.0, np.array([1.0, 10.0])) == pytest.approx([0.03, 0.03], abs=1e-6)
    assert reach(draws, 1.0, tolerance=0.02) == 1.0 and reach(draws, 1.0, tolerance=0.031) == 100.0


def test_where_R0_is_held_the_bootstrap_counts_the_parameters_that_are_free(monkeypatch):
    run = noisy(0, k=4.0)
    with np.errstate(divide="ignore"):
        problem = Problem(np.log(run.data["gpu_hours"]), run.data["pass_rate"])
    counted, real = [], bootstrap.resample

    def spy(residual, free, *rest):
        counted.append(free)
        return real(residual, free, *rest)

    monkeypatch.setattr(bootstrap, "resample", spy)
    box = default_box(run.data["gpu_hours"])
    for held in (box, box.fix(0, 0.12)):
        bootstrap.bootstrap(problem, held, problem.fit(held), refits=2)
    assert counted == [4, 3]
