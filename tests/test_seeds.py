"""Seeds of a recipe: what they say together, an R0 that runs share, shapes that lean on each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

import analysis as an
from analysis.curves.curve import R
from analysis.fits import methods
from analysis.fits.estimating import SPOILT
from analysis.fits.refits import posterior_fit
from analysis.posteriors.draws import Draws
from analysis.posteriors.gibbs import gibbs
from analysis.posteriors.noise import prompt_variance
from analysis.posteriors.priors import Priors
from benchmarks import seeds as benchmark
from scalerl.runlog import UserError
from tests.made import solving


def run_of(name, compute, pass_rate, *, recipe="mine", seed=None, header=None, **columns):
    data = {"gpu_hours": np.asarray(compute), "pass_rate": np.asarray(pass_rate)}
    for key, values in columns.items():
        data[key] = np.empty(len(compute), dtype=object)
        data[key][:] = values
    return an.Run(name, recipe, seed, data, ("gpu_hours",), (), Path("none"), "", header=header or {})


def fit_of(name, A, sd=0.004, *, grade=0.99, draws=4000, ceiling=1.0, C_mid=2.0, **about):
    """A fit whose posterior is normal around A, ln B = .4 and ln C_mid, with no curve behind it."""
    z = stats.norm.ppf((np.arange(draws) + 0.5) / draws)
    rng, flat = np.random.default_rng(0), np.zeros(draws)
    drawn = Draws(
        R0=flat + 0.1,
        A=A + sd * rng.permutation(z),
        B=np.exp(0.4 + 0.1 * rng.permutation(z)),
        C_mid=C_mid * np.exp(0.05 * rng.permutation(z)),
        rho=flat,
        sigma=flat + 0.01,
        weight=flat + 1.0 / draws,
    )
    params = {}
    for key in ("A", "B", "C_mid", "R0"):
        lo, mid, hi = drawn.quantile(getattr(drawn, key), [0.025, 0.5, 0.975])
        params[key] = an.Param(float(mid), float(lo), float(hi), identified=True)
    compute = np.linspace(0.0, 10.0, 6)
    own = 1e-6 * np.random.default_rng(list(name.encode())).uniform(size=6)  # no two runs have the same evaluations
    run = run_of(name, compute, R(compute, 0.1, A, np.exp(0.4), C_mid) + own, **about)
    return an.Fit(
        run=run, x="gpu_hours", method="posterior", level=0.95, params=MappingProxyType(params), compute=compute,
        pass_rate=run.data["pass_rate"], left_out=np.empty((0, 2)), window=(None, None), findings=(), draws=drawn,
        grade=grade, report=MappingProxyType({"priors": Priors(ceiling=ceiling).to_dict()}),
    )  # fmt: skip


def codes(result):
    return [f.code for f in result.findings]


# ---- pool_seeds


def test_several_seeds_give_the_t_interval_of_their_values():
    values = np.array([0.68, 0.70, 0.73])
    (recipe,) = an.pool_seeds([fit_of(f"s{i}", A) for i, A in enumerate(values)])
    lo, hi = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    A = recipe.params["A"]
    assert (recipe.name, recipe.runs) == ("mine", ("s0", "s1", "s2"))
    assert (A.value, A.lo, A.hi) == pytest.approx((values.mean(), lo, hi), abs=1e-6) and A.identified
    assert recipe.between["A"] == pytest.approx(values.std(ddof=1), abs=1e-6)
    assert recipe.within["A"] == pytest.approx(0.004, rel=1e-3)
    assert recipe.findings == () and "standard deviation 0.025" in repr(recipe)


def test_B_and_C_mid_are_pooled_as_logarithms():
    (recipe,) = an.pool_seeds([fit_of(f"s{i}", 0.7, C_mid=c) for i, c in enumerate((1.0, 2.0, 4.0))])
    lo, hi = np.exp(stats.t.interval(0.95, 2, np.log(2.0), np.log(2.0) / np.sqrt(3.0)))
    p = recipe.params["C_mid"]
    assert (p.value, p.lo, p.hi) == pytest.approx((2.0, lo, hi), rel=1e-5)


def test_a_stated_seed_sd_replaces_the_spread_that_was_seen():
    fits = [fit_of(f"s{i}", A, sd=0.006) for i, A in enumerate((0.70, 0.70, 0.70))]
    (recipe,) = an.pool_seeds(fits, seed_sd=0.02)
    half = stats.norm.ppf(0.975) * np.sqrt((0.02**2 + 0.006**2) / 3)
    assert (recipe.params["A"].lo, recipe.params["A"].hi) == pytest.approx((0.7 - half, 0.7 + half), abs=2e-5)
    (alike,) = an.pool_seeds(fits)  # values that agree by chance: never +- 0
    assert alike.params["A"].hi - 0.7 == pytest.approx(stats.norm.ppf(0.975) * 0.006 / np.sqrt(3), rel=0.01)
    bare = [replace(f, draws=None, params={n: replace(p, lo=None, hi=None) for n, p in f.params.items()}) for f in fits]
    (unknown,) = an.pool_seeds(bare)
    assert unknown.params["A"].lo is None and unknown.params["A"].why == "no interval"


def test_one_seed_says_so_or_is_widened_by_what_is_stated():
    fit = fit_of("s0", 0.7, sd=0.01)
    (plain,), (wide,) = an.pool_seeds([fit]), an.pool_seeds([fit], seed_sd=0.02)
    assert codes(plain) == codes(wide) == ["one-seed"] and plain.between["A"] is None
    assert (plain.params["A"].lo, plain.params["A"].hi) == (fit.params["A"].lo, fit.params["A"].hi)
    half = stats.norm.ppf(0.975) * np.hypot(0.01, 0.02)
    assert wide.params["A"].hi - 0.7 == pytest.approx(half, rel=1e-3)


def test_limits_end_at_the_ceiling_and_an_early_seed_spoils_the_recipe():
    (recipe,) = an.pool_seeds([fit_of("s0", 0.6), fit_of("s1", 0.7)])
    assert (recipe.params["A"].lo, recipe.params["A"].hi) == (pytest.approx(0.0147, abs=1e-3), 1.0)
    assert not recipe.params["A"].identified and recipe.params["A"].why == "no upper limit below 1"
    (low,) = an.pool_seeds([fit_of("s0", 0.6, ceiling=0.8), fit_of("s1", 0.7, ceiling=0.8)])
    assert low.params["A"].hi == 0.8
    (early,) = an.pool_seeds([fit_of("s0", 0.69), fit_of("s1", 0.7, grade=0.5), fit_of("s2", 0.71)])
    assert codes(early) == ["grade"] and "s1 0.50" in early.findings[0].message
    assert not any(p.identified for p in early.params.values())


@pytest.mark.parametrize("code", ["decay", "falling-curve", "peak-fit"])
def test_a_seed_that_decays_or_falls_spoils_the_recipe_and_is_named(code):
    said = an.findings.finding(code, "what is wrong", 3.0)
    bad = replace(fit_of("s2", 0.71), findings=(said,))
    for fits in ([fit_of("s0", 0.69), fit_of("s1", 0.7), bad], [bad]):
        (recipe,) = an.pool_seeds(fits)
        assert recipe.findings[0] == replace(said, message="s2: what is wrong") and "s2" in recipe.runs
        why = f"s2: {SPOILT[code]}"
        assert [(p.identified, p.why) for p in recipe.params.values()] == [(False, why)] * 3


@pytest.mark.parametrize("code", ["flat-curve", "posterior-grid", "pooled-thin"])
def test_a_seed_without_a_value_to_pool_is_left_out_and_said_to_be(code):
    good, said = [fit_of("s0", 0.69), fit_of("s1", 0.7)], an.findings.finding(code, "no good")
    bad = replace(fit_of("s2", 0.3), findings=(said,))
    (recipe,), (without,) = an.pool_seeds([*good, bad]), an.pool_seeds(good)
    assert recipe.runs == ("s0", "s1") and codes(recipe) == [code]
    assert recipe.findings[0].message == "s2: no good; the run is left out"
    for name, p in recipe.params.items():
        assert not p.identified and p.why.startswith("s2: ")
        assert (p.value, p.lo, p.hi) == tuple(getattr(without.params[name], k) for k in ("value", "lo", "hi"))
    with pytest.raises(UserError, match=r"mine: no seed has a value to pool \(s2: no good"):
        an.pool_seeds([bad])


def test_real_runs_that_decay_or_stay_flat_are_doubted_in_the_recipe():
    compute, rng = np.linspace(0.0, 6.0, 40), np.random.default_rng(0)
    y = [R(compute, 0.1, 0.7, 1.5, 1.0) + rng.normal(0.0, 0.01, 40) for _ in range(3)]
    y[2][25:] -= np.linspace(0.0, 0.4, 15)
    level, noise = np.full(40, 0.3), 0.3 + rng.normal(0.0, 0.01, 40)
    fits = an.fit([run_of(name, compute, p) for name, p in zip("abcde", [*y, level, noise], strict=True)])
    (recipe,) = an.pool_seeds(fits)
    assert recipe.runs == ("a", "b", "c") and {"decay", "flat-curve"} <= set(codes(recipe))
    assert not any(p.identified for p in recipe.params.values()) and recipe.params["A"].why == "c: the run decays"
    assert all(p.value == p.value for p in recipe.params.values())


def test_one_seed_identifies_no_more_than_its_fit():
    compute = np.linspace(0.0, 6.0, 40)
    noise = np.random.default_rng(0).normal(0.0, 0.01, 40)
    fits = an.fit([run_of("s0", compute, R(compute, 0.1, 0.7, 1.5, 1.0) + noise)], method="lsq")
    A = an.pool_seeds(fits)[0].params["A"]
    assert not A.identified and A.why == fits[0].params["A"].why == "limits of lsq are too narrow to tell"


def test_standard_errors_beyond_the_value_are_pooled_by_the_delta_method():
    compute, rng = np.linspace(0.0, 1.2, 12), np.random.default_rng(0)
    runs = [run_of(f"s{i}", compute, R(compute, 0.1, 0.7, 1.5, 1.0) + rng.normal(0, 0.03, 12)) for i in range(3)]
    fits = an.fit(runs, method="lsq")
    given = [f.params["C_mid"] for f in fits]
    assert [p.lo < 0.0 for p in given] == [False, True, False]
    (recipe,) = an.pool_seeds(fits)
    z = stats.norm.ppf(0.975)
    own = [p.se / p.value if p.lo < 0.0 else np.log(p.hi / p.lo) / (2.0 * z) for p in given]
    assert recipe.within["C_mid"] == pytest.approx(np.sqrt(np.mean(np.square(own))))
    p = recipe.params["C_mid"]
    assert 0.0 < p.lo < p.value < p.hi and not p.identified
    one = an.pool_seeds(fits[1:2])[0].params["C_mid"]
    assert (one.lo, one.hi) == (0.0, pytest.approx(given[1].hi))
    far = an.Param(1e-300, -1e300, 1e300, identified=False, se=1e300)
    wild = [replace(f, params={**f.params, "C_mid": far}) for f in fits]
    assert an.pool_seeds(wild)[0].params["C_mid"].lo is None


def test_the_recipe_is_judged_again_where_other_prompts_could_lift_it_to_the_ceiling():
    correct = [[0, 4, 4, 0, 2, 4, 0, 4]] * 6
    (recipe,) = an.pool_seeds([fit_of(f"s{i}", A, correct=correct, k=[4] * 6) for i, A in enumerate((0.74, 0.75))])
    assert recipe.params["A"].hi < 0.9 and recipe.params["A"].identified
    wide = recipe.A_population
    assert wide.hi == 1.0 and not wide.identified and wide.why == "no upper limit below 1"


def test_recipes_stay_apart_and_copies_of_a_seed_are_named():
    fits = [fit_of(f"{r}{i}", A, recipe=r, seed=i) for r, A in (("old", 0.6), ("new", 0.7)) for i in range(2)]
    recipes = an.pool_seeds(fits)
    assert recipes.names == ("old", "new") and recipes["new"].runs == ("new0", "new1")
    twice = an.pool_seeds([*fits, fit_of("again", 0.6, recipe="old", seed=1)])["old"]
    assert codes(twice) == ["seed-repeated"] and "again" in twice.runs
    copy = replace(fits[0], run=replace(fits[0].run, name="copy", seed=2))
    copied = an.pool_seeds([*fits, copy])["old"]
    assert (codes(copied), copied.runs, copied.left_out) == (["seed-repeated"], ("old0", "old1"), ("copy",))
    assert copied.params == recipes["old"].params
    assert an.pool_seeds(fits, recipe="both").names == ("both",)


def test_the_choice_of_prompts_does_not_average_out():
    correct = [[0, 4, 4, 0, 2, 4, 0, 4]] * 6
    fits = [fit_of(f"s{i}", A, correct=correct, k=[4] * 6) for i, A in enumerate((0.69, 0.70, 0.71))]
    (recipe,) = an.pool_seeds(fits)
    assert codes(recipe) == ["prompts-fixed"]
    sd = recipe.findings[0].figure
    assert sd == pytest.approx(np.sqrt(prompt_variance(np.array(correct[0]), 4)))
    A, wide = recipe.params["A"], recipe.A_population
    assert wide.hi == pytest.approx(min(A.value + np.hypot(A.hi - A.value, 1.959964 * sd), 1.0))
    assert wide.hi - wide.lo > A.hi - A.lo


def test_limits_that_hold_for_other_prompts_are_pooled_so():
    """One seed says what its fit says; of several the choice of prompts, which they share, is added once."""
    runs = [solving(18, name, seed=i) for i, name in enumerate("ab")]
    fixed, sample = (an.fit(runs, prompts=prompts) for prompts in ("fixed", "sample"))
    assert [f.prompts for f in (*fixed, *sample)] == ["fixed"] * 2 + ["sample"] * 2
    narrow, wide = (an.pool_seeds(f[:1], recipe="mine")["mine"] for f in (fixed, sample))
    of_fit = sample[0].params["A"]
    assert (wide.params["A"].lo, wide.params["A"].hi) == pytest.approx((of_fit.lo, of_fit.hi))
    assert wide.params["A"].lo < narrow.params["A"].lo - 0.01 and "prompts-fixed" not in codes(wide)
    both, one = an.pool_seeds(sample, recipe="mine")["mine"], an.pool_seeds(fixed, recipe="mine")["mine"]
    assert both.params["A"] == one.A_population and both.params["B"] == one.params["B"]
    compared = an.compare([*sample, *an.fit([solving(12, "c")], prompts="sample")], recipes={"a": "m", "b": "m"})
    assert next(row for row in compared.rows if row.recipe == "m").params["A"] == one.A_population
    for mixed in ("pool_seeds", "compare"):
        with pytest.raises(UserError, match="prompts='fixed' and with prompts='sample'"):
            getattr(an, mixed)([sample[0], replace(fixed[1], run=replace(fixed[1].run, recipe=sample[0].run.recipe))])
    assert posterior_fit(sample[0], Priors(log_B=(0.0, 0.5))).prompts == "sample"


def test_what_cannot_be_pooled_is_one_line():
    fit = fit_of("s0", 0.7)
    with pytest.raises(UserError, match="one compute axis; given gpu_hours, step"):
        an.pool_seeds([fit, replace(fit, x="step")])
    with pytest.raises(UserError, match="given no fit"):
        an.pool_seeds([])
    with pytest.raises(UserError, match="seed_sd: 2 is not"):
        an.pool_seeds([fit], seed_sd=2.0)
    bare = {name: replace(p, lo=None, hi=None) for name, p in fit.params.items()}
    with pytest.raises(UserError, match="none for A in s1"):
        an.pool_seeds([fit, replace(fit_of("s1", 0.7), draws=None, params=bare)], seed_sd=0.02)


# ---- share_R0

COMPUTE = np.linspace(0.0, 6.0, 16)
HEADER = {"checkpoint": {"name": "base", "sha256": "abc"}}


def from_checkpoint(name, seed, *, R0=0.12, C_mid=1.5, first=None, header=HEADER, compute=COMPUTE):
    noise = np.random.default_rng(seed).normal(0.0, 0.01, len(compute))
    y = R(compute, R0, 0.7, 1.6, C_mid) + noise
    if first is not None:
        y[0] = first
    return run_of(name, compute, y, header=header, prompt_set=["p"] * len(compute))


def of_R0(fit, priors=None):
    """Mean and precision of R0 without its prior."""
    d = fit.draws
    mean = float(d.weight @ d.R0)
    variance = float(d.weight @ (d.R0 - mean) ** 2)
    center, sd = priors or (float(fit.pass_rate[0]), 0.2)
    precision = 1.0 / variance - sd**-2
    return (mean / variance - center / sd**2) / precision, precision


def test_R0_is_informed_by_the_other_runs_of_the_checkpoint_and_by_no_others():
    runs = [from_checkpoint("a", 0), from_checkpoint("b", 1, C_mid=3.0), from_checkpoint("c", 2)]
    stranger = from_checkpoint("d", 3, header={"checkpoint": {"sha256": "other"}})
    alone, shared = an.fit([*runs, stranger]), an.share_R0([*runs, stranger])
    others = [of_R0(alone["b"]), of_R0(alone["c"])]
    precision = sum(p for _, p in others)
    mean = sum(m * p for m, p in others) / precision
    assert shared["a"].report["priors"]["R0"] == pytest.approx([mean, precision**-0.5], rel=1e-9)
    assert shared["d"].params["R0"] == alone["d"].params["R0"] and "no other run" in shared["d"].findings[-1].message
    for name in "abc":
        own, new = alone[name].params["R0"], shared[name].params["R0"]
        assert new.hi - new.lo < 0.85 * (own.hi - own.lo) and codes(shared[name])[-1] == "r0-shared"


def test_a_first_evaluation_that_is_one_measurement_counts_once():
    runs = [from_checkpoint(name, seed, first=0.131) for name, seed in (("a", 0), ("b", 1))]
    shared = an.share_R0(runs)
    later = an.fit(from_checkpoint("b", 1, first=0.131, compute=COMPUTE), window=(1e-9, None))
    mean, precision = of_R0(later)
    assert shared["a"].report["priors"]["R0"] == pytest.approx([mean, precision**-0.5], rel=1e-9)
    assert "counts once" in shared["a"].findings[-1].message
    assert shared["a"].n == len(COMPUTE)  # the run keeps its own


def test_two_senders_do_not_both_bring_one_measurement():
    runs = [from_checkpoint("a", 0, first=0.12), *(from_checkpoint(n, s, first=0.131) for n, s in (("b", 1), ("c", 2)))]
    alone, shared = an.fit(runs), an.share_R0(runs)
    messages = [of_R0(alone["b"]), of_R0(an.fit(runs[2], window=(1e-9, None)))]
    assert shared["a"].report["priors"]["R0"][1] == pytest.approx(sum(p for _, p in messages) ** -0.5, rel=1e-9)


def test_runs_that_disagree_on_R0_are_said_to():
    shared = an.share_R0([from_checkpoint("a", 0), from_checkpoint("b", 1, R0=0.2)])
    assert "r0-disagrees" in codes(shared["a"])


def test_a_log_must_say_its_checkpoint_or_someone_must():
    tables = [from_checkpoint("a", 0, header={}), from_checkpoint("b", 1, header={})]
    with pytest.raises(UserError, match="a: the log does not say its starting checkpoint; if all runs share them"):
        an.share_R0(tables)
    assert codes(an.share_R0(tables, same_start=True)["a"])[-1] == "r0-shared"
    with pytest.raises(UserError, match="r0: 'first' leaves no R0 to share"):
        an.share_R0(tables, same_start=True, r0="first")
    with pytest.raises(UserError, match="method: 'lsq'"):
        an.share_R0(tables, same_start=True, method="lsq")


# ---- pool_shapes


def test_the_weights_are_those_of_the_hierarchical_model():
    rng, M = np.random.default_rng(0), 4000
    centers, sds, scale = np.array([0.0, 0.6]), np.array([0.5, 0.1]), 0.2
    wide = Priors(log_B=(0.0, 50.0))  # so that only ln C_mid is informed

    def normal(center, sd):
        one = np.ones(M)
        z = rng.permutation(stats.norm.ppf((np.arange(M) + 0.5) / M))
        B = np.exp(0.3 * rng.permutation(stats.norm.ppf((np.arange(M) + 0.5) / M)))
        return Draws(one, one, B, np.exp(center + sd * z), one, one, one / M)

    seeds = [normal(c, s) for c, s in zip(centers, sds, strict=True)]
    found = gibbs(seeds, wide, scale, np.random.default_rng(1))
    t = np.linspace(1e-4, 1.5, 4000)
    total = sds[0] ** 2 + sds[1] ** 2 + 2.0 * t**2
    weight = stats.norm.pdf(0.6, 0.0, np.sqrt(total)) * stats.norm.pdf(t, 0.0, scale)
    weight /= weight.sum()
    expected = weight @ (0.6 * sds[0] ** 2 / total)
    means = [w.mean(axis=0) @ np.log(d.C_mid) for w, d in zip(found.weights, seeds, strict=True)]
    assert means[0] == pytest.approx(expected, abs=0.02)
    assert means[1] == pytest.approx(weight @ (0.6 - 0.6 * sds[1] ** 2 / total), abs=0.01)
    assert found.spreads[1] == pytest.approx(weight @ t, abs=0.02)
    assert all(w.sum(axis=1) == pytest.approx(1.0) for w in found.weights)


def test_the_prior_of_ln_B_counts_once():
    rng, M, scale = np.random.default_rng(2), 4000, 0.2
    centers, sds, prior = np.array([0.9, 0.7]), np.array([0.2, 0.15]), (0.0, 0.3)
    z, one = stats.norm.ppf((np.arange(M) + 0.5) / M), np.ones(M)
    seeds = [
        Draws(one, one, np.exp(c + s * rng.permutation(z)), np.exp(0.1 * rng.permutation(z)), one, one, one / M)
        for c, s in zip(centers, sds, strict=True)
    ]
    found = gibbs(seeds, Priors(log_B=prior), scale, np.random.default_rng(3))
    x, m, t = np.linspace(-0.6, 2.0, 300), np.linspace(-0.8, 2.0, 150), np.linspace(0.012, 1.0, 120)
    near = stats.norm.pdf(x, m[:, None, None], t[:, None])  # (m, t, x)
    own = stats.norm.pdf(x, centers[:, None], sds[:, None]) / stats.norm.pdf(x, *prior)
    total = near @ own.T  # (m, t, seeds)
    weight = stats.norm.pdf(m, *prior)[:, None] * stats.norm.pdf(t, 0.0, scale)
    joint = weight * total[..., 0] * total[..., 1]
    for i in range(2):
        expected = (weight * (near @ (x * own[i])) * total[..., 1 - i]).sum() / joint.sum()
        assert found.weights[i].mean(axis=0) @ np.log(seeds[i].B) == pytest.approx(expected, abs=0.02)
    assert found.centers[0] == pytest.approx((joint.sum(axis=1) @ m) / joint.sum(), abs=0.03)


def seed_of(name, seed, last, **about):
    compute = np.linspace(0.0, last, 30)
    noise = np.random.default_rng(seed).normal(0.0, 0.01, 30)
    return run_of(name, compute, R(compute, 0.1, 0.6, 1.5, 1.0) + noise, **about)


@pytest.fixture(scope="module")
def alone():
    return an.fit([seed_of("early", 0, 0.8), seed_of("long", 1, 5.0), seed_of("longer", 2, 6.0)])


def test_an_early_seed_leans_on_the_shape_of_the_others(alone):
    pooled = an.pool_shapes(alone)
    own, new = alone["early"], pooled["early"]
    assert new.params["A"].hi - new.params["A"].lo < 0.7 * (own.params["A"].hi - own.params["A"].lo)
    assert new.params["A"].lo < 0.6 < new.params["A"].hi
    assert codes(new)[-1] == "pooled" and new.findings[-1].severity == "note"
    assert not new.params["A"].identified and "grade" in codes(new)  # the run still ends before 2 C_mid
    assert new.report["priors"]["pooled over"] == "early, long, longer" and "pooled" in new.checklist()
    assert new.reach >= own.reach and 200 < new.draws.effective < own.draws.effective
    lo, mid, hi = new.draws.quantile(new.draws.A, [0.025, 0.5, 0.975])
    assert (new.params["A"].lo, new.params["A"].value, new.params["A"].hi) == pytest.approx((lo, mid, hi))
    for name in ("long", "longer"):
        assert pooled[name].params["A"].value == pytest.approx(alone[name].params["A"].value, abs=0.02)
    again = an.Fits.from_json(pooled.to_json())
    assert again["early"].params == new.params
    assert an.pool_shapes(alone)["early"].params == new.params  # the seed alone decides
    assert "pooled" in codes(an.pool_seeds(pooled)[0])


def test_a_wide_scale_leaves_each_seed_to_itself(alone):
    free = an.pool_shapes(alone, scale=5.0)["early"].params["C_mid"]
    own, tight = alone["early"].params["C_mid"], an.pool_shapes(alone, scale=0.05)["early"].params["C_mid"]
    assert free.hi - free.lo > 0.7 * (own.hi - own.lo) > 2.0 * (tight.hi - tight.lo)


def test_too_few_draws_give_no_limits_and_more_may_be_asked_for(alone):
    thin = [replace(f, draws=_thinned(f.draws)) for f in alone]
    early = an.pool_shapes(thin)["early"]
    assert "pooled-thin" in codes(early) and early.params["A"].lo is None and early.reach is None
    more = an.pool_shapes(thin, draws=3000)["early"]
    assert len(more.draws) == 3000 and "pooled-thin" not in codes(more) and more.params["A"].lo is not None


GRID = an.Finding("posterior-grid", "warning", "limits are withheld")


def withheld(fit):
    params = {name: replace(p, lo=None, hi=None, identified=False) for name, p in fit.params.items()}
    return replace(fit, findings=(*fit.findings, GRID), params=params, reach=None)


def test_limits_withheld_from_a_fit_stay_so_unless_new_draws_pass(alone, monkeypatch):
    fits = [withheld(alone["early"]), alone["long"], alone["longer"]]
    kept = an.pool_shapes(fits)
    early = kept["early"]
    assert GRID in early.findings and early.params["A"].lo is None and early.draws is alone["early"].draws
    assert codes(early)[-1] == "pooled" and "failed their check" in early.findings[-1].message
    assert kept["long"].params == an.pool_shapes(fits[1:])["long"].params  # draws that failed inform no other run
    anew = an.pool_shapes(fits, draws=2000)["early"]
    assert "posterior-grid" not in codes(anew) and anew.params["A"].lo is not None and len(anew.draws) == 2000
    monkeypatch.setattr(methods, "MISSED", -1.0)
    again = an.pool_shapes(fits, draws=2000)
    assert GRID in again["early"].findings and again["early"].params["A"].lo is None
    assert again["long"].params == alone["long"].params


def _thinned(draws):
    fields = {name: getattr(draws, name)[::12] for name in draws.__dataclass_fields__ if name not in _OF_QUADRATURE}
    return Draws(**{**fields, "weight": fields["weight"] / fields["weight"].sum()})


_OF_QUADRATURE = {"white", "log_evidence", "checks"}


def test_pooled_limits_are_judged_after_the_choice_of_prompts_is_allowed_for():
    fits = an.fit([solving(22, name, seed=i) for i, name in enumerate("ab")], prompts="sample")
    A = an.pool_shapes(fits, recipe="mine")["a"].params["A"]
    assert A.hi == 1.0 and not A.identified and A.why == "no upper limit below 1"
    fixed = an.pool_shapes(an.fit([f.run for f in fits]), recipe="mine")["a"]
    assert fixed.params["A"].identified and not fixed.A_population.identified


def test_runs_with_nothing_to_pool_are_left_as_they_are(alone):
    level = an.fit(run_of("level", np.arange(9.0), np.full(9, 0.3)))
    pooled = an.pool_shapes([level, *alone])
    assert pooled["level"] is level and codes(pooled["early"])[-1] == "pooled"
    (single,) = an.pool_shapes([alone["long"]])
    assert single.params == alone["long"].params and "no other seed" in single.findings[-1].message
    with pytest.raises(UserError, match="long is none"):
        an.pool_shapes([an.fit(seed_of("long", 1, 5.0), method="lsq")])
    with pytest.raises(UserError, match="scale: 0"):
        an.pool_shapes(alone, scale=0.0)


# ---- short forms of the simulations


@pytest.mark.parametrize(("table", "cell", "count"), [("seeds", 1, 5), ("starts", 1, 4), ("shapes", 0, 4)])
def test_limits_hold_the_truth(table, cell, count):
    found = benchmark.results(table, cell, [benchmark.repetition(table, cell, i) for i in range(count)])
    assert all(result.ok for result in found), "\n".join(map(str, found))
    width = {result.name: result.width for result in found}
    if table == "starts":
        assert width["R0, shared"] < width["R0, own"]
    if table == "shapes":
        assert width["A, pooled"] < width["A, own"]


def test_runs_of_one_recipe_with_other_settings_are_pooled_with_a_warning():
    runs = an.read("data/study/base/grpo_s*")[:2]
    quiet = an.pool_seeds(an.fit(runs, x="flops"))[0]
    assert "settings-differ" not in [f.code for f in quiet.findings]
    config = runs[1].header["config"] | {"epsilon_high": 0.5, "max_steps": 25, "model_name": "elsewhere"}
    other = replace(runs[1], header=runs[1].header | {"config": config})
    fits = an.fit([runs[0], other], x="flops")
    (said,) = [f for f in an.pool_seeds(fits)[0].findings if f.code == "settings-differ"]
    assert said.severity == "warning" and said.figure == 1.0 and "epsilon_high 0.2, 0.5" in said.message
    told = an.compare([*fits, *an.fit(an.read("data/study/base/dapo_s*")[:2], x="flops")])
    assert "settings-differ" in [f.code for f in told.findings]
