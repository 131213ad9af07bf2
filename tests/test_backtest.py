"""A back-test forecasts from what was known, calibrates with what had been seen, and counts right."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import curve_fit
from scipy.stats import norm, t

import analysis as an
from analysis.cli import add_commands
from analysis.curves.families import FAMILIES
from analysis.fits.evaluations import evaluations_of
from analysis.plots.backtest_plots import plot_backtest, plot_drift, plot_errors, plot_tested
from analysis.predict.ahead import fit_family
from analysis.predict.backtesting import ALL_METHODS
from analysis.predict.cuts import fit_cuts, fit_places
from benchmarks import backtest as benchmark
from scalerl.cli import main
from scalerl.runlog import UserError
from tests.made import TRUE, ar1, as_run, law, noisy

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "data" / "paper" / "scalerl_8b_bs2048_100k.csv"


def command(*argv):
    parser = argparse.ArgumentParser(prog="scalerl")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args([str(a) for a in argv])
    return args.run(args)


def doubling(n=24, seed=0, name="doubling"):
    """Evaluations a factor of sqrt 2 apart, so that 2x ahead is the one after the next and no other comes near."""
    compute = 0.05 * np.sqrt(2.0) ** np.arange(n)
    return as_run(compute, law(compute, **TRUE) + ar1(n, 0.01, 0.3, seed), name)


@pytest.fixture(scope="module")
def long():
    """A run of 40 evaluations from compute 0 and its back-test."""
    run = noisy(3, n=40, k=5.0, rho=0.3)
    return run, an.backtest(run)


@pytest.fixture(scope="module")
def two():
    return an.backtest([doubling(), noisy(1, n=30, k=5.0)])


def of(test, **wanted):
    return [row for row in test.rows if all(getattr(row, name) == value for name, value in wanted.items())]


def test_a_forecast_is_what_other_tools_fit_to_the_evaluations_before_it(long):
    run, test = long
    C, y = run.data["gpu_hours"], run.data["pass_rate"]
    for row in of(test, method="last_value"):
        assert (row.predicted, row.origin) == (y[row.n - 1], C[row.n - 1])
    for row in of(test, method="log_linear"):
        line = np.polyfit(np.log(C[1 : row.n]), y[1 : row.n], 1)
        assert row.predicted == pytest.approx(min(np.polyval(line, np.log(row.at)), 1.0), abs=1e-9)
    late = [row for row in of(test, method="sigmoid_lsq") if row.origin > 2.5 * TRUE["C_mid"]]
    assert len(late) >= 4
    for row in late:
        found, _ = curve_fit(
            law, C[1 : row.n], y[1 : row.n], [0.1, 0.7, 1.5, 2.0], bounds=([0, 0, 0.05, 0.01], [1, 1, 50, 900])
        )
        assert row.predicted == pytest.approx(law(row.at, *found), abs=1e-4)


def test_what_came_is_the_evaluation_nearest_to_the_horizon(long):
    run, test = long
    C, y = run.data["gpu_hours"], run.data["pass_rate"]
    assert {row.horizon for row in test.rows} == {1.5, 2.0, 4.0}
    for row in test.rows:
        j = int(np.flatnonzero(row.at == C)[0])
        assert row.observed == y[j] and row.error == row.predicted - row.observed and j >= row.n
        off = np.abs(np.log(C[row.n :] / row.origin) / math.log(row.horizon) - 1.0)
        assert off.min() == pytest.approx(abs(math.log(row.multiple) / math.log(row.horizon) - 1.0))
        assert 0.75 <= math.log(row.multiple) / math.log(row.horizon) <= 4.0 / 3.0


def test_nothing_after_an_origin_moves_its_forecasts_or_their_bands(long):
    run, before = long
    n = sorted({row.n for row in before.rows})[9]
    changed = run.data["pass_rate"].copy()
    changed[n:] = np.random.default_rng(0).uniform(0.0, 1.0, len(changed) - n)
    after = an.backtest(as_run(run.data["gpu_hours"], changed))
    told = ("n", "horizon", "at", "method", "predicted", "own_lo", "own_hi", "lo", "hi", "calibrated", "origins")

    def known(test):
        return [tuple(getattr(row, name) for name in told) for row in test.rows if row.n <= n]

    assert known(before) == known(after) and any(row.calibrated for row in before.rows if row.n == n)
    assert {row.n for row in after.rows if row.n > n}
    assert [one for one in before.drift if one.n <= n] == [one for one in after.drift if one.n <= n]
    assert before.drift[-1] != after.drift[-1]


def test_bands_are_widened_by_the_errors_of_earlier_origins_that_were_seen_by_then():
    test = an.backtest(doubling(), 2.0)
    rows = of(test, method="average")
    z = norm.ppf(0.975)
    sd = {row.n: (row.own_hi - row.own_lo) / 2.0 / z for row in rows}
    checked = 0
    for row in rows:
        seen = [r for r in rows if r.n < row.n and r.at <= row.origin]
        assert row.calibrated == (row.origins >= 3)
        if not len(seen) >= 3 or len([r for r in rows if r.n < row.n]) > 9 or row.hi == 1.0:
            continue
        assert row.origins == len(seen)
        squares = sum((r.error / sd[r.n]) ** 2 for r in seen)
        lam = math.sqrt((3.0 * 1.35**2 + squares) / (3.0 + len(seen)))
        half = t.ppf(0.975, 3 + len(seen)) * lam * sd[row.n]
        assert (row.lo, row.hi) == pytest.approx((row.predicted - half, row.predicted + half), abs=1e-6)
        checked += 1
    assert checked >= 4


def test_at_most_nine_earlier_origins_calibrate():
    test = an.backtest(doubling(n=30), 1.5, origins=25)
    assert max(row.origins for row in test.rows) <= 9 and len({row.n for row in test.rows}) > 15


def test_the_sigmoid_is_the_posterior_of_the_evaluations_before(long):
    run, test = long
    row = of(test, method="sigmoid", horizon=2.0)[-1]
    fit = an.fit(run, window=(None, row.origin))
    band = fit.predict(row.at, level=0.95)
    assert row.predicted == pytest.approx(float(band.mid), abs=0.1 * float(band.hi - band.lo))
    sigma = math.sqrt(float(fit.draws.weight @ fit.draws.sigma**2))
    new = 2.0 * math.hypot(float(band.hi - band.lo) / 2.0, 1.96 * sigma)
    assert row.own_hi - row.own_lo == pytest.approx(new, rel=0.15)
    last = test.drift[-1]
    whole = an.fit(run, window=(None, last.origin))
    A = whole.params["A"]
    assert (last.lo, last.A, last.hi) == pytest.approx((A.lo, A.value, A.hi), abs=0.3 * (A.hi - A.lo))
    assert last.grade == pytest.approx(whole.grade, abs=0.05)


@pytest.mark.parametrize("seed", [0, 1])
def test_families_fitted_at_many_places_at_once_are_those_fitted_one_by_one(seed):
    data = evaluations_of(noisy(seed, n=40, k=(1.0, 4.0)[seed]), "gpu_hours")
    log_c, y = np.log(data.compute[1:]), data.pass_rate[1:]
    counts = [9, 14, 22, 39]
    for name, family in FAMILIES.items():
        if family.last_only:
            continue
        vectors, sums = fit_places(family, log_c, y, counts)
        for n, vector, sse in zip(counts, vectors, sums, strict=True):
            alone, least = fit_family(family, log_c[:n], y[:n])
            assert sse == pytest.approx(least, rel=1e-5)
            last = np.exp(log_c[n - 1])
            assert family.value(2.0 * last, vector) == pytest.approx(family.value(2.0 * last, alone), abs=2e-4), name
    # a family is left out where it would only connect the dots
    fitted = fit_cuts(data, [6, 7, 8], FAMILIES)
    assert [("broken_power_law" in f, "ll5" in f, "sigmoid" in f) for f in fitted] == [
        (False, False, True),
        (False, True, True),
        (True, True, True),
    ]


def test_scores_are_the_plain_formulas_over_the_frame(two):
    frame = two.frame
    assert len(frame) == len(two.rows) and set(frame["run"]) == {"doubling", "made"}
    assert set(frame["method"]) == set(ALL_METHODS)
    for score in two.scores:
        mine = frame[(frame["horizon"] == score.horizon) & (frame["method"] == score.method)]
        absolute = mine["error"].abs()
        assert (score.forecasts, score.runs) == (len(mine), mine["run"].nunique())
        assert (score.mean_error, score.median_error) == pytest.approx((absolute.mean(), absolute.median()))
        assert score.bias == pytest.approx((mine["predicted"] - mine["observed"]).mean())
        for name, skill in (("last_value", score.skill_last_value), ("log_linear", score.skill_log_linear)):
            base = frame[(frame["horizon"] == score.horizon) & (frame["method"] == name)]
            both = mine.merge(base, on=["run", "n"], suffixes=("", "_base"))
            assert skill == pytest.approx(1.0 - both["error"].abs().sum() / both["error_base"].abs().sum())
        if score.method not in {"average", "sigmoid"}:
            assert score.own_coverage is score.width is score.calibrated_coverage is None and score.calibrated == 0
            assert mine["lo"].isna().all()
            continue
        inside = (mine["lo"] <= mine["observed"]) & (mine["observed"] <= mine["hi"])
        own = (mine["own_lo"] <= mine["observed"]) & (mine["observed"] <= mine["own_hi"])
        known = mine["calibrated"]
        assert (score.coverage, score.own_coverage) == pytest.approx((inside.mean(), own.mean()))
        assert score.width == pytest.approx((mine["hi"] - mine["lo"]).median())
        assert score.calibrated == known.sum() and score.calibrated_coverage == pytest.approx(inside[known].mean())
        assert score.calibrated_width == pytest.approx((mine["hi"] - mine["lo"])[known].median())
    for horizon in two.horizons:
        mine = [s for s in two.scores if s.horizon == horizon]
        whole = [s.mean_error for s in mine if s.forecasts == max(s.forecasts for s in mine)]
        assert whole == sorted(whole) and [s.mean_error for s in mine[: len(whole)]] == whole


def test_a_run_that_follows_the_law_is_forecast_better_than_by_the_baselines(two):
    for score in two.scores:
        if score.method == "average" and score.horizon < 4.0:
            assert score.skill_last_value > 0.3 and score.skill_log_linear > 0.3
            assert score.calibrated_coverage > 0.8


def test_the_unit_of_compute_does_not_matter(long):
    run, test = long
    other = an.backtest(as_run(run.data["gpu_hours"] * 3600.0, run.data["pass_rate"]))
    assert len(other.rows) == len(test.rows)
    for a, b in zip(test.rows, other.rows, strict=True):
        assert a.predicted == pytest.approx(b.predicted, abs=1e-3) and a.method == b.method


def test_json_frames_and_text(two):
    content = two.to_dict()
    assert next(iter(content)) == "schema" and content["schema"] == "backtest/1"
    text = json.dumps(content, allow_nan=False)
    assert len(json.loads(text)["forecasts"]) == len(two.rows) and len(content["scores"]) == len(two.scores)
    assert list(content["forecasts"][0]) == list(two.frame.columns)
    assert list(content["scores"][0]) == list(two.score_frame.columns)
    assert two.drift_frame["A"].between(0.0, 1.0).all() and (two.drift_frame["lo"] <= two.drift_frame["hi"]).all()
    lines = repr(two).splitlines()
    assert lines[0].startswith("back-test of 2 runs from ")
    average = next(s for s in two.scores if (s.horizon, s.method) == (2.0, "average"))
    at = lines.index(next(line for line in lines if line.startswith("2x ahead")))
    cells = next(line for line in lines[at:] if line.split()[0] == "average").split()
    assert cells[1] == str(average.forecasts) and cells[2] == f"{average.mean_error:.4f}"
    assert any(line.startswith("  A of doubling at ") for line in lines)


def test_findings_stand_first_and_text_is_escaped():
    test = an.backtest([doubling(name="<b>x</b>"), as_run([0.0, 1.0, 2.0], [0.1, 0.2, 0.3], "short")], 2.0)
    assert [f.code for f in test.findings["short"]] == ["not-backtested"] and not test.findings["<b>x</b>"]
    assert repr(test).splitlines()[1].strip().startswith("warning")
    html = test._repr_html_()
    assert "<b>x</b>" not in html and "&lt;b&gt;x&lt;/b&gt;" in html
    assert html.index("no forecast to test") < html.index("<table")


@pytest.mark.parametrize(
    "rate",
    [np.zeros(20), np.r_[np.zeros(9), np.linspace(0.0, 0.4, 11)], np.linspace(0.8, 0.2, 20), np.full(20, 1.0)],
    ids=["never", "late", "falling", "all"],
)
def test_awkward_runs_go_through(rate):
    compute = np.r_[0.0, 0.0, np.linspace(1.0, 9.0, 18)]  # evaluated twice before training
    test = an.backtest(as_run(compute, rate))
    assert test.rows and all(0.0 <= row.predicted <= 1.0 for row in test.rows)
    json.dumps(test.to_dict(), allow_nan=False)
    assert repr(test) and test._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizons": 1.0}, "above 1"),
        ({"horizons": ()}, "at least one"),
        ({"horizons": "2x"}, "multiple"),
        ({"horizons": [2.0, math.nan]}, "above 1"),
        ({"origins": 0}, "whole number"),
        ({"origins": 2.5}, "whole number"),
        ({"level": 95}, "level"),
        ({"level": None}, "level"),
        ({"inflation": "cats"}, "inflation"),
        ({"x": "tokens"}, "no compute axis"),
        ({"window": (3, 1)}, "window"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        an.backtest(doubling(n=8), **options)
    assert "\n" not in str(caught.value)


def test_a_fit_is_tested_with_its_window_and_what_it_held():
    run = noisy(0, k=4.0, n=20)
    fitted = an.fit(run, window=(None, 6.0), r0=0.12)
    told, cut = an.backtest(fitted, 1.5), an.backtest(run, 1.5, window=(None, 6.0))
    assert told.points["made"].tolist() == cut.points["made"].tolist()
    free, held = ([r.predicted for r in t.rows if r.method == "sigmoid"] for t in (cut, told))
    assert len(free) == len(held) > 0 and free != held


def test_only_runs_are_taken_each_name_once():
    for given in ("runs", [doubling(), "x"], 3):
        with pytest.raises(UserError, match="takes runs"):
            an.backtest(given)
    with pytest.raises(UserError, match="no run"):
        an.backtest([])
    with pytest.raises(UserError, match="more than one run"):
        an.backtest([doubling(), doubling()])


def test_the_window_and_the_number_of_origins_are_kept():
    run = noisy(0, n=40, k=5.0)
    test = an.backtest(run, 1.5, origins=4, window=(1.0, 8.0))
    assert len(test.drift) == 4 and all(1.0 <= row.origin < row.at <= 8.0 for row in test.rows)
    assert test.points["made"][:, 0].min() >= 1.0


def artist(ax, gid):
    return next(a for a in ax.get_children() if a.get_gid() == gid)


def test_the_figure_shows_the_results_numbers(two):
    axes = plot_backtest(two).axes
    assert len(axes) == 5
    for horizon, ax in zip(two.horizons, axes, strict=False):
        for i, run in enumerate(two.points):
            after = two.points[run][two.points[run][:, 0] > 0.0]
            assert np.array_equal(artist(ax, f"points-{i}").get_xydata(), after)
            mine = of(two, run=run, horizon=horizon, method="average")
            for gid, known in ((f"calibrated-{i}", True), (f"predicted-{i}", False)):
                wanted = [(r.at, r.predicted) for r in mine if r.calibrated is known]
                if wanted:
                    assert np.array_equal(artist(ax, gid).get_xydata(), wanted)
            for r in mine:
                assert np.array_equal(artist(ax, f"band-{i}-{r.n}").get_xydata(), [(r.at, r.lo), (r.at, r.hi)])
    errors = axes[3]
    names = [label.get_text().replace(" ", "_") for label in errors.get_yticklabels()]
    drawn = {
        (h, names[round(y)]): x
        for h in two.horizons
        for gid in (f"errors-{h:g}", f"errors-fewer-{h:g}")
        for x, y in artist(errors, gid).get_xydata()
    }
    assert drawn == {(s.horizon, s.method): s.mean_error for s in two.scores}
    for i, run in enumerate(two.points):
        mine = [one for one in two.drift if one.run == run]
        assert np.array_equal(artist(axes[4], f"A-{i}").get_xydata(), [(one.origin, one.A) for one in mine])
        edge = artist(axes[4], f"A-limits-{i}").get_paths()[0].vertices
        assert {(one.origin, one.hi) for one in mine} <= {tuple(v) for v in edge}


def test_figures_draw_on_the_axis_they_are_given_and_refuse_what_is_not_there(two):
    ax = Figure().add_subplot()
    assert plot_tested(two, 2.0, ax, "power_law") is ax and not [a for a in ax.lines if "band" in a.get_gid()]
    assert plot_errors(two, Figure().add_subplot()).get_xlabel() == "mean absolute error"
    assert plot_drift(two, Figure().add_subplot()).get_xlabel() == "compute known at the origin (GPU-hours)"
    with pytest.raises(UserError, match="made no forecast"):
        plot_tested(two, 2.0, ax, "oracle")
    with pytest.raises(UserError, match="nothing to draw"):
        plot_backtest(an.backtest(as_run([0.0, 1.0], [0.1, 0.2])))


def test_the_command_prints_a_table_or_json_and_draws(tmp_path, capsys):
    figure = tmp_path / "back.png"
    assert command("backtest", PAPER, "--horizon", "2x", "--origins", 6, "-o", figure) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("forecasts 2x ahead from ")
        and "back-test of 1 run from " in said
        and "2x ahead" in said
        and "4x ahead" not in said
    )
    assert figure.read_bytes().startswith(b"\x89PNG") and said.endswith(f"wrote {figure}\n")
    with pytest.raises(UserError, match="exists already"):
        command("backtest", PAPER, "-o", figure)
    assert command("backtest", PAPER, "--origins", 5, "--to", 30000, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "backtest/1" and content["horizons"] == [1.5, 2.0, 4.0]
    assert max(row["at"] for row in content["forecasts"]) <= 30000


def test_a_run_that_is_too_short_exits_with_1_and_says_why(tmp_path, capsys):
    table = tmp_path / "short.csv"
    table.write_text("gpu_hours,accuracy\n1,0.1\n2,0.2\n3,0.3\n")
    assert command("backtest", table) == 1
    assert "hold no forecast to test" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        command("backtest", table, "--horizon", "far")
    assert caught.value.code == 2


def test_the_published_run_is_held_by_its_calibrated_bands():
    test = an.backtest(an.read(PAPER))
    for horizon in test.horizons:
        score = next(s for s in test.scores if (s.horizon, s.method) == (horizon, "average"))
        assert score.calibrated >= 3 and score.calibrated_coverage >= 0.9 and score.skill_last_value > 0.3


def test_a_back_test_is_quick_and_its_benchmark_goes_on_where_it_stopped(tmp_path, capsys):
    assert np.median([taken for _, taken in benchmark.seconds(1)]) <= 1.5 * benchmark.BAR
    cell = benchmark.CELLS[0]
    rows = benchmark.coverage(cell, 1, tmp_path)
    made = (tmp_path / f"{cell.name}.jsonl").stat().st_mtime_ns
    assert benchmark.coverage(cell, 1, tmp_path) == rows
    assert (tmp_path / f"{cell.name}.jsonl").stat().st_mtime_ns == made
    benchmark.report(cell, rows)
    assert "2x average" in capsys.readouterr().out


def test_a_figure_of_nothing_does_not_change_the_exit_status(tmp_path, capsys):
    figure = tmp_path / "b.png"
    short = "docs/six/newloss_s2.csv"
    assert main(["backtest", short, "--x", "hours", "--horizon", "100", "-o", str(figure)]) == 1
    assert not figure.exists() and capsys.readouterr().err == ""
