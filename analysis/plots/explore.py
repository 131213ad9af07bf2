"""`explore_window`: drag the end of the fit window and watch the curve, its band and the interval of A.

Promises: every window is `analysis.fit` with that window and nothing else, fitted once, before the first drag; without
ipywidgets, and in a saved notebook, the same is a picture of three windows; ipywidgets is imported when a notebook asks
for the slider and not before. All pictures of one run have the same axes, so that what moves between them is the fit.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.amounts import short
from analysis.fits.results import LEVEL, Fit
from analysis.fits.tables import figures, unit
from analysis.plots.output import new_figure
from analysis.plots.plotting import plot_curves
from analysis.schema import Run, Runs
from scalerl.runlog import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_POINTS = 5  # in the shortest window
MOST_WINDOWS = (
    40  # more evaluations are thinned out, evenly on the log axis; each window costs about a tenth of a second
)
STILL = (0.15, 0.4, 0.75)  # windows of the still picture, as shares of all of them
KNOWN, OPEN, COMING = "#0072B2", "#D55E00", "0.8"  # A identified, not identified, of longer windows
DPI = 100.0
WIDGET = "application/vnd.jupyter.widget-view+json"


class WindowExplorer:
    """One run fitted up to growing ends; shows itself with a slider in a notebook.

    Attributes
    ----------
    run : Run
    fits : tuple of Fit
        From the shortest window to the longest.
    ends : tuple of float
        Last compute of each window.
    """

    def __init__(self, run: Run, fits: Sequence[Fit]) -> None:
        self.run, self.fits = run, tuple(fits)
        self.ends = tuple(float(fit.compute[-1]) for fit in self.fits)
        self._pictures: dict[tuple[int, ...], bytes] = {}

    @property
    def frame(self) -> pd.DataFrame:
        """One row a window: to, n, A, lo, hi, usable, grade, reach, and the limits of the curve at the run's end.

        Unknown is missing. The last two, ``end_lo`` and ``end_hi``, stand at the last compute of the longest window.
        """
        import pandas as pd

        end = self.ends[-1]
        bands = [fit.predict(end, fit.level or LEVEL) if fit.trusted_draws is not None else None for fit in self.fits]
        numbers: dict[str, list[float | None]] = {
            "to": list(self.ends),
            "A": [fit.params["A"].value for fit in self.fits],
            "lo": [fit.params["A"].lo for fit in self.fits],
            "hi": [fit.params["A"].hi for fit in self.fits],
            "grade": [fit.grade for fit in self.fits],
            "reach": [fit.reach for fit in self.fits],
            "end_lo": [None if band is None else float(band.lo) for band in bands],
            "end_hi": [None if band is None else float(band.hi) for band in bands],
        }
        table = pd.DataFrame({name: pd.array(values, dtype="Float64") for name, values in numbers.items()})
        table.insert(1, "n", [fit.n for fit in self.fits])
        table.insert(5, "usable", ["yes" if fit.params["A"].identified else "no" for fit in self.fits])
        return table

    def draw(self, *ends: float) -> Figure:
        """Draw the curve of each of these windows, and A by the end of the window; returns the figure.

        Parameters
        ----------
        *ends : float
            Computes; of each the longest window that does not go beyond it is taken, or else the shortest.

        Raises
        ------
        UserError
            If there is none, or one is no number.
        """
        if not ends or not all(math.isfinite(end) for end in ends):
            raise UserError("explore_window: draw wants the ends of one window or more, as computes")
        return self._figure([max(0, int(np.searchsorted(self.ends, end, "right")) - 1) for end in ends])

    def widget(self) -> Any:
        """Return the slider with picture and text, an ``ipywidgets.VBox``.

        Raises
        ------
        UserError
            If ipywidgets is not installed.
        """
        if find_spec("ipywidgets") is None:
            raise UserError("explore_window: the slider needs ipywidgets (pip install 'scalerl[notebook]')")
        import ipywidgets

        first = self._still()[0]
        slider = ipywidgets.SelectionSlider(
            options=[(f"{short(end, 4)} {unit(self.fits[0].x)}", place) for place, end in enumerate(self.ends)],
            value=first,
            description="fit up to",
            layout=ipywidgets.Layout(width="42em"),
        )
        picture = ipywidgets.Image(value=self._png([first]), format="png")
        text = ipywidgets.HTML(value=self._html(first))

        def moved(change: dict[str, Any]) -> None:
            picture.value = self._png([change["new"]])
            text.value = self._html(change["new"])

        slider.observe(moved, names="value")
        return ipywidgets.VBox([slider, text, picture])

    def says(self, place: int) -> str:
        """Return what the fit of one window says, in three or four lines.

        Parameters
        ----------
        place : int
            Position in `fits`.
        """
        fit, last = self.fits[place], self.fits[-1]
        A, end = fit.params["A"], float(last.compute[-1])
        value, limits = figures(A)
        grade = "" if fit.grade is None else f"P(C_max > 2 C_mid) = {fit.grade:.2f}"
        lines = [
            f"fitted to {fit.n} of {last.n} evaluations, up to {short(self.ends[place], 4)} {unit(fit.x)}",
            f"A {value}{f' ({limits})' if limits else ''}, {'usable' if A.identified else 'not identified'}",
            f"  {grade if A.identified else A.why}",
        ]
        if place < len(self.fits) - 1 and fit.fitted:
            curve = f"{float(fit.predict(end)):.3f}"
            if fit.trusted_draws is not None:
                lo, middle, hi = (float(v) for v in fit.predict(end, fit.level or LEVEL))
                curve = f"{middle:.3f} ({lo:.3f} - {hi:.3f})"
            lines.append(
                f"expects {curve} at {short(end)} {unit(fit.x)}; the evaluation there: {last.pass_rate[-1]:.3f}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        rows = [("fit up to", "points", "A", "limits", "usable")]
        for end, fit in zip(self.ends, self.fits, strict=True):
            A = fit.params["A"]
            rows.append((short(end, 4), str(fit.n), *figures(A), "yes" if A.identified else "no"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = f"{self.run.name}   A by the end of the window, {self.fits[0].x}, {self.fits[0].method}"
        return "\n".join([head, *table])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """Text and still picture, and the slider where there is ipywidgets; a notebook shows the richest it can."""
        still = base64.b64encode(self._png(self._still())).decode("ascii")
        bundle: dict[str, Any] = {"text/plain": repr(self), "image/png": still}
        if find_spec("ipywidgets") is not None:
            bundle[WIDGET] = self.widget()._repr_mimebundle_()[WIDGET]
        return bundle

    def _still(self) -> list[int]:
        return sorted({round(share * (len(self.fits) - 1)) for share in STILL})

    def _html(self, place: int) -> str:
        return f"<pre style='line-height: 1.4'>{escape(self.says(place))}</pre>"

    def _png(self, places: Sequence[int]) -> bytes:
        """The picture of these windows, drawn once."""
        if (key := tuple(places)) not in self._pictures:
            file = io.BytesIO()
            self._figure(places).savefig(file, dpi=DPI, format="png")
            self._pictures[key] = file.getvalue()
        return self._pictures[key]

    def _figure(self, places: Sequence[int]) -> Figure:
        panels = len(places) + 1
        columns, rows = (2, math.ceil(panels / 2))
        figure = new_figure(10.0, 3.8 * rows)
        figure.set_layout_engine("none")  # axes that stay where they are, in half of the time
        around = {"left": 0.07, "right": 0.985, "bottom": 0.14 / rows, "top": 1.0 - 0.09 / rows}
        axes = figure.subplots(
            rows, columns, squeeze=False, gridspec_kw={**around, "wspace": 0.13, "hspace": 0.32}
        ).ravel()
        for ax, place in zip(axes, places, strict=False):
            self._draw_curve(ax, place)
        self._draw_A(axes[panels - 1], places)
        for ax in axes[panels:]:
            ax.set_axis_off()
        for ax in axes:
            ax.set_ylim(*self._range())
        return figure

    def _range(self) -> tuple[float, float]:
        """Pass rates that all windows need."""
        last = self.fits[-1]
        values = [*last.pass_rate, *(v for fit in self.fits for v in _limits(fit) if v is not None)]
        low, high = min(values), max(values)
        room = 0.04 * (high - low) or 0.01
        return max(-0.02, low - room), min(1.02, high + room)

    def _draw_curve(self, ax: Axes, place: int) -> None:
        fit, end = self.fits[place], self.ends[-1]
        plot_curves(fit, ax, extend=max(1.0, end / self.ends[place]))
        if (legend := ax.get_legend()) is not None:
            legend.remove()
        ax.set_xlim(right=end * (end / _first(self.fits[-1])) ** 0.08)  # room for A, whether it is drawn or not
        value, limits = figures(fit.params["A"])
        word = "" if fit.params["A"].identified else ", not identified"
        between = f" ({limits})" if limits else ""
        ax.set_title(f"up to {short(self.ends[place], 4)}: A {value}{between}{word}", loc="left", fontsize=10)
        ax.axvline(self.ends[place], color="0.6", lw=0.8, gid="end")

    def _draw_A(self, ax: Axes, places: Sequence[int]) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter("{x:g}")  # powers of ten set as formulas take longer than all else
        ax.xaxis.set_minor_locator(NullLocator())
        bars: dict[tuple[str, bool, bool], list[tuple[float, float, float, float]]] = {}
        for place, (end, fit) in enumerate(zip(self.ends, self.fits, strict=True)):
            value, lo, hi = _limits(fit)
            if value is not None:
                identified = fit.params["A"].identified
                colour = COMING if place > max(places) else KNOWN if identified else OPEN
                bar = (end, value, value if lo is None else lo, 1.0 if hi is None else hi)
                bars.setdefault((colour, identified, place in places), []).append(bar)
        for (colour, identified, chosen), group in bars.items():  # a few artists: each costs time at every drag
            end, value, lo, hi = np.transpose(group)
            gid = "chosen" if chosen else None
            ax.vlines(end, lo, hi, colors=colour, lw=3.0 if chosen else 1.2, gid=gid)
            filled = colour if identified else "white"
            ax.plot(end, value, "o", color=colour, mfc=filled, ms=7 if chosen else 3.5, gid=gid)
        ax.set_title("A by the end of the window (hollow: not identified)", loc="left", fontsize=10)
        ax.set_xlabel(f"end of the window ({unit(self.fits[0].x)})")
        ax.set_ylabel("A")
        ax.spines[["top", "right"]].set_visible(False)


def explore_window(run: Run | Runs, ends: Iterable[float] | None = None, **options: Any) -> WindowExplorer:
    """Fit a run up to growing ends of the window, and show them: with a slider in a notebook, else as a picture.

    Parameters
    ----------
    run : Run
    ends : iterable of float, optional
        Largest compute of each window, in the unit of the axis; by default every evaluation from the fifth on, or
        `MOST_WINDOWS` of them.
    **options
        Of `analysis.fit`, such as ``x``, ``method`` and ``r0``.

    Returns
    -------
    WindowExplorer

    Raises
    ------
    UserError
        If the axis is not there, an option makes no sense, or no window holds a curve.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> explore_window(run, [12_000, 30_000, 102_100], method="lsq")
    scalerl_8b_bs2048_100k   A by the end of the window, gpu_hours, lsq
      fit up to  points  A       limits           usable
      11950      9       1                        no
      27860      19      0.622   0.611 - 0.634    no
      102100     33      0.6460  0.6409 - 0.6511  no
    """
    from analysis.fits.fitting import fit

    if isinstance(run, Runs):
        if len(run) != 1:
            raise UserError(f"explore_window: one run at a time; there are {', '.join(r.name for r in run)}")
        run = run[0]
    if "window" in options:
        raise UserError("explore_window: the window is what is explored; give ends")
    x = options.get("x") or run.axes[0]
    if x not in run.axes:
        raise UserError(f"{run.name}: no compute axis {x!r}; it has {', '.join(run.axes)}")
    compute = np.unique(np.asarray(run.data[x], dtype=float))
    ends = None if ends is None else [float(end) for end in ends]
    if wrong := [end for end in ends or () if not (math.isfinite(end) and end >= 0.0)]:
        raise UserError(f"explore_window: {wrong[0]:g} is no end of a window; it is a compute, at least 0")
    given = _ends(compute) if ends is None else sorted(set(ends))
    fits = [fit(run, window=(None, end), **options) for end in given]
    fits = [one for one in fits if one.fitted and one.compute[-1] > 0.0]
    if not fits:
        raise UserError(f"{run.name}: no window holds a curve; {LEAST_POINTS} evaluations or more are needed")
    by_end = {float(one.compute[-1]): one for one in fits}  # two ends between the same evaluations are one window
    return WindowExplorer(run, list(by_end.values()))


def _ends(compute: np.ndarray[Any, Any]) -> list[float]:
    """The evaluations from the fifth on, thinned out evenly on a log axis."""
    found = compute[LEAST_POINTS - 1 :]
    found = found[found > 0.0]
    if len(found) > MOST_WINDOWS:
        wanted = np.geomspace(found[0], found[-1], MOST_WINDOWS)
        found = np.unique(found[np.minimum(np.searchsorted(found, wanted), len(found) - 1)])
    return [float(end) for end in found]


def _limits(fit: Fit) -> tuple[float | None, float | None, float | None]:
    A = fit.params["A"]
    return A.value, A.lo, A.hi


def _first(fit: Fit) -> float:
    return float(fit.compute[fit.compute > 0.0][0])
