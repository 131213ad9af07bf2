"""The grid fit of the ScaleRL paper, for checks against published figures.

For every cell of a grid over A and C_mid the exponent B alone is fitted; the cell with the least sum of squared
residuals wins (arXiv 2510.13786, appendix). R0 is the first evaluation: the paper does not say what it is, and its
drawn curves start there. All cells are solved in one batch. A grid gives no interval; the paper's margin of .02 for A
is what three runs of one recipe differ by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.curves.curve import logistic
from analysis.curves.leastsquares import Box, Optimum
from analysis.curves.solver import Array, Index, Normal, minimise

LOG_B_RANGE = (np.log(0.05), np.log(50.0))
STARTS = (0.5, 1.5, 4.0)  # of B


@dataclass(frozen=True)
class Grid:
    """Values of A, and of C_mid as shares of the last compute.

    The paper's C_mid run evenly from 100 to 40,000 GPU-hours in fits that end at 50,000.
    """

    A: tuple[float, float, int] = (0.45, 0.8, 71)
    C_mid: tuple[float, float, int] = (0.002, 0.8, 100)

    def cells(self, last: float) -> Array:
        """All (A, C_mid), (cells, 2)."""
        a, mid = np.linspace(*self.A), np.linspace(*self.C_mid) * last
        return np.stack(np.meshgrid(a, mid, indexing="ij"), axis=-1).reshape(-1, 2)

    def box(self, last: float, r0: float) -> Box:
        """Its edges as bounds, R0 held."""
        low, high = (
            np.array([r0, self.A[i], LOG_B_RANGE[i], np.log(self.C_mid[i] * last)], dtype=float) for i in (0, 1)
        )
        return Box(low, high)


def fit_grid(compute: Array, pass_rate: Array, r0: float, grid: Grid | None = None) -> Optimum:
    """Return the best cell.

    Parameters
    ----------
    compute, pass_rate : (n,) array
    r0 : float
        R0 of every curve.
    grid : Grid, optional

    Examples
    --------
    >>> C = np.linspace(1.0, 100.0, 25)
    >>> best = fit_grid(C, 0.4 + 0.2 / (1 + (20.0 / C) ** 1.5), 0.4, Grid(C_mid=(0.1, 0.5, 41)))
    >>> best.theta[:2].round(3).tolist(), np.exp(best.theta[2:]).round(6).tolist()
    ([0.4, 0.6], [1.5, 20.0])
    """
    cells = (Grid() if grid is None else grid).cells(float(compute.max()))
    with np.errstate(divide="ignore"):
        log_ratio = np.log(compute) - np.log(cells[:, 1:])  # (cells, n)
    gain = cells[:, :1] - r0

    def model(theta: Array, rows: Index) -> Normal:
        z = np.exp(theta) * log_ratio[rows]
        s = logistic(z)
        residual = r0 + gain[rows] * s - pass_rate
        slope = gain[rows] * s * (1.0 - s) * np.where(np.isfinite(z), z, 0.0)
        sse, down, size = (
            np.einsum("mn,mn->m", a, b) for a, b in ((residual, residual), (slope, residual), (slope, slope))
        )
        return Normal(sse, down[:, None], size[:, None, None])

    best: Optimum | None = None
    for start in STARTS:
        found = minimise(model, np.full((len(cells), 1), np.log(start)), *LOG_B_RANGE, tolerance=1e-10, damping=1e-3)
        cell = int(np.argmin(found.sse))
        if best is None or found.sse[cell] < best.sse:
            theta = np.array([r0, cells[cell, 0], found.theta[cell, 0], np.log(cells[cell, 1])])
            best = Optimum(theta, float(found.sse[cell]), np.array([np.log(start), theta[3]]))
    assert best is not None  # noqa: S101, STARTS is not empty
    return best
