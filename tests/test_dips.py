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
    assert f"{C[22]:.4g} to {C[24]:.4g}" in found.message
    assert found.figure == C[23] and found.severity == "warning"
    assert dip_of(rate) == pytest.approx(0.3, abs=0.03)
    codes = [f.code for f in an.fit(an.read_frame({"gpu_hours": C, "accuracy": rate})).findings]
    assert "dip" in codes and "decay" not in codes


def test_the_longer_side_is_what_is_advised_and_the_law_asks_for_no_longer_run():
    (early,), (late,) = dip(C, with_dip(0.4, at=13)), dip(C, with_dip(0.3))
    assert f"behind them with --from {C[16]:.4g})" in early.message
    dense = 6000.0 + np.arange(31) * 0.05  # four digits would not tell one evaluation from the next
    (told,) = dip(dense, with_dip(0.4, at=13))
    assert dense[15] < float(told.message.rpartition("--from ")[2].rstrip(")")) <= dense[16]
    kept = float(late.message.rpartition("--to ")[2].rstrip(")"))
    assert C[21] <= kept < C[22]
    wild = RATE.copy()
    wild[12:20] -= 0.3
    found = an.fit(an.read_frame({"gpu_hours": C, "accuracy": wild}))
    assert not found.params["A"].identified and found.params["A"].why == "the run collapsed on its way"
    assert not any("too early" in f.message or "train to" in f.message for f in found.findings)


def test_a_run_that_wanders_far_does_not_hide_its_collapse():
    """Of a run: it falls to a third and comes back, twice; the usual noise of such a run is large."""
    rate = np.array(
        [0.11, 0.13, 0.14, 0.21, 0.24, 0.24, 0.22, 0.29, 0.37, 0.40, 0.44, 0.47, 0.51, 0.49, 0.53, 0.51, 0.47, 0.57,
         0.58, 0.60, 0.59, 0.60, 0.64, 0.65, 0.63, 0.57, 0.56, 0.66, 0.67, 0.61, 0.43, 0.47, 0.65, 0.45, 0.24, 0.18,
         0.25, 0.29, 0.40, 0.52, 0.59]
    )  # fmt: skip
    assert dip_of(rate) > 0.25
    far = rate + np.random.default_rng(0).normal(0.0, 0.08, len(rate))
    far[31] -= 0.1
    assert dip_of(far) is None and dip_of(far, np.full(len(far), 0.008**2)) > 0.25
    assert dip_of(far, np.full(len(far), 0.08**2)) is None, "evaluations as noisy as that say nothing"


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
