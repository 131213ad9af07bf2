"""Runs that share parameters: the joint optimum against scipy, the order of the models, and the size of the test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import f as f_distribution

import analysis as an
from analysis.curves.curve import R
from analysis.curves.leastsquares import NAMES
from analysis.pooled.joint import fit_shared, nested
from benchmarks import seeds as benchmark
from scalerl.runlog import UserError

TRUE = np.array([0.12, 0.7, 1.6, 2.0])


def runs_of(*params, n=40, k=5.0, sd=0.01, seed=0, rho=0.0):
    rng = np.random.default_rng(seed)
    made = []
    for i, p in enumerate(params):
        compute = p[3] * np.linspace(0.05, k, n + 3 * i)
        noise = rng.normal(0.0, sd, len(compute))
        for j in range(1, len(noise)):
            noise[j] = rho * noise[j - 1] + (1.0 - rho**2) ** 0.5 * noise[j]
        made.append(benchmark.run_of(f"run{i}", compute, R(compute, *p) + noise))
    return made


def moved(**changes):
    return np.array([changes.get(name, value) for name, value in zip(NAMES, TRUE, strict=True)])


THREE = runs_of(TRUE, moved(C_mid=0.5), moved(C_mid=1.1, B=2.4))


@pytest.mark.parametrize("share", [("A",), ("R0", "A"), ("B",), NAMES], ids=" ".join)
def test_the_joint_optimum_is_that_of_scipy_on_the_stacked_points(share):
    found = fit_shared(THREE, share, correlated=False)
    columns, width = np.empty((3, 4), dtype=int), 0
    for k, name in enumerate(NAMES):
        size = 1 if name in share else 3
        columns[:, k] = width + (np.arange(3) if size == 3 else 0)
        width += size

    def residual(theta):
        out = []
        for run, own in zip(THREE, columns, strict=True):
            R0, A, B, C_mid = theta[own]
            compute = run.data["gpu_hours"]
            out.append(R(compute, R0, A, np.exp(B), np.exp(C_mid)) - run.data["pass_rate"])
        return np.concatenate(out)

    best = min(
        (
            least_squares(residual, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
            for start in np.random.default_rng(1).normal(0.0, 0.5, (6, width)) + 0.3
        ),
        key=lambda r: r.cost,
    )
    assert np.isclose(found.S, 2.0 * best.cost, rtol=1e-9, atol=0.0)
    natural = best.x.copy()
    natural[columns[:, 2:]] = np.exp(best.x[columns[:, 2:]])
    covariance = np.linalg.inv(best.jac.T @ best.jac) * found.S / found.dof
    errors = np.sqrt(np.diag(covariance))
    for i, run in enumerate(THREE):
        for k, name in enumerate(NAMES):
            p = found.params[name] if name in share else found.own[run.name][name]
            factor = natural[columns[i, k]] if k > 1 else 1.0
            assert p.value == pytest.approx(natural[columns[i, k]], rel=1e-6)
            assert p.se == pytest.approx(errors[columns[i, k]] * factor, rel=1e-4)


def test_F_and_p_are_those_of_the_definition():
    found = fit_shared(THREE, ("A", "B"), correlated=False)
    q, dof = 4, sum(len(run) for run in THREE) - 12
    assert (found.dof - found.dof_free, found.dof_free) == (q, dof)
    F = (found.S - found.S_free) / q / (found.S_free / dof)
    assert np.isclose(found.F, F) and found.p == pytest.approx(f_distribution.sf(F, q, dof))
    alone = sum(fit.residuals for fit in map(_Alone, THREE))
    assert found.S_free == pytest.approx(alone, rel=1e-9)


class _Alone:
    def __init__(self, run):
        fitted = an.fit(run, level=None)
        self.residuals = float(((fitted.predict(fitted.compute) - fitted.pass_rate) ** 2).sum())


def test_what_is_shared_is_told_from_what_is_not():
    table = nested(THREE)
    assert not table["A"].differ and not table[("R0", "A")].differ
    assert table["C_mid"].differ and table[("B", "C_mid")].differ and table["B"].differ
    text = repr(table)
    assert "nothing" in text and "R0, A, B, C_mid" in text and "p" in text
    other = fit_shared(runs_of(TRUE, moved(A=0.78)), "A")
    assert other.differ and "the ceilings differ" in repr(other) and "p < .001" in repr(other)
    same = repr(fit_shared(THREE, "A"))
    assert same.startswith("same A in 3 runs? F(2, ") and "do not tell their ceilings apart" in same


@pytest.mark.parametrize(("k", "seed"), [(0.4, 0), (0.4, 1), (5.0, 2)])
def test_sharing_more_never_fits_better(k, seed):
    runs = runs_of(TRUE, moved(C_mid=3.0, B=0.9), n=25, k=k, seed=seed)
    models = nested(runs, models=[("A",), ("B",), ("R0", "A"), NAMES], correlated=seed == 0).models
    for less in models:
        assert less.S_free <= less.S * (1 + 1e-9)
        for more in models:
            if set(less.share) < set(more.share):
                assert less.S <= more.S * (1 + 1e-9)


def test_the_limits_of_a_shared_parameter_are_where_the_profile_rises_too_far():
    runs = runs_of(TRUE, moved(C_mid=0.5), n=20)
    found = fit_shared(runs, "A", correlated=False)
    A = found.params["A"]
    allowed = found.S * (1.0 + f_distribution.ppf(0.95, 1, found.dof) / found.dof)

    def held(value):
        from analysis.curves.leastsquares import Problem, default_box

        total = 0.0
        for run in runs:
            compute = run.data["gpu_hours"]
            problem = Problem(np.log(compute), run.data["pass_rate"])
            total += problem.fit(default_box(compute).fix(1, value)).sse
        return total

    assert held(A.lo) == pytest.approx(allowed, rel=1e-6) and held(A.hi) == pytest.approx(allowed, rel=1e-6)


def test_each_run_has_noise_of_its_own():
    quiet, loud = runs_of(TRUE, sd=0.004)[0], runs_of(moved(C_mid=0.5), sd=0.03, seed=3)[0]
    found = fit_shared([quiet, an.Run(**{**vars_of(loud), "name": "loud"})], "A")
    alone = an.fit(quiet, level=None).params["A"].value
    assert abs(found.params["A"].value - alone) < 0.003  # the exact run decides
    assert found.sigma["loud"] > 4.0 * found.sigma["run0"]
    assert found.S_free == pytest.approx(found.dof_free)  # every residual in units of its own sigma


def vars_of(run):
    return {name: getattr(run, name) for name in run.__dataclass_fields__}


def test_the_unit_of_compute_and_the_order_of_runs_leave_no_trace():
    found = fit_shared(THREE, "A")
    data = [{**run.data, "gpu_hours": run.data["gpu_hours"] * 3600.0} for run in THREE]
    again = fit_shared([an.Run(**{**vars_of(run), "data": d}) for run, d in zip(THREE, data, strict=True)], "A")
    turned = fit_shared(THREE[::-1], "A")
    assert np.allclose([again.F, turned.F], found.F, rtol=1e-6)
    assert again.own["run1"]["C_mid"].value == pytest.approx(3600.0 * found.own["run1"]["C_mid"].value, rel=1e-7)


def test_doubts_come_along():
    early = runs_of(TRUE, moved(C_mid=0.5), k=0.6)
    codes = [f.code for f in fit_shared(early, "A", correlated=False).findings]
    assert codes[:2] == ["run-noise", "independent-noise"]
    assert "run-noise" in [f.code for f in fit_shared(THREE, "A").findings]
    exact = fit_shared(runs_of(TRUE, moved(C_mid=0.5), sd=0.0), "A")
    assert exact.F is None and exact.differ is None and exact.findings[0].code == "exact-data"
    assert exact.params["A"].value == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    ("runs", "share", "words"),
    [
        (THREE[:1], "A", "at least two runs; 1 given"),
        (THREE, ("A", "k"), "'k' is none of R0, A, B, C_mid"),
        ([THREE[0], benchmark.run_of("short", np.arange(4.0), np.array([0.1, 0.2, 0.3, 0.35]))], "A", "short has 4"),
        ([THREE[0], benchmark.run_of("level", np.arange(9.0), np.full(9, 0.3))], "A", "level has 9"),
    ],
)
def test_what_cannot_be_shared_is_one_line(runs, share, words):
    with pytest.raises(UserError, match=words):
        fit_shared(runs, share)


def test_the_size_of_the_test():
    found = benchmark.results("size", 0, [benchmark.repetition("size", 0, i) for i in range(8)])
    assert [result.name for result in found] == ["AR(1)", "independent", "AR(1), A + .03"]
    assert all(result.ok for result in found[:2]), found
    assert found[2].hits > 0


@pytest.mark.parametrize("test", [fit_shared, nested])
def test_two_runs_of_one_name_are_refused(test):
    with pytest.raises(UserError, match="more than one run is called run0; rename one"):
        test([*runs_of(TRUE), *runs_of(moved(A=0.5))])
