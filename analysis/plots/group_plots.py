"""Draw groups: their curves, and the second-stage line. Computes nothing; artists carry ids such as ``line``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.plots.output import shown_axes
from analysis.plots.plotting import plot_curves
from analysis.pooled.grouped import GroupFits
from analysis.pooled.secondstage import natural
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_groups(groups: GroupFits, ax: Axes | None = None) -> Axes:
    """Draw the curve of each group; returns the axis."""
    return plot_curves(groups.fits, ax, extend=2.0)


def plot_line(groups: GroupFits, name: str = "A", ax: Axes | None = None) -> Axes:
    """Draw a parameter of each group over its size, the second-stage line, and what it predicts; returns the axis.

    Raises
    ------
    UserError
        If the groups have no line.
    """
    line = groups.line
    if line is None or groups.sizes is None:
        raise UserError("these groups have no line over sizes; it takes three sizes or more")
    ax = shown_axes(ax, 6.0, 4.0)
    for i, run in enumerate(line.runs):
        p = groups.fits[run].params[name]
        if p.value is None:
            continue
        ends = [p.value if v is None else v for v in (p.lo, p.hi)]
        ax.plot([line.sizes[i]] * 2, ends, "-", color="#0072B2", lw=1.4, gid=f"limits-{i}")
        ax.plot([line.sizes[i]], [p.value], "o", color="#0072B2", ms=5, gid=f"value-{i}")
    told = line.predicted[name]
    sizes = np.geomspace(min(line.sizes), max(line.at, *line.sizes), 60)
    ax.plot(
        sizes, [natural(name, told.intercept + told.slope * np.log(s)) for s in sizes], "--", color="0.4", gid="line"
    )
    ax.plot([line.at] * 2, [told.lo, told.hi], "-", color="#D55E00", lw=2.2, gid="predicted-limits")
    ax.plot([line.at], [told.value], "D", color="#D55E00", ms=6, gid="predicted")
    ax.set_xscale("log")
    ticks = [*line.sizes, line.at]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(groups.by)
    ax.set_ylabel(name)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
