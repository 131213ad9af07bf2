"""What a comparison of recipes hands on. Frozen; nothing here estimates.

Promises: an unknown is `None`, never 0 and never NaN; compute that is never reached is infinity, in JSON the string
``"never"``; doubts stand before numbers. Text and HTML are made in `analysis.comparisons.compared_tables`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.comparisons.standings import Comparison
from analysis.findings import Finding
from analysis.fits.results import PARAMETERS, Fit, Param

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Estimate:
    """A value with limits; None is unknown, infinity is never."""

    value: float | None
    lo: float | None = None
    hi: float | None = None

    def to_dict(self) -> dict[str, float | str | None]:
        """Return the JSON shape; infinity is ``"never"``."""
        return {"value": plain(self.value), "lo": plain(self.lo), "hi": plain(self.hi)}

    def __neg__(self) -> Estimate:
        """Return the difference the other way round."""
        return Estimate(*(None if side is None else -side for side in (self.value, self.hi, self.lo)))

    def inverse(self) -> Estimate:
        """Return a ratio the other way round."""
        sides = (self.value, self.hi, self.lo)
        return Estimate(*(None if side is None else (1.0 / side if side else math.inf) for side in sides))


@dataclass(frozen=True)
class Rate:
    """Pass rate of a recipe's curve at a compute, and the probability that it is the best of the tested ones there.

    `beyond` says that the compute lies past the recipe's reach: the figure is the law's alone, and its limits hold
    neither other laws nor what earlier forecasts missed by, as those of `analysis.forecast` do.
    """

    compute: float
    rate: Estimate
    p_best: float | None
    beyond: bool = False


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes
    ----------
    recipe : str
    runs : tuple of str
        Its seeds.
    params : mapping of A, B, C_mid to Param
        As `analysis.pool_seeds` gives them; without values where nothing could be pooled.
    reach : float or None
        Multiple of the last compute up to which the pass rate is known, by the sigmoid: the least of its seeds; 1 where
        there is none, None unknown.
    reach_origins : int
        Earlier forecasts of its seeds that lie as far back; with three or more it is calibrated.
    p_best : float or None
        Probability of being the best among the tested recipes, by what the table is ranked by; None where differences
        are not tested, and for all where one that is not tested stands highest.
    difference : Estimate
        To the best row; 0 without limits for that row itself.
    rates : tuple of Rate
    reached : mapping of target to Estimate
        Compute to each target.
    note : str
        When not to trust the row; empty if nothing speaks against it.
    """

    recipe: str
    runs: tuple[str, ...]
    params: Mapping[str, Param]
    reach: float | None
    reach_origins: int
    p_best: float | None
    difference: Estimate
    rates: tuple[Rate, ...]
    reached: Mapping[float, Estimate]
    note: str

    @property
    def seeds(self) -> int:
        """Number of runs behind the row."""
        return len(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        return {
            "recipe": self.recipe,
            "seeds": self.seeds,
            "runs": list(self.runs),
            **{name: self.params[name].to_dict() for name in ("A", "B", "C_mid")},
            "reach": self.reach,
            "reach_origins": self.reach_origins,
            "p_best": self.p_best,
            "difference": self.difference.to_dict(),
            "at": [
                {"compute": r.compute, "pass_rate": r.rate.to_dict(), "p_best": r.p_best, "beyond_reach": r.beyond}
                for r in self.rates
            ],
            "compute_to": [{"target": t, **e.to_dict()} for t, e in self.reached.items()],
            "note": self.note,
        }


@dataclass(frozen=True)
class PairAt:
    """Difference of two recipes at a compute: first - second, and P(first is better)."""

    compute: float
    difference: Estimate
    p_better: float | None


@dataclass(frozen=True)
class PairTo:
    """Speed-up to a target: compute of the second over compute of the first.

    Infinity: the second never gets there; 0: the first never does. `p_neither` is the probability that neither does,
    with which there is no ratio.
    """

    target: float
    ratio: Estimate
    p_neither: float | None


@dataclass(frozen=True)
class Pair:
    """Two recipes, the better one of the table first.

    Attributes
    ----------
    tested : bool
        Whether limits and probabilities stand for differences between recipes; all None otherwise.
    A : Estimate
        Difference of the ceilings, first - second; `p` is the two-sided p of none.
    p_higher : float or None
        P(the first has the higher ceiling), shrunk over all recipes.
    B, C_mid : Estimate
        Ratio first / second.
    at : tuple of PairAt
    to : tuple of PairTo
    crossover : Estimate
        Compute from which the first is ahead for good; 0 from its first evaluation on, infinity never.
    why : str
        Why it is not tested.
    """

    first: str
    second: str
    tested: bool
    A: Estimate
    p: float | None
    p_higher: float | None
    B: Estimate
    C_mid: Estimate
    at: tuple[PairAt, ...]
    to: tuple[PairTo, ...]
    crossover: Estimate
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        return {
            "first": self.first,
            "second": self.second,
            "tested": self.tested,
            "why": self.why,
            "A_difference": {**self.A.to_dict(), "p": self.p},
            "p_higher_ceiling": self.p_higher,
            "B_ratio": self.B.to_dict(),
            "C_mid_ratio": self.C_mid.to_dict(),
            "at": [
                {"compute": a.compute, "difference": a.difference.to_dict(), "p_better": a.p_better} for a in self.at
            ],
            "speed_up": [{"target": t.target, **t.ratio.to_dict(), "p_neither": t.p_neither} for t in self.to],
            "crossover": self.crossover.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class Compared:
    """Recipes side by side, best first.

    Attributes
    ----------
    x : str
        Compute axis; every compute is in its unit.
    by : float
        Compute that rows are ranked at; infinity for the ceiling.
    rows : tuple of Row
    pairs : tuple of Pair
    findings : tuple of Finding
    seed_sd : float or None
        Standard deviation of A between seeds that was stated.
    level : float
    fits : mapping of recipe to tuple of Fit
    standings : Comparison or None
        The runs at equal compute on every axis that they log, without extrapolation.
    """

    x: str
    by: float
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    findings: tuple[Finding, ...]
    seed_sd: float | None
    level: float
    fits: Mapping[str, tuple[Fit, ...]]
    standings: Comparison | None

    @property
    def tested(self) -> bool:
        """Whether any difference was tested."""
        return any(pair.tested for pair in self.pairs)

    def pair(self, first: str, second: str) -> Pair:
        """Return the pair of two recipes, in whichever order the table has them."""
        for pair in self.pairs:
            if {pair.first, pair.second} == {first, second}:
                return pair
        raise KeyError(f"{first!r}, {second!r}; the recipes are {', '.join(row.recipe for row in self.rows)}")

    @property
    def frame(self) -> pd.DataFrame:
        """One row a recipe, best first; unknown is missing, never NaN, and never is infinity."""
        import pandas as pd

        columns: dict[str, list[float | None]] = {}
        for name in PARAMETERS[:3]:
            for what in ("value", "lo", "hi"):
                key = name if what == "value" else f"{name}_{what}"
                columns[key] = [getattr(row.params[name], what) for row in self.rows]
        columns["reach"] = [row.reach for row in self.rows]
        columns["reach_origins"] = [None if row.reach is None else row.reach_origins for row in self.rows]
        columns["p_best"] = [row.p_best for row in self.rows]
        for what in ("value", "lo", "hi"):
            key = "difference" if what == "value" else f"difference_{what}"
            columns[key] = [getattr(row.difference, what) for row in self.rows]
        table = pd.DataFrame({name: pd.array(values, dtype="Float64") for name, values in columns.items()})
        table.insert(0, "seeds", [row.seeds for row in self.rows])
        table["note"] = [row.note for row in self.rows]
        table.index = pd.Index([row.recipe for row in self.rows], name="recipe")
        return table

    def beside(self, recipe: str) -> pd.DataFrame:
        """Return every other recipe beside one, as in a table of variants of it.

        Parameters
        ----------
        recipe : str

        Returns
        -------
        DataFrame
            One row a recipe, best first. ``A``: its ceiling less that of `recipe`. ``speed``: compute that `recipe`
            needs to the first target over what it needs; above 1 it is faster. Limits where they were tested.

        Raises
        ------
        KeyError
            If the recipe is not there.

        Examples
        --------
        >>> import analysis as an
        >>> table = an.compare(an.read("data/runs"), seed_sd=0.02).beside("scalerl")
        >>> table.index.tolist(), table.columns.tolist()
        (['grpo'], ['A', 'A_lo', 'A_hi', 'speed', 'speed_lo', 'speed_hi'])
        """
        import pandas as pd

        rows = {}
        for other in (row.recipe for row in self.rows if row.recipe != recipe):
            pair = self.pair(recipe, other)
            A, speed = pair.A, pair.to[0].ratio if pair.to else Estimate(None)
            if pair.first == recipe:
                A, speed = -A, speed.inverse()
            rows[other] = (A.value, A.lo, A.hi, speed.value, speed.lo, speed.hi)
        if len(rows) == len(self.rows):
            raise KeyError(f"{recipe!r}; the recipes are {', '.join(rows)}")
        columns = ("A", "A_lo", "A_hi", "speed", "speed_lo", "speed_hi")
        table = pd.DataFrame(
            {name: pd.array([row[i] for row in rows.values()], dtype="Float64") for i, name in enumerate(columns)}
        )
        table.index = pd.Index(list(rows), name=f"beside {recipe}")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape, ``"schema": "compare/1"`` first."""
        return {
            "schema": "compare/1",
            "x": self.x,
            "by": "A" if math.isinf(self.by) else self.by,
            "level": self.level,
            "seed_sd": self.seed_sd,
            "tested": self.tested,
            "rows": [row.to_dict() for row in self.rows],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "axes": _axes(self.standings),
            "findings": [f.to_dict() for f in self.findings],
        }

    def __repr__(self) -> str:
        from analysis.comparisons.compared_tables import compared_text

        return compared_text(self)

    def _repr_html_(self) -> str:
        from analysis.comparisons.compared_tables import compared_html

        return compared_html(self)


def plain(value: float | None) -> float | str | None:
    """Return a figure as JSON holds it: infinity is ``"never"``, unknown null."""
    return "never" if value is not None and math.isinf(value) else value


def _axes(standings: Comparison | None) -> list[dict[str, Any]]:
    if standings is None:
        return []
    return [
        {
            "axis": axis,
            "compute": at,
            "ahead": standings.ahead[axis],
            "pass_rate": {mean.recipe: mean.pass_rate[axis] for mean in standings.recipes},
        }
        for axis, at in standings.common.items()
    ]
