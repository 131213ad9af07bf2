"""Curves of whole recipes, drawn together: what P(better), compute to a target and crossovers are read off.

A recipe's curve is the mean of its seeds' curves. Each draw takes one posterior draw of every seed, narrowed about its
median as `analysis.comparisons.contrasts` takes own variances (`OWN`), moves the mean by one more draw of one seed,
narrowed to the share that the prior has in it (`lean`), and by what few seeds leave unknown of it: one normal deviate
a draw for the whole curve, times tau(C) / sqrt(seeds), with tau(C) drawn from what all recipes' seeds say at that
compute. So the draws at any compute agree with the test of the difference there.

Promises: infinity stands for never; compute is on [0, infinity]. Does not promise shapes beyond the law of each seed.

Shapes: R recipes, n seeds, M draws, G computes (the first 0, the last infinity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.comparisons.contrasts import OWN, PRIOR_SD, Spread, lean, spread
from analysis.curves.curve import R
from analysis.curves.solver import Array
from analysis.posteriors.draws import Draws, tail

DRAWS = 1000
LEAST_PRIOR_SD = 0.05  # of a pass rate within the data
SURE = 12  # computes at which medians are the fits' own, beside those that are asked for
COLUMNS = 120  # computes at which curves are kept, spread evenly in ln C
BEFORE, BEYOND = 30.0, 1e4  # how far they reach below the first compute and beyond the last


@dataclass(frozen=True, eq=False)
class JointDraws:
    """Curves of recipes.

    Attributes
    ----------
    compute : (G,) array
        Ascending, from 0 to infinity.
    values, own : tuple of R arrays (n_r, G)
        Median pass rate of each seed's curve and its variance.
    common : (R, G) array
        Variance of a recipe's curve that no number of seeds averages out.
    curves : (R, M, G) array
    known : Spread or None
        What is known of tau, (G,) columns; None where it is not.
    """

    compute: Array
    values: tuple[Array, ...]
    own: tuple[Array, ...]
    common: Array
    curves: Array
    known: Spread | None

    @property
    def middle(self) -> Array:
        """Best guess of each recipe's curve, (R, G)."""
        return np.stack([v.mean(axis=0) for v in self.values])

    def column(self, compute: float) -> int:
        """Index of a compute that the curves are kept at."""
        return int(np.argmin(np.abs(self.compute - compute))) if np.isfinite(compute) else len(self.compute) - 1

    def variance(self, r: int) -> Array:
        """Variance of a recipe's curve, (G,), as the test has it."""
        mean_square = 0.0 if self.known is None else (self.known.weight * self.known.tau**2).sum(axis=-1)
        return np.asarray((mean_square + OWN * self.own[r].mean(axis=0)) / len(self.values[r]) + self.common[r])


def grid(first: float, last: float, at: Sequence[float] = ()) -> Array:
    """Return the computes at which curves are kept: 0, evenly in ln C, those asked for, infinity."""
    inner = np.geomspace(first / BEFORE, last * BEYOND, COLUMNS)
    return np.unique(np.concatenate([[0.0], inner, np.asarray(at, dtype=float), [np.inf]]))


def prior_sd(compute: Array, last: float) -> Array:
    """Return the prior's standard deviation of a pass rate ahead, given the data up to the last compute, (G,).

    Chosen by simulation for the `lean`: it grows from the last compute on to that of a ceiling.
    """
    ahead = compute / last
    share = np.divide(ahead, ahead + 9.0, out=np.ones_like(ahead), where=np.isfinite(ahead))
    return np.maximum(PRIOR_SD * share, LEAST_PRIOR_SD)


def draw_together(
    seeds: Sequence[Sequence[Draws]],
    compute: Array,
    lasts: Sequence[float],
    *,
    seed_sd: float | None = None,
    exact: Sequence[float] = (),
    M: int = DRAWS,
    seed: int = 0,
) -> JointDraws:
    """Draw the curves of recipes from the posterior draws of their seeds.

    Parameters
    ----------
    seeds : sequence of R sequences of Draws
    compute : (G,) array
        As `grid` makes them.
    lasts : sequence of R floats
        Last compute of each recipe.
    seed_sd : float, optional
        Stated tau. Without it and with one seed a recipe nothing is known of how seeds differ: the curves then hold
        the noise inside runs alone.
    exact : sequence of float
        Computes of `compute` at which the values are the medians of the fits' own draws.
    """
    rng = np.random.default_rng([11, seed])
    values, own, common, curves = [], [], [], []
    for recipe, last in zip(seeds, lasts, strict=True):
        middle: list[Array] = []
        variance: list[Array] = []
        mean = np.zeros((M, len(compute)))
        one = np.empty((M, len(compute)))
        for draws in recipe:
            at = equally(draws, M, rng)
            table = R(compute, *(v[at][:, None] for v in (draws.R0, draws.A, draws.B, draws.C_mid)))
            centre = _medians(draws, compute, table, exact)
            around = table - table.mean(axis=0)
            mean += centre + np.sqrt(OWN) * around
            again = slice(len(middle), None, len(recipe))  # every seed gives its share of the draws that lean
            one[again] = around[::-1][again]
            middle.append(centre)
            variance.append(table.var(axis=0))
        values.append(np.stack(middle))
        own.append(np.stack(variance))
        common.append(lean(own[-1], prior_sd(compute, last)))
        share = common[-1] / np.maximum(own[-1].mean(axis=0), 1e-24)
        curves.append(mean / len(recipe) + np.sqrt(share) * one)
    known = None
    if seed_sd is not None or max(map(len, values)) > 1:
        known = spread(values, own, seed_sd=seed_sd)
        tau = known.quantile(rng.uniform(size=M)).T  # (M, G)
        for r, value in enumerate(values):
            curves[r] += rng.normal(size=(M, 1)) * tau / np.sqrt(len(value))
    return JointDraws(compute, tuple(values), tuple(own), np.stack(common), np.stack(curves), known)


def _medians(draws: Draws, compute: Array, table: Array, exact: Sequence[float]) -> Array:
    """Medians of a seed's curve, (G,): those of its fit at the computes `exact`, at the end and at some in between.

    Elsewhere those of the rows drawn from it, moved by what they are off at these.
    """
    rough = np.median(table, axis=0)
    places = [*np.linspace(0, len(compute) - 1, SURE).round().astype(int), *np.searchsorted(compute, exact)]
    at = np.unique(np.minimum(places, len(compute) - 1))
    curves = R(compute[at], *(v[:, None] for v in (draws.R0, draws.A, draws.B, draws.C_mid)))
    off = draws.quantile(curves, [0.5])[0] - rough[at]
    return np.asarray(rough + np.interp(np.arange(len(compute)), at, off))


def equally(draws: Draws, M: int, rng: np.random.Generator) -> Array:
    """Return the places of `M` equally weighted draws, in random order."""
    at = (np.arange(M) + rng.uniform()) / M
    chosen = np.searchsorted(np.cumsum(draws.weight), at)
    return rng.permutation(np.minimum(chosen, len(draws) - 1))


def compute_to(curves: Array, compute: Array, target: float) -> Array:
    """Return the first compute at which each curve is at `target`, (M,); infinity is never.

    Between two computes the curve is taken as a line over ln C; from 0 to the first one it is not resolved.

    Examples
    --------
    >>> C = grid(0.01, 10.0)
    >>> curves = np.stack([R(C, 0.1, A, 1.5, 2.0) for A in (0.7, 0.3)])
    >>> compute_to(curves, C, 0.4).round(3).tolist(), compute_to(curves, C, 0.05).tolist()
    ([2.0, inf], [0.0, 0.0])
    """
    reached = curves >= target
    at = reached.argmax(axis=1)
    rows = np.arange(len(curves))
    inner = np.clip(at, 2, len(compute) - 2)
    low, high = curves[rows, inner - 1], curves[rows, inner]
    share = np.clip((target - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
    logs = np.log(compute[1:-1])
    found = np.exp(logs[inner - 2] + share * (logs[inner - 1] - logs[inner - 2]))
    found = np.where(at == 0, 0.0, np.where(at == 1, compute[1], found))
    return np.where(reached.any(axis=1), found, np.inf)


def lead_from(ahead: Array, compute: Array, first: float) -> Array:
    """Return the compute from which a lead (M, G) is above 0 for good, (M,).

    0 where it is from `first` on, the first compute that was evaluated; infinity where it is not in the limit.

    Examples
    --------
    >>> C = grid(0.1, 10.0)
    >>> lead = R(C, 0.1, 0.7, 2.0, 2.0) - R(C, 0.1, 0.6, 1.0, 1.0)
    >>> found = lead_from(np.stack([lead, -lead, np.full(len(C), 0.1)]), C, 0.1).round(3).tolist()
    >>> found[1:], bool(abs(R(found[0], 0.1, 0.7, 2.0, 2.0) - R(found[0], 0.1, 0.6, 1.0, 1.0)) < 1e-3)
    ([inf, 0.0], True)
    """
    start = int(np.searchsorted(compute, first))
    lead, logs = ahead[:, start:], np.log(compute[start:-1])
    behind = lead <= 0.0
    last = behind.shape[1] - 1 - behind[:, ::-1].argmax(axis=1)  # last place at which it is behind
    rows = np.arange(len(lead))
    j = np.clip(last, 0, len(logs) - 2)
    low, high = lead[rows, j], lead[rows, j + 1]
    share = np.clip(-low / np.maximum(high - low, 1e-300), 0.0, 1.0)
    found = np.exp(logs[j] + share * (logs[j + 1] - logs[j]))
    found = np.where(behind.any(axis=1), found, 0.0)
    return np.where(behind[:, -1], np.inf, found)


def limits(values: Array, level: float) -> tuple[float, float]:
    """Return the central interval of draws on [0, infinity]: order statistics, so that infinity is a value."""
    ordered = np.sort(values)
    low = tail(level)
    last = len(ordered) - 1
    return float(ordered[round(low * last)]), float(ordered[round((1.0 - low) * last)])
