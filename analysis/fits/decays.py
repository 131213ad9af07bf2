"""A pass rate that peaks and then falls: decay and collapse, and the compute of the peak.

Promises: says where the rise ends, so that a fit up to there can be asked for; changes nothing itself, because
dropping the points that disagree must be the reader's own decision.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from analysis.curves.curve import R
from analysis.findings import Finding, finding

Array = NDArray[np.float64]

DECAY_LEVEL, DECAY_DROP = 0.01, 0.01  # one-sided level of the falling plateau; smallest drop that counts
PLATEAU, PLATEAU_POINTS = 0.9, 4  # share of the gain inside the data from which on the curve counts as level; points
COLLAPSE_POINTS = 10  # fewer points than this do not tell a collapse from noise
COLLAPSE, COLLAPSE_SIGMAS = 0.25, 5.0  # the end lies this share of the range and this many errors below the best
ENTIRE = 0.5  # every evaluation of the end lies at least this share of the drop below
ENDS = (0.2, 0.1)  # shares of the run that may lie at the end, and always its last two evaluations
SLIDE_LEVEL, SLIDE_POINTS = 0.001, 6  # one-sided level of a slope behind the peak; points there
DIP_SIGMAS = 8.0  # a dip is this many times the noise: the highest of many means and the lowest of many points differ
HALF, FELL = 0.5, 0.1  # of the range, and at least: a dip whatever the run does elsewhere, if evaluations are that sure
DIP_POINTS, SIDE = 2, 3  # evaluations in a dip at least, and on each side
SMOOTH = 0.1  # share of the points over which the peak is looked for


def decay(compute: Array, pass_rate: Array, values: dict[str, float]) -> list[Finding]:
    """Find a pass rate that peaks and falls, as a falling plateau or an end far below the best.

    Parameters
    ----------
    compute, pass_rate : array, shape (n,)
        Sorted by compute.
    values : R0, A, B, C_mid
        Of the curve fitted to all points.

    Returns
    -------
    list of Finding
        None or one; its figure is the compute of the peak.
    """
    place = peak(pass_rate)
    drop = collapse(pass_rate) or falling_plateau(compute, pass_rate, values) or _slide(compute, pass_rate, place)
    if drop is None:
        return []
    at = _up_to(compute, place)
    what = (
        f"the pass rate falls by {drop:.3f} after its peak; the law only rises, so A is not this run's ceiling "
        f"(fit up to the peak with --to {at})"
    )
    return [finding("decay", what, float(compute[place]))]


def dip(compute: Array, pass_rate: Array, variance: Array | None = None) -> list[Finding]:
    """Find a collapse that the run recovered from: successive evaluations far below those on both sides.

    Parameters
    ----------
    compute, pass_rate : array, shape (n,)
        Sorted by compute.
    variance : array, shape (n,), optional
        Of the evaluations, where their counts tell it.

    Returns
    -------
    list of Finding
        None or one; its figure is the compute of the lowest of them.

    Notes
    -----
    Every evaluation of the stretch lies below some mean of `SIDE` neighbours before it and some behind it by `COLLAPSE`
    of the range, by `DECAY_DROP` and by `DIP_SIGMAS` times the noise around the best rising steps. A run that wanders
    far has much such noise: by `HALF` of the range, `FELL`, and `DIP_SIGMAS` times the noise of the evaluations
    themselves is enough. False alarms of 150 simulated curves a cell (seeds 0 to 149; noise sd .01; rho 0, .5, .9; n
    20, 60, 200; gain 0, .02, .08, .28, .62): none where the curve gains .28 or .62, 11 of 150 (7 %, band 4 to 13 %) at
    gain .08, rho .9, n 200, at most 2 elsewhere; with a variance of the evaluations of .002 squared as without.
    """
    found = _stretch(pass_rate, variance)
    if found is None:
        return []
    start, stop, depth = found
    lowest = start + int(np.argmin(pass_rate[start:stop]))
    behind = len(compute) - stop >= start
    where = (
        f"fit behind them with --from {_from(compute, stop)}"
        if behind
        else f"fit up to them with --to {_up_to(compute, start - 1)}"
    )
    ends = f"{compute[start]:.4g} to {compute[stop - 1]:.4g}"
    what = (
        f"the evaluations at compute {ends} lie up to {depth:.3f} below those on both sides: the run collapsed there "
        f"and recovered; A, B and C_mid rest on them too ({where})"
    )
    return [finding("dip", what, float(compute[lowest]))]


def dip_of(pass_rate: Array, variance: Array | None = None) -> float | None:
    """Return how far the lowest evaluation of a dip lies below both sides; None where there is no dip."""
    found = _stretch(pass_rate, variance)
    return None if found is None else found[2]


def _stretch(y: Array, variance: Array | None) -> tuple[int, int, float] | None:
    """Start, stop and depth of the largest stretch below the best before and the best behind it."""
    n = len(y)
    if n < COLLAPSE_POINTS:
        return None
    least = max(DECAY_DROP, COLLAPSE * float(np.ptp(y)), DIP_SIGMAS * _usual_noise(y))
    if variance is not None:
        least = min(least, max(FELL, HALF * float(np.ptp(y)), DIP_SIGMAS * float(np.sqrt(np.mean(variance)))))
    sides = np.convolve(y, np.full(SIDE, 1.0 / SIDE), mode="valid")  # mean of y[i : i + SIDE]
    inner = np.arange(SIDE, n - SIDE)
    before = np.maximum.accumulate(sides)[inner - SIDE]
    behind = np.maximum.accumulate(sides[::-1])[::-1][inner + 1]
    depth = np.minimum(before, behind) - y[inner]
    edges = np.flatnonzero(np.diff(np.r_[False, depth >= least, False].astype(int)))
    found = [(int(i), int(j)) for i, j in zip(edges[::2], edges[1::2], strict=True) if j - i >= DIP_POINTS]
    if not found:
        return None
    i, j = max(found, key=lambda ends: float(depth[ends[0] : ends[1]].sum()))
    return int(inner[i]), int(inner[j - 1]) + 1, float(depth[i:j].max())


def _usual_noise(y: Array) -> float:
    """Standard deviation around the best rising steps, by medians: a dip counts little, and does not lower its step."""
    steps = np.split(y, np.flatnonzero(np.diff(_rising(y)[0]) > 0.0) + 1)
    away = np.concatenate([step - np.median(step) for step in steps])
    return float(np.median(np.abs(away))) / 0.6745


def peak(pass_rate: Array) -> int:
    """Return the position of the last evaluation of the rise: the best of a running mean, its best point.

    Examples
    --------
    >>> peak(np.array([0.1, 0.3, 0.5, 0.6, 0.61, 0.5, 0.3, 0.1]))
    4
    """
    n = len(pass_rate)
    half = max(1, int(SMOOTH * n / 2))
    ends = [(max(0, i - half), min(n, i + half + 1)) for i in range(n)]
    centre = int(np.argmax([pass_rate[lo:hi].mean() for lo, hi in ends]))
    lo, hi = ends[centre]
    return lo + int(np.argmax(pass_rate[lo:hi]))


def falling_plateau(compute: Array, pass_rate: Array, values: dict[str, float]) -> float | None:
    """Return the drop over the part where the fitted curve is level, if a line in ln C falls significantly there."""
    if values["A"] <= values["R0"]:
        return None
    curve = np.asarray(R(compute, **values))
    level = (compute > 0.0) & (curve >= curve[0] + PLATEAU * (curve[-1] - curve[0]))
    n = int(level.sum())
    if n < PLATEAU_POINTS:
        return None
    return _falls(np.log(compute[level]), pass_rate[level], DECAY_LEVEL)


def _slide(compute: Array, pass_rate: Array, place: int) -> float | None:
    """Drop behind the peak, where a line falls; the points that made it the peak are left out, being high by choice."""
    behind = place + 1 + max(1, int(SMOOTH * len(compute)))
    if len(compute) - behind < SLIDE_POINTS or not compute[behind] > 0.0:
        return None
    if pass_rate[place] - pass_rate[0] < COLLAPSE * np.ptp(pass_rate):
        return None  # a curve that falls throughout has no peak
    return _falls(np.log(compute[behind:]), pass_rate[behind:], SLIDE_LEVEL)


def _falls(t: Array, y: Array, at_level: float) -> float | None:
    """Drop along a straight line, if its slope is negative at a one-sided level."""
    n = len(t)
    t, y = t - t.mean(), y - y.mean()
    spread = float(t @ t)
    if spread <= 0.0:
        return None
    slope = float(t @ y) / spread
    drop = -slope * float(np.ptp(t))
    if drop < DECAY_DROP:
        return None
    rest = y - slope * t
    total = float(rest @ rest)
    # Correlated noise wanders, and a wander looks like a slope: its variance counts (1 + rho) / (1 - rho) fold.
    rho = min(max(float(rest[1:] @ rest[:-1]) / total, 0.0), 0.9) if total > 0.0 else 0.0
    error = math.sqrt(total / (n - 2) / spread * (1.0 + rho) / (1.0 - rho))
    return None if error > 0.0 and float(stdtr(n - 2, slope / error)) > at_level else drop


def collapse(pass_rate: Array) -> float | None:
    """Return the drop from the best stretch to the end, if it is a large part of the range and far above the noise.

    The last fifth, the last tenth and the last two evaluations are tried, because a run that breaks at its very end
    leaves the mean of its last fifth nearly as it was.
    """
    n = len(pass_rate)
    if n < COLLAPSE_POINTS:
        return None
    noise, rho = _noise(pass_rate)
    for length in dict.fromkeys((*(max(2, int(share * n)) for share in ENDS), 2)):
        means = np.convolve(pass_rate, np.full(length, 1.0 / length), mode="valid")
        best, first = int(np.argmax(means)), float(means[0])
        scope = float(np.ptp(means))
        drop = float(means[best]) - float(means[-1])
        # The end is low as a whole and in its best point: one bad evaluation is an outlier, not a collapse.
        least = float(means[best]) - float(pass_rate[-length:].max())
        error = COLLAPSE_SIGMAS * noise * math.sqrt(2.0 * min((1.0 + rho) / (1.0 - rho) / length, 1.0))
        if drop < max(DECAY_DROP, COLLAPSE * scope, error) or least < ENTIRE * drop:
            continue
        # A falling curve falls throughout; a collapse has a rise before it.
        if float(means[best]) - first >= COLLAPSE * scope:
            return drop
    return None


def _noise(pass_rate: Array) -> tuple[float, float]:
    """Standard deviation and lag-1 correlation of the noise around any curve that rises to the peak and then falls."""
    top = peak(pass_rate) + 1
    up, blocks_up = _rising(pass_rate[:top])
    down, blocks_down = _rising(pass_rate[top:][::-1])
    residual = pass_rate - np.concatenate([up, down[::-1]])
    total = float(residual @ residual)
    if total <= 0.0:
        return 0.0, 0.0
    # A level counts as a parameter: where the curve is steep every point is a level, and says nothing of the noise.
    sigma = math.sqrt(total / max(len(residual) - blocks_up - blocks_down, 1))
    rho = float(residual[1:] @ residual[:-1]) / total
    return sigma, min(max(rho, 0.0), 0.9)


def _rising(values: Array) -> tuple[Array, int]:
    """Best rising steps through values, and how many levels they have (pool adjacent violators)."""
    sums: list[float] = []
    counts: list[int] = []
    for value in values.tolist():
        total, count = value, 1
        while sums and sums[-1] * count >= total * counts[-1]:
            total, count = total + sums.pop(), count + counts.pop()
        sums.append(total)
        counts.append(count)
    return np.repeat(np.array(sums) / np.maximum(counts, 1), counts), len(sums)


def _up_to(compute: Array, place: int) -> str:
    """The compute of a point in few digits that keep it and leave the next one out."""
    later = compute[compute > compute[place]]
    return _few_digits(float(compute[place]), float(later[0]) if len(later) else math.inf)


def _from(compute: Array, place: int) -> str:
    """The compute of a point in few digits that keep it and leave the one before out."""
    earlier = compute[compute < compute[place]]
    return _few_digits(float(compute[place]), float(earlier[-1]) if len(earlier) else -math.inf)


def _few_digits(at: float, beyond: float) -> str:
    """The shortest number from `at` on, towards `beyond` and without it.

    Examples
    --------
    >>> _few_digits(0.1234, 0.13), _few_digits(0.1234, 0.1239), _few_digits(6000.4, 6000.0)
    ('0.124', '0.1234', '6000.4')
    """
    up = 1.0 if beyond > at else -1.0
    for digits in range(2, 18):
        near = float(f"{at:.{digits}g}")
        if (near - at) * up < 0.0 and near != 0.0:
            near += up * 10.0 ** (math.floor(math.log10(abs(near))) - digits + 1)
        text = f"{near:.{digits}g}"
        if 0.0 <= (float(text) - at) * up < (beyond - at) * up:
            return text
    return repr(at)
