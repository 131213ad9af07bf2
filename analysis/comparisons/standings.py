"""Runs at equal compute, as `analysis.comparisons.comparison` hands them on, with their text and HTML. Frozen; nothing
estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from analysis.amounts import short
from analysis.findings import Finding
from analysis.fits.tables import findings_html, unit


@dataclass(frozen=True)
class Standing:
    """One run at equal compute: pass rate of its curve at the common compute of each axis; `None` where it has none."""

    run: str
    recipe: str
    seed: int | None
    pass_rate: Mapping[str, float | None]


@dataclass(frozen=True)
class RecipeMean:
    """Mean over the runs of a recipe, and how many of them (`n`) stand behind it on each axis."""

    recipe: str
    pass_rate: Mapping[str, float | None]
    n: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """Runs at equal compute.

    Attributes
    ----------
    common : mapping of axis to float
        The largest compute that every run with a curve on the axis has reached.
    runs : tuple of Standing
    recipes : tuple of RecipeMean
    ahead : mapping of axis to str or None
        Recipe with the highest mean pass rate; None where fewer than two have one, or at a tie.
    findings : tuple of Finding
    by : mapping of axis to {"posterior", "least squares"}
        How the curves were fitted: as given on the axis of the fits, by least squares on the others.
    p_ahead : mapping of axis to float
        P(the recipe ahead is the best there), where a comparison has tested it.
    """

    common: Mapping[str, float]
    runs: tuple[Standing, ...]
    recipes: tuple[RecipeMean, ...]
    ahead: Mapping[str, str | None]
    findings: tuple[Finding, ...]
    by: Mapping[str, str] = field(default_factory=dict)
    p_ahead: Mapping[str, float] = field(default_factory=dict)

    @property
    def tested(self) -> bool:
        """Whether `ahead` rests on a test of the difference, not on the means alone."""
        return all(f.code != "not-tested" for f in self.findings)

    def __repr__(self) -> str:
        return comparison_text(self)

    def _repr_html_(self) -> str:
        return comparison_html(self)


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as a few lines of text, best recipe first."""
    axes = list(comparison.common)
    if not axes:
        return "\n".join(["nothing to compare", *(f"  {f.severity:<8} {f.message}" for f in comparison.findings)])
    head = [f"at {short(comparison.common[a])} {axis_in_words(a)}" for a in axes]
    rows = [[label, *rates] for label, _, rates in _comparison_rows(comparison)]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'pass rate':<{width}}  {'   '.join(head)}"]
    for label, *rates in rows:
        lines.append(
            f"{label:<{width}}  {'   '.join(f'{c:<{len(h)}}' for c, h in zip(rates, head, strict=True))}".rstrip()
        )
    for axis, recipe in comparison.ahead.items():
        if recipe is not None:
            lines.append(f"ahead at equal {axis_in_words(axis)}: {recipe}{_how_sure(comparison, axis)}")
    lines += [said] if (said := fitted_by(comparison)) else []
    return "\n".join([*lines, *(f"  {f.severity:<8} {f.message}" for f in comparison.findings)])


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as an HTML table with its findings below; every text is escaped."""
    heads = ["recipe or run", *(f"at {short(c)} {axis_in_words(a)}" for a, c in comparison.common.items())]
    body = []
    for label, is_mean, rates in _comparison_rows(comparison):
        tag = "th" if is_mean else "td"
        marked = [f"<td>{escape(cell)}</td>" for cell in rates]
        body.append(f"<tr><{tag}>{escape(label)}</{tag}>{''.join(marked)}</tr>")
    ahead = "".join(
        f"<p>Ahead at equal {escape(axis_in_words(axis))}: {escape(recipe + _how_sure(comparison, axis))}</p>"
        for axis, recipe in comparison.ahead.items()
        if recipe is not None
    )
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    table = f'<table class="comparison"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    ahead += f"<p>{escape(said)}</p>" if (said := fitted_by(comparison)) else ""
    return f"{table}{ahead}{findings_html(comparison.findings) if comparison.findings else ''}"


def _how_sure(comparison: Comparison, axis: str) -> str:
    if (p := comparison.p_ahead.get(axis)) is not None:
        return f" (P {'> .99' if p > 0.995 else f'{p:.2f}'.removeprefix('0')})"
    return "" if comparison.tested else " (not tested)"


def axis_in_words(axis: str) -> str:
    """Return an axis as it is told from others of its unit.

    Examples
    --------
    >>> axis_in_words("tokens_trained"), axis_in_words("flops")
    ('tokens trained', 'FLOPs')
    """
    return axis.replace("_", " ") if axis.startswith("tokens_") else unit(axis)


def fitted_by(comparison: Comparison) -> str:
    """Return how the curves were fitted where that differs between axes; nothing where it does not."""
    if len(set(comparison.by.values())) < 2:
        return ""
    each = []
    for how in dict.fromkeys(comparison.by.values()):
        axes = ", ".join(axis_in_words(axis) for axis, by in comparison.by.items() if by == how)
        each.append(f"{axes} by {'the posterior' if how == 'posterior' else how}")
    return f"curves on {'; on '.join(each)}"


def _comparison_rows(comparison: Comparison) -> list[tuple[str, bool, list[str]]]:
    """(label, whether it is a mean over seeds, one cell an axis): a recipe, and its runs below it if it has several."""
    rows = []
    for mean in comparison.recipes:
        runs = [s for s in comparison.runs if s.recipe == mean.recipe]
        rates = [
            _rate(mean.pass_rate[a]) + (f" (mean of {mean.n[a]})" if mean.n[a] > 1 else "") for a in comparison.common
        ]
        label = mean.recipe if len(runs) > 1 else runs[0].run
        rows.append((label, True, rates))
        if len(runs) > 1:
            rows += [(f"  {s.run}", False, [_rate(s.pass_rate[a]) for a in comparison.common]) for s in runs]
    return rows


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
