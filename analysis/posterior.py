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

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from analysis import noise
from analysis.draws import Draws
from analysis.projection import fit_many

Array = NDArray[np.float64]
Index = NDArray[np.intp]

HEAVY = 0.008  # no cell of the final grid holds more of the mass; .0005 moves no limit by more than draws do
LEVELS = 16  # halvings of a cell at most
ROOT = (12, 16)  # first cells along ln B and ln C_mid
LOG_B_SDS = 3.5  # how far the grid reaches in ln B, in standard deviations of its prior
NEGLIGIBLE = 1e-3  # nodes of the noise with less of the mass are dropped once the peak is found
CELLS = 6000
DIGITS = 12  # of ln C and of time, relative to the run's own
DRAWS = 4000
LEAST_SIZE = 200  # effective number of draws below which nothing is believed
EDGE_MASS = 0.02
SIGMA_POWER = 2.0  # p(sigma) ~ sigma^-2, see `Priors`
TABLE_END, TABLE_SIZE = 7.0, 8001  # arsinh of the ends of the table of t's distribution function, and its length
FAR = 30.0  # scales of A from the ceiling and from 0 beyond which nothing is cut off


@dataclass(frozen=True)
class Priors:
    """What is assumed before the data; all of it stands in the report of a fit.

    Attributes
    ----------
    log_B : (mean, sd)
        ln B is normal.
    C_mid : (low, high)
        ln C_mid is uniform from `low` x the first positive compute to `high` x the last compute.
    rho : (low, high)
        Correlation of neighbouring evaluations, uniform.
    ceiling : float
        A is uniform on [0, ceiling].
    R0 : (mean, sd) or None
        R0 is normal, inside [0, 1]; None takes the evaluations at the lowest compute as mean and `R0_SD` as sd.
    least_sigma : float
        The noise has p(sigma) ~ 1 / sigma^2, cut off smoothly below this: no evaluation is more exact, and points that
        a curve goes through exactly would otherwise claim to know it without error.

    Notes
    -----
    With 1 / sigma instead of 1 / sigma^2, noise that is large and nearly constant (rho near 1) holds so much mass that
    at 5 C_mid, 60 points and rho .7 the limits of A are 2.4 times as far apart as the Cramer-Rao bound instead of 1.7,
    for a coverage of .96 instead of .95 (200 and 650 simulated curves, `benchmarks.coverage`).
    """

    log_B: tuple[float, float] = (math.log(1.5), 0.7)  # noqa: N815
    C_mid: tuple[float, float] = (math.exp(-2.0), 20.0)
    rho: tuple[float, float] = (0.0, 1.0)
    ceiling: float = 1.0
    R0: tuple[float, float] | None = None
    least_sigma: float = 1e-4

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


R0_SD = 0.2


@dataclass(frozen=True, eq=False)
class Posterior(Draws):
    """Weighted draws, and how well the quadrature went.

    Attributes
    ----------
    R0, A, B, C_mid, rho, sigma, weight : (M,) arrays
        See `Draws`; `sigma` is the standard deviation of all noise.
    white : (M,) array
        Share of the noise's variance that is evaluation noise.
    log_evidence : float
        log of the probability density of the data under law and priors.
    checks : mapping
        Self-check: ``edge_B`` and ``edge_C_mid`` (mass in cells at an edge of the grid), ``cells``, ``heaviest`` (share
        of the heaviest cell), ``missed`` (how far, in log density, the least squares optimum lies above the best cell).
    """

    white: Array
    log_evidence: float
    checks: Mapping[str, float]


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
    problem = _Problem(compute, pass_rate, variance, time, priors, r0, start)
    grid = _Grid(problem)
    grid.refine()
    return grid.sample(draws, np.random.default_rng(seed))


def relative_log(compute: Array) -> tuple[Array, float]:
    """ln C relative to the last compute, (n,), and the ln of that.

    Rounded, so that a change of unit leaves no trace: not in the last digit, which could tip a decision.

    Examples
    --------
    >>> relative_log(np.array([0.0, 1.0, 10.0]))
    (array([       -inf, -2.30258509,  0.        ]), 2.302585092994046)
    """
    unit = math.log(float(compute[-1])) if compute[-1] > 0.0 else 0.0
    with np.errstate(divide="ignore"):
        return np.round(np.log(compute) - unit, DIGITS), unit


class _Problem:
    """Everything that does not depend on the shape, and the density of a shape."""

    def __init__(  # noqa: PLR0917
        self,
        compute: Array,
        y: Array,
        variance: Array | None,
        time: Array | None,
        priors: Priors,
        r0: float | None,
        start: Array | None,
    ) -> None:
        self.priors, self.y, self.n = priors, y, len(y)
        self.log_c, self.unit = relative_log(compute)
        first = float(self.log_c[np.isfinite(self.log_c)][0])
        mean, sd = priors.log_B
        reach = LOG_B_SDS * sd
        self.low = np.array([mean - reach, first + math.log(priors.C_mid[0])])
        self.high = np.array([mean + reach, math.log(priors.C_mid[1])])
        gaps = np.round(noise.spacing(compute if time is None else time), DIGITS)
        if start is None:
            best = fit_many(self.log_c, y[None], shape_low=self.low, shape_high=self.high, linear_high=priors.ceiling)
            start = best.shape[0]
        else:
            start = start - np.array([0.0, self.unit])
        self.optimum = np.clip(start, self.low + 1e-9, self.high - 1e-9)
        s = _rise(self.log_c, self.optimum[None])
        self.center, self.r0_sd = _r0_prior(compute, y, priors, r0)
        if variance is None:
            self.nodes = noise.unknown_share(gaps, priors.rho)
            self.dof = self.n - 3.0 + SIGMA_POWER
        else:
            basis = np.concatenate([1.0 - s, s]).T
            residual = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
            self.nodes = noise.known_white(gaps, variance, float(np.sqrt((residual**2).mean())), priors.rho)
            self.dof = math.inf
        self._prepare()
        self.table = _cdf_table(self.dof)
        self.ratio = np.full(len(self.nodes.rho), 1.0 / self.r0_sd**2)
        if self.nodes.scaled:  # the prior of R0 is relative to sigma, whose size at the optimum is known well enough
            sums = self._sums(s)
            for _ in range(3):
                S = self._conditional(sums, self.ratio[:, None]).S
                self.ratio = np.maximum(S[:, 0] / self.dof, 1e-24) / self.r0_sd**2

    def _prepare(self) -> None:
        """Products of the data alone, for each node."""
        ones = np.ones(self.n)
        self.v_one, self.v_y = self.nodes.solve(ones), self.nodes.solve(self.y)
        self.one_one, self.one_y = self.v_one.sum(axis=1), self.v_one @ self.y
        self.y_y = self.v_y @ self.y
        self.constant = self.nodes.log_prior - 0.5 * self.nodes.log_det()

    def keep(self, nodes: Index) -> None:
        """Drop the other nodes."""
        self.nodes, self.ratio = self.nodes.keep(nodes), self.ratio[nodes]
        self._prepare()

    def _sums(self, s: Array) -> _Sums:
        """Products with the rises s (m, n), (K, m) each."""
        return _Sums(
            self.v_one @ s.T,
            self.v_y @ s.T,
            self.nodes.quadratic(s),
            *(a[:, None] for a in (self.one_one, self.one_y, self.y_y)),
        )

    def _conditional(self, sums: _Sums, ratio: Array) -> _Conditional:
        """R0 and A given shape and node."""
        pp = np.maximum(sums.one_one - 2.0 * sums.one_s + sums.s_s, 0.0) + ratio
        pq, qq = sums.one_s - sums.s_s, sums.s_s
        py, qy = sums.one_y - sums.s_y + ratio * self.center, sums.s_y
        det = np.maximum(pp * qq - pq * pq, 1e-14 * pp * qq + 1e-300)
        A = (pp * qy - pq * py) / det
        R0 = (py - pq * A) / pp
        S = sums.y_y + ratio * self.center**2 - R0 * py - A * qy
        if self.nodes.scaled:
            S = np.maximum(S, 0.0) + self.n * self.priors.least_sigma**2
        return _Conditional(pp, pq, py, det, A, S)

    def _density(self, c: _Conditional, ratio: Array, constant: Array, log_b: Array) -> Array:
        """Log posterior density of shape and node, without a constant."""
        mean, sd = self.priors.log_B
        scale2 = c.pp / c.det
        out = constant + 0.5 * np.log(ratio) - 0.5 * np.log(c.det) - 0.5 * ((log_b - mean) / sd) ** 2
        if self.nodes.scaled:
            scale2 = scale2 * c.S / self.dof
            out = out - 0.5 * self.dof * np.log(c.S)
        else:
            out = out - 0.5 * c.S
        scale = np.sqrt(scale2)
        low, high = -c.A / scale, (self.priors.ceiling - c.A) / scale
        inside = np.ones_like(scale)
        cut = (low > -FAR) | (high < FAR)
        inside[cut] = self._cdf(high[cut]) - self._cdf(low[cut])
        # Where A is hardly seen at all the difference drowns in rounding; the density is level there.
        width = high - low
        flat = width * np.exp(-0.5 * (0.5 * (low + high)) ** 2) / math.sqrt(2.0 * math.pi)
        inside = np.where(width < 1e-3, flat, inside)
        return np.asarray(out + np.log(np.maximum(inside, 1e-300)))

    def _cdf(self, x: Array) -> Array:
        """Distribution function of t by linear interpolation; the table is even in arsinh x, so no search is needed."""
        at = (np.arcsinh(np.clip(x, *self.table[0][[0, -1]])) + TABLE_END) * ((TABLE_SIZE - 1) / (2.0 * TABLE_END))
        cell = np.minimum(at.astype(np.int64), TABLE_SIZE - 2)
        below = self.table[1][cell]
        return np.asarray(below + (at - cell) * (self.table[1][cell + 1] - below))

    def density(self, shapes: Array) -> Array:
        """Log density (K, m) of shapes (m, 2)."""
        s = _rise(self.log_c, shapes)
        ratio = self.ratio[:, None]
        return self._density(self._conditional(self._sums(s), ratio), ratio, self.constant[:, None], shapes[:, 0])

    def draw(self, shapes: Array, node: Index, rng: np.random.Generator) -> tuple[Array, dict[str, Array]]:
        """Log density (m,) of each shape under its own node, and draws of the other parameters."""
        s = _rise(self.log_c, shapes)
        sums = _Sums(
            _each(self.v_one, s, node),
            _each(self.v_y, s, node),
            self.nodes.quadratic_each(s, node),
            *(a[node] for a in (self.one_one, self.one_y, self.y_y)),
        )
        ratio = self.ratio[node]
        c = self._conditional(sums, ratio)
        log_density = self._density(c, ratio, self.constant[node], shapes[:, 0])
        m = len(shapes)
        size = np.sqrt(c.S / self.dof) if self.nodes.scaled else np.ones(m)
        scale = np.sqrt(c.pp / c.det) * size
        low, high = self._cdf(-c.A / scale), self._cdf((self.priors.ceiling - c.A) / scale)
        u = rng.permutation((np.arange(m) + rng.random(m)) / m)
        t = np.interp(low + u * (high - low), self.table[1], self.table[0])
        hardly = self.priors.ceiling / scale < 1e-3
        A = np.where(hardly, u * self.priors.ceiling, np.clip(c.A + scale * t, 0.0, self.priors.ceiling))
        R0_mean = (c.py - c.pq * A) / c.pp
        left = c.S + (A - c.A) ** 2 * c.det / c.pp
        if self.nodes.scaled:
            dof = self.dof + 1.0  # A is known now
            R0 = R0_mean + np.sqrt(left / dof / c.pp) * rng.standard_t(dof, m)
            sigma = np.sqrt((left + (R0 - R0_mean) ** 2 * c.pp) / rng.chisquare(dof + 1.0, m))
            white = self.nodes.white[node]
        else:
            R0 = R0_mean + rng.standard_normal(m) / np.sqrt(c.pp)
            total = self.nodes.tau[node] ** 2 + self.nodes.white[node]
            sigma, white = np.sqrt(total), self.nodes.white[node] / total
        return log_density, {"R0": R0, "A": A, "sigma": sigma, "white": white, "rho": self.nodes.rho[node]}


@dataclass(frozen=True)
class _Sums:
    """Inner products under V^-1, broadcasting against each other."""

    one_s: Array
    s_y: Array
    s_s: Array
    one_one: Array
    one_y: Array
    y_y: Array


@dataclass(frozen=True)
class _Conditional:
    """Normal equations of (R0, A): precision pp of R0, cross pq, right side py, determinant, A's centre, and what is
    left of the sum of squares."""

    pp: Array
    pq: Array
    py: Array
    det: Array
    A: Array
    S: Array


def _r0_prior(compute: Array, y: Array, priors: Priors, r0: float | None) -> tuple[float, float]:
    if r0 is not None:
        return r0, 1e-6
    if priors.R0 is not None:
        return priors.R0
    return float(y[compute == compute[0]].mean()), R0_SD


def _cdf_table(dof: float) -> tuple[Array, Array]:
    """Distribution function of t on a grid that is fine in the middle and reaches far out."""
    x = np.sinh(np.linspace(-TABLE_END, TABLE_END, TABLE_SIZE))
    return x, np.asarray(ndtr(x) if math.isinf(dof) else stdtr(dof, x))


class _Grid:
    """A quadtree over (ln B, ln C_mid); a cell is a level and two whole numbers."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem
        self.sides = (problem.high - problem.low) / np.array(ROOT)
        self.level = np.empty(0, dtype=np.int64)
        self.place = np.empty((0, 2), dtype=np.int64)
        self.density = np.empty((len(problem.nodes.rho), 0))

    def centers(self, level: Index, place: Index) -> Array:
        return np.asarray(self.problem.low + (place + 0.5) * self.sides / 2.0 ** level[:, None])

    def refine(self) -> None:
        """Split the heaviest cells, and those that touch them, until none is too heavy."""
        i, j = np.meshgrid(np.arange(ROOT[0]), np.arange(ROOT[1]), indexing="ij")
        place = np.stack([i.ravel(), j.ravel()], axis=1)
        self._add(np.zeros(len(place), dtype=np.int64), place)
        self.peak = float(_log_sum(self.problem.density(self.problem.optimum[None]))[0])
        pruned = False
        for _ in range(2 * LEVELS):
            split = self.mass() > HEAVY
            here = self._around_optimum()
            found = float(_log_sum(self.density[:, here])[0]) > self.peak - 1.0
            if found and not pruned:
                self._prune()
                pruned = True
            if not found:  # the peak is still lost inside a cell: the way to it is known
                split |= here
            split &= self.level < LEVELS
            if not split.any() or len(self.level) > CELLS:
                return
            split = _with_neighbours(self.level, self.place, split)
            level, parents = self.level[split], self.place[split]
            self.level, self.place = self.level[~split], self.place[~split]
            self.density = self.density[:, ~split]
            children = (2 * parents[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
            self._add(np.repeat(level + 1, 4), children)

    def _add(self, level: Index, place: Index) -> None:
        density = self.problem.density(self.centers(level, place))
        self.level, self.place = np.concatenate([self.level, level]), np.concatenate([self.place, place])
        self.density = np.concatenate([self.density, density], axis=1)

    def _around_optimum(self) -> NDArray[np.bool_]:
        at = (self.problem.optimum - self.problem.low) / self.sides * 2.0 ** self.level[:, None]
        return np.asarray((np.floor(at).astype(np.int64) == self.place).all(axis=1))

    def _prune(self) -> None:
        """Drop the nodes of the noise that hold next to nothing."""
        by_node = _log_sum((self.density + self.log_areas()).T)
        keep = np.flatnonzero(by_node > by_node.max() + math.log(NEGLIGIBLE))
        self.problem.keep(keep)
        self.density = self.density[keep]

    def log_areas(self) -> Array:
        return np.asarray(-2.0 * math.log(2.0) * self.level + math.log(float(self.sides.prod())))

    def mass(self) -> Array:
        """Share of each cell."""
        log_mass = _log_sum(self.density) + self.log_areas()
        mass = np.exp(log_mass - log_mass.max())
        return np.asarray(mass / mass.sum())

    def sample(self, draws: int, rng: np.random.Generator) -> Posterior:
        """Draw shapes from the cells, the rest given the shape, and weight by the density at the draw."""
        log_mass = self.density + self.log_areas()
        top = float(log_mass.max())
        mass = np.exp(log_mass - top).ravel()
        total = np.cumsum(mass)
        picks = np.searchsorted(total, (np.arange(draws) + rng.random()) / draws * total[-1])
        picks = np.minimum(picks, len(total) - 1)
        node, cell = np.divmod(picks, len(self.level))
        jitter = rng.random((draws, 2)) - 0.5
        sides = self.sides / 2.0 ** self.level[cell][:, None]
        shapes = self.centers(self.level[cell], self.place[cell]) + jitter * sides
        log_density, drawn = self.problem.draw(shapes, node, rng)
        weight = np.exp(np.minimum(log_density - self.density[node, cell], 50.0))
        weight[(drawn["R0"] < 0.0) | (drawn["R0"] > 1.0)] = 0.0
        if not weight.sum() > 0.0:
            weight = np.ones(draws)
        evidence = top + math.log(float(total[-1])) + math.log(float(weight.mean()))
        weight = weight / weight.sum()
        share = self.mass()
        last = np.array(ROOT) * 2 ** self.level[:, None] - 1
        edge = (self.place == 0) | (self.place == last)
        best = float((_log_sum(self.density)).max())
        checks = {
            "edge_B": float(share[edge[:, 0]].sum()),
            "edge_C_mid": float(share[edge[:, 1]].sum()),
            "cells": float(len(share)),
            "heaviest": float(share.max()),
            "missed": max(self.peak - best, 0.0),
        }
        return Posterior(
            B=np.exp(shapes[:, 0]),
            C_mid=np.exp(shapes[:, 1] + self.problem.unit),
            weight=weight,
            log_evidence=evidence,
            checks=checks,
            **drawn,
        )


def _each(vectors: Array, s: Array, node: Index) -> Array:
    """Inner product (m,) of each row of s (m, n) with the vector (K, n) of its node."""
    out = np.empty(len(s))
    for k in np.unique(node):
        rows = node == k
        out[rows] = s[rows] @ vectors[k]
    return out


def _rise(log_c: Array, shapes: Array) -> Array:
    """1 / (1 + (C_mid / C)^B), (m, n)."""
    z = np.exp(shapes[:, :1]) * (shapes[:, 1:] - log_c)
    np.clip(z, -700.0, 700.0, out=z)
    np.exp(z, out=z)
    z += 1.0
    return np.asarray(np.reciprocal(z, out=z))


def _log_sum(log_values: Array) -> Array:
    """log of the sum over the first axis."""
    top = log_values.max(axis=0)
    return np.asarray(top + np.log(np.exp(log_values - top).sum(axis=0)))


def _with_neighbours(level: Index, place: Index, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The chosen cells and those of their level or one level coarser that touch them."""
    around = (place[chosen][:, None] + np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)])).reshape(-1, 2)
    levels = np.repeat(level[chosen], 9)
    wanted = np.concatenate([_key(levels, around), _key(levels - 1, around // 2)])
    return np.asarray(np.isin(_key(level, place), wanted))


def _key(level: Index, place: Index) -> Index:
    return np.asarray(((level + 1) << 56) + ((place[:, 0] + 1) << 28) + place[:, 1] + 1)
