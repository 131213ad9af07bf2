"""Where will this run be at more compute? Forecasts with bands that earlier forecasts of the same run have calibrated.

Promises: the bands are widened by what earlier cuts of the run got wrong that factor ahead (`analysis.predict.ahead`);
where no such cut exists the row says so. Does not promise anything about a run that decays: nothing is claimed past
its data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from analysis.findings import Finding, finding
from analysis.fits.arguments import checked_level, checked_share, checked_window
from analysis.fits.evaluations import Window, evaluations_of, inside
from analysis.fits.fitting import fit
from analysis.fits.reach import TOLERANCE
from analysis.fits.results import FARTHEST, WITHHELD, Fit
from analysis.posteriors.priors import Priors
from analysis.predict.ahead import AVERAGED, CALIBRATED, METHODS, ORIGINS, Calibration, Cut, calibrate, cut_at
from analysis.predict.forecasts import Forecast, Forecasts, Path, Row
from analysis.predict.inflation import checked_inflation
from analysis.schema import Run
from scalerl.runlog import UserError

AT = ("2x", "4x")
GRID = np.concatenate([[1.0, 1.05, 1.1, 1.25], np.geomspace(1.5, FARTHEST, 20)])
FEW, FEW_REACH = 6, 2.0  # fewer evaluations than this carry no forecast further than that
# Past errors this many times what the sigmoid's own band allows (root mean square) are a wrong law, not noise.
MISFIT = 2.0
NOTHING_AHEAD = frozenset({"no-fit", "flat-curve", "decay", "falling-curve", *WITHHELD})
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
        A Fit by the posterior is used as it is, with its axis and window.
    at : str or float, or iterable of these
        Multiples of the last compute (``"2x"``) or computes in the unit of the axis (``100000``).
    x, window, priors
        See `analysis.fit`.
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
    given = [runs] if isinstance(runs, (Run, Fit)) else list(runs)
    if any(not isinstance(g, (Run, Fit)) for g in given):
        raise UserError("forecast takes runs or fits; read files with analysis.read(path)")
    asked = [at] if isinstance(at, (str, float, int)) else list(at)
    if not asked:
        raise UserError("at: nothing to forecast; give multiples such as 2x or computes (--at)")
    wanted = [parsed(a) for a in asked]
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise UserError(f"methods: {', '.join(map(repr, unknown)) or 'none'}; there are {', '.join(METHODS)}")
    level, tolerance = checked_level(level, "posterior") or 0.95, checked_share("tolerance", tolerance)
    assumed = checked_inflation(inflation)
    made = []
    for g in given:
        fitted, own = _fitted(g, x, checked_window(window), priors)
        made.append(_forecast(fitted, own, wanted, tuple(methods), level, tolerance, assumed))
    return made[0] if one else Forecasts(made)


def parsed(at: Any) -> tuple[float, bool]:
    """Return a compute and whether it is a multiple of the last one."""
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([xX]?)\s*", at) if isinstance(at, str) else None
    try:
        value = float(found.group(1)) if found else float(at)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0.0) or isinstance(at, bool):
        raise UserError(f"at: {at!r} is neither a multiple such as 2x nor a compute above 0 (--at)")
    return value, bool(found and found.group(2))


def _fitted(g: Run | Fit, x: str | None, window: Window, priors: Priors | None) -> tuple[Fit, Priors]:
    priors = Priors() if priors is None else priors
    if isinstance(g, Run):
        return fit(g, x=x, window=window, priors=priors), priors
    if g.method == "posterior" and g.level is not None and g.params["R0"].fixed is False:
        return g, priors
    return fit(g.run, x=g.x, window=g.window, priors=priors), priors


def _forecast(  # noqa: PLR0917
    fitted: Fit,
    priors: Priors,
    wanted: Sequence[tuple[float, bool]],
    methods: tuple[str, ...],
    level: float,
    tolerance: float,
    inflation: float,
) -> Forecast:
    last = float(fitted.compute[-1]) if fitted.n else 0.0
    computes = [value * last if times else value for value, times in wanted]
    findings = list(fitted.findings)
    why = next((f for f in fitted.findings if f.code in NOTHING_AHEAD), None)
    cut = past = None
    if why is None and fitted.trusted_draws is not None and last > 0.0:
        data = evaluations_of(fitted.run, fitted.x)
        data = data.some(inside(data.compute, fitted.window))
        averaged = AVERAGED if "average" in methods else ("sigmoid",)
        cut = cut_at(data, draws=fitted.trusted_draws, averaged=averaged)
        past = calibrate(data, inflation=inflation, averaged=averaged, priors=priors)
    if cut is None or past is None:
        findings.append(finding("no-forecast", f"nothing is claimed past the data: {_reason(fitted, why)}"))
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
    paths = {m: _path(cut, past, level, m) for m in methods}
    reach = reach_of(paths[methods[0]], tolerance)
    behind = past.widening(max(reach, GRID[1]), methods[0]).origins
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


def _reason(fitted: Fit, why: Finding | None) -> str:
    why = why or next((f for f in fitted.findings if f.code in {"exact-data", "no-interval"}), None)
    if why is not None:
        return why.message
    return "its compute never leaves 0" if fitted.n and not fitted.compute[-1] > 0.0 else "too little of a curve"


def _unknown(fitted: Fit, C: float, last: float, level: float, method: str) -> Row:
    multiple = C / last if last > 0.0 else math.inf
    return Row(fitted.name, C, multiple, fitted.x, None, None, None, None, None, level, method, False, 0)


def _row(fitted: Fit, cut: Cut, past: Calibration, *, C: float, level: float, method: str) -> Row:
    multiple = C / cut.last
    mid, sd = (float(v[0]) for v in cut.ahead(np.array([C]), method))
    times, _, origins = past.widening(max(multiple, float(GRID[1])), method, level)
    mean, new = times * sd, times * math.hypot(sd, cut.sigma)
    calibrated = origins >= CALIBRATED and multiple > 1.0
    return Row(
        fitted.name, C, multiple, fitted.x, mid, max(mid - new, 0.0), min(mid + new, 1.0), max(mid - mean, 0.0),
        min(mid + mean, 1.0), level, method, calibrated, origins,
    )  # fmt: skip


def _path(cut: Cut, past: Calibration, level: float, method: str) -> Path:
    mid, sd = cut.ahead(GRID * cut.last, method)
    wide = [past.widening(max(float(h), float(GRID[1])), method, level) for h in GRID]
    times = np.array([w.times for w in wide])
    origins = np.array([w.origins for w in wide])
    return Path(GRID, mid, times * sd, times * np.hypot(sd, cut.sigma), origins)


def reach_of(path: Path, tolerance: float) -> float:
    """Largest multiple up to which the band of the mean curve is narrow enough; between grid points linear in ln h."""
    wide = np.flatnonzero(path.half > tolerance)
    if not len(wide):
        return float(path.multiples[-1])
    k = int(wide[0])
    if k == 0:
        return 1.0
    share = (tolerance - path.half[k - 1]) / (path.half[k] - path.half[k - 1])
    return float(np.exp(np.interp(share, [0.0, 1.0], np.log(path.multiples[k - 1 : k + 1]))))


def recipe_reach(fits: Sequence[Fit], tolerance: float = TOLERANCE, level: float = 0.95) -> float | None:
    """Smallest reach of a recipe's seeds by the sigmoid, calibrated on earlier cuts of all of them together.

    Seeds of one recipe are taken to err alike: each is cut `ORIGINS` / seeds times, twice at least. None where a seed
    has no band.
    """
    each = max(2, round(ORIGINS / max(len(fits), 1)))
    alone = ("sigmoid",)
    cuts, pasts = [], []
    for fitted in fits:
        if fitted.trusted_draws is None or any(f.code in NOTHING_AHEAD for f in fitted.findings):
            return None
        data = evaluations_of(fitted.run, fitted.x)
        data = data.some(inside(data.compute, fitted.window))
        cut = cut_at(data, draws=fitted.trusted_draws, averaged=alone)
        if cut is None or not cut.last > 0.0:
            return None
        cuts.append(cut)
        pasts.append(calibrate(data, origins=each, averaged=alone))
    together = [replace(past, others=tuple(o for o in pasts if o is not past)) for past in pasts]
    paths = (_path(cut, past, level, "sigmoid") for cut, past in zip(cuts, together, strict=True))
    return min((reach_of(path, tolerance) for path in paths), default=None)


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
        f"earlier forecasts by the sigmoid {at:g}x ahead missed by {worst:.1f} times what its own band allows: the law "
        f"is wrong here, and the bands are widened for it"
    )
    return [finding("misfit-ahead", what, worst)]
