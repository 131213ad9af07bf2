"""What a fit does with its points, its options and its doubts, whatever the method."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

import analysis as an
from analysis.curves.curve import R
from analysis.findings import CODES, SEVERITIES
from analysis.fits.estimating import SPOILT
from analysis.fits.evaluations import evaluations_of
from scalerl.runlog import UserError
from tests.made import as_run, codes, counted, law, noisy, solving, values

TESTS = Path(__file__).parent


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
    fit = an.fit(as_run(x, y), r0="0.12", method="lsq")
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
    iid = an.fit(noisy(0, k=6.0), method="profile", correlated=False)
    assert codes(iid) == ["independent-noise"] and all(p.identified for p in iid.params.values())
    fit = an.fit(noisy(0, k=6.0))
    assert codes(fit) == [] and all(p.identified for p in fit.params.values())


def test_before_the_midpoint_nothing_is_claimed():
    for seed in range(10):
        fit = an.fit(noisy(seed, k=0.5))
        assert not fit.params["A"].identified


def test_identified_A_needs_a_limit_below_the_ceiling_and_a_usable_grade():
    for seed in range(12):
        fit = an.fit(noisy(seed, k=1.2))
        A, C_mid = fit.params["A"], fit.params["C_mid"]
        assert A.identified == (A.hi < 0.995 and fit.grade >= 0.9)
        assert fit.grade == pytest.approx(fit.draws.weight[2 * fit.draws.C_mid < fit.compute[-1]].sum())
        assert C_mid.identified <= (fit.grade >= 0.9)


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
    assert list(SPOILT)[:3] == ["flat-curve", "decay", "falling-curve"]
    compute = np.linspace(0, 10, 25)
    risen = 0.3 + 0.3 * np.minimum(compute, 2) / 2 - 0.6 / (1 + np.exp(-3 * (compute - 5)))
    fit = an.fit(as_run(compute, risen + np.random.default_rng(0).normal(0, 0.005, 25)))
    assert {"decay", "falling-curve"} <= set(codes(fit)) and fit.params["A"].why == "the run decays"


def test_healthy_curves_are_rarely_called_decaying():
    called = sum("decay" in codes(an.fit(noisy(seed, k=12.0, n=40), level=None)) for seed in range(100))
    assert called <= 4


@pytest.mark.parametrize("file", ["qwen3_math_decay.csv", "qwen3_math_two_runs_in_one.csv"])
def test_real_logs_that_decay_are_caught(file):
    fit = an.fit(an.read(TESTS / "data" / file, y="eval_acc")[-1])
    assert {"decay", "falling-curve"} & set(codes(fit)) and not fit.params["A"].identified


def test_correlated_residuals_are_warned_of_unless_the_method_accounts_for_them():
    run = noisy(0, k=5.0, n=60, rho=0.8)
    plain = an.fit(run, method="profile", correlated=False)
    found = next(f for f in plain.findings if f.code == "correlated-residuals")
    residual = plain.pass_rate - plain.predict(plain.compute)
    assert found.figure == pytest.approx(float(residual[1:] @ residual[:-1]) / float(residual @ residual))
    assert found.severity == "warning"
    accounted = next(f for f in an.fit(run).findings if f.code == "correlated-residuals")
    assert accounted.severity == "note" and "accounts for it" in accounted.message


def test_a_ceiling_on_the_edge_is_said():
    compute = np.linspace(0.0, 1.6, 25)
    run = as_run(compute, R(compute, 0.1, 1.3, 1.8, 2.0))  # rises beyond what a pass rate can
    fit = an.fit(run, method="profile")
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
    source = "".join(p.read_text() for p in (TESTS.parent / "analysis").rglob("*.py") if p.name != "findings.py")
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
    assert text.index("the run ends too early to know its ceiling") < text.index("\n  A ")


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


def test_two_runs_of_one_name_are_refused_and_one_run_may_be_fitted_in_several_windows():
    one, two = noisy(0), as_run([0, 1], [0.1, 0.2])
    with pytest.raises(UserError, match=re.escape("called made; rename one: dataclasses.replace(run, name=...)")):
        an.fit([one, two], level=None)
    assert an.fit([one, dataclasses.replace(two, name="other")], level=None).names == ("made", "other")
    assert len(an.window_study(one, [0, 1], method="lsq").rows) == 2


def test_a_shared_R0_is_that_of_share_R0():
    runs = an.read(TESTS.parent / "data" / "runs")
    shared = an.fit(runs, r0="shared")
    assert shared.to_dict() == an.share_R0(runs).to_dict()
    assert shared.to_dict() != an.fit(runs).to_dict()
    with pytest.raises(UserError, match="asks for several runs"):
        an.fit(runs[0], r0="shared")
    with pytest.raises(UserError, match="posterior"):
        an.fit(runs, r0="shared", method="lsq")


@pytest.mark.parametrize("method", ["lsq", "bootstrap"])
def test_limits_that_are_known_to_be_too_narrow_identify_nothing(method):
    """The paper's run up to 20,000 GPU-hours: both methods would be sure of an A that the rest of it leaves behind."""
    (run,) = an.read("data/paper/scalerl_8b_bs2048_100k.csv")
    early, whole = an.fit(run, method=method, window=(None, 20_000)), an.fit(run)
    assert early.params["A"].hi < whole.params["A"].lo
    assert not any(p.identified for p in early.params.values())
    assert "too narrow" in early.params["A"].why


def test_a_bootstrap_that_keeps_the_order_of_residuals_does_not_assume_independence():
    run = noisy(0, rho=0.6)
    said = {
        kind: " ".join(f.message for f in an.fit(run, method="bootstrap", resample=kind).findings)
        for kind in ("residual", "block", "sieve")
    }
    assert "so the intervals are too narrow" in said["residual"]
    assert "accounts for it" in said["sieve"] and "accounts for it" in said["block"]


def test_what_other_prompts_would_change_is_judged_after_it_is_allowed_for():
    fixed, sample = (an.fit(solving(22), prompts=way) for way in ("fixed", "sample"))
    assert fixed.params["A"].identified and fixed.params["A"].hi < 0.99
    for A in (fixed.A_population, sample.A_population, sample.params["A"]):
        assert A.hi == 1.0 and not A.identified and A.why == "no upper limit below 1"
    well = an.fit(solving(14), prompts="sample")
    assert well.params["A"].identified and well.A_population.identified and well.A_population.hi < 0.99


def test_a_flat_run_beside_others_does_not_end_a_fit_that_takes_prompts_as_a_sample():
    flat = counted(np.full((40, 24), 0.3), "flat")
    fits = an.fit([solving(20), flat], prompts="sample")
    assert fits["made"].A_population is not None and fits["flat"].A_population is None
    assert "flat-curve" in codes(fits["flat"]) and not fits["flat"].params["A"].identified
    for run, method in ((noisy(0), "posterior"), (solving(20), "profile")):
        with pytest.raises(UserError, match="prompts: 'sample' asks for the posterior and for the log's counts"):
            an.fit(run, method=method, prompts="sample")


@pytest.mark.parametrize(("method", "level"), [("posterior", 0.999999), ("bootstrap", 0.995)])
def test_a_level_that_the_draws_cannot_show_is_refused(method, level):
    with pytest.raises(an.UserError, match=f"level: {level} is beyond what the draws of {method} can show"):
        an.fit(noisy(0), method=method, level=level)
    assert an.fit(noisy(0), method="profile", level=0.999).params["A"].hi is not None


def test_evaluations_at_one_compute_stand_in_the_order_of_their_steps():
    compute, rates = [0.0, 1.0, 1.0, 2.0, 3.0], [0.1, 0.3, 0.2, 0.4, 0.5]
    run = dataclasses.replace(as_run(compute, rates, step=np.arange(0.0, 50.0, 10.0)), axes=("gpu_hours", "step"))
    data = evaluations_of(run, "gpu_hours")
    assert data.time.tolist() == [0.0, 10.0, 20.0, 30.0, 40.0] and data.pass_rate.tolist() == rates
    back = np.array([4, 2, 0, 1, 3])
    mixed = dataclasses.replace(run, data={name: column[back] for name, column in run.data.items()})
    assert evaluations_of(mixed, "gpu_hours").time.tolist() == data.time.tolist()
