"""Fit the law to runs: pick the points, have them estimated, and report how.

Promises: the input is not changed; the answer does not depend on the order of the rows or on the unit of compute. The
methods are in `analysis.fits.methods`, what is said of their answers in `analysis.fits.estimating`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from analysis.curves.leastsquares import NAMES
from analysis.curves.solver import Array
from analysis.findings import Finding, finding
from analysis.fits import doubts
from analysis.fits import reach as reaching
from analysis.fits.arguments import (
    check_read,
    checked_jobs,
    checked_level,
    checked_r0,
    checked_seed,
    checked_share,
    checked_window,
    runs_of,
)
from analysis.fits.bootstrap import KINDS
from analysis.fits.estimates import natural
from analysis.fits.estimating import Options, Result, estimate_points, flat_level
from analysis.fits.evaluations import Mask, Window, evaluations_of, inside
from analysis.fits.methods import METHODS
from analysis.fits.parallel import fit_each
from analysis.fits.refits import only_to_peak
from analysis.fits.results import PARAMETERS, Fit, Fits, Param
from analysis.posteriors.conditional import relative_log
from analysis.posteriors.priors import Priors
from analysis.readers import regimes
from analysis.schema import Run
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from analysis.pooled.grouped import GroupFits


@overload
def fit(
    runs: Run,
    *,
    x: str | None = ...,
    method: str = ...,
    r0: str | float = ...,
    window: Window = ...,
    level: float | None = ...,
    priors: Priors | None = ...,
    seed: int = ...,
    resample: str | None = ...,
    correlated: bool | None = ...,
    up_to_peak: bool = ...,
    up_to_spent: bool = ...,
    prompts: str = ...,
    tolerance: float = ...,
    jobs: int | None = ...,
) -> Fit: ...
@overload
def fit(
    runs: Any,
    *,
    by: str | Mapping[str, float],
    share: str | Sequence[str] = ...,
    following: float | None = ...,
    x: str | None = ...,
    window: Window = ...,
    level: float | None = ...,
) -> GroupFits: ...
@overload
def fit(
    runs: Iterable[Run],
    *,
    x: str | None = ...,
    method: str = ...,
    r0: str | float = ...,
    window: Window = ...,
    level: float | None = ...,
    priors: Priors | None = ...,
    seed: int = ...,
    resample: str | None = ...,
    correlated: bool | None = ...,
    up_to_peak: bool = ...,
    up_to_spent: bool = ...,
    prompts: str = ...,
    tolerance: float = ...,
    jobs: int | None = ...,
) -> Fits: ...
def fit(
    runs: Any,
    *,
    by: str | Mapping[str, float] | None = None,
    share: str | Sequence[str] | None = None,
    following: float | None = None,
    x: str | None = None,
    method: str = "posterior",
    r0: str | float = "free",
    window: Window = (None, None),
    level: float | None = 0.95,
    priors: Priors | None = None,
    seed: int = 0,
    resample: str | None = None,
    correlated: bool | None = None,
    up_to_peak: bool = False,
    up_to_spent: bool = False,
    prompts: str = "fixed",
    tolerance: float = reaching.TOLERANCE,
    jobs: int | None = None,
) -> Fit | Fits | GroupFits:
    """Fit R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B) to each run.

    Parameters
    ----------
    runs : Run or iterable of Run
        As `analysis.read` returns them.
    by, share, following : optional
        Fit groups, test what they share and predict the next size: see `analysis.fit_groups`, which takes a table, too.
        Of the other arguments groups take `x`, `window` and `level`.
    x : str, optional
        Compute axis; by default the first that the run has, ``gpu_hours`` for a run folder.
    method : {"posterior", "profile", "bootstrap", "lsq", "paper"}
        Where values and limits come from. Posterior: medians and quantiles, correlated noise accounted for.
        Profile: generalised least squares with limits from the F profile under AR(1) noise. Bootstrap: least squares
        with percentiles of refits. Lsq: least squares with standard errors. Paper: the published grid, without limits.
    r0 : {"free", "first", "shared"} or float
        Fit R0, pin it to the run's first evaluation (which then leaves the fit), or to a fraction. Shared: runs from
        one checkpoint, evaluated on the same prompts, inform one R0 (`analysis.share_R0`).
    window : (from, to)
        Use the points with from <= C <= to, in the unit of `x`; None is open.
    level : float or None
        Level of the limits; None gives the least squares curve without limits, which is faster.
    priors : Priors, optional
        Of the posterior, which alone reads them; the report of the fit states them.
    seed : int
        Of the draws.
    resample : {"sieve", "residual", "block"}, optional
        What the bootstrap draws, which alone reads it; the sieve unless said.
    correlated : bool, optional
        Whether the profile, which alone reads it, takes the noise as AR(1) or as independent; AR(1) unless said.
    up_to_peak : bool
        Where the run decays, fit the points up to its peak; nothing is claimed past it then.
    up_to_spent : bool
        Where the train prompts of the run run out, fit the points up to there: half of them are retired, or most
        updates find nothing to learn from. What is said past it is what a run with prompts enough would do.
    prompts : {"fixed", "sample"}
        Whether the limits of the posterior hold for the evaluation prompts of the run, or also hold what another sample
        of such prompts would change. Asks for the counts of each prompt in the log.
    tolerance : float
        Half-width of the band that ends the reach.
    jobs : int, optional
        Fit several runs in so many processes, -1 for one a core, with the same results in the same order; needs joblib
        (``pip install 'scalerl[parallel]'``). Within ``joblib.parallel_config(backend="ray")`` or ``"dask"``: on a
        cluster.

    Returns
    -------
    Fit, Fits or GroupFits
        A Fit for a Run, otherwise Fits; GroupFits with `by`. A run that cannot be fitted has parameters without values
        and an error among its findings.

    Raises
    ------
    UserError
        If the axis is not there, or an option makes no sense or is one that the method does not read.

    Notes
    -----
    Law: arXiv 2510.13786, equation 1. Methods and what they cover: ``docs/methods.md``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from analysis.curves.curve import R
    >>> from analysis.readers.logs import read
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
    >>> rows = [f"{c},{R(c, R0=0.1, A=0.7, B=1.5, C_mid=2.0):.17f}" for c in range(9)]
    >>> _ = file.write_text("\\n".join(["gpu_hours,accuracy", *rows]))
    >>> fitted = fit(read(file)["mine"])
    >>> round(fitted.params["A"].value, 9), [f.code for f in fitted.findings]
    (0.7, ['exact-data'])
    """
    if by is not None:
        from analysis.pooled.groups import SHARED, fit_groups  # it fits through this module

        own = {
            "method": (method, "posterior"),
            "r0": (r0, "free"),
            "priors": (priors, None),
            "up_to_peak": (up_to_peak, False),
            "up_to_spent": (up_to_spent, False),
            "prompts": (prompts, "fixed"),
            "jobs": (jobs, None),
            "seed": (seed, 0),
            "resample": (resample, None),
            "correlated": (correlated, None),
            "tolerance": (tolerance, reaching.TOLERANCE),
        }
        if level is None:
            raise UserError("by: groups have limits; level None is not read there")
        if changed := [name for name, (value, default) in own.items() if value != default]:
            raise UserError(f"by: groups are fitted as they come; {', '.join(changed)} is not read there")
        share = SHARED if share is None else share
        return fit_groups(runs, by=by, share=share, following=following, x=x, window=window, level=level)
    if share is not None or following is not None:
        raise UserError("share, following: read together with `by` alone; runs that share parameters: fit_shared")
    given = runs_of(runs)
    for name, value, options in (
        ("method", method, tuple(METHODS)),
        ("resample", resample, (None, *KINDS)),
        ("prompts", prompts, ("fixed", "sample")),
    ):
        if value not in options:
            raise UserError(f"{name}: {value!r} is none of {', '.join(filter(None, options))}")
    check_read(method, priors=priors, resample=resample, correlated=correlated)
    window, seed, tolerance = checked_window(window), checked_seed(seed), checked_share("tolerance", tolerance)
    level, jobs = checked_level(level, method), checked_jobs(jobs)
    if priors is not None and not isinstance(priors, Priors):
        raise UserError("priors: not an analysis.Priors")
    priors = Priors() if priors is None else priors
    if isinstance(r0, str) and r0 == "shared":
        from analysis.fits.starts import share_R0  # it fits through this module

        if isinstance(given, Run):
            raise UserError(f"r0: 'shared' asks for several runs; {given.name} is one (--r0)")
        return share_R0(
            given,
            x=x,
            method=method,
            window=window,
            level=level,
            seed=seed,
            prompts=prompts,
            up_to_peak=up_to_peak,
            up_to_spent=up_to_spent,
            tolerance=tolerance,
            priors=priors,
            jobs=jobs,
        )
    chosen = Options(
        x, method, checked_r0(r0), window, level, priors, seed, resample or KINDS[0], correlated is not False,
        up_to_peak, up_to_spent, prompts, tolerance,
    )  # fmt: skip
    if isinstance(given, Run):
        return _fit_run(given, chosen)
    return Fits(fit_each(_fit_run, given, [(run, chosen) for run in given], jobs))


def _fit_run(run: Run, options: Options) -> Fit:
    x = run.axes[0] if options.x is None else options.x
    if x not in run.axes:
        raise UserError(f"{run.name}: no compute axis {x!r}; it has {', '.join(run.axes)}")
    spent = regimes.spent_at(run.events, x) if options.up_to_spent else math.inf
    if spent < min(float(np.max(run.data[x])), math.inf if options.window[1] is None else options.window[1]):
        cut = _fit_run(run, replace(options, window=(options.window[0], spent), up_to_spent=False))
        what = f"fitted up to {spent:.4g} {x}, where its prompts run out, as asked; past it this run may stop below A"
        return replace(cut, findings=(*cut.findings, finding("spent-fit", what, spent)))
    fitted = _fit_window(run, x, options)
    decay = next((f for f in fitted.findings if f.code == "decay"), None)
    if decay is None or decay.figure is None or not options.up_to_peak:
        return fitted
    peak = decay.figure
    again = _fit_window(run, x, replace(options, window=(options.window[0], peak)))
    what = f"fitted up to the peak at {peak:.4g} {x} as asked; nothing is claimed past it ({decay.message})"
    said = finding("peak-fit", what, peak)
    return only_to_peak(again, said)


def _fit_window(run: Run, x: str, options: Options) -> Fit:
    data = evaluations_of(run, x)
    use = inside(data.compute, options.window)
    # Wall time on a busy machine is a doubt about gpu_hours alone.
    findings = [f for f in run.findings if f.code != "busy-machine" or x == "gpu_hours"]
    if not use.all():
        findings.append(
            finding("window", f"{int((~use).sum())} of {len(use)} points lie outside the window", float((~use).sum()))
        )
    pinned, findings_r0, use = _pin(data.compute, data.pass_rate, use, options.r0)
    findings += findings_r0
    points = data.some(use)
    left_out = np.stack([data.compute[~use], data.pass_rate[~use]], axis=1)

    free = 4 if pinned is None else 3
    findings += doubts.of_rows(points.compute, points.pass_rate)
    if len(points.compute):
        findings += regimes.of_window(run.events, x, float(points.compute[0]), float(points.compute[-1]))
    more = "evaluate more checkpoints with --run" if "data_set" in run.data else "evaluate more often"
    of_points = doubts.of_points(len(points.compute), len(np.unique(points.compute)), free, more=more)
    findings += of_points
    if any(f.severity == "error" for f in of_points):
        params = {name: Param(None, None, None, identified=False, why="nothing fitted") for name in PARAMETERS}
        result = Result(params, ())
    elif np.ptp(points.pass_rate) <= 1e-12:
        result = flat_level(float(points.pass_rate[0]), pinned)
    else:
        result = estimate_points(points, pinned, x, options)
    made = Fit(
        run=run,
        x=x,
        method=options.method if options.level is not None else "lsq",
        level=options.level,
        params=MappingProxyType({name: result.params[name] for name in PARAMETERS}),
        compute=points.compute,
        pass_rate=points.pass_rate,
        left_out=left_out,
        window=options.window,
        findings=(*findings, *result.findings),
        reach=result.reach,
        grade=result.grade,
        tolerance=options.tolerance,
        draws=result.draws,
        noise=MappingProxyType(result.noise),
        evaluation_sd=None if points.variance is None else np.sqrt(points.variance),
        A_population=result.A_population,
        priors=options.priors,
        r0=options.r0,
    )
    return replace(made, report=MappingProxyType(_report(made, result, options)))


def _report(made: Fit, result: Result, options: Options) -> dict[str, Any]:
    """The checklist of a fit report."""
    dropped = [f.message for f in made.findings if f.code in {"rows-empty", "rows-dropped", "window", "r0-pinned"}]
    report: dict[str, Any] = {
        "equation": "R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B), arXiv 2510.13786, equation 1",
        "free parameters": [name for name, p in made.params.items() if not p.fixed],
        "unit of x": made.x,
        "points used": made.n,
        "points dropped": dropped,
        "method": result.how or made.method,
        **result.report,
        "versions": _versions("scalerl", "numpy", "scipy") | {"python": platform.python_version()},
    }
    if result.box is not None:
        unit = np.array([0.0, 0.0, 0.0, relative_log(made.compute)[1]])
        low, high = natural(result.box.low + unit), natural(result.box.high + unit)
        held = {name for name, p in made.params.items() if p.fixed}
        report["bounds"] = {
            n: f"held at {low[n]:.4g}" if n in held else f"{low[n]:.4g} to {high[n]:.4g}" for n in NAMES
        }
    report["priors"] = options.priors.to_dict() if made.method == "posterior" else "none"
    report["level"], report["seed"] = made.level, options.seed
    return report


def _versions(*names: str) -> dict[str, str]:
    """Of packages; a checkout that was never installed has none."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _pin(compute: Array, pass_rate: Array, use: Mask, r0: str | float) -> tuple[float | None, list[Finding], Mask]:
    """The value R0 is held at, if any, and which points are left to fit."""
    if r0 == "free":
        return None, [], use
    if r0 != "first":
        value = float(r0)
        return (
            value,
            [finding("r0-pinned", f"R0 is held at {value:g}; the intervals do not hold its error", value)],
            use,
        )
    first = compute == compute[0]
    value = float(pass_rate[first].mean())
    what = f"R0 is held at the first evaluation ({value:.4g} at {compute[0]:g}); the intervals do not hold its error"
    # That evaluation says nothing more about the curve; counted as a point it would narrow the intervals.
    return value, [finding("r0-pinned", what, value)], use & ~first
