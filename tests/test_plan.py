"""Plans: futures that continue the run, widths that shrink, a stop rule that is the formula, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

import analysis as an
from analysis.budgets import budget
from analysis.budgets.budget import after, cadence, continued, usual_gap
from analysis.budgets.planning import gain, verdict_of
from analysis.comparisons import contrasts
from analysis.fits.evaluations import Evaluations, evaluations_of
from analysis.plots.plan_plots import plot_plan
from analysis.pooled.seeds import prompt_sd
from analysis.posteriors.draws import Draws
from analysis.predict.ahead import calibrate, cut_at
from benchmarks.plan import stopped_wrongly, widths
from scalerl.cli import main
from tests.made import as_run, counted, noisy

PAPER = "data/paper/scalerl_8b_bs2048_100k.csv"


def exact(rho=0.0, sigma=0.0):
    one = np.ones(1)
    return Draws(0.1 * one, 0.7 * one, 1.5 * one, 2.0 * one, rho * one, sigma * one, one)


def test_a_future_keeps_what_is_there_the_cadence_and_the_curve():
    C = np.linspace(0.0, 4.0, 21)
    data = Evaluations(C, an.R(C, 0.1, 0.7, 1.5, 2.0), np.arange(21.0) * 10, np.full(21, 1e-6), ())
    longer = continued(data, exact(), 0, 2.0, np.random.default_rng(0))
    assert longer.compute[:21].tolist() == C.tolist()
    assert longer.compute == pytest.approx(np.linspace(0.0, 8.0, 41))
    assert longer.time == pytest.approx(np.arange(41.0) * 10)
    assert longer.pass_rate == pytest.approx(an.R(longer.compute, 0.1, 0.7, 1.5, 2.0))
    assert len(longer.variance) == 41


def test_evaluations_spaced_in_the_logarithm_go_on_so():
    C = np.geomspace(10.0, 1000.0, 20)
    data = Evaluations(C, an.R(C, 0.1, 0.7, 1.5, 2.0), C / 10, None, ())
    longer = continued(data, exact(), 0, 4.0, np.random.default_rng(0))
    assert longer.compute[20:] == pytest.approx(1000.0 * 4.0 ** (np.arange(1, 7) / 6))  # 4x are 5.7 of its gaps
    assert longer.time == pytest.approx(longer.compute / 10)
    wide = np.geomspace(1e-5, 1e20, 30)  # many usual gaps long
    assert len(continued(replace(data, compute=wide), exact(), 0, 2.0, np.random.default_rng(0)).compute) == 31
    spread = np.cumsum(np.random.default_rng(1).lognormal(0.0, 0.5, 40))
    assert not cadence(spread).geometric and cadence(spread).gap == usual_gap(spread)


def test_noise_fades_over_the_time_that_lies_between():
    C = np.geomspace(1.0, 2.0**10, 11)
    y = an.R(C, 0.1, 0.7, 1.5, 2.0)
    y[-1] += 0.1
    data = Evaluations(C, y, C, None, ())
    longer = continued(data, exact(rho=0.8), 0, 2.0, np.random.default_rng(0))
    gap = 2.0**10 / usual_gap(C)
    assert longer.pass_rate[11] - an.R(2.0**11, 0.1, 0.7, 1.5, 2.0) == pytest.approx(0.1 * 0.8**gap)


def test_a_run_that_came_to_be_evaluated_less_often_goes_on_so():
    C = np.r_[np.arange(1.0, 41.0), np.arange(45.0, 161.0, 5.0)]
    data = Evaluations(C, an.R(C, 0.1, 0.7, 1.5, 2.0), C, None, ())
    longer = continued(data, exact(), 0, 2.0, np.random.default_rng(0))
    assert longer.compute[len(C) :] == pytest.approx(np.arange(165.0, 321.0, 5.0))
    assert longer.time == pytest.approx(longer.compute)


def test_a_future_has_no_more_evaluations_than_fit_in_memory(monkeypatch):
    monkeypatch.setattr(budget, "MOST_ADDED", 10)
    C = np.linspace(0.0, 4.0, 41)
    longer = continued(Evaluations(C, C / 10, C, None, ()), exact(), 0, 2.0, np.random.default_rng(0))
    assert longer.compute[41:] == pytest.approx(np.linspace(4.4, 8.0, 10))
    assert longer.time == pytest.approx(longer.compute)


def test_the_noise_goes_on_from_the_last_residual():
    C = np.linspace(0.1, 4.0, 30)
    y = an.R(C, 0.1, 0.7, 1.5, 2.0)
    y[-1] += 0.05
    data = Evaluations(C, y, C, None, ())
    rng = np.random.default_rng(1)
    runs = [continued(data, exact(rho=0.8, sigma=0.01), 0, 1.5, rng) for _ in range(400)]
    residual = np.array([r.pass_rate[30:] - an.R(r.compute[30:], 0.1, 0.7, 1.5, 2.0) for r in runs])
    for i in range(3):  # mean decays as .8^i, the variance grows to sigma^2; 5 standard errors of 400 draws
        sd = 0.01 * np.sqrt(1.0 - 0.8 ** (2 * (i + 1)))
        assert residual[:, i].mean() == pytest.approx(0.05 * 0.8 ** (i + 1), abs=5 * sd / 20)
        assert residual[:, i].std() == pytest.approx(sd, rel=5 / np.sqrt(800))


def test_a_longer_future_begins_as_a_shorter_one_does():
    data = evaluations_of(noisy(0, k=2.0, n=31, rho=0.5), "gpu_hours")
    draws = cut_at(data, averaged=("sigmoid",)).draws
    short, long = (continued(data, draws, 5, h, np.random.default_rng(3)) for h in (1.5, 4.0))
    assert np.array_equal(long.pass_rate[: len(short.pass_rate)], short.pass_rate)
    assert len(long.compute) == 31 + 90


def test_a_long_run_is_fitted_in_blocks_that_say_what_it_says(monkeypatch):
    data = evaluations_of(noisy(1, k=3.0, n=250, rho=0.5), "gpu_hours")
    cut, past = cut_at(data, averaged=("sigmoid",)), calibrate(data, averaged=("sigmoid",), origins=2)
    in_few = after(data, cut, past, 2.0, tolerance=0.02, level=0.95, futures=3)
    monkeypatch.setattr(budget, "BLOCKS", 10**6)
    monkeypatch.setattr(budget, "MOST_BLOCKS", 10**6)
    whole = after(data, cut, past, 2.0, tolerance=0.02, level=0.95, futures=3)
    assert in_few.A_width != whole.A_width
    assert in_few.A_width == pytest.approx(whole.A_width, rel=0.15)
    assert in_few.half == pytest.approx(whole.half, rel=0.15)


def test_more_compute_is_expected_to_narrow_the_interval():
    data = evaluations_of(noisy(0, k=2.0, n=30), "gpu_hours")
    cut, past = cut_at(data, averaged=("sigmoid",)), calibrate(data, averaged=("sigmoid",), origins=4)
    told = [after(data, cut, past, h, tolerance=0.02, level=0.95, futures=6) for h in (1.5, 3.0)]
    lo, hi = cut.draws.quantile(cut.draws.A, [0.025, 0.975])
    assert hi - lo > told[0].A_width > told[1].A_width
    assert told[0].half > told[1].half
    assert len(told[0].reach_at_least) == 6


def test_realised_widths_are_the_predicted_ones():
    """The short form of the benchmark: 12 curves at k = 3, the ratio of medians within the bars and their scatter."""
    table = np.array([widths(3.0, 0.0, i, futures=4) for i in range(12)])
    ratio = np.median(table[:, 0] / table[:, 1])
    assert 0.8 < ratio < 1.25


def test_the_rule_does_not_stop_runs_that_still_gain():
    """The short form of the benchmark: no wrong stop in 6 runs, and it does stop where nothing is left to gain."""
    told = [stopped_wrongly(5.0, 0.0, i) for i in range(6)]
    assert sum(t.wrong for t in told) == 0
    assert sum(t.stopped for t in told) >= 3


def test_the_verdict_is_read_off_the_gain():
    data = evaluations_of(noisy(1, k=6.0, n=40), "gpu_hours")
    cut, past = cut_at(data), calibrate(data)
    C = 2.0 * cut.last
    mid, _, hi = gain(cut, past, C)
    ahead = cut.ahead(np.array([C]), since=cut.last)
    half = past.widening(2.0, "average").times * ahead.sd[0]
    assert (mid, hi) == pytest.approx((ahead.mid[0], ahead.mid[0] + half))
    both = cut.ahead(np.array([C]), "sigmoid").mid[0] - cut.ahead(np.array([cut.last]), "sigmoid").mid[0]
    assert cut.ahead(np.array([C]), "sigmoid", since=cut.last).mid[0] == pytest.approx(both, abs=0.003)
    told = an.plan(an.fit(noisy(1, k=6.0, n=40)), budgets=[2], futures=2)[0]
    assert told.verdict == verdict_of(told.gain_until, 0.01)


def test_gains_stay_where_a_pass_rate_can_go_and_the_columns_are_explained():
    data = evaluations_of(noisy(1, k=2.0, n=20), "gpu_hours")
    cut, past = cut_at(data), calibrate(data, inflation=20.0)
    ahead = cut.ahead(np.array([4.0 * cut.last]), since=cut.last)
    mid, half = float(ahead.mid[0]), past.widening(4.0, "average").times * float(ahead.sd[0])
    most = 1.0 - cut.at(cut.last)[0]
    assert mid - half < 0.0 and mid + half > most
    assert gain(cut, past, 4.0 * cut.last) == pytest.approx((mid, 0.0, most))
    told = an.plan(an.fit(noisy(1, k=2.0, n=20)), budgets=[2], futures=2)
    for text in (repr(told), told._repr_html_()):
        assert "width of A: upper less lower limit" in text and "with 2x or more" in text


def test_power_is_that_of_the_comparison():
    told = an.plan(an.fit(noisy(2, k=5.0, n=40)), budgets=[2], futures=3, seed_sd=0.01, seeds=[3])[0]
    draws = an.fit(noisy(2, k=5.0, n=40)).draws
    variance = float(draws.weight @ (draws.A - draws.weight @ draws.A) ** 2)
    today = told.powers[0]
    assert (today.multiple, today.seeds) == (1.0, 3)
    assert today.power == contrasts.power(0.05, variance, variance, 3, 0.01)
    assert today.cost == pytest.approx(2 * 3 * told.last)
    rival = as_run(*(noisy(9, k=1.5, n=40).data[c] for c in ("gpu_hours", "pass_rate")), "rival")
    pair = an.plan([noisy(2, k=5.0, n=40), rival], budgets=[2], futures=2, seed_sd=0.01, seeds=[3])
    assert [p.powers[0].cost for p in pair] == pytest.approx([3 * (10.0 + 3.0)] * 2)  # each recipe at its own compute
    each = [p.powers[0].power for p in pair]
    assert each[0] == each[1]
    assert max(each) < today.power  # a rival that is known badly
    without = an.plan(an.fit(noisy(2, k=5.0, n=40)), budgets=[2], futures=2)[0]
    assert without.powers == ()
    assert "not-tested" in {f.code for f in without.findings}


def named(run, name, recipe):
    return replace(run, name=name, recipe=recipe)


def test_the_next_budget_goes_to_the_recipe_that_is_likely_best():
    runs = [named(noisy(3, k=4.0, A=0.5), "bad", "bad"), named(noisy(4, k=4.0), "good", "good")]
    told = an.plan(runs, budgets=[2], futures=2, seed_sd=0.01)
    assert told.next == "good"
    assert told.candidates[0].p_best > 0.99
    assert sum(c.p_best for c in told.candidates) == pytest.approx(1.0)
    assert ">.99" in repr(told) and "1.00" not in told._repr_html_()
    assert an.plan(runs[:1], budgets=[2], futures=2).next is None


def test_single_seeds_are_ranked_and_not_tested_as_compare_says_of_them():
    runs = [named(noisy(3, k=4.0, A=0.5), "bad", "bad"), named(noisy(4, k=4.0), "good", "good")]
    told = an.plan(runs, budgets=[2], futures=2)
    assert [(c.recipe, c.p_best) for c in told.candidates] == [("good", None), ("bad", None)]
    said = repr(told).splitlines()[-1]
    assert "not tested" in said and "one seed of good, bad" in said and "--seed-sd" in said
    assert not an.compare(runs).tested
    assert json.loads(json.dumps(told.to_dict()))["candidates"][0]["p_best"] is None


def test_several_seeds_say_what_seeds_differ_by():
    near = [named(noisy(i, k=4.0, A=0.70 + i * 1e-3), f"a{i}", "a") for i in range(3)]
    near += [named(noisy(9 + i, k=4.0, A=0.68 + i * 1e-3), f"b{i}", "b") for i in range(3)]
    apart = [named(noisy(i, k=4.0, A=0.70 + 0.1 * (i - 1)), f"a{i}", "a") for i in range(3)] + near[3:]
    sure, unsure = (an.plan(runs, budgets=[2], futures=2) for runs in (near, apart))
    assert sure.next == "a" and sure.candidates[0].p_best > 0.9 > unsure.candidates[0].p_best > 0.5
    copied = an.plan([*near, replace(near[0], name="again", seed=5)], budgets=[2], futures=2)
    assert copied.candidates == sure.candidates
    assert "seed-repeated" in {f.code for f in copied["again"].findings}


def two_seeds(recipe, A, first, header=None, **columns):
    runs = []
    for s in range(2):
        run = noisy(first + s, k=4.0, A=A + 0.005 * s)
        n = len(run.data["pass_rate"])
        data = {**run.data, **{name: np.array([value] * n, dtype=object) for name, value in columns.items()}}
        runs.append(replace(named(run, f"{recipe}{s}", recipe), data=data, header=header or {}))
    return runs


def test_recipes_that_compare_refuses_to_test_are_not_ranked_by_probability():
    """Other prompts, another task: a difference of the two says nothing of the recipes."""
    here = {"prompt_set": "p1"}, {"config": {"task": "math"}}
    for there, code in (
        (({"prompt_set": "p1"}, {"config": {"task": "code"}}), "checkers-differ"),
        (({"prompt_set": "p2"}, {"config": {"task": "math"}}), "prompt-sets-differ"),
    ):
        fits = an.fit(two_seeds("a", 0.6, 0, here[1], **here[0]) + two_seeds("b", 0.8, 5, there[1], **there[0]))
        told, compared = an.plan(fits, budgets=[2], futures=2), an.compare(fits)
        assert not compared.tested and [(c.recipe, c.p_best) for c in told.candidates] == [("b", None), ("a", None)]
        assert code in {f.code for f in told.findings} <= {f.code for f in compared.findings}
        why = told.candidates[0].why
        assert why and why in repr(told).splitlines()[-1]
        assert next(f.message for f in told.findings) in repr(told) and code in json.dumps(told.to_dict()["findings"])


def test_other_prompts_widen_a_ranking_by_what_their_choice_is_worth():
    rate = an.R(np.linspace(0.0, 6.0, 25), 0.1, 0.6, 1.5, 1.0)

    def runs(recipe, shift, prompts):
        found = []
        for s in range(2):
            each = np.clip(np.linspace(-0.3, 0.3, 24)[None] + (rate + shift)[:, None], 0.01, 0.99)
            run = counted(each, f"{recipe}{s}", seed=7 * s + len(recipe))
            data = {**run.data, "prompt_set": np.array([prompts] * 25, dtype=object)}
            found.append(replace(named(run, f"{recipe}{s}", recipe), data=data))
        return found

    a = runs("a", 0.0, "p1")
    same, other = (an.plan(a + runs("bb", 0.06, p), budgets=[2], futures=2, seed_sd=0.005) for p in ("p1", "p2"))
    assert same.next == other.next == "bb"
    assert same.candidates[0].p_best > 0.95 > other.candidates[0].p_best + 0.05
    gap = other.candidates[0].pass_rate - other.candidates[1].pass_rate
    sd = [(c.hi - c.lo) / 3.92 for c in other.candidates]
    shift = prompt_sd(an.fit(a))
    expected = norm.cdf(gap / np.sqrt(sd[0] ** 2 + sd[1] ** 2 + 2.0 * shift**2))
    assert other.candidates[0].p_best == pytest.approx(expected, abs=0.05)


def test_nobody_is_likely_best_while_a_recipe_that_is_not_tested_stands_higher():
    runs = two_seeds("a", 0.5, 0) + two_seeds("b", 0.6, 5) + two_seeds("c", 0.8, 10)[:1]
    told = an.plan(runs, budgets=[2], futures=2)
    assert [(c.recipe, c.p_best) for c in told.candidates] == [("c", None), ("b", None), ("a", None)]
    assert told.candidates[1].why == "c, which is not tested, stands higher" in repr(told)
    low = an.plan(runs[:4] + two_seeds("c", 0.4, 10)[:1], budgets=[2], futures=2)
    assert [c.p_best is None for c in low.candidates] == [False, False, True]
    assert low.candidates[0].p_best + low.candidates[1].p_best == pytest.approx(1.0)


def test_few_evaluations_are_planned_no_further_than_they_are_forecast():
    few, full = named(noisy(5, k=3.0, n=5), "few", "few"), named(noisy(3, k=3.0), "full", "full")
    assert an.forecast(few, "4x").rows[0].pass_rate is None
    told = an.plan([few, full], budgets=[1.5, 4], futures=2, until=24.0, seed_sd=0.02)
    assert [b.multiple for b in told["few"].budgets] == [1.0, 1.5]
    assert [b.multiple for b in told["full"].budgets] == [1.0, 1.5, 4.0]
    assert {p.multiple for p in told["full"].powers} == {1.0, 1.5}
    assert (told["few"].verdict, told["few"].gain_until, told.candidates) == (None, None, ())
    said = [f.message for f in told["few"].findings if f.code == "no-forecast"]
    assert said == ["5 evaluations carry no plan past 2x: neither go nor stop, and no candidate"]
    near = an.plan([few, full], budgets=[2], futures=2)
    assert near["few"].verdict is not None and len(near.candidates) == 2


def test_a_candidate_is_banded_as_its_forecast_is():
    runs = [as_run(r.data["gpu_hours"], r.data["pass_rate"], n) for n, r in (("a", noisy(3)), ("b", noisy(4, A=0.6)))]
    told = an.plan(runs, budgets=[2], futures=2, until=120.0)
    assert len(told.candidates) == 2
    for one in told.candidates:
        run = next(r for r in runs if r.name == one.recipe)
        row = an.forecast(run, 120.0).rows[0]
        assert row.origins < 3  # stand-ins count in the freedom of t
        assert (one.lo, one.hi) == pytest.approx((row.mean_lo, row.mean_hi), abs=0.1 * (row.mean_hi - row.mean_lo))


def test_budgets_and_seeds_may_be_single_or_said_as_multiples():
    fits = an.fit(noisy(0))
    told = [an.plan(fits, budgets=b, futures=2, seed_sd=0.02, seeds=3)[0] for b in (2, "2x", ["2x", 2.0])]
    assert [[b.multiple for b in one.budgets] for one in told] == [[1.0, 2.0]] * 3
    assert {p.seeds for p in told[0].powers} == {3}


def test_a_run_that_decays_has_no_plan_and_says_why():
    C = np.arange(1.0, 21.0)
    told = an.plan(as_run(C, np.r_[np.linspace(0.2, 0.7, 10), np.linspace(0.68, 0.3, 10)]))[0]
    assert (told.budgets, told.verdict) == ((), None)
    assert "no-forecast" in {f.code for f in told.findings}


def test_the_reach_of_today_is_that_of_the_forecast_by_the_sigmoid():
    run = noisy(1, k=3.0, n=30)
    ahead = an.forecast(run, "2x", methods=["sigmoid"])
    assert 1.0 < ahead.reach < 100.0
    assert an.plan(run, budgets=[2], futures=2)[0].budgets[0].reach == ahead.reach


def test_gap():
    assert usual_gap(np.array([0.0, 2.0, 4.0, 4.0])) == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budgets": [1.0]}, "budgets"),
        ({"budgets": []}, "budgets"),
        ({"reach": 1.0}, "reach"),
        ({"until": 1.0}, "there already"),
        ({"seeds": [1]}, "seeds"),
        ({"seeds": [2.5]}, "seeds"),
        ({"budgets": ["two"]}, "budgets"),
        ({"least_gain": 0.0}, "least_gain"),
        ({"seed_sd": -0.1}, "seed_sd"),
        ({"futures": 1}, "futures"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, words):
    with pytest.raises(an.UserError, match=words) as error:
        an.plan(noisy(0), **options)
    assert "\n" not in str(error.value)


def test_the_figure_and_the_command(tmp_path, capsys):
    told = an.plan(an.fit(noisy(0, k=4.0)), budgets=[2, 4], futures=2)
    lines = {line.get_gid(): line for line in plot_plan(told).lines}
    assert lines["A-0"].get_xydata().tolist() == [[b.multiple, b.A_width] for b in told[0].budgets]
    assert lines["half-0"].get_ydata().tolist() == [b.half for b in told[0].budgets]
    out = tmp_path / "plan.svg"
    assert main(["plan", PAPER, "--budget", "2", "--futures", "2", "-o", str(out)]) == 0
    assert "the next doubling gains" in capsys.readouterr().out
    assert out.exists()
    assert main(["plan", PAPER, "--budget", "2", "--futures", "2", "--json"]) == 0
    json_told = json.loads(capsys.readouterr().out)
    assert json_told["schema"] == "plan/1"
    assert json_told["plans"][0]["stop_or_go"]["verdict"] in {"stop", "go", "unsure"}
    assert main(["plan", PAPER, "--budget", "0.5"]) == 2
    assert "--budget" in capsys.readouterr().err
    multiples = ["plan", PAPER, "--budget", "2x", "--until", "3x", "--futures", "2", "--json"]
    assert main(multiples) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["plans"][0]["budgets"] == json_told["plans"][0]["budgets"]
    assert again["horizon"] == pytest.approx(3.0 * again["plans"][0]["last"])
    assert main(["plan", PAPER, "--until", "soon"]) == 2
    assert "--until" in capsys.readouterr().err
