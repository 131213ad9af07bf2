"""A collapse inside a run that it recovered from is said, by the fit and by check; slow noise is none."""

from __future__ import annotations

import numpy as np
import pytest

import analysis as an
from analysis.fits.decays import dip, dip_of
from tests.made import noisy

C = np.linspace(0.0, 15.0, 31)
RATE = np.asarray(an.R(C, 0.12, 0.7, 1.8, 3.0)) + np.random.default_rng(3).normal(0.0, 0.006, 31)


def with_dip(depth=0.23, at=22, length=3):
    rate = RATE.copy()
    rate[at : at + length] -= depth * np.array([0.6, 1.0, 0.5, 0.4])[:length]
    return rate


def test_a_collapse_that_the_run_recovered_from_is_named_with_its_place():
    rate = with_dip(0.3)
    (found,) = dip(C, rate)
    assert f"{C[22]:.4g} to {C[24]:.4g}" in found.message and f"--from {C[25]:.4g}" in found.message
    assert found.figure == C[23] and found.severity == "warning"
    assert dip_of(C[::-1], rate[::-1]) == pytest.approx(0.3, abs=0.03)
    codes = [f.code for f in an.fit(an.read_frame({"gpu_hours": C, "accuracy": rate})).findings]
    assert "dip" in codes and "decay" not in codes


@pytest.mark.parametrize("rate", [RATE, with_dip(0.3, length=1), with_dip(0.02)], ids=["healthy", "outlier", "noise"])
def test_nothing_else_is_called_a_dip(rate):
    assert dip(C, rate) == []


def test_a_run_that_ends_low_decays_and_has_no_dip():
    rate = RATE.copy()
    rate[26:] -= 0.25
    codes = [f.code for f in an.fit(an.read_frame({"gpu_hours": C, "accuracy": rate})).findings]
    assert "decay" in codes and "dip" not in codes


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [20, 60, 200])
def test_slow_noise_is_not_taken_for_a_collapse(rho, n):
    runs = [noisy(seed, n=n, rho=rho) for seed in range(40)]
    assert sum(bool(dip(run.data["gpu_hours"], run.data["pass_rate"])) for run in runs) == 0


def test_check_says_it_too(tmp_path):
    rows = [f"{c},{r:.4f}" for c, r in zip(C, with_dip(0.3), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["gpu_hours,accuracy", *rows]))
    found = an.check(an.read(tmp_path / "t.csv"))[0]["decay"]
    assert found.status == "warning" and found.figure > 0.25 and found.where["gpu_hours"] == C[23]
    (tmp_path / "h.csv").write_text(
        "\n".join(["gpu_hours,accuracy", *(f"{c},{r:.4f}" for c, r in zip(C, RATE, strict=True))])
    )
    assert an.check(an.read(tmp_path / "h.csv"))[0]["decay"].status == "ok"
