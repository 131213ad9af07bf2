"""A line through the parameters of several curves over the logarithm of a size, and its prediction for another one.

Promises: the interval holds what sizes scatter around the line by (t, sizes less 2 degrees of freedom) and is never
narrower than the errors of the fits alone make it; it is on a scale where the parameter cannot leave its range.
Measured with ``python -m benchmarks.groups``. Does not promise that the line goes on: no data can say that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

from analysis.curves.solver import Array
from analysis.pooled.grouped import Predicted
from analysis.posteriors.draws import Draws, tail

EDGE = 1e-4  # of a ceiling from 0 and 1, on its logit scale


def worked(name: str, values: Array) -> Array:
    """A as its logit, B and C_mid as logarithms."""
    return np.asarray(logit(np.clip(values, EDGE, 1.0 - EDGE)) if name == "A" else np.log(values))


def natural(name: str, value: float) -> float:
    """Undo `worked`."""
    return float(expit(value)) if name == "A" else math.exp(min(value, 700.0))


def fit_line(name: str, sizes: Array, draws: Sequence[Draws | None], at: float, level: float) -> Predicted:
    """Fit the line by least squares through one value a size and predict at another size.

    The value of a size is the mean of its curves' medians: its seeds share what the size scatters around the line by.

    Parameters
    ----------
    name : {"A", "B", "C_mid"}
    sizes : (G,) array
        Of each curve, above 0; three different ones or more.
    draws : sequence of G Draws
    at : float
        Size to predict.
    level : float

    Returns
    -------
    Predicted

    Examples
    --------
    >>> one = np.ones(3)
    >>> made = [Draws(0.1 * one, A * one, one, one, 0 * one, 0 * one, one / 3) for A in (0.5, 0.6, 0.7)]
    >>> told = fit_line("A", np.array([1.0, 2.0, 4.0]), made, 8.0, 0.95)
    >>> round(told.value, 2), told.lo < 0.78 < told.hi
    (0.78, True)
    """
    known = [d for d in draws if d is not None]
    each, place = np.unique(sizes, return_inverse=True)
    u, counts = np.log(each), np.bincount(place)
    medians = np.array([float(d.quantile(worked(name, getattr(d, name)), [0.5])[0]) for d in known])
    variances = np.array([d.moments(worked(name, getattr(d, name)))[1] for d in known])
    values = np.bincount(place, medians) / counts
    own = np.bincount(place, variances) / counts**2
    centred = u - u.mean()
    slope = float(centred @ values / (centred @ centred))
    middle = float(values.mean())
    away = math.log(at) - float(u.mean())
    weights = 1.0 / len(u) + away * centred / float(centred @ centred)  # of each value in the prediction
    residual = values - middle - slope * centred
    dof = len(u) - 2
    scatter = math.sqrt(float(residual @ residual) / dof)
    half = max(
        float(stdtrit(dof, 1.0 - tail(level))) * scatter * math.sqrt(1.0 + float(weights @ weights)),
        float(ndtri(1.0 - tail(level))) * math.sqrt(float((weights**2) @ own)),
    )
    there = middle + slope * away
    lo, hi = natural(name, there - half), natural(name, there + half)
    return Predicted(natural(name, there), lo, hi, slope, middle - slope * float(u.mean()), scatter, half)
