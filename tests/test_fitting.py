"""The fit finds the least squares that a blind search finds, its limits are the F profile, and its doubts are said."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path

import lmfit
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis as an
from analysis.curve import R
from analysis.findings import CODES, SEVERITIES
from analysis.fitting import SPOILT
from analysis.leastsquares import Problem, default_box, descend, minimise
from scalerl.runlog import UserError

TESTS = Path(__file__).parent
TRUE = {"R0": 0.12, "A": 0.74, "B": 1.8, "C_mid": 2.0}


def law(C, R0, A, B, C_mid):
    return R0 + (A - R0) / (1 + (C_mid / C) ** B)


def as_run(compute, pass_rate, name="made"):
    data = {"gpu_hours": np.asarray(compute), "pass_rate": np.asarray(pass_rate)}
    return an.Run(name, name, None, data, ("gpu_hours",), (), Path("none"), "")


def noisy(seed, *, k=4.0, n=25, sd=0.01, **truth):
    compute = np.linspace(0.0, k * TRUE["C_mid"], n)
    noise = np.random.default_rng(seed).normal(0.0, sd, n)
    return as_run(compute, R(compute, **{**TRUE, **truth}) + noise)


def values(fit):
    return {name: p.value for name, p in fit.params.items()}


def codes(fit):
    return [f.code for f in fit.findings]


# ---- the optimum


@settings(max_examples=80, deadline=None)
@given(
    st.floats(0.01, 0.35),
    st.floats(0.4, 1.0),
    st.floats(0.5, 4.0),
    st.floats(-9, 9),
    st.floats(1.5, 6.0),
    st.booleans(),
)
def test_noise_free_curves_are_recovered(R0, A, B, log_mid, k, with_zero):  # noqa: PLR0917
    C_mid = 10.0**log_mid
    compute = np.geomspace(0.05 * C_mid, k * C_mid, 20)
    compute = np.r_[0.0, compute] if with_zero else compute
    fit = an.fit(as_run(compute, R(compute, R0, A, B, C_mid)))
    got = values(fit)
    assert abs(got["A"] - A) <= 1e-8 * A
    assert abs(got["B"] - B) <= 1e-8 * B
    assert abs(got["C_mid"] - C_mid) <= 1e-8 * C_mid
    assert abs(got["R0"] - R0) <= 1e-8 * (A - R0)
    assert "exact-data" in codes(fit) and all(p.lo is None and p.hi is None for p in fit.params.values())


@pytest.mark.parametrize("seed", range(8))
def test_no_search_with_scipy_finds_a_smaller_sum_of_squares(seed):
    rng = np.random.default_rng(seed)
    run = noisy(seed, k=rng.uniform(0.7, 6.0), sd=0.02, B=rng.uniform(0.6, 4.0))
    x, y = run.data["gpu_hours"][1:], run.data["pass_rate"][1:]
    fit = an.fit(as_run(x, y), level=None)
    ours = float(((law(x, **values(fit)) - y) ** 2).sum())
    bounds = ([0, 0, 0.05, x[0] / 1000], [1, 1, 50, 1000 * x[-1]])
    theirs = math.inf
    for _ in range(15):
        start = [rng.uniform(0, 0.4), rng.uniform(0.4, 1), rng.uniform(0.3, 6), math.exp(rng.uniform(-2, 3))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                got = scipy.optimize.curve_fit(law, x, y, p0=start, bounds=bounds, max_nfev=2000)[0]
            except RuntimeError:
                continue
        theirs = min(theirs, float(((law(x, *got) - y) ** 2).sum()))
    assert ours <= theirs * (1 + 1e-7)


@pytest.mark.parametrize("seed", [10, 21, 101, 106, 353, 412])
def test_rugged_sums_of_squares_are_searched_in_every_valley(seed):
    """Few, noisy points have several valleys; on these seeds one start, or few far apart, miss the deepest."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(6, 40)), rng.uniform(0.3, 8)
    x = np.linspace(0, 2 * k, n)
    curve = R(x, rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.9), rng.uniform(0.5, 4), 2.0)
    y = np.clip(curve + rng.choice([0.01, 0.05, 0.1]) * rng.normal(size=n), 0, 1)
    problem, box = Problem(x, y), default_box(x)
    blind = (box.low + (box.high - box.low) * rng.uniform(size=4) for _ in range(150))
    deepest = min(descend(problem, box, start)[1] for start in blind)
    assert minimise(problem, box).sse <= deepest * (1 + 1e-7)


def test_a_dense_grid_with_the_linear_part_solved_finds_no_better():
    run = noisy(3, k=2.0, sd=0.015)
    x, y = run.data["gpu_hours"][1:], run.data["pass_rate"][1:]
    fit = an.fit(as_run(x, y), level=None)
    best = math.inf
    for B in np.geomspace(0.1, 20, 120):
        for C_mid in np.geomspace(0.05, 200, 160):
            s = 1 / (1 + (C_mid / x) ** B)
            (r0, a), *_ = np.linalg.lstsq(np.stack([1 - s, s], axis=1), y, rcond=None)
            if 0 <= r0 <= 1 and 0 <= a <= 1:
                best = min(best, float(((r0 * (1 - s) + a * s - y) ** 2).sum()))
    assert float(((law(x, **values(fit)) - y) ** 2).sum()) <= best


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-9, 12))
def test_a_unit_of_compute_scales_C_mid_and_nothing_else(seed, exponent):
    run, factor = noisy(seed), 10.0**exponent
    other = as_run(run.data["gpu_hours"] * factor, run.data["pass_rate"])
    one, two = an.fit(run), an.fit(other)
    for name, unit in (("A", 1.0), ("R0", 1.0), ("B", 1.0), ("C_mid", factor)):
        p, q = one.params[name], two.params[name]
        assert q.value == pytest.approx(p.value * unit, rel=1e-6)
        for mine, theirs in ((p.lo, q.lo), (p.hi, q.hi)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert theirs == pytest.approx(mine * unit, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(25)))
def test_the_order_of_rows_does_not_matter_and_the_input_is_not_changed(order):
    run = noisy(1)
    before = {name: column.copy() for name, column in run.data.items()}
    shuffled = as_run(run.data["gpu_hours"][list(order)], run.data["pass_rate"][list(order)])
    assert an.fit(shuffled).to_dict()["params"] == an.fit(run).to_dict()["params"]
    assert all(np.array_equal(before[name], run.data[name]) for name in before)


def test_float32_is_read_as_the_numbers_it_holds():
    run = noisy(2)
    low = {name: column.astype(np.float32) for name, column in run.data.items()}
    same = {name: column.astype(np.float64) for name, column in low.items()}
    assert (
        an.fit(as_run(low["gpu_hours"], low["pass_rate"])).to_dict()
        == an.fit(as_run(same["gpu_hours"], same["pass_rate"])).to_dict()
    )


def test_every_value_stays_inside_its_range():
    for seed in range(20):
        got = values(an.fit(noisy(seed, k=0.4, n=9, sd=0.05), level=None))
        assert 0 <= got["A"] <= 1 and 0 <= got["R0"] <= 1 and 0.05 <= got["B"] <= 50 and got["C_mid"] > 0


# ---- limits


def profile_by_many_starts(problem, box, index, value):
    """The smallest sum of squares with one parameter held, from the whole grid of starts and no warm start."""
    return minimise(problem, box.fix(index, value)).sse


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0, 5.0])
def test_at_a_limit_the_F_statistic_is_at_its_quantile_wherever_the_run_ends(k):
    """Before and around the midpoint there are several valleys; a descent that stays in the wrong one closes early."""
    checked = 0
    for seed in range(7):
        fit = an.fit(noisy(seed, k=k, n=40, sd=0.02))
        problem, box = Problem(fit.compute, fit.pass_rate), default_box(fit.compute)
        best = minimise(problem, box)
        rise = best.sse * scipy.stats.f.ppf(0.95, 1, fit.n - 4) / (fit.n - 4)
        for i, name in enumerate(("R0", "A", "B", "C_mid")):
            for limit, end in ((fit.params[name].lo, box.low[i]), (fit.params[name].hi, box.high[i])):
                if limit is None:
                    if "flat-curve" not in codes(fit):
                        assert profile_by_many_starts(problem, box, i, float(end)) <= best.sse + rise * 1.001
                    continue
                held = math.log(limit) if name in {"B", "C_mid"} else limit
                away = 0.01 * (held - best.theta[i])
                inside, at, outside = (
                    (profile_by_many_starts(problem, box, i, held + shift) - best.sse) / rise
                    for shift in (-away, 0.0, away)
                )
                assert at == pytest.approx(1.0, rel=1e-3), (seed, name, limit)
                assert inside < 1.0 < outside, (seed, name, limit)
                checked += 1
    assert checked >= 20


@pytest.mark.parametrize("seed", range(4))
def test_limits_are_those_of_lmfit_where_lmfit_finds_them(seed):
    run = noisy(seed)
    x, y = run.data["gpu_hours"], run.data["pass_rate"]
    fit = an.fit(run)
    start = lmfit.Parameters()
    for name, (low, high) in {"R0": (0, 1), "A": (0, 1), "B": (0.05, 50), "C_mid": (1e-4, 1e4)}.items():
        start.add(name, value=TRUE[name], min=low, max=high)
    minimizer = lmfit.Minimizer(lambda p: R(x, *(p[n].value for n in ("R0", "A", "B", "C_mid"))) - y, start)
    theirs = lmfit.conf_interval(minimizer, minimizer.leastsq(), sigmas=[0.95])
    for name, p in fit.params.items():
        (_, lo), _, (_, hi) = theirs[name]
        assert p.lo == pytest.approx(lo, abs=1e-3 * (hi - lo))
        assert p.hi == pytest.approx(hi, abs=1e-3 * (hi - lo))


def test_a_limit_that_the_data_do_not_give_is_none_even_on_a_profile_that_creeps():
    """Here a profile creeps along below the limit to the end of the box; lmfit reports a false upper limit of C_mid."""
    fit = an.fit(noisy(0, k=0.6, sd=0.01, A=0.42, R0=0.25, B=1.7))
    problem, box = Problem(fit.compute, fit.pass_rate), default_box(fit.compute)
    best = minimise(problem, box).sse
    allowed = best * (1 + scipy.stats.f.ppf(0.95, 1, fit.n - 4) / (fit.n - 4))
    at_end = profile_by_many_starts(problem, box, 3, float(box.high[3]))
    assert (fit.params["C_mid"].hi is None) == (at_end <= allowed)
    assert fit.params["A"].hi is None and not fit.params["A"].identified
    assert "open-interval" in codes(fit)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 6.0), st.integers(5, 40), st.sampled_from([1e-6, 0.01, 0.1]))
def test_limits_surround_the_value_and_are_never_nan_or_zero_wide(seed, k, n, sd):
    fit = an.fit(noisy(seed, k=k, n=n, sd=sd))
    for p in fit.params.values():
        assert p.value is not None and math.isfinite(p.value)
        assert p.lo is None or (math.isfinite(p.lo) and p.lo < p.value)
        assert p.hi is None or (math.isfinite(p.hi) and p.hi > p.value)
        assert not (p.identified and (p.lo is None or p.hi is None))
        assert p.identified == (p.why == "")
    json.dumps(fit.to_dict(), allow_nan=False)


def test_coverage_under_independent_noise_is_near_the_level():
    held = 0
    for seed in range(100):
        A = an.fit(noisy(seed, k=5.0, n=40)).params["A"]
        held += A.lo is not None and A.hi is not None and A.lo <= TRUE["A"] <= A.hi
    assert 88 <= held <= 99  # 95 expected; the standard deviation is 2.2


def test_a_wider_level_gives_wider_limits():
    narrow, wide = (an.fit(noisy(0), level=level).params["A"] for level in (0.5, 0.99))
    assert wide.lo < narrow.lo < narrow.value == wide.value < narrow.hi < wide.hi


# ---- options


def test_first_holds_R0_at_the_first_evaluation_and_takes_it_out_of_the_fit():
    run = noisy(0)
    fit = an.fit(run, r0="first")
    assert fit.params["R0"].value == run.data["pass_rate"][0]
    assert fit.params["R0"].fixed and not fit.params["R0"].identified
    assert fit.n == len(run) - 1 and fit.left_out.tolist() == [[0.0, run.data["pass_rate"][0]]]
    assert "r0-pinned" in codes(fit)


def test_a_given_R0_is_held_and_the_rest_is_least_squares():
    run = noisy(0)
    x, y = run.data["gpu_hours"][1:], run.data["pass_rate"][1:]
    fit = an.fit(as_run(x, y), r0="0.12")
    got, _ = scipy.optimize.curve_fit(lambda C, A, B, M: law(C, 0.12, A, B, M), x, y, p0=[0.7, 2, 2])
    assert [fit.params[n].value for n in ("R0", "A", "B", "C_mid")] == pytest.approx([0.12, *got], rel=1e-5)


def test_a_window_leaves_points_out_and_keeps_them_for_the_plot():
    run = noisy(0)
    fit = an.fit(run, window=(1.0, 6.0))
    assert fit.compute.min() >= 1.0 and fit.compute.max() <= 6.0
    assert fit.n + len(fit.left_out) == len(run)
    inside = (run.data["gpu_hours"] >= 1.0) & (run.data["gpu_hours"] <= 6.0)
    alone = as_run(run.data["gpu_hours"][inside], run.data["pass_rate"][inside])
    assert values(fit) == values(an.fit(alone))
    assert "window" in codes(fit)


@pytest.mark.parametrize(
    "options",
    [
        {"r0": "last"},
        {"r0": 1.5},
        {"r0": math.nan},
        {"window": (3.0, 1.0)},
        {"window": (math.nan, None)},
        {"level": 95},
        {"x": "hours"},
        {"x": ""},
    ],
)
def test_an_option_that_makes_no_sense_is_one_clear_line(options):
    with pytest.raises(UserError) as error:
        an.fit(noisy(0), **options)
    assert "\n" not in str(error.value)


# ---- doubts


def test_an_identified_curve_says_only_what_its_limits_assume():
    fit = an.fit(noisy(0, k=6.0))
    assert codes(fit) == ["independent-noise"]
    assert all(p.identified for p in fit.params.values())


def test_before_the_midpoint_nothing_is_claimed():
    for seed in range(10):
        fit = an.fit(noisy(seed, k=0.5))
        assert not fit.params["A"].identified


def test_identified_A_needs_C_mid_inside_the_data():
    for seed in range(12):
        fit = an.fit(noisy(seed, k=1.2))
        A, C_mid = fit.params["A"], fit.params["C_mid"]
        expected = None not in (A.lo, A.hi, C_mid.hi) and A.hi < 1 and C_mid.hi <= fit.compute[-1]
        assert A.identified <= bool(expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_points_give_no_values_and_an_error(n):
    fit = an.fit(as_run(np.arange(n), np.linspace(0.1, 0.3, n)))
    assert not fit.fitted and codes(fit) == ["no-fit"] and fit.findings[0].severity == "error"
    assert all(p.value is None and p.lo is None and not p.identified for p in fit.params.values())
    with pytest.raises(UserError):
        fit.predict(1.0)


def test_repeated_evaluations_at_few_computes_are_too_few():
    assert codes(an.fit(as_run([0, 1, 2] * 5, np.linspace(0.1, 0.5, 15)))) == ["no-fit"]


def test_as_many_points_as_parameters_have_no_interval():
    fit = an.fit(as_run([0, 1, 2, 4], [0.1, 0.2, 0.4, 0.5]))
    assert "no-interval" in codes(fit) and all(p.lo is None for p in fit.params.values())
    assert "few-points" in codes(an.fit(noisy(0, n=6)))


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_constant_run_has_a_level_and_no_shape(level):
    fit = an.fit(as_run(range(10), [level] * 10))
    assert values(fit) == {"A": level, "R0": level, "B": None, "C_mid": None}
    assert "flat-curve" in codes(fit) and not any(p.identified for p in fit.params.values())
    assert fit.predict([0.0, 1e9]).tolist() == [level, level]


def test_noise_around_a_constant_is_called_flat():
    flat = 0
    for seed in range(25):
        fit = an.fit(noisy(seed, A=0.3, R0=0.3))
        flat += "flat-curve" in codes(fit)
        assert not ({"flat-curve", "falling-curve", "decay"} & set(codes(fit)) and fit.params["A"].identified)
    assert flat >= 18


def test_a_handful_of_rising_points_is_not_called_flat():
    fit = an.fit(as_run([0.0, 1.0, 2.0, 3.0, 4.0], [0.12, 0.14, 0.22, 0.29, 0.34]))
    assert "flat-curve" not in codes(fit) and "few-points" in codes(fit) and not fit.params["A"].identified


def test_a_falling_curve_is_fitted_and_A_is_no_ceiling():
    fit = an.fit(noisy(0, R0=0.7, A=0.2))
    assert values(fit)["A"] < values(fit)["R0"]
    assert "falling-curve" in codes(fit) and not fit.params["A"].identified


def test_rise_then_decay_is_said_before_anyone_believes_A():
    compute = np.linspace(0, 10, 30)
    for fall in (0.01, 0.03, 0.06):
        rate = R(compute, 0.1, 0.6, 4.0, 1.0) - fall * np.maximum(compute - 3, 0)
        noise = np.random.default_rng(0).normal(0, 0.005, 30)
        fit = an.fit(as_run(compute, rate + noise))
        assert {"decay", "falling-curve"} & set(codes(fit)), fall
        assert not fit.params["A"].identified


def test_a_collapse_is_told_from_a_curve_that_falls_throughout():
    """The law fits both as a falling curve; only one of them has a peak."""
    compute = np.linspace(0, 10, 25)
    noise = np.random.default_rng(0).normal(0, 0.005, 25)
    risen = 0.3 + 0.3 * np.minimum(compute, 2) / 2 - 0.6 / (1 + np.exp(-3 * (compute - 5)))
    collapsed, falling = an.fit(as_run(compute, risen + noise)), an.fit(noisy(0, R0=0.7, A=0.2))
    assert "decay" in codes(collapsed) and "falling-curve" in codes(collapsed)
    assert "decay" not in codes(falling) and "falling-curve" in codes(falling)
    assert not collapsed.params["A"].identified


def test_of_several_reasons_the_flat_curve_comes_first_and_a_decay_before_a_fall():
    assert list(SPOILT) == ["flat-curve", "decay", "falling-curve"]
    compute = np.linspace(0, 10, 25)
    risen = 0.3 + 0.3 * np.minimum(compute, 2) / 2 - 0.6 / (1 + np.exp(-3 * (compute - 5)))
    fit = an.fit(as_run(compute, risen + np.random.default_rng(0).normal(0, 0.005, 25)))
    assert {"decay", "falling-curve"} <= set(codes(fit)) and fit.params["A"].why == "the run decays"


def test_healthy_curves_are_rarely_called_decaying():
    called = sum("decay" in codes(an.fit(noisy(seed, k=12.0, n=40), level=None)) for seed in range(100))
    assert called <= 4


@pytest.mark.parametrize("file", ["qwen3_math_decay.csv", "qwen3_math_two_runs_in_one.csv"])
def test_real_logs_that_decay_are_caught(file):
    fit = an.fit(an.read(TESTS / "data" / file, y="eval_acc")[0])
    assert "decay" in codes(fit) and not fit.params["A"].identified


def test_correlated_residuals_are_warned_of():
    compute = np.linspace(0, 10, 60)
    noise = np.zeros(60)
    white = np.random.default_rng(0).normal(0, 0.01, 60)
    for i in range(1, 60):
        noise[i] = 0.8 * noise[i - 1] + white[i]
    fit = an.fit(as_run(compute, R(compute, **TRUE) + noise))
    found = next(f for f in fit.findings if f.code == "correlated-residuals")
    residual = fit.pass_rate - fit.predict(fit.compute)
    assert found.figure == pytest.approx(float(residual[1:] @ residual[:-1]) / float(residual @ residual))


def test_a_ceiling_on_the_edge_is_said():
    compute = np.linspace(0.0, 1.6, 25)
    fit = an.fit(as_run(compute, R(compute, 0.1, 1.3, 1.8, 2.0)))  # rises beyond what a pass rate can
    assert fit.params["A"].value == 1.0
    assert "at-bound" in codes(fit) and "not-past-midpoint" in codes(fit)
    assert fit.params["A"].hi is None and not fit.params["A"].identified


def test_the_published_run_gives_the_published_curve():
    """Paper, appendix: A .645 and B 1.70 from (1.5k, 50k) GPU-hours with R0 near .40; its margin for A is .02."""
    run = an.read(TESTS.parent / "data" / "paper" / "scalerl_8b_bs2048_100k.csv")[0]
    fit = an.fit(run, window=(1500, 50000), r0=0.402)
    assert fit.params["A"].value == pytest.approx(0.645, abs=0.02)
    assert fit.params["B"].value == pytest.approx(1.70, abs=0.2)


# ---- results


def test_every_code_has_a_severity_and_a_sentence_and_is_the_one_used():
    assert all(
        severity in SEVERITIES and meaning and code == code.lower() for code, (severity, meaning) in CODES.items()
    )
    source = "".join(p.read_text() for p in (TESTS.parent / "analysis").glob("*.py") if p.name != "findings.py")
    assert [code for code in CODES if f'finding("{code}"' not in re.sub(r"\(\s+", "(", source)] == []


def test_json_has_the_promised_shape_and_order():
    out = an.fit([noisy(0)]).to_dict()
    assert list(out) == ["runs"]
    assert list(out["runs"][0]) == ["run", "n", "x", "method", "reach", "grade", "params", "findings"]
    assert list(out["runs"][0]["params"]) == ["A", "B", "C_mid", "R0"]
    assert all(list(p) == ["value", "lo", "hi", "identified"] for p in out["runs"][0]["params"].values())
    assert all(list(f) == ["code", "severity", "message"] for f in out["runs"][0]["findings"])


def test_the_repr_shows_doubts_before_numbers():
    text = repr(an.fit(noisy(0, k=0.5)))
    assert text.index("open-interval" if "open-interval" in text else "no limit") < text.index("\n  A ")


def test_html_escapes_names_and_messages():
    run = noisy(0)
    hostile = an.Run(
        "<script>x</script>", "r", 0, run.data, run.axes, (an.Finding("c", "note", "<b>&"),), Path("x"), ""
    )
    html = an.fit([hostile])._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "&lt;b&gt;&amp;" in html


def test_fits_are_had_by_position_and_by_name_and_are_frozen():
    fits = an.fit([as_run([0, 1], [0.1, 0.2], "a"), as_run([0, 1], [0.1, 0.2], "b")])
    assert fits["b"] is fits[1] and len(fits) == 2 and fits.names == ("a", "b")
    with pytest.raises(KeyError, match="the names are a, b"):
        fits["c"]
    with pytest.raises(AttributeError):
        fits[0].method = "other"
    with pytest.raises(TypeError):
        fits[0].params["A"] = None
