"""Write the report: one HTML file with everything that can be said of some runs, and how each was made.

Promises: self-contained (no address in it is ever fetched), every text from a log is escaped, readable in light, dark
and print; an existing file is refused unless forced; the reader sees all of it or nothing. A part that does not apply
to these runs says so in a sentence or is left out; it never stops the report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from analysis.comparisons.comparison import AXES, compare_at_equal_compute
from analysis.comparisons.standings import Comparison
from analysis.fits.results import Fit
from analysis.fits.tables import fits_html
from analysis.plots.captions import curve_of
from analysis.plots.output import refuse_unless_new, write
from analysis.readers.cleaning import printable
from analysis.reports.page import Figures, html_page, section
from analysis.reports.report_sections import (
    ahead_section,
    backtest_section,
    ceilings_section,
    comparison_section,
    curves_section,
    headline,
    health_section,
    plan_section,
)
from analysis.schema import Run
from scalerl.runlog import UserError

_LAW = "R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B)"
_LIMITS = {
    "posterior": "quantiles of the posterior, correlated noise accounted for",
    "profile": "the F profile",
    "bootstrap": "percentiles of refits",
    "lsq": "standard errors",
}
MOST_RUNS = 8  # with more the parts that look at each run alone are left to their commands


def write_report(
    fits: Fit | Iterable[Fit], path: str | os.PathLike[str], *, force: bool = False, extend: float = 4.0
) -> Comparison | None:
    """Write a report on `fits` to one HTML file.

    Parameters
    ----------
    fits : Fit or iterable of Fit
    path : path
        Ends in ``.html``.
    force : bool
        Write over an existing file.
    extend : float
        How far the curves are drawn on, as a multiple of the compute.

    Returns
    -------
    Comparison or None
        The runs at equal compute, as in the report; None for a single run.

    Raises
    ------
    UserError
        If the file exists (without `force`) or cannot be written, or there is nothing to report.
    """
    fits = [fits] if isinstance(fits, Fit) else list(fits)
    path = Path(path)
    refuse_unless_new(path, force, endings=(".html", ".htm"))
    if not fits:
        raise UserError("there is no run to report")
    axes = list(dict.fromkeys([*AXES, *(fit.x for fit in fits)]))
    comparison = compare_at_equal_compute(fits, axes) if len(fits) > 1 else None
    write(path, _page(fits, comparison, extend).encode(), force=force)
    return comparison


def _page(fits: Sequence[Fit], comparison: Comparison | None, extend: float) -> str:
    figures = Figures()
    few = len(fits) <= MOST_RUNS
    ahead, told = ahead_section(figures, fits) if few else ("", None)
    compared, table = comparison_section(figures, fits, comparison)
    parts = [
        headline(fits, told, table),
        curves_section(figures, fits, extend),
        section(
            "Fits",
            f'<div class="wide">{fits_html(fits)}</div>',
            f"<p><small>{escape(_method(fits))}</small></p>",
        ),
        ahead,
        compared,
        ceilings_section(figures, fits, few=few),
        backtest_section(figures, fits) if few else "",
        plan_section(figures, fits) if few else "",
        health_section(fits),
        "" if few else section("More", f"<p>{_left_out(len(fits))}</p>"),
        "<h2>How each run was made</h2>",
        *(_provenance(fit) for fit in fits),
    ]
    return html_page(f"Scaling curves: {', '.join(fit.name for fit in fits)}", parts)


def _left_out(count: int) -> str:
    what = "forecasts, back-tests and plans, which look at each run alone, are left to their commands"
    return f"{count} runs are more than {MOST_RUNS}: {what} (<code>scalerl forecast, backtest, plan</code>)."


def _method(fits: Sequence[Fit]) -> str:
    """The law, and where values and limits of these fits come from; fits without limits are said to have none."""
    ways: dict[str, None] = {}
    for fit in (fit for fit in fits if fit.fitted):
        limited = fit.level is not None and any(p.lo is not None or p.hi is not None for p in fit.params.values())
        source = (
            f"limits at {100.0 * fit.level:g} % from {_LIMITS[fit.method]}" if limited and fit.level else "no limits"
        )
        ways[f"{curve_of(fit)}, {source}"] = None
    return "; ".join([_LAW, *ways]) + "."


def _provenance(fit: Fit) -> str:
    """How a run was made, as its header says, and the checklist of its fit; the unknown is said to be unknown."""
    run: Run = fit.run
    devices = run.header.get("devices")
    devices = devices if isinstance(devices, dict) else {}
    versions = run.header.get("versions")
    rows: list[tuple[str, object]] = [
        ("log", run.source),
        ("recipe", run.recipe),
        ("seed", run.seed),
        ("started", run.start_time),
        ("ended", run.end_time or "no end in the log: still running, or killed"),
        ("command", _joined(run.header.get("command"))),
        ("devices", f"{devices.get('count')} x {devices.get('kind')}" if devices else None),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else versions),
        ("sha256 of the log", run.sha256),
    ]
    if not run.header:
        rows = [(name, value) for name, value in rows if name in {"log", "sha256 of the log"}]
    told = ((name, "unknown" if value is None else printable(str(value))) for name, value in rows)
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in told)
    checklist = f"<details><summary>checklist of the fit</summary><pre>{escape(fit.checklist())}</pre></details>"
    return f"<section><h3>{escape(run.name)}</h3><dl>{items}</dl>{checklist}</section>"


def _joined(command: object) -> object:
    return " ".join(map(str, command)) if isinstance(command, list) else command
