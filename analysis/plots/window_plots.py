"""Draw a study of windows: A against where the fit begins. Computes nothing; artists carry ids such as ``A-0``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.fits.tables import unit
from analysis.plots.output import shown_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.fits.windows import WindowStudy


def plot_windows(study: WindowStudy, ax: Axes | None = None) -> Axes:
    """Draw A and its limits against the start of the window; returns the axis.

    Where the data leave A open above, an arrow stands in the place of the upper limit.
    """
    ax = shown_axes(ax, 6.0, 3.6)
    for i, row in enumerate(study.rows):
        A = row.A
        if A.value is None:
            continue
        ax.plot([i], [A.value], "o", color="#0072B2", ms=5, gid=f"A-{i}")
        low = A.value if A.lo is None else A.lo
        high = 1.0 if A.hi is None else A.hi
        ax.plot([i, i], [low, high], "-", color="#0072B2", lw=1.6, gid=f"limits-{i}")
        if A.hi is None:
            ax.plot([i], [high], "^", color="#0072B2", mfc="none", ms=7, gid=f"open-{i}")
    labels = [f"{'first' if row.start is None else f'{row.start:.3g}'}\n{row.n} points" for row in study.rows]
    ax.set_xticks(range(len(study.rows)), labels)
    ax.set_xlim(-0.5, len(study.rows) - 0.5)
    ax.set_xlabel(f"start of the window ({unit(study.x)})")
    ax.set_ylabel("A")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
