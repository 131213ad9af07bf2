"""The test of a difference between recipes, as arithmetic on arrays: seeds' values in, interval out.

The values of a recipe's n seeds (medians of their posteriors) scatter around the recipe's own with variance
tau^2 + `OWN` v: v is the variance of a seed's posterior, which is wider than its median scatters; tau is how seeds of
one recipe differ, the same for every recipe compared, and is integrated out on a grid under a half-Cauchy prior of
scale `SCALE`; a stated tau is used as it is. Their mean then has the variance (tau^2 + `OWN` v) / n + lean, where the
lean is what all seeds of a recipe have in common and no number of them averages out: a posterior owes the share
v / (prior sd)^2 of its variance to the prior, which pulls every seed the same way (`lean`). So few seeds borrow from
each other how much seeds differ, and early runs are not believed because they agree.

Promises: one rule for every figure that is compared (ceiling, pass rate at a compute, ln B, ln C_mid), of which
`power` says how often it sees a given difference. `OWN`, `SCALE` and the prior sds were chosen by simulation
(``python -m benchmarks.compare``), which also says how often the interval is wrong. Does not know what the values are.

Shapes: R recipes, n_r seeds, ... any number of columns, T values of tau.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from analysis.curves.solver import Array
from analysis.posteriors.draws import tail
from scalerl.runlog import UserError

OWN = 0.35  # of a posterior's variance is what its median scatters by from run to run (.2 to .55 in simulation)
# Of a ceiling, as far as the lean is concerned. The lean of one recipe's ceiling follows a prior sd of .2; recipes that
# are compared are alike and lean alike, so that a difference leans less.
PRIOR_SD = 0.35
SCALE = 0.01  # of the half-Cauchy prior of tau, in pass rate
TAUS = np.concatenate([[0.0], np.geomspace(0.02, 60.0, 60)])  # in units of the scale
BISECTIONS = 50


class Spread(NamedTuple):
    """What is known of tau: values (T,) and their weights (..., T), which sum to 1."""

    tau: Array
    weight: Array

    def quantile(self, u: Array) -> Array:
        """Tau at shares `u` (M,) of the weight, (..., M)."""
        shape = self.weight.shape[:-1]
        middle = (np.cumsum(self.weight, axis=-1) - 0.5 * self.weight).reshape(-1, len(self.tau))
        return np.stack([np.interp(u, row, self.tau) for row in middle]).reshape(*shape, len(u))


class Interval(NamedTuple):
    """A difference, its limits, and the two-sided p of no difference, (...) each."""

    value: Array
    lo: Array
    hi: Array
    p: Array


def spread(
    values: Sequence[Array], own: Sequence[Array], *, seed_sd: float | None = None, scale: float = SCALE
) -> Spread:
    """Return what the seeds of all recipes say of tau.

    Parameters
    ----------
    values, own : sequence of R arrays, shape (n_r, ...)
        Values of the seeds and their own variances.
    seed_sd : float, optional
        A stated tau.
    scale : float
        Of the half-Cauchy prior, in the unit of the values.

    Raises
    ------
    UserError
        If no recipe has two seeds and no tau is stated.
    """
    columns = np.shape(values[0])[1:]
    if seed_sd is not None:
        return Spread(np.array([seed_sd]), np.ones((*columns, 1)))
    if max(len(v) for v in values) < 2:
        raise UserError("one seed a recipe: differences are not tested; say how much seeds differ (seed_sd)")
    tau = scale * TAUS
    logs = np.zeros((*columns, len(tau)))
    for value, variance in zip(values, own, strict=True):
        n = len(value)
        if n > 1:
            total = np.maximum(tau**2 + _own(variance)[..., None], tau[1] ** 2)
            squares = ((value - value.mean(axis=0)) ** 2).sum(axis=0)[..., None]
            logs -= 0.5 * (n - 1) * np.log(total) + 0.5 * squares / total
    prior = np.gradient(tau) / (1.0 + (tau / scale) ** 2)
    weight = np.exp(logs - logs.max(axis=-1, keepdims=True)) * prior
    return Spread(tau, weight / weight.sum(axis=-1, keepdims=True))


def lean(own: Array, prior_sd: Array | float = PRIOR_SD) -> Array:
    """Return the variance that all seeds of a recipe have in common: v min(v / prior_sd^2, 1), v the mean of `own`.

    Parameters
    ----------
    own : array, shape (n, ...)
        Variances of the seeds' posteriors.
    prior_sd : array or float
        Standard deviation of the prior of this figure.

    Examples
    --------
    >>> lean(np.full(3, 0.1**2)).round(6).item(), lean(np.full(3, 0.01**2)).round(7).item()
    (0.000816, 1e-07)
    """
    v = np.asarray(own).mean(axis=0)
    return np.asarray(v * np.minimum(v / np.square(prior_sd), 1.0))


def difference(  # noqa: PLR0917
    first: Array,
    second: Array,
    own_first: Array,
    own_second: Array,
    known: Spread,
    level: float = 0.95,
    *,
    common: Array | float = 0.0,
) -> Interval:
    """Return first - second with its interval.

    Parameters
    ----------
    first, second : array, shape (n_r, ...)
        Values of the seeds of two recipes.
    own_first, own_second : array, same shapes
        Variances of these values.
    known : Spread
        Of all recipes compared, these two among them.
    level : float
    common : array or float, shape (...)
        Variance of the difference that no number of seeds averages out: the `lean` of both, and other prompts.

    Returns
    -------
    Interval

    Examples
    --------
    >>> a, b, v = np.array([0.70, 0.71, 0.72]), np.array([0.65, 0.66, 0.66]), np.full(3, 1e-5)
    >>> found = difference(a, b, v, v, spread([a, b], [v, v]))
    >>> bool(found.lo > 0.03), bool(found.hi < 0.08), bool(found.p < 0.001)
    (True, True, True)
    """
    value = first.mean(axis=0) - second.mean(axis=0)
    se = standard_errors(own_first, own_second, known, common)
    weight = np.broadcast_to(known.weight, se.shape)
    half = half_width(se, weight, level)
    return Interval(value, value - half, value + half, two_sided(value, se, weight))


def two_sided(value: Array, se: Array, weight: Array) -> Array:
    """Return the two-sided p of values (...) under a mixture of normals around 0, se and weight (..., T)."""
    with np.errstate(invalid="ignore"):
        return np.asarray(2.0 * (weight * ndtr(-np.abs(value)[..., None] / se)).sum(axis=-1))


def standard_errors(own_first: Array, own_second: Array, known: Spread, common: Array | float = 0.0) -> Array:
    """Return the standard error of a difference at each tau, (..., T)."""
    each = [(known.tau**2 + _own(own)[..., None]) / len(own) for own in (own_first, own_second)]
    return np.asarray(np.sqrt(np.maximum(each[0] + each[1] + np.asarray(common)[..., None], 1e-24)))


def half_width(se: Array, weight: Array, level: float) -> Array:
    """Return the half-width of the central interval of a mixture of normals around 0, (...)."""
    wanted = 1.0 - tail(level)
    low, high = np.zeros(se.shape[:-1]), 40.0 * se.max(axis=-1)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        below = (weight * ndtr(middle[..., None] / se)).sum(axis=-1) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(high)


def power(
    gap: float,
    own_first: float,
    own_second: float,
    seeds: int,
    tau: float,
    *,
    level: float = 0.95,
    repetitions: int = 2000,
    seed: int = 0,
) -> float:
    """Return how often this test sees a difference of `gap` between two recipes of `seeds` seeds.

    Parameters
    ----------
    gap : float
        True difference.
    own_first, own_second : float
        Variance of one run's value, as its posterior says it.
    seeds : int
        Of each recipe; 1 takes `tau` as stated.
    tau : float
        Standard deviation between seeds.

    Examples
    --------
    >>> power(0.0, 1e-4, 1e-4, 3, 0.01) < 0.1 < 0.9 < power(0.05, 1e-4, 1e-4, 3, 0.01)
    True
    """
    rng = np.random.default_rng(seed)
    a, b = (np.full((seeds, repetitions), v) for v in (own_first, own_second))
    common = lean(a) + lean(b)
    first = gap + rng.normal(size=a.shape) * np.sqrt(tau**2 + OWN * a) + rng.normal(size=repetitions) * np.sqrt(common)
    second = rng.normal(size=b.shape) * np.sqrt(tau**2 + OWN * b)
    known = spread([first, second], [a, b], seed_sd=tau if seeds == 1 else None)
    se = standard_errors(a, b, known, common)
    p = two_sided(first.mean(axis=0) - second.mean(axis=0), se, np.broadcast_to(known.weight, se.shape))
    return float((p < 1.0 - level).mean())


def _own(variance: Array) -> Array:
    """Mean own variance of a recipe's values."""
    return np.asarray(OWN * np.asarray(variance).mean(axis=0))


def shrunk(draws: Array, values: Array, covariance: Array, rng: np.random.Generator) -> Array:
    """Return draws of several recipes' values drawn together by as much as they may differ by chance alone.

    Normal values around a common mean, with the spread between recipes unknown (half-normal prior of scale .1, on a
    grid): the best of many is not taken at its word. Fewer than three are left as they are.

    Parameters
    ----------
    draws : array, shape (R, M)
    values : array, shape (R,)
    covariance : array, shape (R, R), or (R,) where the errors are independent
        Of the errors of `values`; recipes on the same prompts share a part of theirs.

    Returns
    -------
    array, shape (R, M)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values = np.array([0.60, 0.61, 0.62, 0.66])
    >>> draws = values[:, None] + rng.normal(0, 0.03, (4, 1000))
    >>> together = shrunk(draws, values, np.full(4, 0.03**2), rng)
    >>> bool(0.62 < together[3].mean() < 0.65)
    True
    """
    if len(values) < 3:
        return draws
    M = draws.shape[1]
    omega = np.concatenate([[0.0], np.geomspace(1e-4, 0.5, 60)])
    # In the axes of the errors these are independent, and one common mean lies along `along`.
    variances, axes = np.linalg.eigh(np.diag(covariance) if covariance.ndim == 1 else covariance)
    variances, along, turned = (
        np.maximum(variances, 1e-12)[:, None],
        axes.sum(axis=0)[:, None],
        (axes.T @ values)[:, None],
    )
    total = variances + omega**2  # (R, T)
    precision = (along**2 / total).sum(axis=0)
    mean = (along * turned / total).sum(axis=0) / precision
    logs = -0.5 * (np.log(total) + (turned - along * mean) ** 2 / total).sum(axis=0) - 0.5 * np.log(precision)
    weight = np.exp(logs - logs.max() - 0.5 * (omega / 0.1) ** 2) * np.gradient(omega)
    chosen = rng.choice(len(omega), size=M, p=weight / weight.sum())
    centre = along * (mean[chosen] + rng.normal(size=M) / np.sqrt(precision[chosen]))
    share = (omega[chosen] ** 2) / (omega[chosen] ** 2 + variances)
    around = axes.T @ (draws - values[:, None])
    return np.asarray(axes @ (share * turned + (1.0 - share) * centre + np.sqrt(share) * around))
