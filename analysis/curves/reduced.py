"""The sum of squares over the shape alone, with R0 and A solved for inside their bounds.

Kaufman's Jacobian of variable projection (Golub and Pereyra 1973), from inner products: see
`analysis.curves.projection`.

Shapes: N curves, n points, p shape parameters, m of the curves are looked at together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from analysis.curves.families import Family
from analysis.curves.solver import Array, Index, Mask, Normal
from analysis.curves.whitening import Whitener, rows_of

CHUNK = 40_000  # numbers in one array of a pass over curves; larger ones leave the cache
GRID_POINTS = 120  # more points than this only slow the choice of starts


@dataclass(frozen=True)
class Bounds:
    linear_low: Array
    linear_high: Array
    shape_low: Array
    shape_high: Array


@dataclass
class Projected(Normal):
    """The reduced problem around some shapes, with walls where a linear parameter would leave its bounds.

    Inside the bounds R0 and A follow a step of the shape by `response`, (m, p, 2); where that would take one past its
    bound the sum of squares rises by `wall`, (m, 2), times the square of the excess. Without the walls the valley of
    a curve that has not bent leads to A = 1 and a descent bounces between its two sides.
    """

    linear: Array  # R0 and A, (m, 2)
    room: Array  # from R0 and A down to their lower and up to their upper bounds, (m, 2, 2)
    response: Array
    wall: Array

    def step(self, held: Mask, width: Array, damping: Array) -> Array:
        step = super().step(held, width, damping)
        excess = self._excess(step)
        rows = np.flatnonzero(excess.any(axis=1))
        if len(rows):
            hit = excess[rows] != 0.0
            response, wall = self.response[rows], np.where(hit, self.wall[rows], 0.0)
            room = np.where(excess[rows] > 0.0, self.room[rows, :, 1], self.room[rows, :, 0])
            pull = np.einsum("mpk,mk->mp", response, wall * np.where(hit, room, 0.0))
            steeper = np.einsum("mpk,mk,mqk->mpq", response, wall, response)
            walled = Normal(self.sse[rows], self.half_gradient[rows] - pull, self.matrix[rows] + steeper)
            step[rows] = walled.step(held[rows], width[rows], damping[rows])
        return step

    def linear_sse(self, step: Array) -> Array:
        return np.asarray(super().linear_sse(step) + _dot(self.wall, self._excess(step) ** 2))

    def _excess(self, step: Array) -> Array:
        """How far a step would take R0 and A outside their bounds, (m, 2), below 0 under the lower one."""
        move = np.einsum("mpk,mp->mk", self.response, step)
        return np.asarray(move - np.clip(move, self.room[:, :, 0], self.room[:, :, 1]))


class Model:
    """The reduced problem of some curves: sums of squares over the shape, with R0 and A solved for."""

    def __init__(self, family: Family, log_c: Array, y: Array, whitener: Whitener | None, bounds: Bounds) -> None:
        self.family, self.log_c, self.whitener, self.bounds = family, log_c, whitener, bounds
        self.observed = y if whitener is None else whitener(y)
        ones = np.ones(y.shape[1])
        self.ones = ones if whitener is None else whitener(ones)
        self.p = len(family.shape)

    def __call__(self, theta: Array, rows: Index) -> Projected:
        """See `analysis.curves.solver.Model`."""
        size = max(1, CHUNK // self.observed.shape[1])
        if len(rows) <= size:
            return self._some(theta, rows)
        parts = [self._some(theta[i : i + size], rows[i : i + size]) for i in range(0, len(rows), size)]
        return Projected(*(np.concatenate([getattr(q, f.name) for q in parts]) for f in fields(Projected)))

    def _some(self, theta: Array, rows: Index) -> Projected:
        s, derivatives = self.family.rise(rows_of(self.log_c, rows), theta)
        ones, y = rows_of(self.ones, rows), self.observed[rows]
        if self.whitener is not None:
            whitener = self.whitener.rows(rows)
            s = whitener(s)
            derivatives = whitener.columns()(derivatives)
        rest = ones - s
        gram = _products(_dot(rest, rest), _dot(rest, s), _dot(s, s), _dot(rest, y), _dot(s, y))
        low, high = self.bounds.linear_low[rows], self.bounds.linear_high[rows]
        linear = _linear_part(gram, low, high)
        cross = np.stack([_dot(derivatives, rest[:, None]), _dot(derivatives, s[:, None])], axis=2)
        own = _squares(derivatives)
        rest *= linear[:, :1]
        s *= linear[:, 1:]
        rest += s
        residual = np.subtract(rest, y, out=rest)
        sse = _dot(residual, residual)
        gain = linear[:, 1] - linear[:, 0]
        response, wall = _response(gram, cross, (linear > low) & (linear < high))
        matrix = (gain * gain)[:, None, None] * (own - response @ cross.transpose(0, 2, 1))
        gradient = gain[:, None] * _dot(derivatives, residual[:, None])
        good = np.isfinite(sse) & np.isfinite(matrix).all(axis=(1, 2))
        room = np.stack([low - linear, high - linear], axis=2)
        return Projected(
            np.where(good, sse, np.inf), gradient, matrix, linear, room, -gain[:, None, None] * response, wall
        )

    def grid_sse(self, rows: Index, shapes: Array) -> Array:
        """Sums of squares (m, cells) of curves at shapes (cells, p) that they share; R0 and A inside their bounds."""
        log_c = self.log_c if self.log_c.ndim == 1 else self.log_c[rows[0]]
        observed, ones = self.observed[rows], self.ones if self.ones.ndim == 1 else self.ones[rows[0]]
        whitener = None if self.whitener is None else self.whitener.rows(rows[:1]).flat()
        if len(log_c) > GRID_POINTS and whitener is None:
            thin = np.linspace(0, len(log_c) - 1, GRID_POINTS).astype(int)
            log_c, observed, ones = log_c[thin], observed[:, thin], ones[thin]
        with np.errstate(all="ignore"):
            s, _ = self.family.rise(log_c, shapes)
        s = s if whitener is None else whitener(s)
        rest = ones - s
        pp, pq, qq = (np.einsum("cn,cn->c", a, b) for a, b in ((rest, rest), (rest, s), (s, s)))
        py, qy, yy = observed @ rest.T, observed @ s.T, np.einsum("mn,mn->m", observed, observed)
        det = pp * qq - pq * pq
        safe = np.where(det > 1e-12 * pp * qq, det, np.inf)
        low, high = self.bounds.linear_low[rows], self.bounds.linear_high[rows]
        level = (py + qy) / np.maximum(pp + 2 * pq + qq, 1e-300)
        r0 = np.where(np.isfinite(safe), (qq * py - pq * qy) / safe, level)
        r0 = np.clip(r0, low[:, :1], high[:, :1])
        a = np.clip(np.divide(qy - pq * r0, qq, out=level.copy(), where=qq > 1e-12), low[:, 1:], high[:, 1:])
        r0 = np.clip(np.divide(py - pq * a, pp, out=level.copy(), where=pp > 1e-12), low[:, :1], high[:, :1])
        sse = yy[:, None] + pp * r0**2 + 2 * pq * r0 * a + qq * a**2 - 2 * (py * r0 + qy * a)
        return np.where(np.isfinite(sse), sse, np.inf)


def _dot(left: Array, right: Array) -> Array:
    """Inner products along the last axis."""
    return np.asarray(np.einsum("...n,...n->...", left, right))


def _squares(columns: Array) -> Array:
    """Inner products (m, p, p) of columns (m, p, n) with each other."""
    p = columns.shape[1]
    out = np.empty((len(columns), p, p))
    for i in range(p):
        for j in range(i + 1):
            out[:, i, j] = out[:, j, i] = _dot(columns[:, i], columns[:, j])
    return out


def _products(pp: Array, pq: Array, qq: Array, py: Array, qy: Array) -> Array:
    """Inner products of 1 - s, s and y as (m, 2, 3)."""
    return np.stack([pp, pq, py, pq, qq, qy], axis=1).reshape(-1, 2, 3)


def _linear_part(gram: Array, low: Array, high: Array) -> Array:
    """R0 and A of least squares inside their bounds, (m, 2), from the inner products (m, 2, 3) of `_products`."""
    pp, pq, qq = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    py, qy = gram[:, 0, 2], gram[:, 1, 2]
    det = pp * qq - pq * pq
    safe = np.where(det > 1e-14 * pp * qq, det, np.inf)
    linear = np.stack([(qq * py - pq * qy) / safe, (pp * qy - pq * py) / safe], axis=1)
    outside = np.flatnonzero(~((linear >= low) & (linear <= high)).all(axis=1) | np.isinf(safe))
    if len(outside):
        linear[outside] = _on_edges(gram[outside], low[outside], high[outside])
    return linear


def _on_edges(gram: Array, low: Array, high: Array) -> Array:
    """The optimum lies on an edge of the bounds: one parameter is set to a bound, the other solved for."""
    best, least = np.full((len(gram), 2), np.nan), np.full(len(gram), np.inf)
    whole = gram[:, 0, 0] + 2.0 * gram[:, 0, 1] + gram[:, 1, 1]
    for fixed in (0, 1):
        other = 1 - fixed
        own = gram[:, other, other]
        for edge in (low[:, fixed], high[:, fixed]):
            finite = np.isfinite(edge)
            edge = np.where(finite, edge, 0.0)  # noqa: PLW2901, an infinite bound holds nothing
            level = gram[:, other, 2] - gram[:, 0, 1] * edge
            value = np.clip(
                np.divide(level, own, out=edge.copy(), where=own > 1e-12 * whole),
                low[:, other],
                high[:, other],
            )
            pair = np.stack([edge, value] if fixed == 0 else [value, edge], axis=1)
            sse = np.einsum("mi,mij,mj->m", pair, gram[:, :2, :2], pair) - 2.0 * np.einsum(
                "mi,mi->m", pair, gram[:, :2, 2]
            )
            take = finite & (sse < least)
            best[take], least[take] = pair[take], sse[take]
    lost = np.isnan(best[:, 0])  # unbounded, and a curve without a rise inside the data: its level is all there is
    if lost.any():
        total = gram[lost, 0, 2] + gram[lost, 1, 2]
        level = total / np.maximum(whole[lost], 1e-300)
        best[lost] = level[:, None]
    return best


def _response(gram: Array, cross: Array, inside: NDArray[np.bool_]) -> tuple[Array, Array]:
    """What a step along each of the shape's columns is worth in the linear parameters that may move, (m, p, 2), and
    what the sum of squares rises by when one of them is held a unit away from its optimum, (m, 2)."""
    pp = np.where(inside[:, 0], gram[:, 0, 0], 1.0)
    qq = np.where(inside[:, 1], gram[:, 1, 1], 1.0)
    pq = np.where(inside[:, 0] & inside[:, 1], gram[:, 0, 1], 0.0)
    det = pp * qq - pq * pq
    det = np.where(det > 1e-14 * pp * qq, det, np.inf)
    p, q = (np.where(inside[:, k, None], cross[:, :, k], 0.0) for k in (0, 1))
    response = np.stack([qq[:, None] * p - pq[:, None] * q, pp[:, None] * q - pq[:, None] * p], axis=2)
    response /= det[:, None, None]
    return response, np.where(np.isfinite(det)[:, None], np.stack([det / qq, det / pp], axis=1), 0.0)
