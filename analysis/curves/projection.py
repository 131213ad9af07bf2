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

from analysis.curves.families import SIGMOID, Family
from analysis.curves.reduced import Bounds, Model
from analysis.curves.solver import SURE, Array, Index, minimise
from analysis.curves.whitening import Whitener

STARTS = 3  # valleys of the start grid that are followed
# A descent ends when a step cannot lower the sum of squares by more than this share.
ROUGH, PRECISE, EXACT = 1e-5, 1e-9, 1e-11


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
    bounds = Bounds(
        np.broadcast_to(np.asarray(linear_low, dtype=float), (curves, 2)),
        np.broadcast_to(np.asarray(linear_high, dtype=float), (curves, 2)),
        np.broadcast_to(low if shape_low is None else np.asarray(shape_low, dtype=float), (curves, p)),
        np.broadcast_to(high if shape_high is None else np.asarray(shape_high, dtype=float), (curves, p)),
    )
    model = Model(family, log_c, y, whitener, bounds)
    return _fit(model, start, starts, thorough, precision)


def _fit(model: Model, given: Array | None, starts: int, thorough: bool, precision: float) -> Curves:
    """Linear part, shape, sum of squares, convergence and start of the best descent of each curve."""
    curves = np.arange(len(model.observed))
    owner, candidates = grid_starts(model, starts, thorough) if starts else (curves[:0], np.empty((0, model.p)))
    if given is not None:
        owner, candidates = (
            np.concatenate([owner, curves]),
            np.concatenate([candidates, np.asarray(given, dtype=float)]),
        )
    return descend(model, owner, candidates, thorough, precision, damping=1e-3 if starts else 1e-5)


def descend(  # noqa: PLR0917
    model: Model, owner: Index, candidates: Array, thorough: bool, precision: float, damping: float
) -> Curves:
    """Follow starts (k, p) of the curves `owner` (k,), at least one each; a small damping trusts them."""
    curves = np.arange(len(model.observed))
    options = {"longest": 2.0, "damping": damping}
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
    return Curves(model.family, found.local.linear, found.theta, found.sse, found.converged, start)  # type: ignore[attr-defined]


def grid_starts(model: Model, starts: int, thorough: bool) -> tuple[Index, Array]:
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
