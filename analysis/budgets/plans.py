"""What a plan hands on: what more compute would tell about each run, and which run should get it. Frozen.

Promises: an unknown is `None`. Nothing here estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.amounts import short
from analysis.comparisons.compared_tables import share
from analysis.comparisons.likeness import ONE_SEED
from analysis.findings import Finding
from analysis.fits.results import FARTHEST
from analysis.fits.tables import findings_html, in_percent, unit
from analysis.schema import Named

if TYPE_CHECKING:
    import pandas as pd

STOP, GO, UNSURE = "stop", "go", "unsure"


@dataclass(frozen=True)
class Budget:
    """What a run would say after a budget: medians over simulated futures.

    Attributes
    ----------
    multiple : float
        Of the last compute; 1 is today.
    at : float
        Compute, in the unit of the run's axis.
    A_width : float
        Width of the interval of A.
    half : float
        Half-width of the band of the mean curve at twice that compute.
    reach : float
        Counted from that compute, by the sigmoid, calibrated; 1 where there is none.
    wanted : float
        Share of futures that have the wanted reach.
    gain : tuple of float
        Pass rate that the mean curve gains from today: middle, lower and upper limit.
    """

    multiple: float
    at: float
    A_width: float
    half: float
    reach: float
    wanted: float
    gain: tuple[float, float, float]


@dataclass(frozen=True)
class Power:
    """How often `seeds` runs a recipe, each of `multiple` times the run's compute, tell a difference of A."""

    difference: float
    seeds: int
    multiple: float
    cost: float
    power: float


@dataclass(frozen=True, eq=False)
class Plan:
    """What more compute would tell about one run.

    Attributes
    ----------
    run, x : str
    last : float
        Its last compute.
    budgets : tuple of Budget
        Today first; empty where nothing can be said.
    reach_wanted : float
    reach_at : float or None
        Smallest of the budgets, as a multiple, after which half of the futures have the wanted reach; None if none has.
    per_doubling : tuple of float or None
        Pass rate of the next doubling: middle, lower and upper limit.
    powers : tuple of Power
        Empty where the standard deviation between seeds is not stated.
    until : float or None
        Compute that `verdict` looks ahead to; None where no run has any compute.
    verdict : {"stop", "go", "unsure"} or None
        Stop: even the upper limit of the gain until then is below `least_gain`; go: the lower one is above. None where
        few evaluations would have to carry a forecast that far.
    gain_until : tuple of float or None
        That gain: middle, lower and upper limit.
    """

    run: str
    x: str
    last: float
    budgets: tuple[Budget, ...]
    reach_wanted: float
    reach_at: float | None
    per_doubling: tuple[float, float, float] | None
    powers: tuple[Power, ...]
    until: float | None
    verdict: str | None
    gain_until: tuple[float, float, float] | None
    least_gain: float
    level: float
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """Label of the run."""
        return self.run

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape of one run."""
        return {
            "run": self.run,
            "x": self.x,
            "last": self.last,
            "level": self.level,
            "budgets": [{**vars(b), "gain": limits_dict(b.gain)} for b in self.budgets],
            "reach_wanted": self.reach_wanted,
            "reach_at": self.reach_at,
            "per_doubling": limits_dict(self.per_doubling),
            "powers": [dict(vars(p)) for p in self.powers],
            "stop_or_go": {
                "until": self.until,
                "least_gain": self.least_gain,
                "gain": limits_dict(self.gain_until),
                "verdict": self.verdict,
            },
            "findings": [f.to_dict() for f in self.findings],
        }

    def __repr__(self) -> str:
        return plan_text(self)

    def _repr_html_(self) -> str:
        return plans_html([self])


@dataclass(frozen=True)
class Candidate:
    """A running recipe: what it is expected to have at the horizon, and how likely it is the best there.

    `p_best` is P(best) among the recipes that are tested; None where this one is not, or where one that is not tested
    has a higher pass rate: `why` says it.
    """

    recipe: str
    runs: tuple[str, ...]
    pass_rate: float
    lo: float
    hi: float
    p_best: float | None
    why: str = ""


class Plans(Named[Plan]):
    """Plans of several runs, by position or by name.

    `horizon` is the compute at which the candidates are ranked, best first; `next` names the recipe that should get
    the next budget, None for a single one; `findings` are what speaks against ranking them.
    """

    def __init__(
        self,
        items: Sequence[Plan],
        horizon: float | None = None,
        candidates: Sequence[Candidate] = (),
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(items)
        self.horizon, self.candidates, self.findings = horizon, tuple(candidates), tuple(findings)

    @property
    def next(self) -> str | None:
        """Recipe that is most likely the best at the horizon; the highest there where that is not tested."""
        return self.candidates[0].recipe if self.candidates else None

    @property
    def frame(self) -> pd.DataFrame:
        """One row a run and budget."""
        import pandas as pd

        rows = []
        for plan in self:
            for b in plan.budgets:
                mid, lo, hi = b.gain
                rows.append({"run": plan.run, **vars(b), "gain": mid, "gain_lo": lo, "gain_hi": hi})
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        return {
            "schema": "plan/1",
            "plans": [plan.to_dict() for plan in self],
            "next": self.next,
            "horizon": self.horizon,
            "candidates": [{**vars(c), "runs": list(c.runs)} for c in self.candidates],
            "findings": [f.to_dict() for f in self.findings],
        }

    def __repr__(self) -> str:
        return "\n".join([*map(repr, self), *candidates_text(self)])

    def _repr_html_(self) -> str:
        table = ""
        if self.candidates:
            heads = "".join(f"<th>{h}</th>" for h in _CANDIDATES)
            cells = (_candidate(c) for c in self.candidates)
            body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in cells)
            table = findings_html(self.findings) if self.findings else ""
            table += f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
            table += f"<p>{escape(advice(self))}</p>"
        return plans_html(self) + table


def limits_dict(values: tuple[float, float, float] | None) -> dict[str, float] | None:
    """Name middle, lower and upper limit."""
    return None if values is None else dict(zip(("value", "lo", "hi"), values, strict=True))


_HEADS = ("budget", "compute", "gain", "width of A", "half-width at 2x", "reach", "P(reach wanted)")
_CANDIDATES = ("recipe", "pass rate there", "P(best)")


def plan_text(plan: Plan) -> str:
    """Return a plan as text, findings first."""
    lines = [f"{plan.run}   to {short(plan.last, 4)} {unit(plan.x)}"]
    lines += [f"  {f.severity:<8} {f.message}" for f in plan.findings]
    if not plan.budgets:
        return "\n".join(lines)
    cells = [_HEADS, *(_cells(b) for b in plan.budgets)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*lines, *(f"  {text}" for text in [legend(plan), *sentences(plan)])])


def plans_html(plans: Sequence[Plan] | Plans) -> str:
    """Return plans as HTML, every text escaped."""
    parts = []
    for plan in plans:
        doubts = findings_html(plan.findings) if plan.findings else ""
        head = "".join(f"<th>{escape(h)}</th>" for h in _HEADS)
        body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in _cells(b))}</tr>" for b in plan.budgets)
        table = f'<table class="plan"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>' if body else ""
        said = "".join(f"<p>{escape(text)}</p>" for text in ([legend(plan), *sentences(plan)] if plan.budgets else ()))
        title = f"{plan.run}: to {short(plan.last, 4)} {unit(plan.x)}"
        parts.append(f"<p><b>{escape(title)}</b></p>{doubts}{table}{said}")
    return "".join(parts)


def _cells(b: Budget) -> tuple[str, ...]:
    mid, lo, hi = b.gain
    today = b.multiple == 1.0
    return (
        "today" if today else f"{b.multiple:.3g}x",
        short(b.at, 4),
        "" if today else gained_text((mid, lo, hi)),
        f"{b.A_width:.3f}",
        f"{b.half:.3f}",
        "none" if b.reach <= 1.0 else f"{short(b.reach)}x{' or more' if b.reach >= FARTHEST else ''}",
        "" if today else share(b.wanted),
    )


def gained_text(gain: tuple[float, float, float]) -> str:
    """Return a gain with its limits, as many digits as tell it from what is asked for.

    Examples
    --------
    >>> gained_text((0.0353, 0.0098, 0.0604))
    '+0.0353 (+0.0098 to +0.0604)'
    """
    mid, lo, hi = gain
    return f"{mid:+.4f} ({lo:+.4f} to {hi:+.4f})"


def legend(plan: Plan) -> str:
    """Return what the columns of a plan's table mean, in one line."""
    return (
        "gain: of the mean curve, from today; width of A: upper less lower limit after that budget; half-width at 2x: "
        "of the curve's band at twice the budget; reach: by the sigmoid, calibrated, from the budget's end on; "
        f"P(reach wanted): share of simulated futures with {short(plan.reach_wanted)}x or more"
    )


def sentences(plan: Plan) -> list[str]:
    """Return what a plan comes to, a sentence each."""
    said = []
    if plan.per_doubling is not None:
        said.append(f"the next doubling gains {gained_text(plan.per_doubling)} at {in_percent(plan.level)}")
    goal = f"a reach of {plan.reach_wanted:g}x"
    if plan.reach_at is None:
        said.append(f"{goal}: not within these budgets")
    elif plan.reach_at <= 1.0:
        said.append(f"{goal}: there today")
    else:
        said.append(f"{goal}: likely after {plan.reach_at:g}x, {short(plan.reach_at * plan.last)} {unit(plan.x)}")
    if plan.verdict is not None and plan.gain_until is not None and plan.until is not None:
        why = f"until {short(plan.until, 4)} {unit(plan.x)} it gains {gained_text(plan.gain_until)}"
        said.append(f"{plan.verdict}: {why}; asked for is {plan.least_gain:g}")
    said += _power_sentences(plan.powers, plan.x)
    return said


def _power_sentences(powers: Sequence[Power], x: str) -> list[str]:
    """The cheapest design for each power that people ask for, and what there is where none has it."""
    if not powers:
        return []
    gap = powers[0].difference
    enough = sorted((p for p in powers if p.power >= 0.8), key=lambda p: p.cost)
    if not enough:
        best = max(powers, key=lambda p: p.power)
        what = f"{share(best.power)} with {best.seeds} seeds of {best.multiple:g}x"
        return [f"a difference of {gap:g} in A is told in 80 % of cases by none of these; at most {what}"]
    p = enough[0]
    each = f"{p.seeds} seeds of {p.multiple:g}x for each recipe"
    return [
        f"a difference of {gap:g} in A is told with power {share(p.power)} by {each}, {short(p.cost)} {unit(x)} in all"
    ]


def candidates_text(plans: Plans) -> list[str]:
    """Return the ranking of running recipes as lines of text, findings first."""
    if not plans.candidates:
        return []
    cells = [_CANDIDATES, *(_candidate(c) for c in plans.candidates)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*(f"{f.severity:<8} {f.message}" for f in plans.findings), *lines, advice(plans)]


def _candidate(c: Candidate) -> tuple[str, ...]:
    return c.recipe, f"{c.pass_rate:.3f} ({c.lo:.3f} to {c.hi:.3f})", share(c.p_best)


def advice(plans: Plans) -> str:
    """Return which recipe should get the next budget, and how sure that is."""
    first = plans.candidates[0]
    where = "the horizon" if plans.horizon is None else f"{short(plans.horizon, 4)} {unit(plans[0].x)}"
    if any(c.p_best is None for c in plans.candidates):
        why: dict[str, list[str]] = {}
        for c in plans.candidates:
            why.setdefault(c.why, []).append(c.recipe)
        one = ", ".join(why.pop(ONE_SEED, ()))
        said = [f"one seed of {one}; run more or state how much seeds differ (seed_sd, --seed-sd)"] if one else []
        said += [f"{reason} ({', '.join(names)})" for reason, names in why.items() if reason]
        return f"next budget: {first.recipe}, the highest at {where}, not tested: {'; '.join(said)}"
    sure = "" if (first.p_best or 0.0) >= 0.9 else "; not decided: the data leave room for another"
    return f"next budget: {first.recipe}, P(best at {where}) {share(first.p_best)}{sure}"
