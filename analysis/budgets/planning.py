"""Is more compute worth it, how much until we know, and which run should get it?

Promises: widths after a budget come from futures drawn from the run's own posterior (`analysis.budgets.budget`); gains
are banded as forecasts are, by what the run's earlier forecasts got wrong; the stop rule was simulated as a rule, with
a look after every few evaluations (``python -m benchmarks.plan --only stop``). Does not promise anything where a fit
has nothing to say: such a run has no budgets, and a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from analysis.budgets.budget import FUTURES, After, after
from analysis.budgets.candidates import METHOD, Known, rank
from analysis.budgets.plans import GO, STOP, UNSURE, Budget, Plan, Plans, Power
from analysis.comparisons import contrasts
from analysis.findings import Finding, finding
from analysis.fits.arguments import (
    check_as_fitted,
    checked_count,
    checked_limits,
    checked_number,
    checked_seed,
    checked_share,
    compute_at,
    several,
)
from analysis.fits.fitting import fit
from analysis.fits.reach import TOLERANCE
from analysis.fits.refits import held_R0, points_of, posterior_fit, priors_of, runs_or_fits
from analysis.fits.results import FARTHEST, LEVEL, Fit
from analysis.fits.usable import copies
from analysis.pooled.seeds import by_recipe
from analysis.posteriors.draws import tail
from analysis.predict.ahead import AVERAGED, INFLATION, Calibration, Cut, calibrate, cut_at
from analysis.predict.reaches import FEW_REACH, carried, nothing_because, path_of, reach_of
from analysis.schema import Run
from scalerl.runlog import UserError

BUDGETS = (1.5, 2.0, 4.0)
SEEDS = (2, 3, 5, 8)
LARGEST, MOST_SEEDS = 64.0, 100
LEAST_GAIN = 0.01
Limits = tuple[float, float, float]


@dataclass(frozen=True)
class _Asked:
    """What `plan` was asked, checked; see there."""

    budgets: tuple[float, ...]
    reach: float
    until: float
    least_gain: float
    difference: float
    seed_sd: float | None
    seeds: tuple[int, ...]
    tolerance: float
    level: float
    futures: int
    seed: int


def plan(
    runs: Run | Fit | Iterable[Run | Fit],
    *,
    budgets: float | str | Iterable[float | str] = BUDGETS,
    reach: float = 2.0,
    until: float | str | None = None,
    least_gain: float = LEAST_GAIN,
    difference: float = 0.05,
    seed_sd: float | None = None,
    seeds: int | Iterable[int] = SEEDS,
    x: str | None = None,
    tolerance: float = TOLERANCE,
    level: float = LEVEL,
    futures: int = FUTURES,
    seed: int = 0,
) -> Plans:
    """Say what more compute would tell about runs, and which of several recipes should get it.

    Parameters
    ----------
    runs : Run, Fit, or iterable of these
    budgets : float or str, or iterable of these
        Total compute to look at, as multiples of what each run has: 2 or ``"2x"``.
    reach : float
        Wanted reach, counted from the end of a budget.
    until : float or str, optional
        Compute that the stop rule and the ranking look ahead to, in the unit of the axis or as a multiple of the
        largest that there is; by default ``"2x"``.
    least_gain : float
        Pass rate that must still be gained until then for the run to be worth going on with.
    difference : float
        Difference of A between two recipes that is to be told, for the power table.
    seed_sd : float, optional
        Standard deviation of A between seeds, for the power table and the ranking of recipes of one seed; .02 is what
        the paper's three runs suggest.
    seeds : int or iterable of int
        Seeds a recipe, for the power table.
    futures : int
        Simulated futures a budget.

    Returns
    -------
    Plans

    Raises
    ------
    UserError
        If an argument makes no sense, runs are on different axes, or a fit is on another one than `x`.

    Notes
    -----
    What the rule and the widths are worth: ``docs/evidence.md``.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> told = plan(an.fit(run, window=(None, 30e3)), budgets=[2], futures=4)[0]
    >>> [b.multiple for b in told.budgets], told.budgets[1].A_width < told.budgets[0].A_width
    ([1.0, 2.0], True)
    """
    given = runs_or_fits(runs, "plan")
    if not given:
        raise UserError("plan: no run")
    wanted = _multiples(budgets)
    reach = checked_number("reach", reach)
    if not 1.0 < reach <= FARTHEST:
        raise UserError(f"reach: {reach:g} is not a multiple above 1 and at most {FARTHEST:g} (--reach)")
    counts = _counts(seeds)
    tolerance, least_gain = checked_share("tolerance", tolerance), checked_share("least_gain", least_gain)
    difference, level = checked_share("difference", difference), checked_limits(level)
    if seed_sd is not None:
        seed_sd = checked_share("seed_sd", seed_sd)
    futures, seed = checked_count("futures", futures, 2), checked_seed(seed)
    for g in given:
        if isinstance(g, Fit):
            check_as_fitted(g, x=x)
    fits = [posterior_fit(g) if isinstance(g, Fit) else fit(g, x=x) for g in given]
    if len(axes := dict.fromkeys(f.x for f in fits)) > 1:
        raise UserError(f"the runs are on different compute axes ({', '.join(axes)}); choose one (--x)")
    farthest = max((float(f.compute[-1]) for f in fits if f.n), default=0.0)
    horizon = 2.0 * farthest if until is None else compute_at(until, farthest, "until")
    if until is not None and horizon <= farthest:
        raise UserError(f"until: {horizon:g} is not a compute past {farthest:g} {fits[0].x}, which is there already")
    known = [_known(f) for f in fits]
    asked = _Asked(
        tuple(wanted), reach, horizon, least_gain, difference, seed_sd, tuple(counts), tolerance, level, futures, seed
    )
    told = [_told(f, k, asked) for f, k in zip(fits, known, strict=True)]
    plans = [
        _plan(f, k, mine, _rivals(i, known, fits, told), asked)
        for i, (f, k, mine) in enumerate(zip(fits, known, told, strict=True))
    ]
    again = {run: one for of in by_recipe(fits).values() for run, one in copies(f.run for f in of).items()}
    once = [None if f.name in again else k for f, k in zip(fits, known, strict=True)]
    plans = [replace(p, findings=(*p.findings, _copied(p.run, again[p.run]))) if p.run in again else p for p in plans]
    return Plans(plans, horizon or None, *rank(fits, once, horizon, level=level, seed_sd=seed_sd, seed=seed))


def _copied(name: str, one: str) -> Finding:
    return finding("seed-repeated", f"{name} holds the evaluations of {one}: it does not count as a seed")


def _multiples(budgets: Any) -> list[float]:
    given = several("budgets", budgets)
    try:
        wanted = sorted({float(b.strip().lower().removesuffix("x") if isinstance(b, str) else b) for b in given})
    except (TypeError, ValueError):
        wanted = []
    if not wanted or any(not 1.0 < b <= LARGEST for b in wanted):
        what = f"multiples of the compute that a run has, such as 2 or 2x, above 1 and at most {LARGEST:g} (--budget)"
        raise UserError(f"budgets: {what}; {budgets!r} is not")
    return wanted


def _counts(seeds: Any) -> list[int]:
    given = several("seeds", seeds)
    if not given or any(type(s) is bool or not isinstance(s, Integral) for s in given):
        raise UserError(f"seeds: whole numbers from 2 to {MOST_SEEDS} (--seeds); {seeds!r} is not")
    whole = sorted({int(s) for s in given})
    if whole[0] < 2 or whole[-1] > MOST_SEEDS:
        raise UserError(f"seeds: whole numbers from 2 to {MOST_SEEDS} (--seeds); {seeds!r} is not")
    return whole


def _known(fitted: Fit) -> Known:
    """The run as it stands, and its earlier cuts; None where nothing is claimed past the data."""
    if fitted.trusted_draws is None or fitted.nothing_ahead is not None:
        return None
    data = points_of(fitted)
    cut = cut_at(data, draws=fitted.trusted_draws, averaged=AVERAGED)
    if cut is None or not cut.last > 0.0:
        return None
    assumed = INFLATION["accuracy curves"]
    return cut, calibrate(data, inflation=assumed, priors=priors_of(fitted), r0=held_R0(fitted))


def gain(cut: Cut, past: Calibration, C: float, *, level: float = LEVEL, method: str = METHOD) -> Limits:
    """Pass rate that the mean curve gains from the last compute to `C`: middle, lower and upper limit.

    Limits end at 0 and at what is missing to 1: curves that rise do neither fall nor leave their range.
    """
    ahead = cut.ahead(np.array([C]), method, since=cut.last)
    half = past.widening(C / cut.last, method, level).times * float(ahead.sd[0])
    mid, most = float(ahead.mid[0]), 1.0 - cut.at(cut.last, method)[0]  # no curve gains more than is missing
    return mid, max(mid - half, min(mid, 0.0)), min(mid + half, max(mid, most))


def verdict_of(gained: Limits, least_gain: float) -> str:
    """Stop where even the upper limit is below `least_gain`, go where the lower one is above it.

    Examples
    --------
    >>> verdict_of((0.004, 0.0, 0.008), 0.01), verdict_of((0.05, 0.02, 0.08), 0.01), verdict_of((0.02, 0.0, 0.04), 0.01)
    ('stop', 'go', 'unsure')
    """
    _, lo, hi = gained
    return STOP if hi < least_gain else GO if lo > least_gain else UNSURE


def _told(fitted: Fit, known: Known, asked: _Asked) -> list[After]:
    """What a run says today and after each budget; nothing where nothing is claimed past its data."""
    if known is None:
        return []
    cut, past = known
    return [
        _today(cut, past, asked.tolerance, asked.level),
        *(
            after(
                past.data, cut, past, b, priors=priors_of(fitted), r0=held_R0(fitted),
                tolerance=asked.tolerance, level=asked.level, futures=asked.futures, seed=asked.seed,
            )
            for b in asked.budgets
            if carried(cut.n, b)
        ),
    ]  # fmt: skip


class _Rival(NamedTuple):
    """A run to be told from: its last compute, and what it says today and after each budget."""

    last: float
    told: list[After]


def _rivals(i: int, known: Sequence[Known], fits: Sequence[Fit], told: Sequence[list[After]]) -> list[_Rival]:
    """The runs of other recipes; the run itself where there is none: a rival like it."""
    each = [(f.run.recipe, _Rival(k[0].last, t)) for f, k, t in zip(fits, known, told, strict=True) if k is not None]
    found = [rival for recipe, rival in each if recipe != fits[i].run.recipe]
    own = known[i]
    return found or ([] if own is None else [_Rival(own[0].last, told[i])])


def _plan(fitted: Fit, known: Known, told: list[After], rivals: list[_Rival], asked: _Asked) -> Plan:
    last = float(fitted.compute[-1]) if fitted.n else 0.0
    findings = list(fitted.findings)
    if known is None:
        findings.append(finding("no-forecast", f"nothing is planned: {nothing_because(fitted)}"))
        nothing = (), asked.reach, None, None, (), asked.until or None, None, None
        return Plan(fitted.name, fitted.x, last, *nothing, asked.least_gain, asked.level, tuple(findings))
    cut, past = known
    level = asked.level
    rows = tuple(_budget(a, cut, past, asked.reach, level) for a in told)
    reached = [b.multiple for b in rows if b.wanted >= 0.5]
    far = carried(cut.n, asked.until / last)
    gained = gain(cut, past, asked.until, level=level) if far else None
    if not far or any(not carried(cut.n, b) for b in asked.budgets):
        what = f"{cut.n} evaluations carry no plan past {FEW_REACH:g}x"
        findings.append(finding("no-forecast", what if far else f"{what}: neither go nor stop, and no candidate"))
    powers: tuple[Power, ...] = ()
    if asked.seed_sd is None:
        what = "how far seeds lie apart is not stated: no power is given (seed_sd, --seed-sd; .02 after the paper)"
        findings.append(finding("not-tested", what))
    else:
        powers = tuple(_powers(told, rivals, asked, last))
    return Plan(
        fitted.name,
        fitted.x,
        last,
        rows,
        asked.reach,
        reached[0] if reached else None,
        gain(cut, past, 2.0 * last, level=level),
        powers,
        asked.until,
        None if gained is None else verdict_of(gained, asked.least_gain),
        gained,
        asked.least_gain,
        level,
        tuple(findings),
    )


def _today(cut: Cut, past: Calibration, tolerance: float, level: float) -> After:
    """What the fit says now, in the figures of a budget."""
    d = cut.draws
    lo, hi = d.quantile(d.A, [tail(level), 1.0 - tail(level)])
    variance = d.moments(d.A)[1]
    half = past.widening(2.0, "sigmoid", level).times * cut.at(2.0 * cut.last, "sigmoid")[1]
    reach = reach_of(path_of(cut, past, level, "sigmoid"), past, tolerance, "sigmoid").value
    return After(1.0, float(hi - lo), variance, half, reach, (reach,), 0)


def _budget(told: After, cut: Cut, past: Calibration, reach: float, level: float) -> Budget:
    C = told.multiple * cut.last
    wanted = float(np.mean(np.array(told.reach_at_least) >= reach))
    gained = gain(cut, past, C, level=level) if told.multiple > 1.0 else (0.0, 0.0, 0.0)
    return Budget(told.multiple, C, told.A_width, told.half, told.reach, wanted, gained)


def _powers(told: Sequence[After], rivals: Sequence[_Rival], asked: _Asked, last: float) -> Iterable[Power]:
    """Power of the comparison's test, and its cost, against each rival with the same budget, averaged over them."""
    both = last + float(np.mean([rival.last for rival in rivals]))
    for a in told:
        others = [b.A_variance for rival in rivals for b in rival.told if b.multiple == a.multiple]
        for n in asked.seeds if others else ():
            pairs = (sorted((a.A_variance, other)) for other in others)
            each = [_power(asked.difference, *pair, n, asked.seed_sd or 0.0, asked.level) for pair in pairs]
            yield Power(asked.difference, n, a.multiple, n * a.multiple * both, float(np.mean(each)))


@lru_cache(maxsize=1024)  # of two runs each asks for the other
def _power(gap: float, first: float, second: float, seeds: int, sd: float, level: float) -> float:  # noqa: PLR0917
    return contrasts.power(gap, first, second, seeds, sd, level=level)
