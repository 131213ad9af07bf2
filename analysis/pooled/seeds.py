"""From the fits of single runs to a recipe: what its seeds say together of A, B and C_mid.

Promises: with several seeds the interval comes from how far their values lie apart, so that it holds what seeds do and
not the noise inside runs alone; with one seed it holds that only if the spread between seeds is stated. Measured with
``python -m benchmarks.seeds`` (see `pool_seeds`). Does not promise anything about recipes whose runs end before 2
C_mid: the values of A lean on one prior then and lie close together for no good reason; they are not identified.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from analysis.curves.solver import Array
from analysis.findings import Finding, finding
from analysis.fits import estimating
from analysis.fits.arguments import checked_limits
from analysis.fits.doubts import one_seed
from analysis.fits.estimates import exp_of
from analysis.fits.estimating import CEILING_MARGIN, LAST_EVALUATIONS, SPOILT
from analysis.fits.evaluations import evaluations_of
from analysis.fits.reach import USABLE_GRADE
from analysis.fits.refits import points_of
from analysis.fits.results import LEVEL, WITHHELD, Fit, Param
from analysis.fits.usable import each_once, with_a_curve
from analysis.pooled.recipes import RecipeFit, RecipeFits
from analysis.pooled.settings import other_settings
from analysis.posteriors.draws import tail
from analysis.posteriors.noise import prompt_variance
from analysis.schema import one_of_each
from scalerl.runlog import UserError

POOLED = ("A", "B", "C_mid")
LOGARITHMIC = {"B", "C_mid"}  # pooled as logarithms
TINY = sys.float_info.min
LEFT_OUT = {"flat-curve", *WITHHELD}  # findings of a fit that has no value to pool


def pool_seeds(
    fits: Iterable[Fit], *, seed_sd: float | None = None, level: float = LEVEL, recipe: str | None = None
) -> RecipeFits:
    """Give each recipe one A, B and C_mid from the fits of its seeds.

    Two seeds or more: a t interval over their values (of ln B and ln C_mid for these two), but none narrower than a
    normal interval with variance mean(own variances) / n: values that lean on one prior lie closer together than they
    are known. With `seed_sd` a normal interval of A with variance seed_sd^2 / n + mean(own variances) / n instead. One
    seed: its own limits, widened by `seed_sd` where that is stated, or the finding ``one-seed``. Limits end at 0,
    those of A at the ceiling too. A copy of another run and a run that has no curve yet are left out and said to be. A
    run whose curve is flat or whose limits are withheld has no value to pool and is left out; where there is one, or
    one that decays or falls, nothing of the recipe counts as identified, and the run's finding is handed on with its
    name. One seed identifies no more than its fit does.

    Parameters
    ----------
    fits : iterable of Fit
        One a run, with limits; of one compute axis. Of fits with ``prompts="sample"`` the limits of A hold what
        another sample of prompts would change, once for all seeds.
    seed_sd : float, optional
        Standard deviation of A between seeds; .02 is what the paper's three runs suggest.
    level : float
    recipe : str, optional
        Says that all fits are seeds of this recipe, for tables (CSV), which do not say theirs.

    Returns
    -------
    RecipeFits

    Raises
    ------
    UserError
        If the axes differ, a fit has no curve, no limits where those are needed, or a recipe has no value to pool.

    Notes
    -----
    Share of 95 % intervals of A that hold the recipe's A, three seeds of 60 points with a standard deviation of .01
    between them, 150 repetitions (``python -m benchmarks.seeds --only seeds``, seed 3), runs that end at k C_mid:

    =======================  ==============  ===========  ==============  ===========
    interval                 k = 5, rho 0    5, rho .5    k = 2, rho 0    2, rho .5
    =======================  ==============  ===========  ==============  ===========
    this one                 96              99           97              97
    t interval alone         93              96           89              89
    stated seed_sd .01       98              99           97              93
    one seed, stated .01     99              95           95              93
    one seed as it is        70              75           94              93
    all points as one run    100             100          100             99
    =======================  ==============  ===========  ==============  ===========

    Median widths of this one: .058, .073, .13, .23. None of these recipes at k = 2 counts as identified.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from analysis.curves.curve import R
    >>> from analysis.fits.fitting import fit
    >>> from analysis.readers.logs import read
    >>> folder, rng = pathlib.Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> for seed, A in enumerate((0.69, 0.70, 0.71)):
    ...     y = R(np.arange(40.0) / 4, R0=0.1, A=A, B=1.5, C_mid=1.0) + rng.normal(0, 0.005, 40)
    ...     rows = [f"{c},{v:.6f}" for c, v in zip(np.arange(40.0) / 4, y)]
    ...     _ = (folder / f"seed{seed}.csv").write_text("\\n".join(["gpu_hours,accuracy", *rows]))
    >>> A = pool_seeds(fit(read(folder / "*.csv")), recipe="mine")["mine"].params["A"]
    >>> bool(A.lo < 0.7 < A.hi), A.identified
    (True, True)
    """
    if seed_sd is not None and not 0.0 < seed_sd < 1.0:
        raise UserError(f"seed_sd: {seed_sd:g} is not a standard deviation of pass rates between 0 and 1")
    checked_limits(level)
    groups = by_recipe(fits, recipe)
    return RecipeFits([_pool(name, seeds, seed_sd, level) for name, seeds in groups.items()])


def by_recipe(fits: Iterable[Fit], recipe: str | None = None) -> dict[str, list[Fit]]:
    """Group fits of one compute axis by recipe; `recipe` says that all are of that one.

    Raises
    ------
    UserError
        If there is none, two have one name, or axes differ.
    """
    given = list(fits)
    axes = dict.fromkeys(fit.x for fit in given)
    if len(axes) != 1:
        raise UserError(f"seeds are pooled on one compute axis; given {', '.join(axes) or 'no fit'}")
    one_of_each(fit.name for fit in given)
    groups: dict[str, list[Fit]] = {}
    for fit in given:
        groups.setdefault(fit.run.recipe if recipe is None else recipe, []).append(fit)
    return groups


def _pool(recipe: str, fits: Sequence[Fit], seed_sd: float | None, level: float) -> RecipeFit:
    given = [f.name for f in fits]
    fits, copied = each_once(fits)
    fits, young = with_a_curve(fits)
    doubts, spoilt = _doubts(fits)
    doubts = [*copied, *young, *doubts]
    fits = [f for f in fits if not LEFT_OUT & {d.code for d in f.findings}]
    if not fits:
        raise UserError(f"{recipe}: no seed has a value to pool ({'; '.join(d.message for d in doubts)})")
    findings = [
        *doubts,
        *other_settings(recipe, fits),
        *_spent(recipe, fits),
        *one_seed(len(fits), seed_sd),
        *_same_seed(recipe, fits),
    ]
    if len(fits) > 1 and any(f.code == "pooled" for fit in fits for f in fit.findings):
        what = "the shapes of these fits lean on each other: the spread between seeds may come out too small"
        findings.append(finding("pooled", what, severity="warning"))
    sample = on_sample(fits, recipe)
    values, own = zip(*(_values(f) for f in fits), strict=True)
    table, variances = np.array(values), np.array(own)  # (seeds, 3), NaN where unknown
    if len(fits) > 1:
        limits = _limits_of_seeds(table, variances, seed_sd, level, fits)
    else:
        limits = _limits_of_one(fits[0], seed_sd, level)
    early = [f for f in fits if f.grade is None or f.grade < USABLE_GRADE]
    ceiling = max(_ceiling(f) for f in fits)
    why = spoilt
    if early:
        said = ", ".join(f"{f.name} {'unknown' if f.grade is None else f'{f.grade:.2f}'}" for f in early)
        what = f"P(C_max > 2 C_mid) below {USABLE_GRADE:g} ({said}): the recipe's A is not known"
        findings.append(finding("grade", what, severity="warning"))
        why = why or "a seed may end before 2 C_mid"
    unknown = {n: p.why or "its fit does not identify it" for n, p in fits[0].params.items() if not p.identified}
    params = {}
    for k, name in enumerate(POOLED):
        alone = unknown.get(name, "") if len(fits) == 1 else ""
        params[name] = _param(name, float(table[:, k].mean()), limits[name], ceiling, why or alone)
    if len({frozenset(map(str, f.run.data["prompt_set"])) for f in fits if "prompt_set" in f.run.data}) > 1:
        what = f"the seeds of {recipe} were evaluated on different prompts"
        findings.append(finding("prompt-sets-differ", what))
    population = None
    sd = prompt_sd(fits)
    if sd is not None and sample:
        if len(fits) > 1:
            params["A"] = _widened(params["A"], sd, level, ceiling) or params["A"]
        population = params["A"]
    elif sd is not None:
        what = f"seeds share their evaluation prompts, so what the choice of these adds to A, {sd:.3f} (one sd), does "
        findings.append(finding("prompts-fixed", what + "not average out over seeds", sd))
        population = _widened(params["A"], sd, level, ceiling)
    return RecipeFit(
        recipe,
        tuple(f.name for f in fits),
        fits[0].x,
        MappingProxyType(params),
        population,
        MappingProxyType({n: _known(table[:, k].std(ddof=1)) if len(fits) > 1 else None for k, n in enumerate(POOLED)}),
        MappingProxyType({n: _known(math.sqrt(variances[:, k].mean())) for k, n in enumerate(POOLED)}),
        seed_sd,
        level,
        tuple(findings),
        tuple(name for name in given if name not in {f.name for f in fits}),
    )


def _doubts(fits: Sequence[Fit]) -> tuple[list[Finding], str]:
    """What the fits themselves say against the recipe's values, with the runs' names; and in a few words the first."""
    found, why = [], ""
    for fit in fits:
        for doubt in fit.findings:
            if doubt.code in SPOILT or doubt.code in WITHHELD:
                left = "; the run is left out" if doubt.code in LEFT_OUT else ""
                found.append(finding(doubt.code, f"{fit.name}: {doubt.message}{left}", doubt.figure, doubt.severity))
                why = why or f"{fit.name}: {SPOILT.get(doubt.code, 'limits are withheld')}"
    return found, why


def _spent(recipe: str, fits: Sequence[Fit]) -> list[Finding]:
    """Say once of a recipe that the prompts of its runs run out."""
    spent = [f.name for f in fits if any(d.code == "prompts-spent" for d in f.findings)]
    if not spent:
        return []
    what = f"{recipe}: {len(spent)} of {len(fits)} runs run out of prompts that teach, so a longer one may stop below A"
    return [finding("prompts-spent", what, float(len(spent)))]


def on_sample(fits: Sequence[Fit], what: str) -> bool:
    """Return whether the limits of A of these fits hold for other prompts, too.

    Raises
    ------
    UserError
        If those of some do and those of others do not.
    """
    ways = {f.prompts for f in fits if f.params["A"].lo is not None}
    if len(ways) > 1:
        raise UserError(f"{what}: fits with prompts='fixed' and with prompts='sample'; fit all of them alike")
    return "sample" in ways


def _values(fit: Fit) -> tuple[list[float], list[float]]:
    """Value and own variance of A, ln B and ln C_mid; NaN where unknown."""
    values, variances = [], []
    for name in POOLED:
        p, log = fit.params[name], name in LOGARITHMIC
        value = math.nan if p.value is None else math.log(max(p.value, TINY)) if log else p.value
        draws = fit.trusted_draws
        if draws is not None:
            drawn = getattr(draws, name)
            drawn = np.log(drawn) if log else drawn
            variance = draws.moments(drawn)[1]
        elif p.value is not None and p.lo is not None and p.hi is not None and fit.level is not None:
            z = float(ndtri(1.0 - tail(fit.level)))
            sd = (p.hi - p.lo) / (2.0 * z)
            if log and p.lo > 0.0:
                sd = (math.log(p.hi) - math.log(p.lo)) / (2.0 * z)
            elif log:  # value -+ t x standard error has no logarithm: the delta method
                sd = (sd if p.se is None else p.se) / max(p.value, TINY)
            variance = sd * sd
        else:
            variance = math.nan
        values.append(value)
        variances.append(variance)
    return values, variances


Limits = dict[str, tuple[float | None, float | None]]


def _limits_of_seeds(table: Any, variances: Any, seed_sd: float | None, level: float, fits: Sequence[Fit]) -> Limits:
    n = len(table)
    limits: Limits = {}
    t, z = float(stdtrit(n - 1, 1.0 - tail(level))), float(ndtri(1.0 - tail(level)))
    for k, name in enumerate(POOLED):
        own = float(variances[:, k].mean())
        half = t * float(table[:, k].std(ddof=1)) / math.sqrt(n)
        if not math.isnan(own):
            half = max(half, z * math.sqrt(own / n))
        if name == "A" and seed_sd is not None:
            if math.isnan(own):
                unknown = ", ".join(f.name for f, v in zip(fits, variances[:, k], strict=True) if math.isnan(v))
                raise UserError(f"a stated seed_sd asks for the limits of every fit; none for A in {unknown}")
            half = z * math.sqrt((seed_sd**2 + own) / n)
        middle = float(table[:, k].mean())
        # Values that agree to rounding and have no variance of their own say nothing of how seeds differ.
        limits[name] = (middle - half, middle + half) if 1e-12 < half < math.inf else (None, None)
    return limits


def _limits_of_one(fit: Fit, seed_sd: float | None, level: float) -> Limits:
    """The fit's own limits at `level`, in the scale of the pooling; those of A widened by a stated seed_sd."""
    limits: Limits = {}
    for name in POOLED:
        p = fit.params[name]
        lo, hi = p.lo, p.hi
        draws = fit.trusted_draws
        if draws is not None and (lo is not None or hi is not None):
            values = _A_on_other_prompts(fit) if name == "A" and fit.prompts == "sample" else getattr(draws, name)
            found = draws.quantile(values, [tail(level), 1.0 - tail(level)])
            lo, hi = (None if old is None else float(v) for old, v in zip((p.lo, p.hi), found, strict=True))
        elif fit.level != level and (lo is not None or hi is not None):
            raise UserError(f"{fit.name}: its limits are of level {fit.level}; fit it at {level}")
        if name in LOGARITHMIC:
            lo, hi = (None if v is None else math.log(v) if v > 0.0 else -math.inf for v in (lo, hi))
        elif seed_sd is not None and p.value is not None:
            lo, hi = _apart(p.value, lo, hi, float(ndtri(1.0 - tail(level))) * seed_sd)
        limits[name] = (lo, hi)
    return limits


def _A_on_other_prompts(fit: Fit) -> Array:
    """Draws of A that the limits of a fit of ``prompts="sample"`` are read off, (M,)."""
    sd = estimating.prompt_sd(points_of(fit))
    if fit.draws is None or sd is None:
        raise UserError(f"{fit.name}: its log has no counts of each prompt; fit it with prompts='fixed'")
    return estimating.on_other_prompts(fit.draws.A, sd, _ceiling(fit), int(fit.report.get("seed", 0)))


def _apart(value: float, lo: float | None, hi: float | None, more: float) -> tuple[float | None, float | None]:
    """Limits moved out by an independent error: half-widths add in squares."""
    return (
        None if lo is None else value - math.hypot(value - lo, more),
        None if hi is None else value + math.hypot(hi - value, more),
    )


def _widened(A: Param, sd: float, level: float, ceiling: float) -> Param | None:
    if A.value is None or A.lo is None or A.hi is None:
        return None
    limits = _apart(A.value, A.lo, A.hi, float(ndtri(1.0 - tail(level))) * sd)
    return _param("A", A.value, limits, ceiling, A.why)


def _param(name: str, value: float, limits: tuple[float | None, float | None], ceiling: float, why: str) -> Param:
    lo, hi = limits
    if name in LOGARITHMIC:
        value = exp_of(value)
        lo, hi = (None if v is None else exp_of(v) for v in limits)
    else:
        lo, hi = (None if v is None else min(max(v, 0.0), ceiling) for v in limits)
    if not why and (lo is None or hi is None):
        why = "no interval"
    if not why and name == "A" and hi is not None and hi >= ceiling - CEILING_MARGIN:
        why = f"no upper limit below {ceiling:g}"
    return Param(value, lo, hi, identified=not why, why=why)


def _ceiling(fit: Fit) -> float:
    priors = fit.report.get("priors")
    return float(priors["ceiling"]) if isinstance(priors, Mapping) and "ceiling" in priors else 1.0


def _same_seed(recipe: str, fits: Sequence[Fit]) -> list[Finding]:
    """A seed's number twice is not two seeds."""
    seeds = [f.run.seed for f in fits if f.run.seed is not None]
    again = sorted({str(s) for s in seeds if seeds.count(s) > 1})
    if not again:
        return []
    what = f"{recipe}: seed {', '.join(again)} stands there more than once: the spread between seeds comes "
    return [finding("seed-repeated", f"{what}out too small")]


def prompt_sd(fits: Sequence[Fit]) -> float | None:
    """Return what another sample of prompts would move A by; None without counts."""
    variances = [
        v
        for fit in fits
        for correct, k in evaluations_of(fit.run, fit.x).correct[-LAST_EVALUATIONS:]
        if (v := prompt_variance(correct, k)) is not None
    ]
    return math.sqrt(float(np.mean(variances))) if variances else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
