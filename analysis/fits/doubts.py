"""What a fitted curve cannot say: findings from the points and the optimum. Every threshold stands here, named.

Promises: nothing here changes a number of the fit; a function returns the findings it raises, in a fixed order.
Neighbours: `analysis.fits.misfits` reads the residuals, `analysis.fits.decays` a run that falls,
`analysis.readers.regimes` what changed in the run, `analysis.fits.windows` how much the start of the window matters;
`analysis.fits.methods` what a method rests on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr

from analysis.amounts import short
from analysis.curves.leastsquares import NAMES, Box, Optimum
from analysis.findings import Finding, finding
from analysis.fits.decays import decay
from analysis.fits.results import Param

FEW_SPARE_POINTS = 4  # fewer points beyond the parameters than this: an interval means little
CORRELATION_POINTS, CORRELATION = 8, 0.3  # lag-1 autocorrelation is reported from so many points, and warned of
FLAT_LEVEL = 0.01  # the curve must beat a constant at this level
PAST_MIDPOINT = 2.0  # the ceiling shows from this multiple of C_mid on
EDGE = 1e-6  # of theta, whose logarithms are of order 1
WHOLE_TABLE = 3  # rows from which on a table that holds each several times is called a copy of itself

Array = NDArray[np.float64]
Values = dict[str, float]  # R0, A, B, C_mid in natural units

__all__ = ["decay", "falling", "flat", "of_intervals", "of_optimum", "of_points", "of_residuals", "of_rows", "one_seed"]


def of_points(n: int, distinct: int, free: int, *, more: str = "evaluate more often") -> list[Finding]:
    """Doubts from the number of points alone; an error among them means that nothing can be fitted.

    `more` says in the error how there would be more points.
    """
    if distinct < free:
        what = f"{_count(distinct, 'distinct compute')} for {free} free parameters; {more}, or fix R0 (--r0)"
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
    if values["A"] > values["R0"] and last < PAST_MIDPOINT * mid:
        shows = f"about {PAST_MIDPOINT:g} C_mid = {short(PAST_MIDPOINT * mid)} {x}"
        what = f"the run ends at {last / mid:.2g} C_mid; the ceiling shows from {shows} on"
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


def of_residuals(residual: Array, *, accounts: bool = False, rho: float | None = None) -> list[Finding]:
    """Say what the intervals assume about correlation, with the lag-1 autocorrelation of the residuals.

    Parameters
    ----------
    residual : array, shape (n,)
        In the order of compute.
    accounts : bool
        Whether the method models the correlation.
    rho : float, optional
        The method's own estimate of it. It is said instead of the plain one, but only the plain one, which no prior
        moves, decides whether anything is said.
    """
    assumed = "the intervals assume independent noise"
    total = float(residual @ residual)
    if len(residual) < CORRELATION_POINTS or total <= 0.0:
        if accounts:
            return []
        return [finding("independent-noise", f"{assumed}; successive evaluations of a run usually are not")]
    seen = float(residual[1:] @ residual[:-1]) / total
    if accounts:
        if seen <= CORRELATION:
            return []
        said = seen if rho is None else rho
        what = f"residuals are correlated (rho {_short(said)}); the interval accounts for it"
        return [finding("correlated-residuals", what, said, severity="note")]
    if seen > CORRELATION:
        what = f"residuals are correlated (rho {seen:.2f}), so the intervals are too narrow"
        return [finding("correlated-residuals", what, seen)]
    return [finding("independent-noise", f"{assumed} (rho of the residuals {seen:.2f})", seen)]


def of_rows(compute: Array, pass_rate: Array) -> list[Finding]:
    """Evaluations that stand there more than once, and a whole table that does.

    Parameters
    ----------
    compute, pass_rate : array, shape (n,)
        In any order.
    """
    rows, count = np.unique(np.stack([compute, pass_rate], axis=1), axis=0, return_counts=True)
    again = int((count - 1).sum())
    if not again:
        return []
    times = int(count.min())
    if times > 1 and len(rows) >= WHOLE_TABLE:
        what = f"every evaluation stands in the file {times} times or more: a table joined to its own copy?"
        return [finding("concatenated", f"{what} limits are too narrow", float(times))]
    repeated = rows[count > 1]
    what = (
        f"{again} evaluation{'s repeat' if again > 1 else ' repeats'} another one exactly, first at compute "
        f"{repeated[0, 0]:.4g}; each counts as a point, so drop copies"
    )
    return [finding("rows-duplicated", what, float(again))]


def one_seed(seeds: int, sd: float | None = None) -> list[Finding]:
    """Say that an interval of one seed holds no variance between seeds, or which one (`sd`, of A) was assumed."""
    if seeds > 1:
        return []
    if sd is None:
        return [finding("one-seed", "one seed: the interval holds no variance between seeds")]
    return [finding("one-seed", f"one seed: a standard deviation of {sd:g} between seeds is assumed, not measured", sd)]


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


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _short(rho: float) -> str:
    return f"{rho:.2f}".replace("0.", ".", 1)
