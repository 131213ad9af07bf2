"""The posterior of a curve by quadrature: no Markov chain, no normal approximation.

Given the shape (ln B, ln C_mid) and a node of the noise the curve is linear in R0 and A, so these and the size of the
noise integrate out in closed form, and A stays inside [0, ceiling]. What is left, two dimensions of shape, is covered
by a quadtree that splits the heaviest cells until none holds more than `HEAVY` of the mass. Draws are taken from the
cells and weighted by what the density at the draw is to that of its cell, so the size of the cells leaves no trace.

Promises: proper priors, stated in `Priors`; draws that depend on the seed alone; a self-check (`checks`) that says
where the quadrature cannot be trusted. Does not promise coverage where the law is wrong: see the findings of misfit.

Shapes: n points, K nodes of the noise, m shapes, M draws.
"""

from __future__ import annotations

import zlib

import numpy as np

from analysis.curves.solver import Array
from analysis.posteriors.conditional import Problem
from analysis.posteriors.priors import Priors
from analysis.posteriors.quadrature import Grid, Posterior

DRAWS = 4000
LEAST_SIZE = 200  # effective number of draws below which nothing is believed
EDGE_MASS = 0.02  # at an edge of the grid, from which on the prior and not the data ends an interval


def posterior(
    compute: Array,
    pass_rate: Array,
    *,
    variance: Array | None = None,
    time: Array | None = None,
    priors: Priors | None = None,
    r0: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    start: Array | None = None,
) -> Posterior:
    """Return draws of the curve's parameters given one run.

    Parameters
    ----------
    compute : (n,) array
        Ascending, at least 0.
    pass_rate : (n,) array
        Fractions.
    variance : (n,) array, optional
        Variance of each evaluation's own noise, from its counts; without it an unknown white share is integrated out.
    time : (n,) array, optional
        What the correlation of the noise decays over, ascending; by default compute.
    priors : Priors, optional
    r0 : float, optional
        Hold R0 at this value.
    draws, seed : int
    start : (2,) array, optional
        ln B and ln C_mid of the least squares fit, if it is known already.

    Returns
    -------
    Posterior

    Examples
    --------
    >>> C = np.linspace(0.1, 5, 40)
    >>> y = 0.1 + 0.6 / (1 + C**-1.5) + 0.01 * np.sin(7.0 * np.arange(40))
    >>> p = posterior(C, y)
    >>> lo, hi = p.quantile(p.A, np.array([0.025, 0.975]))
    >>> bool(lo < 0.7 < hi), bool(hi - lo < 0.2)
    (True, True)
    """
    priors = Priors() if priors is None else priors
    compute, pass_rate = (np.ascontiguousarray(v, dtype=float) for v in (compute, pass_rate))
    problem = Problem(compute, pass_rate, variance, time, priors, r0, start)
    grid = Grid(problem)
    grid.refine()
    # Of the data too: rows of two runs' draws may be paired, for a difference, only if their noise is not the same.
    own = zlib.crc32(pass_rate.tobytes())
    return grid.sample(draws, np.random.default_rng([seed, own]))
