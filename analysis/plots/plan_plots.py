"""Draw what more compute would tell: widths against the budget. Computes nothing; artists carry ids such as ``A-0``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.budgets.plans import Plan, Plans
from analysis.plots.output import shown_axes
from analysis.plots.plotting import COLOURS, MARKERS
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
    given = [one for one in ([plans] if isinstance(plans, Plan) else list(plans)) if one.budgets]
    if not given:
        raise UserError("no run has a plan to draw")
    ax = shown_axes(ax, 6.0, 4.0)
    for i, one in enumerate(given):
        multiples = [b.multiple for b in one.budgets]
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "ms": 5}
        ax.plot(
            multiples, [b.A_width for b in one.budgets], "-", label=f" {one.run}: width of A", gid=f"A-{i}", **style
        )
        halves = [b.half for b in one.budgets]
        ax.plot(multiples, halves, "--", label=f" {one.run}: half-width at 2x", gid=f"half-{i}", **style)
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
    ax.set_ylabel("pass rate")
    ax.spines[["top", "right"]].set_visible(False)
    for text in ax.legend(frameon=False, fontsize="small").get_texts():
        text.set_parse_math(False)
    return ax
