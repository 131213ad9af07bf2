"""The parts of a report, each from the verb that it is named after. Computes nothing that these do not.

Promises: the defaults of the verbs; a part that does not apply is an empty text, and one that a verb refuses is the
verb's own sentence; what is long is folded behind what it comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape

from analysis.amounts import short
from analysis.budgets.plans import Plans, advice, plans_html, sentences
from analysis.comparisons.compared import Compared
from analysis.comparisons.compared_tables import share
from analysis.comparisons.standings import Comparison, comparison_html
from analysis.fits.results import Fit
from analysis.fits.tables import findings_html, unit
from analysis.plots.captions import caption
from analysis.plots.looks import looks_of
from analysis.plots.plotting import plot_curves
from analysis.predict.forecasts import Forecasts, forecasts_html, reach_text
from analysis.reports.page import Figures, folded, section, table
from scalerl.runlog import UserError


def curves_section(figures: Figures, fits: Sequence[Fit], extend: float) -> str:
    """Points, curves and bands of the mean curve."""
    return _drawn(figures, lambda ax: plot_curves(fits, ax, extend=extend), caption(fits), width=8.0, height=5.0)


def ahead_section(figures: Figures, fits: Sequence[Fit], at: Sequence[str | float]) -> tuple[str, Forecasts | None]:
    """Forecasts and the reach, and the forecasts themselves."""
    from analysis.plots import forecast_plots
    from analysis.predict.forecasting import forecast

    usable = [fit for fit in fits if fit.fitted]
    if not usable:
        return "", None
    try:
        told = forecast(usable, at)
    except UserError as error:
        return refused("Ahead", error), None
    known = {fit.name: set(fit.findings) for fit in fits}
    # What the fit says stands in its own table; here only what is said of the forecast.
    shown = [replace(one, findings=tuple(f for f in one.findings if f not in known[one.name])) for one in told]
    some = [one for one in told if one.paths]
    pair = ""
    if some:
        pair = '<div class="pair">{}{}</div>'.format(
            _drawn(figures, lambda ax: forecast_plots.plot_forecast(some, ax), forecast_plots.caption(some)),
            _drawn(
                figures,
                lambda ax: forecast_plots.plot_reach(some, ax),
                "Half-width of the calibrated band by how far ahead; dotted: no earlier forecasts stand behind it.",
            ),
        )
    return section("Ahead", pair, _forecast_table(told, at), folded("every forecast", forecasts_html(shown))), told


def _forecast_table(told: Forecasts, at: Sequence[str | float]) -> str:
    """One row a run: the mean curve by the first method at each compute, and the reach."""
    body = []
    for one in told:
        cells = []
        for row in (row for row in one.rows if row.method == one.method):
            if row.pass_rate is None or row.mean_lo is None or row.mean_hi is None:
                cells.append("unknown")
                continue
            limits = f"{row.pass_rate:.3f} ({row.mean_lo:.3f} to {row.mean_hi:.3f})"
            cells.append(f"{limits} at {short(row.at)}{'' if row.calibrated else ', not calibrated'}")
        body.append([one.name, *cells, reach_text(one)])
    x = unit(told[0].fit.x)
    heads = [text if (text := str(a)).lower().endswith("x") else f"{text} {x}" for a in at]
    return table(["run", *heads, "reach"], body, "ahead")


def comparison_section(
    figures: Figures,
    fits: Sequence[Fit],
    standings: Comparison | None,
    *,
    at: Sequence[str | float] = (),
    seed_sd: float | None = None,
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
        # The compute that every recipe has reached stands last: there no law is needed.
        compared = compare(fits, at=[*at, "1x"], seed_sd=seed_sd)
    except UserError as error:
        return refused("Recipes", error) + plain, None
    high = max(2.0, 1.4 + 0.38 * len(compared.rows))
    what = "Ceilings, best first: differences to the best"
    what += " with their limits." if compared.tested else "; not tested, so without limits."
    drawn = [_drawn(figures, lambda ax: compared_plots.plot_forest(compared, ax), what, height=high)]
    alone = ""
    try:
        found = same_ceiling(compared)
        what = "Straight lines: with one ceiling for all the slope is B, and 0 is crossed at C_mid. "
        what += "Points too close to an end are dropped."
        drawn.append(_drawn(figures, lambda ax: compared_plots.plot_straight(found, ax), what))
    except UserError:
        alone = "<p><small>No common ceiling, so no straight-line plot.</small></p>"
    told = f'<div class="wide">{replace(compared, standings=None)._repr_html_()}</div>'
    equal = comparison_html(compared.standings or standings)
    plain = section("At equal compute", f'<div class="wide">{equal}</div>')
    return section("Recipes", told, f'<div class="pair">{"".join(drawn)}</div>', alone) + plain, compared


def ceilings_section(figures: Figures, fits: Sequence[Fit], *, few: bool) -> str:
    """Clouds of A and B, and, folded, A against where the fit begins."""
    from analysis.fits.windows import window_study
    from analysis.plots.cloud_plots import plot_clouds
    from analysis.plots.window_plots import plot_windows

    cloud = ""
    if any(fit.trusted_draws is not None and fit.fitted for fit in fits):
        what = "Draws of A and B: what the data leave open of both together."
        cloud = _drawn(figures, lambda ax: plot_clouds(fits, ax), what)
    studied = [fit for fit in fits if few and fit.fitted and fit.params["B"].value is not None]
    studies = [window_study(fit.run, x=fit.x, stop=fit.window[1]) for fit in studied]
    A = [row.A for study in studies for row in study.rows if row.A.value is not None]
    ends = [v for p in A for v in (p.value, p.lo, 1.0 if p.hi is None else p.hi) if v is not None]
    ylim = (max(min(ends) - 0.02, -0.02), min(max(ends) + 0.02, 1.02)) if ends else (0.0, 1.0)
    drawn = []
    for fit, look, study in zip(studied, looks_of(studied), studies, strict=True):
        what = f"{fit.name}: A by where the fit begins" + "".join(f"; {f.message}" for f in study.findings) + "."
        colour = look.style["color"]
        draw = lambda ax, s=study, c=colour: plot_windows(s, ax, ylim=ylim, colour=c)  # noqa: E731
        drawn.append(_drawn(figures, draw, what, height=3.6))
    moved = [fit.name for fit, study in zip(studied, studies, strict=True) if study.findings]
    said = f"A depends on where the fit begins in {', '.join(moved)}." if moved else ""
    said = said or ("A does not depend on where the fit begins by more than its limits allow." if studied else "")
    windows = folded("A by where the fit begins", f'<div class="pair">{"".join(drawn)}</div>') if drawn else ""
    return section("How firm the ceilings are", f"<p>{escape(said)}</p>" if said else "", cloud, windows)


def backtest_section(figures: Figures, fits: Sequence[Fit]) -> str:
    """What forecasts from earlier in the same runs got wrong."""
    from analysis.plots import backtest_plots
    from analysis.predict.backtesting import backtest
    from analysis.predict.verdicts import verdict_text

    usable = [fit for fit in fits if fit.fitted and fit.params["B"].value is not None]
    if not usable:
        return ""
    windows = {fit.window for fit in usable}
    if len(windows) > 1:
        return section("Back-test", "<p>The fits have different windows; test each with scalerl backtest.</p>")
    test = backtest([fit.run for fit in usable], x=usable[0].x, window=windows.pop())
    parts = [f"<p>{escape(verdict_text(test).capitalize())}.</p>"]
    if test.rows:
        drawn = _drawn(
            figures, lambda ax: backtest_plots.plot_errors(test, ax), "Errors of forecasts from earlier cut-offs."
        )
        drawn += _drawn(
            figures, lambda ax: backtest_plots.plot_drift(test, ax), "A as each earlier cut-off would have said it."
        )
        parts.append(folded("errors by method, and A by cut-off", f'<div class="pair">{drawn}</div>'))
    parts.append(folded("scores", f'<div class="wide">{test._repr_html_()}</div>'))
    return section("Back-test", *parts)


def plan_section(
    figures: Figures, fits: Sequence[Fit], *, until: float | str | None = None, seed_sd: float | None = None
) -> tuple[str, Plans | None]:
    """What more compute would tell, and the plans themselves."""
    from analysis.budgets.budget import FUTURES
    from analysis.budgets.planning import plan
    from analysis.plots.plan_plots import plot_plan

    usable = [fit for fit in fits if fit.fitted]
    if not usable:
        return "", None
    try:
        told = plan(usable, until=until, seed_sd=seed_sd)
    except UserError as error:
        return refused("More compute", error), None
    known = {fit.name: set(fit.findings) for fit in fits}
    shown = [replace(p, findings=tuple(f for f in p.findings if f not in known[p.run])) for p in told]
    parts = []
    if told.candidates:
        parts.append(findings_html(told.findings) if told.findings else "")
        rows = [[c.recipe, f"{c.pass_rate:.3f} ({c.lo:.3f} to {c.hi:.3f})", share(c.p_best)] for c in told.candidates]
        at = short(told.horizon) if told.horizon is not None else "the horizon"
        parts.append(table(["recipe", f"pass rate at {at} {unit(told[0].x)}", "P(best)"], rows, "candidates"))
        parts.append(f"<p>{escape(advice(told).capitalize())}.</p>")
    rows = [[p.run, " ".join(f"{text[:1].upper()}{text[1:]}." for text in sentences(p))] for p in told if p.budgets]
    parts.append(table(["run", "what more compute would bring"], rows, "plans") if rows else "")
    if any(p.budgets for p in told):
        what = f"Expected widths after more compute, medians over {FUTURES} simulated futures."
        parts.append(_drawn(figures, lambda ax: plot_plan(told, ax), what))
    return section("More compute", *parts, folded("every budget", f'<div class="wide">{plans_html(shown)}</div>')), told


def health_section(fits: Sequence[Fit]) -> str:
    """The health of the runs, as far as their logs tell; `scalerl check -o` draws it."""
    from analysis.checks.checking import check

    found = check([fit.run for fit in fits])
    said = "; ".join(f"{run.name}: {run.headline}" for run in found)
    return section(
        "Health", f"<p>{escape(said)}.</p>", folded("all checks", f'<div class="wide">{found._repr_html_()}</div>')
    )


def refused(title: str, error: UserError) -> str:
    """Return a part of the report that a verb refused, as its own sentence."""
    return section(title, f"<p>{escape(str(error))}</p>")


def _drawn(figures: Figures, draw: Callable[..., object], what: str, *, width: float = 6.4, height: float = 4.8) -> str:
    try:
        return figures.figure(draw, what, width=width, height=height)  # type: ignore[arg-type]
    except UserError as error:
        return f"<p><small>{escape(str(error))}</small></p>"
