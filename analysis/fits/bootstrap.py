"""Bootstraps of a fitted curve: resampled residuals, moving blocks, and an AR(1) sieve.

Promises: a thousand refits in well under a second, through the same solver as the fit; the answer depends on the seed
alone. Does not promise coverage: on simulated curves whose neighbouring evaluations have a correlation of .7 intervals
of A hold the truth in 56 to 80 % (residuals), 60 to 91 % (blocks) and 66 to 97 % (sieve); see docs/methods.md.
They are here so that a number can be checked against what others use.
"""

from __future__ import annotations

import numpy as np

from analysis.curves.leastsquares import Box, Optimum, Problem
from analysis.curves.projection import Curves, fit_many
from analysis.curves.solver import Array

KINDS = ("sieve", "residual", "block")
REFITS = 1000


def bootstrap(
    problem: Problem, box: Box, best: Optimum, *, kind: str = "sieve", refits: int = REFITS, seed: int = 0
) -> Curves:
    """Refit the curve to data made of its fitted values and resampled residuals.

    Parameters
    ----------
    problem : Problem
        Not whitened.
    box : Box
    best : Optimum
        The fit of `problem` in `box`.
    kind : {"sieve", "residual", "block"}
        An AR(1) process fitted to the residuals with resampled innovations; independent draws of residuals; moving
        blocks of n^(1/3) residuals.
    refits, seed : int

    Returns
    -------
    Curves
        One row a refit.
    """
    residual = -problem.residual(best.theta)
    fitted = problem.pass_rate - residual
    noise = resample(residual, int(box.free.sum()), kind, refits, np.random.default_rng(seed))
    return fit_many(
        problem.log_compute,
        fitted + noise,
        linear_low=box.low[:2],
        linear_high=box.high[:2],
        shape_low=box.low[2:],
        shape_high=box.high[2:],
        start=np.tile(best.theta[2:], (refits, 1)),
        starts=1,
    )


def resample(residual: Array, free: int, kind: str, count: int, rng: np.random.Generator) -> Array:
    """Noise that looks like the residuals, (count, n).

    Residuals are centred and stretched by sqrt(n / (n - free)), because a fit leaves less than the noise.

    Examples
    --------
    >>> made = resample(np.array([1.0, -1.0, 1.0, -1.0]), 0, "residual", 5000, np.random.default_rng(0))
    >>> made.shape, abs(float(made.std()) - 1.0) < 0.01
    ((5000, 4), True)
    """
    n = len(residual)
    e = (residual - residual.mean()) * np.sqrt(n / max(n - free, 1))
    if kind == "residual":
        return np.asarray(rng.choice(e, (count, n)))
    if kind == "block":
        length = max(1, round(n ** (1.0 / 3.0)))
        blocks = -(-n // length)
        first = rng.integers(0, n - length + 1, (count, blocks))
        return np.asarray(e[first[:, :, None] + np.arange(length)].reshape(count, -1)[:, :n])
    total = float(e @ e)
    rho = float(np.clip(e[1:] @ e[:-1] / total, 0.0, 0.99)) if total > 0.0 else 0.0
    innovation = e[1:] - rho * e[:-1]
    innovation = innovation - innovation.mean()
    made = rng.choice(innovation, (count, n))
    made[:, 0] = rng.choice(e, count)
    for i in range(1, n):
        made[:, i] += rho * made[:, i - 1]
    return np.asarray(made)
