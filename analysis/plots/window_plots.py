"""Draw a study of windows: A against where the fit begins. Computes nothing; artists carry ids such as ``A-0``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.amounts import short
from analysis.fits.tables import unit
from analysis.plots.output import shown_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.fits.windows import WindowStudy


def plot_windows(
    study: WindowStudy, ax: Axes | None = None, *, ylim: tuple[float, float] | None = None, colour: str = "#0072B2"
) -> Axes:
    """Draw A and its limits against the start of the window; returns the axis.

    Where the data leave A open above, an arrow stands in the place of the upper limit.

    Parameters
    ----------
    study : WindowStudy
    ax : matplotlib Axes, optional
    ylim : pair of pass rates, optional
        Range of A, to set several studies side by side; by default that of this one.
    colour : str
        Of its points.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> ax = plot_windows(an.window_study(run, [0, 5000], method="lsq"), ylim=(0.5, 0.8))
    >>> ax.get_ylim() == (0.5, 0.8), [line.get_gid() for line in ax.lines]
    (True, ['A-0', 'limits-0', 'A-1', 'limits-1'])
    """
    ax = shown_axes(ax, 6.0, 3.6)
    for i, row in enumerate(study.rows):
        A = row.A
        if A.value is None:
            continue
        ax.plot([i], [A.value], "o", color=colour, ms=5, gid=f"A-{i}")
        low = A.value if A.lo is None else A.lo
        high = 1.0 if A.hi is None else A.hi
        ax.plot([i, i], [low, high], "-", color=colour, lw=1.6, gid=f"limits-{i}")
        if A.hi is None:
            ax.plot([i], [high], "^", color=colour, mfc="none", ms=7, gid=f"open-{i}")
    labels = [f"{'first' if row.start is None else short(row.start)}\n{row.n} points" for row in study.rows]
    ax.set_xticks(range(len(study.rows)), labels)
    if ylim is not None:
        ax.set_ylim(*ylim)
    ax.set_xlim(-0.5, len(study.rows) - 0.5)
    ax.set_xlabel(f"start of the window ({unit(study.x)})")
    ax.set_ylabel("A")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
