"""Draw what the data say of A and B together: a cloud of draws a run. Computes nothing but the sample of draws."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from analysis.fits.results import Fit
from analysis.plots.looks import looks_of
from analysis.plots.output import shown_axes
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 300  # draws a run


def plot_clouds(fits: Fit | Iterable[Fit], ax: Axes | None = None) -> Axes:
    """Draw equally weighted draws of A against B, and the medians; returns the axis.

    Artists carry the ids ``cloud-0`` and ``median-0``.

    Raises
    ------
    UserError
        If no fit has draws.

    Examples
    --------
    >>> import analysis as an
    >>> ax = plot_clouds(an.fit(an.read("data/runs")))
    >>> [line.get_gid() for line in ax.lines]
    ['cloud-0', 'median-0', 'cloud-1', 'median-1']
    """
    given = [f for f in ([fits] if isinstance(fits, Fit) else fits) if f.trusted_draws is not None and f.fitted]
    if not given:
        raise UserError("no fit has draws of A and B to show")
    ax = shown_axes(ax, 5.0, 4.0)
    for fit, look in zip(given, looks_of(given), strict=True):
        d, colour = fit.trusted_draws, look.style["color"]
        if d is None:
            continue
        at = np.searchsorted(np.cumsum(d.weight), (np.arange(SHOWN) + 0.5) / SHOWN)
        at = np.minimum(at, len(d) - 1)
        ax.plot(d.B[at], d.A[at], ".", color=colour, ms=3, alpha=0.35, gid=look.gid("cloud"))
        B, A = fit.params["B"].value, fit.params["A"].value
        if A is not None and B is not None:
            style = {"color": colour, "mec": "white", "label": f" {fit.name}"}
            ax.plot([B], [A], look.marker, ms=8, gid=look.gid("median"), **style)
    ax.set_xlabel("B")
    ax.set_ylabel("A")
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        for text in ax.legend(frameon=False, fontsize="small").get_texts():
            text.set_parse_math(False)
    return ax
