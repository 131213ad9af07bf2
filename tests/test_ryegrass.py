"""The published fit of drc's standard example, figure by figure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from analysis.curves.errors import jacobian_covariance, standard_errors
from analysis.curves.families import SIGMOID
from benchmarks import ryegrass


@pytest.fixture(scope="module")
def rows():
    return {row.name: row for row in ryegrass.compute()}


@pytest.mark.parametrize("name", sorted(ryegrass.PUBLISHED))
def test_published_figure(rows, name):
    assert rows[name].agrees, rows[name]


@pytest.mark.parametrize("name", sorted(ryegrass.EXACT))
def test_figure_of_40_digit_arithmetic(rows, name):
    assert rows[name].computed == pytest.approx(ryegrass.EXACT[name], rel=1e-7)


def test_a_figure_two_units_away_does_not_agree():
    row = ryegrass.Row("x", 1.23456, "1.2345")
    assert row.agrees and not row._replace(computed=1.23471).agrees
    assert not row._replace(computed=float("nan")).agrees


def test_errors_from_the_jacobian_are_scipys():
    conc, length = ryegrass.load()
    start = [ryegrass.EXACT[name] for name in SIGMOID.parameters]
    params, covariance = curve_fit(
        lambda C, *p: SIGMOID.value(C, p),
        conc,
        length,
        start,
        jac=lambda C, *p: SIGMOID.gradient(C, p),
        xtol=1e-14,
        ftol=1e-14,
    )
    ours = standard_errors(jacobian_covariance(SIGMOID, conc, length, params))
    assert ours == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-9)


def test_the_table_prints_and_says_that_all_agree(capsys):
    assert ryegrass.main() == 0
    assert f"{len(ryegrass.PUBLISHED)} of {len(ryegrass.PUBLISHED)} agree" in capsys.readouterr().out
