"""Batched non-linear least squares: Levenberg-Marquardt on many problems of one shape at once.

Promises: every problem descends on its own, so that one alone and the same one among a hundred thousand give the same
answer; parameters stay inside their bounds; a start that cannot be evaluated is not converged and stays where it was.
Finds the optimum that a start leads to, not the best of all.

One loop serves two kinds of model. `Dense` hands over residuals and Jacobians and takes its steps from a singular value
decomposition, which keeps all digits of hard problems; `Normal` hands over the gradient and the normal matrix, which
for two or three parameters is several times faster and accurate enough once the linear parameters are projected out.

Shapes: N problems, n residuals, p parameters; m of the N problems are looked at together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

# A large first damping keeps the first steps short: from far away a full step can end where a parameter has no effect
# any more (BoxBOD from its first start). Below the least damping a step is Gauss-Newton's to rounding.
START_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e3, 1e-15, 1e16
SURE = 1e-7  # damping up to which a step that promises little means that there is little to gain
POLISH = 3  # undamped steps at the end, where sums of squares differ by rounding only and cannot steer
ROUNDING = 1e-9


class Local(Protocol):
    """What a model says of m problems around their parameters."""

    sse: Array  # (m,)

    def gradient(self) -> Array:
        """Half the gradient of the sum of squares, (m, p)."""

    def norms(self) -> Array:
        """Norms of the Jacobian's columns, (m, p)."""

    def step(self, held: Mask, width: Array, damping: Array) -> Array:
        """Damped step (m, p) that leaves the held parameters (m, p) alone; `width` (m, p) scales the damping (m,)."""

    def linear_sse(self, step: Array) -> Array:
        """Sum of squares (m,) that the linear model expects after a step."""

    def take(self, rows: Index | Mask) -> Self:
        """The same of some rows."""

    def put(self, rows: Index, other: Self) -> None:
        """Overwrite rows."""


@dataclass
class Dense:
    """Residuals (m, n) and Jacobians (m, n, p)."""

    residual: Array
    jacobian: Array

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):
            sse = np.einsum("mn,mn->m", self.residual, self.residual)
            whole = np.isfinite(sse) & np.isfinite(self.jacobian).all(axis=(1, 2))
        self.sse: Array = np.where(whole, sse, np.inf)

    def gradient(self) -> Array:
        return np.asarray(np.einsum("mnp,mn->mp", self.jacobian, self.residual))

    def norms(self) -> Array:
        return np.asarray(np.linalg.norm(self.jacobian, axis=1))

    def step(self, held: Mask, width: Array, damping: Array) -> Array:
        scaled = np.where(held[:, None], 0.0, self.jacobian / width[:, None])
        return _damped(scaled, self.residual, damping) / width

    def linear_sse(self, step: Array) -> Array:
        linear = self.residual + np.einsum("mnp,mp->mn", self.jacobian, step)
        return np.asarray(np.einsum("mn,mn->m", linear, linear))

    def take(self, rows: Index | Mask) -> Dense:
        return Dense(self.residual[rows], self.jacobian[rows])

    def put(self, rows: Index, other: Dense) -> None:
        self.residual[rows], self.jacobian[rows], self.sse[rows] = other.residual, other.jacobian, other.sse


@dataclass
class Normal:
    """Sums of squares (m,), half gradients J'r (m, p) and normal matrices J'J (m, p, p). A row that could not be
    evaluated has an infinite sum of squares."""

    sse: Array
    half_gradient: Array
    matrix: Array

    def gradient(self) -> Array:
        return self.half_gradient

    def norms(self) -> Array:
        return np.asarray(np.sqrt(np.maximum(np.einsum("mpp->mp", self.matrix), 0.0)))

    def step(self, held: Mask, width: Array, damping: Array) -> Array:
        scaled: Array = self.matrix / (width[:, :, None] * width[:, None, :])
        down = np.where(held, 0.0, -self.half_gradient / width)
        scaled[held[:, :, None] | held[:, None, :]] = 0.0
        # Rounding leaves a normal matrix singular where a parameter has no effect; 1e-15 of its size breaks the tie.
        diagonal = np.einsum("mpp->mp", scaled)
        diagonal += damping[:, None] + 1e-15 * np.maximum(diagonal, 1.0) + held
        return np.asarray(_solved(scaled, down) / width)

    def linear_sse(self, step: Array) -> Array:
        curved = np.einsum("mp,mpq,mq->m", step, self.matrix, step)
        return np.asarray(self.sse + 2.0 * np.einsum("mp,mp->m", step, self.half_gradient) + curved)

    def take(self, rows: Index | Mask) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Index, other: Self) -> None:
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)


Model = Callable[[Array, Index], Local]
"""Of parameters (m, p) and the numbers (m,) of their problems: what the model says there."""


@dataclass(frozen=True)
class Solution:
    """Where the descents ended: parameters (N, p), sums of squares (N,), steps tried (N,), which converged (N,), and
    what the model said there."""

    theta: Array
    sse: Array
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    local: Local


def minimise(
    model: Model,
    start: Array,
    low: Array | float = -np.inf,
    high: Array | float = np.inf,
    *,
    tolerance: float = 1e-13,
    iterations: int = 200,
    damping: float = START_DAMPING,
    longest: float = np.inf,
    polish: int = POLISH,
    sure: float = SURE,
) -> Solution:
    """Minimise the sum of squared residuals of each problem from its start.

    Parameters
    ----------
    model : callable
        Local models of some of the problems; see `Model`.
    start : (N, p) array
    low, high : arrays that broadcast to (N, p)
        Bounds; a parameter with both equal is fixed.
    tolerance : float
        A descent has converged when no step can lower its sum of squares by more than this share.
    iterations : int
        Steps tried before a problem is given up as not converged.
    damping : float
        First damping; small where the starts are good.
    longest : float
        Largest change of a parameter in one step.
    polish : int
        Undamped steps at the end.
    sure : float
        Damping up to which a step that promises little ends a descent.

    Returns
    -------
    Solution

    Notes
    -----
    Marquardt's scaling by column norms and Nielsen's rule for the damping (Madsen, Nielsen and Tingleff 2004, "Methods
    for non-linear least squares problems").

    Examples
    --------
    >>> x = np.linspace(0, 1, 9)
    >>> def exponential(theta, problems):
    ...     e = np.exp(theta[:, 1:] * x)
    ...     return Dense(theta[:, :1] * e - 2 * np.exp(-3 * x), np.stack([e, theta[:, :1] * x * e], axis=2))
    >>> minimise(exponential, np.array([[1.0, -1.0], [5.0, 0.0]])).theta.round(9).tolist()
    [[2.0, -3.0], [2.0, -3.0]]
    """
    state = _State(model, np.asarray(start, dtype=float), low, high, longest)
    problems, p = state.theta.shape
    dampings, growth = np.full(problems, damping), np.full(problems, 2.0)
    scale = np.zeros((problems, p))
    tried, converged = np.zeros(problems, dtype=np.int64), np.zeros(problems, dtype=bool)
    active = np.flatnonzero(np.isfinite(state.local.sse))
    for _ in range(iterations):
        if not len(active):
            break
        here = state.local.take(active)
        scale[active] = np.maximum(scale[active], here.norms())
        trial, promised = state.step(here, active, scale[active], dampings[active])
        tried[active] += 1
        small = np.abs(promised) <= tolerance * here.sse  # cut at a bound a step may even promise a loss
        done = small & (dampings[active] <= sure)
        converged[active[done]] = True
        if done.any():
            left = ~done
            active, trial, promised, small = active[left], trial[left], promised[left], small[left]
            if not len(active):
                break
        sse = state.local.sse[active]
        there = state.evaluate(trial, active)
        gain = sse - there.sse
        better = gain > 0
        ratio = np.divide(gain, promised, out=np.zeros_like(gain), where=better & (promised > 0))
        before = dampings[active]
        good, bad = active[better], active[~better]
        state.accept(good, trial[better], there.take(better))
        eased = np.maximum(1 / 3, 1 - (2 * np.minimum(ratio[better], 2.0) - 1) ** 3)
        dampings[good] = np.maximum(dampings[good] * eased, LEAST_DAMPING)
        growth[good] = 2.0
        dampings[bad] *= growth[bad]
        growth[bad] *= 2.0
        # A damped step that promises little may only be too short for a flat valley: look again with less damping.
        dampings[active[small]] = np.minimum(before[small], sure)
        active = active[dampings[active] < MOST_DAMPING]
    state.polish(np.flatnonzero(converged), polish)
    return Solution(state.theta, state.local.sse, tried, converged, state.local)


class _State:
    """Parameters (N, p) of all problems and what the model says there."""

    def __init__(self, model: Model, start: Array, low: Array | float, high: Array | float, longest: float) -> None:
        self.model, self.longest = model, longest
        self.low = np.broadcast_to(np.asarray(low, dtype=float), start.shape)
        self.high = np.broadcast_to(np.asarray(high, dtype=float), start.shape)
        self.theta = np.clip(start, self.low, self.high)
        self.local = self.evaluate(self.theta, np.arange(len(start)))

    def evaluate(self, theta: Array, rows: Index) -> Local:
        with np.errstate(all="ignore"):
            return self.model(theta, rows)

    def step(self, here: Local, rows: Index, scale: Array, damping: Array) -> tuple[Array, Array]:
        """Return damped steps' ends (m, p) inside the bounds, and what the linear model says they gain (m,)."""
        theta, low, high = self.theta[rows], self.low[rows], self.high[rows]
        gradient = here.gradient()
        # A parameter on a bound that wants to leave stays there for this step.
        held = (theta <= low) & (gradient >= 0) | (theta >= high) & (gradient <= 0)
        step = here.step(held, np.where(scale > 0, scale, 1.0), damping)
        if np.isfinite(self.longest):
            step = step * np.minimum(1.0, self.longest / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]
        trial = np.clip(theta + step, low, high)
        return trial, here.sse - here.linear_sse(trial - theta)

    def accept(self, rows: Index, theta: Array, local: Local) -> None:
        self.theta[rows] = theta
        self.local.put(rows, local)

    def polish(self, rows: Index, steps: int) -> None:
        """Take undamped steps as long as they change the sums of squares by no more than rounding."""
        for _ in range(steps):
            if not len(rows):
                return
            here = self.local.take(rows)
            trial, _ = self.step(here, rows, here.norms(), np.zeros(len(rows)))
            there = self.evaluate(trial, rows)
            level = there.sse <= here.sse * (1 + ROUNDING)
            rows = rows[level]
            self.accept(rows, trial[level], there.take(level))


def _solved(matrix: Array, right: Array) -> Array:
    """Solve (m, p, p) systems; two equations by Cramer's rule, which costs a tenth of the general call."""
    if right.shape[1] != 2:
        try:
            return np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0])
        except np.linalg.LinAlgError:  # one exactly singular matrix, and which one is hangs on the processor's rounding
            size, axes = np.linalg.eigh(matrix)
            along = np.einsum("mqp,mq->mp", axes, right)
            share = np.divide(along, size, out=np.zeros_like(along), where=size > 1e-14 * size[:, -1:])
            return np.asarray(np.einsum("mpq,mq->mp", axes, share))
    (a, b), (c, d) = matrix.transpose(1, 2, 0)
    e, f = right.T
    return np.asarray(np.stack([d * e - b * f, a * f - c * e], axis=1) / (a * d - b * c)[:, None])


def _damped(jacobian: Array, residual: Array, damping: Array) -> Array:
    """Minimise ``|J d + r|^2 + damping |d|^2`` over d, (m, p); directions without effect are left alone."""
    u, s, vt = np.linalg.svd(jacobian, full_matrices=False)
    inverse = np.divide(
        s, s**2 + damping[:, None], out=np.zeros_like(s), where=s > np.maximum(1e-15 * s[:, :1], 1e-150)
    )
    step: Array = np.einsum("mpq,mp->mq", vt, np.einsum("mnp,mn->mp", u, residual) * inverse)
    return -step
