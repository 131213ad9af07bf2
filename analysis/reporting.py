"""Write the report: one HTML file with the figure, the fits, the runs at equal compute, and how each run was made.

Promises: self-contained (no address in it is ever fetched), every text from a log is escaped, readable in light, dark
and print; an existing file is refused unless forced; reader sees all of it or nothing.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from analysis.captions import caption, curve_of
from analysis.cleaning import printable
from analysis.comparison import AXES, compare_at_equal_compute
from analysis.output import new_axes, refuse_unless_new, write
from analysis.plotting import plot_curves
from analysis.results import Fit
from analysis.schema import Comparison, Run
from analysis.standings import comparison_html
from analysis.tables import fits_html

# Colours that stand for the reader's own text colour; no curve uses them.
_INK = "#010203"

_LAW = "R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B)"
_LIMITS = {
    "posterior": "quantiles of the posterior, correlated noise accounted for",
    "profile": "the F profile",
    "bootstrap": "percentiles of refits",
    "lsq": "standard errors",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ccc; --warn: #a04000; --error: #b00020; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --line: #444; --warn: #ffb066; --error: #ff8095; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 66rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 0; color: var(--ink); } figure svg { width: 100%; height: auto; max-width: 52rem; }
figcaption, small { opacity: .8; }
@media screen and (prefers-color-scheme: dark) { figure svg { filter: brightness(1.4); } }
.wide { overflow-x: auto; } .limits { white-space: nowrap; } h1, th { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
td ul { margin: 0; padding-left: 1rem; min-width: 16rem; }
li.warning b { color: var(--warn); } li.error b { color: var(--error); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000; --paper: #fff; --line: #999; --warn: #000; --error: #000; }
  body { max-width: none; margin: 0; font-size: 11px; } section { break-inside: avoid; }
}
"""


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
        The comparison in the report; None for a single run.

    Raises
    ------
    UserError
        If the file exists (without `force`) or cannot be written, or there is nothing to report.
    """
    fits = [fits] if isinstance(fits, Fit) else list(fits)
    path = Path(path)
    refuse_unless_new(path, force, endings=(".html", ".htm"))
    axes = list(dict.fromkeys([*AXES, *(fit.x for fit in fits)]))
    comparison = compare_at_equal_compute(fits, axes) if len(fits) > 1 else None
    write(path, _page(fits, comparison, extend).encode(), force=force)
    return comparison


def _page(fits: Sequence[Fit], comparison: Comparison | None, extend: float) -> str:
    names = ", ".join(fit.name for fit in fits)
    parts = [
        f"<h1>Scaling curves: {escape(names)}</h1>",
        f"<section><figure>{_figure(fits, extend)}<figcaption>{escape(caption(fits))}</figcaption></figure></section>",
        f'<section><h2>Fits</h2><div class="wide">{fits_html(fits)}</div>',
        f"<p><small>{escape(_method(fits))}</small></p></section>",
    ]
    if comparison is not None:
        parts.append(
            f'<section><h2>At equal compute</h2><div class="wide">{comparison_html(comparison)}</div></section>'
        )
    parts.append("<h2>How each run was made</h2>")
    parts += [_provenance(fit.run) for fit in fits]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Scaling curves: {escape(names)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


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


def _figure(fits: Sequence[Fit], extend: float) -> str:
    """The figure as inline SVG whose text and axes take the colour of the page."""
    import warnings

    import matplotlib as mpl

    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    settings: Any = {**ink, "svg.fonttype": "path", "svg.hashsalt": "scalerl"}
    svg = io.StringIO()
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        ax = plot_curves(fits, new_axes(8.0, 5.0), extend=extend)
        figure = ax.get_figure(root=True)
        if figure is None:  # new_axes always has one; the type says it may not
            return ""
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    # Inside HTML neither the metadata nor the namespaces mean anything, and they hold the only addresses.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    return text.replace(_INK, "currentColor")


def _provenance(run: Run) -> str:
    """How a run was made, as its header says; what is not known is said to be unknown."""
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
    return f"<section><h3>{escape(run.name)}</h3><dl>{items}</dl></section>"


def _joined(command: object) -> object:
    return " ".join(map(str, command)) if isinstance(command, list) else command
