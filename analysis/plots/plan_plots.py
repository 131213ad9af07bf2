"""Draw what more compute would tell: widths against the budget. Computes nothing; artists carry ids such as ``A-0``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.budgets.plans import Plan, Plans
from analysis.plots.captions import short_name
from analysis.plots.looks import looks_of_names
from analysis.plots.output import legend_below, shown_axes
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_plan(plans: Plan | Plans | Sequence[Plan], ax: Axes | None = None) -> Axes:
    """Draw the width of A's interval (solid) and the half-width of the band at 2x (dashed) after each budget.

    Raises
    ------
    UserError
        If no run has a plan.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> ax = plot_plan(an.plan(run, budgets=[2], futures=4))
    >>> [line.get_gid() for line in ax.lines]
    ['A-0', 'half-0']
    """
    from matplotlib.lines import Line2D

    given = [one for one in ([plans] if isinstance(plans, Plan) else list(plans)) if one.budgets]
    if not given:
        raise UserError("no run has a plan to draw")
    ax = shown_axes(ax, 6.0, 4.6)
    handles, labels = [], []
    for i, (one, look) in enumerate(zip(given, looks_of_names([one.run for one in given]), strict=True)):
        multiples = [b.multiple for b in one.budgets]
        style: dict[str, Any] = {"color": look.style["color"], "marker": look.marker, "ms": 5, "lw": look.width}
        ax.plot(multiples, [b.A_width for b in one.budgets], "-", gid=f"A-{i}", **style)
        ax.plot(multiples, [b.half for b in one.budgets], "--", gid=f"half-{i}", **style)
        handles.append(Line2D([], [], ls="", **(style | {"lw": 0.0})))
        labels.append(f" {short_name(one.run)}")
    for dashes, what in (("-", "solid: width of A's interval"), ("--", "dashed: half-width of the band at 2x")):
        handles.append(Line2D([], [], ls=dashes, color="0.4"))
        labels.append(f" {what}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = sorted({b.multiple for one in given for b in one.budgets})
    ax.set_xticks(ticks, ["today" if t == 1.0 else f"{t:g}x" for t in ticks])
    ax.set_xticks([], minor=True)
    low, high = ax.get_ylim()
    heights = [h for h in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low <= h <= high]
    ax.set_yticks(heights, [f"{h:g}" for h in heights])
    ax.set_yticks([], minor=True)
    ax.set_xlabel("total compute, multiple of today's")
    ax.set_ylabel("width, in pass rate")
    ax.spines[["top", "right"]].set_visible(False)
    legend_below(ax, handles, labels, ncols=2)
    return ax
