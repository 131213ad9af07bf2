"""A study of windows is the fits that it says, and warns only where A moves by more than shared points allow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import analysis as an
from analysis.curves.curve import R
from analysis.fits.results import Param
from analysis.fits.windows import LEAST_POINTS, Window, of_windows
from scalerl.runlog import UserError

ROOT = Path(__file__).parent.parent


def made(seed=0, *, bump=0.0, n=40):
    compute = np.linspace(0.0, 10.0, n)
    rate = R(compute, 0.12, 0.74, 1.8, 2.0) + bump * np.where(compute < 2.0, np.sin(1.5 * compute), 0.0)
    rate += np.random.default_rng(seed).normal(0.0, 0.01, n)
    return an.Run(
        "<made>", "made", None, {"gpu_hours": compute, "pass_rate": rate}, ("gpu_hours",), (), Path("none"), ""
    )


def row(start, A, lo, hi, C_mid=2.0):
    return Window(start, 20, Param(A, lo, hi, identified=True), 1.8, C_mid)


def test_every_row_is_the_fit_with_that_window():
    run = made()
    study = an.window_study(run, [2.0, 0.0, 1.0], stop=9.0, method="lsq")
    assert [r.start for r in study.rows] == [None, 1.0, 2.0]
    for r in study.rows:
        fit = an.fit(run, window=(r.start, 9.0), method="lsq")
        assert (r.n, r.A, r.B) == (fit.n, fit.params["A"], fit.params["B"].value)
    assert study.method == "lsq" and list(study.frame.columns) == ["from", "n", "A", "lo", "hi", "B", "C_mid"]
    assert study.frame["from"].tolist() == [0.0, 1.0, 2.0]


def test_the_default_starts_grow_and_leave_enough_points():
    study = an.window_study(made(n=20), method="lsq")
    points = [r.n for r in study.rows]
    assert points[0] == 20 and points == sorted(points, reverse=True) and len(set(points)) == len(points) >= 4
    assert points[-1] >= LEAST_POINTS
    assert [r.n for r in an.window_study(made(n=9), method="lsq").rows] == [9, 8]
    assert [r.n for r in an.window_study(made(n=8), method="lsq").rows] == [8]


def test_the_published_run_has_a_steady_A():
    run = an.read(ROOT / "data" / "paper" / "scalerl_8b_bs2048_100k.csv")[0]
    study = an.window_study(run, [0, 1500, 5000], stop=50000, method="lsq")
    assert [r.A.value for r in study.rows] == pytest.approx([0.645, 0.645, 0.645], abs=0.02)
    assert study.findings == ()


def test_a_bump_before_the_bend_makes_A_depend_on_the_window_and_noise_does_not():
    bumped = an.window_study(made(bump=0.08), method="lsq")
    assert [f.code for f in bumped.findings] == ["window-sensitive"]
    assert bumped.findings[0].figure in [r.A.value - bumped.rows[0].A.value for r in bumped.rows]
    assert repr(bumped).splitlines()[1].startswith("  warning  A is ")
    quiet = sum(bool(an.window_study(made(seed), method="lsq").findings) for seed in range(10))
    assert quiet <= 1


def test_how_far_A_may_move():
    """Half-widths .05 and .03 leave .04 for what the later window has lost."""
    first = row(None, 0.70, 0.67, 0.73)
    for sign in (1.0, -1.0):
        A = 0.70 + sign * 1.5 * 0.04
        beyond, within = (A + sign * shift for shift in (1e-3, -1e-3))
        assert of_windows([first, row(1.0, beyond, beyond - 0.05, beyond + 0.05)], "gpu_hours")
        assert not of_windows([first, row(1.0, within, within - 0.05, within + 0.05)], "gpu_hours")


def test_a_window_no_wider_than_the_first_is_granted_a_share_of_its_own_width():
    first = row(None, 0.70, 0.65, 0.75)
    allowed = 1.5 * 0.6 * 0.05
    for shift, said in ((1e-3, True), (-1e-3, False)):
        A = 0.70 + allowed + shift
        assert bool(of_windows([first, row(1.0, A, A - 0.05, A + 0.05)], "gpu_hours")) == said


def test_small_moves_open_limits_and_windows_behind_the_bend_are_not_tested():
    first = row(None, 0.70, 0.6999, 0.7001)
    for move, said in ((0.010001, True), (0.009999, False)):
        A = 0.70 + move
        assert bool(of_windows([first, row(1.0, A, A - 1e-4, A + 1e-4)], "gpu_hours")) == said
    far = (0.9, 0.899, 0.901)
    assert of_windows([first, row(2.0, *far)], "gpu_hours")
    assert not of_windows([first, row(2.01, *far)], "gpu_hours")  # C_mid of the first is 2
    assert not of_windows([first, row(1.0, 0.9, 0.899, None)], "gpu_hours")
    assert not of_windows([first], "gpu_hours") and not of_windows([row(1.0, *far)], "gpu_hours")


def test_the_plot_shows_each_row_and_an_arrow_where_A_is_open():
    study = an.WindowStudy(
        "made",
        "gpu_hours",
        "lsq",
        0.95,
        (row(None, 0.7, 0.6, 0.8), row(1.0, 0.75, 0.6, None), row(2.0, None, None, None)),
        (),
    )
    ax = Figure().add_subplot()
    assert an.plot_windows(study, ax) is ax
    drawn = {line.get_gid(): line.get_ydata() for line in ax.get_lines()}
    assert set(drawn) == {"A-0", "limits-0", "A-1", "limits-1", "open-1"}
    assert list(drawn["limits-0"]) == [0.6, 0.8] and list(drawn["limits-1"]) == [0.6, 1.0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["first\n20 points", "1\n20 points", "2\n20 points"]


def test_the_table_escapes_names_and_says_what_is_unknown():
    study = an.window_study(made(), [0.0, 9.5], method="lsq")
    assert "&lt;made&gt;" in study._repr_html_() and "<made>" not in study._repr_html_()
    last = repr(study).splitlines()[-1]
    assert last.split()[:2] == ["9.5", "gpu_hours"] and "unknown" in last


@pytest.mark.parametrize("options", [{"starts": []}, {"starts": [-1.0]}, {"window": (0, 1)}, {"x": "hours"}])
def test_options_that_make_no_sense_are_one_line(options):
    with pytest.raises(UserError) as error:
        an.window_study(made(), **options)
    assert "\n" not in str(error.value)
