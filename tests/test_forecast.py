"""Forecasts: what stands behind a band, what is refused, and that figures show what results say."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

import analysis as an
from analysis.curves.families import FAMILIES
from analysis.fits.evaluations import Evaluations, evaluations_of
from analysis.fits.reach import crossing
from analysis.fits.refits import points_of, posterior_fit
from analysis.plots.forecast_plots import plot_forecast, plot_reach
from analysis.predict.ahead import (
    AVERAGED,
    INFLATION,
    TEMPER,
    Calibration,
    ahead_of,
    calibrate,
    cut_at,
    fit_family,
    origins_of,
)
from analysis.predict.reaches import GRID, path_of, recipe_reach
from benchmarks.simulate import Cell, simulate
from scalerl.cli import main
from tests.made import ar1, as_run, noisy

PAPER = "data/paper/scalerl_8b_bs2048_100k.csv"


@pytest.fixture(scope="module")
def paper():
    return an.read(PAPER)[0]


def points(curve):
    return Evaluations(curve.compute, curve.pass_rate, curve.compute, None, ())


def test_the_long_run_is_held_at_every_cut_and_says_where_nothing_stands_behind_it(paper):
    told = {stop: an.forecast(paper, 100e3, window=(None, stop)).rows[0] for stop in (12e3, 16e3, 20e3, 30e3, 50e3)}
    for row in told.values():
        assert row.mean_lo < 0.64 < row.mean_hi
    assert [row.calibrated for row in told.values()] == [False, False, False, True, True]
    assert told[20e3].hi - told[20e3].lo <= 0.30
    later = paper.data["pass_rate"][-3:]  # at 87k, 100k and 102k
    for stop in (30e3, 50e3):
        assert ((told[stop].lo < later) & (later < told[stop].hi)).all()


def test_the_widening_is_the_formula(paper):
    past = calibrate(evaluations_of(paper, "gpu_hours"))
    z = past.errors(2.0, "average")
    wide = past.widening(2.0, "average", 0.9)
    lam = math.sqrt((3 * 1.35**2 + sum(v * v for v in z)) / (3 + len(z)))
    assert wide.origins == len(z) >= 3
    assert wide.times == pytest.approx(student.ppf(0.95, 3 + len(z)) * lam)


def test_an_error_is_over_what_its_own_cut_allows(paper):
    data = evaluations_of(paper, "gpu_hours")
    cut = cut_at(data, 12)
    j = ahead_of(data.compute, 12, 2.0)
    (mid,), (sd,) = cut.ahead(data.compute[j : j + 1], "sigmoid")
    d = cut.draws
    curve = an.R(data.compute[j], d.R0, d.A, d.B, d.C_mid)
    assert sd == pytest.approx(
        math.sqrt(np.average((curve - np.average(curve, weights=d.weight)) ** 2, weights=d.weight))
    )
    z = Calibration(data, (cut,), 1.35).errors(2.0, "sigmoid")
    assert z == pytest.approx([(data.pass_rate[j] - mid) / math.hypot(sd, cut.sigma)])


def test_the_average_is_of_predictions_with_tempered_weights(paper):
    data = evaluations_of(paper, "gpu_hours")
    cut = cut_at(data)
    n, score = len(data.compute), {}
    for name in AVERAGED:
        _, sse = fit_family(FAMILIES[name], np.log(data.compute), data.pass_rate)
        p = len(FAMILIES[name].free) + 1
        score[name] = n * math.log(sse / n) + 2 * p + 2 * p * (p + 1) / (n - p - 1)
    raw = {name: math.exp(-TEMPER * (value - min(score.values())) / 2) for name, value in score.items()}
    assert cut.weights == pytest.approx({name: value / sum(raw.values()) for name, value in raw.items()})
    C = np.array([3e5])
    each = {name: cut.family(name, C)[0] for name in cut.families} | {"sigmoid": cut.ahead(C, "sigmoid").mid[0]}
    assert cut.ahead(C).mid[0] == pytest.approx(sum(w * each[name] for name, w in cut.weights.items()))


def test_nothing_after_an_origin_reaches_it(paper):
    data = evaluations_of(paper, "gpu_hours")
    changed = replace(data, pass_rate=np.where(np.arange(len(data.compute)) >= 15, 0.9, data.pass_rate))
    C = data.compute[-1:]
    assert cut_at(data, 15).ahead(C) == cut_at(changed, 15).ahead(C)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=60), st.floats(1.1, 20))
def test_the_evaluation_that_stands_for_a_factor_is_near_it_and_later(gaps, factor):
    compute = np.cumsum(gaps)
    for n in range(1, len(compute)):
        j = ahead_of(compute, n, factor)
        if j is not None:
            assert j >= n
            assert 0.75 <= math.log(compute[j] / compute[n - 1]) / math.log(factor) <= 4 / 3
    origins = origins_of(compute)
    assert len(origins) <= 9
    assert all(5 <= n < len(compute) for n in origins)


def test_the_unit_of_compute_changes_nothing():
    C = np.linspace(0, 5, 25)
    y = an.R(C, 0.1, 0.7, 1.5, 1.0) + 0.005 * np.sin(17.0 * np.arange(25))
    one, other = an.forecast(as_run(C, y), "3x"), an.forecast(as_run(3600 * C, y), "3x")
    assert other.rows[0].at == pytest.approx(3600 * one.rows[0].at)
    for name in ("pass_rate", "lo", "mean_hi"):
        assert getattr(one.rows[0], name) == pytest.approx(getattr(other.rows[0], name), abs=2e-3)
    assert one.reach == pytest.approx(other.reach, rel=0.05)


def test_the_reach_grows_with_the_data():
    median = {}
    for k in (1.0, 2.0, 5.0):
        reaches = [an.forecast(_run(simulate(Cell(k, 60, 0.0), i)), "2x").reach for i in range(4)]
        median[k] = float(np.median(reaches))
    assert 1.0 <= median[1.0] <= median[2.0] < median[5.0]


def _run(curve):
    return as_run(curve.compute, curve.pass_rate)


def test_the_reach_is_where_the_band_crosses_the_tolerance(paper):
    told = an.forecast(paper, "2x", window=(None, 50e3))
    path = told.paths["average"]
    assert told.reach > 1.0
    assert float(np.interp(math.log(told.reach), np.log(path.multiples), path.half)) == pytest.approx(0.02, abs=1e-4)
    assert (path.half[path.multiples < told.reach] <= 0.02).all()
    assert crossing(path.multiples, path.half, 1e-6) == 1.0
    assert crossing(path.multiples, path.half, 0.9) == GRID[-1] == 100.0


def test_where_nothing_can_be_said_a_row_is_none_and_a_finding_says_why():
    C = np.arange(1.0, 21.0)
    flat = an.forecast(as_run(C, np.full(20, 0.5)), "2x")
    decays = an.forecast(as_run(C, np.r_[np.linspace(0.2, 0.7, 10), np.linspace(0.68, 0.3, 10)]), "2x")
    few = an.forecast(as_run(C[:5], np.array([0.1, 0.25, 0.34, 0.41, 0.44])), ["2x", "3x"])
    for told in (flat, decays):
        assert told.rows[0].pass_rate is None
        assert told.reach is None
    for told in (flat, decays, few):
        assert "no-forecast" in {f.code for f in told.findings}
    exact = an.forecast(as_run(C, an.R(C, 0.1, 0.7, 1.5, 3.0)), "2x")
    assert "lie on the curve to rounding" in exact.findings[-1].message
    assert [row.pass_rate is None for row in few.rows] == [False, False, True, True]
    sure = an.forecast(as_run(C[:5], np.array([0.1, 0.3, 0.4, 0.44, 0.46])), "2x", tolerance=0.9)
    assert (sure.reach, sure.reach_origins, sure.paths["average"].multiples[-1]) == (2.0, 0, 2.0)
    assert "reach 2x by the average" in repr(sure) and "not calibrated" in repr(sure)
    json.dumps(an.Forecasts([flat]).to_dict(), allow_nan=False)


def test_a_fit_up_to_its_peak_has_nothing_past_it_by_any_verb():
    C = np.linspace(0.2, 12.0, 40)
    rate = np.where(C < 8.0, an.R(C, 0.1, 0.7, 1.5, 2.0), 0.65 - 0.1 * (C - 8.0)) + ar1(40, 0.005, 0.0, 3)
    fits = [an.fit(as_run(C, rate), method=m, up_to_peak=True) for m in ("posterior", "bootstrap")]
    for fitted in fits:
        assert "peak-fit" in {f.code for f in fitted.findings}
        told = an.forecast(fitted, "2x")
        assert told.rows[0].pass_rate is None and told.reach is None
        assert "nothing is claimed past it" in told.findings[-1].message
        planned = an.plan(fitted, budgets=[2], futures=2)[0]
        assert planned.verdict is None and planned.budgets == ()
    assert recipe_reach(fits[:1]) is None
    bands = {line.get_gid() for line in an.plot_curves(fits[:1], extend=4).collections}
    assert bands
    areas = an.plot_curves(fits[:1], extend=4).collections
    last = max(float(path.vertices[:, 0].max()) for area in areas for path in area.get_paths())
    assert last <= fits[0].compute[-1] * 1.0001


def test_what_a_fit_was_told_goes_on_into_its_forecast_and_its_plan():
    run = noisy(3, k=3.0, n=20)
    narrow = an.Priors(log_B=(math.log(1.8), 0.05))
    given, usual = an.forecast(run, "2x", priors=narrow), an.forecast(run, "2x")
    told = an.forecast(an.fit(run, priors=narrow), "2x")
    assert told.rows == given.rows and told.rows != usual.rows
    held = an.fit(run, r0=0.12)
    past = calibrate(evaluations_of(run, "gpu_hours"), r0=0.12)
    row = an.forecast(held, "2x").rows[0]
    assert row.origins == len(past.errors(2.0, "average"))
    new = past.widening(2.0, "average").times * math.hypot(cut_at(past.data, draws=held.draws).at(12.0)[1], 0)
    assert row.mean_hi - row.pass_rate == pytest.approx(new)
    today = an.plan(held, budgets=[2], futures=2)[0].budgets[0]
    assert today.A_width == pytest.approx(float(np.diff(held.draws.quantile(held.draws.A, [0.025, 0.975]))[0]))
    again = posterior_fit(an.fit(run, method="bootstrap", r0="first"))
    assert (again.method, again.r0, np.ptp(again.draws.R0)) == ("posterior", "first", 0.0)
    assert len(points_of(again).compute) == len(run) - 1


def test_a_wrong_law_is_said_and_paid_for():
    """A run that learns in two stages: before the second, the sigmoid is sure of its ceiling."""
    C = np.geomspace(1, 100, 40)
    y = 0.1 + 0.3 / (1 + (3 / C) ** 3) + 0.3 / (1 + (40 / C) ** 6) + 0.002 * np.cos(9.0 * np.arange(40))
    told = an.forecast(as_run(C, y), "2x", methods=["sigmoid"])
    said = next(f.message for f in told.findings if f.code == "misfit-ahead")
    assert "so the bands are widened" in said and "wrong" not in said
    right = an.forecast(as_run(C, an.R(C, 0.1, 0.7, 1.5, 5.0) + 0.002 * np.cos(9.0 * np.arange(40))), "2x")
    assert "misfit-ahead" not in {f.code for f in right.findings}


@pytest.mark.slow
def test_inflation_is_a_name_a_number_or_measured(paper):
    wide = an.forecast(paper, 100e3, window=(None, 20e3), inflation="vision curves").rows[0]
    usual = an.forecast(paper, 100e3, window=(None, 20e3)).rows[0]
    assert wide.mean_hi - wide.mean_lo > usual.mean_hi - usual.mean_lo
    assert INFLATION["vision curves"] == 2.0
    runs = [_run(simulate(Cell(5.0, 60, 0.0), i)) for i in range(5)]
    half = [0.6 * r.data["gpu_hours"][-1] for r in runs]
    fits = [an.fit(r, window=(None, end)) for r, end in zip(runs, half, strict=True)]
    cut = [
        replace(r, data={name: v[r.data["gpu_hours"] <= end] for name, v in r.data.items()})
        for r, end in zip(runs, half, strict=True)
    ]
    assert an.measure_inflation(fits) == an.measure_inflation(cut) != an.measure_inflation(runs)
    expected = [float((calibrate(evaluations_of(r, r.axes[0])).errors(2.0, "average") ** 2).mean()) for r in runs]
    assert an.measure_inflation(runs) == pytest.approx(math.sqrt(np.mean(expected)))


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0, -1, math.inf, math.nan, "2x", None])
def test_how_far_ahead_errors_are_measured_is_above_1(paper, factor):
    with pytest.raises(an.UserError, match=r"^factor: "):
        an.measure_inflation([paper], factor=factor)


@pytest.mark.parametrize(
    ("at", "options", "words"),
    [
        ("twice", {}, "neither a multiple"),
        ("-2x", {}, "neither a multiple"),
        ([], {}, "nothing to forecast"),
        (math.nan, {}, "neither a multiple"),
        ("2x", {"methods": ["magic"]}, "'magic'"),
        ("2x", {"inflation": "none"}, "accuracy curves"),
        ("2x", {"tolerance": 2.0}, "tolerance"),
        ("2x", {"x": "watts"}, "no compute axis"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(paper, at, options, words):
    with pytest.raises(an.UserError, match=words) as error:
        an.forecast(paper, at, **options)
    assert "\n" not in str(error.value)


def test_the_figure_shows_the_rows(paper):
    told = an.forecast(paper, ["2x", 100e3], window=(None, 30e3))
    ax = plot_forecast(told)
    by_id = {line.get_gid(): line for line in ax.lines}
    rows = [row for row in told.rows if row.method == "average"]
    for i, row in enumerate(rows):
        assert by_id[f"middle-{i}-0"].get_xydata().tolist() == [[row.at, row.pass_rate]]
        assert by_id[f"new-bar-{i}-0"].get_ydata().tolist() == [row.lo, row.hi]
        assert by_id[f"mean-bar-{i}-0"].get_ydata().tolist() == [row.mean_lo, row.mean_hi]
    ax = plot_reach(told)
    by_id = {line.get_gid(): line for line in ax.lines}
    assert by_id["reach-0"].get_xdata()[0] == told.reach
    assert by_id["tolerance"].get_ydata()[0] == told.tolerance
    known = by_id["known-0"].get_xydata()
    assert known[:, 1].tolist() == told.paths["average"].half[: len(known)].tolist()


def test_the_command_prints_a_table_or_json_and_draws(tmp_path, capsys):
    out = tmp_path / "ahead.png"
    assert main(["forecast", PAPER, "--to", "30000", "--at", "2x", "--at", "100000", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "3.59x" in text
    assert "reach" in text
    assert out.stat().st_size > 10_000
    assert main(["forecast", PAPER, "--to", "20000", "--at", "100000", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "forecast/1"
    row = told["forecasts"][0]
    assert {"run", "at", "x", "pass_rate", "lo", "hi", "mean_lo", "mean_hi", "level", "method"} <= row.keys()
    assert (row["calibrated"], row["origins"]) == (False, 0)
    assert set(told["reach"]["scalerl_8b_bs2048_100k"]) >= {"value", "tolerance", "calibrated"}
    assert main(["forecast", PAPER, "--at", "soon"]) == 2
    assert "soon" in capsys.readouterr().err


def test_seeds_of_a_recipe_calibrate_each_other():
    fits = an.fit([replace(_run(simulate(Cell(5.0, 60, 0.0), i)), name=f"seed{i}") for i in range(2)])
    pasts = [calibrate(evaluations_of(f.run, f.x), origins=4, averaged=("sigmoid",)) for f in fits]
    both = replace(pasts[0], others=(pasts[1],))
    own, other = (p.errors(2.0, "sigmoid") for p in pasts)
    assert both.errors(2.0, "sigmoid").tolist() == [*own, *other]
    assert both.widening(2.0, "sigmoid").origins == len(own) + len(other)
    reach = recipe_reach(fits)
    assert 1.0 < reach.value <= min(recipe_reach(fits, tolerance=0.05).value, GRID[-1])
    assert recipe_reach(fits, level=0.5).value > reach.value
    cuts = [cut_at(p.data, draws=f.draws, averaged=("sigmoid",)) for p, f in zip(pasts, fits, strict=True)]
    other = replace(pasts[1], others=(pasts[0],))
    paths = [path_of(c, p, 0.95, "sigmoid") for c, p in zip(cuts, (both, other), strict=True)]
    assert reach.value == pytest.approx(min(crossing(p.multiples, p.half, 0.02) for p in paths), rel=0.2)
    flat = an.fit(as_run(np.arange(1.0, 21.0), np.full(20, 0.5)))
    assert recipe_reach([fits[0], flat]) is None


@pytest.mark.parametrize("verb", ["forecast", "backtest", "compare", "plan"])
def test_an_axis_or_a_window_that_a_fit_was_not_made_with_is_refused(verb):
    run = noisy(0)
    run = replace(run, data={**run.data, "tokens": run.data["gpu_hours"] * 1e6}, axes=("gpu_hours", "tokens"))
    fitted = an.fit(run, window=(1.0, None))
    call = {"forecast": an.forecast, "backtest": an.backtest, "compare": an.compare, "plan": an.plan}[verb]
    fits = [fitted, replace(fitted, run=replace(run, name="b", recipe="b"))] if verb == "compare" else fitted
    with pytest.raises(an.UserError, match="x: made was fitted over gpu_hours; give its run, or fit it over tokens"):
        call(fits, x="tokens")
    if verb in {"forecast", "backtest"}:
        with pytest.raises(an.UserError, match="window: made was fitted from 1 to open, not from 1 to 5; give its run"):
            call(fits, window=(1.0, 5.0))
        assert call(fits, x="gpu_hours", window=(1, None)) is not None
