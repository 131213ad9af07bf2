"""The sum of squares over the shape alone, with R0 and A solved for inside their bounds.

Kaufman's Jacobian of variable projection (Golub and Pereyra 1973), from inner products: see `analysis.projection`.

Shapes: N curves, n points, p shape parameters, m of the curves are looked at together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.families import Family
from analysis.solver import Array, Index, Normal
from analysis.whitening import Whitener, rows_of

CHUNK = 40_000  # numbers in one array of a pass over curves; larger ones leave the cache
GRID_POINTS = 120  # more points than this only slow the choice of starts


@dataclass(frozen=True)
class Bounds:
    linear_low: Array
    linear_high: Array
    shape_low: Array
    shape_high: Array


class Model:
    """The reduced problem of some curves: sums of squares over the shape, with R0 and A solved for."""

    def __init__(self, family: Family, log_c: Array, y: Array, whitener: Whitener | None, bounds: Bounds) -> None:
        self.family, self.log_c, self.whitener, self.bounds = family, log_c, whitener, bounds
        self.observed = y if whitener is None else whitener(y)
        ones = np.ones(y.shape[1])
        self.ones = ones if whitener is None else whitener(ones)
        self.p = len(family.shape)

    def __call__(self, theta: Array, rows: Index) -> Normal:
        """See `analysis.solver.Model`; `extra` holds R0 and A."""
        size = max(1, CHUNK // self.observed.shape[1])
        if len(rows) <= size:
            return self._some(theta, rows)
        parts = [self._some(theta[i : i + size], rows[i : i + size]) for i in range(0, len(rows), size)]
        arrays = zip(*((q.sse, q.half_gradient, q.matrix, q.extra) for q in parts), strict=True)
        return Normal(*(np.concatenate(a) for a in arrays))

    def _some(self, theta: Array, rows: Index) -> Normal:
        p = self.p
        s, derivatives = self.family.rise(rows_of(self.log_c, rows), theta)
        ones = rows_of(self.ones, rows)
        if self.whitener is not None:
            whitener = self.whitener.rows(rows)
            s = whitener(s)
            derivatives = whitener.columns()(derivatives)
        stack = np.empty((len(theta), p + 3, s.shape[1]))
        stack[:, :p] = derivatives
        np.subtract(ones, s, out=stack[:, p])
        stack[:, p + 1] = s
        stack[:, p + 2] = self.observed[rows]
        gram = stack[:, p:] @ stack[:, p:].transpose(0, 2, 1)
        low, high = self.bounds.linear_low[rows], self.bounds.linear_high[rows]
        linear = _linear_part(gram, low, high)
        residual = stack[:, p + 2]
        fitted = linear[:, :1] * stack[:, p]
        fitted += linear[:, 1:] * s
        np.subtract(fitted, residual, out=residual)
        products = stack[:, :p] @ stack.transpose(0, 2, 1)  # (m, p, p + 3)
        gain = linear[:, 1] - linear[:, 0]
        sse = np.einsum("mn,mn->m", residual, residual)
        inside = (linear > low) & (linear < high)
        projected = products[:, :, :p] - _projection(gram, products[:, :, p : p + 2], inside)
        matrix = (gain * gain)[:, None, None] * projected
        gradient = gain[:, None] * products[:, :, p + 2]
        good = np.isfinite(sse) & np.isfinite(matrix).all(axis=(1, 2))
        return Normal(np.where(good, sse, np.inf), gradient, matrix, linear)

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


def _linear_part(gram: Array, low: Array, high: Array) -> Array:
    """R0 and A of least squares inside their bounds, (m, 2), from the inner products (m, 3, 3) of 1 - s, s and y."""
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
    for fixed in (0, 1):
        other = 1 - fixed
        own = gram[:, other, other]
        for edge in (low[:, fixed], high[:, fixed]):
            finite = np.isfinite(edge)
            edge = np.where(finite, edge, 0.0)  # noqa: PLW2901, an infinite bound holds nothing
            level = gram[:, other, 2] - gram[:, 0, 1] * edge
            value = np.clip(
                np.divide(level, own, out=edge.copy(), where=own > 1e-12 * np.abs(gram[:, 2, 2])),
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
        level = total / np.maximum(gram[lost, 0, 0] + 2 * gram[lost, 0, 1] + gram[lost, 1, 1], 1e-300)
        best[lost] = level[:, None]
    return best


def _projection(gram: Array, cross: Array, inside: NDArray[np.bool_]) -> Array:
    """What the linear parameters that may move explain of the shape's columns, (m, p, p); `cross` is (m, p, 2)."""
    pp = np.where(inside[:, 0], gram[:, 0, 0], 1.0)
    qq = np.where(inside[:, 1], gram[:, 1, 1], 1.0)
    pq = np.where(inside.all(axis=1), gram[:, 0, 1], 0.0)
    moved = cross * inside[:, None, :]
    det = pp * qq - pq * pq
    det = np.where(det > 1e-14 * pp * qq, det, np.inf)
    inverse = np.empty((len(gram), 2, 2))
    inverse[:, 0, 0], inverse[:, 1, 1] = qq / det, pp / det
    inverse[:, 0, 1] = inverse[:, 1, 0] = -pq / det
    return np.asarray(moved @ inverse @ moved.transpose(0, 2, 1))
