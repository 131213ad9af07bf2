"""Compare recipes: which is better, by how much, from which compute on, and how sure that is.

Promises: a difference is tested with what seeds differ by, or said not to be; runs that were evaluated on the same
prompts are compared on these (what the choice of prompts adds cancels), on others that is added, or the difference is
not tested; another compute axis is refused, another task, checker or device flagged. Does not correct for the number
of pairs; `p_best` and `p_higher` are shrunk over all recipes instead. Arithmetic: `analysis.comparisons.contrasts` and
`analysis.comparisons.joint_draws`. How often it is wrong: ``python -m benchmarks.compare``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from analysis.amounts import short
from analysis.comparisons import joint_draws
from analysis.comparisons.compared import Compared, Estimate, Row
from analysis.comparisons.comparison import compare_at_equal_compute
from analysis.comparisons.joint_draws import JointDraws
from analysis.comparisons.likeness import ONE_SEED, of_recipes
from analysis.comparisons.ranking import Table, draws_of, rows_and_pairs, untested_ahead
from analysis.comparisons.standings import Comparison
from analysis.findings import Finding, finding
from analysis.fits.arguments import check_as_fitted, checked_limits, checked_share, compute_at, several
from analysis.fits.fitting import fit
from analysis.fits.reach import TOLERANCE
from analysis.fits.refits import posterior_fit, runs_or_fits
from analysis.fits.results import LEVEL, Fit, Param
from analysis.fits.tables import unit
from analysis.fits.usable import copies
from analysis.pooled.recipes import RecipeFit
from analysis.pooled.seeds import LEFT_OUT, by_recipe, on_sample, pool_seeds
from analysis.schema import Run
from scalerl.runlog import UserError

UNKNOWN = Param(None, None, None, identified=False, why="not fitted")
EQUAL_AXES = ("gpu_hours", "cpu_s", "tokens_generated", "tokens_trained", "flops")


def compare(
    runs: Iterable[Run | Fit],
    *,
    at: float | str | Iterable[float | str] | None = (),
    target: float | Iterable[float] | None = None,
    by: float | str = "A",
    seed_sd: float | None = None,
    level: float = LEVEL,
    recipes: Mapping[str, str] | None = None,
    x: str | None = None,
) -> Compared:
    """Compare recipes from the runs of their seeds.

    Parameters
    ----------
    runs : iterable of Run or Fit
        Runs are fitted with the posterior; fits are of one compute axis and one tolerance, and one of another method is
        fitted again. Of fits with ``prompts="sample"`` the limits of A hold for other prompts, too; everything else
        holds for the prompts that were evaluated.
    at : float or str, or iterable of these
        Computes to compare at, in the unit of `x`, or ``"2x"`` for a multiple of the compute that every recipe has
        reached. By default that compute.
    target : float or iterable of float, optional
        Pass rates to reach; by default what every recipe has reached, rounded down to a hundredth.
    by : "A" or compute
        What the table is ranked by: the ceiling, or the pass rate at this compute.
    seed_sd : float, optional
        Standard deviation of the pass rate between seeds, where it is known from elsewhere; .02 is what the paper's
        three runs suggest. Needed for recipes of one seed.
    level : float
        Of all limits.
    recipes : mapping of run name to recipe, optional
        For tables (CSV), which do not say theirs.
    x : str, optional
        Compute axis of runs that are not fitted yet.

    Returns
    -------
    Compared

    Raises
    ------
    UserError
        If there are fewer than two recipes with a curve, fits were not made alike, or an argument makes no sense.

    Notes
    -----
    A difference is tested as `analysis.comparisons.contrasts` says; the same test stands behind every compute.

    Examples
    --------
    >>> import analysis as an
    >>> fits = an.fit(an.read("data/runs"))
    >>> found = compare(fits)
    >>> [row.recipe for row in found.rows], found.tested
    (['scalerl', 'grpo'], False)
    >>> pair = compare(fits, seed_sd=0.02).pair("scalerl", "grpo")
    >>> pair.tested, bool(pair.A.lo < 0 < pair.A.hi)
    (True, True)
    """
    level = checked_limits(level)
    seed_sd = None if seed_sd is None else checked_share("seed_sd", seed_sd)
    if recipes is not None and not isinstance(recipes, Mapping):
        raise UserError("recipes: is no mapping of run name to recipe, such as {'mine_1': 'mine'}")
    asked = runs_or_fits(runs, "compare")
    tolerance = _tolerance(asked)
    for one in asked:
        if isinstance(one, Fit):
            check_as_fitted(one, x=x)
    given = [posterior_fit(r) if isinstance(r, Fit) else fit(r, x=x, tolerance=tolerance) for r in asked]
    on_sample(given, "compare")
    groups = _groups(given, recipes)
    pooled, left_out, unused = _pooled(groups, seed_sd, level)
    usable = {name: [f for f in groups[name] if f.name in pooled[name].runs] for name in pooled}
    axis = given[0].x
    common = min(max(float(f.compute[-1]) for f in fits) for fits in usable.values())
    computes = _computes(at, common)
    by_compute = math.inf if by == "A" else compute_at(by, common, "by")
    targets = _targets(target)
    kept = [c for c in (*computes, by_compute, common) if math.isfinite(c)]
    joint = _joint(list(usable.values()), kept, seed_sd)
    if not targets:
        targets = (_reached_by_all(joint, common),)
    like = of_recipes(usable, axis)
    began = tuple(min(float(f.compute[0]) for f in fits) for fits in usable.values())
    if by_compute < min(began):
        raise UserError(f"by: {by_compute:g} {axis} lies before the first evaluation of every recipe, {min(began):g}")
    untested = like.untested({name: len(fits) for name, fits in usable.items()}, seed_sd)
    table = Table(joint, tuple(usable), like, untested, level, _starts(usable), began, seed_sd, tolerance)
    rows, pairs = rows_and_pairs(table, usable, pooled, computes, targets, by_compute)
    rows += [_row_left_out(name, groups[name], why) for name, why in left_out.items()]
    copied = {run for fits in groups.values() for run in copies(f.run for f in fits)}
    again = [f.name for f in given if any(d.code == "refitted" for d in f.findings)]
    what = f"{', '.join(again)}: fitted by another method; compared by the posterior of the same points"
    findings = [
        *([finding("refitted", what)] if again else []),
        *like.findings,
        *unused,
        *_copied(usable),
        *_before(table, [*computes, by_compute], axis),
        *_said(table, rows),
        *_untested_ahead(table, [by_compute, *computes], axis),
    ]
    return Compared(
        axis,
        by_compute,
        tuple(rows),
        tuple(pairs),
        tuple(findings),
        seed_sd,
        level,
        MappingProxyType({name: tuple(fits) for name, fits in groups.items()}),
        _with_p(_standings([f for f in given if f.name not in copied], recipes), axis, rows),
    )


def _tolerance(given: Sequence[Run | Fit]) -> float:
    """Half-width of the band that ends the reach, as the fits have it."""
    found = list(dict.fromkeys(f.tolerance for f in given if isinstance(f, Fit)))
    if len(found) > 1:
        said = ", ".join(f"{t:g}" for t in found)
        raise UserError(f"compare: the fits were made with tolerances of {said}; fit all of them with one")
    return found[0] if found else TOLERANCE


def _groups(given: Sequence[Fit], recipes: Mapping[str, str] | None) -> dict[str, list[Fit]]:
    if not given:
        raise UserError("compare: there is no run to compare")
    wrong = sorted({f.x for f in given})
    if len(wrong) > 1:
        raise UserError(f"compare: the runs are on different compute axes ({', '.join(wrong)}); choose one with x")
    named = {} if recipes is None else dict(recipes)
    if missing := sorted(set(named) - {f.name for f in given}):
        raise UserError(f"recipes: no run is called {', '.join(missing)}; there are {', '.join(f.name for f in given)}")
    groups: dict[str, list[Fit]] = {}
    for name, fits in by_recipe(given).items():
        for f in fits:
            groups.setdefault(named.get(f.name, name), []).append(f)
    if len(groups) < 2:
        what = "name the recipe of each run with recipes={run: recipe}" if len(given) > 1 else "give more runs"
        raise UserError(f"compare: {len(groups)} recipe ({', '.join(groups)}); a comparison needs two or more: {what}")
    return groups


def _pooled(
    groups: Mapping[str, list[Fit]], seed_sd: float | None, level: float
) -> tuple[dict[str, RecipeFit], dict[str, str], list[Finding]]:
    """Recipes with their values, why others are left out, and what is to be said of single runs."""
    pooled, left_out, said = {}, {}, []
    for name, fits in groups.items():
        without = {f.name: _why_no_draws(f) for f in fits if f.draws is None and f.params["B"].value is not None}
        if len(without) == len(fits):
            left_out[name] = "; ".join(f"{run}: {why}" for run, why in without.items())
            continue
        try:
            one = pool_seeds([f for f in fits if f.name not in without], seed_sd=seed_sd, level=level, recipe=name)[0]
        except UserError as error:
            left_out[name] = str(error)
            continue
        pooled[name] = replace(one, left_out=(*one.left_out, *without))
        said += [d for d in one.findings if d.code in {"seed-repeated", "settings-differ", "no-fit", *LEFT_OUT}]
        said += [finding("no-interval", f"{run}: {why}; the run is left out") for run, why in without.items()]
    if len(pooled) < 2:
        raise UserError(f"compare: fewer than two recipes have a curve; {'; '.join(left_out.values())}")
    return pooled, left_out, [*said, *_spent(pooled)]


def _spent(pooled: Mapping[str, RecipeFit]) -> list[Finding]:
    """Recipes whose runs run out of prompts, in one line."""
    spent = [name for name, one in pooled.items() if any(d.code == "prompts-spent" for d in one.findings)]
    if not spent:
        return []
    what = f"runs of {', '.join(spent)} run out of prompts that teach, so longer ones may stop below A"
    return [finding("prompts-spent", what, float(len(spent)))]


def _why_no_draws(fit: Fit) -> str:
    said = fit.findings[::-1]
    return next((d.message for d in said if d.severity != "note"), said[-1].message if said else "no draws")


def _copied(groups: Mapping[str, Sequence[Fit]]) -> list[Finding]:
    """Recipes that share a run: their difference is one of names."""
    recipe = {f.name: name for name, fits in groups.items() for f in fits}
    again = copies(f.run for fits in groups.values() for f in fits)
    return [
        finding("seed-repeated", f"{run} of {recipe[run]} holds the evaluations of {one} of {recipe[one]}")
        for run, one in again.items()
        if recipe[run] != recipe[one]
    ]


def _before(table: Table, computes: Sequence[float], x: str) -> list[Finding]:
    """Recipes that had not begun at a compute that was asked for, or where another one ends."""
    late = {
        f"{table.names[r]} (from {short(table.began[r])})": short(c)
        for c in computes
        for r in range(len(table.names))
        if r not in table.there(c)
    }
    if not late:
        return []
    what = f"at {', '.join(dict.fromkeys(late.values()))} {unit(x)} nothing is read of what begins later: "
    return [finding("not-covered", what + ", ".join(late))]


def _untested_ahead(table: Table, computes: Sequence[float], x: str) -> list[Finding]:
    """Where nobody has a P(best), because a recipe that is not tested stands above the others."""
    found: dict[str, list[str]] = {}
    for c in dict.fromkeys(computes):
        if len(table.tested) > 1 and (name := untested_ahead(table, c)):
            found.setdefault(name, []).append(f"at {short(c)} {unit(x)}" if math.isfinite(c) else "by the ceiling A")
    what = "which is not tested, stands highest: no recipe has a P(best) there"
    return [finding("not-tested", f"{' and '.join(where)} {name}, {what}") for name, where in found.items()]


def _computes(at: Any, common: float, what: str = "at") -> tuple[float, ...]:
    found = (compute_at(one, common, what) for one in several(what, at))
    return tuple(dict.fromkeys(found)) or (common,)


def _targets(target: Any) -> tuple[float, ...]:
    return tuple(dict.fromkeys(checked_share("target", one) for one in several("target", target)))


def _joint(groups: Sequence[Sequence[Fit]], kept: Sequence[float], seed_sd: float | None) -> JointDraws:
    fits = [f for group in groups for f in group]
    compute = joint_draws.grid(min(map(_first, fits)), max(float(f.compute[-1]) for f in fits), kept)
    seeds = [[draws_of(f) for f in group] for group in groups]
    lasts = [max(float(f.compute[-1]) for f in group) for group in groups]
    return joint_draws.draw_together(seeds, compute, lasts, seed_sd=seed_sd, exact=kept)


def _first(f: Fit) -> float:
    return float(f.compute[f.compute > 0.0][0])


def _starts(groups: Mapping[str, Sequence[Fit]]) -> tuple[float, ...]:
    return tuple(min(map(_first, fits)) for fits in groups.values())


def _reached_by_all(joint: JointDraws, common: float) -> float:
    least = float(joint.middle[:, joint.column(common)].min())
    return max(math.floor(100.0 * least) / 100.0, 0.01)


def _row_left_out(name: str, fits: Sequence[Fit], why: str) -> Row:
    unknown = Estimate(None)
    params = MappingProxyType(dict.fromkeys(("A", "B", "C_mid"), UNKNOWN))
    return Row(name, tuple(f.name for f in fits), params, None, 0, None, unknown, (), MappingProxyType({}), why)


def _said(table: Table, rows: Sequence[Row]) -> list[Finding]:
    found = []
    one = [name for name, why in table.untested.items() if why == ONE_SEED]
    if one:
        what = (
            f"one seed of {', '.join(one)}: differences are not tested; run more seeds or state how much seeds differ"
        )
        what += " (seed_sd, --seed-sd; the paper's three runs suggest .02); runs of one recipe are named by --recipe"
        found.append(finding("not-tested", what))
    if table.seed_sd is not None:
        found.append(
            finding("seed-sd-stated", f"seeds are taken to differ by a standard deviation of {table.seed_sd:g}")
        )
    elif not one and len(rows) > 1:
        what = "seeds of every recipe are taken to differ by the same standard deviation, estimated from all of them"
        found.append(finding("seed-sd-common", what))
    early = [row.recipe for row in rows if "2 C_mid" in row.note]
    if early:
        what = f"{', '.join(early)}: too early to know the ceiling; compare at a compute inside the data instead (at)"
        found.append(finding("grade", what, severity="warning"))
    return found


def _with_p(standings: Comparison | None, axis: str, rows: Sequence[Row]) -> Comparison | None:
    """Quote at equal compute what the table has tested there."""
    if standings is None or axis not in standings.common:
        return standings
    at = standings.common[axis]
    found = [
        r.p_best
        for row in rows
        for r in row.rates
        if row.recipe == standings.ahead[axis] and math.isclose(r.compute, at)
    ]
    if not found or found[0] is None:
        return standings
    rest = [f for f in standings.findings if f.code != "not-tested"]
    if len(standings.common) > 1:
        rest.append(finding("not-tested", "differences on the other axes are not tested"))
    return replace(standings, findings=tuple(rest), p_ahead={axis: found[0]})


def _standings(fits: Sequence[Fit], recipes: Mapping[str, str] | None) -> Comparison | None:
    named = {} if recipes is None else recipes
    again = [replace(f, run=replace(f.run, recipe=named.get(f.name, f.run.recipe))) for f in fits]
    first = fits[0].x
    axes = [first, *(a for a in EQUAL_AXES if a != first and sum(a in f.run.axes for f in fits) > 1)]
    return compare_at_equal_compute(again, axes=axes)
