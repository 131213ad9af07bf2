"""What more compute would tell: the run's future drawn from its own posterior, and fitted again.

A draw of the curve and of the noise continues the run at its cadence (even gaps of compute, or of its logarithm), from
its last residual on; the longer run is fitted as `fit` would. Medians over such futures say how wide intervals will be,
before the compute is spent.

Promises: what is simulated is what the fit believes, so a wrong law or a wrong noise model is believed here too. Does
not promise the evaluations of the future: only how much they will narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.curves.curve import R
from analysis.curves.solver import Array
from analysis.fits.evaluations import Evaluations
from analysis.fits.reach import crossing
from analysis.posteriors.draws import Draws, tail
from analysis.posteriors.noise import DIGITS
from analysis.posteriors.priors import Priors
from analysis.predict.ahead import Calibration, Cut, cut_at
from analysis.predict.reaches import GRID, times_of

FUTURES = 16
# A longer run is fitted on means of neighbouring evaluations, this many or a few more: dropping evaluations would lose
# what they say, and AR(1) noise in blocks is AR(1) and white noise, which the model has.
BLOCKS, MOST_BLOCKS = 200, 1000
OWN_BLOCKS = 25  # of what is there already, where much is added to it
FEWEST_GAPS = 4  # that say whether evaluations are spaced in compute or in its logarithm
CHANGED = 1.5  # times the usual gap, or its part, from which on a run's last evaluations come at another cadence
MOST_ADDED = 10**6  # evaluations of a future; a longer one has them farther apart


@dataclass(frozen=True)
class After:
    """What a fit would say after a budget: medians over futures.

    Attributes
    ----------
    multiple : float
        Of the last compute.
    A_width : float
        Width of the interval of A.
    A_variance : float
        Of the posterior of A.
    half : float
        Half-width of the band of the mean curve at twice that budget.
    reach : float
        From the end of the budget on, as a multiple of it.
    reach_at_least : tuple of float
        Reaches of all futures, ascending.
    futures : int
    """

    multiple: float
    A_width: float
    A_variance: float
    half: float
    reach: float
    reach_at_least: tuple[float, ...]
    futures: int


def continued(data: Evaluations, draws: Draws, row: int, multiple: float, rng: np.random.Generator) -> Evaluations:
    """Return the run up to `multiple` of its last compute, continued by one draw."""
    last = float(data.compute[-1])
    pace = cadence(data.compute)
    wanted = math.log(multiple) / pace.gap if pace.geometric else (multiple - 1.0) * last / pace.gap
    count = min(max(1, round(wanted)), MOST_ADDED)
    steps = np.arange(1.0, count + 1.0)
    even = last + steps * ((multiple - 1.0) * last / count)
    C = last * multiple ** (steps / count) if pace.geometric else even
    every = wanted / count if pace.geometric else max(1.0, wanted / MOST_ADDED)
    time = _gone_on(data.time, every * steps, pace.geometric)
    d, white = draws, float(getattr(draws, "white", np.zeros(len(draws)))[row])
    parameters = (float(v[row]) for v in (d.R0, d.A, d.B, d.C_mid))
    R0, A, B, C_mid = parameters
    sigma, rho = float(d.sigma[row]), float(d.rho[row])
    run_sd, own_sd = sigma * np.sqrt(1.0 - white), sigma * np.sqrt(white)
    # The share of the last residual that is run noise goes on; the evaluation's own is drawn anew.
    state = (1.0 - white) * float(data.pass_rate[-1] - R(last, R0, A, B, C_mid))
    drawn = rng.standard_normal((count, 2))  # a row an evaluation: a longer future begins as a shorter one does
    # In units of the usual gap, as the fit counts them, and rounded as it does: an even cadence is 1 and nothing else.
    gaps = np.round(np.diff(np.r_[data.time[-1], time]) / usual_gap(data.time), DIGITS)
    back = rho**gaps
    fresh = zip(back.tolist(), (np.sqrt(1.0 - back**2) * run_sd * drawn[:, 0]).tolist(), strict=True)
    noise = np.empty(count)
    for i, (kept, new) in enumerate(fresh):
        state = noise[i] = kept * state + new
    noise += own_sd * drawn[:, 1]
    rate = np.clip(R(C, R0, A, B, C_mid) + noise, 0.0, 1.0)
    variance = data.variance
    if variance is not None:
        variance = np.r_[variance, np.full(len(C), float(variance.mean()))]
    return Evaluations(
        np.r_[data.compute, C],
        np.r_[data.pass_rate, rate],
        np.r_[data.time, time],
        variance,
        (),
    )


def in_blocks(data: Evaluations, most: int) -> Evaluations:
    """Return means of neighbouring evaluations, as many in each block as leave at most `most` blocks.

    Examples
    --------
    >>> C = np.arange(5.0)
    >>> made = in_blocks(Evaluations(C, C / 10, C, np.full(5, 0.4), ()), 3)
    >>> made.compute.tolist(), made.pass_rate.round(2).tolist(), made.variance.tolist()
    ([0.5, 2.5, 4.0], [0.05, 0.25, 0.4], [0.2, 0.2, 0.4])
    """
    each = -(-len(data.compute) // most)
    if each <= 1:
        return data
    starts = np.arange(0, len(data.compute), each)
    sizes = np.diff(np.r_[starts, len(data.compute)])

    def mean(values: Array) -> Array:
        return np.asarray(np.add.reduceat(values, starts) / sizes)

    variance = None if data.variance is None else mean(data.variance) / sizes
    return Evaluations(mean(data.compute), mean(data.pass_rate), mean(data.time), variance, ())


def usual_gap(values: Array) -> float:
    """Median of the gaps above 0.

    Examples
    --------
    >>> usual_gap(np.array([0.0, 1.0, 2.0, 2.0, 9.0]))
    1.0
    """
    gaps = np.diff(values)
    return float(np.median(gaps[gaps > 0.0]))


class Cadence(NamedTuple):
    """From one evaluation to the next: a gap, or, where they are spaced in the logarithm, the gap of that."""

    gap: float
    geometric: bool


def cadence(values: Array) -> Cadence:
    """Return how a run spaces its evaluations towards its end, from their compute or time (n,), ascending.

    Geometric where the last third of the gaps says so: those of ln C scatter less than half as much as those of C. Else
    the median gap, of the last third alone where it is another by more than `CHANGED`.

    Examples
    --------
    >>> cadence(np.array([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]))
    Cadence(gap=10.0, geometric=False)
    >>> cadence(np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))   # ln 2
    Cadence(gap=0.6931471805599454, geometric=True)
    """
    gaps = np.diff(values)
    gaps = gaps[gaps > 0.0]
    recent = gaps[-max(len(gaps) // 3, FEWEST_GAPS) :]
    ratios = np.diff(np.log(np.unique(values[values > 0.0])))[-len(recent) :]
    if len(ratios) >= FEWEST_GAPS and 2.0 * np.log(ratios).std() < np.log(recent).std():
        return Cadence(float(np.median(ratios)), True)
    whole, late = float(np.median(gaps)), float(np.median(recent))
    return Cadence(late if max(whole / late, late / whole) > CHANGED else whole, False)


def _gone_on(time: Array, steps: Array, geometric: bool) -> Array:
    """The time `steps` (m,) evaluations later, at its own cadence; even where compute is spaced evenly."""
    pace = cadence(time)
    if geometric and pace.geometric:
        return np.asarray(time[-1] * np.exp(pace.gap * steps))
    return np.asarray(time[-1] + steps * (usual_gap(time) if pace.geometric else pace.gap))


def after(
    data: Evaluations,
    cut: Cut,
    past: Calibration,
    multiple: float,
    *,
    tolerance: float,
    level: float,
    priors: Priors | None = None,
    r0: float | None = None,
    futures: int = FUTURES,
    seed: int = 0,
) -> After:
    """Return what a fit would say once the run has `multiple` times its compute.

    The band is that of the sigmoid, widened as earlier forecasts of the run ask for it today.
    """
    # The same futures for every budget, so that budgets can be compared: a generator each.
    rows = np.random.default_rng(seed).choice(len(cut.draws), size=futures, p=cut.draws.weight)
    times, twice = times_of(past, GRID, "sigmoid", level), past.widening(2.0, "sigmoid", level).times
    told = []
    for i, row in enumerate(rows):
        longer = continued(data, cut.draws, int(row), multiple, np.random.default_rng([seed, 1, i]))
        most = min(max(BLOCKS, OWN_BLOCKS * len(longer.compute) // len(data.compute)), MOST_BLOCKS)
        later = cut_at(in_blocks(longer, most), priors=priors, r0=r0, averaged=("sigmoid",))
        if later is None:
            continue
        d = later.draws
        lo, hi = d.quantile(d.A, [tail(level), 1.0 - tail(level)])
        half = times * later.ahead(GRID * later.last, "sigmoid").sd
        at_2x = twice * float(later.ahead(np.array([2.0 * later.last]), "sigmoid").sd[0])
        told.append((hi - lo, d.moments(d.A)[1], at_2x, crossing(GRID, half, tolerance)))
    table = np.array(told)
    width, variance, half_at_2x, reach = np.median(table, axis=0)
    reaches = tuple(sorted(float(r) for r in table[:, 3]))
    return After(multiple, float(width), float(variance), float(half_at_2x), float(reach), reaches, len(table))
