"""The three sentences that a report begins with: which recipe is best, where each ends, go on or stop.

Promises: nothing that the parts below do not say; recipes are ranked by the pass rate inside the data, where no law is
needed, and the ceiling is named only where the data know it; runs that are not named are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from analysis.amounts import short
from analysis.budgets.plans import GO, STOP, UNSURE, Plans
from analysis.comparisons.compared import Compared, Row
from analysis.comparisons.compared_tables import rate, share
from analysis.fits.results import Fit
from analysis.fits.tables import figures as figures_of
from analysis.fits.tables import unit
from analysis.predict.forecasts import Forecasts

NAMED = 4  # runs; more are counted


def headline(
    fits: Sequence[Fit], told: Forecasts | None, compared: Compared | None, plans: Plans | None, most: int
) -> str:
    """Return the sentences as HTML; `most` is how many runs are looked at one by one."""
    lines = [best_sentence(compared) or ceiling_sentence(fits), ends_sentence(told, plans), go_sentence(plans)]
    if len(fits) > most:
        lines.append(f"Forecasts and plans of more than {most} runs are left to scalerl forecast and scalerl plan.")
    return "".join(f'<p class="said">{escape(line)}</p>' for line in lines if line)


def best_sentence(compared: Compared | None) -> str:
    """Return which recipe is ahead inside the data, and how sure that is; nothing where none are compared."""
    if compared is None:
        return ""
    rows = [row for row in compared.rows if row.rates and row.rates[-1].rate.value is not None]
    if len(rows) < 2:
        return ""
    best, second = sorted(rows, key=lambda row: -(row.rates[-1].rate.value or 0.0))[:2]
    first, next_ = best.rates[-1], second.rates[-1]
    at = f"{short(first.compute)} {unit(compared.x)}"
    sure = "not tested" if first.p_best is None else f"P(best there) {share(first.p_best)}"
    text = f"Best recipe: {best.recipe}, pass rate {rate(first.rate)} at {at}; then {second.recipe}, {rate(next_.rate)}"
    return f"{text} ({sure}). {_ceilings(compared, rows)}".strip()


def _ceilings(compared: Compared, rows: Sequence[Row]) -> str:
    unknown = [row.recipe for row in rows if not row.params["A"].identified]
    if unknown:
        return f"Ceilings are not compared: that of {_names(unknown)} is not known yet."
    if not math.isinf(compared.by) or compared.rows[0].p_best is None:
        return ""
    highest = compared.rows[0]
    return f"Highest ceiling: {highest.recipe}, P {share(highest.p_best)}."


def ceiling_sentence(fits: Sequence[Fit]) -> str:
    """Return the ceiling of each of few runs."""
    said = []
    for fit in fits[:NAMED]:
        A = fit.params["A"]
        if not fit.fitted:
            said.append(f"{fit.name}: no curve can be fitted")
        elif A.identified:
            said.append("{}: the ceiling A is {} ({})".format(fit.name, *figures_of(A)))
        else:
            said.append(f"{fit.name}: the ceiling A is not known, {A.why}")
    return f"{'; '.join(said)}{_more(len(fits) - NAMED, 'in the table of fits')}."


def ends_sentence(told: Forecasts | None, plans: Plans | None) -> str:
    """Return where each recipe, or each run where there is one recipe, is expected to be, with limits."""
    if plans is not None and plans.candidates and plans.horizon is not None:
        x = unit(plans[0].x)
        said = [f"{c.recipe} {c.pass_rate:.3f} ({c.lo:.3f} to {c.hi:.3f})" for c in plans.candidates[:NAMED]]
        far = max(one.last for one in plans)
        text = f"Where each ends: at {short(plans.horizon)} {x}, {plans.horizon / far:.3g}x the compute, "
        return f"{text}{', '.join(said)}{_more(len(plans.candidates) - NAMED, 'in the table of candidates')}."
    known = [] if told is None else [one for one in told if one.rows[0].pass_rate is not None]
    if not known:
        return "Where each ends: nothing can be said past the data." if told is not None else ""
    said = []
    for one in known[:NAMED]:
        row = one.rows[0]
        limits = "" if row.mean_lo is None or row.mean_hi is None else f" ({row.mean_lo:.3f} to {row.mean_hi:.3f})"
        sure = "" if row.calibrated else ", not calibrated"
        said.append(f"{one.name} {row.pass_rate:.3f}{limits} at {short(row.at)} {unit(row.x)}{sure}")
    return f"Where each ends: {', '.join(said)}{_more(len(known) - NAMED, 'in the table of forecasts')}."


def go_sentence(plans: Plans | None) -> str:
    """Return which runs should go on or stop, and which recipe gets the next budget."""
    if plans is None:
        return ""
    said = []
    for verdict, words in ((GO, "go on with"), (STOP, "stop"), (UNSURE, "unsure")):
        names = [one.run for one in plans if one.verdict == verdict]
        if names:
            said.append(f"{words} {_names(names)}" if verdict != UNSURE else f"{words}: {_names(names)}")
    none = [one.run for one in plans if one.verdict is None]
    if none:
        said.append(f"nothing can be said of {_names(none)}")
    first = next((one for one in plans if one.verdict is not None), None)
    asked = (
        ""
        if first is None or first.until is None
        else f", asked for a gain of {first.least_gain:g} until {short(first.until)} {unit(first.x)}"
    )
    text = "; ".join(said)
    if plans.candidates:
        c = plans.candidates[0]
        decided = "" if c.p_best is None or c.p_best >= 0.9 else ", which is not decided"
        text += f". Next budget: {c.recipe} (P(best) {share(c.p_best)}{decided})"
    return f"Go or stop{asked}: {text}."


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:NAMED])}{_more(len(names) - NAMED, '')}"


def _more(count: int, where: str) -> str:
    return f" and {count} more {where}".rstrip() if count > 0 else ""
