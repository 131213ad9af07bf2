"""What the residuals give away: a law of the wrong shape, noise that grows, points that do not belong.

Promises: pure functions of arrays that return findings in a fixed order; every threshold stands here, named, and the
share of false alarms that was measured with them stands at `misfit`. Does not promise to find a misfit that looks like
slow noise: where residuals are correlated, only a shape that no such noise explains is called a misfit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, ndtri, stdtr, stdtrit

from analysis.curves.curve import R, gradient
from analysis.findings import Finding, finding

Array = NDArray[np.float64]

MISFIT_POINTS, MISFIT_LEVEL, MISFIT_SIZE = 12, 0.005, 0.002  # points; level; RMS of the shape that is missed
SHAPES = 6  # cosines over the order of the points that may improve on the law
RHOS = np.linspace(0.0, 0.95, 20)
PLAUSIBLE = 1.35  # log-likelihood below the best rho within which a rho may excuse the shape: one side at 95 %
REPLICATED = 0.5  # share of the computes with several evaluations from which on the points are replicates by design
GROWTH_POINTS, GROWTH_LEVEL, GROWTH = 20, 0.003, 1.5  # points; level; last third of the spread over the first
OUTLIER_POINTS, OUTLIER_LEVEL, OUTLIER_SIZE = 10, 0.01, 0.01  # points; chance of one in all points; smallest distance
FLOOR = 0.01  # a fitted pass rate this near 0 or 1 is not used to divide by


class LackOfFit(NamedTuple):
    """F test of the curve against the means of replicates: statistic, its two degrees of freedom, p-value."""

    F: float
    between: int
    within: int
    p: float


def lack_of_fit(compute: Array, pass_rate: Array, fitted: Array, free: int) -> LackOfFit | None:
    """Return the lack-of-fit test of a curve with `free` fitted parameters, or None without replicates.

    Parameters
    ----------
    compute, pass_rate, fitted : array, shape (n,)
    free : int

    Examples
    --------
    >>> C = np.array([1.0, 1, 2, 2, 3, 3])
    >>> test = lack_of_fit(C, np.array([0.1, 0.2, 0.5, 0.4, 0.2, 0.3]), np.array([0.2, 0.2, 0.3, 0.3, 0.4, 0.4]), 2)
    >>> round(test.F, 6), test.between, test.within
    (19.0, 1, 3)
    """
    _, place, count = np.unique(compute, return_inverse=True, return_counts=True)
    mean = np.bincount(place, pass_rate) / count
    pure = float(((pass_rate - mean[place]) ** 2).sum())
    total = float(((pass_rate - fitted) ** 2).sum())
    between, within = len(count) - free, len(pass_rate) - len(count)
    if between < 1 or within < 1 or pure <= 0.0:
        return None
    F = max(total - pure, 0.0) / between / (pure / within)
    return LackOfFit(F, between, within, float(fdtrc(between, within, F)))


def misfit(compute: Array, pass_rate: Array, values: dict[str, float]) -> list[Finding]:
    """A shape in the residuals that neither the law nor correlated noise explains.

    Parameters
    ----------
    compute, pass_rate : array, shape (n,)
        Sorted by compute.
    values : R0, A, B, C_mid

    Notes
    -----
    F test of `SHAPES` cosines over the order of the points, beside the law's own directions, under AR(1) noise. Its
    rho is estimated with the cosines in the model, so that a misfit is not taken for correlation, and of all
    plausible rho the one that excuses most counts. False alarms of 300 simulated curves a cell (R0 .12, A .74, B 1.8,
    run to 5 C_mid, AR(1) noise of sd .01, fitted by least squares; seeds 0 to 299 of `tests.made.noisy`): none at rho
    of 0 and .3 with n of 20, 60 and 200; 0, 1 and 0 % at rho .7; 1, 2 and 1.7 % at rho .9, where with n of 60 other
    curves give 1.3 % (R0 .3, A .4), 2.3 % (to 2 C_mid) and 3.7 % (B 4).
    """
    n = len(compute)
    fitted = np.asarray(R(compute, **values))
    replicates = _replicates(compute, pass_rate, fitted)
    if replicates is not None:
        return replicates
    if n < MISFIT_POINTS:
        return []
    residual = pass_rate - fitted
    # In units of C_mid: compute may lie at either end of what a float holds, and the directions are the same.
    directions = gradient(compute / values["C_mid"], **{**values, "C_mid": 1.0})
    found = _structure(residual, np.asarray(directions))
    if found is None or found[0] > MISFIT_LEVEL or found[1] < MISFIT_SIZE:
        return []
    p, size = found
    what = f"the law misses the shape of the curve by about {size:.3f} (p {p:.1g}): limits and forecasts are too narrow"
    return [finding("misfit", what, size)]


def _replicates(compute: Array, pass_rate: Array, fitted: Array) -> list[Finding] | None:
    """The classical test where most computes were evaluated several times; None where they were not."""
    _, count = np.unique(compute, return_counts=True)
    if np.mean(count > 1) < REPLICATED:
        return None
    test = lack_of_fit(compute, pass_rate, fitted, 4)
    if test is None or test.p > MISFIT_LEVEL:
        return []
    what = f"replicates agree better among themselves than with the law (F {test.F:.2g}, p {test.p:.1g})"
    return [finding("misfit", what, test.F)]


def _structure(residual: Array, jacobian: Array) -> tuple[float, float] | None:
    """Smallest claim of a shape: largest p-value over the plausible rho, and RMS of the shape."""
    n = len(residual)
    width = np.linalg.norm(jacobian, axis=0)
    law = jacobian[:, width > 0.0] / width[width > 0.0]
    many = min(SHAPES, n // 4)
    order = (np.arange(n) + 0.5) / n
    shapes = np.cos(np.pi * np.outer(order, np.arange(1, many + 1)))
    whole = np.column_stack([law, shapes, residual])
    dof = n - law.shape[1] - many
    loglik, p = np.empty(len(RHOS)), np.empty(len(RHOS))
    size = 0.0
    for i, rho in enumerate(RHOS):
        white = whole.copy()
        white[1:] -= rho * whole[:-1]
        white[0] *= np.sqrt(1.0 - rho**2)
        r: Array = np.linalg.qr(white)[1]
        diagonal = np.abs(np.diag(r))[:-1]
        left = r[-1, -1] ** 2
        gained = float((r[law.shape[1] : -1, -1] ** 2).sum())
        if left <= 0.0 or diagonal.min() <= 1e-12 * diagonal.max():
            return None
        loglik[i] = 0.5 * np.log(1.0 - rho**2) - np.log(diagonal).sum() - 0.5 * dof * np.log(left)
        p[i] = fdtrc(many, dof, gained / many / (left / dof))
        if i == 0:
            size = np.sqrt(gained / n)
    return float(p[loglik >= loglik.max() - PLAUSIBLE].max()), float(size)


def noise_grows(residual: Array, fitted: Array) -> list[Finding]:
    """Residuals that spread wider and wider along the run.

    Parameters
    ----------
    residual, fitted : array, shape (n,)
        Sorted by compute.

    Notes
    -----
    Rank correlation of their size with their order. Noise of counts also changes along a curve, as sqrt(R (1 - R)):
    only growth that shows both in the residuals and in residuals over that size is reported.
    """
    n = len(residual)
    if n < GROWTH_POINTS:
        return []
    # Residuals of a fit understate their correlation, by about 4 / n for four parameters.
    rho = float(residual[1:] @ residual[:-1]) / max(float(residual @ residual), 1e-300) + 4.0 / n
    sizes = (np.abs(residual), np.abs(residual) / _binomial(fitted))
    if max(_growth_p(size, together=max(rho, 0.0) ** 2) for size in sizes) > GROWTH_LEVEL:
        return []
    third = n // 3
    first, last = (float(np.sqrt(np.mean(part**2))) for part in (residual[:third], residual[-third:]))
    if last < GROWTH * first:
        return []
    what = f"residuals spread by {first:.2g} in the first third and by {last:.2g} in the last: the noise is not even"
    return [finding("noise-grows", what, last / first if first > 0.0 else None)]


def _growth_p(size: Array, together: float) -> float:
    """One-sided p-value of a rising rank correlation with the order; neighbours that go together count for less.

    `together` is the least correlation of neighbouring sizes: rho^2 where residuals have correlation rho.
    """
    n = len(size)
    rank = _ranks(size)
    rank, order = rank - rank.mean(), np.arange(n) - 0.5 * (n - 1)
    if not np.any(rank):
        return 1.0
    r = float(rank @ order) / np.sqrt(float(rank @ rank) * float(order @ order))
    rest = rank - order * float(rank @ order) / float(order @ order)
    together = min(max(float(rest[1:] @ rest[:-1]) / max(float(rest @ rest), 1e-300), together), 0.9)
    dof = (n - 2) * (1.0 - together) / (1.0 + together)
    return float(stdtr(dof, -r * np.sqrt(dof / max(1.0 - r * r, 1e-12))))


def outliers(compute: Array, residual: Array, fitted: Array) -> list[Finding]:
    """Points so far off that no such point is expected among this many.

    Parameters
    ----------
    compute, residual, fitted : array, shape (n,)

    Notes
    -----
    Distances are over the median size, and over it after division by sqrt(R (1 - R)): a point must stand out in both.
    """
    n = len(residual)
    if n < OUTLIER_POINTS:
        return []
    # The median size of few residuals is rough: about a third of their number counts as degrees of freedom.
    most = float(stdtrit(0.37 * (n - 4), 1.0 - 0.5 * OUTLIER_LEVEL / n))
    out = np.abs(residual) > OUTLIER_SIZE
    for r in (residual, residual / _binomial(fitted)):
        out &= np.abs(r) > most * _spread(r)
    if not out.any():
        return []
    worst = int(np.argmax(np.where(out, np.abs(residual), 0.0)))
    count = int(out.sum())
    what = (
        f"{count} evaluation{'s lie' if count > 1 else ' lies'} far off the curve, the farthest by "
        f"{abs(residual[worst]):.3f} at compute {compute[worst]:.4g}; the fit gives every point the same weight"
    )
    return [finding("outliers", what, float(compute[worst]))]


def _spread(residual: Array) -> float:
    """Standard deviation from the median size, for residuals of a curve with four parameters."""
    n = len(residual)
    return float(np.median(np.abs(residual)) / ndtri(0.75) * np.sqrt(n / max(n - 4, 1)))


def _binomial(fitted: Array) -> Array:
    inside = np.clip(fitted, FLOOR, 1.0 - FLOOR)
    return np.asarray(np.sqrt(inside * (1.0 - inside)))


def _ranks(values: Array) -> Array:
    """Ranks with ties at their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - 0.5 * (count - 1))[place])
