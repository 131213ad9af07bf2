"""The parts of a report, each from the verb that it is named after. Computes nothing that these do not.

Promises: a part that does not apply is an empty text, and one that a verb refuses is the verb's own sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from math import isinf

from analysis.budgets.plans import plans_html
from analysis.comparisons.compared import Compared
from analysis.comparisons.standings import Comparison, comparison_html
from analysis.fits.reach import chance
from analysis.fits.results import Fit
from analysis.fits.tables import figures as figures_of
from analysis.fits.tables import unit
from analysis.plots.captions import caption
from analysis.plots.plotting import plot_curves
from analysis.predict.forecasts import Forecasts, forecasts_html
from analysis.reports.page import Figures, section
from scalerl.runlog import UserError

FUTURES = 6
ORIGINS = 12


def headline(fits: Sequence[Fit], told: Forecasts | None, compared: Compared | None) -> str:
    """At most a few lines: the ceiling and the reach of each of few runs, and which recipe is ahead."""
    lines = []
    for fit in fits[:4]:
        A = fit.params["A"]
        if not fit.fitted:
            text = "no curve can be fitted"
        elif A.identified:
            text = "the ceiling A is {} ({})".format(*figures_of(A))
        else:
            text = f"the ceiling A is not known: {A.why}"
        if told is not None and (one := told[fit.name]).reach is not None:
            if one.reach > 1.0:
                known = "calibrated" if one.reach_origins >= 3 else "not calibrated"
                text += f"; the curve is known to .02 up to {one.reach:.3g}x the compute ({known})"
            else:
                text += "; past the data the curve is not known to .02"
        lines.append(f"{fit.name}: {text}.")
    if compared is not None and len(compared.rows) > 1:
        best = compared.rows[0]
        by = "the ceiling" if isinf(compared.by) else f"the pass rate at {compared.by:.3g} {unit(compared.x)}"
        sure = "not tested" if best.p_best is None else f"P(best) {chance(best.p_best).removeprefix('= ')}"
        lines.append(f"First by {by}: {best.recipe} ({sure}).")
    return "".join(f'<p class="said">{escape(line)}</p>' for line in lines)


def curves_section(figures: Figures, fits: Sequence[Fit], extend: float) -> str:
    """Points, curves and bands of the mean curve."""
    drawn = figures.figure(lambda ax: plot_curves(fits, ax, extend=extend), caption(fits))
    return f"<section>{drawn}</section>"


def ahead_section(figures: Figures, fits: Sequence[Fit]) -> tuple[str, Forecasts | None]:
    """Forecasts and the reach, and the forecasts themselves."""
    from analysis.plots import forecast_plots
    from analysis.predict.forecasting import forecast

    told = forecast([fit for fit in fits if fit.fitted]) if any(fit.fitted for fit in fits) else None
    if told is None:
        return "", None
    known = {fit.name: set(fit.findings) for fit in fits}
    # What the fit says stands in its own table; here only what is said of the forecast.
    shown = [replace(one, findings=tuple(f for f in one.findings if f not in known[one.name])) for one in told]
    parts = [f'<div class="wide">{forecasts_html(shown)}</div>']
    some = [one for one in told if one.paths]
    if some:
        drawn = figures.figure(
            lambda ax: forecast_plots.plot_forecast(some, ax), forecast_plots.caption(some), width=6.4, height=4.8
        )
        what = "Half-width of the calibrated band by how far ahead; dotted: no earlier forecasts stand behind it."
        reach = figures.figure(lambda ax: forecast_plots.plot_reach(some, ax), what, width=6.4, height=4.8)
        parts.insert(0, f'<div class="pair">{drawn}{reach}</div>')
    complete = told if some else None
    return section("Ahead", *parts), complete if complete and len(complete) == len(fits) else None


def comparison_section(
    figures: Figures, fits: Sequence[Fit], standings: Comparison | None
) -> tuple[str, Compared | None]:
    """Recipes against each other, or runs at equal compute where there is one recipe."""
    if standings is None:
        return "", None
    from analysis.comparisons.comparing import compare
    from analysis.comparisons.straight import same_ceiling
    from analysis.plots import compared_plots

    plain = section("At equal compute", f'<div class="wide">{comparison_html(standings)}</div>')
    if len({fit.run.recipe for fit in fits}) < 2:
        return plain, None
    try:
        compared = compare(fits)
    except UserError as error:
        return section("Recipes", f"<p>{escape(str(error))}</p>") + plain, None
    drawn = [
        _drawn(figures, lambda ax: compared_plots.plot_forest(compared, ax), "Ceilings with their limits, best first.")
    ]
    try:
        found = same_ceiling(compared)
        what = "Straight lines: with one ceiling for all the slope is B; points too close to an end are dropped."
        drawn.append(_drawn(figures, lambda ax: compared_plots.plot_straight(found, ax), what))
    except UserError as error:
        drawn.append(f"<p><small>{escape(str(error))}</small></p>")
    table = f'<div class="wide">{replace(compared, standings=None)._repr_html_()}</div>'
    return section("Recipes", f'<div class="pair">{"".join(drawn)}</div>', table) + plain, compared


def ceilings_section(figures: Figures, fits: Sequence[Fit], *, few: bool) -> str:
    """Clouds of A and B, and A against where the fit begins."""
    from analysis.fits.windows import window_study
    from analysis.plots.cloud_plots import plot_clouds
    from analysis.plots.window_plots import plot_windows

    parts = []
    if any(fit.trusted_draws is not None and fit.fitted for fit in fits):
        what = "Draws of A and B: what the data leave open of both together."
        parts.append(_drawn(figures, lambda ax: plot_clouds(fits, ax), what, width=6.4))
    for fit in fits if few else ():
        if not fit.fitted or fit.params["B"].value is None:
            continue
        study = window_study(fit.run, x=fit.x)
        what = f"{fit.name}: A by where the fit begins" + "".join(f"; {f.message}" for f in study.findings) + "."
        parts.append(_drawn(figures, lambda ax, s=study: plot_windows(s, ax), what, width=6.4))
    return section("How firm the ceilings are", f'<div class="pair">{"".join(parts)}</div>') if parts else ""


def backtest_section(figures: Figures, fits: Sequence[Fit]) -> str:
    """What forecasts from earlier in the same runs got wrong."""
    from analysis.plots import backtest_plots
    from analysis.predict.backtesting import backtest

    runs = [fit.run for fit in fits if fit.fitted and fit.params["B"].value is not None]
    if not runs:
        return ""
    try:
        test = backtest(runs, x=fits[0].x, origins=ORIGINS)
        drawn = _drawn(
            figures, lambda ax: backtest_plots.plot_errors(test, ax), "Errors of forecasts from earlier cut-offs."
        )
        drift = _drawn(
            figures, lambda ax: backtest_plots.plot_drift(test, ax), "A as each earlier cut-off would have said it."
        )
    except UserError as error:
        return section("Back-test", f"<p>{escape(str(error))}</p>")
    table = f'<details><summary>scores</summary><div class="wide">{test._repr_html_()}</div></details>'
    return section("Back-test", f'<div class="pair">{drawn}{drift}</div>', table)


def plan_section(figures: Figures, fits: Sequence[Fit]) -> str:
    """What more compute would tell."""
    from analysis.budgets.planning import plan
    from analysis.plots.plan_plots import plot_plan

    usable = [fit for fit in fits if fit.fitted]
    if not usable:
        return ""
    told = plan(usable, futures=FUTURES)
    known = {fit.name: set(fit.findings) for fit in fits}
    shown = [replace(p, findings=tuple(f for f in p.findings if f not in known[p.run])) for p in told]
    parts = [f'<div class="wide">{plans_html(shown)}</div>']
    if any(p.budgets for p in told):
        what = f"Expected widths after more compute, medians over {FUTURES} simulated futures."
        parts.insert(0, _drawn(figures, lambda ax: plot_plan(told, ax), what, width=6.4))
    return section("More compute", *parts)


def health_section(fits: Sequence[Fit]) -> str:
    """The health of the runs, as far as their logs tell; `scalerl check -o` draws it."""
    from analysis.checks.checking import check

    try:
        found = check([fit.run for fit in fits])
    except UserError as error:
        return section("Health", f"<p>{escape(str(error))}</p>")
    return section(
        "Health", f'<details><summary>all checks</summary><div class="wide">{found._repr_html_()}</div></details>'
    )


def _drawn(figures: Figures, draw: Callable[..., object], what: str, *, width: float = 6.4, height: float = 4.6) -> str:
    return figures.figure(draw, what, width=width, height=height)  # type: ignore[arg-type]
