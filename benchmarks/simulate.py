"""Random curves of the law with noise: what every simulation in this folder draws its data from.

A ~ U(.4, .8), R0 ~ U(.05, .35), B ~ U(.5, 4), C_mid log-uniform on [1e-3, 1e4]; n evaluations evenly spaced in compute
from 0.1 C_mid to k C_mid, as a run evaluates every so many steps; noise of standard deviation .01, independent or with
correlation rho between neighbours (stationary AR(1)).

Promises: curve i of a cell is the same whatever else is drawn: each has a generator of its own, seeded with
[seed, number of the cell, i].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.curves.families import SIGMOID, Array
from analysis.curves.whitening import ar1

KS, NS, RHOS = (0.5, 1.0, 2.0, 5.0), (20, 60, 200), (0.0, 0.3, 0.7)
NOISE = 0.01
C_MID = (1e-3, 1e4)


class Cell(NamedTuple):
    """A design: compute ends at k C_mid, n evaluations, correlation rho of neighbours."""

    k: float
    n: int
    rho: float

    @property
    def number(self) -> int:
        """Which cell of all; seeds the curves."""
        return (KS.index(self.k) * len(NS) + NS.index(self.n)) * len(RHOS) + RHOS.index(self.rho)

    @property
    def name(self) -> str:
        return f"k{self.k:g}-n{self.n}-rho{self.rho:g}"


CELLS = tuple(Cell(k, n, rho) for k in KS for n in NS for rho in RHOS)


@dataclass(frozen=True, eq=False)
class Simulated:
    """A curve and its evaluations.

    Attributes
    ----------
    params : (4,) array
        R0, A, B, C_mid.
    compute, pass_rate : (n,) arrays
    rho : float
        Correlation of the noise of neighbouring evaluations.
    """

    params: Array
    compute: Array
    pass_rate: Array
    rho: float

    @property
    def A(self) -> float:
        return float(self.params[1])

    def mean(self, compute: Array) -> Array:
        """The curve without noise."""
        return np.asarray(SIGMOID.value(compute, self.params))

    def least_width(self) -> float:
        """Width of the 95 % interval of A that no unbiased method beats: Cramer and Rao's bound under the true
        covariance, with R0, B and C_mid unknown."""
        return 2.0 * 1.959964 * cramer_rao(self.params, self.compute, self.rho)


def cramer_rao(params: Array, compute: Array, rho: float, noise: float = NOISE) -> float:
    """Least standard deviation of an unbiased estimate of A."""
    jacobian = SIGMOID.gradient(compute, params) * np.array([1.0, 1.0, params[2], params[3]])
    whitened = ar1(np.arange(len(compute), dtype=float), rho)(jacobian.T)
    _, triangle = np.linalg.qr(whitened.T)
    return float(noise * np.linalg.norm(np.linalg.inv(triangle)[1]))


def ar1_noise(rng: np.random.Generator, n: int, rho: float, sd: float = NOISE) -> Array:
    """Stationary noise with correlation rho between neighbours, (n,)."""
    noise = rng.normal(0.0, sd, n)
    for i in range(1, n):
        noise[i] = rho * noise[i - 1] + np.sqrt(1.0 - rho**2) * noise[i]
    return noise


def draw_params(rng: np.random.Generator) -> Array:
    """R0, A, B and C_mid, (4,)."""
    A, R0, B = rng.uniform(0.4, 0.8), rng.uniform(0.05, 0.35), rng.uniform(0.5, 4.0)
    return np.array([R0, A, B, np.exp(rng.uniform(*np.log(C_MID)))])


def simulate(cell: Cell, i: int, seed: int = 0) -> Simulated:
    """Curve `i` of a cell.

    Examples
    --------
    >>> curve = simulate(Cell(2.0, 20, 0.3), 7)
    >>> len(curve.compute), round(float(curve.compute[-1] / curve.params[3]), 9)
    (20, 2.0)
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, cell.number, i]))
    params = draw_params(rng)
    compute = params[3] * np.linspace(0.1, cell.k, cell.n)
    mean = np.asarray(SIGMOID.value(compute, params))
    return Simulated(params, compute, mean + ar1_noise(rng, cell.n, cell.rho), cell.rho)


class Wilson(NamedTuple):
    """A share and its 99.9 % Wilson interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.share:5.1f} [{100 * self.low:4.1f}, {100 * self.high:5.1f}]"


def wilson(hits: int, total: int, z: float = 3.290527) -> Wilson:
    """Share of hits with its interval.

    Examples
    --------
    >>> str(wilson(95, 100))
    ' 95.0 [82.5,  98.7]'
    """
    share, extra = hits / total, z * z / total
    middle = (share + 0.5 * extra) / (1.0 + extra)
    half = z * np.sqrt(share * (1.0 - share) / total + 0.25 * extra / total) / (1.0 + extra)
    return Wilson(share, float(max(middle - half, 0.0)), float(min(middle + half, 1.0)))


class Median(NamedTuple):
    """A median and its 99.9 % interval from order statistics."""

    value: float
    low: float
    high: float


def median(values: Array, z: float = 3.290527) -> Median:
    """Median with its interval; the interval is everything seen where there are few values."""
    ordered = np.sort(values)
    n = len(ordered)
    reach = 0.5 * z * np.sqrt(n)
    low, high = max(int(np.floor(0.5 * n - reach)), 0), min(int(np.ceil(0.5 * n + reach)), n - 1)
    return Median(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))
