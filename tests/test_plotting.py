"""What is drawn is what was fitted: the artists hold the numbers of the result."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import analysis as an
from analysis.curves.curve import R
from analysis.plots.captions import caption
from analysis.plots.looks import COLOURS
from analysis.plots.output import legend_below, new_axes, save, write
from analysis.plots.plotting import BAND_ROOM
from scalerl.runlog import UserError

mpl.use("Agg")

TRUE = {"R0": 0.12, "A": 0.74, "B": 1.8, "C_mid": 2.0}


def made(name="made", *, last=9.0, n=25, first=0.0, sd=0.01, seed=0, axis="gpu_hours", **truth):
    compute = np.linspace(first, last, n)
    rate = R(compute, **{**TRUE, **truth}) + np.random.default_rng(seed).normal(0, sd, n)
    return an.Run(name, name, None, {axis: compute, "pass_rate": rate}, (axis,), (), Path("none"), "")


def artist(ax, gid):
    found = [line for line in ax.get_lines() if line.get_gid() == gid]
    assert len(found) == 1, gid
    return found[0]


def drawn(ax, gid):
    line = artist(ax, gid)
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def has(ax, gid):
    return any(child.get_gid() == gid for child in ax.get_children())


def test_points_curve_and_extrapolation_are_those_of_the_fit():
    fit = an.fit(made(first=0.2))
    ax = an.plot_curves(fit, new_axes(), extend=3)
    x, y = drawn(ax, "points-0")
    assert np.array_equal(x, fit.compute) and np.array_equal(y, fit.pass_rate)
    x, y = drawn(ax, "fit-0")
    assert (x[0], x[-1]) == pytest.approx((fit.compute[0], fit.compute[-1]))
    assert y == pytest.approx(fit.predict(x))
    x, y = drawn(ax, "extrapolation-0")
    assert (x[0], x[-1]) == pytest.approx((fit.compute[-1], 3 * fit.compute[-1]))
    assert y == pytest.approx(fit.predict(x))
    assert artist(ax, "fit-0").get_linestyle() == "-"
    assert artist(ax, "extrapolation-0").get_linestyle() == "--"
    assert artist(ax, "points-0").get_linestyle() == "None"
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "compute (GPU-hours)"


def edges(ax, gid):
    """Compute, lower and upper edge of a shaded area."""
    found = [area for area in ax.collections if area.get_gid() == gid]
    assert len(found) == 1, gid
    (path,) = found[0].get_paths()
    outline = path.vertices[:-1]  # the last one closes it
    n = len(outline) // 2
    assert np.array_equal(outline[:n, 0], outline[n:, 0][::-1])
    return outline[:n, 0], outline[:n, 1], outline[n:, 1][::-1]


@pytest.mark.parametrize(("method", "level"), [("posterior", 0.95), ("posterior", 0.8), ("bootstrap", 0.95)])
def test_the_band_is_that_of_the_fit_at_its_level_inside_the_data_and_beyond(method, level):
    fit = an.fit(made(first=0.2), method=method, level=level)
    ax = an.plot_curves(fit, new_axes(), extend=3)
    x, low, high = edges(ax, "band-0")
    assert (x[0], x[-1]) == pytest.approx((fit.compute[0], 3 * fit.compute[-1]))
    band = fit.predict(x, level=level)
    assert low == pytest.approx(band.lo) and high == pytest.approx(band.hi) and np.all(low < high)
    assert np.all((low < fit.predict(x)) & (fit.predict(x) < high))
    assert ax.get_legend().get_texts()[-1].get_text() == f" shaded: {100 * level:g} % band of the mean curve"


def test_the_band_at_compute_0_stands_left_of_the_break():
    fit = an.fit(made())
    ax = an.plot_curves(fit, new_axes(), extend=1)
    x, low, high = edges(ax, "band-at-0-0")
    at_0 = fit.predict(0.0, level=0.95)
    assert low == pytest.approx(float(at_0.lo)) and high == pytest.approx(float(at_0.hi))
    assert ax.get_xlim()[0] < x[0] < drawn(ax, "points-0")[0][0] < x[-1] < drawn(ax, "break")[0][0]
    x, _, _ = edges(ax, "band-0")
    assert (x[0], x[-1]) == pytest.approx((fit.compute[1], fit.compute[-1]))


@pytest.mark.parametrize("options", [{"method": "lsq"}, {"method": "paper"}, {"method": "profile"}, {"level": None}])
def test_a_method_without_draws_has_no_band(options):
    fit = an.fit(made(), **options)
    ax = an.plot_curves(fit, new_axes())
    assert has(ax, "fit-0") and not any("band" in (area.get_gid() or "") for area in ax.collections)
    assert len(ax.get_legend().get_texts()) == 1 and "Shaded" not in caption([fit])


def test_the_band_can_be_left_out():
    fit = an.fit(made())
    with_band, without = an.plot_curves(fit, new_axes()), an.plot_curves(fit, new_axes(), band=False)
    assert has(with_band, "band-0") and not has(without, "band-0") and not has(without, "band-at-0-0")
    assert len(without.get_legend().get_texts()) == 1 and has(without, "ceiling-0") == has(with_band, "ceiling-0")


def test_runs_that_have_no_curve_have_no_band_and_bands_lie_under_everything():
    fits = an.fit([made("one"), made("short", n=2), made("two", A=0.5)])
    ax = an.plot_curves(fits, new_axes())
    assert has(ax, "band-0") and not has(ax, "band-1") and has(ax, "band-2")
    bands = [area for area in ax.collections if "band" in (area.get_gid() or "")]
    others = [line for line in ax.get_lines() if line.get_gid() != "break"]
    assert max(area.get_zorder() for area in bands) < min(line.get_zorder() for line in others)
    assert all(area.get_alpha() <= 0.25 for area in bands)
    assert np.array_equal(bands[0].get_facecolor()[0][:3], mpl.colors.to_rgb(artist(ax, "fit-0").get_color()))
    assert "band" in ax.get_legend().get_texts()[-1].get_text()


def test_a_fit_that_withholds_its_limits_has_no_band_and_a_run_that_decays_none_ahead():
    fit = an.fit(made())
    failed = dataclasses.replace(fit, findings=(an.Finding("posterior-grid", "warning", "limits are withheld"),))
    assert not has(an.plot_curves(failed, new_axes()), "band-0")
    decays = dataclasses.replace(fit, findings=(an.Finding("decay", "warning", "it falls"),))
    x, _, _ = edges(an.plot_curves(decays, new_axes()), "band-0")
    assert x[-1] == pytest.approx(fit.compute[-1])


def test_a_wide_band_is_cut_and_leaves_the_points_their_room():
    fit = an.fit(made(last=0.6, n=9, sd=0.02))
    assert fit.predict(40 * fit.compute[-1], level=0.95).hi > 0.9
    ax = an.plot_curves(fit, new_axes(), extend=40)
    low, high = ax.get_ylim()
    bare = an.plot_curves(fit, new_axes(), extend=40, band=False).get_ylim()
    assert low <= bare[0] and high > bare[1]
    assert high - low <= (1 + 2 * BAND_ROOM) * (bare[1] - bare[0]) * 1.001
    narrow = an.fit(made(last=20.0, n=60, sd=0.005))
    ax = an.plot_curves(narrow, new_axes())
    _, least, most = edges(ax, "band-0")
    assert ax.get_ylim()[0] < least.min() and most.max() < ax.get_ylim()[1]


def test_an_axis_whose_limits_are_set_keeps_them():
    ax = new_axes()
    ax.set_ylim(0.0, 1.0)
    assert an.plot_curves(an.fit(made()), ax).get_ylim() == (0.0, 1.0)


def test_the_caption_says_what_is_true_of_these_fits():
    posterior, plain = an.fit(made("a")), an.fit(made("b", first=0.2), method="lsq", window=(1.0, None))
    said = caption([posterior])
    for part in ("(posterior medians)", "Shaded: 95 % band of the mean curve;", "0 left of the break"):
        assert part in said
    assert "least squares" not in said and "hollow" not in said
    said = caption([plain])
    assert "(least squares)" in said and "hollow" in said and "Shaded" not in said and "break" not in said
    said = caption(iter([posterior, plain]))
    assert "(posterior medians or least squares)" in said and "where the fit has one" in said
    assert "(published grid)" in caption([an.fit(made(), method="paper")])
    assert "(least squares)" in caption([an.fit(made(sd=0.0))])  # exact points: the posterior is not asked
    nothing = caption([an.fit(made(n=2))])
    assert "Solid" not in nothing and nothing.startswith("Points: evaluations.")


@pytest.mark.parametrize(("method", "says"), [("posterior", "posterior medians"), ("profile", "from the F profile")])
def test_the_report_shades_and_names_the_method_of_its_fits(method, says, tmp_path):
    fit = an.fit(made(), method=method)
    an.write_report(fit, tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert says in html and caption([fit]) in html
    about_fits = html.split("<h2>Fits</h2>")[1].split("</section>")[0]
    shaded = re.search(r'id="f\d+-band-0"', html) is not None
    assert shaded == (method == "posterior") == ("least squares" not in about_fits)


def test_points_left_out_are_drawn_dimmed_and_apart():
    fit = an.fit(made(first=0.2), window=(1.0, None))
    ax = an.plot_curves(fit, new_axes())
    x, y = drawn(ax, "left-out-0")
    assert len(x) > 0 and np.array_equal(np.stack([x, y], axis=1), fit.left_out)
    assert artist(ax, "left-out-0").get_alpha() < artist(ax, "points-0").get_alpha()


def test_compute_zero_stands_left_of_a_marked_break_under_the_label_0():
    fit = an.fit(made())
    ax = an.plot_curves(fit, new_axes())
    x, y = drawn(ax, "points-0")
    assert 0 < x[0] < x[1] and y[0] == fit.pass_rate[0]
    break_at = drawn(ax, "break")[0][0]
    assert x[0] < break_at < x[1]
    labels = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    assert labels[x[0]] == "0"
    assert drawn(ax, "fit-at-0-0")[1] == pytest.approx(fit.params["R0"].value)
    assert ax.get_xlim()[0] < x[0]


def test_without_a_point_at_zero_there_is_no_break():
    ax = an.plot_curves(an.fit(made(first=0.2)), new_axes())
    assert not has(ax, "break") and "0" not in [t.get_text() for t in ax.get_xticklabels()]


def test_the_ceiling_is_drawn_only_where_it_is_identified():
    known, unknown = an.fit(made("known")), an.fit(made("unknown", last=1.0))
    assert known.params["A"].identified and not unknown.params["A"].identified
    ax = an.plot_curves([known, unknown], new_axes())
    bars = {bar.lines[0].get_gid(): bar for bar in ax.containers}
    assert list(bars) == ["ceiling-0"]
    (low, high) = (float(v) for v in bars["ceiling-0"].lines[2][0].get_segments()[0][:, 1])
    assert (low, high) == pytest.approx((known.params["A"].lo, known.params["A"].hi))
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert "A = " in texts[0] and "A not identified" in texts[1]


def test_a_floor_is_no_ceiling():
    falling = an.fit(made(R0=0.7, A=0.2))
    assert None not in (falling.params["A"].lo, falling.params["A"].hi)
    assert not an.plot_curves(falling, new_axes()).containers


def test_runs_differ_in_colour_and_in_grey():
    fits = an.fit([made(f"run{i}", sd=0.02, seed=i) for i in range(5)])
    ax = an.plot_curves(fits, new_axes())
    markers = {artist(ax, f"points-{i}").get_marker() for i in range(5)}
    colours = {artist(ax, f"fit-{i}").get_color() for i in range(5)}
    assert len(markers) == 5 and len(colours) == 5 and colours <= set(COLOURS)


def test_the_legend_covers_no_point_and_nothing_is_cut_off():
    ax = an.plot_curves(an.fit([made("one"), made("two", A=0.5)]), new_axes())
    figure = ax.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    legend = ax.get_legend().get_window_extent(renderer)
    assert legend.y1 <= ax.get_window_extent(renderer).y0
    whole = figure.bbox
    assert legend.x0 >= 0 and legend.y0 >= 0 and legend.x1 <= whole.x1 and ax.get_tightbbox(renderer).y1 <= whole.y1


@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "<script>&", "$a$", "100 %", "{x}"])
def test_any_name_can_be_drawn(name, tmp_path):
    ax = an.plot_curves(an.fit([made(name)]), new_axes())
    save(ax, tmp_path / "a.png")
    assert ax.get_legend().get_texts()[0].get_text().strip().startswith(name)


@pytest.mark.parametrize("name", ["W" * 900, "$x_" * 200])
def test_a_long_name_is_cut_in_the_middle(name, tmp_path):
    run = made(name)
    ax = an.plot_curves(an.fit([made("short"), dataclasses.replace(run, name=f"{name}/seed7")]), new_axes())
    save(ax, tmp_path / "a.png")
    text = ax.get_legend().get_texts()[1].get_text()
    assert text.startswith(f" {name[:18]} ... ") and "/seed7: A" in text and len(text) < 120


def test_many_runs_are_drawn_and_the_legend_names_as_many_as_have_room(tmp_path):
    ax = an.plot_curves(an.fit([made(f"run{i:02}", n=12) for i in range(40)], level=None), new_axes())
    save(ax, tmp_path / "a.png")
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts[-1] == f" and {41 - len(texts)} more" and has(ax, "fit-39")


def test_the_colour_of_a_run_does_not_depend_on_the_order_of_the_runs():
    fits = an.fit([made(name, seed=i) for i, name in enumerate("cab")])
    one, other = (an.plot_curves(given, new_axes()) for given in (list(fits), list(fits)[::-1]))
    for i in range(3):
        mine, theirs = artist(one, f"fit-{i}"), artist(other, f"fit-{2 - i}")
        assert mine.get_color() == theirs.get_color() and mine.get_linewidth() == theirs.get_linewidth()
        assert np.array_equal(mine.get_ydata(), theirs.get_ydata())


@pytest.mark.parametrize("unit", [1e-310, 1e-195, 1e195, 1e307])
def test_extreme_compute_is_drawn_or_refused_in_one_line_that_names_the_run(unit, tmp_path):
    run = made()
    data = {"gpu_hours": run.data["gpu_hours"] * unit, "pass_rate": run.data["pass_rate"]}
    fit = an.fit(dataclasses.replace(run, data=data))
    if 1e-200 < unit < 1e200:
        save(an.plot_curves(fit, new_axes()), tmp_path / "a.png")
        return
    with pytest.raises(UserError, match=r"^made: compute .* cannot be drawn") as error:
        an.plot_curves(fit, new_axes())
    assert "\n" not in str(error.value)


def test_an_extreme_extension_is_refused_and_a_wide_axis_is_drawn(tmp_path):
    with pytest.raises(UserError, match=r"^made: 1e\+308 times .*--extend"):
        an.plot_curves(an.fit(made()), new_axes(), extend=1e308)
    run = made()
    data = {"gpu_hours": np.geomspace(1e-190, 1e190, 25), "pass_rate": run.data["pass_rate"]}
    save(an.plot_curves(an.fit(dataclasses.replace(run, data=data)), new_axes(), extend=10), tmp_path / "a.png")


def test_what_cannot_be_fitted_is_drawn_as_points():
    fit = an.fit(made(n=2))
    ax = an.plot_curves(fit, new_axes())
    assert len(drawn(ax, "points-0")[0]) == 2 and not has(ax, "fit-0")
    assert "not fitted" in ax.get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize("rate", [[0.3] * 8, [0.0] * 8])
def test_a_constant_run_is_drawn(rate, tmp_path):
    run = an.Run("c", "c", None, {"step": np.arange(8), "pass_rate": np.array(rate)}, ("step",), (), Path("x"), "")
    ax = an.plot_curves(an.fit(run), new_axes())
    assert drawn(ax, "fit-0")[1] == pytest.approx(rate[0])
    save(ax, tmp_path / "a.svg")


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e12])
def test_any_unit_of_compute_gives_ticks_inside_the_axis(unit):
    run = made()
    data = {"gpu_hours": run.data["gpu_hours"] * unit, "pass_rate": run.data["pass_rate"]}
    ax = an.plot_curves(an.fit(an.Run("u", "u", None, data, ("gpu_hours",), (), Path("x"), "")), new_axes())
    low, high = ax.get_xlim()
    assert len(ax.get_xticks()) >= 4 and all(low <= t <= high for t in ax.get_xticks())


def test_mixed_axes_nothing_and_a_senseless_extension_are_one_clear_line():
    one, other = an.fit(made("a")), an.fit(made("b", axis="step"))
    for fits, extend in (([one, other], 4), ([], 4), ([one], 0.5), ([one], float("nan"))):
        with pytest.raises(UserError):
            an.plot_curves(fits, new_axes(), extend=extend)


def test_saving_refuses_what_exists_and_unknown_endings(tmp_path):
    ax = an.plot_curves(an.fit(made()), new_axes())
    for ending in ("png", "svg", "pdf"):
        save(ax, tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").stat().st_size > 1000
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="--force"):
        save(ax, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        save(ax, tmp_path / "a.jpeg2000")
    with pytest.raises(UserError, match="no such folder"):
        save(ax, tmp_path / "none" / "a.png")
    (tmp_path / "d.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        save(ax, tmp_path / "d.png")


def test_an_output_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / "dangling.png").symlink_to(tmp_path / "none.png")
    os.mkfifo(tmp_path / "pipe.png")
    ax = an.plot_curves(an.fit(made()), new_axes())
    for name, says in [
        ("x" * 300 + ".png", "File name too long"),
        ("dangling.png", "link to nothing"),
        ("pipe.png", "no regular file"),
        ("a\0b.png", "cannot be written"),
    ]:
        with pytest.raises(UserError, match=says) as error:
            save(ax, tmp_path / name, force=True)
        assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling.png", "pipe.png"]


def test_a_folder_that_may_not_be_written_to_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="may not be written to"):
        save(an.plot_curves(an.fit(made()), new_axes()), tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "x" * 251 + ".png"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_no_other(tmp_path, name):
    ax = an.plot_curves(an.fit(made()), new_axes())
    save(ax, tmp_path / name)
    before = (tmp_path / name).read_bytes()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            save(ax, tmp_path / name, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [name]
    save(ax, tmp_path / name, force=True)


def test_of_two_writers_at_once_one_is_told(tmp_path):
    """Both looked before the work: the later one finds that the name is taken, and nothing of the first is lost."""
    target = tmp_path / "a.html"
    write(target, b"first")
    with pytest.raises(UserError, match="exists already"):
        write(target, b"second")
    assert target.read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == ["a.html"]
    write(target, b"third", force=True)
    assert target.read_bytes() == b"third"


def test_writing_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    save(an.plot_curves(an.fit(made()), new_axes()), tmp_path / "link.png", force=True)
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")


def test_plot_training_curves_reads_fits_and_draws_in_one_call(tmp_path):
    run = made()
    rows = [f"{c!r},{r!r}" for c, r in zip(run.data["gpu_hours"].tolist(), run.data["pass_rate"].tolist(), strict=True)]
    log = tmp_path / "training_log.csv"
    log.write_text("\n".join(["gpu_hours,accuracy", *rows]))
    got = an.plot_training_curves(log, output=tmp_path / "a.png")
    fit = an.fit(run)
    assert got == tuple(fit.params[n].value for n in ("A", "B", "C_mid"))
    assert got.C_mid == fit.params["C_mid"].value
    assert (tmp_path / "a.png").exists()
    ax = new_axes()
    an.plot_training_curves(log, ax)
    assert has(ax, "points-0")
    log.write_text("gpu_hours,accuracy\n0,.1\n1,.2\n")
    with pytest.raises(UserError, match="nothing fitted"):
        an.plot_training_curves(log)


def test_no_window_is_opened_without_a_display():
    code = (
        "import matplotlib; matplotlib.use('Agg'); import analysis as an; "
        "fits = an.fit(an.read('data/paper/scalerl_8b_bs2048_100k.csv')); "
        "ax = an.plot_curves(fits); import matplotlib.pyplot as plt; assert plt.get_fignums() == [1]"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, check=True, env={"PATH": "", "HOME": "/tmp"})  # noqa: S108


def test_runs_of_several_recipes_share_a_line_of_the_legend_and_leave_the_axes_their_room():
    stages = ("base", "batch-256", "width-48")
    folders = [f"data/study/{stage}/scalerl_s{seed}" for stage in stages for seed in range(3)]
    named = {f"a recipe called {name}": f"*/{name}/*" for name in stages}
    fits = an.fit(an.read(folders, recipes=named), x="flops", level=None)  # without limits A is not identified
    ax = an.plot_curves(fits)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    doubted = {f.name for f in fits if any(d.severity != "note" for d in f.findings)}
    warned = [sum(f.name in doubted for f in fits if name in f.run.recipe) for name in stages]
    assert texts == [
        f" a recipe called {name}, 3 runs: A not identified{f', {n} with warnings' if n else ''}"
        for name, n in zip(stages, warned, strict=True)
    ]
    assert warned[0] == 3  # their prompts run out
    labels = [f"{'a long name of a run ' * 3}{i}" for i in range(12)]
    legend_below(ax, ax.get_lines()[:12], labels, ncols=2)
    ax.figure.canvas.draw()
    assert ax.get_window_extent().width > 0.6 * ax.figure.get_figwidth() * ax.figure.dpi
