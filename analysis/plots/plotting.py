"""Draw fitted curves. Functions take results and an axis, draw, and return the axis; they compute no statistics.

Promises: no window is opened; points are points, a fit is solid inside the data and dashed beyond; a ceiling is drawn
only where the data identify it, a band only where the fit stands by its draws; runs differ by colour, marker and line
thickness, so that they stay apart in grey. Compute 0 cannot stand on a log axis: such points are drawn left of a break,
above the label 0. Does not promise that the axes hold all of a band: a wide one is cut (`BAND_ROOM`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.fits.results import Fit
from analysis.plots.captions import band_level, band_name, has_band, label, recipe_label
from analysis.plots.looks import Look, looks_of
from analysis.plots.output import legend_below, new_axes, save, shown_axes
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

LABELS = {
    "gpu_hours": "compute (GPU-hours)",
    "cpu_s": "compute (CPU-seconds)",
    "tokens_generated": "compute (tokens generated)",
    "tokens_trained": "compute (tokens trained)",
    "flops": "compute (FLOPs)",
    "step": "compute (optimizer steps)",
}
CURVE_POINTS = 200
BAND_POINTS = 60  # each costs a weighted quantile of all draws
BAND_ALPHA = 0.15
BAND_ROOM = 0.5  # a band widens the axis of pass rates by this share of what points, curves and bars span, at most
DRAWABLE = (1e-200, 1e200)  # beyond, the room that a log axis needs left and right is no number any more
MANY = 7  # entries from which on a legend has two columns
LEGEND_RUNS = 15  # more than these are counted and not named; twice as many would leave the axes no room


class CurveParams(NamedTuple):
    """What `plot_training_curves` returns."""

    A: float
    B: float
    C_mid: float


def plot_curves(fits: Fit | Iterable[Fit], ax: Axes | None = None, *, extend: float = 4.0, band: bool = True) -> Axes:
    """Draw runs, their curves over compute and the bands of these curves.

    Parameters
    ----------
    fits : Fit or iterable of Fit
        All on one compute axis.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure of pyplot.
    extend : float
        Draw each curve on to this multiple of the run's last compute, dashed; 1 draws no extrapolation.
    band : bool
        Shade the limits of each mean curve, ``fit.predict(C, level=fit.level)``, as far as the curve is drawn. Single
        evaluations scatter more widely. There is none for a run without a curve, for a method without draws and where
        the draws failed a check; past the data there is none for a run that decays.

    Returns
    -------
    matplotlib Axes
        A band that would leave the points too little room is cut at the edge of the axes.

    Raises
    ------
    UserError
        If there is nothing to draw, or the fits are on different axes.

    Examples
    --------
    >>> import analysis as an
    >>> fits = an.fit(an.read("data/paper/scalerl_8b_bs2048_100k.csv"))
    >>> ax = plot_curves(fits, extend=2)
    >>> ax.get_xlabel(), [area.get_gid() for area in ax.collections]
    ('compute (GPU-hours)', ['ceiling-0', 'band-0'])
    """
    fits = [fits] if isinstance(fits, Fit) else list(fits)
    axes = list(dict.fromkeys(fit.x for fit in fits))
    if not fits:
        raise UserError("there is no run to draw")
    if len(axes) > 1:
        raise UserError(f"the runs are on different compute axes ({', '.join(axes)}); choose one with --x")
    if not extend >= 1.0 or not math.isfinite(extend):
        raise UserError(f"extend: {extend:g} is not a multiple of the compute, 1 or more (--extend)")
    for fit in fits:
        _refuse_what_no_axis_holds(fit, extend)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ax = shown_axes(ax, 7.0, 4.6)

    scale = _Scale.of(fits, extend)
    ax.set_xscale("log")
    handles: list[Line2D | Patch] = []
    ceilings = 0
    looks = looks_of(fits)
    for fit, look in zip(fits, looks, strict=True):
        handles.append(_draw_points(ax, fit, scale, look))
        if fit.fitted:
            _curve(ax, fit, scale, look, extend)
            ceilings += _ceiling(ax, fit, scale, look, place=ceilings)
    shaded = [(fit, look) for fit, look in zip(fits, looks, strict=True) if band and has_band(fit)]
    _bands(ax, shaded, scale, extend)
    _compute_axis(ax, scale, ceilings)
    ax.set_xlabel(LABELS.get(axes[0], axes[0]))
    ax.set_ylabel("pass rate")
    ax.spines[["top", "right"]].set_visible(False)
    labels = [label(fit) for fit in fits]
    recipes = {fit.run.recipe: [f for f in fits if f.run.recipe == fit.run.recipe] for fit in fits}
    if len(fits) >= MANY and 1 < len(recipes) < len(fits):  # a line of the legend for all runs of a colour
        handles = [handles[fits.index(some[0])] for some in recipes.values()]
        labels = [recipe_label(name, some) for name, some in recipes.items()]
    if len(labels) > LEGEND_RUNS:
        more = len(labels) - LEGEND_RUNS
        handles = [*handles[:LEGEND_RUNS], Line2D([], [], lw=0.0)]
        labels = [*labels[:LEGEND_RUNS], f" and {more} more"]
    if shaded:
        handles.append(Patch(facecolor="0.5", alpha=2.0 * BAND_ALPHA, lw=0.0))
        labels.append(f" shaded: {band_name([fit for fit, _ in shaded])}")
    legend_below(ax, handles, labels, ncols=1 if len(labels) < MANY else 2)
    return ax


def plot_training_curves(
    log_file: str | os.PathLike[str], ax: Axes | None = None, output: str | os.PathLike[str] | None = None
) -> CurveParams:
    """Read one log, fit it, draw it, and return (A, B, C_mid).

    Parameters
    ----------
    log_file : path
        A run folder, ``log.jsonl`` or CSV file that holds one run.
    ax : matplotlib Axes, optional
    output : path, optional
        Picture to write (png, svg or pdf); an existing file is refused.

    Returns
    -------
    CurveParams
        A named tuple (A, B, C_mid). Ask `analysis.fit` for the limits and the doubts.

    Raises
    ------
    UserError
        If the log does not hold exactly one run, or the run cannot be fitted.
    """
    from analysis.fits.fitting import fit
    from analysis.readers.logs import read

    runs = read(log_file)
    if len(runs) != 1:
        raise UserError(f"{os.fspath(log_file)}: holds {len(runs)} runs ({', '.join(runs.names)}); name one of them")
    fitted = fit(runs[0])
    A, B, C_mid = (fitted.params[name].value for name in ("A", "B", "C_mid"))
    if A is None or B is None or C_mid is None:
        raise UserError(f"{os.fspath(log_file)}: {fitted.findings[-1].message}")
    if output is not None:
        save(plot_curves(fitted, new_axes()), output)
    if ax is not None or output is None:
        plot_curves(fitted, ax)
    return CurveParams(A, B, C_mid)


class _Scale(NamedTuple):
    """The compute axis: where 0 is drawn, smallest and largest compute, and a factor that is a small step on paper."""

    zero_at: float
    low: float
    high: float
    step: float
    has_zero: bool

    @staticmethod
    def of(fits: Sequence[Fit], extend: float) -> _Scale:
        compute = np.concatenate([np.r_[fit.compute, fit.left_out[:, 0]] for fit in fits])
        positive = compute[compute > 0.0]
        low, last = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
        high = max([last, *(float(fit.compute[-1]) * extend for fit in fits if fit.fitted)])
        step = math.exp(0.02 * max(math.log(high) - math.log(low), math.log(2.0)))  # high / low may overflow
        return _Scale(low / step**6, low, high, step, bool(np.any(compute == 0.0)))

    def place(self, compute: Any) -> Any:
        """Where compute is drawn: itself, or left of the break if it is 0."""
        return np.where(compute > 0.0, compute, self.zero_at)


def _draw_points(ax: Axes, fit: Fit, scale: _Scale, look: Look) -> Line2D:
    """Draw the points, those left out of the fit hollow and dim; returns what stands for the run in the legend."""
    from matplotlib.lines import Line2D

    if len(fit.left_out):
        x, y = scale.place(fit.left_out[:, 0]), fit.left_out[:, 1]
        ax.plot(x, y, look.marker, ms=4, mfc="none", alpha=0.35, gid=look.gid("left-out"), **look.style)
    x = scale.place(fit.compute)
    ax.plot(x, fit.pass_rate, look.marker, ms=4.5, alpha=0.9, gid=look.gid("points"), **look.style)
    return Line2D([], [], color=look.style["color"], marker=look.marker, ms=4.5, lw=look.width if fit.fitted else 0.0)


def _curve(ax: Axes, fit: Fit, scale: _Scale, look: Look, extend: float) -> None:
    """Solid over the fitted points, dashed beyond; at compute 0 a short dash of the curve left of the break."""
    positive = fit.compute[fit.compute > 0.0]
    first, last = float(positive[0]), float(positive[-1])
    inside = np.geomspace(first, last, CURVE_POINTS)
    ax.plot(inside, fit.predict(inside), "-", lw=look.width, gid=look.gid("fit"), **look.style)
    if extend > 1.0:
        beyond = np.geomspace(last, last * extend, CURVE_POINTS)
        ax.plot(beyond, fit.predict(beyond), "--", lw=look.width, gid=look.gid("extrapolation"), **look.style)
    if fit.compute[0] == 0.0:
        stub = [scale.zero_at / scale.step, scale.zero_at * scale.step]
        ax.plot(stub, np.full(2, fit.predict(0.0)), "-", lw=look.width, gid=look.gid("fit-at-0"), **look.style)


def _bands(ax: Axes, shaded: Iterable[tuple[Fit, Look]], scale: _Scale, extend: float) -> None:
    """Shade under the points and curves that are drawn already; the axis grows for it, up to `BAND_ROOM`."""
    low, high = ax.dataLim.intervaly
    room = BAND_ROOM * (high - low)
    for fit, look in shaded:
        ahead = 1.0 if fit.nothing_ahead is not None else extend  # a band there would claim what the fit takes back
        first, last = float(fit.compute[fit.compute > 0.0][0]), float(fit.compute[-1])
        areas = [("band", C := np.geomspace(first, last * ahead, BAND_POINTS), C)]
        if fit.compute[0] == 0.0:
            areas.append(("band-at-0", np.array([scale.zero_at / scale.step, scale.zero_at * scale.step]), np.zeros(2)))
        for name, x, C in areas:
            lo, _, hi = fit.predict(C, level=band_level(fit))
            _area(ax, x, (lo, hi), look, name)
            ends = np.clip([lo.min(), hi.max()], low - room, high + room)
            ax.update_datalim(np.stack([x[[0, -1]], ends], axis=1))
    ax.autoscale_view()


def _area(ax: Axes, x: Any, limits: tuple[Any, Any], look: Look, name: str) -> None:
    """A polygon that leaves the limits of the axes alone: lower edge to the right, upper edge back."""
    from matplotlib.collections import PolyCollection

    outline = np.stack([np.r_[x, x[::-1]], np.r_[limits[0], limits[1][::-1]]], axis=1)
    colour, under = look.style["color"], look.style["zorder"] - 2.0
    area = PolyCollection([outline], facecolor=colour, alpha=BAND_ALPHA, lw=0.0, zorder=under, gid=look.gid(name))
    ax.add_collection(area, autolim=False)


def _ceiling(ax: Axes, fit: Fit, scale: _Scale, look: Look, *, place: int) -> bool:
    """Draw A and its interval right of everything else, if the data identify A; returns whether."""
    A = fit.params["A"]
    if not A.identified or A.value is None or A.lo is None or A.hi is None:
        return False
    at = scale.high * scale.step ** (2 + 2 * place)
    error = [[A.value - A.lo], [A.hi - A.value]]
    ax.errorbar([at], [A.value], error, fmt="_", ms=9, capsize=3, lw=1.4, gid=look.gid("ceiling"), **look.style)
    return True


def _compute_axis(ax: Axes, scale: _Scale, ceilings: int) -> None:
    """Ticks at round numbers, and a marked break if there are points at compute 0."""
    from matplotlib.ticker import FixedLocator, NullLocator

    right = scale.high * scale.step ** (2 + 2 * ceilings)
    ticks = _round_numbers(scale.low / scale.step, scale.high)
    labels = [f"{t:g}" for t in ticks]
    if ceilings:  # one label under all the bars; a round number that close would run into it
        middle = scale.high * scale.step ** (1 + ceilings)
        near = [t > middle / scale.step**3 for t in ticks]
        labels = ["" if close else label for close, label in zip(near, labels, strict=True)]
        ticks, labels = [*ticks, middle], [*labels, "A"]
    if scale.has_zero:
        ticks, labels = [scale.zero_at, *ticks], ["0", *labels]
        broken = scale.low / scale.step**3
        ax.axvline(broken, color="0.5", lw=0.8, ls=(0, (1, 3)), gid="break")
        at_axis = ax.get_xaxis_transform()  # x in data, y as a share of the axes
        ax.text(broken, 0.0, "//", transform=at_axis, ha="center", va="center", fontsize=9, color="0.5")
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticks(ticks, labels)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(scale.zero_at / scale.step**2 if scale.has_zero else scale.low / scale.step**2, right)


def _round_numbers(low: float, high: float) -> list[float]:
    """Round numbers between the ends: 1, 2, 5 of each decade, or whole decades when there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(decades) // 8)
    steps = (1, 2, 5) if len(decades) <= 3 else (1, 3) if len(decades) <= 4 else (1,)
    return [t for d in decades if d % every == 0 for s in steps if low <= (t := s * 10.0**d) <= high]


def _refuse_what_no_axis_holds(fit: Fit, extend: float) -> None:
    compute = np.r_[fit.compute, fit.left_out[:, 0]]
    positive = compute[compute > 0.0]
    if not len(positive):
        return
    low, high = float(positive.min()), float(positive.max())
    if low < DRAWABLE[0] or high > DRAWABLE[1]:
        span = f"{DRAWABLE[0]:g} to {DRAWABLE[1]:g}"
        raise UserError(
            f"{fit.name}: compute from {low:g} to {high:g} cannot be drawn, only {span}; choose another unit"
        )
    if extend > DRAWABLE[1] / high:
        raise UserError(f"{fit.name}: {extend:g} times its compute cannot be drawn; say less (--extend)")
