"""What a method's limits rest on is said with the fit: too narrow, none, from the prior, too early, up to a peak."""

from __future__ import annotations

import json

import numpy as np
import pytest

import analysis as an
from analysis.curves.curve import R
from analysis.fits.refits import posterior_fit
from scalerl.cli import main
from tests.made import ar1, as_run, codes, counted, noisy

METHODS = ("posterior", "profile", "bootstrap", "lsq", "paper")


def said(fit, code):
    (found,) = [f for f in fit.findings if f.code == code]
    return found


def step(place, n=20):
    """A pass rate that jumps between two evaluations."""
    return as_run(np.linspace(0.0, 8.0, n), np.where(np.arange(n) < place, 0.1, 0.7) + ar1(n))


@pytest.fixture(scope="module")
def late():
    """One run past its bend, fitted by every method."""
    run = noisy(0, k=6.0)
    return {method: an.fit(run, method=method) for method in METHODS}


def test_methods_whose_limits_are_too_narrow_say_so_and_the_others_do_not(late):
    for method, fit in late.items():
        assert ("undercover" in codes(fit)) == (method in {"lsq", "bootstrap"})
    for method, told in (("lsq", "41 to 72 %"), ("bootstrap", "66 to 97 %")):
        warning = said(late[method], "undercover")
        assert warning.severity == "warning" and told in warning.message
        assert late[method].params["A"].lo is not None and not any(p.identified for p in late[method].params.values())
    assert "undercover" not in codes(an.fit(noisy(0, k=6.0), method="lsq", level=None))  # no limits, none too narrow


def test_a_method_without_limits_says_so_and_identifies_nothing(late):
    for method, fit in late.items():
        assert ("method-failed" in codes(fit)) == (method == "paper")
        assert all((p.lo is None) == (method == "paper") for p in fit.params.values())
    paper = late["paper"]
    assert said(paper, "method-failed").message.startswith("a grid gives no limits")
    assert not any(p.identified for p in paper.params.values()) and paper.params["A"].value is not None


@pytest.mark.parametrize(("place", "name"), [(4, "B"), (19, "C_mid")])
def test_an_interval_that_the_prior_ends_is_said_and_not_identified(place, name):
    """A jump between two evaluations: how steep it is, or how far the last one is from C_mid, no point can say."""
    fit = an.fit(step(place))
    leaning = said(fit, "prior-bound")
    assert leaning.message == f"the prior of {name} ends the interval, not the data" and leaning.figure > 0.02
    assert leaning.severity == "warning" and not fit.params[name].identified
    assert name == "C_mid" or fit.params[name].why == "the prior, not the data, ends the interval"


def test_where_the_data_end_every_interval_no_prior_is_said(late):
    assert "prior-bound" not in codes(late["posterior"]) and late["posterior"].params["B"].identified


@pytest.mark.parametrize("method", ["posterior", "profile", "bootstrap", "lsq"])
def test_a_run_that_ends_at_its_midpoint_is_too_early_for_a_ceiling_and_says_how_far(method, late):
    early = an.fit(noisy(0, k=1.0), method=method)
    grade = said(early, "grade")
    assert grade.severity == "warning" and grade.figure == early.grade < 0.9
    share = "< .01" if early.grade < 0.005 else f"= {early.grade:.2f}".replace("0.", ".")
    assert f"P(C_max > 2 C_mid) {share}, usable from 0.9" in grade.message and not early.params["A"].identified
    assert "grade" not in codes(late[method]) and late[method].grade >= 0.9


def collapsed(drop):
    run = noisy(0, k=5.0, n=40)
    C, y = run.data["gpu_hours"], run.data["pass_rate"]
    return as_run(C, y - drop * (np.arange(40) >= 30))


def test_a_fit_up_to_the_peak_says_where_that_is_and_claims_nothing_past_it():
    run = collapsed(0.3)
    whole, fit = an.fit(run), an.fit(run, up_to_peak=True)
    assert "decay" in codes(whole) and "peak-fit" not in codes(whole) and whole.n == 40
    peak = said(fit, "peak-fit")
    assert peak.figure == said(whole, "decay").figure == fit.compute[-1] and fit.n == np.sum(
        whole.compute <= peak.figure
    )
    assert peak.severity == "note" and "decay" not in codes(fit)
    assert fit.reach == 1.0 and {p.why for p in fit.params.values()} == {"fitted up to the peak only"}
    assert abs(fit.params["A"].value - 0.74) < 0.05 < abs(whole.params["A"].value - 0.74)


def test_a_run_without_a_peak_is_the_same_fit_whether_or_not_one_asks_for_it():
    plain, asked = (an.fit(collapsed(0.0), up_to_peak=ask) for ask in (False, True))
    assert codes(plain) == codes(asked) and dict(plain.params) == dict(asked.params) and plain.reach == asked.reach


def test_a_fit_up_to_where_prompts_run_out_takes_what_came_before_and_says_so():
    runs = [an.read(f"data/study/base/{name}_s0")[0] for name in ("scalerl", "grpo")]
    whole, cut = ([an.fit(run, x="flops", up_to_spent=ask) for run in runs] for ask in (False, True))
    spent = said(whole[0], "prompts-spent").figure
    note = said(cut[0], "spent-fit")
    assert note.severity == "note" and note.figure == spent == cut[0].window[1]
    assert "prompts-spent" not in codes(cut[0]) and cut[0].n == np.sum(whole[0].compute <= spent) < whole[0].n
    by_hand = an.fit(runs[0], x="flops", window=(None, spent))
    assert dict(by_hand.params) == dict(cut[0].params) and by_hand.reach == cut[0].reach
    assert dict(whole[1].params) == dict(cut[1].params) and codes(whole[1]) == codes(cut[1])  # grpo retires none
    # A window that ends before that is the one that counts, and a shared R0 keeps the cut.
    early = an.fit(runs[0], x="flops", window=(None, spent / 2.0), up_to_spent=True)
    assert early.window[1] == spent / 2.0 and "spent-fit" not in codes(early)
    shared = an.fit(runs, x="flops", r0="shared", up_to_spent=True)
    assert shared[0].window[1] == spent and "spent-fit" in codes(shared[0]) and "r0-shared" in codes(shared[0])


def test_what_a_fit_was_cut_at_is_still_said_when_it_is_fitted_again():
    run = an.read("data/study/base/scalerl_s0")[0]
    again = posterior_fit(an.fit(run, x="flops", method="lsq", up_to_spent=True))
    assert {"spent-fit", "refitted"} <= set(codes(again)) and again.window[1] == said(again, "spent-fit").figure


def test_nothing_is_claimed_past_a_peak_on_new_prompts_either():
    C, rate = np.linspace(0.0, 8.0, 40), np.random.default_rng(1).beta(2.0, 2.0, 64)
    curve = R(C, 0.1, 0.7, 1.8, 1.5) - 0.3 * (np.arange(40) >= 30)
    run = counted(np.clip(curve[:, None] + 0.2 * (rate - rate.mean()), 0.0, 1.0))
    fit = an.fit(run, up_to_peak=True)
    assert "peak-fit" in codes(fit) and fit.A_population.value is not None
    assert not fit.A_population.identified and fit.A_population.why == "fitted up to the peak only"


def test_the_command_fits_up_to_where_prompts_run_out(capsys):
    assert main(["fit", "data/study/base/scalerl_s0", "--x", "flops", "--up-to-spent", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "spent-fit" in [f["code"] for f in told["runs"][0]["findings"]]
