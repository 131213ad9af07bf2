"""Comparing recipes: the test against formulas written out, draws against the law, refusals, figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm, ttest_ind

import analysis as an
from analysis.comparisons import contrasts, joint_draws
from analysis.comparisons.compared_tables import compared_html
from analysis.comparisons.straight import same_ceiling, straight_line
from analysis.plots.compared_plots import plot_forest, plot_leave_one_out, plot_straight
from analysis.posteriors.draws import Draws
from analysis.predict.reaches import recipe_reach
from scalerl.cli import main
from tests.made import TRUE, as_run, counted, law, noisy


def recipe(name, A, *, seeds=3, first=0, k=5.0, **truth):
    runs = []
    for s in range(seeds):
        own = A + 0.008 * (s - (seeds - 1) / 2)
        run = noisy(first + s, k=k, n=25, sd=0.006, **{"A": own, **truth})
        runs.append(replace(run, name=f"{name}/seed{s}", recipe=name, seed=s, sha256=f"{name}{s}"))
    return runs


@pytest.fixture(scope="module")
def fits():
    """High with 3 seeds, low and fast with 3, single with one."""
    runs = recipe("high", 0.74) + recipe("fast", 0.62, first=10, C_mid=1.0) + recipe("single", 0.70, seeds=1, first=20)
    return an.fit(runs)


@pytest.fixture(scope="module")
def compared(fits):
    return an.compare(fits[:6], at=[4.0, "2x"], target=[0.5, 0.68])


# the test


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(0.003, 0.05),
    st.floats(1e-6, 1e-2),
    st.floats(0.0, 1e-3),
)
def test_with_a_stated_tau_the_interval_is_that_of_a_normal(n, m, tau, v, common):
    rng = np.random.default_rng(n + 10 * m)
    a, b = rng.normal(0.7, 0.02, n), rng.normal(0.65, 0.02, m)
    own = np.full(n, v), np.full(m, 2.0 * v)
    known = contrasts.spread([a, b], own, seed_sd=tau)
    found = contrasts.difference(a, b, *own, known, 0.9, common=common)
    se = math.sqrt((tau**2 + contrasts.OWN * v) / n + (tau**2 + contrasts.OWN * 2.0 * v) / m + common)
    expected = norm.interval(0.9, a.mean() - b.mean(), se)
    assert (float(found.lo), float(found.hi)) == pytest.approx(expected, abs=1e-9)
    assert float(found.p) == pytest.approx(2.0 * norm.sf(abs(a.mean() - b.mean()) / se))


def test_an_unknown_tau_is_summed_over_its_posterior():
    a, b = np.array([0.70, 0.72, 0.69]), np.array([0.66, 0.65, 0.68])
    own = np.full(3, 1e-4), np.full(3, 4e-4)
    known = contrasts.spread([a, b], own)
    weights = []
    for tau, step in zip(known.tau, np.gradient(known.tau), strict=True):
        like = 1.0
        for values, v in ((a, 1e-4), (b, 4e-4)):
            total = tau**2 + contrasts.OWN * v
            # the density of three normal values with their mean integrated out, without constants
            like *= total**-1.0 * math.exp(-0.5 * float(((values - values.mean()) ** 2).sum()) / total)
        weights.append(like * step / (1.0 + (tau / contrasts.SCALE) ** 2))
    assert known.weight == pytest.approx(np.array(weights) / sum(weights), rel=1e-6)
    se = [math.sqrt((2 * t**2 + contrasts.OWN * 5e-4) / 3) for t in known.tau]

    def beyond(half):
        return sum(w * norm.cdf(half / s) for w, s in zip(known.weight, se, strict=True)) - 0.975

    found = contrasts.difference(a, b, *own, known)
    assert float(found.hi - found.value) == pytest.approx(brentq(beyond, 0.0, 1.0), rel=1e-6)


def test_many_exact_seeds_are_a_t_test():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.71, 0.02, 40), rng.normal(0.70, 0.02, 40)
    own = np.full(40, 1e-12)
    found = contrasts.difference(a, b, own, own, contrasts.spread([a, b], [own, own]))
    expected = ttest_ind(a, b).confidence_interval(0.95)
    assert (float(found.lo), float(found.hi)) == pytest.approx((expected.low, expected.high), rel=0.15, abs=3e-4)


def test_size_and_power_of_the_test():
    for tau in (0.003, 0.01, 0.03):
        assert contrasts.power(0.0, 1e-4, 1e-4, 3, tau, repetitions=1500) < 0.10
    rising = [contrasts.power(gap, 1e-4, 1e-4, 3, 0.01) for gap in (0.0, 0.02, 0.05)]
    assert rising == sorted(rising)
    assert rising[-1] > 0.9
    assert contrasts.power(0.05, 0.1**2, 0.1**2, 3, 0.01) < 0.2


def test_early_seeds_that_agree_are_not_believed():
    # Posteriors of sd .15 that agree to .001: their prior agrees, not they.
    a, b, own = np.full(5, 0.60) + 1e-3 * np.arange(5), np.full(5, 0.70), np.full(5, 0.15**2)
    lean = contrasts.lean(own)
    known = contrasts.spread([a, b], [own, own])
    found = contrasts.difference(a, b, own, own, known, common=2.0 * lean)
    assert float(found.hi - found.value) > 1.96 * math.sqrt(2.0 * lean)
    assert found.lo < 0.0 < found.hi


def test_the_best_of_many_alike_is_pulled_back_and_one_that_stands_out_is_not():
    rng = np.random.default_rng(0)
    se = 0.02
    alike = np.sort(rng.normal(0.6, se, 9))
    draws = alike[:, None] + rng.normal(0.0, se, (9, 4000))
    together = contrasts.shrunk(draws, alike, np.full(9, se**2), rng)
    assert (together.argmax(axis=0) == 8).mean() < (draws.argmax(axis=0) == 8).mean()
    assert together[8].mean() < alike[8] - 0.4 * (alike[8] - alike.mean())
    apart = np.array([0.5, 0.6, 0.7, 0.8])
    far = apart[:, None] + rng.normal(0.0, 0.01, (4, 4000))
    assert contrasts.shrunk(far, apart, np.full(4, 0.01**2), rng).mean(axis=1) == pytest.approx(apart, abs=0.003)
    assert np.array_equal(contrasts.shrunk(far[:2], apart[:2], np.full(2, 1e-4), rng), far[:2])


# draws


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.35), st.floats(0.4, 0.8), st.floats(0.5, 4.0), st.floats(0.1, 10.0), st.floats(0.0, 1.0))
def test_compute_to_a_target_inverts_the_law(R0, A, B, C_mid, share):
    target = R0 + (A + 0.05 - R0) * share
    compute = joint_draws.grid(0.1, 10.0)
    found = joint_draws.compute_to(an.R(compute, R0, A, B, C_mid)[None], compute, target)[0]
    expected = an.compute_to(target, R0, A, B, C_mid)
    if compute[1] < expected < compute[-2]:
        assert found == pytest.approx(expected, rel=0.01)
    elif math.isinf(expected):
        assert math.isinf(found)


def test_a_lead_for_good_is_where_the_curves_cross():
    compute = joint_draws.grid(0.05, 20.0)
    one, two = (0.1, 0.7, 2.0, 3.0), (0.1, 0.6, 1.0, 1.0)
    found = joint_draws.lead_from((an.R(compute, *one) - an.R(compute, *two))[None], compute, 0.05)[0]
    assert found == pytest.approx(brentq(lambda c: float(an.R(c, *one) - an.R(c, *two)), 0.1, 100.0), rel=0.01)


def test_draws_agree_with_the_test(compared, fits):
    groups = [[f.draws for f in fits[:3]], [f.draws for f in fits[3:6]]]
    compute = joint_draws.grid(0.1, 10.0)
    joint = joint_draws.draw_together(groups, compute, [10.0, 10.0], M=4000)
    lo, hi = joint_draws.limits(joint.curves[0][:, -1] - joint.curves[1][:, -1], 0.95)
    A = compared.pair("high", "fast").A
    assert (lo, hi) == pytest.approx((A.lo, A.hi), abs=0.25 * (A.hi - A.lo))
    assert joint.curves[:, :, -1].var(axis=1) == pytest.approx([joint.variance(r)[-1] for r in (0, 1)], rel=0.3)


def test_draws_of_early_seeds_lean_together():
    rng = np.random.default_rng(0)
    none = np.zeros(4000)
    early = [
        Draws(none + 0.1, 0.6 + rng.normal(0, 0.15, 4000), none + 1.5, none + 2.0, none, none, none + 1 / 4000)
        for _ in range(5)
    ]
    joint = joint_draws.draw_together([early, early], joint_draws.grid(0.1, 2.0), [2.0, 2.0], M=4000)
    lean = contrasts.lean(np.full(5, 0.15**2))
    assert joint.common[:, -1] == pytest.approx([float(lean)] * 2, rel=0.1)
    assert joint.curves[:, :, -1].var(axis=1) == pytest.approx([joint.variance(r)[-1] for r in (0, 1)], rel=0.1)
    assert joint.curves[0, :, -1].var() > contrasts.OWN * 0.15**2 / 5 + 0.8 * lean


def test_points_without_a_place_on_the_straight_line_are_counted():
    rate = np.array([0.3, 0.05, 0.1, 0.4, 0.7, 0.8])
    compute = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    at, y, dropped = straight_line(compute, rate, 0.1, 0.7)
    assert at.tolist() == [3.0] and y.tolist() == pytest.approx([0.0]) and dropped == 5


# the verb


def test_a_rate_past_the_reach_is_marked_as_the_laws_alone(fits):
    found = an.compare(fits[:6], at=["1x", "50x"])
    for row in found.rows:
        assert [r.beyond for r in row.rates] == [False, row.reach < 50.0]
    assert any(row.rates[1].beyond for row in found.rows)
    assert "law alone, past the reach" in repr(found) and "law alone, past the reach" in compared_html(found)
    assert found.to_dict()["rows"][0]["at"][1]["beyond_reach"] == found.rows[0].rates[1].beyond
    inside = an.compare(fits[:6])
    assert "law alone" not in repr(inside) and not any(r.beyond for row in inside.rows for r in row.rates)


def test_an_open_ceiling_beside_a_difference_that_is_known_is_explained(fits, compared):
    early = [replace(f, window=(None, 2.5)) for f in fits[:6]]
    found = an.compare([an.fit(f.run, window=f.window) for f in early])
    assert not found.rows[0].params["A"].identified
    assert "in a difference that part cancels" in repr(found)
    assert "in a difference that part cancels" not in repr(compared)


def test_a_pass_rate_is_the_same_in_every_table(compared):
    common = compared.standings.common["gpu_hours"]
    found = an.compare([f for fits in compared.fits.values() for f in fits], at=[common])
    for row in found.rows:
        mean = next(m for m in found.standings.recipes if m.recipe == row.recipe)
        assert row.rates[0].rate.value == pytest.approx(mean.pass_rate["gpu_hours"], abs=1e-12)


def test_who_is_ahead_at_equal_compute_has_the_probability_that_the_table_has(fits):
    found = an.compare(fits[:6])
    ahead = found.standings.ahead["gpu_hours"]
    p = next(row.rates[0].p_best for row in found.rows if row.recipe == ahead)
    assert found.standings.p_ahead == {"gpu_hours": p}
    assert f"ahead at equal gpu_hours: {ahead} (P " in repr(found) and "not tested" not in repr(found)
    assert f"{ahead} (P " in compared_html(found)
    assert an.compare([fits[0], fits[3]]).standings.p_ahead == {}


def test_a_pair_differs_by_what_its_rows_do(compared):
    high, fast = compared.rows
    pair = compared.pairs[0]
    assert pair.A.value == pytest.approx(high.params["A"].value - fast.params["A"].value, abs=1e-12)
    assert fast.difference.value == -pair.A.value
    assert pair.at[0].difference.value == pytest.approx(high.rates[0].rate.value - fast.rates[0].rate.value, abs=1e-12)


def test_rows_are_best_first_and_hold_the_truth(compared):
    assert [row.recipe for row in compared.rows] == ["high", "fast"]
    pair = compared.pairs[0]
    assert pair.tested and pair.A.lo < 0.12 < pair.A.hi and pair.A.lo > 0.0
    assert pair.p_higher > 0.99 and compared.rows[0].p_best == pytest.approx(pair.p_higher)
    truth = [{**TRUE, "A": 0.74}, {**TRUE, "A": 0.62, "C_mid": 1.0}]
    for at in pair.at:
        d = law(at.compute, **truth[0]) - law(at.compute, **truth[1])
        assert at.difference.lo < d < at.difference.hi
    crossing = brentq(lambda c: law(c, **truth[0]) - law(c, **truth[1]), 0.5, 10.0)
    assert pair.crossover.lo < crossing < pair.crossover.hi < math.inf
    ratios = {t.target: t.ratio for t in pair.to}
    true = an.compute_to(0.5, **truth[1]) / an.compute_to(0.5, **truth[0])
    assert ratios[0.5].lo < true < ratios[0.5].hi < 1.0
    assert math.isinf(ratios[0.68].value) and math.isinf(ratios[0.68].lo)  # the second never gets there
    assert pair.C_mid.lo < 2.0 < pair.C_mid.hi and pair.C_mid.lo > 1.0


def test_ranked_at_an_early_compute_the_fast_one_wins(fits):
    early = an.compare(fits[:6], by=1.0)
    assert [row.recipe for row in early.rows] == ["fast", "high"]
    assert early.rows[0].p_best > 0.99 and early.pairs[0].crossover.hi == math.inf
    assert early.rows[1].difference.hi < 0.0


def test_another_unit_of_compute_changes_no_figure(fits, compared):
    runs = []
    for f in fits[:6]:
        data = {**f.run.data, "gpu_hours": 3600.0 * f.run.data["gpu_hours"]}
        runs.append(replace(f.run, data=data))
    again = an.compare(runs, at=[3600.0 * 4.0, "2x"], target=[0.5, 0.68])
    one, two = compared.pairs[0], again.pairs[0]
    assert (two.A.lo, two.A.hi) == pytest.approx((one.A.lo, one.A.hi), abs=1e-3)
    assert two.to[0].ratio.hi == pytest.approx(one.to[0].ratio.hi, rel=0.02)
    assert two.crossover.value == pytest.approx(3600.0 * one.crossover.value, rel=0.01)


def test_the_reach_ends_at_the_tolerance_of_the_fits(fits):
    some = [*fits[:2], *fits[3:5]]
    strict = [replace(f, tolerance=0.008) for f in some]
    usual, found = an.compare(some), an.compare(strict)
    assert found.rows[0].reach < usual.rows[0].reach
    assert found.rows[0].reach == recipe_reach([f for f in strict if f.run.recipe == "high"], 0.008).value
    with pytest.raises(an.UserError, match=r"tolerances of 0.008, 0.02; fit all of them with one"):
        an.compare([*strict[:2], *some[2:]])


def test_one_seed_is_not_tested_unless_its_spread_is_stated(fits):
    found = an.compare(fits)
    assert [f.code for f in found.findings].count("not-tested") == 1
    row = next(row for row in found.rows if row.recipe == "single")
    assert row.p_best is None and "one seed" in row.note
    for pair in found.pairs:
        alone = "single" in {pair.first, pair.second}
        assert pair.tested is not alone
        known = (pair.A.lo, pair.p_higher, pair.crossover.lo, pair.to[0].ratio.lo, pair.at[0].p_better)
        assert all(v is None for v in known) if alone else None not in known
    stated = an.compare(fits, seed_sd=0.02)
    assert all(pair.tested for pair in stated.pairs) and "seed-sd-stated" in [f.code for f in stated.findings]
    wide = stated.pair("high", "fast").A
    assert wide.hi - wide.lo > 2.0 * 1.96 * 0.02 * math.sqrt(2.0 / 3.0)


def _on(run, prompts, task="chain"):
    column = np.full(len(run), prompts, dtype=object)
    return replace(run, data={**run.data, "prompt_set": column}, header={"config": {"task": task}})


def test_other_prompts_widen_or_stop_the_test(fits):
    runs = [f.run for f in fits[:6]]
    other = an.compare([*[_on(r, "one") for r in runs[:3]], *[_on(r, "two") for r in runs[3:]]])
    assert not other.tested and "prompt-sets-differ" in [f.code for f in other.findings]
    assert "prompts" in other.pairs[0].why
    rng = np.random.default_rng(0)
    hard = rng.beta(0.5, 0.5, 64)
    made = []
    for name, gain in (("a", 0.75), ("b", 0.7)):
        for s in range(2):
            share = law(np.linspace(0.01, 6.0, 30), 0.0, 1.0, 1.5, 1.0)[:, None]
            run = counted(0.05 + gain * share * hard, f"{name}/{s}", seed=s)
            made.append(replace(run, recipe=name, seed=s, sha256=f"{name}{s}"))
    same = an.compare([_on(r, "one") for r in made]).pairs[0].A
    apart = an.compare([_on(r, r.recipe) for r in made]).pairs[0].A
    between = math.sqrt(2.0) * (0.7 * hard.std() / 8.0)
    assert (apart.hi - apart.lo) / 2.0 > max(1.8 * between, 1.5 * (same.hi - same.lo) / 2.0)


def _counted_recipe(name, gain, prompts, *, seeds=2, first=0):
    hard = np.random.default_rng(0).beta(0.5, 0.5, 64)
    share = law(np.linspace(0.01, 6.0, 30), 0.0, 1.0, 1.5, 1.0)[:, None]
    runs = []
    for s in range(seeds):
        run = counted(0.05 + gain * share * hard, f"{name}/{s}", seed=first + s)
        runs.append(replace(run, recipe=name, seed=s, sha256=f"{name}{s}"))
    return an.fit([_on(r, prompts) for r in runs])


@pytest.fixture(scope="module")
def on_prompts():
    kinds = (("a", 0.80, "one"), ("b", 0.74, "one"), ("c", 0.77, "two"), ("d", 0.3, "one"))
    return {n: list(_counted_recipe(n, g, p, first=10 * i)) for i, (n, g, p) in enumerate(kinds)}


def test_a_third_recipe_on_other_prompts_leaves_a_pair_on_the_same_ones_alone(on_prompts):
    pair = an.compare([*on_prompts["a"], *on_prompts["b"]]).pair("a", "b")
    beside = an.compare([*on_prompts["a"], *on_prompts["b"], *on_prompts["c"]])
    again = beside.pair("a", "b")
    assert pair.at[0].p_better > 0.97
    assert (again.A.lo, again.A.hi) == pytest.approx((pair.A.lo, pair.A.hi), abs=0.01)  # its seeds speak of tau
    assert again.at[0].p_better == pytest.approx(pair.at[0].p_better, abs=0.05)
    assert 0.2 < beside.pair("a", "c").at[0].p_better < 0.9  # other prompts leave this open


def test_recipes_on_the_same_prompts_share_their_error_when_they_are_shrunk():
    rng = np.random.default_rng(0)
    values, own, shared = np.array([0.60, 0.62, 0.66]), 0.01**2, 0.05**2
    same = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    covariance = own * np.eye(3) + shared * same
    draws = rng.multivariate_normal(values, covariance, 40_000).T
    found = contrasts.shrunk(draws, values, covariance, rng)
    # written out: normal values around a common mean, by Gibbs' two conditionals on a grid of omega
    omega = np.concatenate([[0.0], np.geomspace(1e-4, 0.5, 60)])
    one, logs, means, spreads = np.ones(3), [], [], []
    for w in omega:
        total = np.linalg.inv(covariance + w**2 * np.eye(3))
        m = one @ total @ values / (one @ total @ one)
        gone = values - m
        logs.append(-0.5 * (gone @ total @ gone - np.linalg.slogdet(total)[1] + np.log(one @ total @ one)))
        gain = w**2 * total
        left = np.eye(3) - gain
        means.append(m * one + gain @ gone)
        spreads.append(gain @ covariance + left @ np.outer(one, one) @ left.T / (one @ total @ one))
    weight = np.exp(np.array(logs) - max(logs) - 0.5 * (omega / 0.1) ** 2) * np.gradient(omega)
    weight /= weight.sum()
    mean = weight @ np.array(means)
    spread = np.einsum("t,tij->ij", weight, np.array(spreads)) + np.einsum(
        "t,ti,tj->ij", weight, np.array(means) - mean, np.array(means) - mean
    )
    assert found.mean(axis=1) == pytest.approx(mean, abs=0.002)
    apart = np.array([1.0, -1.0, 0.0])
    assert (apart @ found).std() == pytest.approx(math.sqrt(apart @ spread @ apart), rel=0.03)


def test_nobody_has_a_p_best_where_a_recipe_that_is_not_tested_stands_highest(fits):
    top = an.fit(recipe("top", 0.9, seeds=1, first=30, C_mid=4.0))
    found = an.compare([*fits[:6], *top], at=[2.0, 10.0])
    assert found.rows[0].recipe == "top" and [row.p_best for row in found.rows] == [None] * 3
    early, late = (sorted((row.rates[i].p_best is None) for row in found.rows) for i in (0, 1))
    assert (early, late) == ([False, False, True], [True] * 3)  # at 2 hours it is not ahead yet
    said = [f.message for f in found.findings if "stands highest" in f.message]
    assert said == [
        "by the ceiling A and at 10 gpu_hours top, which is not tested, stands highest: no recipe has a P(best) there"
    ]
    assert found.pair("high", "fast").p_higher is not None


def test_a_recipe_that_is_not_tested_moves_no_probability_of_others(on_prompts):
    three = [*on_prompts["a"], *on_prompts["b"], *on_prompts["c"]]
    alone, beside = an.compare(three), an.compare([*three, on_prompts["d"][0]])
    assert beside.rows[-1].recipe == "d" and beside.rows[-1].p_best is None
    for a, b in zip(alone.rows, beside.rows, strict=False):
        assert b.p_best == pytest.approx(a.p_best, abs=0.05)
    # of two that are tested none is shrunk, whoever stands beside them
    two = an.fit(recipe("a", 0.72, seeds=2, k=3.0) + recipe("b", 0.70, seeds=2, first=10, k=3.0))
    more = an.fit([run for i in range(3) for run in recipe(f"c{i}", 0.71, seeds=1, first=20 + i, k=3.0)])
    p, beside = an.compare(two).pair("a", "b").p_higher, an.compare([*two, *more]).pair("a", "b").p_higher
    assert 0.9 < p < 0.99 and beside == pytest.approx(p, abs=0.03)  # shrunk with the others it was .896


def test_another_task_is_not_tested_and_another_axis_refused(fits):
    runs = [f.run for f in fits[:6]]
    found = an.compare([_on(r, "one", "chain" if i < 3 else "addition") for i, r in enumerate(runs)])
    assert not found.tested and "checkers-differ" in [f.code for f in found.findings]
    moved = replace(fits[0], x="tokens")
    with pytest.raises(an.UserError, match="different compute axes"):
        an.compare([moved, *fits[1:6]])


def test_what_cannot_be_compared_is_refused(fits):
    with pytest.raises(an.UserError, match="two or more"):
        an.compare(fits[:3])
    with pytest.raises(an.UserError, match="no run"):
        an.compare([])
    with pytest.raises(an.UserError, match="at: 'x'"):
        an.compare(fits[:6], at=["x"])
    with pytest.raises(an.UserError, match="target"):
        an.compare(fits[:6], target=1.5)
    with pytest.raises(an.UserError, match="seed_sd"):
        an.compare(fits[:6], seed_sd=-1.0)
    with pytest.raises(an.UserError, match="no run is called"):
        an.compare(fits[:6], recipes={"nobody": "mine"})


def test_fits_of_another_method_are_compared_by_the_posterior_and_say_so(fits):
    runs = [f.run for f in fits[:6]]
    told, usual = an.compare(an.fit(runs, method="lsq")), an.compare(fits[:6])
    assert told.pairs[0].A == usual.pairs[0].A
    assert told.findings[0].code == "refitted" and "refitted" not in [f.code for f in usual.findings]


def test_a_recipe_without_a_curve_is_named_and_left_out(fits):
    flat = replace(fits[6].run, data={**fits[6].run.data, "pass_rate": np.full(25, 0.3)})
    found = an.compare([*fits[:6], flat])
    assert found.rows[-1].recipe == "single" and found.rows[-1].params["A"].value is None
    assert found.rows[-1].note and len(found.pairs) == 1
    assert "single" in repr(found)


def test_recipes_can_be_named(fits):
    renamed = {f.name: "slow" for f in fits[:3]}
    found = an.compare(fits[:6], recipes=renamed)
    assert {row.recipe for row in found.rows} == {"slow", "fast"}
    assert {mean.recipe for mean in found.standings.recipes} == {"slow", "fast"}


def test_what_it_shows(compared):
    text = repr(compared)
    lines = text.splitlines()
    assert lines[1].strip().startswith("note") and "never" in text
    assert lines.index(next(line for line in lines if line.startswith("  high"))) > 1
    evil = replace(compared, rows=tuple(replace(r, recipe="<b>&") for r in compared.rows))
    page = compared_html(evil)
    assert "<b>&" not in page and "&lt;b&gt;&amp;" in page
    frame = compared.frame
    assert list(frame.index) == ["high", "fast"] and frame.loc["high", "A"] == compared.rows[0].params["A"].value
    assert frame["difference_lo"].isna().tolist() == [True, False]


def test_recipes_beside_one_are_the_pairs_turned_towards_it(compared):
    pair = compared.pair("high", "fast")
    assert pair.first == "high"
    towards, away = compared.beside("fast"), compared.beside("high")
    assert towards.index.tolist() == ["high"] and away.index.tolist() == ["fast"]
    assert towards.loc["high", ["A", "A_lo", "A_hi"]].tolist() == [pair.A.value, pair.A.lo, pair.A.hi]
    assert away.loc["fast", ["A", "A_lo", "A_hi"]].tolist() == [-pair.A.value, -pair.A.hi, -pair.A.lo]
    ratio = pair.to[0].ratio
    assert towards.loc["high", "speed"] == ratio.value
    assert away.loc["fast", "speed_lo"] == pytest.approx(1 / ratio.hi if ratio.hi else math.inf)
    with pytest.raises(KeyError, match="the recipes are high, fast"):
        compared.beside("slow")


def test_a_reach_without_earlier_forecasts_behind_it_is_marked():
    runs = recipe("high", 0.74, seeds=2) + recipe("low", 0.6, seeds=2, first=10)
    few = [
        replace(noisy(20 + i, k=8.0, n=7, sd=0.001, A=A), name=f"{name}{s}", recipe=name, seed=s)
        for i, (name, A, s) in enumerate([("high", 0.74, 0), ("high", 0.74, 1), ("low", 0.6, 0), ("low", 0.6, 1)])
    ]
    found = an.compare(few)
    marked = [row for row in found.rows if row.reach > 1.0 and row.reach_origins < 3]
    assert marked and "not calibrated" in repr(found) and "not calibrated" in compared_html(found)
    assert f"{marked[0].reach:.3g}x*" in repr(found)
    assert found.to_dict()["rows"][0]["reach_origins"] == found.rows[0].reach_origins
    strict = an.compare(runs, level=0.997)
    for row in strict.rows:
        assert row.reach <= next(r.reach for r in an.compare(runs).rows if r.recipe == row.recipe)


def test_json_has_no_nan_and_says_never(compared):
    told = compared.to_dict()
    assert next(iter(told.items())) == ("schema", "compare/1")
    again = json.loads(json.dumps(told, allow_nan=False))
    assert {"recipe", "seeds", "A", "B", "C_mid", "reach", "p_best", "note"} <= set(again["rows"][0])
    speed = next(s for s in again["pairs"][0]["speed_up"] if s["target"] == 0.68)
    assert speed["value"] == "never"
    assert next(c for c in again["rows"][1]["compute_to"] if c["target"] == 0.68)["value"] == "never"


# one ceiling


def test_b_at_one_ceiling_and_the_straight_line(fits):
    compared = an.compare(fits[:6], seed_sd=0.02)
    with pytest.raises(an.UserError, match="told from"):
        same_ceiling(compared)
    found = same_ceiling(compared, A=0.75)
    assert found.dropped == sum(line.dropped for line in found.lines) > 0
    for line, f in zip(sorted(found.lines, key=lambda v: v.run), sorted(fits[:6], key=lambda v: v.name), strict=True):
        rates = dict(zip(f.compute, f.pass_rate, strict=True))
        assert len(line.y) + line.dropped == f.n
        for c, y in zip(line.compute, line.y, strict=True):
            assert y == pytest.approx(math.log((0.75 - line.R0) / (rates[c] - line.R0) - 1.0))
        assert all(line.R0 < rates[c] < 0.75 for c in line.compute)
    assert found.B[found.recipes[0]].lo < found.B[found.recipes[0]].value < found.B[found.recipes[0]].hi
    assert "dropped" in repr(found) and json.dumps(found.to_dict(), allow_nan=False)


def test_b_at_the_true_ceiling_is_the_true_b():
    runs = recipe("a", 0.74, seeds=2) + recipe("b", 0.74, seeds=2, first=30, B=2.6)
    truth = [(1.8, 1.0), (1.8, 1.0), (2.6, 2.0), (2.6, 2.0)]
    runs = [replace(r, data={**r.data, "pass_rate": an.R(r.data["gpu_hours"], 0.12, 0.74, B, C_mid)})
            for r, (B, C_mid) in zip(runs, truth, strict=True)]  # fmt: skip
    noise = np.random.default_rng(0)
    noisier = [replace(r, data={**r.data, "pass_rate": r.data["pass_rate"] + noise.normal(0, 2e-3, 25)}) for r in runs]
    found = same_ceiling(an.compare(noisier), A=0.74)
    assert found.recipes == ("b", "a")
    assert found.B["b"].value == pytest.approx(2.6, rel=0.03) and found.B["a"].value == pytest.approx(1.8, rel=0.03)
    assert found.ratio["a"].value == pytest.approx(1.8 / 2.6, rel=0.04)
    # The steeper one is the slower one: B is not speed.
    assert [found.C_mid[r].value for r in "ab"] == pytest.approx([1.0, 2.0], rel=0.02)
    assert found.C_mid["a"].lo < 1.0 < found.C_mid["a"].hi and "C_mid" in repr(found)


# figures


def _artists(ax):
    return {line.get_gid(): line for line in ax.lines}


def test_forest_draws_the_differences(fits):
    found = an.compare(fits)
    ax = plot_forest(found)
    drawn = _artists(ax)
    for i, row in enumerate(found.rows):
        assert drawn[f"difference-{i}"].get_xdata()[0] == row.difference.value
        if row.difference.lo is None:
            assert f"limits-{i}" not in drawn
        else:
            assert list(drawn[f"limits-{i}"].get_xdata()) == [row.difference.lo, row.difference.hi]
    assert [t.get_text().split(" (")[0] for t in ax.get_yticklabels()] == [row.recipe for row in found.rows]
    doubted = replace(found, rows=tuple(replace(row, note="prompts-spent") for row in found.rows))
    beside = [text.get_text() for text in plot_forest(doubted).texts]
    assert len(beside) == len(found.rows) and all(text.endswith("\nprompts-spent") for text in beside)


def test_straight_lines_have_slope_b(fits):
    found = same_ceiling(an.compare(fits[:6], seed_sd=0.02), A=0.75)
    ax = plot_straight(found)
    drawn = _artists(ax)
    for i, line in enumerate(found.lines):
        x, y = drawn[f"line-{i}"].get_data()
        assert (y[1] - y[0]) / np.log(x[1] / x[0]) == pytest.approx(line.B)
        px, py = drawn[f"points-{i}"].get_data()
        f = next(f for f in fits if f.name == line.run)
        rate = dict(zip(f.compute, f.pass_rate, strict=True))
        for c, v in zip(px, py, strict=True):
            assert v == pytest.approx(math.log((rate[c] - line.R0) / (line.A - rate[c])))
        # It crosses 0 at C_mid, where half of the gain is made.
        slope = (y[1] - y[0]) / np.log(x[1] / x[0])
        assert x[0] * math.exp(-y[0] / slope) == pytest.approx(line.C_mid)
    figure = plot_leave_one_out(found, "high")
    assert len(figure.axes) == 1 and figure.axes[0].get_title().startswith("fast: B ")
    assert len(_artists(figure.axes[0])) == 12
    with pytest.raises(an.UserError, match="none of"):
        plot_leave_one_out(found, "nobody")


# command line


def test_command(tmp_path, capsys):
    assert main(["compare", "data/runs", "--seed-sd", ".02", "--at", "2x", "--target", ".6", "--json", "--nested"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert next(iter(told)) == "schema" and told["tested"] and len(told["nested"]) == 8
    figure = tmp_path / "forest.png"
    assert main(["compare", "data/runs", "-o", str(figure)]) == 0
    assert "not tested" in capsys.readouterr().out and figure.stat().st_size > 1000
    assert main(["compare", "data/runs", "-o", str(figure)]) == 2
    assert "exists already" in capsys.readouterr().err
    line = tmp_path / "line.png"
    assert main(["compare", "data/runs", "-o", str(line), "--figure", "line", "--ceiling", ".75"]) == 0
    assert "B and C_mid with A held at 0.750" in capsys.readouterr().out
    assert main(["compare", "data/runs/scalerl"]) == 2
    assert main(["compare", "data/runs", "--at", "-1"]) == 2
    assert main(["compare", "data/runs", "--nested", "--r0", "0.1"]) == 2
    assert main(["compare", "data/runs", "--recipe", "mine=nobody*"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 4


# the benchmark's short form


def test_a_simulated_pair_is_the_same_whatever_else_is_drawn():
    from benchmarks.compare import of_pair
    from benchmarks.compare_pairs import recipes, seed_run

    params = recipes(5.0, 3)
    assert params["gap"][1] == pytest.approx(params["first"][1] + 0.05)
    assert params["equal"][0] == params["first"][0]
    one = [seed_run(5.0, 3, "equal", 2, params=params["equal"]) for _ in range(2)]
    assert np.array_equal(one[0][1], one[1][1]) and one[0][2] != params["equal"][1]
    rng = np.random.default_rng(0)
    sharp = [
        np.stack([np.stack([p[0], p[1], np.log(p[2]), np.log(p[3])]) + rng.normal(0, 1e-3, (200, 4)) for _ in range(5)])
        for p in (params["first"], params["apart"])
    ]
    hits = of_pair(5.0, sharp, [params["first"], params["apart"]], 3)
    assert all(hit.held for hit in hits) and len(hits) > 10


def test_a_recipe_without_draws_is_left_out_with_its_own_reason():
    C = np.arange(1.0, 21.0)
    exact = as_run(C, an.R(C, 0.1, 0.7, 1.5, 3.0), "exact")
    with pytest.raises(an.UserError, match="exact: the points lie on the curve"):
        an.compare([exact, noisy(0)])


def test_copies_of_a_run_are_no_seeds_of_their_own(fits):
    high, fast = [f.run for f in fits[:3]], [f.run for f in fits[3:6]]
    again = replace(high[0], name="high/seed9", seed=9, sha256="saved anew")
    told, usual = an.compare([*high, again, *fast]), an.compare(fits[:6])
    assert told.rows[0].runs == usual.rows[0].runs and told.pairs[0].A == usual.pairs[0].A
    said = next(f for f in told.findings if f.code == "seed-repeated")
    assert "high/seed9 holds the evaluations of high/seed0" in said.message and "left out" in told.rows[0].note
    assert next(m for m in told.standings.recipes if m.recipe == "high").n["gpu_hours"] == 3
    two = [replace(run, name=f"high/{i}", seed=i) for i, run in enumerate([high[0]] * 2)]
    alone = an.compare([*two, *fast])
    assert not alone.tested and "one seed" in next(r.note for r in alone.rows if r.recipe == "high")
    with pytest.raises(an.UserError, match="more than one run is called high/seed0"):
        an.compare([fits[0], fits[0], *fits[3:6]])
    across = an.compare([*high, replace(high[0], name="new/seed0", recipe="new"), *fast])
    assert "new/seed0 of new holds the evaluations of high/seed0 of high" in {f.message for f in across.findings}


def test_a_seeds_number_twice_is_said(fits):
    runs = [f.run for f in fits[:6]]
    told = an.compare([runs[0], replace(runs[1], seed=0), *runs[2:]])
    assert "high: seed 0 stands there more than once" in repr(told)
    assert "seed-repeated" in next(r.note for r in told.rows if r.recipe == "high")


def test_a_seed_that_has_just_begun_is_left_out_and_not_its_recipe(fits):
    runs = [f.run for f in fits[:6]]
    begun = replace(runs[2], data={name: column[:3] for name, column in runs[2].data.items()})
    told, without = an.compare([*runs[:2], begun, *runs[3:]]), an.compare([*runs[:2], *runs[3:]])
    row = next(r for r in told.rows if r.recipe == "high")
    assert row.runs == ("high/seed0", "high/seed1") and "high/seed2 left out" in row.note
    assert told.pairs[0].A == without.pairs[0].A and row.params == without.rows[0].params
    assert any(f.code == "no-fit" and f.message.startswith("high/seed2: ") for f in told.findings)
    exact = replace(runs[2], data={**runs[2].data, "pass_rate": an.R(runs[2].data["gpu_hours"], 0.12, 0.74, 1.8, 2.0)})
    told = an.compare([*runs[:2], exact, *runs[3:]])
    assert told.pairs[0].A == without.pairs[0].A and "high/seed2 left out" in told.rows[0].note


def test_nothing_is_read_before_a_recipe_began(fits):
    late = []
    for f in fits[3:6]:
        use = f.run.data["gpu_hours"] >= 4.0
        late.append(replace(f.run, data={name: column[use] for name, column in f.run.data.items()}))
    told = an.compare([*fits[:3], *late], at=[2.0, 5.0])
    pair, fast = told.pairs[0], next(r for r in told.rows if r.recipe == "fast")
    assert pair.at[0].p_better is None and pair.at[0].difference.value is None and pair.at[1].p_better is not None
    assert fast.rates[0].rate.value is None and fast.rates[1].p_best is not None
    high = next(r for r in told.rows if r.recipe == "high")
    assert high.rates[0].rate.value is not None and high.rates[0].p_best is None
    assert any(f.code == "not-covered" and "fast (from 4" in f.message for f in told.findings)
    assert an.compare([*fits[:3], *late], by=2.0).rows[0].recipe == "high" and "unknown" in repr(told)
    with pytest.raises(an.UserError, match="before the first evaluation of every recipe"):
        an.compare(
            [
                *(
                    replace(
                        r,
                        recipe="other",
                        name=f"other{i}",
                        seed=i,
                        data={**r.data, "pass_rate": r.data["pass_rate"] * 0.9},
                    )
                    for i, r in enumerate(late)
                ),
                *late,
            ],
            by=2.0,
        )


def test_a_difference_of_pass_rates_ends_at_one(fits):
    told = an.compare(fits[:6], seed_sd=0.9)
    for one in (told.pairs[0].A, told.pairs[0].at[0].difference, told.rows[1].difference):
        assert (one.lo, one.hi) == (-1.0, 1.0)


@pytest.mark.parametrize("level", [0.9999999999, 0.999, None, "0.9", 1.0])
def test_a_level_beyond_the_draws_is_refused(fits, level):
    for verb in (an.compare, an.plan, an.forecast):
        with pytest.raises(an.UserError, match="level"):
            verb(fits[:4], level=level)


def test_a_run_without_a_speed_is_left_out_of_one_ceiling(fits):
    def collapsed(run):
        rate = np.array(run.data["pass_rate"])
        rate[12:] -= np.linspace(0.0, 0.25, len(rate) - 12)
        return replace(run, recipe="coll", name=f"coll/{run.seed}", data={**run.data, "pass_rate": rate})

    runs = [f.run for f in fits[:6]]
    coll = [collapsed(r) for r in runs[:2]]
    told = an.compare([*runs, *coll], seed_sd=0.02)
    found = same_ceiling(told, A=0.75)
    assert set(found.recipes) == {"high", "fast"}
    assert any("coll/0, coll/1: the run decays" in f.message for f in found.findings), found.findings
    with pytest.raises(an.UserError, match=r"shares the ceiling of high \(fast: told from it; coll/0, coll/1: the"):
        same_ceiling(told)
    steep = [
        replace(
            r,
            recipe="step",
            name=f"step/{r.seed}",
            data={
                **r.data,
                "pass_rate": np.where(np.arange(25) < 8, 0.1, 0.75)
                + (r.data["pass_rate"] - r.data["pass_rate"].mean()) * 0.01,
            },
        )
        for r in runs[:2]
    ]
    found = same_ceiling(an.compare([*runs, *steep], seed_sd=0.02), A=0.745)
    assert "step" not in found.recipes and any("edge of its range" in f.message for f in found.findings)


def test_one_ceiling_says_what_it_takes_as_one_without_a_test(fits):
    alone = [replace(fits[0].run, recipe="a", name="a"), replace(fits[1].run, recipe="b", name="b")]
    found = same_ceiling(an.compare(alone))
    assert any("not tested: that" in f.message and "within 0.02" in f.message for f in found.findings)
    with pytest.raises(an.UserError, match=r"fast/seed0: more than 0.02 away, not tested"):
        same_ceiling(an.compare([alone[0], replace(fits[3].run, recipe="fast/seed0")]))
