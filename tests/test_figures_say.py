"""Figures say in words what their lines, bands and bars are, and keep their legends off the curves."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import analysis as an
from analysis.plots.forecast_plots import plot_forecast, plot_reach
from analysis.plots.plan_plots import plot_plan
from analysis.plots.window_plots import plot_windows

PAPER = "data/paper/scalerl_8b_bs2048_100k.csv"


def axes():
    return Figure(layout="constrained").add_subplot()


@pytest.fixture(scope="module")
def six():
    return an.fit(an.read("docs/six", x="hours"))


def legend(ax):
    return [text.get_text().strip() for text in ax.get_legend().get_texts()]


def below(ax):
    ax.figure.canvas.draw()
    return ax.get_legend().get_window_extent().y1 <= ax.get_window_extent().y0


def test_a_forecast_explains_dashes_bands_and_pale_bars_and_marks_the_far_end():
    ax = plot_forecast(an.forecast(an.read(PAPER)[0], 400e3, window=(None, 20e3)), axes())
    said = " ".join(legend(ax))
    for word in ("dashed:", "dash-dotted:", "dark:", "light:", "pale bar:", "hollow: came later"):
        assert word in said
    assert "400000" in [text.get_text() for text in ax.get_xticklabels()]
    assert below(ax)


def test_the_far_end_of_a_forecast_and_the_A_beside_it_can_both_be_read():
    ax = plot_forecast(an.forecast(an.read(PAPER)[0], 100e3, window=(None, 30e3)), axes())
    ax.figure.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in ax.get_xticklabels() if text.get_text()}
    assert boxes["100000"].x1 < boxes["A"].x0 and boxes["30000"].x1 < boxes["100000"].x0


def test_bars_that_are_all_calibrated_have_no_pale_entry():
    ax = plot_forecast(an.forecast(an.read(PAPER)[0], "1.5x", window=(5e3, None)), axes())  # left out: earlier ones
    assert not any("pale" in text or "hollow" in text for text in legend(ax))


def test_a_plan_of_six_runs_is_readable(six):
    ax = plot_plan(an.plan(six, budgets=[2], futures=2), axes())
    assert ax.get_ylabel() == "width, in pass rate" and below(ax)
    assert len(legend(ax)) == 8 and any(t.startswith("solid:") for t in legend(ax))


def test_the_tolerance_of_a_reach_is_named_on_its_line(six):
    ax = plot_reach(an.forecast(six, "2x"), axes())
    assert "+-0.02" in [text.get_text() for text in ax.texts] and below(ax)


def test_window_studies_can_share_one_axis():
    study = an.window_study(an.read(PAPER)[0], [0, 5000], method="lsq")
    assert plot_windows(study, axes(), ylim=(0.3, 0.9)).get_ylim() == (0.3, 0.9)


def test_limits_are_claimed_only_where_there_are_some(six):
    one_seed = [six[0], six[3]]
    assert "not tested" in an.plot_forest(an.compare(one_seed), axes()).get_xlabel()
    assert "95% limits" in an.plot_forest(an.compare(six), axes()).get_xlabel()
    assert np.all([line.get_gid() != "limits-1" for line in an.plot_forest(an.compare(one_seed), axes()).lines])
