"""Figures of a comparison. Functions take a result and an axis, draw, and return the axis; they compute no statistics.

Promises: no window is opened; every artist carries an id such as ``difference-0``; what is not known is not drawn, and
points that have no place on the straight-line plot are counted in its label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis.amounts import short
from analysis.comparisons.compared import Compared, Estimate
from analysis.comparisons.compared_tables import share
from analysis.comparisons.straight import SameCeiling, same_ceiling
from analysis.fits.tables import in_percent
from analysis.plots.looks import colour_of, marker_of, recipe_ranks
from analysis.plots.output import new_axes, new_figure, shown_axes
from analysis.plots.plotting import LABELS, _round_numbers
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3  # panels a row
NOTE = 14  # characters of a doubt that is written beside its row


def plot_forest(compared: Compared, ax: Axes | None = None) -> Axes:
    """Draw each recipe's difference to the best with its limits, best on top; beside it P(best) and what is doubted.

    A recipe whose difference is not tested is a hollow point without limits.

    Parameters
    ----------
    compared : Compared
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import analysis as an
    >>> ax = plot_forest(an.compare(an.read("data/runs"), seed_sd=0.02))
    >>> [t.get_text() for t in ax.get_yticklabels()]
    ['scalerl (1 seed)', 'grpo (1 seed)']
    """
    rows = [row for row in compared.rows if row.difference.value is not None]
    ax = shown_axes(ax, 7.0, _forest_height(compared))
    ax.axvline(0.0, color="0.6", lw=1.0, gid="none")
    ranks = recipe_ranks(row.recipe for row in compared.rows)
    for i, row in enumerate(rows):
        colour, d = colour_of(ranks[row.recipe]), row.difference
        fill = colour if i == 0 else "none"
        if d.lo is not None and d.hi is not None:
            ax.plot([d.lo, d.hi], [i, i], "-", color=colour, lw=1.8, gid=f"limits-{i}")
            fill = colour
        ax.plot(np.array([d.value], dtype=float), [i], "o", color=colour, mfc=fill, ms=6, gid=f"difference-{i}")
        said = f"P(best) {share(row.p_best)}" if row.p_best is not None else "not tested"
        if row.note:  # as little room as P(best) has: the table has it whole
            said += f"\n{row.note if len(row.note) <= NOTE else 'doubted'}"
        beside = ax.get_yaxis_transform()
        ax.text(1.01, i, said, transform=beside, va="center", fontsize="small", gid=f"p-best-{i}")
    labels = [f"{row.recipe} ({row.seeds} seed{'s' * (row.seeds > 1)})" for row in rows]
    ax.set_yticks(range(len(rows)), labels)
    for text in ax.get_yticklabels():
        text.set_parse_math(False)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    what = "A" if math.isinf(compared.by) else f"pass rate at {short(compared.by)} {LABELS.get(compared.x, compared.x)}"
    ax.locator_params(axis="x", nbins=5)
    limits = (
        f"{in_percent(compared.level)} limits" if any(row.difference.lo is not None for row in rows) else "not tested"
    )
    ax.set_xlabel(f"{what}, difference to the best ({limits})")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_straight(found: SameCeiling, ax: Axes | None = None, *, recipes: tuple[str, ...] | None = None) -> Axes:
    """Draw ln((R - R0) / (A - R)) over compute: for each run a line of slope B that crosses 0 at its C_mid.

    The paper's log F(R) = B ln C less B ln C_mid: of lines that are equally steep the one further left is faster.
    Points that have no place are counted in the legend.

    Parameters
    ----------
    found : SameCeiling
    ax : matplotlib Axes, optional
    recipes : tuple of str, optional
        Only these.

    Examples
    --------
    >>> import analysis as an
    >>> ax = plot_straight(same_ceiling(an.compare(an.read("data/runs"), seed_sd=0.02)))
    >>> len(ax.lines)
    4
    """
    return _straight(found, shown_axes(ax, 7.0, 4.6), recipes, recipe_ranks(found.recipes))


def _straight(
    found: SameCeiling, ax: Axes, recipes: tuple[str, ...] | None, ranks: Mapping[str, int], *, panel: bool = False
) -> Axes:
    """Draw the lines of recipes, with the looks of these ranks; as one of many panels smaller, and without every B."""
    from matplotlib.ticker import NullLocator

    for i, line in enumerate(found.lines):
        if recipes is not None and line.recipe not in recipes:
            continue
        place = ranks[line.recipe]
        colour = colour_of(place)
        same = [other for other in found.lines if other.recipe == line.recipe]
        name, dropped = line.recipe if len(same) > 1 else line.run, sum(other.dropped for other in same)
        Bs = "" if panel else f": B {', '.join(f'{other.B:.2f}' for other in same)}"
        label = f"{name}{Bs}{f', {dropped} dropped' if dropped else ''}"
        label = label if line is same[0] else "_"  # one line of the legend for all seeds of a recipe
        ax.plot(
            line.compute,
            -line.y,
            marker_of(place),
            ms=2.5 if panel else 4.0,
            alpha=0.7,
            label=label,
            gid=f"points-{i}",
            color=colour,
        )
        if len(line.compute):
            ends = np.array([line.compute.min(), line.compute.max()])
            ax.plot(ends, -line.at(ends), "-", lw=1.4, gid=f"line-{i}", color=colour)
    ax.set_xscale("log")
    computes = [line.compute for line in found.lines if recipes is None or line.recipe in recipes]
    known = np.concatenate([*computes, np.empty(0)])
    if len(known):
        ticks = _round_numbers(float(known.min()), float(known.max()))
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(LABELS.get(found.x, found.x))
    ax.set_ylabel("ln((R - R0) / (A - R))")
    ax.spines[["top", "right"]].set_visible(False)
    legend = ax.legend(frameon=False, fontsize="x-small" if panel else "small")
    legend.set_in_layout(not panel)  # of a long name a panel would be left with no room
    for text in legend.get_texts():
        text.set_parse_math(False)
    return ax


def plot_leave_one_out(found: SameCeiling, full: str | None = None, figure: Figure | None = None) -> Figure:
    """Draw one panel for each other recipe beside the whole one, on the straight-line plot, as the paper's Figure 7.

    Parameters
    ----------
    found : SameCeiling
        At one ceiling, so that B and C_mid can be compared.
    full : str, optional
        The recipe that the others leave something out of; by default the one with the largest B.
    figure : matplotlib Figure, optional

    Returns
    -------
    matplotlib Figure
        The title of a panel says both B and their ratio.

    Raises
    ------
    UserError
        If `full` is none of the recipes.

    Examples
    --------
    >>> import analysis as an
    >>> figure = plot_leave_one_out(same_ceiling(an.compare(an.read("data/runs"), seed_sd=0.02)), "scalerl")
    >>> [ax.get_title() for ax in figure.axes]
    ['grpo: B 1.71, scalerl 1.66']
    """
    full = found.recipes[0] if full is None else full
    if full not in found.recipes:
        raise UserError(f"leave-one-out: {full!r} is none of {', '.join(found.recipes)}, which share a ceiling")
    others = [name for name in found.recipes if name != full]
    rows = math.ceil(len(others) / COLUMNS)
    across = min(len(others), COLUMNS)
    figure = new_figure(4.2 * across, 3.4 * rows) if figure is None else figure
    panels = figure.subplots(rows, across, squeeze=False, sharex=True, sharey=True)
    for i, (ax, name) in enumerate(zip(panels.flat, others, strict=False)):
        _straight(found, ax, (full, name), {full: 0, name: 1}, panel=True)
        ax.set_title(f"{name}: B {_short(found.B[name])}, {full} {_short(found.B[full])}", fontsize="medium")
        ax.title.set_parse_math(False)
        lowest = i + across >= len(others)
        ax.tick_params(labelbottom=lowest)
        ax.xaxis.label.set_visible(lowest)
        ax.yaxis.label.set_visible(i % across == 0)
    for ax in panels.flat[len(others) :]:
        ax.remove()
    return figure


def draw(compared: Compared, which: str, found: SameCeiling | None = None, *, full: str | None = None) -> Axes:
    """Draw the figure `which` of the command and return an axis of it."""
    if which == "forest":
        return plot_forest(compared, new_axes(7.0, _forest_height(compared)))
    found = same_ceiling(compared) if found is None else found
    return plot_straight(found, new_axes()) if which == "line" else plot_leave_one_out(found, full).axes[0]


def _forest_height(compared: Compared) -> float:
    """Inches that leave every recipe a line of its own."""
    return 1.4 + 0.38 * sum(row.difference.value is not None for row in compared.rows)


def _short(e: Estimate) -> str:
    return "unknown" if e.value is None else f"{e.value:.2f}"
