"""Write the report: one HTML file with everything that can be said of some runs, and how each was made.

Promises: self-contained (no address in it is ever fetched), every text from a log is escaped, readable in light, dark
and print; an existing file is refused unless forced; the reader sees all of it or nothing. A part that does not apply
to these runs says so in a sentence or is left out; it never stops the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from analysis.comparisons.comparison import AXES, compare_at_equal_compute
from analysis.comparisons.standings import Comparison
from analysis.fits.results import Fit
from analysis.fits.tables import fits_html, unit
from analysis.plots.captions import curve_of
from analysis.plots.looks import one_map
from analysis.plots.output import refuse_unless_new, write
from analysis.predict.forecasting import AT
from analysis.readers.cleaning import printable
from analysis.reports.headlines import headline
from analysis.reports.page import Figures, html_page, section
from analysis.reports.report_sections import (
    ahead_section,
    backtest_section,
    ceilings_section,
    comparison_section,
    curves_section,
    health_section,
    plan_section,
    refused,
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
    fits: Fit | Iterable[Fit],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    extend: float = 4.0,
    at: Iterable[str | float] = (),
    until: float | str | None = None,
    seed_sd: float | None = None,
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
    at : iterable of str or float
        Computes, or multiples such as ``"2x"``, to forecast and to compare at; by default as `forecast` and `compare`.
    until : float or str, optional
        Compute that stop or go and the ranking look to, or a multiple of the longest run's; by default ``"2x"``.
    seed_sd : float, optional
        Standard deviation of the pass rate between seeds, where recipes have one seed; see `compare`.

    Returns
    -------
    Comparison or None
        The runs at equal compute, as in the report; None for a single run.

    Raises
    ------
    UserError
        If the file exists (without `force`) or cannot be written, there is nothing to report, or an option makes no
        sense.

    Examples
    --------
    >>> import tempfile
    >>> import analysis as an
    >>> file = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_report(an.fit(an.read("data/paper/scalerl_8b_bs2048_100k.csv")), file)
    >>> "Where each ends" in file.read_text()
    True
    """
    fits = [fits] if isinstance(fits, Fit) else list(fits)
    path = Path(path)
    refuse_unless_new(path, force, endings=(".html", ".htm"))
    if not fits:
        raise UserError("there is no run to report")
    wanted = tuple(at)
    _refuse_nonsense(wanted, until, seed_sd)
    logged = [axis for axis in AXES if any(axis in fit.run.axes for fit in fits)]
    axes = list(dict.fromkeys([*logged, *(fit.x for fit in fits)]))
    comparison = compare_at_equal_compute(fits, axes) if len(fits) > 1 else None
    with one_map(fits):
        page = _page(fits, comparison, _Asked(extend, wanted, until, seed_sd))
    write(path, page.encode(), force=force)
    return comparison


class _Asked(NamedTuple):
    """What the reader wants to know."""

    extend: float
    at: tuple[str | float, ...]
    until: float | str | None
    seed_sd: float | None


def _refuse_nonsense(at: Sequence[str | float], until: float | str | None, seed_sd: float | None) -> None:
    """Refuse an option that no part could read, before the work is done."""
    from analysis.fits.arguments import parsed

    for one in at:
        parsed(one)
    if until is not None:
        parsed(until, "until")
    if seed_sd is not None and not 0.0 < seed_sd < 1.0:
        raise UserError(f"seed_sd: {seed_sd:g} is no standard deviation of pass rates between 0 and 1 (--seed-sd)")


def _page(fits: Sequence[Fit], comparison: Comparison | None, asked: _Asked) -> str:
    figures = Figures()
    axes: dict[str, list[Fit]] = {}
    for fit in fits:
        axes.setdefault(fit.x, []).append(fit)
    parts = []
    for x, mine in axes.items():
        standings = comparison if len(mine) == len(fits) else None
        if len(axes) > 1:
            parts.append(f"<h2>Over {escape(unit(x))}</h2>")
            standings = compare_at_equal_compute(mine, [x]) if len(mine) > 1 else None
        parts += _answers(figures, mine, standings, asked)
    parts += [
        _safely("Health", lambda: health_section(fits)),
        "<h2>How each run was made</h2>",
        *(_provenance(fit) for fit in fits),
    ]
    recipes = list(dict.fromkeys(fit.run.recipe for fit in fits))
    named = f"{', '.join(recipes)} ({len(fits)} runs)" if len(recipes) < len(fits) else ", ".join(f.name for f in fits)
    return html_page(f"Scaling curves: {named}", parts)


def _answers(figures: Figures, fits: Sequence[Fit], standings: Comparison | None, asked: _Asked) -> list[str]:
    """What can be said of runs on one compute axis: the answer first, then what it rests on."""
    few = len(fits) <= MOST_RUNS
    at = asked.at or (AT if asked.until is None else tuple(dict.fromkeys((asked.until, *AT))))
    ahead, told = ahead_section(figures, fits, at) if few else ("", None)
    planned, plans = plan_section(figures, fits, until=asked.until, seed_sd=asked.seed_sd) if few else ("", None)
    recipes, compared = comparison_section(figures, fits, standings, at=asked.at, seed_sd=asked.seed_sd)
    return [
        headline(fits, told, compared, plans, MOST_RUNS),
        curves_section(figures, fits, asked.extend),
        recipes,
        ahead,
        planned,
        section(
            "Fits",
            f'<div class="wide">{fits_html(fits)}</div>',
            f"<p><small>{escape(_method(fits))}</small></p>",
        ),
        _safely("How firm the ceilings are", lambda: ceilings_section(figures, fits, few=few)),
        _safely("Back-test", lambda: backtest_section(figures, fits)) if few else "",
        "" if few else section("More", f"<p>{_left_out(len(fits))}</p>"),
    ]


def _safely(title: str, make: Callable[[], str]) -> str:
    """Return a part, or the sentence with which a verb refused it."""
    try:
        return make()
    except UserError as error:
        return refused(title, error)


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
        ("read as", f"{run.format}, by {run.reader}"),
    ]
    if not run.header:
        rows = [(name, value) for name, value in rows if name in {"log", "sha256 of the log", "read as"}]
    told = ((name, "unknown" if value is None else printable(str(value))) for name, value in rows)
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in told)
    checklist = f"<details><summary>checklist of the fit</summary><pre>{escape(fit.checklist())}</pre></details>"
    return f"<section><h3>{escape(run.name)}</h3><dl>{items}</dl>{checklist}</section>"


def _joined(command: object) -> object:
    return " ".join(map(str, command)) if isinstance(command, list) else command
