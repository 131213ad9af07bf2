"""Where will this run be at more compute? Forecasts with bands that earlier forecasts of the same run have calibrated.

Promises: the bands are widened by what earlier cuts of the run got wrong that factor ahead (`analysis.predict.ahead`);
where no such cut exists the row says so. Does not promise anything about a run that decays: nothing is claimed past
its data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import overload

import numpy as np

from analysis.findings import Finding, finding
from analysis.fits.arguments import (
    check_as_fitted,
    checked_limits,
    checked_share,
    checked_window,
    compute_at,
    parsed,
    several,
)
from analysis.fits.evaluations import Window
from analysis.fits.fitting import fit
from analysis.fits.reach import TOLERANCE
from analysis.fits.refits import held_R0, points_of, posterior_fit, priors_of, runs_or_fits
from analysis.fits.results import Fit
from analysis.posteriors.priors import Priors
from analysis.predict.ahead import AVERAGED, CALIBRATED, METHODS, Calibration, Cut, calibrate, cut_at
from analysis.predict.forecasts import Forecast, Forecasts, Row
from analysis.predict.inflation import checked_inflation
from analysis.predict.reaches import FEW, FEW_REACH, NEXT, nothing_because, path_of, reach_of
from analysis.schema import Run
from scalerl.runlog import UserError

AT = ("2x", "4x")
# Past errors this many times what the sigmoid allowed for (root mean square) are said.
MISFIT = 2.0
At = str | float


@overload
def forecast(
    runs: Run | Fit,
    at: At | Iterable[At] = ...,
    *,
    x: str | None = ...,
    window: Window = ...,
    methods: Sequence[str] = ...,
    level: float = ...,
    tolerance: float = ...,
    inflation: str | float = ...,
    priors: Priors | None = ...,
) -> Forecast: ...
@overload
def forecast(
    runs: Iterable[Run | Fit],
    at: At | Iterable[At] = ...,
    *,
    x: str | None = ...,
    window: Window = ...,
    methods: Sequence[str] = ...,
    level: float = ...,
    tolerance: float = ...,
    inflation: str | float = ...,
    priors: Priors | None = ...,
) -> Forecasts: ...
def forecast(
    runs: Run | Fit | Iterable[Run | Fit],
    at: At | Iterable[At] = AT,
    *,
    x: str | None = None,
    window: Window = (None, None),
    methods: Sequence[str] = METHODS,
    level: float = 0.95,
    tolerance: float = TOLERANCE,
    inflation: str | float = "accuracy curves",
    priors: Priors | None = None,
) -> Forecast | Forecasts:
    """Forecast the pass rate of runs at more compute.

    Parameters
    ----------
    runs : Run, Fit, or iterable of these
        A Fit is used with its axis, window, R0 and priors; one of another method is fitted again by the posterior.
    at : str or float, or iterable of these
        Multiples of the last compute (``"2x"``) or computes in the unit of the axis (``100000``).
    x, window, priors
        See `analysis.fit`; a Fit has its own axis and window, and others than these are refused.
    methods : sequence of {"average", "sigmoid"}
        The average of the predictions of four families, and the law alone; the reach is read from the first.
    level : float
        Of the bands.
    tolerance : float
        Half-width of the band of the mean curve that ends the reach.
    inflation : {"accuracy curves", "vision curves"} or float
        Root mean square of the standardised errors of past forecasts that is assumed beforehand, with the weight of
        three origins. `measure_inflation` gives that of runs of your own.

    Returns
    -------
    Forecast or Forecasts
        A Forecast for one run, otherwise Forecasts. Where nothing can be said a row has no pass rate, and a finding
        says why.

    Raises
    ------
    UserError
        If an argument makes no sense, or the axis is not there.

    Notes
    -----
    Bands reach t(3 + m) lambda standard deviations to either side, lambda^2 = (3 inflation^2 + sum of squared
    standardised errors) / (3 + m), m earlier cuts that far back. Figures: ``docs/evidence.md``.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> early = forecast(run, 100e3, window=(None, 20e3)).rows[0]
    >>> early.calibrated, early.mean_lo < 0.64 < early.mean_hi
    (False, True)
    >>> forecast(run, "2x", window=(None, 30e3)).rows[0].calibrated
    True
    """
    one = isinstance(runs, (Run, Fit))
    given, asked, methods = runs_or_fits(runs, "forecast"), several("at", at), several("methods", methods)
    if not asked:
        raise UserError("at: nothing to forecast; give multiples such as 2x or computes (--at)")
    for one_at in asked:
        parsed(one_at)
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise UserError(f"methods: {', '.join(map(repr, unknown)) or 'none'}; there are {', '.join(METHODS)}")
    level, tolerance = checked_limits(level), checked_share("tolerance", tolerance)
    assumed, window = checked_inflation(inflation), checked_window(window)
    made = []
    for g in given:
        if isinstance(g, Fit):
            check_as_fitted(g, x=x, window=window)
        fitted = posterior_fit(g, priors) if isinstance(g, Fit) else fit(g, x=x, window=window, priors=priors)
        made.append(_forecast(fitted, asked, tuple(methods), level, tolerance, assumed))
    return made[0] if one else Forecasts(made)


def _forecast(  # noqa: PLR0917
    fitted: Fit,
    wanted: Sequence[At],
    methods: tuple[str, ...],
    level: float,
    tolerance: float,
    inflation: float,
) -> Forecast:
    last = float(fitted.compute[-1]) if fitted.n else 0.0
    computes = [compute_at(at, last) for at in wanted]
    findings = list(fitted.findings)
    why = fitted.nothing_ahead
    cut = past = None
    if why is None and fitted.trusted_draws is not None and last > 0.0:
        data = points_of(fitted)
        averaged = AVERAGED if "average" in methods else ("sigmoid",)
        cut = cut_at(data, draws=fitted.trusted_draws, averaged=averaged)
        past = calibrate(data, inflation=inflation, averaged=averaged, priors=priors_of(fitted), r0=held_R0(fitted))
    if cut is None or past is None:
        findings.append(finding("no-forecast", f"nothing is claimed past the data: {nothing_because(fitted)}"))
        rows = tuple(_unknown(fitted, C, last, level, m) for C in computes for m in methods)
        return Forecast(
            fitted, rows, MappingProxyType({}), MappingProxyType({}), None, 0, tolerance, inflation, tuple(findings)
        )
    few = len(data.compute) < FEW and any(FEW_REACH * last < C for C in computes)
    if few:
        findings.append(
            finding("no-forecast", f"{len(data.compute)} evaluations carry no forecast past {FEW_REACH:g}x")
        )
    rows = tuple(
        _unknown(fitted, C, last, level, m)
        if few and FEW_REACH * last < C
        else _row(fitted, cut, past, C=C, level=level, method=m)
        for C in computes
        for m in methods
    )
    inner = [C for C in computes if last > C]
    if inner:
        what = (
            f"{', '.join(f'{C:.4g}' for C in inner)} {fitted.x} lies inside the data: the fitted curve, not a forecast"
        )
        findings.append(finding("inside-data", what))
    findings += _misfit(past)
    paths = {m: path_of(cut, past, level, m) for m in methods}
    reach, behind = reach_of(paths[methods[0]], past, tolerance, methods[0])
    weights = cut.weights if "average" in methods else {}
    return Forecast(
        fitted,
        rows,
        MappingProxyType(paths),
        MappingProxyType(dict(weights)),
        reach,
        behind,
        tolerance,
        inflation,
        tuple(findings),
    )


def _unknown(fitted: Fit, C: float, last: float, level: float, method: str) -> Row:
    multiple = C / last if last > 0.0 else None
    return Row(fitted.name, C, multiple, fitted.x, None, None, None, None, None, level, method, False, 0)


def _row(fitted: Fit, cut: Cut, past: Calibration, *, C: float, level: float, method: str) -> Row:
    multiple = C / cut.last
    mid, sd = (float(v[0]) for v in cut.ahead(np.array([C]), method))
    wide = past.widening(max(multiple, NEXT), method, level)
    mean, new, origins = wide.times * sd, wide.times * math.hypot(sd, cut.sigma), wide.origins
    calibrated = origins >= CALIBRATED and multiple > 1.0
    return Row(
        fitted.name, C, multiple, fitted.x, mid, max(mid - new, 0.0), min(mid + new, 1.0), max(mid - mean, 0.0),
        min(mid + mean, 1.0), level, method, calibrated, origins,
    )  # fmt: skip


def _misfit(past: Calibration) -> list[Finding]:
    """Past forecasts of the sigmoid that its own band did not hold."""
    worst, at = 0.0, 0.0
    for factor in (1.25, 1.5, 2.0, 3.0, 4.0):
        errors = past.errors(factor, "sigmoid")
        rms = float(np.sqrt((errors**2).mean())) if len(errors) >= CALIBRATED else 0.0
        worst, at = (rms, factor) if rms > worst else (worst, at)
    if worst < MISFIT:
        return []
    what = (
        f"earlier forecasts by the sigmoid {at:g}x ahead missed by {worst:.1f} times what they allowed for, so the "
        f"bands are widened"
    )
    return [finding("misfit-ahead", what, worst)]
