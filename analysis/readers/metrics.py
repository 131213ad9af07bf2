"""Which column is the pass rate, and how its values become fractions.

Promises: a column is taken without being named only where its name says what it is (``pass_rate``, ``accuracy``) or
where the format is known to hold evaluations in it and it is the only one; everything else is asked for, with the
likely columns named. Sums of rewards are never scaled by themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.findings import Finding, finding
from analysis.readers.cleaning import Table, figures, known_figures, printable
from analysis.readers.columns import rates_of
from analysis.readers.csvfile import choose
from analysis.readers.found import Found
from scalerl.runlog import UserError

PASS_RATE_COLUMNS = ("pass_rate", "accuracy")
# Names that verl, SkyRL, OpenRLHF and prime-rl give evaluations: stores and tables do not say who wrote them.
STORED = tuple(
    re.compile(pattern)
    for pattern in (
        r"^val-core/.*/(?:acc|reward)/mean@\d+$",
        r"^val/test_score/",
        r"^eval/(?:.*/)?(?:pass_at_1|pass@1|avg_score|avg@\d+|pass_rate|accuracy)$",
        r"^eval_.*_pass1$",
    )
)
_EVALUATED = re.compile(r"(^|[^a-z])(eval|evaluation|val|valid|validation|test|heldout)([^a-z]|$)")
_RIGHT = re.compile(r"(^|[^a-z])(acc|accuracy|pass|pass_?rate|correct|correctness|solve|solved|success|win)([^a-z]|$)")
_SCORE = re.compile(r"(^|[^a-z])(score|rewards?|mean)([^a-z]|$)")
_OTHER = re.compile(
    r"loss|std|incorrect|wrong|error|brevity|penalty|pass_?through"
    r"|(^|[^a-z])(lr|min|max|kl|format|length|len|time|tokens?)([^a-z]|$)"
)


class Candidate(NamedTuple):
    """A column that may be a pass rate, how likely it is by its name, and what its values run from and to."""

    column: str
    points: int
    low: float
    high: float
    rows: int

    @property
    def evaluated(self) -> bool:
        """Whether its name says that it is of an evaluation and not of training completions."""
        return bool(_EVALUATED.search(self.column.lower()))


def candidates(table: Table, ignored: Sequence[str] = ()) -> list[Candidate]:
    """Return the columns that may be pass rates, the likeliest first.

    Examples
    --------
    >>> table = Table("a", {"step": [1, 2], "reward": [0.5, 2.0], "eval_acc": [0.1, 0.2], "loss": [1, 1]}, [1, 2])
    >>> [c.column for c in candidates(table)]
    ['eval_acc', 'reward']
    """
    found = []
    for name, cells in table.columns.items():
        low = name.lower()
        right, evaluated, score = (bool(p.search(low)) for p in (_RIGHT, _EVALUATED, _SCORE))
        points = 4 * right + 3 * evaluated + score
        if name in ignored or not (right or score) or _OTHER.search(low):
            continue
        known = known_figures(cells)
        if not known:
            continue
        unit = min(known) >= 0.0 and max(known) <= 1.0
        found.append(Candidate(name, points + 2 * unit, min(known), max(known), len(known)))
    return sorted(found, key=lambda c: -c.points)


def _is_rate(name: str, table: Table) -> bool:
    return name in table.columns and not _OTHER.search(name.lower()) and bool(known_figures(table.columns[name]))


def _differ(table: Table, one: str, other: str) -> bool:
    """Whether two columns hold other figures in any row."""
    a, b = (np.array(figures(table.columns[name]), dtype=float) for name in (one, other))
    return not np.array_equal(a, b, equal_nan=True)


def choose_rate(found: Found, y: str | None) -> tuple[str, list[Finding]]:
    """Return the column of the pass rate and what is to be said of the choice.

    Parameters
    ----------
    found : Found
    y : str, optional
        The column that was asked for.

    Raises
    ------
    UserError
        If no column can be taken without being asked for; it names the likely ones.
    """
    table = found.table
    if y is not None:
        column = choose(table, y, PASS_RATE_COLUMNS, "pass-rate", "--y")
        return column, _of_training(found, column)
    rates = [name for name in found.rates or rates_of(table.columns, STORED) if _is_rate(name, table)]
    if there := [name for name in PASS_RATE_COLUMNS if name in table.columns]:
        others = [name for name in there[1:] if _is_rate(name, table) and _differ(table, there[0], name)]
        more = candidates(table, ignored=there)
        others += [c.column for c in more if c.evaluated and _RIGHT.search(c.column.lower())]
        if found.format == "scalerl" or not others:
            return there[0], []
        what = f"pass rate is {there[0]}; {printable(others[0])} could be it too (--y {printable(others[0])})"
        return there[0], [finding("metric-chosen", what, severity="warning")]
    if len(rates) == 1:
        what = f"pass rate is {printable(rates[0])}, the one evaluation in the log (--y names another column)"
        return rates[0], [finding("metric-chosen", what)]
    if found.format == "table":
        return choose(table, y, PASS_RATE_COLUMNS, "pass-rate", "--y"), []
    likely = rates or [c.column for c in candidates(table)]
    if not likely:
        return choose(table, y, PASS_RATE_COLUMNS, "pass-rate", "--y"), []
    shown = ", ".join(printable(name)[:80] for name in likely[:6]) + (", ..." if len(likely) > 6 else "")
    kind = "evaluations" if rates else "columns that may be pass rates"
    raise UserError(f"{table.where}: which column is the pass rate? It has {kind} {shown}; choose one with --y")


def _of_training(found: Found, column: str) -> list[Finding]:
    """Rewards of training completions are of other prompts each time, and of those that the recipe chose."""
    if found.format in {"scalerl", "table"} or column in found.rates or Candidate(column, 0, 0, 0, 0).evaluated:
        return []
    low = column.lower()
    if not (low.startswith(("rewards", "train/")) or low in {"reward", "reward_avg"}):
        return []
    what = f"{printable(column)} is of training completions: other prompts at each step"
    return [finding("metric-training", what)]


def scale_of(where: str, scale: float | None, y_range: tuple[float, float] | None) -> tuple[float | None, float]:
    """Return the factor and what is taken away before it, from a factor or from the range that means 0 to 1.

    Raises
    ------
    UserError
        If both are given, or the range is none.

    Examples
    --------
    >>> scale_of("a.json", None, (-1.0, 1.0))
    (0.5, -1.0)
    """
    if y_range is None:
        return scale, 0.0
    low, high = y_range
    if scale is not None:
        raise UserError(f"{where}: --scale and --y-range say the same thing; give one of them")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        what = "the first is what no right answer gives, the second what all right answers give"
        raise UserError(f"{where}: --y-range {low:g}:{high:g}: {what}")
    return 1.0 / (high - low), low
