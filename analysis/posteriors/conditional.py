"""The density of a shape (ln B, ln C_mid) under each node of the noise, and draws of the rest given both.

Given the two the curve is linear in R0 and A, so these and the size of the noise integrate out in closed form; A stays
inside [0, ceiling]. Used by `analysis.posteriors.quadrature`.

Shapes: n points, K nodes of the noise, m shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, stdtr

from analysis.curves.projection import fit_many
from analysis.curves.solver import Array, Index
from analysis.posteriors import noise
from analysis.posteriors.priors import R0_SD, Priors

LOG_B_SDS = 3.5  # how far the grid reaches in ln B, in standard deviations of its prior
# Up to so many evaluations the nodes of the noise cover the whole range of rho, which is what `benchmarks.coverage` has
# measured. More know rho better than the nodes are apart: one would hold all the mass, and the limits of A would depend
# on which side of the truth it lies (by -30 to +110 % at 1,500 evaluations). Nodes are then placed where the mass is.
WIDE_NODES, PLACINGS = 200, 6
TABLE_END, TABLE_SIZE = 7.0, 8001  # arsinh of the ends of the table of t's distribution function, and its length
FAR = 30.0  # scales of A from the ceiling and from 0 beyond which nothing is cut off


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
        return np.round(np.log(compute) - unit, noise.DIGITS), unit


class Problem:
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
        gaps = noise.spacing(compute if time is None else time)
        if start is None:
            best = fit_many(self.log_c, y[None], shape_low=self.low, shape_high=self.high, linear_high=priors.ceiling)
            start = best.shape[0]
        else:
            start = start - np.array([0.0, self.unit])
        self.optimum = np.clip(start, self.low + 1e-9, self.high - 1e-9)
        s = _rise(self.log_c, self.optimum[None])
        self.center, self.r0_sd = _r0_prior(compute, y, priors, r0)
        self.r0 = r0
        self.rho, self.tau, self.count = priors.rho, (0.0, 0.0), noise.RHO_NODES
        self.gaps, self.variance = gaps, variance
        self.levels = np.zeros(1)
        self.dof = self.n - 1.0  # of p(sigma) ~ 1 / sigma and a prior of R0 in units of sigma
        if variance is not None:
            basis = np.concatenate([1.0 - s, s]).T
            residual = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
            self.levels = float(np.sqrt((residual**2).mean())) * np.array(noise.TAU_LEVELS)
            self.tau = (0.0, float(self.levels[-1]))
            self.dof = math.inf
        self.table = _cdf_table(self.dof)
        self._place(s)
        for _ in range(PLACINGS if self.n > WIDE_NODES else 0):
            if not self._narrow():
                break
            self.count = noise.NARROW_NODES
            self._place(s)

    def _place(self, s: Array) -> None:
        """Set the nodes of the noise, and the prior of R0 relative to the size that each gives it at the optimum."""
        if self.variance is None:
            self.nodes = noise.unknown_share(self.gaps, self.rho, self.count)
        else:
            levels = _between(self.levels, *self.tau)
            whole, part = (high - low for low, high in (self.priors.rho, self.rho))
            share = part / whole if whole > 0.0 else 1.0
            self.nodes = noise.known_white(self.gaps, self.variance, levels, self.rho, self.count, share)
        self._prepare()
        self.ratio = np.full(len(self.nodes.rho), 1.0 / self.r0_sd**2)
        if self.nodes.scaled:
            sums = self._sums(s)
            for _ in range(3):
                S = self._conditional(sums, self.ratio[:, None]).S
                self.ratio = np.maximum(S[:, 0] / self.dof, 1e-24) / self.r0_sd**2

    def _narrow(self) -> bool:
        """Bring the ranges of rho and tau down to where the mass is; says whether one shrank much."""
        log_mass = self.density(self.optimum[None])[:, 0]
        rho = noise.holding(self.nodes.rho, log_mass, *self.rho)
        tau = self.tau if self.nodes.scaled else noise.holding(self.nodes.tau, log_mass, *self.tau)
        shrank = any(new[1] - new[0] < 0.8 * (old[1] - old[0]) for new, old in ((rho, self.rho), (tau, self.tau)))
        self.rho, self.tau = rho, tau
        return shrank

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
        if self.r0 is not None:
            R0 = np.full(m, self.r0)
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


def _between(levels: Array, low: float, high: float) -> Array:
    """The levels, or as many evenly spaced ones in a part of their range."""
    whole = low == levels[0] and high == levels[-1]
    return levels if whole else np.linspace(low, high, len(levels))


def _r0_prior(compute: Array, y: Array, priors: Priors, r0: float | None) -> tuple[float, float]:
    if r0 is not None:
        return r0, 1e-6
    if priors.R0 is not None:
        return priors.R0
    return float(y[compute == compute[0]].mean()), R0_SD


@lru_cache(maxsize=64)  # the runs of a comparison, and the cuts of each, have few lengths
def _cdf_table(dof: float) -> tuple[Array, Array]:
    """Distribution function of t on a grid that is fine in the middle and reaches far out; not to be written to."""
    x = np.sinh(np.linspace(-TABLE_END, TABLE_END, TABLE_SIZE))
    return x, np.asarray(ndtr(x) if math.isinf(dof) else stdtr(dof, x))


def _each(vectors: Array, s: Array, node: Index) -> Array:
    """Inner product (m,) of each row of s (m, n) with the vector (K, n) of its node."""
    out = np.empty(len(s))
    for k in np.unique(node):
        rows = node == k
        out[rows] = s[rows] @ vectors[k]
    return out


def _rise(log_c: Array, shapes: Array) -> Array:
    """1 / (1 + (C_mid / C)^B), (m, n): in place and without derivatives, because every cell and every draw needs it."""
    z = np.exp(shapes[:, :1]) * (shapes[:, 1:] - log_c)
    np.clip(z, -700.0, 700.0, out=z)
    np.exp(z, out=z)
    z += 1.0
    return np.asarray(np.reciprocal(z, out=z))
