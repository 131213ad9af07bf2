"""Batched non-linear least squares: Levenberg-Marquardt on many problems of one shape at once.

Promises: every problem descends on its own, so that one alone and the same one among a hundred thousand give the same
answer; parameters stay inside their bounds; a start that cannot be evaluated is not converged and stays where it was.
Finds the optimum that a start leads to, not the best of all.

Shapes: N problems, n residuals, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Model = Callable[[Array, Index], tuple[Array, Array]]
"""Of parameters (m, p) and the numbers (m,) of their problems: residuals (m, n) and Jacobians (m, n, p)."""

# A large first damping keeps the first steps short: from far away a full step can end where a parameter has no effect
# any more (BoxBOD from its first start). Below the least damping a step is Gauss-Newton's to rounding.
START_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e3, 1e-15, 1e16
POLISH = 3  # undamped steps at the end, where sums of squares differ by rounding only and cannot steer
ROUNDING = 1e-9


@dataclass(frozen=True)
class Solution:
    """Where the descents ended: parameters (N, p), sums of squares (N,), steps tried (N,), and which converged (N,)."""

    theta: Array
    sse: Array
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def minimise(
    model: Model,
    start: Array,
    low: Array | float = -np.inf,
    high: Array | float = np.inf,
    *,
    tolerance: float = 1e-13,
    iterations: int = 200,
) -> Solution:
    """Minimise the sum of squared residuals of each problem from its start.

    Parameters
    ----------
    model : callable
        Residuals and Jacobians of some of the problems; see `Model`.
    start : (N, p) array
    low, high : arrays that broadcast to (N, p)
        Bounds; a parameter with both equal is fixed.
    tolerance : float
        A descent has converged when no step can lower its sum of squares by more than this share.
    iterations : int
        Steps tried before a problem is given up as not converged.

    Returns
    -------
    Solution

    Notes
    -----
    Marquardt's scaling by column norms and Nielsen's rule for the damping (Madsen, Nielsen and Tingleff 2004, "Methods
    for non-linear least squares problems"). Steps come from a singular value decomposition of the scaled Jacobian:
    normal equations would square its condition and cost half of the digits on hard problems.

    Examples
    --------
    >>> x = np.linspace(0, 1, 9)
    >>> def exponential(theta, problems):
    ...     e = np.exp(theta[:, 1:] * x)
    ...     return theta[:, :1] * e - 2 * np.exp(-3 * x), np.stack([e, theta[:, :1] * x * e], axis=2)
    >>> minimise(exponential, np.array([[1.0, -1.0], [5.0, 0.0]])).theta.round(9).tolist()
    [[2.0, -3.0], [2.0, -3.0]]
    """
    state = _State(model, np.asarray(start, dtype=float), low, high)
    problems, p = state.theta.shape
    damping, growth = np.full(problems, START_DAMPING), np.full(problems, 2.0)
    scale = np.zeros((problems, p))
    tried, converged = np.zeros(problems, dtype=np.int64), np.zeros(problems, dtype=bool)
    active = np.flatnonzero(np.isfinite(state.sse))
    for _ in range(iterations):
        if not len(active):
            break
        scale[active] = np.maximum(scale[active], np.linalg.norm(state.jacobian[active], axis=1))
        trial, promised = state.step(active, scale[active], damping[active])
        residual, jacobian, sse = _evaluate(model, trial, active)
        tried[active] += 1
        gain = state.sse[active] - sse
        better = gain > 0
        done = promised <= tolerance * state.sse[active]
        ratio = np.divide(gain, promised, out=np.zeros_like(gain), where=better & (promised > 0))
        good, bad = active[better], active[~better]
        state.accept(good, trial[better], residual[better], jacobian[better], sse[better])
        eased = np.maximum(1 / 3, 1 - (2 * np.minimum(ratio[better], 2.0) - 1) ** 3)
        damping[good] = np.maximum(damping[good] * eased, LEAST_DAMPING)
        growth[good] = 2.0
        damping[bad] *= growth[bad]
        growth[bad] *= 2.0
        converged[active[done]] = True
        active = active[~done & (damping[active] < MOST_DAMPING)]
    state.polish(np.flatnonzero(converged))
    return Solution(state.theta, state.sse, tried, converged)


class _State:
    """Parameters (N, p), residuals (N, n), Jacobians (N, n, p) and sums of squares (N,) of all problems."""

    def __init__(self, model: Model, start: Array, low: Array | float, high: Array | float) -> None:
        self.model = model
        self.low = np.broadcast_to(np.asarray(low, dtype=float), start.shape)
        self.high = np.broadcast_to(np.asarray(high, dtype=float), start.shape)
        self.theta = np.clip(start, self.low, self.high)
        self.residual, self.jacobian, self.sse = _evaluate(model, self.theta, np.arange(len(start)))

    def step(self, rows: Index, scale: Array, damping: Array) -> tuple[Array, Array]:
        """Return damped steps' ends (m, p) inside the bounds, and what the linear model says they gain (m,)."""
        theta, jacobian, residual = self.theta[rows], self.jacobian[rows], self.residual[rows]
        gradient = np.einsum("mnp,mn->mp", jacobian, residual)
        # A parameter on a bound that wants to leave stays there for this step.
        held = (theta <= self.low[rows]) & (gradient >= 0) | (theta >= self.high[rows]) & (gradient <= 0)
        width = np.where(scale > 0, scale, 1.0)
        scaled = np.where(held[:, None], 0.0, jacobian / width[:, None])
        trial = np.clip(theta + _damped(scaled, residual, damping) / width, self.low[rows], self.high[rows])
        linear = residual + np.einsum("mnp,mp->mn", jacobian, trial - theta)
        return trial, self.sse[rows] - np.einsum("mn,mn->m", linear, linear)

    def accept(self, rows: Index, theta: Array, residual: Array, jacobian: Array, sse: Array) -> None:
        self.theta[rows], self.residual[rows], self.jacobian[rows], self.sse[rows] = theta, residual, jacobian, sse

    def polish(self, rows: Index) -> None:
        """Take undamped steps as long as they change the sums of squares by no more than rounding."""
        for _ in range(POLISH):
            if not len(rows):
                return
            trial, _ = self.step(rows, np.linalg.norm(self.jacobian[rows], axis=1), np.zeros(len(rows)))
            residual, jacobian, sse = _evaluate(self.model, trial, rows)
            level = sse <= self.sse[rows] * (1 + ROUNDING)
            rows = rows[level]
            self.accept(rows, trial[level], residual[level], jacobian[level], sse[level])


def _evaluate(model: Model, theta: Array, rows: Index) -> tuple[Array, Array, Array]:
    """Return residuals, Jacobians and sums of squares; the sum is infinite where anything is not finite."""
    with np.errstate(all="ignore"):
        residual, jacobian = model(theta, rows)
        sse = np.einsum("mn,mn->m", residual, residual)
        whole = np.isfinite(sse) & np.isfinite(jacobian).all(axis=(1, 2))
    return residual, jacobian, np.where(whole, sse, np.inf)


def _damped(jacobian: Array, residual: Array, damping: Array) -> Array:
    """Minimise ``|J d + r|^2 + damping |d|^2`` over d, (m, p); directions without effect are left alone."""
    u, s, vt = np.linalg.svd(jacobian, full_matrices=False)
    inverse = np.divide(
        s, s**2 + damping[:, None], out=np.zeros_like(s), where=s > np.maximum(1e-15 * s[:, :1], 1e-150)
    )
    step: Array = np.einsum("mpq,mp->mq", vt, np.einsum("mnp,mn->mp", u, residual) * inverse)
    return -step
