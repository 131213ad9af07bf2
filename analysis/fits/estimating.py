"""From points to parameters: a method's estimate, judged, with every doubt that the points raise.

Promises: a limit that the data do not give is None, with a finding; `identified` is never set without both limits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.amounts import short
from analysis.curves import leastsquares
from analysis.curves.leastsquares import NAMES, Box, Problem
from analysis.curves.solver import Array
from analysis.findings import Finding, finding
from analysis.fits import decays, doubts, misfits
from analysis.fits import reach as reaching
from analysis.fits.estimates import Estimate, Points, natural, standard_errors
from analysis.fits.evaluations import Evaluations, Window
from analysis.fits.methods import METHODS
from analysis.fits.results import Param
from analysis.posteriors.conditional import relative_log
from analysis.posteriors.noise import prompt_variance
from analysis.posteriors.priors import Priors
from scalerl.runlog import UserError

# Residuals below this are rounding, not noise: ln C is kept to 10 digits, and a curve may rise by 12 in it (B = 50).
EXACT_RMS = 4e-10
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
    up_to_spent: bool
    prompts: str
    tolerance: float

    @property
    def accounts(self) -> bool:
        """Whether the method models correlated evaluations."""
        if self.method == "bootstrap":
            return self.resample != "residual"
        return self.method == "posterior" or (self.method == "profile" and self.correlated)


@dataclass(frozen=True)
class Result:
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
    report: Mapping[str, str] = field(default_factory=dict)


def estimate_points(data: Evaluations, pinned: float | None, x: str, options: Options) -> Result:
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
        errors = standard_errors(points, math.exp(unit)) if estimate.has_limits else errors
    at, searched = estimate.optimum or best, estimate.box or box
    estimate = estimate.in_unit(math.exp(unit))
    values = natural(best.theta + np.array([0.0, 0.0, 0.0, unit]))
    params = {
        name: Param(
            estimate.values[name],
            *estimate.limits[name],
            identified=False,
            fixed=not searched.free[i],
            se=errors[0].get(name),
            se_observed=errors[1].get(name),
        )
        for i, name in enumerate(NAMES)
    }

    findings = [*(decays.decay(c, y, values) or decays.dip(c, y, data.variance)), *flat]
    if not flat:
        findings += doubts.falling(values)
        if options.method in {"lsq", "profile", "bootstrap", "paper"} or not with_limits:
            findings += doubts.of_optimum(at, searched, estimate.values, float(c.max()), x)
    if exact and dof > 0:
        findings.append(finding("exact-data", "the points lie on the curve to rounding: no noise, so no interval"))
    elif with_limits:
        findings += estimate.findings
        if estimate.has_limits:
            findings += doubts.of_intervals(params)
            findings += doubts.of_residuals(residual, accounts=options.accounts, rho=estimate.noise.get("rho"))
        findings += misfits.misfit(c, y, values)
        findings += misfits.noise_grows(residual, y + residual)
        findings += misfits.outliers(c, residual, y + residual)
    raised = {f.code for f in findings}
    spoilt = spoilt_by(raised)
    reach = None
    if estimate.draws is not None and "posterior-grid" not in raised:
        low_level = 0.95 if level is None else level
        reach = reaching.reach(estimate.draws, float(c[-1]), tolerance=options.tolerance, level=low_level)
    if estimate.grade is not None and not spoilt:
        findings += reaching.of_grade(estimate.grade, dipped="dip" in raised)
    judged, population, about_prompts = judge_with_prompts(data, params, estimate, x, raised, options)
    return Result(
        judged,
        (*findings, *about_prompts),
        estimate.draws,
        estimate.grade,
        None if reach is None else min(reach, 1.0) if spoilt else reach,
        estimate.noise,
        population,
        estimate.how,
        searched,
        estimate.report,
    )


def spoilt_by(raised: Collection[str]) -> str:
    """Return why nothing is identified, of a fit with these findings; nothing where they leave it be."""
    return next((why for code, why in SPOILT.items() if code in raised), "")


def judge_with_prompts(  # noqa: PLR0917
    data: Evaluations, params: dict[str, Param], estimate: Estimate, x: str, raised: Collection[str], options: Options
) -> tuple[dict[str, Param], Param | None, list[Finding]]:
    """Allow for the choice of the prompts, then judge what came out: the parameters, and A on other prompts.

    `raised` has the codes of the findings so far.
    """
    params, population, found = allow_for_prompts(data, params, estimate, options)
    last = float(data.compute.max())
    if population is not None:
        population = judge({**params, "A": population}, estimate, last, x, raised, options)["A"]
    return judge(params, estimate, last, x, raised, options), population, found


def judge(  # noqa: PLR0917
    params: dict[str, Param], estimate: Estimate, last: float, x: str, raised: Collection[str], options: Options
) -> dict[str, Param]:
    """Set `identified`, and in a few words why not."""
    spoilt, dipped = spoilt_by(raised), "dip" in raised  # what a law that rises would need says nothing of a dip
    C_mid, usable = params["C_mid"], estimate.grade is not None and estimate.grade >= reaching.USABLE_GRADE
    narrow = any(f.code == "undercover" for f in estimate.findings)
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
            why = "the run collapsed on its way" if dipped else "the run may end before 2 C_mid"
        elif narrow:
            why = f"limits of {options.method} are too narrow to tell"
        elif leaning and name in leaning.split(" ends ")[0].split():
            why = "the prior, not the data, ends the interval"
        else:
            why = ""
        if why and name == "A" and not (spoilt or dipped or p.fixed) and C_mid.hi is not None and 2.0 * C_mid.hi > last:
            why += f": train to about {short(2.0 * C_mid.hi, 2)} {x}"
        judged[name] = replace(p, identified=not why, why=why)
    return judged


def prompt_sd(data: Evaluations) -> float | None:
    """Return what another sample of prompts would move A by, from the last evaluations; None without counts."""
    variances = [v for counts, k in data.correct[-LAST_EVALUATIONS:] if (v := prompt_variance(counts, k)) is not None]
    return math.sqrt(float(np.mean(variances))) if variances else None


def allow_for_prompts(
    data: Evaluations, params: dict[str, Param], estimate: Estimate, options: Options
) -> tuple[dict[str, Param], Param | None, list[Finding]]:
    """What another sample of prompts would change: the same shift of every evaluation, so of A. Judges nothing.

    Raises
    ------
    UserError
        If the prompts are to count as a sample and the method or the log cannot say what that changes.
    """
    sd = prompt_sd(data)
    A = params["A"]
    if options.prompts == "sample" and (options.method != "posterior" or sd is None):
        what = "asks for the posterior and for the log's counts of two prompts or more, two completions each or more"
        raise UserError(f"prompts: 'sample' {what}")
    if sd is None or estimate.draws is None or A.lo is None or options.level is None:
        return params, None, []
    draws, tail = estimate.draws, 0.5 * (1.0 - options.level)
    shifted = on_other_prompts(draws.A, sd, options.priors.ceiling, options.seed)
    lo, hi = (float(q) for q in draws.quantile(shifted, [tail, 1.0 - tail]))
    population = replace(A, lo=lo, hi=hi, se=None, se_observed=None)
    if options.prompts == "sample":
        return {**params, "A": replace(A, lo=lo, hi=hi)}, population, []
    what = f"limits hold for these evaluation prompts; on others like them the pass rate differs (sd {sd:.3f})"
    return params, population, [finding("prompts-fixed", what, sd)]


def on_other_prompts(A: Array, sd: float, ceiling: float, seed: int) -> Array:
    """Return draws of A (M,) on other samples of prompts."""
    shift = np.random.default_rng([seed, 1]).normal(0.0, sd, len(A))
    return np.asarray(np.clip(A + shift, 0.0, ceiling))


def flat_level(level: float, pinned: float | None) -> Result:
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
    return Result(params, (finding("flat-curve", f"every pass rate is {level:g}: there is no curve to fit", 1.0),))
