"""Fits as text and as HTML. Only formatting: every figure is read from the result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from analysis.findings import Finding
from analysis.results import PARAMETERS, Fit, Param
from analysis.schema import Comparison

UNITS = {
    "cpu_s": "CPU-seconds",
    "tokens_generated": "tokens",
    "tokens_trained": "tokens",
    "flops": "FLOPs",
    "step": "steps",
}


def unit(x: str) -> str:
    """Return the unit of a compute axis, as it is written behind a number."""
    return UNITS.get(x, x)


def figures(p: Param) -> tuple[str, str]:
    """Return value and limits as text, with as many digits as the width of the interval deserves."""
    if p.value is None:
        return "unknown", ""
    digits = _decimals(p)
    value = f"{p.value:.{digits}f}" if digits is not None else f"{p.value:.3g}"

    def limit(v: float) -> str:
        return f"{v:.{digits}f}" if digits is not None else f"{v:.3g}"

    if p.lo is not None and p.hi is not None:
        return value, f"{limit(p.lo)} - {limit(p.hi)}"
    if p.lo is not None:
        return value, f">= {limit(p.lo)}"
    return value, "" if p.hi is None else f"<= {limit(p.hi)}"


def standing(p: Param) -> str:
    """Return ``identified`` or why it is not."""
    return "identified" if p.identified else f"not identified: {p.why}" if p.why else "not identified"


def span(fit: Fit) -> str:
    """Return the range of compute that was fitted, with its unit."""
    if not fit.n:
        return "no point"
    return f"{fit.compute[0]:.3g} to {fit.compute[-1]:.3g} {unit(fit.x)}"


def fit_text(fit: Fit, *, findings_first: bool = False) -> str:
    """Return a fit as a few lines of text."""
    head = f"{fit.name}   {fit.n} evaluations, {span(fit)}, {fit.method}"
    doubts = [f"  {f.severity:<8} {f.message}" for f in fit.findings]
    rows = [_row(fit, name) for name in PARAMETERS] if fit.fitted else []
    body = [*doubts, *rows] if findings_first else [*rows, *doubts]
    return "\n".join([head, *body])


def fits_html(fits: Iterable[Fit]) -> str:
    """Return fits as one HTML table, one row a run, findings before the numbers; every text is escaped.

    A finding that every run has stands once, above the table.
    """
    fits = list(fits)
    shared = _shared(fits)
    above = f"<p>Every run:</p>{findings_html(shared.values())}" if shared else ""
    heads = "".join(f"<th>{escape(h)}</th>" for h in ("run", "findings", *PARAMETERS, "points", "x", "method"))
    rows = []
    for fit in fits:
        cells = [
            f"<th>{escape(fit.name)}</th>",
            f"<td>{findings_html(f for f in fit.findings if _stem(f) not in shared)}</td>",
        ]
        for name in PARAMETERS:
            value, limits = figures(fit.params[name])
            small = f'<br><small class="limits">{escape(limits)}</small>' if limits else ""
            cells.append(f"<td>{escape(value)}{small}<br><small>{escape(standing(fit.params[name]))}</small></td>")
        cells += [f"<td>{escape(t)}</td>" for t in (str(fit.n), span(fit), fit.method)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'{above}<table class="fits"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _shared(fits: Sequence[Fit]) -> dict[tuple[str, str], Finding]:
    """Findings that all of several runs have; where they differ in the parenthesis at the end, with all of those."""
    if len(fits) < 2:
        return {}
    shared = {}
    for stem in dict.fromkeys(map(_stem, fits[0].findings)):
        same = [(fit.name, f) for fit in fits for f in fit.findings if _stem(f) == stem]
        if [name for name, _ in same] != [fit.name for fit in fits]:
            continue
        messages = dict.fromkeys(f.message for _, f in same)
        message = same[0][1].message
        if len(messages) > 1:
            tails = (f"{name}: {f.message[len(stem[1]) :].strip(' ()') or 'none'}" for name, f in same)
            message = f"{stem[1]} ({', '.join(tails)})"
        shared[stem] = replace(same[0][1], message=message)
    return shared


def _stem(f: Finding) -> tuple[str, str]:
    """Code and message of a finding without the parenthesis that a note may end with."""
    cut = f.message.rfind(" (") if f.severity == "note" and f.message.endswith(")") else -1
    return f.code, f.message[:cut] if cut > 0 else f.message


def findings_html(findings: Iterable[Finding]) -> str:
    """Return findings as an HTML list, escaped."""
    items = "".join(
        f'<li class="{escape(f.severity)}"><b>{escape(f.severity)}</b> {escape(f.message)}</li>' for f in findings
    )
    return f"<ul>{items}</ul>" if items else "none"


def _row(fit: Fit, name: str) -> str:
    p = fit.params[name]
    value, limits = figures(p)
    numbers = f"{value:<9} {limits}".rstrip() + (f" {unit(fit.x)}" if name == "C_mid" and p.value is not None else "")
    return f"  {name:<6} {numbers:<40} {standing(p)}"


def _decimals(p: Param) -> int | None:
    """Decimals that show two digits of the half-width; None where general notation reads better."""
    if p.value is None or p.lo is None or p.hi is None:
        return None
    width = min(p.hi - p.value, p.value - p.lo)
    if width <= 0.0:
        return None
    decimals = 1 - math.floor(math.log10(width))
    return max(decimals, 0) if decimals <= 7 and abs(p.value) < 1e7 else None


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as a few lines of text, best recipe first."""
    axes = list(comparison.common)
    if not axes:
        return "\n".join(["nothing to compare", *(f"  {f.severity:<8} {f.message}" for f in comparison.findings)])
    head = [f"at {comparison.common[a]:.3g} {unit(a)}" for a in axes]
    rows = [[label, *cells] for label, _, cells in _comparison_rows(comparison)]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'pass rate':<{width}}  {'   '.join(head)}"]
    for label, *cells in rows:
        lines.append(
            f"{label:<{width}}  {'   '.join(f'{c:<{len(h)}}' for c, h in zip(cells, head, strict=True))}".rstrip()
        )
    for axis, recipe in comparison.ahead.items():
        if recipe is not None:
            lines.append(f"ahead at equal {unit(axis)}: {recipe}{'' if comparison.tested else ' (not tested)'}")
    return "\n".join([*lines, *(f"  {f.severity:<8} {f.message}" for f in comparison.findings)])


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as an HTML table with its findings below; every text is escaped."""
    heads = ["recipe or run", *(f"at {c:.3g} {unit(a)}" for a, c in comparison.common.items())]
    body = []
    for label, is_mean, cells in _comparison_rows(comparison):
        tag = "th" if is_mean else "td"
        marked = [f"<td>{escape(cell)}</td>" for cell in cells]
        body.append(f"<tr><{tag}>{escape(label)}</{tag}>{''.join(marked)}</tr>")
    before, after = ("<b>", "</b>") if comparison.tested else ("", " (not tested)")
    ahead = "".join(
        f"<p>Ahead at equal {escape(unit(axis))}: {before}{escape(recipe)}{after}</p>"
        for axis, recipe in comparison.ahead.items()
        if recipe is not None
    )
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    table = f'<table class="comparison"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f"{table}{ahead}{findings_html(comparison.findings)}"


def _comparison_rows(comparison: Comparison) -> list[tuple[str, bool, list[str]]]:
    """(label, whether it is a mean over seeds, one cell an axis): a recipe, and its runs below it if it has several."""
    rows = []
    for mean in comparison.recipes:
        runs = [s for s in comparison.runs if s.recipe == mean.recipe]
        cells = [
            _rate(mean.pass_rate[a]) + (f" (mean of {mean.n[a]})" if mean.n[a] > 1 else "") for a in comparison.common
        ]
        label = mean.recipe if len(runs) > 1 else runs[0].run
        rows.append((label, True, cells))
        if len(runs) > 1:
            rows += [(f"  {s.run}", False, [_rate(s.pass_rate[a]) for a in comparison.common]) for s in runs]
    return rows


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
