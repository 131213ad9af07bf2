"""Limits of every parameter from the F profile: where fixing it raises the sum of squares too far.

A value v of a parameter lies inside the limits at `level` if, with the parameter fixed at v and the others fitted
again, (S(v) / S_min - 1) * dof < F(level; 1, dof). With independent noise this is the definition of
`lmfit.conf_interval`, and the tests hold the two against each other. With correlated noise S is the sum of squares
after whitening by AR(1) noise whose rho maximises the restricted likelihood (`reml_rho`).

Where the curve is not past its midpoint the sum of squares has several valleys, and a descent from the point before can
end in the wrong one: the value then looks excluded and is not. So every value is searched from a grid of starts too. A
limit that is not reached inside the bounds is None.

All limits of all parameters are walked at once, each a row of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import fdtri

from analysis.curves.leastsquares import STARTS, Box, Optimum, Problem
from analysis.curves.projection import fit_many
from analysis.curves.solver import Array, Index
from analysis.curves.whitening import ar1
from analysis.posteriors.noise import spacing

AGREEMENT = 1e-4  # to this share the search over all valleys must give the same excess at a limit
WIDTH = 1e-6  # a limit is found to this share of its distance from the best value
RHOS = np.concatenate([[0.0], np.linspace(0.05, 0.95, 19), [0.98]])
DOUBLINGS, HALVINGS = 40, 80


class BetterOptimumError(Exception):
    """The profile came upon a smaller sum of squares than the fit."""

    def __init__(self, shape: Array) -> None:
        super().__init__()
        self.shape = shape


def correlated(problem: Problem, box: Box, time: Array) -> tuple[Problem, float]:
    """Return the problem whitened by AR(1) noise, and its rho from the restricted likelihood.

    Parameters
    ----------
    problem : Problem
        Not whitened.
    box : Box
    time : (n,) array
        What the correlation decays over.

    Notes
    -----
    -2 log REML = log |R| + log |J' R^-1 J| + (n - p) log S(rho), on a grid of rho and then on a finer one around its
    best.
    """
    gaps = spacing(time)
    steps = np.concatenate([[0.0], np.cumsum(gaps[1:])])
    start = problem.fit(box).theta[2:]
    rhos = RHOS
    best = 0.0
    for width in (0.0, 0.02):
        if width:
            rhos = np.clip(best + width * np.linspace(-1.25, 1.25, 11), 0.0, 0.98)
        scores = _restricted(problem, box, steps, rhos, start)
        best = float(rhos[int(np.argmin(scores))])
    return replace(problem, whitener=ar1(steps, best) if best > 0.0 else None), best


def _restricted(problem: Problem, box: Box, steps: Array, rhos: Array, start: Array) -> Array:
    """-2 log restricted likelihood, (k,), at each rho."""
    k = len(rhos)
    whitener = ar1(steps, rhos)
    found = fit_many(
        problem.log_compute,
        np.broadcast_to(problem.pass_rate, (k, problem.n)),
        whitener=whitener,
        linear_low=box.low[:2],
        linear_high=box.high[:2],
        shape_low=box.low[2:],
        shape_high=box.high[2:],
        start=np.tile(start, (k, 1)),
        starts=0,
    )
    free = np.flatnonzero(box.free)
    scores = np.empty(k)
    for row in range(k):
        own = replace(problem, whitener=whitener.rows(np.array([row])).flat())
        theta = np.concatenate([found.linear[row], found.shape[row]])
        jacobian = own.jacobian(theta)[:, free]
        log_det = float(np.linalg.slogdet(jacobian.T @ jacobian + 1e-12 * np.eye(len(free)))[1])
        log_size = -2.0 * float(np.log(whitener.scale[row]).sum())
        sse = max(float(found.sse[row]), 1e-300)
        scores[row] = log_size + log_det + (problem.n - len(free)) * math.log(sse)
    return scores


def limits(problem: Problem, box: Box, best: Optimum, level: float) -> dict[int, tuple[float | None, float | None]]:
    """Return lower and upper limit of each free parameter of theta, by its position.

    Raises
    ------
    BetterOptimumError
        If the optimum turns out not to be one.
    """
    dof = problem.n - int(box.free.sum())
    allowed = best.sse * float(fdtri(1.0, dof, level)) / dof
    free = np.flatnonzero(box.free)
    index, sign = np.repeat(free, 2), np.tile([-1.0, 1.0], len(free))
    walk = _Walk(problem, box, best, index, math.sqrt(allowed))
    value = best.theta[index]
    end = np.where(sign > 0, box.high[index], box.low[index])
    step = _first_steps(problem, box, best, allowed)[index]
    inside, inside_excess = value.copy(), np.full(len(index), -math.sqrt(allowed))
    outside, outside_excess = np.full(len(index), np.nan), np.full(len(index), np.nan)
    looking = np.ones(len(index), dtype=bool)
    for _ in range(DOUBLINGS):
        rows = np.flatnonzero(looking)
        if not len(rows):
            break
        at = inside[rows] + sign[rows] * step[rows]
        last = (end[rows] - at) * sign[rows] <= 0.0
        at = np.where(last, end[rows], at)
        excess = walk.near(rows, at)
        beyond = excess > 0.0
        if beyond.any():  # nothing is beyond before a search over all valleys says so
            excess[beyond] = walk.anywhere(rows[beyond], at[beyond])
            beyond = excess > 0.0
        outside[rows[beyond]], outside_excess[rows[beyond]] = at[beyond], excess[beyond]
        inside[rows[~beyond]], inside_excess[rows[~beyond]] = at[~beyond], excess[~beyond]
        looking[rows[beyond | last]] = False
        step *= 2.0
    closed = np.isfinite(outside)
    rows = np.flatnonzero(closed)
    root = _roots(walk, walk.near, value, rows, inside, inside_excess, outside, outside_excess)
    if len(rows):
        doubtful = rows[np.abs(walk.anywhere(rows, root[rows])) > AGREEMENT * walk.allowed]
        again = _roots(walk, walk.anywhere, value, doubtful, inside, inside_excess, outside, outside_excess)
        root[doubtful] = again[doubtful]
    found = [float(root[k]) if closed[k] else None for k in range(len(index))]
    return {int(index[k]): (found[k], found[k + 1]) for k in range(0, len(index), 2)}


class _Walk:
    """The profile at some values, each row a side of a parameter; starts from where the row was last."""

    def __init__(self, problem: Problem, box: Box, best: Optimum, index: Index, allowed: float) -> None:
        self.problem, self.box, self.best, self.index, self.allowed = problem, box, best, index, allowed
        self.shape = np.tile(best.theta[2:], (len(index), 1))

    def near(self, rows: Index, at: Array) -> Array:
        """The profile by one descent from where each row was last: quick, and an upper bound. See `anywhere`."""
        return self._excess(rows, at, 0)

    def anywhere(self, rows: Index, at: Array) -> Array:
        """How far the profile lies beyond what is allowed, as a root so that it is nearly straight, (k,)."""
        return self._excess(rows, at, STARTS)

    def _excess(self, rows: Index, at: Array, starts: int) -> Array:
        low, high = (np.tile(side, (len(rows), 1)) for side in (self.box.low, self.box.high))
        each = np.arange(len(rows))
        low[each, self.index[rows]] = high[each, self.index[rows]] = at
        found = self.problem.fit_rows(low, high, self.shape[rows], starts=starts)
        self.shape[rows] = found.shape
        least = int(np.argmin(found.sse))
        if found.sse[least] < self.best.sse * (1.0 - 1e-7):
            raise BetterOptimumError(found.shape[least])
        return np.asarray(np.sqrt(np.maximum(found.sse - self.best.sse, 0.0)) - self.allowed)


def _roots(  # noqa: PLR0917
    walk: _Walk,
    excess_at: Callable[[Index, Array], Array],
    value: Array,
    rows: Index,
    inside: Array,
    at_inside: Array,
    outside: Array,
    at_outside: Array,
) -> Array:
    """Illinois false position in every row: the excess is nearly straight in the parameter, so few fits are needed."""
    root, inside, outside = 0.5 * (inside + outside), inside.copy(), outside.copy()
    weight_inside, weight_outside = at_inside.copy(), at_outside.copy()
    active = rows
    for _ in range(HALVINGS):
        if not len(active):
            break
        a, b = inside[active], outside[active]
        f, g = weight_inside[active], weight_outside[active]
        at = (a * g - b * f) / (g - f)
        excess = excess_at(active, at)
        root[active] = at
        done = (np.abs(excess) <= WIDTH * walk.allowed) | (np.abs(b - a) <= WIDTH * np.abs(b - value[active]))
        beyond = excess > 0.0
        out, into = active[beyond], active[~beyond]
        outside[out], weight_outside[out] = at[beyond], excess[beyond]
        weight_inside[out] *= 0.5
        inside[into], weight_inside[into] = at[~beyond], excess[~beyond]
        weight_outside[into] *= 0.5
        active = active[~done]
    return root


def _first_steps(problem: Problem, box: Box, best: Optimum, allowed: float) -> Array:
    """About the distance of a limit from J'J, where that is a number; the walk doubles it as needed."""
    free = np.flatnonzero(box.free)
    jacobian = problem.jacobian(best.theta)[:, free]
    with np.errstate(all="ignore"):
        covariance = np.linalg.pinv(jacobian.T @ jacobian)
    steps = np.zeros(4)
    guess = np.sqrt(np.maximum(np.diag(covariance), 0.0) * allowed)
    span = (box.high - box.low)[free]
    steps[free] = np.clip(np.where(np.isfinite(guess), guess, 0.0), 1e-9 * span, 0.1 * span)
    return steps
