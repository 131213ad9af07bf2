"""The batched solver: certified results, bounds, and a problem's independence of its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from analysis.curves.solver import Dense, _solved, minimise
from benchmarks import nist

# From its first start MGH10 follows a long bent valley; two thousand steps do not reach the end.
MISSED = {("MGH10", 0)}


@pytest.mark.parametrize("name", sorted(nist.MODELS))
def test_certified_results_of_nist(name):
    digits = nist.solve(name, iterations=700)
    wanted = 8 if name in {"Rat42", "Rat43", "BoxBOD"} else 6
    for start in (0, 1):
        if (name, start) not in MISSED:
            assert digits.theta[start] >= wanted
            assert digits.standard_error[start] >= 5 or name == "Lanczos1"  # its residuals are rounding, 1e-13


def test_there_are_27_sets():
    assert len(nist.MODELS) == len(list(nist.FOLDER.glob("*.dat"))) == 27


X = np.linspace(0.0, 4.0, 30)


def decays(data: np.ndarray):
    """Model of a batch: amplitude and rate of an exponential decay, one row of data a problem."""

    def model(theta, rows):
        e = np.exp(-theta[:, 1:] * X)
        return Dense(theta[:, :1] * e - data[rows], np.stack([e, -theta[:, :1] * X * e], axis=2))

    return model


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_problem_does_not_notice_its_neighbours(seed):
    rng = np.random.default_rng(seed)
    truth = np.stack([rng.uniform(0.5, 3, 40), rng.uniform(0.1, 3, 40)], axis=1)
    data = truth[:, :1] * np.exp(-truth[:, 1:] * X) + rng.normal(0, 0.05, (40, 30))
    start = np.tile([1.0, 1.0], (40, 1))
    together = minimise(decays(data), start)
    for row in (0, 17, 39):
        alone = minimise(decays(data[row : row + 1]), start[:1])
        assert (alone.theta[0] == together.theta[row]).all() and alone.sse[0] == together.sse[row]
    assert together.converged.all()


def test_the_optimum_is_scipys_with_and_without_bounds():
    rng = np.random.default_rng(1)
    data = 2 * np.exp(-0.7 * X)[None] + rng.normal(0, 0.1, (25, 30))
    for low, high in (([-np.inf, -np.inf], [np.inf, np.inf]), ([0, 0.8], [5, 5]), ([0, 0], [1.5, 5])):
        found = minimise(decays(data), np.tile([1.2, 1.0], (25, 1)), np.array(low), np.array(high))
        assert (found.theta >= low).all() and (found.theta <= high).all() and found.converged.all()
        for row in range(25):
            oracle = least_squares(
                lambda t, row=row: t[0] * np.exp(-t[1] * X) - data[row],
                [1.2, 1.0],
                bounds=(low, high),
                xtol=1e-14,
                ftol=1e-14,
            )
            assert found.sse[row] <= 2 * oracle.cost * (1 + 1e-9)


def test_a_parameter_whose_bounds_are_equal_is_fixed():
    data = 2 * np.exp(-0.7 * X)[None]
    found = minimise(decays(data), np.array([[1.0, 1.0]]), np.array([1.7, -9.0]), np.array([1.7, 9.0]))
    assert found.theta[0, 0] == 1.7
    rates = np.linspace(0.3, 0.9, 60001)
    best = rates[np.argmin([((1.7 * np.exp(-r * X) - data[0]) ** 2).sum() for r in rates])]
    assert found.theta[0, 1] == pytest.approx(best, abs=2e-5)


def test_what_cannot_be_evaluated_is_not_converged_and_stays():
    data = np.stack([2 * np.exp(-0.7 * X), np.full(30, np.nan)])
    found = minimise(decays(data), np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert found.converged.tolist() == [True, False]
    assert found.theta[1].tolist() == [1.0, 1.0] and found.sse[1] == np.inf


def test_steps_that_overflow_are_taken_back():
    def model(theta, _):
        return Dense(np.exp(theta) - 1e-3, np.exp(theta)[:, :, None])

    found = minimise(model, np.array([[-600.0], [5.0]]))
    assert found.theta[1, 0] == pytest.approx(np.log(1e-3)) and np.isfinite(found.theta).all()


def test_one_singular_system_in_a_batch_spoils_no_other():
    """Singular or not hangs on the processor: a run that fitted on one machine ended on another with a traceback."""
    regular = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
    direction = np.array([1.0, 1.0, 0.0])
    matrix, right = np.stack([regular, np.outer(direction, direction)]), np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 0.0]])
    found = _solved(matrix, right)
    assert found[0] == pytest.approx(np.linalg.solve(regular, right[0]), rel=1e-12)
    assert found[1] == pytest.approx([1.0, 1.0, 0.0], abs=1e-12)  # the shortest step that solves it
