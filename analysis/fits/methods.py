"""Five ways to values and limits, one form: posterior, profile, bootstrap, lsq, paper.

Promises: each takes the same `Points` and returns an `Estimate`; a limit that a method does not give is None, with a
finding, and is never filled in by another method.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import stdtr, stdtrit

from analysis.curves.leastsquares import NAMES, Box, Optimum, Problem
from analysis.findings import Finding, finding
from analysis.fits import bootstrap as resampling
from analysis.fits import papergrid, profiles
from analysis.fits.estimates import (
    LEAST_SQUARES,
    Estimate,
    Limits,
    Points,
    Values,
    exp_of,
    natural,
    standard_errors,
)
from analysis.fits.reach import grade
from analysis.posteriors import noise, posterior
from analysis.posteriors.conditional import LOG_B_SDS
from analysis.posteriors.draws import Draws
from analysis.posteriors.posterior import EDGE_MASS, LEAST_SIZE
from analysis.posteriors.quadrature import HEAVY, Posterior

REFITS = 5
MISSED = 2.0  # log density by which the best cell may lie below the optimum of least squares
UNDERCOVER = {  # `benchmarks.coverage`, 300 curves in each of 36 cells; see docs/methods.md
    "lsq": "limits are value +- t x standard error, as lmfit and scipy give them: such 95 % limits hold the true A in "
    "41 to 72 % where neighbouring evaluations have a correlation of .7, and in 61 to 96 % where they have none",
    "bootstrap": "95 % percentile limits of a bootstrap hold the true A in 56 to 80 % (residuals), 60 to 91 % (blocks) "
    "or 66 to 97 % (sieve, best with many evaluations) where neighbouring evaluations have a correlation of .7",
}


def by_posterior(points: Points) -> Estimate:
    """Median and quantiles of the posterior's draws."""
    fixed = not points.box.free[0]
    draws = posterior.posterior(
        points.compute,
        points.problem.pass_rate,
        variance=points.variance,
        time=points.time,
        priors=points.priors,
        r0=float(points.box.low[0]) if fixed else None,
        seed=points.seed,
        start=points.best.theta[2:],
    )
    tail = 0.5 * (1.0 - points.level)
    values: Values = {}
    limits: Limits = {}
    for name in NAMES:
        lo, mid, hi = draws.quantile(getattr(draws, name), [tail, 0.5, 1.0 - tail])
        values[name], limits[name] = float(mid), (float(lo), float(hi))
    if fixed:
        values["R0"], limits["R0"] = float(points.box.low[0]), (None, None)
    found = self_check(draws)
    if any(f.code == "posterior-grid" for f in found):
        limits = dict.fromkeys(NAMES, (None, None))
    about = {name: float(draws.quantile(getattr(draws, name), [0.5])[0]) for name in ("rho", "sigma", "white")}
    how = "known from the counts of each prompt" if points.variance is not None else "an unknown share"
    return Estimate(
        values,
        limits,
        tuple(found),
        draws,
        grade(draws, points.last),
        about,
        f"posterior by quadrature, {int(draws.checks['cells'])} cells, {len(draws)} draws; AR(1) run noise, "
        f"evaluation noise {how}",
        box=_reach_of_priors(points),
        report={
            "loss": "likelihood of normal noise",
            "starts": "none: a quadtree over ln B and ln C_mid, cells split where the mass is",
            "evaluation noise": _white(points),
        },
    )


def _reach_of_priors(points: Points) -> Box:
    """The bounds of the posterior's grid."""
    (mean, sd), (low, high) = points.priors.log_B, points.priors.C_mid
    first = float(points.compute[points.compute > 0.0][0])
    ends = np.array(
        [[mean - LOG_B_SDS * sd, math.log(first * low)], [mean + LOG_B_SDS * sd, math.log(points.last * high)]]
    )
    return Box(np.concatenate([points.box.low[:2], ends[0]]), np.concatenate([points.box.high[:2], ends[1]]))


def _white(points: Points) -> str:
    if points.variance is not None:
        return "variance of each evaluation known from its counts"
    shares, weights = (", ".join(f"{v:g}" for v in values) for values in (noise.WHITE_SHARES, noise.WHITE_PRIOR))
    return f"share {shares} of the variance, prior weights {weights}"


def self_check(draws: Posterior) -> list[Finding]:
    """Where the quadrature or the priors, not the data, made the answer."""
    found = []
    if draws.effective < LEAST_SIZE:
        what = f"only {draws.effective:.0f} effective draws of {len(draws)}: limits are withheld"
        found.append(finding("posterior-grid", what, draws.effective))
    elif draws.checks["missed"] > MISSED or draws.checks["heaviest"] > 10.0 * HEAVY:
        what = "the grid of the posterior did not resolve its peak: limits are withheld"
        found.append(finding("posterior-grid", what, draws.checks["missed"]))
    leaning = [name for name in ("B", "C_mid") if draws.checks[f"edge_{name}"] > EDGE_MASS]
    if leaning:
        share = max(draws.checks[f"edge_{name}"] for name in leaning)
        what = f"the prior of {' and '.join(leaning)} ends the interval, not the data"
        found.append(finding("prior-bound", what, share))
    return found


def by_profile(points: Points) -> Estimate:
    """The F profile, under AR(1) noise with restricted-likelihood rho or under independent noise."""
    problem, rho = points.problem, 0.0
    if points.correlated:
        problem, rho = profiles.correlated(problem, points.box, points.time)
    best = problem.fit(points.box, points.best.theta[2:])
    limits: dict[int, tuple[float | None, float | None]] | None = None
    for _ in range(REFITS):
        try:
            limits = profiles.limits(problem, points.box, best, points.level)
            break
        except profiles.BetterOptimumError as better:
            best = problem.fit(points.box, better.shape)
    found = () if limits is not None else (_failed("the profile did not settle"),)
    limits = limits or {}
    how = (
        f"F profile, AR(1) noise with rho {rho:.2f} (restricted likelihood)"
        if points.correlated
        else "F profile, independent noise"
    )
    return Estimate(
        natural(best.theta),
        {name: _natural_limits(i, limits.get(i, (None, None))) for i, name in enumerate(NAMES)},
        found,
        grade=_profile_grade(problem, points, best),
        noise={"rho": rho, "sigma": math.sqrt(best.sse / points.dof)},
        how=how,
        optimum=best,
        report=LEAST_SQUARES | {"loss": "generalised least squares under AR(1) noise"}
        if points.correlated
        else LEAST_SQUARES,
    )


def _profile_grade(problem: Problem, points: Points, best: Optimum) -> float | None:
    """P(C_max > 2 C_mid) as the profile's confidence distribution has it: its signed root at C_mid = C_max / 2."""
    middle = math.log(0.5 * points.last)
    if not points.box.low[3] < middle < points.box.high[3]:
        return None
    held = problem.fit(points.box.fix(3, middle), best.theta[2:])
    root = math.sqrt(max(held.sse / best.sse - 1.0, 0.0) * points.dof)
    return float(stdtr(points.dof, root if best.theta[3] < middle else -root))


def by_bootstrap(points: Points) -> Estimate:
    """Percentiles of refits to resampled residuals."""
    refits = resampling.bootstrap(points.problem, points.box, points.best, kind=points.kind, seed=points.seed)
    usable = np.isfinite(refits.sse)
    found = [finding("undercover", UNDERCOVER["bootstrap"])]
    values = natural(points.best.theta)
    if usable.sum() < LEAST_SIZE:
        found.append(_failed(f"only {int(usable.sum())} refits could be evaluated"))
        return Estimate(values, dict.fromkeys(NAMES, (None, None)), tuple(found))
    R0, A, B, C_mid = refits.natural()[usable].T
    flat = np.zeros_like(A)
    sigma = math.sqrt(points.best.sse / points.dof)
    draws = Draws(R0, A, B, C_mid, flat, flat + sigma, np.full(len(A), 1.0 / len(A)))
    tail = 0.5 * (1.0 - points.level)
    limits: Limits = {}
    for i, name in enumerate(NAMES):
        lo, hi = (float(q) for q in draws.quantile(getattr(draws, name), [tail, 1.0 - tail]))
        limits[name] = (lo, hi) if points.box.free[i] and hi > lo else (None, None)
    how = f"bootstrap of {len(A)} refits, {points.kind}"
    return Estimate(values, limits, tuple(found), draws, grade(draws, points.last), {"sigma": sigma}, how)


def by_lsq(points: Points) -> Estimate:
    """Least squares with limits from the standard errors of J'J, as lmfit and scipy report them."""
    values = natural(points.best.theta)
    errors, _ = standard_errors(points)
    t = float(stdtrit(points.dof, 0.5 + 0.5 * points.level))
    limits: Limits = {
        name: (values[name] - t * errors[name], values[name] + t * errors[name]) if name in errors else (None, None)
        for name in NAMES
    }
    found = [finding("undercover", UNDERCOVER["lsq"])]
    if not errors:
        found.append(_failed("J'J is singular, so there are no standard errors"))
    share = None
    if "C_mid" in errors:
        share = float(stdtr(points.dof, (0.5 * points.last - values["C_mid"]) / errors["C_mid"]))
    sigma = math.sqrt(points.best.sse / points.dof)
    return Estimate(
        values, limits, tuple(found), grade=share, noise={"sigma": sigma}, how="least squares, standard errors from J'J"
    )


def by_paper(points: Points) -> Estimate:
    """The paper's grid over A and C_mid; its edges are the bounds, and R0 is held."""
    first = points.compute == points.compute[0]
    r0 = float(points.problem.pass_rate[first].mean() if points.box.free[0] else points.box.low[0])
    grid = papergrid.Grid()
    best = papergrid.fit_grid(points.compute, points.problem.pass_rate, r0, grid)
    what = "a grid gives no limits; the paper's margin of .02 for A is what three runs of one recipe differed by"
    exponents = ", ".join(f"{B:g}" for B in papergrid.STARTS)
    box = grid.box(points.last, r0)
    return Estimate(
        natural(best.theta),
        dict.fromkeys(NAMES, (None, None)),
        (_failed(what),),
        noise={"sigma": math.sqrt(best.sse / (points.problem.n - int(box.free.sum())))},
        how="grid over A and C_mid, B fitted in each cell, R0 the first evaluation"
        if points.box.free[0]
        else "grid over A and C_mid, B fitted in each cell, R0 held",
        optimum=best,
        box=box,
        report=LEAST_SQUARES | {"starts": f"B {exponents} in each of {grid.A[2]} x {grid.C_mid[2]} cells"},
        has_limits=False,
    )


METHODS: dict[str, Callable[[Points], Estimate]] = {
    "posterior": by_posterior,
    "profile": by_profile,
    "bootstrap": by_bootstrap,
    "lsq": by_lsq,
    "paper": by_paper,
}


def _natural_limits(index: int, limits: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    if index < 2:
        return limits
    lo, hi = (None if v is None else exp_of(v) for v in limits)
    return lo, hi


def _failed(why: str) -> Finding:
    return finding("method-failed", why)
