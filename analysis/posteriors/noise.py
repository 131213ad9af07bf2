"""Noise of a run's evaluations: correlated run noise plus white evaluation noise, on a few nodes with weights.

The covariance of the evaluations is tau^2 R(rho) + diag(white): run noise with correlation rho^dt between evaluations
dt apart (dt in units of the usual spacing, so that the unit of compute does not matter), and noise of the evaluation
itself, which is drawn anew each time. What is unknown of it is integrated out on nodes.

`Nodes` whitens with a Kalman filter: its gains do not depend on the data, so one pass over the points serves every
curve, and the work grows with the number of points, not with its square or cube.

Shapes: n points, K nodes, m curves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.curves.solver import Array, Index

DIGITS = 10  # of times and of ln C, relative to the run's own: rounded, a change of unit leaves no trace
LEAST_GAP = 1e-3  # of the usual spacing: repeated evaluations at one compute share nearly all of the run's noise
RHO_NODES, NARROW_NODES = 8, 16  # over the whole range, and over the part of it that holds the mass
# Share of white noise in the variance, and its prior. Most of the weight is on none: a large share makes strong
# correlation look like independence, and the intervals of runs without correlation would pay for it.
WHITE_SHARES, WHITE_PRIOR = (0.0, 0.33, 0.67), (0.7, 0.18, 0.12)
FAINT = 0.15  # correlation
FAINTEST = 1e-5  # share of the mass below which a node is not looked at again
TAU_LEVELS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.3, 3.2)  # in units of the residuals' spread


def spacing(time: Array) -> Array:
    """Return the gaps (n,) to the point before in units of the usual gap; the first is infinite.

    Examples
    --------
    >>> spacing(np.array([0.0, 10.0, 20.0, 40.0])).tolist()
    [inf, 1.0, 1.0, 2.0]
    """
    gaps = np.diff(time)
    positive = gaps[gaps > 0]
    usual = float(np.median(positive)) if len(positive) else 1.0
    return np.concatenate([[np.inf], np.maximum(np.round(gaps / usual, DIGITS), LEAST_GAP)])


def evaluation_variance(correct: Array, k: int) -> float | None:
    """Variance of a mean@k over a fixed set of prompts, from the correct completions of each prompt (prompts,).

    The unbiased estimate sum p (1 - p) / (k - 1) / prompts^2; None for k = 1, which leaves nothing to estimate it from.
    What the choice of the prompts adds is the same for all evaluations on them and is not in it.

    Examples
    --------
    >>> round(evaluation_variance(np.array([0, 4, 8, 4]), 8), 6)   # (0 + .25 + 0 + .25) / 7 / 16
    0.004464
    """
    if k < 2 or len(correct) == 0:
        return None
    p = np.asarray(correct, dtype=float) / k
    return float((p * (1.0 - p)).sum()) / (k - 1) / len(p) ** 2


def prompt_variance(correct: Array, k: int) -> float | None:
    """Variance that the choice of the prompts gives a pass rate: how far it would move on another set of this size.

    The variance between prompts without what the k completions of each add to it, over the number of prompts; None for
    k = 1 or a single prompt.

    Examples
    --------
    >>> prompt_variance(np.array([0, 8, 0, 8]), 8)   # prompts of rate 0 and 1: .25 * 4 / 3 / 4
    0.08333333333333333
    """
    own = evaluation_variance(correct, k)
    if own is None or len(correct) < 2:
        return None
    p = np.asarray(correct, dtype=float) / k
    return max(float(p.var(ddof=1)) / len(p) - own, 0.0)


@dataclass(frozen=True)
class Nodes:
    """Noise models with weights.

    Attributes
    ----------
    rho, tau, white : (K,) arrays
        Correlation; standard deviation of the run noise and mean variance of the evaluation noise. If `scaled`, both
        are relative to an unknown sigma: tau^2 + white = 1.
    log_prior : (K,) array
    scaled : bool
    back, gain, total : (n, K) arrays
        Kalman filter: correlation to the point before, gain, and variance of each innovation.
    """

    rho: Array
    tau: Array
    white: Array
    log_prior: Array
    scaled: bool
    back: Array
    gain: Array
    total: Array

    def keep(self, nodes: Index) -> Nodes:
        """Some of the nodes."""
        return Nodes(
            self.rho[nodes],
            self.tau[nodes],
            self.white[nodes],
            self.log_prior[nodes],
            self.scaled,
            self.back[:, nodes],
            self.gain[:, nodes],
            self.total[:, nodes],
        )

    def log_det(self) -> Array:
        """log |V| of each node, (K,)."""
        return np.asarray(np.log(self.total).sum(axis=0))

    def solve(self, z: Array) -> Array:
        """V^-1 z of each node, (K, n), for one vector (n,)."""
        n, K = self.total.shape
        state, weighted = np.zeros(K), np.empty((n, K))
        for i in range(n):
            state = self.back[i] * state
            innovation = z[i] - state
            weighted[i] = innovation / self.total[i]
            state = state + self.gain[i] * innovation
        adjoint, out = np.zeros(K), np.empty((n, K))
        for i in range(n - 1, -1, -1):  # the transpose of the loop above, backwards
            out[i] = weighted[i] + self.gain[i] * adjoint
            adjoint = self.back[i] * ((1.0 - self.gain[i]) * adjoint - weighted[i])
        return np.ascontiguousarray(out.T)

    def quadratic(self, curves: Array) -> Array:
        """s' V^-1 s, (K, m), of each node and each curve (m, n)."""
        n, K = self.total.shape
        columns = np.ascontiguousarray(curves.T)
        state = np.zeros((K, len(curves)))
        out = np.zeros((K, len(curves)))
        innovation = np.empty_like(state)
        for i in range(n):
            state *= self.back[i][:, None]
            np.subtract(columns[i], state, out=innovation)
            state += self.gain[i][:, None] * innovation
            innovation *= innovation
            innovation *= 1.0 / self.total[i][:, None]
            out += innovation
        return out

    def quadratic_each(self, curves: Array, nodes: Index) -> Array:
        """s' V^-1 s, (m,), of each curve (m, n) under the node of its own (m,)."""
        columns = np.ascontiguousarray(curves.T)
        back, gain, share = self.back[:, nodes], self.gain[:, nodes], 1.0 / self.total[:, nodes]
        state, out = np.zeros(len(curves)), np.zeros(len(curves))
        innovation = np.empty_like(state)
        for i in range(len(self.total)):
            state *= back[i]
            np.subtract(columns[i], state, out=innovation)
            state += gain[i] * innovation
            innovation *= innovation
            innovation *= share[i]
            out += innovation
        return out


def _filtered(
    gaps: Array, rho: Array, tau: Array, white: Array, log_prior: Array, *, scaled: bool, each: Array | None = None
) -> Nodes:
    """Run the filter's variances: `white` (K,) are variances, or `each` (n,) those of every point in all nodes."""
    n, K = len(gaps), len(rho)
    back, gain, total = np.zeros((n, K)), np.zeros((n, K)), np.zeros((n, K))
    predicted = tau**2
    for i in range(n):
        if i:
            back[i] = rho ** gaps[i]
            predicted = back[i] ** 2 * predicted * (1.0 - gain[i - 1]) + (1.0 - back[i] ** 2) * tau**2
        total[i] = np.maximum(predicted + (white if each is None else each[i]), 1e-12)
        gain[i] = predicted / total[i]
    return Nodes(rho, tau, white, log_prior, scaled, back, gain, total)


def holding(values: Array, log_mass: Array, low: float, high: float) -> tuple[float, float]:
    """Between which nodes the mass lies, one node to spare on either side; `low` and `high` stand beyond the outermost.

    Examples
    --------
    >>> holding(np.array([0.1, 0.3, 0.5, 0.7]), np.log([1e-9, 0.4, 0.6, 1e-9]), 0.0, 1.0)
    (0.1, 0.7)
    """
    places = np.unique(values)
    mass = np.array([np.exp(log_mass[values == place] - log_mass.max()).sum() for place in places])
    kept = np.flatnonzero(mass > FAINTEST * mass.sum())
    first, last = int(kept[0]), int(kept[-1])
    return (
        low if first == 0 else float(places[first - 1]),
        high if last == len(places) - 1 else float(places[last + 1]),
    )


def unknown_share(gaps: Array, rho_range: tuple[float, float] = (0.0, 1.0), count: int = RHO_NODES) -> Nodes:
    """Noise of unknown size, correlation and white share: rho uniform, on `count` nodes; the share by `WHITE_PRIOR`."""
    points, weights = np.polynomial.legendre.leggauss(count)
    low, high = rho_range
    grid = np.meshgrid(low + (high - low) * 0.5 * (points + 1.0), WHITE_SHARES, indexing="ij")
    rho, share, prior = grid[0].ravel(), grid[1].ravel(), np.outer(0.5 * weights, WHITE_PRIOR).ravel()
    # Little correlation is as good as white: there the share means nothing, and one node stands for all.
    faint = rho < FAINT
    for k in np.flatnonzero(faint & (share == 0.0)):
        prior[k] = prior[rho == rho[k]].sum()
    keep = ~faint | (share == 0.0)
    rho, share, prior = rho[keep], share[keep], prior[keep]
    return _filtered(gaps, rho, np.sqrt(1.0 - share), share, np.log(prior), scaled=True)


def known_white(  # noqa: PLR0917
    gaps: Array,
    variance: Array,
    levels: Array,
    rho_range: tuple[float, float] = (0.0, 1.0),
    count: int = RHO_NODES,
    rho_share: float = 1.0,
) -> Nodes:
    """Evaluation noise of known variance (n,) and run noise of unknown size and correlation.

    rho is uniform; tau has density 1 / sqrt(tau^2 + evaluation variance): level below the evaluation noise, where the
    data cannot tell it from none, and 1 / tau above. A level density throughout was tried: its mass at large tau with
    rho near 1, a drift that moves A, made intervals wider with the counts than without. `levels` are the nodes of tau;
    `rho_share` is how much of the prior of rho lies in `rho_range`, where that was narrowed.
    """
    points, weights = np.polynomial.legendre.leggauss(count)
    low, high = rho_range
    widths = np.gradient(levels) / np.sqrt(levels**2 + float(variance.mean()))
    widths[0] *= 0.5
    grid = np.meshgrid(low + (high - low) * 0.5 * (points + 1.0), levels, indexing="ij")
    prior = np.outer(0.5 * weights, widths / widths.sum())
    rho, tau, prior = grid[0].ravel(), grid[1].ravel(), prior.ravel()
    # Without run noise its correlation means nothing: one node stands for all, those of the rho left out too.
    none = tau == 0.0
    keep = ~none
    if none.any():  # narrowed levels may begin above 0
        first = int(np.flatnonzero(none)[0])
        prior[first] = prior[none].sum() / rho_share
        keep[first] = True
    return _filtered(
        gaps,
        rho[keep],
        tau[keep],
        np.full(int(keep.sum()), float(variance.mean())),
        np.log(prior[keep]),
        scaled=False,
        each=np.maximum(variance, 1e-10),
    )
