"""Fits as text and as HTML. Only formatting: every figure is read from the result.

Promises: doubts stand before numbers; as many digits as the width of an interval deserves, and never an error of 0;
every text from a log is escaped in HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from analysis.amounts import short
from analysis.findings import Finding
from analysis.fits.reach import chance
from analysis.fits.results import FARTHEST, PARAMETERS, Fit, Param
from analysis.posteriors.draws import Reached
from analysis.posteriors.priors import in_words

UNITS = {
    "cpu_s": "CPU-seconds",
    "tokens_generated": "tokens",
    "tokens_trained": "tokens",
    "flops": "FLOPs",
    "step": "steps",
}
OPEN_ABOVE = "no upper limit below 1"  # how a fit says that the data leave A open
NEW_PROMPTS = "A on new prompts"
# What a fit report should carry, in this order; what a report has beyond it follows.
CHECKLIST = (
    "equation",
    "free parameters",
    "unit of x",
    "points used",
    "points dropped",
    "loss",
    "method",
    "starts",
    "bounds",
    "priors",
    "versions",
)


def unit(x: str) -> str:
    """Return the unit of a compute axis, as it is written behind a number."""
    return UNITS.get(x, x)


def figures(p: Param) -> tuple[str, str]:
    """Return value and limits as text, with as many digits as the width of the interval deserves.

    Examples
    --------
    >>> figures(Param(0.74412, 0.73081, 0.76049, identified=True))
    ('0.744', '0.731 - 0.760')
    >>> figures(Param(0.74412, 0.52, None, identified=False))
    ('0.744', '>= 0.52')
    """
    if p.value is None:
        return "unknown", ""
    digits = _decimals(p)

    def shown(v: float) -> str:
        return f"{v:.{digits}f}" if digits is not None else short(v)

    if p.lo is not None and p.hi is not None:
        if shown(p.lo) != shown(p.hi):
            return shown(p.value), f"{shown(p.lo)} - {shown(p.hi)}"
        for more in range(4, 18):  # an interval narrower than three digits: as many as tell its ends apart
            if f"{p.lo:.{more}g}" != f"{p.hi:.{more}g}":
                return f"{p.value:.{more}g}", f"{p.lo:.{more}g} - {p.hi:.{more}g}"
        return shown(p.value), ""
    if p.lo is not None:
        return shown(p.value), f">= {shown(p.lo)}"
    return shown(p.value), "" if p.hi is None else f"<= {shown(p.hi)}"


def cells(fit: Fit, name: str) -> tuple[str, str, str]:
    """Return value, limits and standing of a parameter as text; an A that is open above is its lower limit alone."""
    p = fit.params[name]
    value, limits = figures(p)
    said = standing(p)
    if name != "A" or p.fixed or p.value is None:
        return value, limits, said
    if fit.grade is not None:
        grade = f"P(C_max > 2 C_mid) {chance(fit.grade)}"
        if p.identified:
            said = f"usable: {grade}"
        elif "P(C_max" not in p.why:
            said += f" ({grade})"
    if p.lo is not None and p.hi is None:
        value, limits = limits, OPEN_ABOVE
        said = said.replace(f": {OPEN_ABOVE}", "", 1)
    return value, limits, said


def in_percent(level: float) -> str:
    """Return a level as it was given: never 100%.

    Examples
    --------
    >>> in_percent(0.95), in_percent(0.997)
    ('95%', '99.7%')
    """
    return f"{100.0 * level:.10g}%"


def reach_text(fit: Fit) -> str:
    """Return how far ahead the curve can be read, or an empty text if the method has no band."""
    if fit.reach is None and fit.draws is None:
        return ""
    margin = f"+-{fit.tolerance:g}".replace("0.", ".", 1)
    if fit.reach is None:
        return "reach unknown: limits are withheld"
    if fit.reach <= 1.0:
        return f"reach none: the pass rate is not known to {margin} past the last evaluation"
    far = f"{short(fit.reach * float(fit.compute[-1]), 2)} {unit(fit.x)}" if fit.n else "an unknown compute"
    digits = 2 if fit.reach < 2.0 else 1
    cut = math.floor(fit.reach * 10.0**digits + 1e-9) / 10.0**digits  # never more than was found
    shown = f">= {FARTHEST:g}x" if fit.reach >= FARTHEST else f"{cut:g}x"
    return f"reach {shown}: the pass rate is known to {margin} up to {far}, if the law holds"


def reached_text(reached: Reached) -> str:
    """Return the compute to a pass rate as one line."""

    def shown(v: float) -> str:
        return short(v) if math.isfinite(v) else "never"

    text = f"pass rate {reached.target:g} at {shown(reached.value)}"
    if math.isfinite(reached.value):
        text += f" {unit(reached.x)}"
    if reached.lo is None or reached.hi is None:
        return text
    return f"{text} ({in_percent(reached.level)}: {shown(reached.lo)} to {shown(reached.hi)})"


def checklist_text(fit: Fit) -> str:
    """Return the fit report, one line an item; an item that the fit does not say is said to be missing."""
    report = {str(key).replace("_", " "): value for key, value in fit.report.items()}
    items = dict.fromkeys(CHECKLIST, "not said") | {key: _plain(value) for key, value in report.items()}
    if isinstance(fit.report.get("priors"), Mapping):
        items["priors"] = in_words(fit.report["priors"])
    width = max(map(len, items))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in items.items())


def _plain(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(v)}" for key, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)


def standing(p: Param) -> str:
    """Return ``identified`` or why it is not."""
    return "identified" if p.identified else f"not identified: {p.why}" if p.why else "not identified"


def span(fit: Fit) -> str:
    """Return the range of compute that was fitted, with its unit."""
    if not fit.n:
        return "no point"
    return f"{short(fit.compute[0])} to {short(fit.compute[-1])} {unit(fit.x)}"


def fit_text(fit: Fit, *, findings_first: bool = False) -> str:
    """Return a fit as a few lines of text."""
    head = f"{fit.name}   {fit.n} evaluations, {span(fit)}, {fit.method}"
    doubts = [f"  {f.severity:<8} {f.message}" for f in fit.findings]
    reach = [f"  {text}"] if (text := reach_text(fit)) else []
    rows = [_row(fit, name) for name in PARAMETERS] if fit.fitted else []
    if rows and fit.A_population is not None:
        value, limits = figures(fit.A_population)
        rows.insert(1, f"  {NEW_PROMPTS}  {value}   {limits}".rstrip())
    body = [*doubts, *reach, *rows] if findings_first else [*reach, *rows, *doubts]
    return "\n".join([head, *body])


def fits_html(fits: Iterable[Fit]) -> str:
    """Return fits as one HTML table, one row a run, findings before the numbers; every text is escaped.

    A finding that every run has stands once, above the table.
    """
    fits = list(fits)
    shared = _shared(fits)
    above = f"<p>Every run:</p>{findings_html(shared.values())}" if shared else ""
    reach = ("reach",) if any(fit.reach is not None for fit in fits) else ()
    names = ("run", "findings", *reach, *PARAMETERS, "points", "x", "method")
    heads = "".join(f"<th>{escape(h)}</th>" for h in names)
    rows = []
    for fit in fits:
        row = [
            f"<th>{escape(fit.name)}</th>",
            f"<td>{findings_html(f for f in fit.findings if _stem(f) not in shared)}</td>",
            *(f"<td>{escape(reach_text(fit).removeprefix('reach ') or 'unknown')}</td>" for _ in reach),
        ]
        for name in PARAMETERS:
            value, limits, said = cells(fit, name)
            small = f'<br><small class="limits">{escape(limits)}</small>' if limits else ""
            if name == "A" and fit.A_population is not None:
                said += f"; on new prompts {' '.join(figures(fit.A_population))}".rstrip()
            row.append(f"<td>{escape(value)}{small}<br><small>{escape(said)}</small></td>")
        row += [f"<td>{escape(t)}</td>" for t in (str(fit.n), span(fit), fit.method)]
        rows.append(f"<tr>{''.join(row)}</tr>")
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
    value, limits, said = cells(fit, name)
    if limits == OPEN_ABOVE:
        numbers = f"{value}, {limits}"
    else:
        numbers = f"{value:<9} {limits}".rstrip()
        numbers += f" {unit(fit.x)}" if name == "C_mid" and fit.params[name].value is not None else ""
    return f"  {name:<6} {numbers:<40} {said}"


def _decimals(p: Param) -> int | None:
    """Decimals that show two digits of the half-width; None where general notation reads better."""
    if p.value is None or p.lo is None or p.hi is None:
        return None
    width = min(p.hi - p.value, p.value - p.lo)
    if width <= 0.0:
        return None
    decimals = 1 - math.floor(math.log10(width))
    return max(decimals, 0) if decimals <= 7 and abs(p.value) < 1e7 else None
