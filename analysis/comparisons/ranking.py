"""Rows and pairs of a comparison, read off curves that were drawn together. See `analysis.comparisons.comparing`.

Promises: every figure of a difference comes from one test or one set of draws; what is not tested is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

import numpy as np

from analysis.comparisons import contrasts, joint_draws
from analysis.comparisons.compared import Estimate, Pair, PairAt, PairTo, Rate, Row
from analysis.comparisons.joint_draws import JointDraws
from analysis.comparisons.likeness import Likeness
from analysis.curves.solver import Array
from analysis.fits.results import Fit
from analysis.pooled.recipes import RecipeFit
from analysis.posteriors.draws import Draws
from analysis.predict.reaches import Reach, recipe_reach
from scalerl.runlog import UserError

LOG_SCALE = 0.1  # of the prior of how ln B and ln C_mid differ between seeds
LOG_PRIOR_SD = 0.7  # of ln B, as its prior is; of ln C_mid too, for the lean


@dataclass(frozen=True, eq=False)
class Table:
    """Everything that rows and pairs are read off; recipes by place."""

    joint: JointDraws
    names: tuple[str, ...]
    like: Likeness
    untested: Mapping[str, str]
    level: float
    starts: tuple[float, ...]
    began: tuple[float, ...]
    seed_sd: float | None
    tolerance: float

    @property
    def tested(self) -> list[int]:
        """Places of the recipes that are compared with others."""
        return [r for r, name in enumerate(self.names) if name not in self.untested]

    def there(self, compute: float) -> list[int]:
        """Places of the recipes that were evaluated at that compute or before it: no curve is read back from there."""
        return [r for r, began in enumerate(self.began) if began <= compute]

    def difference(self, i: int, j: int, column: int) -> contrasts.Interval:
        """First - second at a kept compute, by the test."""
        values, own, known = self.joint.values, self.joint.own, self.joint.known
        if known is None:
            raise UserError("nothing is known of how seeds differ: differences are not tested")
        at = slice(column, column + 1)
        here = contrasts.Spread(known.tau, known.weight[at])
        common = self.joint.common[[i, j], column].sum() + self.like.prompt_variance(self.names[i], self.names[j])
        return contrasts.difference(
            values[i][:, at], values[j][:, at], own[i][:, at], own[j][:, at], here, self.level, common=common
        )


def rows_and_pairs(  # noqa: PLR0917
    table: Table,
    groups: Mapping[str, Sequence[Fit]],
    pooled: Mapping[str, RecipeFit],
    computes: Sequence[float],
    targets: Sequence[float],
    by: float,
) -> tuple[list[Row], list[Pair]]:
    """Return the rows, best first at `by`, and the pairs in that order."""
    joint, names = table.joint, table.names
    there = {c: table.there(c) for c in [*computes, by, math.inf]}
    best_first = np.argsort(-joint.middle[:, joint.column(by)], kind="stable")
    order = sorted((int(r) for r in best_first), key=lambda r: r not in there[by])
    curves = with_prompts(table)
    shrunk = {c: _shrunk(table, curves, joint.column(c)) for c in dict.fromkeys([*computes, by, math.inf])}
    shares = {c: _p_best(table, draws, there[c], c) for c, draws in shrunk.items()}
    reached = {t: [joint_draws.compute_to(c, joint.compute, t) for c in curves] for t in targets}
    value = {t: joint_draws.compute_to(joint.middle, joint.compute, t) for t in targets}
    logs = {name: _Logs.of(groups, name) for name in ("B", "C_mid")}
    rows = []
    for r in order:
        name, fits = names[r], groups[names[r]]
        tested = name not in table.untested
        reach = recipe_reach(fits, table.tolerance, table.level)
        to_best = Estimate(0.0) if r == order[0] else _difference(table, order[0], r, joint.column(by), turned=True)
        to_best = to_best if {order[0], r} <= set(there[by]) else Estimate(None)
        rows.append(
            Row(
                name,
                pooled[name].runs,
                pooled[name].params,
                None if reach is None else reach.value,
                0 if reach is None else reach.origins,
                shares[by][r],
                to_best,
                tuple(
                    Rate(c, _rate(table, r, joint.column(c)), shares[c][r], _known_to(fits, reach) < c)
                    if r in there[c]
                    else Rate(c, Estimate(None), None)
                    for c in computes
                ),
                MappingProxyType(
                    {t: _drawn(float(value[t][r]), reached[t][r] if tested else None, table.level) for t in targets}
                ),
                _note(pooled[name], fits, table),
            )
        )
    pairs = []
    for i, j in combinations(order, 2):
        why = table.untested.get(names[i]) or table.untested.get(names[j]) or table.like.why(names[i], names[j])
        tested = not why
        infinite = joint.column(math.inf)
        A, p = _with_p(table, i, j, infinite, tested)
        lead = (curves[i] - curves[j]) if tested else None
        start = max(table.starts[i], table.starts[j])
        crossover = joint_draws.lead_from((joint.middle[i] - joint.middle[j])[None], joint.compute, start)
        drawn = None if lead is None else joint_draws.lead_from(lead, joint.compute, start)
        pairs.append(
            Pair(
                names[i],
                names[j],
                tested,
                A,
                p,
                _better(shrunk[math.inf], i, j) if tested else None,
                logs["B"].ratio(names[i], names[j], table.level, tested=tested),
                logs["C_mid"].ratio(names[i], names[j], table.level, tested=tested),
                tuple(
                    PairAt(
                        c,
                        _with_p(table, i, j, joint.column(c), tested)[0],
                        _better(shrunk[c], i, j) if tested else None,
                    )
                    if {i, j} <= set(there[c])
                    else PairAt(c, Estimate(None), None)
                    for c in computes
                ),
                tuple(
                    _speed_up(t, value[t][[i, j]], (reached[t][i], reached[t][j]) if tested else None, table.level)
                    for t in targets
                ),
                _drawn(float(crossover[0]), drawn, table.level),
                why,
            )
        )
    return rows, pairs


def _known_to(fits: Sequence[Fit], reach: Reach | None) -> float:
    """Compute up to which the recipe's curve is known: its reach from the least of its seeds' last computes on."""
    last = min(float(f.compute[-1]) for f in fits)
    return last if reach is None else last * reach.value


def with_prompts(table: Table) -> Array:
    """Curves of each recipe, with what its prompts add where those of tested recipes differ, (R, M, G).

    One normal deviate for each set of prompts: what it adds to two recipes on the same prompts is the same.
    """
    curves = np.array(table.joint.curves)
    tested = table.tested
    curves[tested] += table.like.prompt_shifts([table.names[r] for r in tested], curves.shape[1])[:, :, None]
    return curves


def _shrunk(table: Table, curves: Array, column: int) -> Array:
    """Draws (R, M) at a compute; those of tested recipes shrunk together, whatever else stands in the table."""
    joint, tested = table.joint, table.tested
    draws = np.array(curves[:, :, column])
    own = np.diag([joint.variance(r)[column] for r in tested])
    covariance = own + table.like.prompt_covariance([table.names[r] for r in tested])
    middle = joint.middle[tested, column]
    draws[tested] = contrasts.shrunk(draws[tested], middle, covariance, np.random.default_rng(17))
    return draws


def untested_ahead(table: Table, compute: float) -> str:
    """Return the recipe that is not tested and stands above those that are, at a compute; empty where none does.

    Nobody has a P(best) there: it would be one among the tested alone.
    """
    there = table.there(compute)
    middle = table.joint.middle[:, table.joint.column(compute)]
    first = max(there, key=lambda r: float(middle[r]), default=None)
    return "" if first is None or first in table.tested else table.names[first]


def _p_best(table: Table, draws: Array, there: Sequence[int], compute: float) -> list[float | None]:
    tested = [r for r in table.tested if r in there]
    if len(tested) < 2 or untested_ahead(table, compute):
        return [None] * len(table.names)
    winner = np.array(tested)[draws[tested].argmax(axis=0)]
    return [float((winner == r).mean()) if r in tested else None for r in range(len(table.names))]


def _better(draws: Array, i: int, j: int) -> float:
    return float((draws[i] > draws[j]).mean())


def _with_p(table: Table, i: int, j: int, column: int, tested: bool) -> tuple[Estimate, float | None]:
    if not tested:
        middle = table.joint.middle[:, column]
        return Estimate(float(middle[i] - middle[j])), None
    found = table.difference(i, j, column)
    lo, hi = max(float(found.lo[0]), -1.0), min(float(found.hi[0]), 1.0)  # of two pass rates
    return Estimate(float(found.value[0]), lo, hi), float(found.p[0])


def _difference(table: Table, i: int, j: int, column: int, *, turned: bool) -> Estimate:
    names = table.names
    tested = not {names[i], names[j]} & set(table.untested) and not table.like.why(names[i], names[j])
    found = _with_p(table, i, j, column, tested)[0]
    if not turned or found.value is None:
        return found
    return Estimate(-found.value, None if found.hi is None else -found.hi, None if found.lo is None else -found.lo)


def _rate(table: Table, r: int, column: int) -> Estimate:
    joint = table.joint
    value = float(joint.middle[r, column])
    if table.names[r] in table.untested or joint.known is None:
        return Estimate(value)
    weight = joint.known.weight[column : column + 1]
    own = joint.own[r][:, column : column + 1].mean(axis=0)
    each = (joint.known.tau**2 + contrasts.OWN * own[:, None]) / len(joint.values[r])
    se = np.sqrt(each + joint.common[r, column])
    half = float(contrasts.half_width(se, weight, table.level)[0])
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def _drawn(value: float, draws: Array | None, level: float) -> Estimate:
    return Estimate(value) if draws is None else Estimate(value, *joint_draws.limits(draws, level))


def _speed_up(target: float, value: Array, reached: tuple[Array, Array] | None, level: float) -> PairTo:
    own = _over(value[1:], value[:1])
    ratio = None if not len(own) else float(own[0])
    if reached is None:
        return PairTo(target, Estimate(ratio), None)
    draws = _over(reached[1], reached[0])
    neither = 1.0 - len(draws) / len(reached[0])
    lo, hi = joint_draws.limits(draws, level) if neither < 0.5 else (None, None)
    return PairTo(target, Estimate(ratio, lo, hi), neither)


def _over(second: Array, first: Array) -> Array:
    """Ratio on [0, infinity] where there is one: not of two computes that are both never or both 0."""
    none = (np.isinf(first) & np.isinf(second)) | ((first == 0.0) & (second == 0.0))
    first, second = first[~none], second[~none]
    with np.errstate(divide="ignore"):
        return np.where(np.isinf(second), np.inf, second / first)


@dataclass(frozen=True, eq=False)
class _Logs:
    """Medians and variances of ln B or ln C_mid of each recipe's seeds."""

    values: Mapping[str, Array]
    own: Mapping[str, Array]
    known: contrasts.Spread | None

    @staticmethod
    def of(groups: Mapping[str, Sequence[Fit]], name: str) -> _Logs:
        values, own = {}, {}
        for recipe, fits in groups.items():
            logs = [_log_median(draws_of(f), name) for f in fits]
            values[recipe], own[recipe] = (np.array(v) for v in zip(*logs, strict=True))
        several = max(map(len, values.values())) > 1  # a stated seed sd is one of pass rates
        known = contrasts.spread(list(values.values()), list(own.values()), scale=LOG_SCALE) if several else None
        return _Logs(values, own, known)

    def ratio(self, first: str, second: str, level: float, *, tested: bool) -> Estimate:
        """Ratio of two recipes with the test's interval of its logarithm."""
        values = [self.values[r] for r in (first, second)]
        if not tested or self.known is None:
            return Estimate(math.exp(float(values[0].mean() - values[1].mean())))
        own = [self.own[r] for r in (first, second)]
        common = sum(contrasts.lean(v, LOG_PRIOR_SD) for v in own)
        found = contrasts.difference(values[0], values[1], own[0], own[1], self.known, level, common=common)
        return Estimate(*(math.exp(float(v)) for v in (found.value, found.lo, found.hi)))


def _log_median(d: Draws, name: str) -> tuple[float, float]:
    logs = np.log(getattr(d, name))
    middle = float(d.quantile(logs, [0.5])[0])
    return middle, d.moments(logs)[1]


def _note(pooled: RecipeFit, fits: Sequence[Fit], table: Table) -> str:
    """When not to trust a row, in words."""
    said = [table.untested[pooled.recipe]] if pooled.recipe in table.untested else []
    A = pooled.params["A"]
    if not A.identified and A.why:
        said.append(f"ceiling not known: {A.why}")
    doubts = dict.fromkeys(f.code for one in fits for f in one.findings if f.severity != "note")
    if pooled.left_out:
        said.append(f"{', '.join(pooled.left_out)} left out")
    doubts |= {f.code: None for f in pooled.findings if f.code == "seed-repeated"}
    told = ", ".join(code for code in doubts if code not in {"grade"})
    if told:
        said.append(told)
    return "; ".join(said)


def draws_of(f: Fit) -> Draws:
    """Return the draws of a fit that has some to trust."""
    if (found := f.trusted_draws) is None:
        raise UserError(f"{f.name}: its fit has no draws to compare")
    return found
