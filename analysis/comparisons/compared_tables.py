"""A comparison of recipes as text and as HTML. Only formatting: every figure is read from the result.

Promises: doubts stand before numbers; every text is escaped; infinity is written ``never``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from analysis.amounts import short
from analysis.comparisons.compared import Compared, Estimate, Pair, Row
from analysis.comparisons.standings import comparison_html, comparison_text
from analysis.fits.tables import figures, findings_html, in_percent, unit
from analysis.predict.ahead import CALIBRATED

if TYPE_CHECKING:
    from analysis.comparisons.straight import SameCeiling

UNCALIBRATED, BEYOND = "*", "+"  # behind a reach; behind a pass rate
PAIRS_SHOWN = 12  # in text; with more recipes only the pairs with the best one


def compared_text(compared: Compared) -> str:
    """Return a comparison as text, best recipe first."""
    lines = [f"{len(compared.rows)} recipes by {_by(compared)}, best first; limits at {in_percent(compared.level)}"]
    lines += [f"  {f.severity:<8} {f.message}" for f in compared.findings]
    lines += _aligned([_heads(compared), *(_cells(row, compared) for row in compared.rows)])
    lines += [f"  {text}" for text in below(compared)]
    if notes := [f"  {row.recipe}: {row.note}" for row in compared.rows if row.note]:
        lines += ["when not to trust a row", *notes]
    pairs = shown_pairs(compared)
    if pairs:
        lines.append("differences" if len(pairs) == len(compared.pairs) else "differences to the best")
        lines += _aligned([pair_heads(compared), *(pair_cells(pair) for pair in pairs)])
    if compared.standings is not None and compared.standings.common:
        lines += [
            "by every compute axis, no extrapolation",
            *_indented(comparison_text(compared.standings)),
        ]
    return "\n".join(lines)


def compared_html(compared: Compared) -> str:
    """Return a comparison as HTML; every text is escaped."""
    said = f"{len(compared.rows)} recipes by {_by(compared)}, best first; limits at {in_percent(compared.level)}"
    head = f"<p>{escape(said)}</p>"
    rows = _table([[*_heads(compared), "note"], *([*_cells(r, compared), r.note] for r in compared.rows)], "compared")
    pairs = _table([pair_heads(compared), *(pair_cells(pair) for pair in compared.pairs)], "pairs")
    axes = comparison_html(compared.standings) if compared.standings is not None else ""
    said = "".join(f"<p>{escape(text)}</p>" for text in below(compared))
    return f"{findings_html(compared.findings) if compared.findings else ''}{head}{rows}{said}{pairs}{axes}"


def below(compared: Compared) -> list[str]:
    """Return what has to be said under the rows."""
    said = []
    if any(row.reach is not None and row.reach > 1.0 and row.reach_origins < CALIBRATED for row in compared.rows):
        said.append(f"{UNCALIBRATED} fewer than {CALIBRATED} earlier forecasts reach that far: not calibrated")
    if any(r.beyond for row in compared.rows for r in row.rates):
        what = "law alone, past the reach: other laws and the errors of earlier forecasts are not in these limits"
        said.append(f"{BEYOND} {what}, as they are in those of forecast and plan")
    open_A = any(not row.params["A"].identified and row.params["A"].value is not None for row in compared.rows)
    if open_A and any(pair.A.lo is not None for pair in compared.pairs):
        what = (
            "the limits of an A hold what its recipe's data leave open, a part of which (prior, law) all recipes share"
        )
        said.append(f"{what}; in a difference that part cancels, so it can be known better than either A")
    return said


def shown_pairs(compared: Compared) -> Sequence[Pair]:
    """Return the pairs that a short table shows: all of few, otherwise those with the best recipe."""
    if len(compared.pairs) <= PAIRS_SHOWN:
        return compared.pairs
    best = compared.rows[0].recipe
    return [pair for pair in compared.pairs if best in {pair.first, pair.second}]


def share(p: float | None) -> str:
    """Return a probability as text, two digits, never one that reads as certain.

    Examples
    --------
    >>> share(0.456), share(0.999), share(None)
    ('.46', '>.99', 'not tested')
    """
    if p is None:
        return "not tested"
    return ">.99" if p > 0.995 else "<.01" if p < 0.005 else f"{p:.2f}".removeprefix("0")


def rate(e: Estimate, *, signed: bool = False) -> str:
    """Return a pass rate or a difference of two with its limits.

    Examples
    --------
    >>> rate(Estimate(0.6123, 0.601, 0.624)), rate(Estimate(0.0123), signed=True), rate(Estimate(None))
    ('.612 (.601 to .624)', '+.012', 'unknown')
    """
    if e.value is None:
        return "unknown"
    form = "+.3f" if signed else ".3f"

    def shown(v: float) -> str:
        return f"{v:{form}}".replace("0.", ".", 1)

    if e.lo is None or e.hi is None:
        return shown(e.value)
    return f"{shown(e.value)} ({shown(e.lo)} to {shown(e.hi)})"


def compute(e: Estimate, after: str = "") -> str:
    """Return a compute or a ratio of two with its limits; infinity is never.

    Examples
    --------
    >>> compute(Estimate(2.5, 1.75, math.inf), "x"), compute(Estimate(None))
    ('2.5x (1.75x to never)', 'none')
    """
    if e.value is None:
        return "none"

    def shown(v: float) -> str:
        return f"{short(v)}{after}" if math.isfinite(v) else "never"

    if e.lo is None or e.hi is None:
        return shown(e.value)
    return f"{shown(e.value)} ({shown(e.lo)} to {shown(e.hi)})"


def _by(compared: Compared) -> str:
    if math.isinf(compared.by):
        return "the ceiling A"
    return f"the pass rate at {short(compared.by)} {unit(compared.x)}"


def _heads(compared: Compared) -> list[str]:
    row = compared.rows[0]
    at = [f"at {short(r.compute)} {unit(compared.x)}" for r in row.rates]
    to = [f"{unit(compared.x)} to {target:g}" for target in row.reached]
    return ["recipe", "seeds", "A", "to the best", "P(best)", "B", f"C_mid {unit(compared.x)}", "reach", *at, *to]


def _cells(row: Row, compared: Compared) -> list[str]:
    cells = [row.recipe, str(row.seeds)]
    A, B, C_mid = (" ".join(f"{v} ({lim})" if lim else v for v, lim in [figures(p)]) for p in row.params.values())
    best = row is compared.rows[0]
    cells += [A, "" if best else rate(row.difference, signed=True), share(row.p_best), B, C_mid]
    cells.append(_reach(row))
    cells += [f"{rate(r.rate)}{BEYOND * r.beyond}" for r in row.rates] + [compute(e) for e in row.reached.values()]
    return cells


def _reach(row: Row) -> str:
    if row.reach is None:
        return "unknown"
    if row.reach <= 1.0:
        return "none"
    return f"{short(row.reach)}x{'' if row.reach_origins >= CALIBRATED else UNCALIBRATED}"


def pair_heads(compared: Compared) -> list[str]:
    """Return the heads of the table of pairs."""
    pair = compared.pairs[0]
    at = [f"P(better at {short(a.compute)})" for a in pair.at]
    to = [f"speed-up to {t.target:g}" for t in pair.to]
    return ["first - second", "A", "P(higher A)", *at, *to, f"ahead for good from ({unit(compared.x)})"]


def pair_cells(pair: Pair) -> list[str]:
    """Return a pair as cells."""
    return [
        f"{pair.first} - {pair.second}",
        rate(pair.A, signed=True),
        share(pair.p_higher),
        *(share(a.p_better) for a in pair.at),
        *(compute(t.ratio, "x") for t in pair.to),
        compute(pair.crossover),
    ]


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    width = max(len(row) for row in cells)
    full = [[*row, *[""] * (width - len(row))] for row in cells]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in full]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _table(cells: Sequence[Sequence[str]], kind: str) -> str:
    head, *body = cells
    heads = "".join(f"<th>{escape(c)}</th>" for c in head)
    rows = []
    for first, *rest in body:
        full = [*rest, *[""] * (len(head) - 1 - len(rest))]
        rows.append(f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(c)}</td>' for c in full)}</tr>")
    return f'<table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def same_ceiling_text(found: SameCeiling) -> str:
    """Return B and C_mid at a common ceiling as text, steepest first."""
    lines = [f"B and C_mid with A held at {found.A:.3f}, steepest first"]
    lines += [f"  {f.severity:<8} {f.message}" for f in found.findings]
    rows = [[r, compute(found.B[r]), compute(found.ratio[r], "x"), compute(found.C_mid[r])] for r in found.recipes]
    lines += _aligned([["recipe", "B", "of the first", f"C_mid {unit(found.x)}"], *rows])
    points = sum(len(line.y) for line in found.lines)
    return "\n".join(
        [*lines, f"  straight-line plot: {points} points, {found.dropped} dropped (R >= A, R <= R0, C = 0)"]
    )
