"""How far ahead a fit can be believed: the band of the mean curve, the reach and the grade. Functions of draws alone.

The **reach** is the largest h up to which the band of R(h C_max) lies within `tolerance` of its median on either side;
the **grade** is P(C_max > 2 C_mid). Both say what the draws say: they are as good as the law and the noise model are.
"""

from __future__ import annotations

import numpy as np

from analysis.curves.curve import R
from analysis.curves.solver import Array
from analysis.findings import Finding, finding
from analysis.fits.results import FARTHEST
from analysis.posteriors.draws import Draws

USABLE_GRADE = 0.9
TOLERANCE = 0.02
STEPS = 41  # multiples of the compute that are looked at


def half_widths(draws: Draws, last: float, multiples: Array, level: float = 0.95) -> Array:
    """Larger distance (k,) from the median of the mean curve to a limit, at multiples (k,) of the last compute."""
    with np.errstate(over="ignore"):  # at an infinite compute a curve is at its ceiling
        C = multiples[None] * last
    curves = R(C, draws.R0[:, None], draws.A[:, None], draws.B[:, None], draws.C_mid[:, None])
    tail = 0.5 * (1.0 - level)
    lo, mid, hi = draws.quantile(curves, [tail, 0.5, 1.0 - tail])
    return np.asarray(np.maximum(hi - mid, mid - lo))


def reach(draws: Draws, last: float, *, tolerance: float = TOLERANCE, level: float = 0.95) -> float:
    """Return the largest multiple of the last compute, at most `FARTHEST`, up to which the band is narrow enough.

    1 where there is none: right behind the data the band is wider than that.

    Parameters
    ----------
    draws : Draws
    last : float
        The last compute.
    tolerance : float
        Largest distance from the median of the mean curve to either limit.

    Examples
    --------
    >>> one = np.ones(3)
    >>> exact = Draws(0.1 * one, 0.7 * one, one, one, 0 * one, 0 * one, one / 3)
    >>> reach(exact, 5.0)
    100.0
    """
    multiples = np.geomspace(1.0, FARTHEST, STEPS)
    return crossing(multiples, half_widths(draws, last, multiples, level), tolerance)


def crossing(multiples: Array, half: Array, tolerance: float) -> float:
    """Return the multiple up to which half-widths are within the tolerance, linear in ln multiple between two.

    Parameters
    ----------
    multiples, half : (k,) array
        Ascending multiples of a compute from 1 on, and half-widths of the band there.
    tolerance : float

    Returns
    -------
    float
        1 where the first is too wide already, the last multiple where none is.

    Examples
    --------
    >>> h = np.array([1.0, 2.0, 4.0])
    >>> [crossing(h, np.array(half), 0.02) for half in ([0.01, 0.02, 0.03], [0.03, 0.04, 0.05], [0.0, 0.0, 0.0])]
    [2.0, 1.0, 4.0]
    """
    beyond = np.flatnonzero(half > tolerance)
    if not len(beyond):
        return float(multiples[-1])
    k = int(beyond[0])
    if k == 0:
        return 1.0
    share = (tolerance - half[k - 1]) / (half[k] - half[k - 1])
    return float(np.exp(np.interp(share, [0.0, 1.0], np.log(multiples[k - 1 : k + 1]))))


def grade(draws: Draws, last: float) -> float:
    """Return P(C_max > 2 C_mid)."""
    return float(np.clip(draws.weight[2.0 * draws.C_mid < last].sum(), 0.0, 1.0))


def of_grade(share: float, *, dipped: bool = False) -> list[Finding]:
    """Say that a run ends too early to know its ceiling, or collapsed on its way; nothing where the grade is usable."""
    if share >= USABLE_GRADE:
        return []
    why = "with a collapse on its way the law does not tell" if dipped else "the run ends too early to know"
    what = f"P(C_max > 2 C_mid) {chance(share)}, usable from {USABLE_GRADE:g}: {why} its ceiling"
    return [finding("grade", what, share, severity="warning")]


def chance(p: float) -> str:
    """Return a probability behind its sign, two digits; never one that reads as certain.

    Examples
    --------
    >>> chance(0.4), chance(0.001), chance(1.0)
    ('= .40', '< .01', '> .99')
    """
    if p > 0.995:
        return "> .99"
    return "< .01" if p < 0.005 else f"= {p:.2f}".replace("0.", ".", 1)
