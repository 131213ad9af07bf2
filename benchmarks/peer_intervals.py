"""Other methods' 95 % intervals of A on the curves of `benchmarks.simulate`: does each hold the truth?

Curves of one cell share their design in units of C_mid, so a batch is fitted at once. A method that fails on a curve
has not held the truth there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtrit

from analysis.curves.errors import jacobian_covariance
from analysis.curves.families import SIGMOID, Array
from analysis.curves.leastsquares import Problem, default_box
from analysis.curves.projection import Curves, fit_many
from analysis.fits.bootstrap import bootstrap
from analysis.fits.profiles import correlated
from benchmarks.simulate import Simulated

Held = NDArray[np.bool_]
Method = Callable[[Sequence[Simulated]], Held]
REFITS = 500
OPEN = 5.0  # A of the fit as other tools have it: only the law bounds it, not the pass rate


def _batch(curves: Sequence[Simulated]) -> tuple[Array, Array, Array]:
    """ln (C / C_mid) (n,), pass rates (N, n) and true A (N,)."""
    log_c = np.log(curves[0].compute / curves[0].params[3])
    return log_c, np.stack([c.pass_rate for c in curves]), np.array([c.A for c in curves])


def wald(curves: Sequence[Simulated]) -> Held:
    """A +- t standard errors from J'J, as lmfit and scipy report them."""
    log_c, y, truth = _batch(curves)
    found = fit_many(log_c, y, linear_low=-OPEN, linear_high=OPEN)
    dof = len(log_c) - 4
    held = np.zeros(len(curves), dtype=bool)
    for i, params in enumerate(found.natural()):
        covariance = jacobian_covariance(SIGMOID, np.exp(log_c), y[i], params)
        if covariance is not None and np.isfinite(covariance[1, 1]):
            held[i] = abs(params[1] - truth[i]) <= stdtrit(dof, 0.975) * np.sqrt(covariance[1, 1])
    return held


def profile_iid(curves: Sequence[Simulated]) -> Held:
    """F profile for independent noise: is the true A rejected? A stays within [0, 1]."""
    log_c, y, truth = _batch(curves)
    free = fit_many(log_c, y)
    fixed = _held_at(log_c, y, truth, free)
    dof = len(log_c) - 4
    return np.asarray((fixed.sse / free.sse - 1.0) * dof <= fdtri(1, dof, 0.95))


def _held_at(log_c: Array, y: Array, A: Array, free: Curves) -> Curves:
    """Fits with A fixed."""
    low, high = np.zeros((len(A), 2)), np.ones((len(A), 2))
    low[:, 1] = high[:, 1] = A
    return fit_many(log_c, y, linear_low=low, linear_high=high, start=free.shape)


def profile_ar1(curves: Sequence[Simulated]) -> Held:
    """F profile after whitening by AR(1) noise, rho from the restricted likelihood: is the true A rejected?"""
    held = np.zeros(len(curves), dtype=bool)
    for i, curve in enumerate(curves):
        problem, box = Problem(np.log(curve.compute), curve.pass_rate), default_box(curve.compute)
        problem, _ = correlated(problem, box, curve.compute)
        free, fixed = problem.fit(box).sse, problem.fit(box.fix(1, curve.A)).sse
        dof = problem.n - 4
        held[i] = (fixed / free - 1.0) * dof <= fdtri(1, dof, 0.95)
    return held


def _bootstrapped(kind: str) -> Method:
    """Percentile interval of a bootstrap of `REFITS`, seeded by the curve's place in the batch."""

    def method(curves: Sequence[Simulated]) -> Held:
        held = np.zeros(len(curves), dtype=bool)
        for i, curve in enumerate(curves):
            problem, box = Problem(np.log(curve.compute), curve.pass_rate), default_box(curve.compute)
            found = bootstrap(problem, box, problem.fit(box), kind=kind, refits=REFITS, seed=i)
            lower, upper = np.quantile(found.linear[:, 1], [0.025, 0.975])
            held[i] = lower <= curve.A <= upper
        return held

    return method


METHODS: dict[str, Method] = {
    "wald": wald,
    "profile": profile_iid,
    "profile AR1": profile_ar1,
    "residual": _bootstrapped("residual"),
    "block": _bootstrapped("block"),
    "sieve": _bootstrapped("sieve"),
}
