"""The straight-line plot of the law and B at a common ceiling, as the paper compares recipes of one ceiling.

With A and R0 known, ln((A - R0) / (R - R0) - 1) = B ln C_mid - B ln C: a line over ln C whose slope is -B. Points at or
above A, at or below R0, or at compute 0 have no place on it; they are dropped and counted. B and C_mid can be compared
only where ceilings are the same: `same_ceiling` refits those that cannot be told from the best with one A. B is how
steep a curve is, C_mid how fast: half of the gain takes so much compute. A run that decays or falls, or whose B ends on
the edge of its range, has neither to compare: it is left out and named.

Promises: the law itself is fitted, by least squares to the pass rates; the line is drawn, not fitted to logarithms.
Source: arXiv 2510.13786, section 3 and its comparison by leaving one choice out.

Shapes: n points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from analysis.comparisons import contrasts
from analysis.comparisons.compared import Compared, Estimate
from analysis.comparisons.ranking import LOG_SCALE
from analysis.curves import leastsquares
from analysis.curves.leastsquares import Problem
from analysis.curves.solver import Array
from analysis.findings import Finding, finding
from analysis.fits.estimates import natural
from analysis.fits.estimating import spoilt_by
from analysis.fits.results import Fit
from analysis.posteriors.conditional import relative_log
from scalerl.runlog import UserError

MARGIN = 0.02  # between ceilings that are not tested; the paper's three runs of one recipe differ by at most .015
LEAST = 4  # points on a line: one more than R0, B and C_mid


@dataclass(frozen=True, eq=False)
class Line:
    """A run on the straight-line plot.

    Attributes
    ----------
    run, recipe : str
    R0, A, B, C_mid : float
        Of the curve; A is the common one.
    compute, y : array, shape (n,)
        ln((A - R0) / (R - R0) - 1) of the points that have one.
    dropped : int
        Points that have none.
    """

    run: str
    recipe: str
    R0: float
    A: float
    B: float
    C_mid: float
    compute: Array
    y: Array
    dropped: int

    def at(self, compute: Array) -> Array:
        """Return the line at a compute."""
        return np.asarray(self.B * (math.log(self.C_mid) - np.log(compute)))


@dataclass(frozen=True, eq=False)
class SameCeiling:
    """Recipes whose ceilings cannot be told apart, refitted with one A.

    Attributes
    ----------
    A : float
        Mean of the recipes' ceilings.
    recipes : tuple of str
        Steepest (largest B) first.
    B, C_mid : mapping of recipe to Estimate
        Geometric mean over its seeds; limits where a recipe has two or more.
    ratio : mapping of recipe to Estimate
        B over that of the first; limits where both have two or more seeds.
    lines : tuple of Line
    """

    x: str
    A: float
    recipes: tuple[str, ...]
    B: Mapping[str, Estimate]
    C_mid: Mapping[str, Estimate]
    ratio: Mapping[str, Estimate]
    lines: tuple[Line, ...]
    findings: tuple[Finding, ...]

    @property
    def dropped(self) -> int:
        """Points without a place on the straight-line plot."""
        return sum(line.dropped for line in self.lines)

    def to_dict(self) -> dict[str, object]:
        """Return the JSON shape."""
        return {
            "A": self.A,
            "recipes": [
                {
                    "recipe": r,
                    "B": self.B[r].to_dict(),
                    "ratio_to_first": self.ratio[r].to_dict(),
                    "C_mid": self.C_mid[r].to_dict(),
                }
                for r in self.recipes
            ],
            "dropped": self.dropped,
            "findings": [f.to_dict() for f in self.findings],
        }

    def __repr__(self) -> str:
        from analysis.comparisons.compared_tables import same_ceiling_text

        return same_ceiling_text(self)


def straight_line(compute: Array, rate: Array, R0: float, A: float) -> tuple[Array, Array, int]:
    """Return compute and ln((A - R0) / (R - R0) - 1) of the points that have one, and how many have not.

    Examples
    --------
    >>> C = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
    >>> rate = 0.1 + 0.6 / (1.0 + (2.0 / np.maximum(C, 1e-9)) ** 1.5)
    >>> at, y, dropped = straight_line(C, rate, 0.1, 0.7)
    >>> (np.diff(y) / np.diff(np.log(at))).round(6).tolist(), dropped
    ([-1.5, -1.5, -1.5], 1)
    """
    use = (compute > 0.0) & (rate > R0) & (rate < A)
    y = np.log((A - R0) / (rate[use] - R0) - 1.0)
    return compute[use], y, int((~use).sum())


def same_ceiling(compared: Compared, *, A: float | None = None) -> SameCeiling:
    """Refit B and C_mid with one A for the recipes whose ceilings the comparison does not tell from that of the best.

    Parameters
    ----------
    compared : Compared
    A : float, optional
        The common ceiling, for all recipes; by default the mean of those that are not told apart.

    Returns
    -------
    SameCeiling

    Raises
    ------
    UserError
        If no second recipe is left, or A lies outside (0, 1].

    Examples
    --------
    >>> import analysis as an
    >>> found = same_ceiling(an.compare(an.read("data/runs"), seed_sd=0.02))
    >>> found.recipes, round(found.A, 2)
    (('grpo', 'scalerl'), 0.75)
    """
    given = A
    rows = {row.recipe: row for row in compared.rows if row.params["A"].value is not None}
    runs = {name: [f for f in compared.fits[name] if f.name in row.runs] for name, row in rows.items()}
    doubts = {f.name: why for of in runs.values() for f in of if (why := _spoilt(f))}
    rows = {name: row for name, row in rows.items() if any(f.name not in doubts for f in runs[name])}
    if not rows:
        raise UserError(f"same_ceiling: no recipe has a ceiling ({_listed(doubts)})")
    best = max(rows, key=lambda name: rows[name].params["A"].value or 0.0)
    apart = {} if A is not None else {name: why for name in rows if (why := _told_apart(compared, best, name))}
    chosen = [name for name in rows if name not in apart]
    if len(chosen) < 2:
        raise UserError(f"same_ceiling: nothing shares the ceiling of {best}{_why(apart, doubts)}; say A (--ceiling)")
    if A is None:
        A = float(np.mean([v for name in chosen if (v := rows[name].params["A"].value) is not None]))
    if not 0.0 < A <= 1.0:
        raise UserError(f"same_ceiling: A {A:g} is not a pass rate above 0")
    lines: dict[str, list[Line]] = {}
    for name in chosen:
        for f in runs[name]:
            if f.name not in doubts:
                line, doubt = _line(f, name, A)
                if doubt:
                    doubts[f.name] = doubt
                else:
                    lines.setdefault(name, []).append(line)
    chosen = list(lines)
    if len(chosen) < 2:
        raise UserError(f"same_ceiling: fewer than two recipes have a line at A {A:.3g}{_why({}, doubts)}")
    logs = {name: np.array([math.log(line.B) for line in of]) for name, of in lines.items()}
    order = sorted(chosen, key=lambda name: -logs[name].mean())
    several = [name for name in order if len(logs[name]) > 1]
    findings = []
    if doubts:
        findings.append(finding("at-bound", f"left out, B would not be its speed: {_listed(doubts)}"))
    if len(several) < len(order):
        one = ", ".join(name for name in order if name not in several)
        findings.append(finding("one-seed", f"one seed of {one}: B has no limits, and the order is not tested"))
    untested = [name for name in order if name != best and not _tested(compared, best, name)] if best in order else []
    if untested:
        what = f"not tested: that {', '.join(untested)} and {best} have one ceiling is assumed"
        near = f", as theirs lie within {MARGIN:g} of each other (the paper's runs of one recipe: .015)"
        findings.append(finding("not-tested", what + (near if given is None else "")))
    B, tau = _over_seeds(logs, compared.level)
    C_mid, _ = _over_seeds({r: np.array([math.log(line.C_mid) for line in lines[r]]) for r in order}, compared.level)
    first = order[0]
    ratio = {r: Estimate(math.exp(float(logs[r].mean() - logs[first].mean()))) for r in order}
    for name in several:
        if tau is not None and first in several and name != first:
            none, other = np.zeros(len(logs[name])), np.zeros(len(logs[first]))
            found = contrasts.difference(logs[name], logs[first], none, other, tau, compared.level)
            ratio[name] = Estimate(*(math.exp(float(v)) for v in (found.value, found.lo, found.hi)))
    return SameCeiling(
        compared.x,
        A,
        tuple(order),
        MappingProxyType(B),
        MappingProxyType(C_mid),
        MappingProxyType(ratio),
        tuple(line for name in order for line in lines[name]),
        tuple(findings),
    )


def _over_seeds(logs: Mapping[str, Array], level: float) -> tuple[dict[str, Estimate], contrasts.Spread | None]:
    """Geometric means over seeds, with limits where a recipe has several, and what seeds differ by."""
    found = {name: Estimate(math.exp(float(of.mean()))) for name, of in logs.items()}
    several = [name for name, of in logs.items() if len(of) > 1]
    if not several:
        return found, None
    tau = contrasts.spread([logs[n] for n in several], [np.zeros(len(logs[n])) for n in several], scale=LOG_SCALE)
    for name in several:
        se = np.maximum(tau.tau, 1e-9) / math.sqrt(len(logs[name]))
        middle, half = float(logs[name].mean()), float(contrasts.half_width(se, tau.weight, level))
        found[name] = Estimate(math.exp(middle), math.exp(middle - half), math.exp(middle + half))
    return found, tau


def _spoilt(f: Fit) -> str:
    said = {d.code for d in f.findings}
    return spoilt_by(said)


def _tested(compared: Compared, best: str, name: str) -> bool:
    A = compared.pair(best, name).A
    return A.lo is not None and A.hi is not None


def _told_apart(compared: Compared, best: str, name: str) -> str:
    """Why a recipe's ceiling is not that of the best; empty where it may be."""
    if name == best:
        return ""
    A = compared.pair(best, name).A
    if A.lo is not None and A.hi is not None:
        return "" if A.lo <= 0.0 <= A.hi else "told from it"
    return "" if A.value is not None and abs(A.value) <= MARGIN else f"more than {MARGIN:g} away, not tested"


def _why(apart: Mapping[str, str], doubts: Mapping[str, str]) -> str:
    said = _listed({**apart, **doubts})
    return f" ({said})" if said else ""


def _listed(whys: Mapping[str, str]) -> str:
    """Names by what is said of them."""
    by_why: dict[str, list[str]] = {}
    for name, why in whys.items():
        by_why.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_why.items())


def _line(f: Fit, recipe: str, A: float) -> tuple[Line, str]:
    """Least squares with A held; and why that line is none, empty if it is one."""
    log_c, unit = relative_log(f.compute)
    problem = Problem(log_c, f.pass_rate)
    box = leastsquares.default_box(np.exp(log_c)).fix(1, A)
    best = problem.fit(box)
    values = natural(best.theta + np.array([0.0, 0.0, 0.0, unit]))
    compute, y, dropped = straight_line(f.compute, f.pass_rate, values["R0"], A)
    why = ""
    if np.isclose(best.theta[2:], box.low[2:]).any() or np.isclose(best.theta[2:], box.high[2:]).any():
        why = f"B {values['B']:.3g} or C_mid lies on the edge of its range"
    elif len(np.unique(compute)) < LEAST:
        why = f"{dropped} of {f.n} points have no place on the line"
    return Line(f.name, recipe, values["R0"], A, values["B"], values["C_mid"], compute, y, dropped), why
