"""Bounded least squares for the law, from starts that the data give: the one place that minimises.

Promises: the smallest sum of squares among all starts; every parameter inside its `Box`; the same answer for the
points in any order and for compute in any unit (C_mid scales with it). Plain numpy, because this also runs inside
every profile, and because importing scipy.optimize or lmfit takes longer than all the fits of a report.

The shape parameters are worked in logarithms, theta = (R0, A, ln B, ln C_mid). Given the last two the law is linear in
the first two, so a coarse grid over the shape with the linear part solved gives starts that no guess could miss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NAMES = ("R0", "A", "B", "C_mid")  # order of theta

B_RANGE = (0.05, 50.0)  # below: a straight line in ln C; above: a step. Neither can be told from its neighbours.
C_MID_MARGIN = 1000.0  # C_mid lies between the first positive compute / 1000 and 1000 x the last one
START_POINTS = 300  # more points than this only slow the choice of starts
MIDPOINTS = 30  # midpoints tried over the data, and as many between neighbours
STARTS = 8
_LOG_B = np.log([0.2, 0.4, 0.7, 1.0, 1.5, 2.2, 3.3, 5.0, 8.0, 15.0, 40.0])
ITERATIONS = 200
PRECISION = 1e-13  # a descent ends when the next step cannot lower the sum of squares by this share


@dataclass(frozen=True)
class Box:
    """Lower and upper limits of theta, shape (4,) each; a fixed parameter has both equal."""

    low: Array
    high: Array

    def fix(self, index: int, value: float) -> Box:
        """Return the box with one parameter fixed."""
        low, high = self.low.copy(), self.high.copy()
        low[index] = high[index] = value
        return Box(low, high)

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which parameters may move."""
        return self.high > self.low


def default_box(compute: Array) -> Box:
    """Return the limits: R0 and A in [0, 1], B in `B_RANGE`, C_mid `C_MID_MARGIN` around the positive compute."""
    positive = compute[compute > 0.0]
    first, last = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    low = [0.0, 0.0, np.log(B_RANGE[0]), np.log(first) - np.log(C_MID_MARGIN)]
    high = [1.0, 1.0, np.log(B_RANGE[1]), min(np.log(last) + np.log(C_MID_MARGIN), 700.0)]  # e^700 is finite
    return Box(np.array(low), np.array(high))


class Problem:
    """Points to fit, shape (n,) each; `log_compute` is -inf at compute 0."""

    def __init__(self, compute: Array, pass_rate: Array) -> None:
        with np.errstate(divide="ignore"):
            self.log_compute = np.log(compute)
        self.pass_rate = pass_rate
        self.n = len(pass_rate)

    def residual(self, theta: Array) -> Array:
        """Fitted minus observed, shape (n,)."""
        s = _logistic(np.exp(theta[2]) * (self.log_compute - theta[3]))
        return np.asarray(theta[0] * (1.0 - s) + theta[1] * s - self.pass_rate)

    def sse(self, theta: Array) -> float:
        """Sum of squared residuals."""
        r = self.residual(theta)
        return float(r @ r)

    def jacobian(self, theta: Array) -> Array:
        """d residual / d theta, shape (n, 4)."""
        odds = np.exp(theta[2]) * (self.log_compute - theta[3])
        s, rest = _logistic(odds), _logistic(-odds)
        bend = (theta[1] - theta[0]) * s * rest
        return np.stack([rest, s, bend * np.where(np.isfinite(odds), odds, 0.0), -bend * np.exp(theta[2])], axis=1)


@dataclass(frozen=True)
class Optimum:
    """Where the sum of squares is smallest, and the start that led there."""

    theta: Array
    sse: float
    start: Array


def minimise(
    problem: Problem, box: Box, more_starts: tuple[Array, ...] = (), *, precision: float = PRECISION
) -> Optimum:
    """Return the best optimum over starts from a grid of shapes, and over `more_starts`."""
    found = []
    for start in (*starts(problem, box), *more_starts):
        theta, sse = descend(problem, box, start, precision=precision)
        found.append(Optimum(theta, sse, start))
    return min(found, key=lambda optimum: optimum.sse)


def starts(problem: Problem, box: Box) -> list[Array]:
    """Return the local minima of a grid over (ln B, ln C_mid), with R0 and A solved for; best first."""
    log_c, y = problem.log_compute, problem.pass_rate
    if problem.n > START_POINTS:
        thin = np.argsort(log_c, kind="stable")[np.linspace(0, problem.n - 1, START_POINTS).astype(int)]
        log_c, y = log_c[thin], y[thin]
    log_b, log_mid = _axis(_LOG_B, box, 2), _axis(_log_mids(log_c, box), box, 3)
    shapes = np.stack(np.meshgrid(log_b, log_mid, indexing="ij"), axis=-1).reshape(-1, 2)
    s = _logistic(np.exp(shapes[:, :1]) * (log_c - shapes[:, 1:]))  # (cells, n)
    r0, a = _linear_part(s, y, box)
    sse = ((r0[:, None] * (1.0 - s) + a[:, None] * s - y) ** 2).sum(axis=1)
    lowest = _local_minima(sse.reshape(len(log_b), len(log_mid))).ravel()
    best = sorted(np.flatnonzero(lowest), key=lambda cell: float(sse[cell]))[:STARTS]
    return [np.array([r0[cell], a[cell], *shapes[cell]]) for cell in best]


def _log_mids(log_c: Array, box: Box) -> Array:
    """Midpoints to try: evenly over the data and beyond, and between neighbours, where a sharp step would lie."""
    positive = np.unique(log_c[np.isfinite(log_c)])
    if not len(positive):
        return box.low[3:4]
    between = 0.5 * (positive[1:] + positive[:-1])
    if len(between) > MIDPOINTS:
        between = between[np.linspace(0, len(between) - 1, MIDPOINTS).astype(int)]
    return np.concatenate([np.linspace(positive[0] - 2.0, positive[-1] + 3.0, MIDPOINTS), between])


def _local_minima(values: Array) -> NDArray[np.bool_]:
    """Which cells of a grid, shape (rows, columns), are no higher than their eight neighbours."""
    padded = np.pad(values, 1, constant_values=np.inf)
    rows, columns = values.shape
    around = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.asarray(values <= np.min(around, axis=0))


def descend(problem: Problem, box: Box, start: Array, *, precision: float = PRECISION) -> tuple[Array, float]:
    """Levenberg-Marquardt with steps cut off at the box; returns theta and its sum of squares."""
    theta = np.clip(start, box.low, box.high)
    residual = problem.residual(theta)
    sse = float(residual @ residual)
    damping = 1e-3
    for _ in range(ITERATIONS):
        jacobian = problem.jacobian(theta)
        down = -(jacobian.T @ residual)
        # A parameter on its limit that wants to leave the box stays where it is for this step.
        held = (theta <= box.low) & (down <= 0.0) | (theta >= box.high) & (down >= 0.0)
        move = box.free & ~held
        if not move.any():
            break
        normal = jacobian[:, move].T @ jacobian[:, move]
        diagonal = np.maximum(np.diag(normal), 1e-14 * max(float(np.diag(normal).max()), 1e-14))
        gain = 0.0
        while damping < 1e12:
            step = np.zeros(4)
            step[move] = np.linalg.solve(normal + damping * np.diag(diagonal), down[move])
            if float(down @ step) <= precision * sse:  # twice what the step can gain at the most
                return theta, sse
            step[2:] = np.clip(step[2:], -2.0, 2.0)  # a factor of e^2 in B or C_mid is far enough for one step
            trial = np.clip(theta + step, box.low, box.high)
            trial_residual = problem.residual(trial)
            gain = sse - float(trial_residual @ trial_residual)
            if gain > 0.0:
                break
            damping *= 5.0
        if not gain > 0.0:
            break
        theta, residual = trial, trial_residual
        sse = float(residual @ residual)
        damping = max(damping / 8.0, 1e-12)
    return theta, sse


def _axis(values: Array, box: Box, index: int) -> Array:
    """Grid values of one parameter inside the box; just the one if it is fixed."""
    if not box.free[index]:
        return box.low[index : index + 1]
    return np.unique(np.clip(values, box.low[index], box.high[index]))


def _linear_part(s: Array, y: Array, box: Box) -> tuple[Array, Array]:
    """Least-squares R0 and A of y = R0 (1 - s) + A s for each row of s, inside the box; shapes (cells,)."""
    rest = 1.0 - s
    pp, pq, qq = (rest * rest).sum(1), (rest * s).sum(1), (s * s).sum(1)
    py, qy = rest @ y, s @ y

    def solve(of: Array, other: Array) -> Array:
        return np.divide(of, other, out=np.full_like(of, float(y.mean())), where=other > 1e-12)

    det = pp * qq - pq * pq
    free = (
        np.clip(solve(qq * py - pq * qy, det), *_span(box, 0)),
        np.clip(solve(pp * qy - pq * py, det), *_span(box, 1)),
    )
    # The optimum in a box is the free one, or lies on an edge: with one limit set, the other parameter is solved for.
    candidates: list[tuple[Array, Array]] = [free]
    for edge in _span(box, 0):
        candidates.append((np.full_like(pp, edge), np.clip(solve(qy - pq * edge, qq), *_span(box, 1))))
    for edge in _span(box, 1):
        candidates.append((np.clip(solve(py - pq * edge, pp), *_span(box, 0)), np.full_like(pp, edge)))
    r0, a = np.stack([c[0] for c in candidates]), np.stack([c[1] for c in candidates])
    sse = pp * r0 * r0 + 2.0 * pq * r0 * a + qq * a * a - 2.0 * (py * r0 + qy * a)
    best = np.argmin(sse, axis=0)
    cells = np.arange(len(best))
    return r0[best, cells], a[best, cells]


def _span(box: Box, index: int) -> tuple[float, float]:
    return float(box.low[index]), float(box.high[index])


def _logistic(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0.0, 1.0, e) / (1.0 + e)
