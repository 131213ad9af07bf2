"""Draw back-tests: forecasts beside what came, the errors of all methods, and A by origin.

Promises: nothing is computed but where to draw; a band that counts as calibrated has a filled marker, another one a
hollow one. Artists carry ids such as ``predicted-0``, numbered by run, or ``errors-2``, by horizon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.fits.tables import in_percent
from analysis.plots.captions import NAME_LENGTH
from analysis.plots.looks import Look, looks_of_names
from analysis.plots.output import new_figure, shown_axes
from analysis.plots.plotting import LABELS, LEGEND_RUNS
from analysis.predict.backtests import Backtest, Outcome
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERROR_COLOURS = ("#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7")


def plot_backtest(test: Backtest, method: str = "average", figure: Figure | None = None) -> Figure:
    """Draw each horizon, then the errors by method and A by origin, on one figure; returns the figure.

    Parameters
    ----------
    test : Backtest
    method : str
        Whose forecasts the horizons show.
    figure : matplotlib Figure, optional
        Drawn on; by default a new one without a window.

    Raises
    ------
    UserError
        If there is nothing to draw, the runs are on different axes, or the method made no forecast.

    Examples
    --------
    >>> import analysis as an
    >>> figure = plot_backtest(an.backtest(an.read("data/paper/scalerl_8b_bs2048_100k.csv"), 2))
    >>> [ax.get_title(loc="left") for ax in figure.axes]
    ['2x ahead, average', 'errors by method; hollow: fewer forecasts', 'A by origin']
    """
    _drawable(test, method)
    count = len(test.horizons)
    figure = new_figure(max(4.0 * count, 9.0), 8.2) if figure is None else figure
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    first = top.subplots(1, count, sharey=True, squeeze=False)[0]
    for i, (horizon, ax) in enumerate(zip(test.horizons, first, strict=True)):
        plot_tested(test, horizon, ax, method, legend=i == 0)
    errors, drift = bottom.subplots(1, 2)
    plot_errors(test, errors)
    plot_drift(test, drift)
    return figure


def plot_tested(
    test: Backtest, horizon: float, ax: Axes | None = None, method: str = "average", *, legend: bool = True
) -> Axes:
    """Draw the forecasts of one method one horizon ahead, at the compute they are for, over all evaluations.

    Bars are the widened band of a new evaluation; least squares has none.
    """
    _drawable(test, method)
    ax = shown_axes(ax, 6.0, 4.2)
    for look, (run, points) in zip(looks_of_names(list(test.points)), test.points.items(), strict=True):
        after = points[points[:, 0] > 0.0]
        ax.plot(*after.T, ".", color=look.style["color"], ms=4, alpha=0.45, gid=look.gid("points"))
        mine = [row for row in test.rows if (row.run, row.horizon, row.method) == (run, horizon, method)]
        for rows, name, fill in (
            ([r for r in mine if r.calibrated], "calibrated", look.style["color"]),
            ([r for r in mine if not r.calibrated], "predicted", "white"),
        ):
            if rows:
                _forecasts(ax, rows, look, name, fill)
    _compute_axis(ax, test)
    ax.set_ylabel("pass rate")
    ax.label_outer()
    ax.set_title(f"{horizon:g}x ahead, {method.replace('_', ' ')}", loc="left", fontsize="medium")
    if legend:
        _legend(ax, test)
    return ax


def _forecasts(ax: Axes, rows: Sequence[Outcome], look: Look, name: str, fill: str) -> None:
    at, predicted = np.array([r.at for r in rows]), np.array([r.predicted for r in rows])
    colour = look.style["color"]
    for r in rows:
        if r.lo is not None and r.hi is not None:
            ax.plot([r.at, r.at], [r.lo, r.hi], "-", color=colour, lw=1.0, alpha=0.7, gid=f"band-{look.place}-{r.n}")
    ax.plot(at, predicted, look.marker, ms=5.5, mec=colour, mfc=fill, gid=look.gid(name), zorder=4.0)


def plot_errors(test: Backtest, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each method, a marker a horizon; best at the top, by the middle horizon.

    A method that made fewer forecasts than others at a horizon has a hollow marker: it was tested on others.
    """
    ax = shown_axes(ax, 6.0, 4.2)
    middle = test.horizons[len(test.horizons) // 2]
    order = list(
        dict.fromkeys([s.method for s in test.scores if s.horizon == middle] + [s.method for s in test.scores])
    )
    for k, horizon in enumerate(test.horizons):
        mine = [s for s in test.scores if s.horizon == horizon]
        if not mine:
            continue
        most = max(s.forecasts for s in mine)
        style: dict[str, Any] = {"color": ERROR_COLOURS[k % len(ERROR_COLOURS)], "marker": "osD^v"[k % 5], "ls": ""}
        for whole, name in ((True, "errors"), (False, "errors-fewer")):
            chosen = [s for s in mine if (s.forecasts == most) is whole]
            places = [order.index(s.method) for s in chosen]
            label = f"{horizon:g}x, {most} forecasts" if whole else None
            face: dict[str, Any] = {} if whole else {"mfc": "white"}
            values = [s.mean_error for s in chosen]
            ax.plot(values, places, ms=6, label=label, gid=f"{name}-{horizon:g}", **style, **face)
    ax.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    ax.invert_yaxis()
    ax.set_xlim(left=0.0)
    ax.set_xlabel("mean absolute error")
    ax.grid(axis="y", lw=0.4, color="0.88")
    ax.set_title("errors by method; hollow: fewer forecasts", loc="left", fontsize="medium")
    count = len(test.horizons)
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0.0, 1.06), ncols=min(count, 4))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_drift(test: Backtest, ax: Axes | None = None) -> Axes:
    """Draw the median and the limits of A against the compute of the origin they are from."""
    ax = shown_axes(ax, 6.0, 4.2)
    for look, run in zip(looks_of_names(list(test.points)), test.points, strict=True):
        mine = [one for one in test.drift if one.run == run]
        if not mine:
            continue
        at = np.array([one.origin for one in mine])
        lo, hi = np.array([one.lo for one in mine]), np.array([one.hi for one in mine])
        colour = look.style["color"]
        ax.fill_between(at, lo, hi, color=colour, alpha=0.15, lw=0.0, gid=look.gid("A-limits"))
        A = [one.A for one in mine]
        ax.plot(at, A, "-", marker=look.marker, color=colour, ms=4, lw=look.width, gid=look.gid("A"))
    _compute_axis(ax, test, "compute known at the origin")
    ax.set_ylabel(f"A and its {in_percent(test.level)} limits")
    ax.set_title("A by origin", loc="left", fontsize="medium")
    if len(test.points) > 1:
        _legend(ax, test, forecasts=False)
    return ax


def _drawable(test: Backtest, method: str) -> None:
    if not test.rows:
        raise UserError("backtest: no forecast was tested, there is nothing to draw")
    axes = list(dict.fromkeys(test.axes.values()))
    if len(axes) > 1:
        raise UserError(f"the runs are on different compute axes ({', '.join(axes)}); choose one with --x")
    made = list(dict.fromkeys(row.method for row in test.rows))
    if method not in made:
        raise UserError(f"method: {method!r} made no forecast; there are {', '.join(made)}")


def _compute_axis(ax: Axes, test: Backtest, what: str = "compute") -> None:
    axis = next(iter(test.axes.values()))
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    decades = math.log10(high / low)
    ax.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.7 else (1.0, 3.0) if decades < 3 else (1.0,))
    )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel(LABELS.get(axis, axis).replace("compute", what, 1))
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes, test: Backtest, *, forecasts: bool = True) -> None:
    """Runs by colour, and with `forecasts` what filled and hollow markers mean."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for i, (look, run) in enumerate(zip(looks_of_names(list(test.points)), test.points, strict=True)):
        if i == LEGEND_RUNS:
            handles.append(Line2D([], [], lw=0.0))
            labels.append(f"and {len(test.points) - LEGEND_RUNS} more")
            break
        handles.append(Line2D([], [], color=look.style["color"], marker=look.marker, ls="", ms=5))
        labels.append(run if len(run) <= NAME_LENGTH else f"{run[: NAME_LENGTH - 3]}...")
    if forecasts:
        for fill, text in (("0.3", "forecast, calibrated band"), ("white", "forecast, band not calibrated")):
            handles.append(Line2D([], [], color="0.3", marker="o", mfc=fill, ls="", ms=5))
            labels.append(text)
        handles.append(Line2D([], [], color="0.3", marker=".", ls="", ms=4))
        labels.append("evaluations")
    legend = ax.legend(handles, labels, frameon=False, fontsize="x-small", loc="best")
    for entry in legend.get_texts():
        entry.set_parse_math(False)
