"""The straight-line plot of the law and B at a common ceiling, as the paper compares recipes of one ceiling.

With A and R0 known, ln((A - R0) / (R - R0) - 1) = B ln C_mid - B ln C: a line over ln C whose slope is -B. Points at or
above A, at or below R0, or at compute 0 have no place on it; they are dropped and counted. B alone says which recipe is
faster only where ceilings are the same: `same_ceiling` refits those that cannot be told from the best with one A.

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
from analysis.fits.results import Fit
from analysis.posteriors.conditional import relative_log
from scalerl.runlog import UserError


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
        Fastest (largest B) first.
    B : mapping of recipe to Estimate
        Geometric mean over its seeds; limits where a recipe has two or more.
    ratio : mapping of recipe to Estimate
        B over that of the first; limits where both have two or more seeds.
    lines : tuple of Line
    """

    x: str
    A: float
    recipes: tuple[str, ...]
    B: Mapping[str, Estimate]
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
                {"recipe": r, "B": self.B[r].to_dict(), "ratio_to_first": self.ratio[r].to_dict()} for r in self.recipes
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
    """Refit B with one A for the recipes whose ceilings the comparison does not tell from that of the best.

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
    rows = {row.recipe: row for row in compared.rows if row.params["A"].value is not None}
    best = max(rows, key=lambda name: rows[name].params["A"].value or 0.0)
    chosen = [name for name in rows if name == best or A is not None or not _told_apart(compared, best, name)]
    if len(chosen) < 2:
        raise UserError(
            f"same_ceiling: the ceiling of {best} is told from that of every other recipe; say A (--ceiling)"
        )
    if A is None:
        A = float(np.mean([v for name in chosen if (v := rows[name].params["A"].value) is not None]))
    if not 0.0 < A <= 1.0:
        raise UserError(f"same_ceiling: A {A:g} is not a pass rate above 0")
    lines = {name: [_line(f, name, A) for f in compared.fits[name] if f.name in rows[name].runs] for name in chosen}
    logs = {name: np.array([math.log(line.B) for line in of]) for name, of in lines.items()}
    order = sorted(chosen, key=lambda name: -logs[name].mean())
    several = [name for name in order if len(logs[name]) > 1]
    findings = []
    if len(several) < len(order):
        one = ", ".join(name for name in order if name not in several)
        findings.append(finding("one-seed", f"one seed of {one}: B has no limits, and the order is not tested"))
    if not compared.tested:
        what = "ceilings were not tested: that these recipes share one is assumed"
        findings.append(finding("not-tested", what))
    B, ratio = {}, {}
    known = None
    if several:
        zero = [np.zeros(len(logs[name])) for name in several]
        known = contrasts.spread([logs[name] for name in several], zero, scale=LOG_SCALE)
    first = order[0]
    for name in order:
        B[name] = ratio[name] = Estimate(math.exp(float(logs[name].mean())))
        ratio[name] = Estimate(math.exp(float(logs[name].mean() - logs[first].mean())))
        if known is not None and name in several:
            se = np.maximum(known.tau, 1e-9) / math.sqrt(len(logs[name]))
            half = float(contrasts.half_width(se, known.weight, compared.level))
            middle = float(logs[name].mean())
            B[name] = Estimate(math.exp(middle), math.exp(middle - half), math.exp(middle + half))
            if name != first and first in several:
                none, other = np.zeros(len(logs[name])), np.zeros(len(logs[first]))
                apart = contrasts.difference(logs[name], logs[first], none, other, known, compared.level)
                ratio[name] = Estimate(*(math.exp(float(v)) for v in (apart.value, apart.lo, apart.hi)))
    return SameCeiling(
        compared.x,
        A,
        tuple(order),
        MappingProxyType(B),
        MappingProxyType(ratio),
        tuple(line for name in order for line in lines[name]),
        tuple(findings),
    )


def _told_apart(compared: Compared, best: str, name: str) -> bool:
    pair = compared.pair(best, name)
    if pair.A.lo is not None and pair.A.hi is not None:
        return not pair.A.lo <= 0.0 <= pair.A.hi
    margin = 0.02  # the paper's: its three runs of one recipe differ by at most .015
    return pair.A.value is None or abs(pair.A.value) > margin


def _line(f: Fit, recipe: str, A: float) -> Line:
    """Least squares with A held."""
    log_c, unit = relative_log(f.compute)
    problem = Problem(log_c, f.pass_rate)
    box = leastsquares.default_box(np.exp(log_c)).fix(1, A)
    best = problem.fit(box)
    values = natural(best.theta + np.array([0.0, 0.0, 0.0, unit]))
    compute, y, dropped = straight_line(f.compute, f.pass_rate, values["R0"], A)
    return Line(f.name, recipe, values["R0"], A, values["B"], values["C_mid"], compute, y, dropped)
