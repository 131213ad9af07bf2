"""Standard errors of a least-squares fit of any family, and what else a fit report states, as pure functions.

Promises: two covariances of the natural parameters, from J'J (what lmfit and scipy report) and from the observed
Hessian of the sum of squares (what R's drc reports), with sigma^2 = RSS / (n - p). A matrix that is singular, or a fit
without residual degrees of freedom or without residuals, gives None, never NaN or 0. These errors take independent
noise, a right family and a far window for granted; intervals that do not are the posterior's.

`whiten`, where it is taken, makes noise independent and of one size along the last axis, such as a
`projection.Whitener`; p counts the free parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from analysis.curves.family import Array, Family
from scalerl.runlog import UserError

Whiten = Callable[[Array], Array]

STEP = 3e-4  # of a parameter's size: four-point differences then err by 1e-11 in truncation and 1e-12 in rounding
SINGULAR_J = 1e-12  # smallest singular value over the largest, columns of one size: below this it is rounding
SINGULAR_H = 1e-9  # the same of the Hessian's eigenvalues, which differences blur
ROUNDING = 16 * np.finfo(float).eps  # residuals below this share of the data are rounding


def jacobian_covariance(
    family: Family,
    C: ArrayLike,
    y: ArrayLike,
    params: ArrayLike,
    *,
    free: Sequence[str] | None = None,
    whiten: Whiten | None = None,
) -> Array | None:
    """Return sigma^2 (J'J)^-1 of the free natural parameters.

    Parameters
    ----------
    family : Family
    C, y : (n,) array-like
        Compute and pass rates.
    params : (2 + p,) array-like
        The optimum, in the order of `family.parameters`.
    free : sequence of str, optional
        Parameters that the fit estimated; all of `family.free` unless said, in this order.
    whiten : callable, optional
        Weights or correlation of the noise.

    Returns
    -------
    (k, k) array or None
        Covariance of the k free parameters; None where it is unknown.

    Examples
    --------
    >>> from analysis.curves.families import get_family
    >>> C, y = np.exp([0.0, 1.0, 2.0, 3.0]), [0.1, 0.2, 0.4, 0.5]
    >>> line = get_family("log_linear")
    >>> covariance = jacobian_covariance(line, C, y, [0.09, 0.51, 1.0, np.exp(3.0)])
    >>> standard_errors(covariance).round(6).tolist()   # of a straight line's ends
    [0.026458, 0.026458]
    """
    problem = _Problem(family, C, y, params, free=free, whiten=whiten)
    variance, jacobian = problem.variance(), problem.jacobian(problem.params)
    with np.errstate(over="ignore", under="ignore"):
        size = np.linalg.norm(jacobian, axis=1)
    if variance is None or not np.isfinite(size).all() or not (size > 0.0).all():
        return None
    # Not by J'J, whose condition is the square of J's.
    columns, values, _ = np.linalg.svd(jacobian / size[:, None], full_matrices=False)
    if not len(values) or values[-1] <= SINGULAR_J * values[0]:
        return None
    root = columns / (size[:, None] * values)
    return np.asarray(variance * root @ root.T)


def hessian_covariance(
    family: Family,
    C: ArrayLike,
    y: ArrayLike,
    params: ArrayLike,
    *,
    free: Sequence[str] | None = None,
    whiten: Whiten | None = None,
) -> Array | None:
    """Return sigma^2 (H / 2)^-1 of the free natural parameters, H the Hessian of the sum of squares.

    The observed information: unlike J'J it holds the curvature of the model times the residuals. Takes and returns
    what `jacobian_covariance` does; None also where H is not positive
    definite. That the gradient is 0 at `params` is taken for granted.

    Source: Ritz and Streibig 2005, J. Stat. Softw. 12(5), section 2.3 (drc); differences of the analytic gradient,
    exact to about ten digits.
    """
    problem = _Problem(family, C, y, params, free=free, whiten=whiten)
    variance, information = problem.variance(), problem.half_hessian()
    if variance is None or not np.isfinite(information).all() or not (np.diag(information) > 0.0).all():
        return None
    size = np.sqrt(np.diag(information))
    values, vectors = np.linalg.eigh(information / np.outer(size, size))
    if not len(values) or values[0] <= SINGULAR_H * values[-1]:
        return None
    root = vectors / (size[:, None] * np.sqrt(values))
    return np.asarray(variance * root @ root.T)


def standard_errors(covariance: Array | None) -> Array | None:
    """Return the roots of a covariance's diagonal, (k,); None of None."""
    return None if covariance is None else np.sqrt(np.diag(covariance))


def log_likelihood(residual: ArrayLike) -> float | None:
    """Return the log-likelihood of independent normal noise at its maximum-likelihood sd; None without residuals.

    Parameters
    ----------
    residual : (n,) array-like

    Examples
    --------
    >>> round(log_likelihood([1.0, -1.0, 1.0, -1.0]), 6)   # -n (ln(2 pi) + 1) / 2
    -5.675754
    """
    residual = np.asarray(residual, dtype=float)
    mean_square = float(residual @ residual) / max(len(residual), 1)
    return -0.5 * len(residual) * (math.log(2 * math.pi * mean_square) + 1.0) if mean_square > 0.0 else None


class EffectiveCompute(NamedTuple):
    """Compute at which a share of the gain is reached, and its standard error."""

    C: float
    standard_error: float | None


def effective_compute(
    family: Family,
    params: ArrayLike,
    share: float,
    covariance: Array | None = None,
    *,
    free: Sequence[str] | None = None,
) -> EffectiveCompute:
    """Return the compute at which a share of the gain from P0 to P1 is reached: the effective dose ED10 at 0.1.

    Parameters
    ----------
    family : Family
        One that is finite at C = 0 and has a limit; of others the gain has no size.
    params : (2 + p,) array-like
        The optimum.
    share : float
        Between 0 and 1.
    covariance : (k, k) array, optional
        Of the `free` parameters; without it the standard error is None.
    free : sequence of str, optional
        As in `jacobian_covariance`.

    Returns
    -------
    EffectiveCompute
        With the standard error of the delta method: first order, on the scale of compute.

    Raises
    ------
    UserError
        The family has no gain, or the share is not between 0 and 1.

    Examples
    --------
    >>> from analysis.curves.families import SIGMOID
    >>> round(effective_compute(SIGMOID, [0.1, 0.7, 2.0, 3.0], 0.9).C, 9)
    9.0
    """
    if family.inverse is None or not (family.asymptote and family.at_zero):
        raise UserError(f"{family.name} has no gain from C = 0 to a limit, of which a share could be asked for")
    if not 0.0 < share < 1.0:
        raise UserError(f"a share of the gain lies between 0 and 1, got {share}")
    vector = family.vector(params)
    theta = np.log(vector[2:])
    log_c = family.inverse(np.array([share]), np.array([1.0 - share]), theta)
    C = float(np.exp(log_c[0]))
    if covariance is None:
        return EffectiveCompute(C, None)
    _, derivatives = family.rise(log_c, theta[None])
    slope = family.slope_in_log_c(log_c, theta[None])[0, 0]
    by_shape = -C * derivatives[0, :, 0] / slope / vector[2:]  # s(C, theta) stays at the share
    by_all = np.concatenate([[0.0, 0.0], by_shape])[_positions(family, free)]
    variance = float(by_all @ covariance @ by_all)
    return EffectiveCompute(C, math.sqrt(variance) if 0.0 < variance < math.inf else None)


class _Problem:
    """A sum of squares around a point."""

    def __init__(
        self,
        family: Family,
        C: ArrayLike,
        y: ArrayLike,
        params: ArrayLike,
        *,
        free: Sequence[str] | None,
        whiten: Whiten | None,
    ) -> None:
        self.family, self.C, self.y = family, np.asarray(C, dtype=float), np.asarray(y, dtype=float)
        self.params = family.vector(params)
        self.positions = _positions(family, free)
        self.whiten: Whiten = whiten or (lambda z: z)

    def residual(self, params: Array) -> Array:
        return self.whiten(np.asarray(self.family.value(self.C, params)) - self.y)

    def jacobian(self, params: Array) -> Array:
        """(k, n), of the free parameters."""
        return self.whiten(np.ascontiguousarray(self.family.gradient(self.C, params)[:, self.positions].T))

    def variance(self) -> float | None:
        residual = self.residual(self.params)
        rss, df = float(residual @ residual), len(self.y) - len(self.positions)
        return rss / df if df > 0 and rss > _floor(self.whiten(self.y)) else None

    def half_hessian(self) -> Array:
        rows: list[Array] = []
        for position in self.positions:
            linear = position < 2  # its size may be 0; the model is linear in it, and any step is exact
            step = STEP * (max(np.abs(self.params[:2]).max(), 1e-3) if linear else self.params[position])
            differences = np.stack([w * self._half_gradient(position, k * step) for k, w in _STENCIL])
            rows.append(differences.sum(axis=0) / (12.0 * step))
        hessian = np.stack(rows)
        return 0.5 * (hessian + hessian.T)

    def _half_gradient(self, position: int, change: float) -> Array:
        params = self.params.copy()
        params[position] += change
        return np.asarray(self.jacobian(params) @ self.residual(params))


_STENCIL = ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0))


def _positions(family: Family, free: Sequence[str] | None) -> list[int]:
    names = family.free if free is None else tuple(free)
    unknown = [name for name in names if name not in family.parameters]
    if unknown:
        raise UserError(f"{family.name} has no {', '.join(unknown)}; it has {', '.join(family.parameters)}")
    return [family.parameters.index(name) for name in names]


def _floor(y: Array) -> float:
    """Sum of squares (n,) that rounding alone can leave."""
    return len(y) * float(ROUNDING * np.abs(y).max(initial=0.0)) ** 2
