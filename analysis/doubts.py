"""What a fitted curve cannot say: findings from the points and the optimum. Every threshold stands here, named.

Promises: nothing here changes a number of the fit; a function returns the findings it raises, in a fixed order.
"""

from __future__ import annotations

import numpy as np
from scipy.special import fdtrc, stdtr

from analysis.curve import R
from analysis.findings import Finding, finding
from analysis.leastsquares import NAMES, Array, Box, Optimum
from analysis.results import Param

FEW_SPARE_POINTS = 4  # fewer points beyond the parameters than this: an interval means little
CORRELATION_POINTS, CORRELATION = 8, 0.3  # lag-1 autocorrelation is reported from so many points, and warned of
FLAT_LEVEL = 0.01  # the curve must beat a constant at this level
DECAY_LEVEL, DECAY_DROP = 0.01, 0.01  # one-sided level of the falling plateau; smallest drop that counts
PLATEAU = 0.9  # share of the gain inside the data from which on the curve counts as level
BLOCKS, BLOCK_DROP, BLOCK_SIGMAS = 5, 0.25, 4.0  # a collapse: last fifth against the best fifth
EDGE = 1e-6

Values = dict[str, float]  # R0, A, B, C_mid in natural units


def of_points(n: int, distinct: int, free: int) -> list[Finding]:
    """Doubts from the number of points alone; an error among them means that nothing can be fitted."""
    if distinct < free:
        what = (
            f"{_count(distinct, 'distinct compute')} for {free} free parameters; evaluate more often, or fix R0 (--r0)"
        )
        return [finding("no-fit", f"nothing fitted: {what}", float(distinct))]
    if n == free:
        return [
            finding("no-interval", f"{n} points for {free} free parameters: the curve goes through all of them", 0.0)
        ]
    if n - free < FEW_SPARE_POINTS:
        return [finding("few-points", f"only {n} points for {free} free parameters", float(n - free))]
    return []


def flat(pass_rate: Array, sse: float, free: int) -> list[Finding]:
    """F test of the curve against a constant, unless a plain trend says already that there is a change.

    The trend costs one degree of freedom where the curve costs three, so a handful of rising points is not flat.
    """
    dof, gained = len(pass_rate) - free, free - 1
    if dof < 1 or sse <= 0.0:
        return []
    around_mean = float(((pass_rate - pass_rate.mean()) ** 2).sum())
    p = float(fdtrc(gained, dof, max(around_mean / sse - 1.0, 0.0) * dof / gained))
    if p <= FLAT_LEVEL or _trend_p(pass_rate) <= FLAT_LEVEL:
        return []
    what = f"the law fits no better than a constant (p {p:.2g}): A, B and C_mid mean nothing here and get no limits"
    return [finding("flat-curve", what, p)]


def falling(values: Values) -> list[Finding]:
    """A curve that ends below its start."""
    if values["A"] >= values["R0"]:
        return []
    what = f"the curve falls from {values['R0']:.3g} to {values['A']:.3g}: A is not a ceiling"
    return [finding("falling-curve", what, values["A"] - values["R0"])]


def decay(compute: Array, pass_rate: Array, values: Values) -> list[Finding]:
    """A pass rate that peaks and falls, seen as a falling plateau or as a last fifth far below the best one."""
    drop = _collapse(pass_rate) or _falling_plateau(compute, pass_rate, values)
    if drop is None:
        return []
    what = (
        f"the pass rate falls by {drop:.3f} after its peak; the law only rises, so A is not this run's ceiling "
        "(fit up to the peak with --to)"
    )
    return [finding("decay", what, drop)]


def of_optimum(best: Optimum, box: Box, values: Values, last: float, x: str) -> list[Finding]:
    """Parameters on an edge, and a run that ends too early."""
    findings = []
    on_edge = [
        f"{name} = {values[name]:.4g}"
        for i, name in enumerate(NAMES)
        if box.free[i] and min(best.theta[i] - box.low[i], box.high[i] - best.theta[i]) < EDGE
    ]
    if on_edge:
        what = f"on the edge of the allowed range: {', '.join(on_edge)}"
        findings.append(finding("at-bound", what, float(len(on_edge))))
    mid = values["C_mid"]
    if values["A"] > values["R0"] and last < 2.0 * mid:
        what = f"the run ends at {last / mid:.2g} C_mid; the ceiling shows from about 2 C_mid = {2 * mid:.3g} {x} on"
        findings.append(finding("not-past-midpoint", what, last / mid))
    return findings


def of_intervals(params: dict[str, Param]) -> list[Finding]:
    """Name the limits that the data do not give."""
    open_ends = []
    for name, p in params.items():
        sides = [side for side, limit in (("lower", p.lo), ("upper", p.hi)) if limit is None]
        if sides and not p.fixed:
            open_ends.append(f"{name} ({' and '.join(sides)})")
    if not open_ends:
        return []
    return [
        finding("open-interval", f"no limit inside the allowed range: {', '.join(open_ends)}", float(len(open_ends)))
    ]


def of_residuals(residual: Array) -> list[Finding]:
    """Say what the intervals assume, with the lag-1 autocorrelation of the residuals where it can be computed."""
    assumed = "the intervals assume independent noise"
    total = float(residual @ residual)
    if len(residual) < CORRELATION_POINTS or total <= 0.0:
        return [finding("independent-noise", f"{assumed}; successive evaluations of a run usually are not")]
    rho = float(residual[1:] @ residual[:-1]) / total
    if rho > CORRELATION:
        return [
            finding(
                "correlated-residuals",
                f"residuals are correlated (rho {rho:.2f}), so the intervals are too narrow",
                rho,
            )
        ]
    return [finding("independent-noise", f"{assumed} (rho of the residuals {rho:.2f})", rho)]


def _trend_p(pass_rate: Array) -> float:
    """Two-sided p-value of a straight line over the order of the points (they are sorted by compute)."""
    n = len(pass_rate)
    t = np.arange(n) - 0.5 * (n - 1)
    y = pass_rate - pass_rate.mean()
    slope = float(t @ y) / float(t @ t)
    noise = float(((y - slope * t) ** 2).sum()) / (n - 2)
    if noise <= 0.0:
        return 0.0
    return 2.0 * float(stdtr(n - 2, -abs(slope) / np.sqrt(noise / float(t @ t))))


def _falling_plateau(compute: Array, pass_rate: Array, values: Values) -> float | None:
    """Drop over the part where the fitted curve is level, if a straight line in ln C falls significantly there."""
    if values["A"] <= values["R0"]:
        return None
    curve = np.asarray(R(compute, **values))
    level = (compute > 0.0) & (curve >= curve[0] + PLATEAU * (curve[-1] - curve[0]))
    n = int(level.sum())
    if n < 4:
        return None
    t = np.log(compute[level])
    t = t - t.mean()
    y = pass_rate[level] - pass_rate[level].mean()
    spread = float(t @ t)
    if spread <= 0.0:
        return None
    slope = float(t @ y) / spread
    noise = float(((y - slope * t) ** 2).sum()) / (n - 2)
    drop = -slope * float(np.ptp(t))
    if drop < DECAY_DROP:
        return None
    if noise > 0.0 and float(stdtr(n - 2, slope / np.sqrt(noise / spread))) > DECAY_LEVEL:
        return None
    return drop


def _collapse(pass_rate: Array) -> float | None:
    """Drop of the last fifth below the best fifth, if it is a large part of the range and far above the noise."""
    if len(pass_rate) < 2 * BLOCKS:
        return None
    blocks = np.array_split(pass_rate, BLOCKS)
    means = np.array([block.mean() for block in blocks])
    drop = float(means.max() - means[-1])
    second = pass_rate[1:-1] - 0.5 * (pass_rate[2:] + pass_rate[:-2])
    noise = 1.4826 * float(np.median(np.abs(second))) / np.sqrt(1.5)  # free of any curve; robust to its steep part
    if drop < max(DECAY_DROP, BLOCK_DROP * float(np.ptp(means)), BLOCK_SIGMAS * noise * np.sqrt(2.0 / len(blocks[-1]))):
        return None
    # A falling curve falls throughout; a collapse has a rise before it.
    return drop if means.max() - means[0] >= BLOCK_DROP * float(np.ptp(means)) else None


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
