"""A fit shows its doubts first, reads off its draws what they say, and survives being saved to the last bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import lmfit
import numpy as np
import pandas as pd
import pytest

import analysis as an
from analysis.curves.curve import R
from analysis.fits.results import Param
from analysis.fits.tables import CHECKLIST, cells, figures, fit_text, reach_text
from scalerl.runlog import UserError

ROOT = Path(__file__).parent.parent
TRUE = {"R0": 0.12, "A": 0.74, "B": 1.8, "C_mid": 2.0}
M = 500


def as_run(compute, pass_rate, **fields):
    data = {"gpu_hours": np.asarray(compute, dtype=float), "pass_rate": np.asarray(pass_rate)}
    return an.Run("made", "made", None, data, ("gpu_hours",), (), Path("none"), "", **fields)


@pytest.fixture(scope="module")
def plain():
    """A fit without draws."""
    compute = np.linspace(0.0, 10.0, 25)
    return an.fit(as_run(compute, R(compute, **TRUE) + np.random.default_rng(0).normal(0, 0.01, 25)), method="lsq")


def draws(seed=0, *, A_sd=0.01, shift=0.0):
    rng = np.random.default_rng(seed)
    weight = rng.random(M)
    return an.Draws(
        R0=TRUE["R0"] + 0.01 * rng.normal(size=M),
        A=TRUE["A"] + shift + A_sd * rng.normal(size=M),
        B=TRUE["B"] * np.exp(0.05 * rng.normal(size=M)),
        C_mid=TRUE["C_mid"] * np.exp(0.05 * rng.normal(size=M)),
        rho=rng.random(M),
        sigma=np.full(M, 0.01),
        weight=weight / weight.sum(),
    )


@pytest.fixture(scope="module")
def full(plain):
    """A fit with every field in use."""
    return replace(
        plain,
        method="posterior",
        params={
            **{name: replace(p, se=None, identified=True, why="") for name, p in plain.params.items()},
            "A": replace(plain.params["A"], se=0.1 + 0.2, se_observed=1e-300, identified=True, why=""),
        },
        draws=draws(),
        reach=6.25,
        grade=0.974,
        noise={"rho": 1 / 3, "sigma": None},
        evaluation_sd=np.full(plain.n, 0.01),
        A_population=Param(0.75, 0.7, 0.8, identified=True),
        report={"equation": "R(C)", "bounds": {"C_mid": (0.0, math.inf)}, "priors": (), "versions": {"numpy": "2"}},
        window=(None, 10),
        left_out=np.array([[11.0, 0.7]]),
    )


# ---- draws


def test_weighted_quantiles_are_those_of_repeated_draws():
    rng = np.random.default_rng(1)
    values, count = rng.normal(size=M), rng.integers(0, 50, M)
    weighted = replace(draws(), weight=count / count.sum())
    repeated = np.sort(np.repeat(values, count))
    for q in (0.025, 0.3, 0.5, 0.975):
        expected = np.quantile(repeated, q, method="hazen")
        assert weighted.quantile(values, [q])[0] == pytest.approx(expected, abs=0.03)
        assert np.mean(repeated <= weighted.quantile(values, [q])[0]) == pytest.approx(q, abs=0.006)


def test_a_quantile_that_touches_never_is_never():
    d = draws()
    d = replace(d, weight=np.full(M, 1 / M))
    values = np.r_[np.arange(400.0), np.full(100, math.inf)]
    lo, mid, hi = d.quantile(values, [0.1, 0.79, 0.81])
    assert lo == pytest.approx(49.5) and math.isfinite(mid) and hi == math.inf
    assert d.quantile(np.full(M, math.inf), [0.5])[0] == math.inf


def test_a_draw_without_weight_is_no_draw():
    d = replace(draws(), weight=np.r_[1.0, np.zeros(M - 1)])
    values = np.r_[3.0, np.full(M - 1, 9.0)]
    assert d.quantile(values, [0.0, 0.5, 1.0]).tolist() == [3.0, 3.0, 3.0] and d.effective == 1.0


@pytest.mark.parametrize(
    "fault",
    [{"weight": np.full(M, 2 / M)}, {"weight": np.full(M, np.nan)}, {"R0": np.zeros(3)}, {"weight": -draws().weight}],
)
def test_draws_that_are_none_are_refused(fault):
    with pytest.raises(UserError, match="draws"):
        replace(draws(), **fault)


# ---- prediction


def test_a_band_is_the_quantiles_of_the_curves_of_the_draws(full):
    at = np.array([[0.0, 1.0], [4.0, 40.0]])
    band = full.predict(at, level=0.9)
    assert band.lo.shape == band.hi.shape == at.shape and np.all(band.lo < band.mid) and np.all(band.mid < band.hi)
    curves = np.array(
        [R(4.0, *row) for row in zip(full.draws.R0, full.draws.A, full.draws.B, full.draws.C_mid, strict=True)]
    )
    inside = full.draws.weight[(curves >= band.lo[1, 0]) & (curves <= band.hi[1, 0])].sum()
    assert inside == pytest.approx(0.9, abs=0.01)
    assert float(full.predict(4.0, level=0.9).lo) == band.lo[1, 0]
    wider = full.predict(at, level=0.99)
    assert np.all(wider.lo < band.lo) and np.all(wider.hi > band.hi) and np.array_equal(wider.mid, band.mid)


def test_without_draws_a_band_is_refused_and_not_made_up(plain):
    assert plain.predict([0.0, 3.0]).shape == (2,)
    with pytest.raises(UserError, match="lsq has no draws"):
        plain.predict(3.0, level=0.95)
    with pytest.raises(UserError, match="level"):
        plain.compute_to(0.5, level=95)


@pytest.mark.parametrize("code", ["posterior-grid", "pooled-thin"])
def test_withheld_limits_do_not_come_back_as_a_band(full, code):
    withheld = replace(full, findings=(an.Finding(code, "warning", "limits are withheld"),))
    assert full.trusted_draws is full.draws and withheld.trusted_draws is None and withheld.draws is not None
    with pytest.raises(UserError, match="made: limits are withheld, so there is no band"):
        withheld.predict(3.0, level=0.95)
    reached, known = withheld.compute_to(0.5), full.compute_to(0.5)
    assert (reached.lo, reached.hi) == (None, None) and reached.value == known.value and known.lo is not None


def test_compute_to_inverts_the_curve_and_infinity_means_never(full, plain):
    found = full.compute_to(0.5)
    assert float(full.predict(found.value)) == pytest.approx(0.5) and found.lo < found.value < found.hi
    assert full.compute_to(0.5, level=0.5).hi < found.hi
    assert full.compute_to(0.99).value == full.compute_to(0.99).lo == math.inf
    at_ceiling = full.compute_to(full.params["A"].value)
    assert math.isfinite(at_ceiling.lo) and at_ceiling.hi == math.inf and "never" in repr(at_ceiling)
    assert full.compute_to(0.01).value == full.compute_to(0.01).hi == 0.0
    assert (plain.compute_to(0.5).lo, plain.compute_to(0.5).hi) == (None, None)
    with pytest.raises(UserError, match="pass rate between 0 and 1"):
        full.compute_to(50)


def test_a_draw_that_falls_never_reaches_what_the_curve_rises_to(full):
    falling = replace(full, draws=replace(draws(), A=np.full(M, 0.01)))
    assert falling.compute_to(0.5).lo == math.inf
    assert falling.compute_to(0.05).hi == 0.0


def test_a_flat_run_is_at_its_level_from_the_start():
    flat = an.fit(as_run(np.arange(8.0), np.full(8, 0.3)))
    assert flat.compute_to(0.3).value == 0.0 and flat.compute_to(0.4).value == math.inf


def test_a_curve_of_another_family_is_not_read_as_this_law(full):
    with pytest.raises(UserError, match="family gompertz"):
        replace(full, family="gompertz").predict(1.0)


# ---- saved


def test_a_saved_fit_is_the_same_to_the_last_bit(full, plain):
    for fit in (full, plain, an.fit(as_run([0.0, 1.0], [0.1, 0.2]))):
        text = fit.to_json()
        again = an.Fit.from_json(text)
        assert again.to_json() == text and repr(again) == repr(fit) and again.to_dict() == fit.to_dict()
        assert again.summary().equals(fit.summary())
        assert np.array_equal(again.compute, fit.compute) and np.array_equal(again.left_out, fit.left_out)
    again = an.Fit.from_json(full.to_json())
    assert all(np.array_equal(getattr(again.draws, k), getattr(full.draws, k)) for k in vars(full.draws))
    assert again.params["A"] == full.params["A"] and again.noise == full.noise and again.report == full.report
    assert again.report["bounds"]["C_mid"][1] == math.inf and '"inf"' in full.to_json()
    assert again.window == (None, 10.0) and again.findings == full.findings
    json.loads(full.to_json(), parse_constant=pytest.fail)


def test_a_run_folder_with_counts_and_header_survives():
    fits = an.fit(an.read(str(ROOT / "data" / "runs" / "*")), level=None)
    again = an.Fits.from_json(fits.to_json())
    assert again.to_json() == fits.to_json() and again.names == fits.names
    for a, b in zip(again, fits, strict=True):
        assert a.run.header == b.run.header and a.run.source == b.run.source and a.run.events == b.run.events
        assert {k: v.dtype for k, v in a.run.data.items()} == {k: v.dtype for k, v in b.run.data.items()}
        assert a.run.data["correct"].tolist() == b.run.data["correct"].tolist()
    with pytest.raises(UserError, match="2 fits"):
        an.Fit.from_json(fits.to_json())
    assert an.Fits.from_json(fits[0].to_json()).names == (fits[0].name,)


def test_float32_evaluations_stay_float32(plain):
    fit = replace(plain, pass_rate=plain.pass_rate.astype(np.float32))
    again = an.Fit.from_json(fit.to_json())
    assert again.pass_rate.dtype == np.float32 and np.array_equal(again.pass_rate, fit.pass_rate)


def test_what_json_has_no_form_for_is_refused(plain):
    for broken in (replace(plain, noise={"rho": math.nan}), replace(plain, report={"starts": object()})):
        with pytest.raises(UserError):
            broken.to_json()


def nodes(value, path=()):
    """Every place in nested JSON; of long lists the first place only."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, below in inside:
        yield from nodes(below, (*path, key))


@pytest.mark.parametrize("wrong", [None, "x", -1.5, [], {}, True, [[1]], 10**400])
def test_damage_anywhere_is_one_line_and_never_another_error(full, wrong):
    few = {name: values[:9] for name, values in vars(full.draws).items()} | {"weight": np.full(9, 1 / 9)}
    text = replace(full, draws=an.Draws(**few)).to_json()
    refused = 0
    for path in nodes(json.loads(text)):
        damaged = json.loads(text)
        place = damaged
        for key in path[:-1]:
            place = place[key]
        if path:
            place[path[-1]] = wrong
        try:
            an.Fit.from_json(json.dumps(damaged if path else wrong))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 200, path
    assert refused > 60


def test_foreign_and_cut_texts_are_one_line(full):
    text = full.to_json()
    for bad in (
        "",
        "{}",
        "[1]",
        text[:-20],
        text.replace('"scalerl fits"', '"other"'),
        '{"format": NaN}',
        "[" * 100_000,
    ):
        with pytest.raises(UserError) as error:
            an.Fit.from_json(bad)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="version: 2 is not"):
        an.Fit.from_json(text.replace('"version": 1', '"version": 2', 1))
    for key in ("draws", "run", "window", "tolerance"):
        whole = json.loads(text)
        del whole["fits"][0][key]
        with pytest.raises(UserError, match=f"has no {key}"):
            an.Fit.from_json(json.dumps(whole))


# ---- tables


def test_doubts_come_first_then_the_reach_then_A_with_its_grade(full):
    doubted = replace(full, findings=(an.Finding("misfit", "warning", "the law does not fit"), *full.findings))
    lines = repr(doubted).splitlines()
    assert lines[0] == "made   25 evaluations, 0 to 10 gpu_hours, posterior"
    assert lines[1] == "  warning  the law does not fit"
    at = len(doubted.findings) + 1
    assert lines[at] == "  reach 6.2x: the pass rate is known to +-.02 up to 62 gpu_hours, if the law holds"
    assert lines[at + 1].startswith("  A      ") and lines[at + 1].endswith("  usable: P(C_max > 2 C_mid) = .97")
    assert lines[at + 2] == "  A on new prompts  0.750   0.700 - 0.800"
    first = fit_text(doubted).splitlines()
    assert first[1].startswith("  reach") and first[-1].split()[0] in {"note", "warning"}


def test_an_open_A_is_its_lower_limit(full):
    A = Param(0.83, 0.52, None, identified=False, why="no upper limit below 1: train to about 0.015 gpu_hours")
    early = replace(full, params={**full.params, "A": A}, grade=None)
    row = next(line for line in repr(early).splitlines() if line.startswith("  A  "))
    assert row.split("   ")[2:] and "0.83" not in row
    assert " ".join(row.split()) == "A >= 0.52, no upper limit below 1 not identified: train to about 0.015 gpu_hours"
    assert cells(replace(early, params={"A": replace(A, why="no upper limit below 1")}), "A")[2] == "not identified"
    assert cells(replace(early, grade=0.35), "A")[2].endswith("(P(C_max > 2 C_mid) = .35)")
    assert "&gt;= 0.52" in early._repr_html_() and "0.83" not in early._repr_html_()


@pytest.mark.parametrize(
    ("reach", "said"),
    [
        (None, "reach unknown: limits are withheld"),
        (1.0, "reach none: the pass rate is not known to +-.02 past the last evaluation"),
        (1.25, "reach 1.25x: the pass rate is known to +-.02 up to 12 gpu_hours, if the law holds"),
        (99.99, "reach 99.9x: the pass rate is known to +-.02 up to 1000 gpu_hours, if the law holds"),
        (100.0, "reach >= 100x: the pass rate is known to +-.02 up to 1000 gpu_hours, if the law holds"),
    ],
)
def test_the_reach_is_a_sentence(full, reach, said):
    assert reach_text(replace(full, reach=reach)) == said


def test_a_method_without_a_band_has_no_reach(full):
    assert reach_text(replace(full, reach=None, draws=None)) == ""


@pytest.mark.parametrize(("grade", "said"), [(0.9951, "> .99"), (0.995, "= .99"), (0.9, "= .90"), (0.0049, "< .01")])
def test_a_grade_never_reads_as_certain(full, grade, said):
    assert cells(replace(full, grade=grade), "A")[2].endswith(said)


@pytest.mark.parametrize("width", [1e-1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15])
def test_an_interval_never_reads_as_one_of_width_0(width):
    value, limits = figures(Param(0.7, 0.7 - width, 0.7 + width, identified=True))
    low, high = limits.split(" - ")
    assert float(low) < float(high) and float(low) <= float(value) <= float(high)


def test_an_interval_of_no_width_shows_none():
    assert figures(Param(0.7, 0.7, 0.7, identified=False)) == ("0.7", "")


def test_the_html_has_findings_before_the_reach_before_A(full):
    html = an.fit([as_run(np.arange(9.0), R(np.arange(9.0), **TRUE))])._repr_html_()
    assert "reach" not in html
    html = full._repr_html_()
    assert html.index("<th>findings</th>") < html.index("<th>reach</th>") < html.index("<th>A</th>")
    assert "usable: P(C_max &gt; 2 C_mid) = .97" in html and "on new prompts 0.750" in html


def test_the_summary_is_a_frame_without_nan(full, plain):
    frame = full.summary()
    assert list(frame.columns) == ["value", "lo", "hi", "se", "identified", "why"]
    assert list(frame.index) == ["A", "B", "C_mid", "R0", "A on new prompts"]
    assert frame.loc["A", "se"] == 0.1 + 0.2 and frame.loc["B", "se"] is pd.NA
    table = an.Fits([full, replace(plain, run=replace(plain.run, name="other"))]).summary()
    assert table.index.names == ["run", "parameter"] and len(table) == 9


def test_the_checklist_names_what_is_missing(full):
    lines = full.checklist().splitlines()
    assert [line.split("  ")[0] for line in lines] == list(CHECKLIST)
    assert lines[0].endswith("R(C)") and lines[8].endswith("C_mid 0, inf") and lines[5].endswith("not said")


def test_json_for_programs_has_reach_and_grade_and_no_errors_of_other_kinds(full):
    out = full.to_dict()
    assert (out["reach"], out["grade"]) == (6.25, 0.974) and list(out["params"]["A"]) == [
        "value",
        "lo",
        "hi",
        "identified",
    ]


# ---- lmfit


def test_lmfit_at_our_optimum_says_what_its_own_fit_says(plain):
    ours = plain.to_lmfit()
    model = lmfit.Model(R, independent_vars=["C"])
    start = {name: plain.params[name].value for name in TRUE}
    theirs = model.fit(plain.pass_rate, C=plain.compute, **start)
    for name in TRUE:
        assert ours.params[name].value == plain.params[name].value
        assert ours.params[name].value == pytest.approx(theirs.params[name].value, rel=1e-5)
        assert ours.params[name].stderr == pytest.approx(theirs.params[name].stderr, rel=1e-3)
    assert ours.chisqr == pytest.approx(theirs.chisqr) and ours.bic == pytest.approx(theirs.bic)
    assert ours.params["A"].correl["B"] == pytest.approx(theirs.params["A"].correl["B"], rel=1e-3)
    assert np.allclose(ours.best_fit, plain.predict(plain.compute)) and "[[Variables]]" in ours.fit_report()
    assert ours.eval(C=np.array([0.0, 50.0])) == pytest.approx(plain.predict([0.0, 50.0]), rel=1e-12)
    intervals = lmfit.conf_interval(ours, ours, sigmas=[0.95])
    profile = an.fit(plain.run, method="profile", correlated=False)
    assert intervals["A"][0][1] == pytest.approx(profile.params["A"].lo, abs=1e-3)


def test_lmfit_gets_a_held_R0_as_fixed_and_no_error_where_none_exists():
    compute = np.linspace(0.0, 10.0, 25)
    run = as_run(compute, R(compute, **TRUE) + np.random.default_rng(0).normal(0, 0.01, 25))
    held = an.fit(run, r0=0.12, method="lsq").to_lmfit()
    assert held.nvarys == 3 and not held.params["R0"].vary and held.params["A"].stderr > 0
    four = an.fit(as_run(compute[::7], R(compute[::7], **TRUE))).to_lmfit()
    assert four.covar is None and four.params["A"].stderr is None
    with pytest.raises(UserError, match="no curve"):
        an.fit(as_run([0.0, 1.0], [0.1, 0.2])).to_lmfit()


def test_a_curve_that_falls_reaches_what_it_starts_above_and_nothing_else(full):
    params = {**full.params, "R0": replace(full.params["R0"], value=0.4), "A": replace(full.params["A"], value=0.2)}
    falling = replace(full, params=params)
    assert falling.compute_to(0.3).value == 0.0 and falling.compute_to(0.9).value == math.inf


def test_a_band_needs_a_compute(full):
    with pytest.raises(UserError, match="predict: -1 is no compute"):
        full.predict([1.0, -1.0])
    band = full.predict([math.nan, 1.0], level=0.9)
    assert np.isnan([band.lo[0], band.mid[0], band.hi[0]]).all() and np.isfinite(band.hi[1])
