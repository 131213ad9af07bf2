"""Least squares for many curves at once, with the linear parameters projected out.

Given its shape a family is linear in R0 and A, so the search runs over the shape alone (variable projection, Golub and
Pereyra 1973, with Kaufman's Jacobian): two dimensions instead of four, and no start for R0 and A is needed. One curve
or a hundred thousand go through the same code; a curve's answer does not depend on its neighbours.

Promises: the smallest sum of squares among starts on a grid that covers every shape the data can show; every parameter
inside its bounds; a parameter whose bounds are equal is fixed. Weights and AR(1) noise enter as a `Whitener`.

Shapes: N curves, n points, p shape parameters, m of the curves are looked at together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.families import SIGMOID, Array, Family
from analysis.solver import SURE, Index, Normal, minimise

CHUNK = 40_000  # numbers in one array of a pass over curves; larger ones leave the cache
STARTS = 3  # valleys of the start grid that are followed
GRID_POINTS = 120  # more points than this only slow the choice of starts
ROUGH, PRECISE, EXACT = (
    1e-5,
    1e-9,
    1e-11,
)  # a descent ends when a step cannot lower the sum of squares by more than this share


@dataclass(frozen=True)
class Whitener:
    """Makes noise independent and of one size: z_i becomes scale_i (z_i - back_i z_(i-1)), with back_0 = 0.

    Both arrays are (n,) for all curves or (N, n), one row a curve.
    """

    scale: Array
    back: Array | None = None

    def __call__(self, z: Array) -> Array:
        """Whiten along the last axis; shapes must broadcast."""
        if self.back is None:
            return np.asarray(self.scale * z)
        out = np.array(np.broadcast_to(z, np.broadcast_shapes(np.shape(z), self.back.shape)))
        out[..., 1:] -= self.back[..., 1:] * z[..., :-1]
        out *= self.scale
        return out

    def rows(self, rows: Index) -> Whitener:
        """The whitener of some of the curves."""
        return Whitener(_of(self.scale, rows), None if self.back is None else _of(self.back, rows))

    def columns(self) -> Whitener:
        """The same for (m, p, n): an axis between curves and points."""
        return Whitener(_with_axis(self.scale), None if self.back is None else _with_axis(self.back))

    def flat(self) -> Whitener:
        """The whitener of one curve without its axis of curves."""
        return Whitener(self.scale.reshape(-1), None if self.back is None else self.back.reshape(-1))

    @property
    def by_row(self) -> bool:
        return self.scale.ndim == 2 or (self.back is not None and self.back.ndim == 2)


def ar1(time: Array, rho: float | Array) -> Whitener:
    """Return the whitener of AR(1) noise with correlation ``rho ** dt`` between neighbours.

    Parameters
    ----------
    time : (n,) array
        Ascending, in units of the usual spacing.
    rho : float or (N,) array
        In [0, 1).

    Examples
    --------
    >>> ar1(np.arange(3.0), 0.6)(np.array([1.0, 0.6, 0.36])).round(12).tolist()
    [1.0, 0.0, 0.0]
    """
    rho = np.asarray(rho, dtype=float)
    back = np.zeros((*rho.shape, len(time)))
    back[..., 1:] = rho[..., None] ** np.diff(time)
    return Whitener(1.0 / np.sqrt(np.maximum(1.0 - back**2, 1e-12)), back)


@dataclass(frozen=True)
class Curves:
    """Fitted curves.

    Attributes
    ----------
    linear : (N, 2) array
        R0 and A.
    shape : (N, p) array
        Worked shape parameters, logarithms of the natural ones.
    sse : (N,) array
        Weighted sums of squared residuals; infinite where nothing could be evaluated.
    converged : (N,) array of bool
    start : (N, p) array
        The start that led there.
    """

    family: Family
    linear: Array
    shape: Array
    sse: Array
    converged: NDArray[np.bool_]
    start: Array = field(repr=False)

    def natural(self) -> Array:
        """Linear parameters and shape in natural units, (N, 2 + p)."""
        return np.concatenate([self.linear, np.exp(self.shape)], axis=1)

    def values(self, log_c: Array) -> Array:
        """Fitted pass rates, (N, n), at ln C of shape (n,) or (N, n)."""
        s, _ = self.family.rise(log_c, self.shape)
        return np.asarray(self.linear[:, :1] * (1.0 - s) + self.linear[:, 1:] * s)


def fit_many(
    log_c: Array,
    y: Array,
    *,
    family: Family = SIGMOID,
    whitener: Whitener | None = None,
    linear_low: Array | float = 0.0,
    linear_high: Array | float = 1.0,
    shape_low: Array | float | None = None,
    shape_high: Array | float | None = None,
    start: Array | None = None,
    starts: int = STARTS,
    thorough: bool = False,
    precision: float = PRECISE,
) -> Curves:
    """Fit every row of `y`.

    Parameters
    ----------
    log_c : (n,) or (N, n) array
        ln C, ascending; -inf at C = 0.
    y : (N, n) array
        Pass rates.
    family : Family
    whitener : Whitener, optional
        Weights and correlation of the noise.
    linear_low, linear_high : broadcast to (N, 2)
        Bounds of R0 and A; equal bounds fix a parameter.
    shape_low, shape_high : broadcast to (N, p), optional
        Bounds of the worked shape; by default the family's, from all of `log_c`.
    start : (N, p) array, optional
        Starts that are tried; with `starts` = 0 no others are.
    starts : int
        Valleys of the start grid that are followed for each curve.
    thorough : bool
        Take the whole start grid, not a quarter of it.
    precision : float
        A descent ends when a step cannot lower the sum of squares by more than this share.

    Returns
    -------
    Curves

    Examples
    --------
    >>> log_c = np.log(np.linspace(0.1, 5, 30))
    >>> y = 0.1 + 0.6 / (1 + np.exp(-1.5 * (log_c - np.log([[1.0], [2.0]]))))
    >>> fit_many(log_c, y).natural().round(9).tolist()
    [[0.1, 0.7, 1.5, 1.0], [0.1, 0.7, 1.5, 2.0]]
    """
    log_c, y = np.asarray(log_c, dtype=float), np.atleast_2d(np.asarray(y, dtype=float))
    curves = len(y)
    p = len(family.shape)
    finite = np.unique(log_c[np.isfinite(log_c)])
    low, high = family.bounds(finite if len(finite) else np.zeros(1))
    bounds = _Bounds(
        np.broadcast_to(np.asarray(linear_low, dtype=float), (curves, 2)),
        np.broadcast_to(np.asarray(linear_high, dtype=float), (curves, 2)),
        np.broadcast_to(low if shape_low is None else np.asarray(shape_low, dtype=float), (curves, p)),
        np.broadcast_to(high if shape_high is None else np.asarray(shape_high, dtype=float), (curves, p)),
    )
    model = _Model(family, log_c, y, whitener, bounds)
    return _fit(model, start, starts, thorough, precision)


@dataclass(frozen=True)
class _Bounds:
    linear_low: Array
    linear_high: Array
    shape_low: Array
    shape_high: Array


class _Model:
    """The reduced problem of some curves: sums of squares over the shape, with R0 and A solved for."""

    def __init__(self, family: Family, log_c: Array, y: Array, whitener: Whitener | None, bounds: _Bounds) -> None:
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
        s, derivatives = self.family.rise(_of(self.log_c, rows), theta)
        ones = _of(self.ones, rows)
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


def _with_axis(array: Array) -> Array:
    return array if array.ndim == 1 else array[:, None]


def _of(array: Array, rows: Index) -> Array:
    """Rows of an array that has one row a curve, or the one row that all curves share."""
    return array if array.ndim == 1 else array[rows]


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


def _fit(model: _Model, given: Array | None, starts: int, thorough: bool, precision: float) -> Curves:
    """Linear part, shape, sum of squares, convergence and start of the best descent of each curve."""
    curves = np.arange(len(model.observed))
    owner, candidates = _grid_starts(model, starts, thorough) if starts else (curves[:0], np.empty((0, model.p)))
    if given is not None:
        owner, candidates = (
            np.concatenate([owner, curves]),
            np.concatenate([candidates, np.asarray(given, dtype=float)]),
        )
    options = {"longest": 2.0, "damping": 1e-3 if starts else 1e-5}  # a start that was given is taken to be good
    start = candidates
    if len(owner) > len(curves):
        rough = minimise(
            lambda theta, rows: model(theta, owner[rows]),
            candidates,
            model.bounds.shape_low[owner],
            model.bounds.shape_high[owner],
            tolerance=ROUGH,
            polish=0,
            sure=SURE if thorough else np.inf,
            **options,  # type: ignore[arg-type]
        )
        order = np.lexsort((rough.sse, owner))
        chosen = order[np.searchsorted(owner[order], curves)]
        start, candidates = candidates[chosen], rough.theta[chosen]
    else:
        start = candidates = candidates[np.argsort(owner, kind="stable")]
    found = minimise(
        model,
        candidates,
        model.bounds.shape_low,
        model.bounds.shape_high,
        tolerance=precision,
        polish=1 if precision < EXACT else 0,
        **options,  # type: ignore[arg-type]
    )
    return Curves(model.family, found.local.extra, found.theta, found.sse, found.converged, start)  # type: ignore[attr-defined]


def _grid_starts(model: _Model, starts: int, thorough: bool) -> tuple[Index, Array]:
    """The deepest local minima of a grid of shapes: which curve (k,), ascending, and the shape (k, p)."""
    log_c = model.log_c
    finite = np.unique(log_c[np.isfinite(log_c)])
    axes = [axis if thorough else axis[::2] for axis in model.family.grid(finite if len(finite) else np.zeros(1))]
    low, high = model.bounds.shape_low, model.bounds.shape_high
    axes = [axis[:1] if (low[:, k] == high[:, k]).all() else axis for k, axis in enumerate(axes)]
    sizes = tuple(len(axis) for axis in axes)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, model.p)
    alike = (low == low[:1]).all() and (high == high[:1]).all() and log_c.ndim == 1
    if alike and not (model.whitener is not None and model.whitener.by_row):
        grid = np.clip(grid, low[0], high[0])
        sse = model.grid_sse(np.arange(len(model.observed)), grid)
        return _deepest(sse.reshape(-1, *sizes), starts, grid)
    owners, found = [], []
    for row in range(len(model.observed)):
        own = np.clip(grid, low[row], high[row])
        _, shapes = _deepest(model.grid_sse(np.array([row]), own).reshape(1, *sizes), starts, own)
        owners.append(np.full(len(shapes), row))
        found.append(shapes)
    return np.concatenate(owners), np.concatenate(found)


def _deepest(sse: Array, starts: int, grid: Array) -> tuple[Index, Array]:
    """Of each curve's grid (m, sizes...) the local minima with the least sums of squares, at most `starts`."""
    around = sse
    for axis in range(1, sse.ndim):
        padded = np.full([n + 2 * (k == axis) for k, n in enumerate(sse.shape)], np.inf)
        inner = [slice(None)] * sse.ndim
        inner[axis] = slice(1, -1)
        padded[tuple(inner)] = around
        shifted = []
        for first in range(3):
            inner[axis] = slice(first, first + sse.shape[axis])
            shifted.append(padded[tuple(inner)])
        around = np.minimum(np.minimum(shifted[0], shifted[1]), shifted[2])
    lowest = np.where(sse <= around, sse, np.inf).reshape(len(sse), -1)
    count = min(starts, lowest.shape[1])
    cells = (
        np.argpartition(lowest, count - 1, axis=1)[:, :count]
        if count < lowest.shape[1]
        else np.tile(np.arange(count), (len(sse), 1))
    )
    keep = np.isfinite(np.take_along_axis(lowest, cells, axis=1))
    keep[:, 0] |= ~keep.any(axis=1)  # where nothing is finite there is still one start
    owner, column = np.nonzero(keep)
    return owner, grid[cells[owner, column]]
