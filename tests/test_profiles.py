"""The limits of the F profile: lmfit's where noise is independent, and whitened where it is not."""

from __future__ import annotations

import json
import math
from functools import partial

import lmfit
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis as an
from analysis.curves.curve import R
from analysis.curves.leastsquares import Problem, default_box
from tests.made import TRUE, as_run, codes, noisy

profile = partial(an.fit, method="profile", correlated=False)


def problem_of(fit):
    with np.errstate(divide="ignore"):
        return Problem(np.log(fit.compute), fit.pass_rate), default_box(fit.compute)


def profile_by_many_starts(problem, box, index, value):
    """The smallest sum of squares with one parameter held, from the whole grid of starts and no warm start."""
    return problem.fit(box.fix(index, value)).sse


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0, 5.0])
def test_at_a_limit_the_F_statistic_is_at_its_quantile_wherever_the_run_ends(k):
    """Before and around the midpoint there are several valleys; a descent that stays in the wrong one closes early."""
    checked = 0
    for seed in range(7):
        fit = profile(noisy(seed, k=k, n=40, sd=0.02))
        problem, box = problem_of(fit)
        best = problem.fit(box)
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
    fit = profile(run)
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
    fit = profile(noisy(0, k=0.6, sd=0.01, A=0.42, R0=0.25, B=1.7))
    problem, box = problem_of(fit)
    best = problem.fit(box).sse
    allowed = best * (1 + scipy.stats.f.ppf(0.95, 1, fit.n - 4) / (fit.n - 4))
    at_end = profile_by_many_starts(problem, box, 3, float(box.high[3]))
    assert (fit.params["C_mid"].hi is None) == (at_end <= allowed)
    assert fit.params["A"].hi is None and not fit.params["A"].identified
    assert "open-interval" in codes(fit)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 6.0), st.integers(5, 40), st.sampled_from([1e-6, 0.01, 0.1]))
def test_limits_surround_the_value_and_are_never_nan_or_zero_wide(seed, k, n, sd):
    fit = profile(noisy(seed, k=k, n=n, sd=sd))
    for p in fit.params.values():
        assert p.value is not None and math.isfinite(p.value)
        assert p.lo is None or (math.isfinite(p.lo) and p.lo < p.value)
        assert p.hi is None or (math.isfinite(p.hi) and p.hi > p.value)
        assert not (p.identified and (p.lo is None or p.hi is None))
        assert p.identified == (p.why == "")
    json.dumps(fit.to_dict(), allow_nan=False)


def test_coverage_under_independent_noise_is_near_the_level():
    held = 0
    for seed in range(50):
        A = profile(noisy(seed, k=5.0, n=40)).params["A"]
        held += A.lo is not None and A.hi is not None and A.lo <= TRUE["A"] <= A.hi
    assert 43 <= held <= 50  # 47.5 expected; the standard deviation is 1.5


def test_a_wider_level_gives_wider_limits():
    narrow, wide = (profile(noisy(0), level=level).params["A"] for level in (0.5, 0.99))
    assert wide.lo < narrow.lo < narrow.value == wide.value < narrow.hi < wide.hi


def test_the_unit_of_compute_leaves_no_trace_in_the_profile():
    """Noisy points whose sum of squares is flat in B: rounding of the gaps alone would move it."""
    c = np.linspace(0.1, 5.0, 20)
    y = np.clip(R(c, 0.1, 0.7, 1.5, 2.0) + np.random.default_rng(25).normal(0.0, 0.03, 20), 0.0, 1.0)
    hours, seconds = (an.fit(as_run(x, y), method="profile").params for x in (c, 3600.0 * c))
    for name in ("R0", "A", "B"):
        for bound in ("value", "lo", "hi"):
            one, other = getattr(hours[name], bound), getattr(seconds[name], bound)
            assert (one is None) == (other is None)
            assert one is None or other == pytest.approx(one, rel=1e-9)
    assert seconds["C_mid"].value == pytest.approx(3600.0 * hours["C_mid"].value, rel=1e-9)
