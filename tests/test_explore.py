"""The explorer's windows are the fits that it says, and moving its slider changes picture and text to theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import analysis as an
from analysis.curves.curve import R
from analysis.plots import explore
from scalerl.runlog import UserError


def made(n=12, last=9.0):
    compute = np.linspace(0.0, last, n)
    rate = R(compute, 0.12, 0.74, 1.8, 2.0) + np.random.default_rng(0).normal(0.0, 0.01, n)
    return an.Run(
        "<made>", "made", None, {"gpu_hours": compute, "pass_rate": rate}, ("gpu_hours",), (), Path("none"), ""
    )


@pytest.fixture(scope="module")
def explorer():
    return an.explore_window(made())


def test_every_window_is_the_fit_with_that_end(explorer):
    run = made()
    assert explorer.ends == tuple(run.data["gpu_hours"][explore.LEAST_POINTS - 1 :])
    for end, fit in zip(explorer.ends, explorer.fits, strict=True):
        assert fit.params == an.fit(run, window=(None, end)).params and fit.compute[-1] == end
    table = explorer.frame
    assert table["to"].tolist() == list(explorer.ends) and table["n"].tolist() == [*range(5, 13)]
    assert table["A"].tolist() == [fit.params["A"].value for fit in explorer.fits]
    last = explorer.fits[-1].predict(explorer.ends[-1], level=0.95)
    assert table[["end_lo", "end_hi"]].iloc[-1].tolist() == [float(last.lo), float(last.hi)]
    assert set(table["usable"]) == {"no", "yes"} and repr(explorer).count("\n") == len(table) + 1


def test_the_picture_holds_the_windows_that_were_asked_for_on_axes_that_do_not_move(explorer):
    early, late = (explorer.draw(end) for end in (explorer.ends[0], 100.0))
    for figure, fit in ((early, explorer.fits[0]), (late, explorer.fits[-1])):
        curve, A = figure.axes
        (points,) = [line for line in curve.lines if line.get_gid() == "points-0"]
        assert len(points.get_xdata()) == fit.n
        (limits,) = [bars for bars in A.collections if bars.get_gid() == "chosen"]
        (bar,) = limits.get_segments()
        assert bar[:, 1] == pytest.approx([fit.params["A"].lo, fit.params["A"].hi]) and bar[0, 0] == fit.compute[-1]
        assert sum(len(bars.get_segments()) for bars in A.collections) == len(explorer.fits)
    for one, other in zip(early.axes, late.axes, strict=True):
        assert one.get_ylim() == other.get_ylim() and one.get_xlim() == other.get_xlim()
        assert one.get_position().bounds == other.get_position().bounds
    assert len(explorer.draw(*explorer.ends[:3]).axes) == 4


def test_moving_the_slider_shows_picture_and_text_of_that_window(explorer):
    slider, text, picture = explorer.widget().children
    assert len(slider.options) == len(explorer.fits)
    for place in (7, 2, 7):
        slider.value = place
        assert bytes(picture.value) == explorer._png([place])
        assert explorer.says(place).splitlines()[0] in text.value
    assert explorer._png([7]) != explorer._png([2])


def test_a_drag_is_drawn_once_and_fits_nothing(explorer, monkeypatch):
    monkeypatch.setattr("analysis.fits.fitting.fit", None)
    fresh = explore.WindowExplorer(explorer.run, explorer.fits)
    drawn = []
    monkeypatch.setattr(fresh, "_figure", lambda places: drawn.append(places) or explorer._figure(places))
    slider = fresh.widget().children[0]
    for place in (3, 4, 3, 4):
        slider.value = place
    assert len(drawn) == 3  # where it stood, and two windows


def test_a_notebook_gets_slider_picture_and_text_and_without_ipywidgets_the_last_two(explorer, monkeypatch):
    assert set(explorer._repr_mimebundle_()) == {"text/plain", "image/png", explore.WIDGET}
    monkeypatch.setattr(explore, "find_spec", lambda _: None)
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"} and bundle["text/plain"] == repr(explorer)
    with pytest.raises(UserError, match=r"needs ipywidgets \(pip install"):
        explorer.widget()


def test_importing_it_loads_no_widgets():
    heavy = "[m for m in ('ipywidgets', 'IPython') if m in sys.modules]"
    code = f"import analysis as an, sys; an.explore_window; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_long_runs_are_thinned_out_and_keep_their_ends():
    compute = np.linspace(0.0, 50.0, 400)
    ends = explore._ends(compute)
    assert len(ends) <= explore.MOST_WINDOWS and set(ends) <= set(compute)
    assert (ends[0], ends[-1]) == (compute[4], 50.0) and ends == sorted(set(ends))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: an.explore_window(made(), window=(None, 3)), "give ends"),
        (lambda: an.explore_window(made(), x="flops"), "no compute axis 'flops'; it has gpu_hours"),
        (lambda: an.explore_window(made(4)), "no window holds a curve; 5 evaluations"),
        (lambda: an.explore_window(made(), [0.001], method="lsq"), "no window holds a curve"),
        (lambda: an.explore_window(made(), [float("nan")], method="lsq"), "nan is no end of a window"),
        (lambda: an.explore_window(made(), [9.0], method="lsq").draw(), "one window or more"),
    ],
)
def test_what_makes_no_sense_is_one_line(call, told):
    with pytest.raises(UserError, match=told) as error:
        call()
    assert "\n" not in str(error.value)
