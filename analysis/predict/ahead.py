"""What evaluations up to some compute say of later ones, and how far such statements of this run were off before.

A `Cut` is a run up to one of its evaluations: the posterior of the sigmoid, and four families whose predictions are
averaged. A `Calibration` holds earlier cuts of the same run and asks of each how far its prediction, a factor ahead,
lay from what was evaluated there. From that follows by how much the band of a forecast has to be widened.

Promises: an error is divided by what its own cut would have allowed for it, so that noise of the evaluations widens no
band of the mean curve; the widening never rests on points after the forecast. Does not promise that a run errs ahead
as it erred before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from analysis.curves.curve import R
from analysis.curves.families import FAMILIES, Family
from analysis.curves.projection import fit_many
from analysis.curves.solver import Array
from analysis.fits.evaluations import Evaluations
from analysis.posteriors.draws import Draws, tail
from analysis.posteriors.posterior import posterior
from analysis.posteriors.priors import Priors
from analysis.predict.cuts import Fitted

# Chosen on one half of the data sets of a database of learning curves (`python -m benchmarks.lcdb`), which has the
# other half as its test: families, the exponent of their weights, and the inflation that is assumed beforehand.
AVERAGED = ("sigmoid", "power_law", "gompertz", "broken_power_law")
TEMPER = 0.5  # successive evaluations are correlated: differences of the criterion count half
METHODS = ("average", "sigmoid")
PRIOR_ORIGINS = 3.0  # what an inflation that is assumed beforehand weighs, in origins
CALIBRATED = 3  # origins from which on a band counts as calibrated
ORIGINS = 9
LEAST_BEFORE = 5  # evaluations before an origin
LEAST_AVERAGED = 8  # evaluations after compute 0; fewer hold no choice between families, and the prior's sigmoid stands
NEAR = (0.75, 4.0 / 3.0)  # ln(factor) of an evaluation that stands for a factor, over the ln of that
DRAWS = 1000
LEAST_SD = 1e-9


class Ahead(NamedTuple):
    """Middle of the mean curve and the standard deviation of its own error, (k,) each."""

    mid: Array
    sd: Array


@dataclass(frozen=True, eq=False)
class Cut:
    """A run up to its nth evaluation.

    Attributes
    ----------
    n : int
    last : float
        Compute of that evaluation.
    draws : Draws
        Of the sigmoid.
    sigma : float
        Standard deviation of an evaluation around the mean curve.
    families : mapping of str to array
        Parameters of each averaged family, least squares; without the sigmoid, which the draws stand for.
    weights : mapping of str to float
        Of the average; they sum to 1.
    """

    n: int
    last: float
    draws: Draws
    sigma: float
    families: dict[str, Array]
    weights: dict[str, float]
    told: dict[tuple[float, str], tuple[float, float]] = field(default_factory=dict, repr=False)

    def ahead(self, C: Array, method: str = "average", *, since: float | None = None) -> Ahead:
        """Predict the mean curve at computes (k,), or with `since` what it gains on that compute.

        The average has the variance of the sigmoid's draws plus the spread of the families around it.
        """
        C = np.atleast_1d(np.asarray(C, dtype=float))
        curves = self._curves(C) - (0.0 if since is None else self._curves(np.array([since])))
        mean = self.draws.weight @ curves
        variance = self.draws.weight @ (curves - mean) ** 2
        sigmoid = self.draws.quantile(curves, [0.5])[0]
        if method == "sigmoid" or set(self.weights) == {"sigmoid"}:
            return Ahead(sigmoid, np.sqrt(variance))
        each = [sigmoid if f == "sigmoid" else self._gained(f, C, since) for f in self.weights]
        predicted, weights = np.stack(each), np.array(list(self.weights.values()))
        mid = weights @ predicted
        return Ahead(mid, np.sqrt(variance + weights @ (predicted - mid) ** 2))

    def at(self, C: float, method: str = "average") -> tuple[float, float]:
        """Middle and standard deviation at one compute; kept, for calibrations at several places ask again."""
        if (C, method) not in self.told:
            mid, sd = self.ahead(np.array([C]), method)
            self.told[C, method] = float(mid[0]), float(sd[0])
        return self.told[C, method]

    def _curves(self, C: Array) -> Array:
        d = self.draws
        return np.asarray(R(C[None], d.R0[:, None], d.A[:, None], d.B[:, None], d.C_mid[:, None]))

    def _gained(self, name: str, C: Array, since: float | None) -> Array:
        before = 0.0 if since is None else self.family(name, np.array([since]))
        return np.asarray(self.family(name, C) - before)

    def family(self, name: str, C: Array) -> Array:
        """Prediction (k,) of one family, a pass rate between 0 and 1."""
        return np.asarray(np.clip(FAMILIES[name].value(C, self.families[name]), 0.0, 1.0))


def cut_at(
    data: Evaluations,
    n: int | None = None,
    *,
    priors: Priors | None = None,
    r0: float | None = None,
    draws: Draws | None = None,
    averaged: Sequence[str] = AVERAGED,
    fitted: Fitted | None = None,
    seed: int = 0,
) -> Cut | None:
    """Fit the first `n` evaluations; None where there is no curve in them.

    Parameters
    ----------
    data : Evaluations
        In order of compute.
    draws : Draws, optional
        Of a posterior that is known already.
    averaged : sequence of str
        Families; the sigmoid alone costs a fifth.
    fitted : mapping of family to (parameters, sum of squares), optional
        Least squares of the families that are known already (`analysis.predict.cuts.fit_cuts`).
    """
    n = len(data.compute) if n is None else n
    compute, rate = data.compute[:n], data.pass_rate[:n]
    if len(np.unique(compute)) < LEAST_BEFORE or np.ptp(rate) <= 1e-12:
        return None
    if draws is None:
        variance = None if data.variance is None else data.variance[:n]
        draws = posterior(
            compute, rate, variance=variance, time=data.time[:n], priors=priors, r0=r0, draws=DRAWS, seed=seed
        )
    families, weights = _families(compute, rate, averaged, fitted or {})
    sigma = float(np.sqrt(draws.weight @ draws.sigma**2))
    return Cut(n, float(compute[-1]), draws, sigma, families, weights)


def _families(
    compute: Array, rate: Array, averaged: Sequence[str], fitted: Fitted
) -> tuple[dict[str, Array], dict[str, float]]:
    """Least squares of each family on the evaluations after compute 0, and Akaike's weights, corrected, tempered."""
    positive = compute > 0.0
    log_c, y = np.log(compute[positive]), rate[positive]
    n, families, criterion = len(y), {}, {}
    for name in averaged if len(averaged) > 1 and n >= LEAST_AVERAGED else ():
        family = FAMILIES[name]
        free = len(family.free) + 1  # and the size of the noise
        if n < free + 2 or len(np.unique(log_c)) < free:
            continue
        families[name], sse = fitted[name] if name in fitted else fit_family(family, log_c, y)
        criterion[name] = n * np.log(max(sse, 1e-12) / n) + 2.0 * free + 2.0 * free * (free + 1.0) / (n - free - 1.0)
    if not criterion:
        return {}, {"sigmoid": 1.0}
    best = min(criterion.values())
    raw = {name: float(np.exp(-0.5 * TEMPER * (value - best))) for name, value in criterion.items()}
    total = sum(raw.values())
    families.pop("sigmoid", None)
    return families, {name: value / total for name, value in raw.items()}


def fit_family(family: Family, log_c: Array, y: Array) -> tuple[Array, float]:
    """Parameters of one family by least squares, and the sum of squares."""
    low, high = (np.array([edge if b else far for b in family.bounded]) for edge, far in ((0.0, -50.0), (1.0, 50.0)))
    found = fit_many(log_c, y[None], family=family, linear_low=low, linear_high=high, starts=2)
    return found.natural()[0], float(found.sse[0])


@dataclass(frozen=True, eq=False)
class Calibration:
    """Earlier cuts of a run, and the inflation that is assumed before any of their errors is seen.

    Examples
    --------
    >>> from analysis.fits.evaluations import evaluations_of
    >>> from analysis.readers.logs import read
    >>> data = evaluations_of(read("data/paper/scalerl_8b_bs2048_100k.csv")[0], "gpu_hours")
    >>> past = calibrate(data)
    >>> past.widening(2.0, "average").origins >= 3, past.widening(50.0, "average").origins
    (True, 0)
    """

    data: Evaluations
    cuts: tuple[Cut, ...]
    inflation: float
    others: tuple[Calibration, ...] = ()
    seen: dict[tuple[float, str], Array] = field(default_factory=dict, repr=False)

    def errors(self, factor: float, method: str) -> Array:
        """Errors of the cuts that factor ahead, (m,), each over the standard deviation that its cut gives it.

        Those of `others`, runs that are taken to err alike, come after the run's own.
        """
        if (factor, method) not in self.seen:
            self.seen[factor, method] = self._errors(factor, method)
        own = self.seen[factor, method]
        return np.concatenate([own, *(o.errors(factor, method) for o in self.others)]) if self.others else own

    def _errors(self, factor: float, method: str) -> Array:
        compute, rate = self.data.compute, self.data.pass_rate
        found = []
        for cut in self.cuts:
            if (j := ahead_of(compute, cut.n, factor)) is None:
                continue
            mid, sd = cut.at(float(compute[j]), method)
            found.append((rate[j] - mid) / max(float(np.hypot(sd, cut.sigma)), LEAST_SD))
        return np.array(found)

    def widening(self, factor: float, method: str, level: float = 0.95) -> Widening:
        """By how many standard deviations a band that factor ahead reaches to either side.

        t quantile on 3 + m degrees of freedom times lambda, lambda^2 = (3 inflation^2 + sum of squared errors) /
        (3 + m). Where fewer than three origins are that factor back, the errors of the nearest factor that has them
        stand in, and the band does not count as calibrated.
        """
        own = self.errors(factor, method)
        used = own
        if len(own) < CALIBRATED:
            others = sorted(STAND_INS, key=lambda h: abs(np.log(h / factor)))
            used = next((e for h in others if len(e := self.errors(h, method)) >= CALIBRATED), own)
        m = len(used)
        lambda2 = (PRIOR_ORIGINS * self.inflation**2 + float((used**2).sum())) / (PRIOR_ORIGINS + m)
        t = float(stdtrit(PRIOR_ORIGINS + m, 1.0 - tail(level)))
        return Widening(t * float(np.sqrt(lambda2)), float(np.sqrt(lambda2)), len(own), PRIOR_ORIGINS + m)


STAND_INS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)


class Widening(NamedTuple):
    """Standard deviations to either side, lambda in them, the origins that lie that factor back, and t's freedom.

    `dof` counts the origins whose errors were used, stand-ins among them, and the weight of the inflation assumed.
    """

    times: float
    inflation: float
    origins: int
    dof: float


def ahead_of(compute: Array, n: int, factor: float) -> int | None:
    """Which evaluation lies `factor` past the nth, None where none is near.

    Examples
    --------
    >>> ahead_of(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2, 2.0), ahead_of(np.array([1.0, 2.0, 3.0]), 2, 4.0)
    (3, None)
    """
    last = compute[n - 1]
    if not last > 0.0 or n >= len(compute):
        return None
    gone = np.log(compute[n:] / last) / np.log(factor)
    j = int(np.argmin(np.abs(gone - 1.0)))
    return n + j if NEAR[0] <= gone[j] <= NEAR[1] else None


def origins_of(compute: Array, count: int = ORIGINS, least: int = LEAST_BEFORE) -> list[int]:
    """Numbers of evaluations to cut after: at most `count`, evenly in ln compute, none at the end."""
    places = np.arange(least, len(compute))
    places = places[compute[places - 1] > 0.0]
    places = places[[k == len(places) - 1 or compute[places[k]] > compute[places[k] - 1] for k in range(len(places))]]
    if len(places) <= count:
        return [int(n) for n in places]
    at = np.log(compute[places - 1])
    wanted = np.linspace(at[0], at[-1], count)
    return [int(n) for n in np.unique(places[np.abs(at[:, None] - wanted).argmin(axis=0)])]


def calibrate(
    data: Evaluations,
    *,
    inflation: float | None = None,
    origins: int = ORIGINS,
    averaged: Sequence[str] = AVERAGED,
    priors: Priors | None = None,
    r0: float | None = None,
) -> Calibration:
    """Cut a run at earlier evaluations and keep what each of these cuts would have said."""
    from analysis.predict.cuts import fit_cuts  # it fits what this module averages

    places = origins_of(data.compute, origins)
    fitted = fit_cuts(data, places, averaged) if len(averaged) > 1 else [None] * len(places)
    cuts = (
        cut_at(data, n, priors=priors, r0=r0, averaged=averaged, fitted=known)
        for n, known in zip(places, fitted, strict=True)
    )
    return Calibration(data, tuple(c for c in cuts if c is not None), inflation or INFLATION["accuracy curves"])


# Root mean square of the standardised errors of past forecasts, assumed with the weight of three origins.
INFLATION = {"accuracy curves": 1.35, "vision curves": 2.0}
