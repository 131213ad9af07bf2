"""Runs are compared where all of them have been, on each axis, and nothing is claimed that was not tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import analysis as an
from analysis.curves.curve import R
from scalerl.runlog import UserError
from tests.made import noisy

FAST = {"R0": 0.1, "A": 0.7, "B": 1.5, "C_mid": 1.0}
SLOW = {"R0": 0.1, "A": 0.6, "B": 1.5, "C_mid": 2.0}


def made(recipe, law, *, seed=0, last=4.0, cpu_per_hour=1.0, n=15, axes=("gpu_hours", "cpu_s"), prompt_set="p"):
    compute = np.linspace(0.0, last, n)
    data = {"gpu_hours": compute, "cpu_s": compute * cpu_per_hour, "pass_rate": R(compute, **law)}
    data = {name: column for name, column in data.items() if name in {*axes, "pass_rate"}}
    if prompt_set is not None:
        data["prompt_set"] = np.array([prompt_set] * n, dtype=object)
    return an.Run(f"{recipe}/seed{seed}", recipe, seed, data, axes, (), Path("none"), "")


def codes(comparison):
    return [f.code for f in comparison.findings]


def test_rates_are_read_at_the_smallest_of_the_largest_computes_on_each_axis():
    result = an.compare_at_equal_compute(
        [made("fast", FAST, last=4.0, cpu_per_hour=10.0), made("slow", SLOW, last=6.0)]
    )
    assert result.common == {"gpu_hours": 4.0, "cpu_s": 6.0}
    fast, slow = result.runs
    assert fast.pass_rate["gpu_hours"] == pytest.approx(float(R(4.0, **FAST)), abs=1e-9)
    assert slow.pass_rate["gpu_hours"] == pytest.approx(float(R(4.0, **SLOW)), abs=1e-9)
    assert fast.pass_rate["cpu_s"] == pytest.approx(float(R(0.6, **FAST)), abs=1e-9)
    assert slow.pass_rate["cpu_s"] == pytest.approx(float(R(6.0, **SLOW)), abs=1e-9)


def test_who_is_ahead_can_differ_between_axes():
    result = an.compare_at_equal_compute([made("fast", FAST, cpu_per_hour=100.0), made("slow", SLOW)])
    assert result.ahead == {"gpu_hours": "fast", "cpu_s": "slow"}


def test_one_seed_a_recipe_says_that_nothing_is_tested():
    result = an.compare_at_equal_compute([made("fast", FAST), made("slow", SLOW)])
    assert codes(result) == ["not-tested"]
    for text in (repr(result), result._repr_html_()):
        assert "one seed a recipe: differences between recipes are not tested" in text


def test_several_seeds_give_their_mean_and_count():
    seeds = [made("fast", {**FAST, "A": A}, seed=i) for i, A in enumerate((0.6, 0.7, 0.8))]
    result = an.compare_at_equal_compute([*seeds, made("slow", SLOW)])
    best = result.recipes[0]
    expected = np.mean([R(4.0, **{**FAST, "A": A}) for A in (0.6, 0.7, 0.8)])
    assert best.recipe == "fast" and best.n["gpu_hours"] == 3
    assert best.pass_rate["gpu_hours"] == pytest.approx(expected, abs=1e-9)
    assert "mean of 3" in repr(result) and "means over seeds" in repr(result)


def test_a_run_without_an_axis_is_left_out_there_and_named():
    runs = [made("fast", FAST), made("slow", SLOW), made("table", SLOW, axes=("gpu_hours",))]
    result = an.compare_at_equal_compute(runs)
    assert result.runs[2].pass_rate["cpu_s"] is None
    assert result.runs[2].pass_rate["gpu_hours"] is not None
    assert any(f.code == "axis-missing" and "table/seed0" in f.message for f in result.findings)
    assert "unknown" in repr(result)


def test_an_axis_that_one_run_or_none_has_is_left_out():
    table = made("table", SLOW, axes=("gpu_hours",))
    for others in ([made("fast", FAST)], [made("other", FAST, axes=("gpu_hours",))]):
        result = an.compare_at_equal_compute([table, *others])
        assert list(result.common) == ["gpu_hours"] and "axis-missing" in codes(result)


def test_a_run_that_cannot_be_fitted_is_left_out_and_named():
    result = an.compare_at_equal_compute([made("fast", FAST), made("slow", SLOW), made("short", SLOW, n=2)])
    assert result.runs[2].pass_rate["gpu_hours"] is None
    assert any(f.code == "not-covered" and "short/seed0" in f.message for f in result.findings)
    assert result.ahead["gpu_hours"] == "fast"


def test_a_run_without_a_curve_does_not_set_the_common_compute():
    runs = [made("fast", FAST, last=4.0), made("slow", SLOW, last=6.0), made("short", SLOW, n=2, last=0.5)]
    result = an.compare_at_equal_compute(runs)
    assert result.common["gpu_hours"] == 4.0 and result.runs[2].pass_rate["gpu_hours"] is None


def test_ahead_says_that_it_is_not_tested():
    result = an.compare_at_equal_compute([made("fast", FAST), made("slow", SLOW)])
    assert not result.tested
    assert "ahead at equal gpu_hours: fast (not tested)" in repr(result)
    html = result._repr_html_()
    assert "Ahead at equal gpu_hours: fast (not tested)" in html and "<b>fast" not in html


def test_fits_of_a_window_are_compared_inside_it_on_every_axis():
    runs = [made("fast", FAST, cpu_per_hour=2.0), made("slow", SLOW, cpu_per_hour=2.0)]
    result = an.compare_at_equal_compute(an.fit(runs, window=(None, 2.0)))
    assert result.common == pytest.approx({"gpu_hours": 2.0, "cpu_s": 4.0})
    assert "not-covered" not in codes(result)
    for standing, law in zip(result.runs, (FAST, SLOW), strict=True):
        assert standing.pass_rate["cpu_s"] == pytest.approx(R(2.0, **law), abs=1e-3)


def test_no_curve_is_read_outside_its_points():
    late, early = an.fit(made("fast", FAST), window=(2.5, None)), an.fit(made("slow", SLOW), window=(None, 2.0))
    result = an.compare_at_equal_compute([late, early])
    assert result.common["gpu_hours"] == pytest.approx(2.0) and result.runs[1].pass_rate["gpu_hours"] is not None
    assert result.runs[0].pass_rate["gpu_hours"] is None and "not-covered" in codes(result)


def test_different_prompts_are_warned_of():
    result = an.compare_at_equal_compute([made("fast", FAST), made("slow", SLOW, prompt_set="q")])
    assert "prompt-sets-differ" in codes(result)
    unknown = an.compare_at_equal_compute([made("fast", FAST), made("slow", SLOW, prompt_set=None)])
    assert "prompt-sets-differ" not in codes(unknown)


def test_a_tie_has_nobody_ahead():
    assert an.compare_at_equal_compute([made("a", FAST), made("b", FAST)]).ahead["gpu_hours"] is None


def test_one_run_is_no_comparison():
    with pytest.raises(UserError, match="at least two runs"):
        an.compare_at_equal_compute([made("fast", FAST)])


def test_html_is_escaped():
    html = an.compare_at_equal_compute([made("<script>", FAST), made("slow", SLOW)])._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_runs_on_an_axis_of_their_own_are_compared_on_it():
    step = np.arange(12.0)
    fits = [
        an.fit(an.read_frame({"Step": step, "accuracy": 0.1 + gain * step / 20}, name, x="Step"))
        for name, gain in (("slow", 0.1), ("fast", 0.2))
    ]
    assert an.compare_at_equal_compute(fits).ahead == {"Step": "fast"}
    assert an.compare_at_equal_compute([fit.run for fit in fits]).ahead == {"Step": "fast"}


def test_axes_of_one_unit_are_told_apart_and_how_curves_were_fitted_is_said():
    fits = [an.fit(r) for r in (noisy(0), noisy(1, A=0.6))]
    runs = []
    for name, f in zip("ab", fits, strict=True):
        tokens = {"tokens_generated": f.compute * 1e3, "tokens_trained": f.compute * 5e2}
        run = replace(f.run, name=name, recipe=name, data={**f.run.data, **tokens})
        runs.append(an.fit(replace(run, axes=("gpu_hours", "tokens_generated", "tokens_trained"))))
    told = an.compare_at_equal_compute(runs, ["gpu_hours", "tokens_generated", "tokens_trained"])
    text = repr(told)
    assert "ahead at equal tokens generated: a" in text and "ahead at equal tokens trained: a" in text
    assert told.by == {"gpu_hours": "posterior", "tokens_generated": "least squares", "tokens_trained": "least squares"}
    assert "curves on gpu_hours by the posterior; on tokens generated, tokens trained by least squares" in text
    assert "at 8000 tokens generated" in text
