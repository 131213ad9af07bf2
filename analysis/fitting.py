"""Fit the law to runs: pick the points, ask a method for values and limits, and attach every doubt.

Promises: the input is not changed; the answer does not depend on the order of the rows or on the unit of compute; a
limit that the data do not give is None, with a finding. The methods are in `analysis.methods`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from analysis import decays, doubts, leastsquares, misfits, regimes
from analysis import reach as reaching
from analysis.bootstrap import KINDS
from analysis.findings import Finding, finding
from analysis.leastsquares import NAMES, Box, Problem
from analysis.methods import METHODS, Estimate, Points, natural, standard_errors
from analysis.noise import evaluation_variance, prompt_variance
from analysis.posterior import Priors, relative_log
from analysis.results import PARAMETERS, Fit, Fits, Param
from analysis.schema import Run
from analysis.solver import Array
from scalerl.runlog import UserError

EXACT_RMS = 1e-11  # residuals below this are rounding, not noise
CEILING_MARGIN = 0.005  # an upper limit of A this close to the ceiling is the ceiling's, not the data's
LAST_EVALUATIONS = 5  # whose prompts' rates give the variance between prompts
# Findings that leave no parameter identified, and the reason given; of several the first here. A collapse can make the
# fitted curve fall, and a curve that is no better than a constant can do either by chance.
SPOILT = {
    "flat-curve": "the curve is flat",
    "decay": "the run decays",
    "falling-curve": "the curve falls",
    "peak-fit": "fitted up to the peak only",
}

Window = tuple[float | None, float | None]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Options:
    """How to fit, checked; see `fit`."""

    x: str | None
    method: str
    r0: str | float
    window: Window
    level: float | None
    priors: Priors
    seed: int
    resample: str
    correlated: bool
    up_to_peak: bool
    prompts: str
    tolerance: float


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
    resample: str = ...,
    correlated: bool = ...,
    up_to_peak: bool = ...,
    prompts: str = ...,
    tolerance: float = ...,
) -> Fit: ...
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
    resample: str = ...,
    correlated: bool = ...,
    up_to_peak: bool = ...,
    prompts: str = ...,
    tolerance: float = ...,
) -> Fits: ...
def fit(
    runs: Run | Iterable[Run],
    *,
    x: str | None = None,
    method: str = "posterior",
    r0: str | float = "free",
    window: Window = (None, None),
    level: float | None = 0.95,
    priors: Priors | None = None,
    seed: int = 0,
    resample: str = "sieve",
    correlated: bool = True,
    up_to_peak: bool = False,
    prompts: str = "fixed",
    tolerance: float = reaching.TOLERANCE,
) -> Fit | Fits:
    """Fit R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B) to each run.

    Parameters
    ----------
    runs : Run or iterable of Run
        As `analysis.read` returns them.
    x : str, optional
        Compute axis; by default the first that the run has, ``gpu_hours`` for a run folder.
    method : {"posterior", "profile", "bootstrap", "lsq", "paper"}
        Where values and limits come from. Posterior: medians and quantiles, correlated noise accounted for.
        Profile: least squares with limits from the F profile under AR(1) noise. Bootstrap: percentiles of refits. Lsq:
        least squares with standard errors. Paper: the published grid, without limits.
    r0 : {"free", "first"} or float
        Fit R0, pin it to the run's first evaluation (which then leaves the fit), or to a fraction.
    window : (from, to)
        Use the points with from <= C <= to, in the unit of `x`; None is open.
    level : float or None
        Level of the limits; None gives the least squares curve without limits, which is faster.
    priors : Priors, optional
        Of the posterior; the report of the fit states them.
    seed : int
        Of the draws.
    resample : {"sieve", "residual", "block"}
        What the bootstrap draws.
    correlated : bool
        Whether the profile takes the noise as AR(1) or as independent.
    up_to_peak : bool
        Where the run decays, fit the points up to its peak; nothing is claimed past it then.
    prompts : {"fixed", "sample"}
        Whether the limits of the posterior hold for the evaluation prompts of the run, or also hold what another sample
        of such prompts would change. Asks for the counts of each prompt in the log.
    tolerance : float
        Half-width of the band that ends the reach.

    Returns
    -------
    Fit or Fits
        A Fit for a Run, otherwise Fits. A run that cannot be fitted has parameters without values and an error
        among its findings.

    Raises
    ------
    UserError
        If the axis is not there or an option makes no sense.

    Notes
    -----
    Law: arXiv 2510.13786, equation 1. Methods and what they cover: ``docs/methods.md``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from analysis.curve import R
    >>> from analysis.logs import read
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
    >>> rows = [f"{c},{R(c, R0=0.1, A=0.7, B=1.5, C_mid=2.0):.17f}" for c in range(9)]
    >>> _ = file.write_text("\\n".join(["gpu_hours,accuracy", *rows]))
    >>> fitted = fit(read(file)["mine"])
    >>> round(fitted.params["A"].value, 9), [f.code for f in fitted.findings]
    (0.7, ['exact-data'])
    """
    r0, window = _checked(r0, window, level)
    for name, value, options in (
        ("method", method, tuple(METHODS)),
        ("resample", resample, KINDS),
        ("prompts", prompts, ("fixed", "sample")),
    ):
        if value not in options:
            raise UserError(f"{name}: {value!r} is none of {', '.join(options)}")
    if not 0.0 < tolerance < 1.0:
        raise UserError(f"tolerance: {tolerance:g} does not lie between 0 and 1")
    chosen = Options(
        x, method, r0, window, level, Priors() if priors is None else priors, seed, resample, correlated, up_to_peak,
        prompts, tolerance,
    )  # fmt: skip
    if isinstance(runs, Run):
        return _fit_run(runs, chosen)
    return Fits([_fit_run(run, chosen) for run in runs])


def _fit_run(run: Run, options: Options) -> Fit:
    x = run.axes[0] if options.x is None else options.x
    if x not in run.axes:
        raise UserError(f"{run.name}: no compute axis {x!r}; it has {', '.join(run.axes)}")
    fitted = _fit_window(run, x, options)
    decay = next((f for f in fitted.findings if f.code == "decay"), None)
    if decay is None or decay.figure is None or not options.up_to_peak:
        return fitted
    peak = decay.figure
    again = _fit_window(run, x, replace(options, window=(options.window[0], peak)))
    what = f"fitted up to the peak at {peak:.4g} {x} as asked; nothing is claimed past it ({decay.message})"
    said = finding("peak-fit", what, peak)
    why = SPOILT["peak-fit"]
    params = {name: replace(p, identified=False, why=why) for name, p in again.params.items()}
    return replace(
        again,
        findings=(*again.findings, said),
        params=MappingProxyType(params),
        reach=None if again.reach is None else min(again.reach, 1.0),
    )


def _fit_window(run: Run, x: str, options: Options) -> Fit:
    data = _sorted(run, x)
    use = _inside(data.compute, options.window)
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
    of_points = doubts.of_points(len(points.compute), len(np.unique(points.compute)), free)
    findings += of_points
    if any(f.severity == "error" for f in of_points):
        params = {name: Param(None, None, None, identified=False, why="nothing fitted") for name in PARAMETERS}
        result = _Result(params, ())
    elif np.ptp(points.pass_rate) <= 1e-12:
        result = _flat_level(float(points.pass_rate[0]), pinned)
    else:
        result = _estimate(points, pinned, x, options)
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
    )
    return replace(made, report=MappingProxyType(_report(made, result.how, result.box, options)))


@dataclass(frozen=True)
class _Data:
    """Evaluations in order of compute, (n,) each; `variance` from the counts, where all have them."""

    compute: Array
    pass_rate: Array
    time: Array
    variance: Array | None
    correct: tuple[tuple[Array, int], ...]

    def some(self, use: Mask) -> _Data:
        kept = tuple(c for c, keep in zip(self.correct, use, strict=True) if keep) if self.correct else ()
        variance = None if self.variance is None else self.variance[use]
        return _Data(self.compute[use], self.pass_rate[use], self.time[use], variance, kept)


@dataclass(frozen=True)
class _Result:
    """Everything that the points gave."""

    params: dict[str, Param]
    findings: tuple[Finding, ...]
    draws: Any = None
    grade: float | None = None
    reach: float | None = None
    noise: Mapping[str, float | None] = field(default_factory=dict)
    A_population: Param | None = None
    how: str = ""
    box: Box | None = None


def _estimate(data: _Data, pinned: float | None, x: str, options: Options) -> _Result:
    """Values, limits and findings of one set of points that rise or fall."""
    c, y, level = data.compute, data.pass_rate, options.level
    log_c, unit = relative_log(c)  # so that the unit of compute cannot leave a trace
    problem = Problem(log_c, y)
    box = leastsquares.default_box(np.exp(log_c))
    box = replace(box, high=np.concatenate([[1.0, options.priors.ceiling], box.high[2:]]))
    if pinned is not None:
        box = box.fix(0, pinned)
    free = int(box.free.sum())
    dof = problem.n - free
    best = problem.fit(box)
    residual = problem.residual(best.theta)
    flat = doubts.flat(y, best.sse, free)
    exact = math.sqrt(best.sse / problem.n) <= EXACT_RMS
    estimate = Estimate(natural(best.theta), dict.fromkeys(NAMES, (None, None)), how="least squares")
    with_limits = level is not None and dof > 0 and not exact and not flat
    errors: tuple[dict[str, float], dict[str, float]] = ({}, {})
    if with_limits and level is not None:
        points = Points(
            problem, np.exp(log_c), data.time, data.variance, box, best, level, options.seed, options.priors,
            options.resample, options.correlated,
        )  # fmt: skip
        estimate = METHODS[options.method](points)
        errors = standard_errors(points, math.exp(unit))
    estimate = estimate.in_unit(math.exp(unit))
    values = natural(best.theta + np.array([0.0, 0.0, 0.0, unit]))
    params = {
        name: Param(
            estimate.values[name],
            *estimate.limits[name],
            identified=False,
            fixed=not box.free[i],
            se=errors[0].get(name),
            se_observed=errors[1].get(name),
        )
        for i, name in enumerate(NAMES)
    }

    findings = [*decays.decay(c, y, values), *flat]
    if not flat:
        findings += doubts.falling(values)
        if options.method in {"lsq", "profile", "bootstrap", "paper"} or not with_limits:
            findings += doubts.of_optimum(best, box, values, float(c.max()), x)
    if exact and dof > 0:
        findings.append(finding("exact-data", "the points lie on the curve to rounding: no noise, so no interval"))
    elif with_limits:
        findings += estimate.findings
        findings += doubts.of_intervals(params)
        accounts = options.method == "posterior" or (options.method == "profile" and options.correlated)
        findings += doubts.of_residuals(residual, accounts=accounts, rho=estimate.noise.get("rho"))
        findings += misfits.misfit(c, y, values)
        findings += misfits.noise_grows(residual, y + residual)
        findings += misfits.outliers(c, residual, y + residual)
    raised = {f.code for f in findings}
    spoilt = next((why for code, why in SPOILT.items() if code in raised), "")
    judged = _judged(params, estimate, float(c.max()), x, spoilt, options)
    reach = None
    if estimate.draws is not None and "posterior-grid" not in raised:
        low_level = 0.95 if level is None else level
        reach = reaching.reach(estimate.draws, float(c[-1]), tolerance=options.tolerance, level=low_level)
    if estimate.grade is not None and not spoilt:
        findings += reaching.of_grade(estimate.grade)
    judged, population, about_prompts = _prompts(data, judged, estimate, options)
    return _Result(
        judged,
        (*findings, *about_prompts),
        estimate.draws,
        estimate.grade,
        None if reach is None else min(reach, 1.0) if spoilt else reach,
        estimate.noise,
        population,
        estimate.how,
        box,
    )


def _judged(  # noqa: PLR0917
    params: dict[str, Param], estimate: Estimate, last: float, x: str, spoilt: str, options: Options
) -> dict[str, Param]:
    """Set `identified`, and in a few words why not."""
    C_mid, usable = params["C_mid"], estimate.grade is not None and estimate.grade >= reaching.USABLE_GRADE
    leaning = next((f.message for f in estimate.findings if f.code == "prior-bound"), "")
    judged = {}
    for name, p in params.items():
        if p.fixed:
            why = "given, not fitted"
        elif spoilt:
            why = spoilt
        elif p.lo is None or p.hi is None:
            side = " and ".join(s for s, limit in (("lower", p.lo), ("upper", p.hi)) if limit is None)
            why = "no upper limit below 1" if name == "A" and p.lo is not None else f"no {side} limit"
        elif name == "A" and p.hi >= options.priors.ceiling - CEILING_MARGIN:
            why = f"no upper limit below {options.priors.ceiling:g}"
        elif not usable and name != "R0":
            why = "the run may end before 2 C_mid"
        elif leaning and name in leaning.split(" ends ")[0].split():
            why = "the prior, not the data, ends the interval"
        else:
            why = ""
        if why and name == "A" and not spoilt and not p.fixed and C_mid.hi is not None and 2.0 * C_mid.hi > last:
            why += f": train to about {2.0 * C_mid.hi:.2g} {x}"
        judged[name] = replace(p, identified=not why, why=why)
    return judged


def _prompts(
    data: _Data, params: dict[str, Param], estimate: Estimate, options: Options
) -> tuple[dict[str, Param], Param | None, list[Finding]]:
    """What another sample of prompts would change: the same shift of every evaluation, so of A."""
    variances = [v for counts, k in data.correct[-LAST_EVALUATIONS:] if (v := prompt_variance(counts, k)) is not None]
    A = params["A"]
    if not variances or estimate.draws is None or A.lo is None or options.level is None:
        if options.prompts == "sample":
            raise UserError("prompts: 'sample' asks for the posterior and for the counts of each prompt in the log")
        return params, None, []
    sd = math.sqrt(float(np.mean(variances)))
    draws, tail = estimate.draws, 0.5 * (1.0 - options.level)
    shift = np.random.default_rng([options.seed, 1]).normal(0.0, sd, len(draws))
    shifted = np.clip(draws.A + shift, 0.0, options.priors.ceiling)
    lo, hi = (float(q) for q in draws.quantile(shifted, [tail, 1.0 - tail]))
    population = replace(A, lo=lo, hi=hi, se=None, se_observed=None)
    if options.prompts == "sample":
        return {**params, "A": replace(A, lo=lo, hi=hi)}, population, []
    what = f"limits hold for these evaluation prompts; on others like them the pass rate differs (sd {sd:.3f})"
    return params, population, [finding("prompts-fixed", what, sd)]


def _flat_level(level: float, pinned: float | None) -> _Result:
    """All points equal: there is a level and no shape, so B and C_mid have no value at all."""
    why = "the curve is flat"
    known, unknown = (
        Param(level, None, None, identified=False, why=why),
        Param(None, None, None, identified=False, why=why),
    )
    params = {
        "R0": known if pinned is None else replace(known, value=pinned, fixed=True),
        "A": known,
        "B": unknown,
        "C_mid": unknown,
    }
    return _Result(params, (finding("flat-curve", f"every pass rate is {level:g}: there is no curve to fit", 1.0),))


def _report(made: Fit, how: str, box: Box | None, options: Options) -> dict[str, Any]:
    """The checklist of a fit report."""
    dropped = [f.message for f in made.findings if f.code in {"rows-empty", "rows-dropped", "window", "r0-pinned"}]
    report: dict[str, Any] = {
        "equation": "R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B), arXiv 2510.13786, equation 1",
        "free parameters": [name for name, p in made.params.items() if not p.fixed],
        "unit of x": made.x,
        "points used": made.n,
        "points dropped": dropped,
        "loss": "sum of squared residuals, every evaluation with weight 1"
        if made.method != "posterior"
        else "likelihood of normal noise",
        "method": how or made.method,
        "starts": "valleys of a grid over ln B and ln C_mid, R0 and A solved for",
        "versions": {name: version(name) for name in ("numpy", "scipy")} | {"python": platform.python_version()},
    }
    if box is not None:
        unit = np.array([0.0, 0.0, 0.0, relative_log(made.compute)[1]])
        low, high = natural(box.low + unit), natural(box.high + unit)
        report["bounds"] = {n: f"{low[n]:.4g} to {high[n]:.4g}" for n in NAMES}
    report["priors"] = options.priors.to_dict() if made.method == "posterior" else "none"
    report["level"], report["seed"] = made.level, options.seed
    return report


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


def _sorted(run: Run, x: str) -> _Data:
    compute = np.asarray(run.data[x], dtype=float)
    pass_rate = np.asarray(run.data["pass_rate"], dtype=float)
    order = np.lexsort((pass_rate, compute))
    steps = np.asarray(run.data["step"], dtype=float)[order] if "step" in run.axes else compute[order]
    time = steps if (np.diff(steps) >= 0.0).all() else compute[order]
    counts = _counts(run, order)
    variance = [evaluation_variance(correct, k) for correct, k in counts]
    known = None if not variance or None in variance else np.array(variance, dtype=float)
    return _Data(compute[order], pass_rate[order], time, known, counts if known is not None else ())


def _counts(run: Run, order: NDArray[np.intp]) -> tuple[tuple[Array, int], ...]:
    """Correct completions of each prompt and completions a prompt, by evaluation; nothing unless all have them."""
    if "correct" not in run.data or "k" not in run.data:
        return ()
    found = []
    for i in order:
        correct, k = run.data["correct"][i], run.data["k"][i]
        if not isinstance(correct, (list, tuple)) or not correct or type(k) is not int or k < 2:
            return ()
        if any(type(c) is not int or not 0 <= c <= k for c in correct):
            return ()
        found.append((np.array(correct, dtype=float), k))
    return tuple(found)


def _inside(compute: Array, window: Window) -> Mask:
    low, high = window
    inside: Mask = np.ones(len(compute), dtype=bool)
    if low is not None:
        inside &= compute >= low
    if high is not None:
        inside &= compute <= high
    return inside


def _checked(r0: str | float, window: Window, level: float | None) -> tuple[str | float, Window]:
    if isinstance(r0, str) and r0 not in {"free", "first"}:
        try:
            r0 = float(r0)
        except ValueError:
            raise UserError(f"r0: {r0!r} is none of free, first or a pass rate between 0 and 1 (--r0)") from None
    if not isinstance(r0, str) and not 0.0 <= r0 <= 1.0:
        raise UserError(f"r0: {r0:g} is not a pass rate between 0 and 1 (--r0)")
    low, high = window
    if any(end is not None and not math.isfinite(end) for end in window):
        raise UserError("window: an end that is not a finite compute (--from, --to)")
    if low is not None and high is not None and not low < high:
        raise UserError(f"window: from {low:g} to {high:g} holds nothing; --from must lie below --to")
    if level is not None and not 0.0 < level < 1.0:
        raise UserError(f"level: {level:g} does not lie between 0 and 1")
    return r0, window
