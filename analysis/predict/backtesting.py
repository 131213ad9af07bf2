"""How good were forecasts of these runs? Each is cut at earlier evaluations, forecast from there, and compared.

Promises: a forecast and its bands rest on the evaluations up to its origin alone; the calibration of an origin on
earlier origins, and on those of their errors that had been seen by then. Does not promise that a run errs ahead as it
erred before, nor that its forecasts are independent: neighbouring origins share most of their evaluations.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from analysis.curves.families import FAMILIES
from analysis.findings import Finding, finding
from analysis.fits.arguments import check_as_fitted, checked_level, checked_share, checked_window
from analysis.fits.evaluations import Evaluations, Window, evaluations_of, inside
from analysis.fits.refits import held_R0, points_of, priors_of
from analysis.fits.results import Fit
from analysis.posteriors.draws import tail
from analysis.posteriors.priors import Priors
from analysis.predict.ahead import CALIBRATED, METHODS, ORIGINS, Calibration, Cut, ahead_of, cut_at, origins_of
from analysis.predict.backtests import Backtest, Drift, Outcome, Score
from analysis.predict.cuts import Fitted, fit_cuts
from analysis.predict.inflation import checked_inflation
from analysis.schema import Run, one_of_each
from scalerl.runlog import UserError

HORIZONS = (1.5, 2.0, 4.0)
MOST_ORIGINS = 20
BASELINES = ("last_value", "log_linear")
# The law by least squares, beside its posterior, which is the method "sigmoid" of a forecast.
NAMES = {name: "sigmoid_lsq" if name == "sigmoid" else name for name in FAMILIES}
ALL_METHODS = (*METHODS, *NAMES.values())


def backtest(
    runs: Run | Fit | Iterable[Run | Fit],
    horizons: float | Iterable[float] = HORIZONS,
    *,
    origins: int = MOST_ORIGINS,
    x: str | None = None,
    window: Window = (None, None),
    level: float = 0.95,
    inflation: str | float = "accuracy curves",
    priors: Priors | None = None,
) -> Backtest:
    """Forecast runs from earlier evaluations and compare with what came.

    Parameters
    ----------
    runs : Run, Fit, or iterable of these
        A Fit with its axis, window, R0 and priors.
    horizons : float or iterable of float
        Multiples of the compute of the origin, above 1. The evaluation nearest to one in ln compute stands for it,
        where there is one within a quarter of the way, or a third beyond.
    origins : int
        Evaluations to forecast from, at most, evenly in ln compute; none before the fifth.
    x, window, priors
        See `analysis.fit`; a Fit has its own axis and window, and others than these are refused.
    level : float
        Of the bands and of the limits of A.
    inflation : {"accuracy curves", "vision curves"} or float
        See `analysis.forecast`.

    Returns
    -------
    Backtest
        Of every method: ``average`` and ``sigmoid`` as `analysis.forecast` has them, with bands, and each family of
        `analysis.curves.families` by least squares on the evaluations after compute 0 (``sigmoid_lsq`` is the law). A
        family makes no forecast from as few evaluations as it has free parameters.

    Raises
    ------
    UserError
        If an argument makes no sense, an axis is not there, or two runs have one name.

    Notes
    -----
    At most nine of the earlier origins calibrate a band, as in `analysis.forecast`.

    Examples
    --------
    >>> import analysis as an
    >>> test = an.backtest(an.read("data/paper/scalerl_8b_bs2048_100k.csv"), 2)
    >>> best = test.scores[0]
    >>> best.horizon, best.forecasts >= 10, best.mean_error < 0.02, best.skill_last_value > 0.3
    (2.0, True, True, True)
    """
    given = _runs(runs)
    asked = _horizons(horizons)
    most = _count(origins)
    window, level = checked_window(window), checked_share("level", checked_level(level, "posterior"))
    assumed = checked_inflation(inflation)
    rows: list[Outcome] = []
    drift: list[Drift] = []
    findings: dict[str, tuple[Finding, ...]] = {}
    points, axes = {}, {}
    for g in given:
        run = g.run if isinstance(g, Fit) else g
        if isinstance(g, Fit):
            check_as_fitted(g, x=x, window=window)
        axis = g.x if isinstance(g, Fit) else run.axes[0] if x is None else x
        if axis not in run.axes:
            raise UserError(f"{run.name}: no compute axis {axis!r}; it has {', '.join(run.axes)}")
        before = len(rows)
        if isinstance(g, Fit):
            data = points_of(g)
            past = _Past.of(data, most, priors_of(g) if priors is None else priors, held_R0(g))
        else:
            data = evaluations_of(run, axis)
            data = data.some(inside(data.compute, window))
            past = _Past.of(data, most, priors)
        rows += _forecasts(past, run.name, axis, asked, level, assumed)
        drift += [_drift(cut, run.name, level) for cut in past.cuts if cut is not None]
        points[run.name], axes[run.name] = np.stack([data.compute, data.pass_rate], axis=1), axis
        findings[run.name] = (*run.findings, *([] if len(rows) > before else [_nothing(run, data, asked)]))
    return Backtest(
        tuple(rows), _scores(rows, asked), tuple(drift), MappingProxyType(points), MappingProxyType(axes), asked,
        level, assumed, MappingProxyType(findings),
    )  # fmt: skip


class _Past(NamedTuple):
    """A run as it stood at each origin."""

    data: Evaluations
    places: list[int]
    fitted: list[Fitted]
    cuts: list[Cut | None]

    @staticmethod
    def of(data: Evaluations, origins: int, priors: Priors | None, r0: float | None = None) -> _Past:
        places = origins_of(data.compute, origins)
        fitted = fit_cuts(data, places, FAMILIES)
        cuts = [cut_at(data, n, priors=priors, r0=r0, fitted=own) for n, own in zip(places, fitted, strict=True)]
        return _Past(data, places, fitted, cuts)

    def calibration(self, k: int, inflation: float) -> Calibration:
        """What was known at the kth origin of the errors of earlier ones."""
        seen = self.data.some(np.arange(len(self.data.compute)) < self.places[k])
        earlier = [cut for cut in self.cuts[:k] if cut is not None]
        if len(earlier) > ORIGINS:
            earlier = [earlier[i] for i in np.linspace(0, len(earlier) - 1, ORIGINS).round().astype(int)]
        return Calibration(seen, tuple(earlier), inflation)


def _forecasts(  # noqa: PLR0917
    past: _Past, name: str, x: str, horizons: Sequence[float], level: float, inflation: float
) -> list[Outcome]:
    compute, rate = past.data.compute, past.data.pass_rate
    z = float(ndtri(1.0 - tail(level)))
    rows = []
    for k, (n, fitted, cut) in enumerate(zip(past.places, past.fitted, past.cuts, strict=True)):
        last, known = float(compute[n - 1]), past.calibration(k, inflation)
        for horizon in horizons:
            if (j := ahead_of(compute, n, horizon)) is None:
                continue
            at, observed = float(compute[j]), float(rate[j])
            where = (name, n, last, horizon, at, at / last, x)
            if cut is not None:
                for method in METHODS:
                    mid, sd = cut.at(at, method)
                    new, wide = math.hypot(sd, cut.sigma), known.widening(horizon, method, level)
                    bands = (*_band(mid, z * new), *_band(mid, wide.times * new))
                    enough = wide.origins >= CALIBRATED
                    rows.append(Outcome(*where, method, mid, observed, mid - observed, *bands, enough, wide.origins))
            for family, (vector, _) in fitted.items():
                told = float(np.clip(FAMILIES[family].value(at, vector), 0.0, 1.0))
                error = told - observed
                rows.append(Outcome(*where, NAMES[family], told, observed, error, None, None, None, None, False, 0))
    return rows


def _band(mid: float, half: float) -> tuple[float, float]:
    return max(mid - half, 0.0), min(mid + half, 1.0)


def _drift(cut: Cut, name: str, level: float) -> Drift:
    low = tail(level)
    lo, mid, hi = (float(v) for v in cut.draws.quantile(cut.draws.A, [low, 0.5, 1.0 - low]))
    grade = float(cut.draws.weight @ (cut.last > 2.0 * cut.draws.C_mid))
    return Drift(name, cut.n, cut.last, mid, lo, hi, min(grade, 1.0))


def _scores(rows: Sequence[Outcome], horizons: Sequence[float]) -> tuple[Score, ...]:
    by: dict[tuple[float, str], list[Outcome]] = defaultdict(list)
    for row in rows:
        by[row.horizon, row.method].append(row)
    baselines = {
        name: {(row.run, row.n, row.horizon): abs(row.error) for row in rows if row.method == name}
        for name in BASELINES
    }
    found = []
    for horizon in horizons:
        mine = [
            _score(horizon, method, by[horizon, method], baselines) for method in ALL_METHODS if by[horizon, method]
        ]
        most = max((score.forecasts for score in mine), default=0)
        found += sorted(mine, key=lambda score: (score.forecasts < most, score.mean_error))
    return tuple(found)


def _score(
    horizon: float, method: str, rows: Sequence[Outcome], baselines: dict[str, dict[tuple[str, int, float], float]]
) -> Score:
    errors = np.array([row.error for row in rows])
    calibrated = [row for row in rows if row.calibrated]
    own_coverage, own_width = _held(rows, own=True)
    coverage, width = _held(rows)
    calibrated_coverage, calibrated_width = _held(calibrated)
    return Score(
        horizon=horizon,
        method=method,
        forecasts=len(rows),
        runs=len({row.run for row in rows}),
        mean_error=float(np.abs(errors).mean()),
        median_error=float(np.median(np.abs(errors))),
        bias=float(errors.mean()),
        skill_last_value=_skill(rows, baselines["last_value"]),
        skill_log_linear=_skill(rows, baselines["log_linear"]),
        own_coverage=own_coverage,
        own_width=own_width,
        coverage=coverage,
        width=width,
        calibrated=len(calibrated),
        calibrated_coverage=calibrated_coverage,
        calibrated_width=calibrated_width,
    )


def _skill(rows: Sequence[Outcome], baseline: dict[tuple[str, int, float], float]) -> float | None:
    """1 less the ratio of the absolute errors, on the forecasts that both made."""
    pairs = [(abs(row.error), baseline[key]) for row in rows if (key := (row.run, row.n, row.horizon)) in baseline]
    own, other = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return 1.0 - own / other if other > 0.0 else None


def _held(rows: Sequence[Outcome], *, own: bool = False) -> tuple[float | None, float | None]:
    """Share of evaluations in the band, and its median width."""
    bands = [(row.own_lo, row.own_hi, row.observed) if own else (row.lo, row.hi, row.observed) for row in rows]
    known = np.array([(lo, hi, y) for lo, hi, y in bands if lo is not None and hi is not None])
    if not len(known):
        return None, None
    lo, hi, y = known.T
    return float(((lo <= y) & (y <= hi)).mean()), float(np.median(hi - lo))


def _nothing(run: Run, data: Evaluations, horizons: Sequence[float]) -> Finding:
    what = f"{run.name}: {len(data.compute)} evaluations hold no forecast to test {min(horizons):g}x ahead or further"
    return finding("not-backtested", what)


def _runs(given: Any) -> list[Run | Fit]:
    runs = [given] if isinstance(given, (Run, Fit)) else list(given) if isinstance(given, Iterable) else [given]
    if isinstance(given, str) or any(not isinstance(run, (Run, Fit)) for run in runs):
        raise UserError("backtest takes runs or fits; read files with analysis.read(path)")
    if not runs:
        raise UserError("backtest: there is no run to test")
    one_of_each(run.name for run in runs)
    return runs


def _count(origins: Any) -> int:
    if isinstance(origins, bool) or not isinstance(origins, Integral) or origins < 1:
        raise UserError(f"origins: {origins!r} is not a whole number of at least 1 (--origins)")
    return int(origins)


def _horizons(given: Any) -> tuple[float, ...]:
    try:
        values = tuple(sorted({float(h) for h in given} if isinstance(given, Iterable) else {float(given)}))
    except (TypeError, ValueError):
        raise UserError(f"horizons: {given!r} is no multiple of the compute, above 1 (--horizon)") from None
    wrong = [h for h in values if not (math.isfinite(h) and h > 1.0)]
    if wrong or not values:
        what = f"{wrong[0]:g} is no multiple" if wrong else "give at least one multiple"
        raise UserError(f"horizons: {what} of the compute, above 1 (--horizon)")
    return values
