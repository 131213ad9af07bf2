"""Gibbs sampling of the shapes of several seeds, over the draws that each seed's posterior has already.

Each sweep picks a draw of every seed, with its weight times the density of its ln B and ln C_mid under the common
model over that of its own prior, then draws the model's m and t given the picks. The new weight of a draw is the mean
of the probabilities that it was picked with, which wastes fewer sweeps than a count of the picks.

Shapes: S seeds, M draws of each, Q chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.curves.families import Array
from analysis.posteriors.draws import Draws
from analysis.posteriors.priors import Priors

CHAINS, SWEEPS, BURN = 4, 750, 100
T_GRID = np.geomspace(0.02, 4.0, 60)  # standard deviations between seeds, in units of the scale


@dataclass(frozen=True)
class Pooled:
    """What the sampling found.

    Attributes
    ----------
    weights : list of (Q, M) arrays
        Of each seed's draws.
    centers, spreads : (2,) arrays
        Means over the sweeps of m and of t, for ln B and ln C_mid.
    """

    weights: list[Array]
    centers: Array
    spreads: Array


def gibbs(seeds: Sequence[Draws], priors: Priors, scale: float, rng: np.random.Generator) -> Pooled:
    """Weight the draws of each seed by the hierarchical model; see `analysis.pooled.pooling`."""
    mean, sd = priors.log_B
    shapes = [np.stack([np.log(d.B), np.log(d.C_mid)]) for d in seeds]  # (2, M) each
    origin = np.mean([s @ d.weight for s, d in zip(shapes, seeds, strict=True)], axis=0)
    shapes = [s - origin[:, None] for s in shapes]
    center = mean - origin[0]
    features = [np.concatenate([s, s**2]) for s in shapes]  # (4, M): the log density is linear in these
    with np.errstate(divide="ignore"):
        base = [np.log(d.weight) + 0.5 * ((s[0] - center) / sd) ** 2 for d, s in zip(seeds, shapes, strict=True)]
    picked = np.stack([s[:, rng.choice(s.shape[1], CHAINS, p=d.weight)].T for s, d in zip(shapes, seeds, strict=True)])
    weights = [np.zeros((CHAINS, len(d))) for d in seeds]
    trace = np.zeros((4, CHAINS))
    for sweep in range(BURN + SWEEPS):
        m, t = centers(picked, scale, (center, sd), rng)  # (Q, 2) each
        precision = t**-2
        slopes = np.concatenate([m * precision, -0.5 * precision], axis=1)
        for i, table in enumerate(features):
            p = slopes @ table
            p += base[i]
            p -= p.max(axis=1, keepdims=True)
            np.exp(p, out=p)
            total = np.cumsum(p, axis=1)
            u = rng.random(CHAINS) * total[:, -1]
            for q in range(CHAINS):
                pick = min(int(np.searchsorted(total[q], u[q])), len(base[i]) - 1)
                picked[i, q] = shapes[i][:, pick]
            if sweep >= BURN:
                weights[i] += p / total[:, -1:]
        if sweep >= BURN:
            trace += np.concatenate([m, t], axis=1).T
    found = trace.mean(axis=1) / SWEEPS
    return Pooled([w / SWEEPS for w in weights], found[:2] + origin, found[2:])


def centers(picked: Array, scale: float, prior_B: tuple[float, float], rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw m and t, (Q, 2) each, of ln B and ln C_mid given the picks (S, Q, 2): t first, with m integrated out."""
    S, Q, _ = picked.shape
    mean = picked.mean(axis=0)
    squares = ((picked - mean) ** 2).sum(axis=0)
    grid = scale * T_GRID
    at, prior_sd = np.array([prior_B[0], 0.0]), np.array([prior_B[1], np.inf])
    # ln C_mid has a flat m: its variance is infinite and only its constant is lost.
    log_p = np.empty((2, Q, len(grid)))
    for k in range(2):
        log_p[k] = -(S - 2.0) * np.log(grid) - 0.5 * squares[:, k, None] / grid**2 - 0.5 * T_GRID**2
        if np.isfinite(prior_sd[k]):
            total = prior_sd[k] ** 2 + grid**2 / S
            log_p[k] -= 0.5 * np.log(total) + 0.5 * (mean[:, k, None] - at[k]) ** 2 / total
    p = np.exp(log_p - log_p.max(axis=2, keepdims=True)).cumsum(axis=2)
    u = rng.random((2, Q)) * p[:, :, -1]
    t = grid[np.minimum((p < u[:, :, None]).sum(axis=2), len(grid) - 1)].T  # (Q, 2)
    precision = S / t**2 + prior_sd**-2
    m = (S / t**2 * mean + prior_sd**-2 * at) / precision
    return m + rng.standard_normal((Q, 2)) / np.sqrt(precision), t
