"""Make correlated or unequal noise independent and of one size, for one curve or for many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.curves.solver import Array, Index


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
        return Whitener(rows_of(self.scale, rows), None if self.back is None else rows_of(self.back, rows))

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


def _with_axis(array: Array) -> Array:
    return array if array.ndim == 1 else array[:, None]


def rows_of(array: Array, rows: Index) -> Array:
    """Rows of an array that has one row a curve, or the one row that all curves share."""
    return array if array.ndim == 1 else array[rows]
