"""How often is a comparison of two recipes wrong, and how often does it see a difference?

Run ``python -m benchmarks.compare_pairs`` first (hours on one core; it may be cut off), then
``python -m benchmarks.compare``, which reads what is there: seconds for a hundred pairs. Tables: size (recipes of one
ceiling: share of 95 % intervals of the difference that leave out 0), power at a difference of .05 beside the best that
any unbiased test could do, and coverage of differences, speed-up ratios and crossovers. A bar is missed only where
the 99.9 % interval of a share lies wholly outside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from analysis.comparisons.contrasts import difference, lean, spread
from analysis.comparisons.joint_draws import JointDraws, compute_to, draw_together, grid, lead_from, limits
from analysis.curves.curve import R
from analysis.curves.families import SIGMOID, Array
from analysis.curves.whitening import ar1
from analysis.posteriors.draws import Draws
from benchmarks.compare_pairs import GAP, POINTS, RHO, SEED_SD, load, load_shared, recipes
from benchmarks.simulate import NOISE, Wilson, wilson

LEVEL = 0.95
SEEDS = (3, 5)
TARGETS = (0.5, 0.9)  # shares of the gain of the lower ceiling


def differences(first: Array, second: Array, seeds: int, *, at: int = 1) -> tuple[Array, Array, Array]:
    """Difference second - first and its limits for a table of pairs; `first`, `second` (pairs, 5, draws, 4)."""
    values, own = [], []
    for draws in (first, second):
        one = np.moveaxis(draws[:, :seeds, :, at].astype(float), 0, -1)  # (seeds, draws, pairs)
        values.append(np.median(one, axis=1))
        own.append(one.var(axis=1))
    known = spread(values, own)
    found = difference(values[1], values[0], own[1], own[0], known, LEVEL, common=lean(own[0]) + lean(own[1]))
    return found.value, found.lo, found.hi


def best_power(first: Array, second: Array, seeds: int, *, start_known: bool = False) -> float:
    """Mean power of a z test that knows tau, maybe R0 too, and estimates each curve as well as Cramer and Rao allow.

    Parameters are (pairs, 4): R0, A, B and k.
    """
    powers = []
    for a, b in zip(first, second, strict=True):
        variance = sum((SEED_SD**2 + _least(p, start_known)) / seeds for p in (a, b))
        powers.append(float(ndtr(GAP / np.sqrt(variance) - 1.959964)))
    return float(np.mean(powers))


def _least(params: Array, start_known: bool) -> float:
    """Least variance of A from a run to k C_mid; `params` with k in the place of C_mid."""
    own = np.array([*params[:3], 1.0])
    compute = np.linspace(0.1, params[3], POINTS)
    first = int(start_known)
    whitened = ar1(np.arange(POINTS, dtype=float), RHO)(SIGMOID.gradient(compute, own).T[first:]) / NOISE
    return float(np.linalg.inv(whitened @ whitened.T)[1 - first, 1 - first])


def _ending(params: Array, k: float) -> Array:
    """R0, A, B and k of (pairs, 4) parameters."""
    return np.column_stack([params[:, :3], np.full(len(params), k)])


class Hit(NamedTuple):
    """Whether an interval holds the truth, and whether it counts."""

    name: str
    held: bool


def of_pair(k: float, draws: Sequence[Array], params: Sequence[Array], seeds: int) -> list[Hit]:
    """Coverage of everything that a comparison says of one pair; `draws` two of (5, draws, 4), `params` two of (4,)."""
    lasts = [k * float(p[3]) for p in params]
    compute = grid(0.1 * min(float(p[3]) for p in params), max(lasts), [min(lasts), 2.0 * min(lasts)])
    joint = draw_together([[_as_draws(s) for s in of[:seeds]] for of in draws], compute, lasts)
    truth = [R(compute, *p) for p in params]
    hits = []
    for name, c in (("A", np.inf), ("at the common compute", min(lasts)), ("at 2x of it", 2.0 * min(lasts))):
        at = joint.column(c)
        d = truth[1][at] - truth[0][at]
        lo, hi = _limits_at(joint, at)
        hits.append(Hit(f"difference {name}", lo <= d <= hi))
        lo, hi = limits(joint.curves[1][:, at] - joint.curves[0][:, at], LEVEL)
        hits.append(Hit(f"its draws {name}", lo <= d <= hi))
    start = max(0.1 * float(p[3]) for p in params)
    low = min(params, key=lambda p: float(p[1]))
    for share in TARGETS:
        target = float(low[0] + share * (low[1] - low[0]))
        reached = [compute_to(c, compute, target) for c in joint.curves]
        true = [float(compute_to(t[None], compute, target)[0]) for t in truth]
        for r in (0, 1):
            lo, hi = limits(reached[r], LEVEL)
            hits.append(Hit(f"compute to {share:g} of the gain", lo * 0.999 <= true[r] <= hi * 1.001))
        both = np.isinf(reached[0]) & np.isinf(reached[1])
        if both.mean() < 0.1 and true[1] > 0.0:  # past the target before the first compute: no ratio
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(np.isinf(reached[0]), np.inf, reached[0] / reached[1])[~both]
            lo, hi = limits(ratio, LEVEL)
            hits.append(Hit(f"ratio to {share:g} of the gain", lo * 0.999 <= true[0] / true[1] <= hi * 1.001))
    winner = int(params[1][1] > params[0][1])
    lead = joint.curves[winner] - joint.curves[1 - winner]
    found = lead_from(lead, compute, start)
    true_at = float(lead_from((truth[winner] - truth[1 - winner])[None], compute, start)[0])
    lo, hi = limits(found, LEVEL)
    held = lo * 0.999 <= true_at <= hi * 1.001
    hits.append(Hit("crossover, never and 0 as values", held))
    if ((found > 0.0) & np.isfinite(found)).mean() > 0.9:
        hits.append(Hit("crossover where it exists (P > .9)", held))
    return hits


def _as_draws(table: Array) -> Draws:
    R0, A, lnB, lnC = table.astype(float).T
    none = np.zeros(len(table))
    return Draws(R0, A, np.exp(lnB), np.exp(lnC), none, none, np.full(len(table), 1.0 / len(table)))


def _limits_at(joint: JointDraws, at: int) -> tuple[float, float]:
    values, own = ([v[:, at] for v in of] for of in (joint.values, joint.own))
    common = joint.common[:, at].sum()
    found = difference(values[1], values[0], own[1], own[0], spread(values, own), LEVEL, common=common)
    return float(found.lo), float(found.hi)


class Row(NamedTuple):
    """A share beside its bar."""

    k: float
    seeds: int
    name: str
    share: Wilson
    pairs: int
    low: float
    high: float
    beside: str = ""

    @property
    def ok(self) -> bool:
        return self.share.high >= self.low and self.share.low <= self.high

    def __str__(self) -> str:
        bar = "" if (self.low, self.high) == (0.0, 1.0) else f"{100 * self.low:.0f}-{100 * self.high:.0f}"
        return (
            f"{self.k:<4g}{self.seeds:<6}{self.name:<42}{self.share!s:<24}{self.pairs:>6}{bar:>8}"
            f"{'' if self.ok else '  missed'}  {self.beside}".rstrip()
        )


def size(k: float, work: Path) -> list[Row]:
    """Share of intervals of the difference that leave out 0 where both recipes have one ceiling."""
    data = load(k, work, ("first", "equal"))
    rows = []
    for n in SEEDS if data else ():
        _, lo, hi = differences(data["first_draws"], data["equal_draws"], n)
        wrong = (lo > 0.0) | (hi < 0.0)
        bar = (0.03, 0.07) if k >= 5.0 else (0.0, 0.07)
        rows.append(Row(k, n, "equal ceilings: 0 left out", wilson(int(wrong.sum()), len(wrong)), len(wrong), *bar))
    return rows


def powers(k: float, work: Path) -> list[Row]:
    """Share that sees a difference of .05."""
    rows = []
    for kind, name in (("gap", "other B and C_mid"), ("gap_same", "same R0, B and C_mid")):
        data = load(k, work, ("first", kind))
        for n in SEEDS if data else ():
            _, lo, _ = differences(data["first_draws"], data[f"{kind}_draws"], n)
            least = {3: 0.75, 5: 0.95}[n] if k >= 5.0 else 0.0
            best = best_power(*(_ending(data[f"{of}_params"], k) for of in ("first", kind)), n)
            share = wilson(int((lo > 0.0).sum()), len(lo))
            rows.append(
                Row(k, n, f"a gap of .05 seen, {name}", share, len(lo), least, 1.0, f"best possible {best:.2f}")
            )
    return rows


def shared_powers(k: float, work: Path) -> list[Row]:
    """Size, and the share that sees a difference of .05, where all runs share their R0."""
    data, rows = load_shared(k, work), []
    for n in SEEDS if "equal-3_draws" in data else ():
        _, lo, hi = differences(data[f"equal-{n}-first_draws"], data[f"equal-{n}_draws"], n)
        wrong = (lo > 0.0) | (hi < 0.0)
        share = wilson(int(wrong.sum()), len(wrong))
        rows.append(Row(k, n, "equal ceilings, R0 shared: 0 left out", share, len(wrong), 0.0, 0.07))
    for kind, name in (("gap", "other B and C_mid"), ("gap_same", "same B and C_mid")):
        for n in SEEDS if data else ():
            _, lo, _ = differences(data[f"{kind}-{n}-first_draws"], data[f"{kind}-{n}_draws"], n)
            least = {3: 0.75, 5: 0.95}[n] if k >= 5.0 else 0.0
            share = wilson(int((lo > 0.0).sum()), len(lo))
            params = [np.stack([recipes(k, i)[of] for i in range(len(lo))]) for of in ("first", kind)]
            best = best_power(*(_ending(p, k) for p in params), n, start_known=True)
            said = f"best possible {best:.2f}"
            rows.append(Row(k, n, f"the same, R0 shared, {name}", share, len(lo), least, 1.0, said))
    return rows


def coverage(k: float, work: Path, most: int, kinds: Sequence[str] = ("equal", "apart")) -> list[Row]:
    """Share of intervals that hold the truth."""
    rows = []
    for kind in kinds:
        data = load(k, work, ("first", kind), most)
        for n in SEEDS if data else ():
            hits: dict[str, list[bool]] = {}
            for i in range(min(len(data["first_draws"]), most)):
                both = [data[f"{of}_draws"][i] for of in ("first", kind)]
                for hit in of_pair(k, both, [data[f"{of}_params"][i] for of in ("first", kind)], n):
                    hits.setdefault(hit.name, []).append(hit.held)
            for name, held in hits.items():
                bar = (0.93, 0.98) if kind == "apart" and k >= 2.0 else (0.0, 1.0)
                rows.append(Row(k, n, f"{kind}: {name}", wilson(sum(held), len(held)), len(held), *bar))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; the exit status says whether every bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--k", type=float, nargs="+", default=[5.0, 3.0, 2.0, 1.0])
    parser.add_argument("--work", type=Path, default=Path("build/compare"))
    parser.add_argument("--coverage", type=int, default=1000, help="pairs for coverage, which takes 60 ms each")
    options = parser.parse_args(arguments)
    print(f"{'k':<4}{'seeds':<6}{'figure':<42}{'%, 99.9 %':<24}{'pairs':>6}{'bar':>8}")
    ok = True
    for k in options.k:
        tables = (size, powers, shared_powers, partial(coverage, most=options.coverage))
        for row in (row for table in tables for row in table(k, options.work)):
            print(row, flush=True)
            ok &= row.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
