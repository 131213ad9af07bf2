"""Draw forecasts: the runs with their bands ahead, and how wide these are against how far ahead they look.

Promises: nothing is computed but where to draw; a band that earlier forecasts of the run do not stand behind is drawn
fainter, and its half-width dotted. Artists carry ids such as ``mean-band-0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.curves.solver import Array
from analysis.fits.tables import in_percent, unit
from analysis.plots.captions import short_name
from analysis.plots.looks import looks_of
from analysis.plots.output import legend_below, shown_axes
from analysis.plots.plotting import plot_curves
from analysis.predict.ahead import CALIBRATED
from analysis.predict.forecasts import Forecast, Forecasts
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.plots.looks import Look


def plot_forecast(forecasts: Forecast | Forecasts | Sequence[Forecast], ax: Axes | None = None) -> Axes:
    """Draw the evaluations, the fitted sigmoid, and the forecast with its two bands; returns the axis.

    The dark band is that of the mean curve, the light one that of a new evaluation, both by the first method that was
    asked for; bars stand at the computes that were asked for.

    Raises
    ------
    UserError
        If there is nothing to draw, or the runs are on different axes.

    Examples
    --------
    >>> import analysis as an
    >>> ax = plot_forecast(an.forecast(an.read("data/paper/scalerl_8b_bs2048_100k.csv"), "2x"))
    >>> [area.get_gid() for area in ax.collections if "band" in area.get_gid()]
    ['new-band-0', 'mean-band-0']
    """
    given = _several(forecasts)
    fits = [one.fit for one in given]
    farthest = max([2.0, *(row.multiple or 0.0 for one in given for row in one.rows if one.paths)])
    ax = plot_curves(fits, ax, extend=farthest, band=False)
    low, high = ax.get_ylim()
    for one, look in zip(given, looks_of(fits), strict=True):
        if not one.paths:
            continue
        low, high = (
            end(edge, value) for end, edge, value in zip((min, max), (low, high), _draw(ax, one, look), strict=True)
        )
    ax.set_ylim(max(low - 0.02, -0.02), min(high + 0.02, 1.02))
    _far_tick(ax, max([0.0, *(row.at for one in given for row in one.rows if one.paths)]))
    _legend(ax, given)
    return ax


def _far_tick(ax: Axes, farthest: float) -> None:
    """Put a tick at the farthest compute that was asked for, where none is near it."""
    low, high = ax.get_xlim()
    ticks = [(float(at), text.get_text()) for at, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)]
    if not low < farthest <= high * 1.0001:
        return
    near = (high / low) ** 0.07
    kept = [(at, text) for at, text in ticks if not farthest / near < at < farthest * near or text == "A"]
    digits = 4 if farthest < 1000.0 else 6 if farthest < 1e6 else 2
    named = [*kept, (farthest, f"{farthest:.{digits}g}")]
    labels = ax.set_xticks([at for at, _ in named], [text for _, text in named])
    if any(text == "A" and at < farthest * near for at, text in named):
        labels[-1].label1.set_horizontalalignment("right")  # centred it would run into the A beside it


def _legend(ax: Axes, given: Sequence[Forecast]) -> None:
    """Add what lines, bands and bars mean to the legend of the runs."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    runs = ax.get_legend()
    if runs is None:
        return
    handles = [h for h in runs.legend_handles if h is not None]
    labels = [text.get_text() for text in runs.get_texts()]
    some = [one for one in given if one.paths]
    if some:
        level = f"{in_percent(some[0].level)} band"
        handles += [
            Line2D([], [], color="0.3", ls="--"),
            Line2D([], [], color="0.3", ls="-."),
            Patch(facecolor="0.5", alpha=0.32, lw=0.0),
            Patch(facecolor="0.5", alpha=0.12, lw=0.0),
        ]
        labels += [
            " dashed: where the fitted sigmoid leads",
            " dash-dotted: forecast",
            f" dark: {level} of the mean curve",
            f" light: {level} of a new evaluation",
        ]
        if any(not row.calibrated for one in some for row in one.rows if row.method == one.method):
            handles.append(Line2D([], [], color="0.3", alpha=0.45, lw=3.2))
            labels.append(" pale bar: no earlier forecasts of the run stand behind it")
    if any((one.fit.left_out[:, 0] > one.last).any() for one in given):
        handles.append(Line2D([], [], color="0.3", ls="", marker="o", mfc="none"))
        labels.append(" hollow: came later, not fitted")
    legend_below(ax, handles, labels, ncols=1 if len(given) < 4 else 2)


def _draw(ax: Axes, one: Forecast, look: Look) -> tuple[float, float]:
    """Draw one forecast; returns the lowest and the highest pass rate of its bars."""
    path, colour = one.paths[one.method], look.style["color"]
    rows = [row for row in one.rows if row.method == one.method and row.pass_rate is not None]
    end = max([2.0, *(row.multiple or 0.0 for row in rows)])
    seen = path.multiples <= end
    multiples = np.append(path.multiples[seen], end)
    C = multiples * one.last

    def at(values: Array) -> Array:
        return np.asarray(np.interp(np.log(multiples), np.log(path.multiples), values))

    mid = at(path.mid)
    for name, half, alpha in (("new-band", at(path.half_new), 0.10), ("mean-band", at(path.half), 0.22)):
        lo, hi = np.clip(mid - half, 0.0, 1.0), np.clip(mid + half, 0.0, 1.0)
        ax.fill_between(C, lo, hi, color=colour, alpha=alpha, lw=0.0, zorder=1.0, gid=look.gid(name))
    ax.plot(C, mid, "-.", color=colour, lw=look.width, gid=look.gid("forecast"), zorder=3.5)
    ends = []
    for i, row in enumerate(rows):
        if row.pass_rate is None or row.lo is None or row.hi is None or row.mean_lo is None or row.mean_hi is None:
            continue
        alpha = 1.0 if row.calibrated else 0.45
        style = {"color": colour, "alpha": alpha, "zorder": 4.0}
        ax.plot([row.at] * 2, [row.lo, row.hi], "-", lw=1.0, gid=look.gid(f"new-bar-{i}"), **style)
        ax.plot([row.at] * 2, [row.mean_lo, row.mean_hi], "-", lw=3.2, gid=look.gid(f"mean-bar-{i}"), **style)
        ax.plot([row.at], [row.pass_rate], look.marker, ms=5.5, mec="white", gid=look.gid(f"middle-{i}"), **style)
        ends += [row.lo, row.hi]
    return (min(ends), max(ends)) if ends else (1.0, 0.0)


def plot_reach(forecasts: Forecast | Forecasts | Sequence[Forecast], ax: Axes | None = None) -> Axes:
    """Draw the half-width of the mean curve's band against the multiple of the last compute; returns the axis.

    Solid where three or more earlier forecasts lie that far back, dotted beyond; the point is the reach.

    Examples
    --------
    >>> import analysis as an
    >>> ax = plot_reach(an.forecast(an.read("data/paper/scalerl_8b_bs2048_100k.csv"), "2x"))
    >>> ax.get_xlabel()
    'multiple of the last compute'
    """
    given = [one for one in _several(forecasts) if one.paths]
    if not given:
        raise UserError("no run has a forecast to draw")
    ax = shown_axes(ax, 6.0, 4.0)
    for one, look in zip(given, looks_of([one.fit for one in given]), strict=True):
        path, colour = one.paths[one.method], look.style["color"]
        known = int((path.origins >= CALIBRATED).sum())
        style = {"color": colour, "lw": look.width}
        ax.plot(path.multiples[:known], path.half[:known], "-", gid=look.gid("known"), **style)
        ax.plot(
            path.multiples[max(known - 1, 0) :], path.half[max(known - 1, 0) :], ":", gid=look.gid("beyond"), **style
        )
        label = f" {short_name(one.name)}: {'none' if one.reach is None or one.reach <= 1.0 else f'{one.reach:.3g}x'}"
        reach = 1.0 if one.reach is None else one.reach
        height = float(np.interp(np.log(reach), np.log(path.multiples), path.half))
        ax.plot([reach], [height], look.marker, color=colour, ms=7, label=label, gid=look.gid("reach"))
    ax.axhline(given[0].tolerance, color="0.4", lw=0.9, ls="--", gid="tolerance")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(ticks := [1, 2, 4, 8, 16, 32, 64], [f"{t}x" for t in ticks])
    ax.set_xticks([], minor=True)
    heights = [
        h for h in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if ax.get_ylim()[0] <= h <= ax.get_ylim()[1]
    ]
    ax.set_yticks(heights, [f"{h:g}" for h in heights])
    ax.set_yticks([], minor=True)
    ax.set_xlabel("multiple of the last compute")
    ax.set_ylabel(f"half-width of the {in_percent(given[0].level)} band")
    ax.spines[["top", "right"]].set_visible(False)
    ax.annotate(
        f"+-{given[0].tolerance:g}",
        (1.0, given[0].tolerance),
        xycoords=ax.get_yaxis_transform(),
        ha="right",
        va="bottom",
        fontsize="small",
        color="0.4",
    )
    title = "point: reach; dotted: no earlier forecasts stand behind it"
    legend_below(ax, *ax.get_legend_handles_labels(), ncols=1 if len(given) < 4 else 2, title=title)
    return ax


def caption(forecasts: Forecast | Forecasts | Sequence[Forecast]) -> str:
    """Return what `plot_forecast` draws, in words."""
    given = _several(forecasts)
    method = "average of four families" if given[0].method == "average" else "sigmoid"
    bands = f"{in_percent(given[0].level)} band of the mean curve, light: of a new evaluation"
    return (
        f"Points: evaluations. Solid: fitted sigmoid, dashed: where it leads. Dash-dotted: forecast ({method}). Dark: "
        f"{bands}; pale bars: no earlier forecasts of the run stand behind them. Compute in {unit(given[0].fit.x)}."
    )


def _several(forecasts: Forecast | Forecasts | Sequence[Forecast]) -> list[Forecast]:
    given = [forecasts] if isinstance(forecasts, Forecast) else list(forecasts)
    if not given:
        raise UserError("there is no forecast to draw")
    return given
