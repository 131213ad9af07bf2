"""An option that makes no sense, or that nothing would read, is refused in one line; none is ignored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import analysis as an
from tests.made import noisy

RUN = noisy(0, n=12)


@pytest.mark.parametrize(
    ("options", "reader"),
    [
        ({"correlated": False}, "profile"),
        ({"correlated": True, "method": "lsq"}, "profile"),
        ({"resample": "block"}, "bootstrap"),
        ({"resample": "sieve", "method": "profile"}, "bootstrap"),
        ({"priors": an.Priors(), "method": "lsq"}, "posterior"),
        ({"r0": "shared", "correlated": False}, "profile"),
        ({"r0": "shared", "resample": "block"}, "bootstrap"),
    ],
)
def test_an_option_that_the_method_does_not_read_is_refused_with_the_one_that_does(options, reader):
    with pytest.raises(an.UserError) as refused:
        an.fit([RUN], **options)
    assert f"read by method {reader!r} alone" in str(refused.value) and "\n" not in str(refused.value)


def test_an_option_is_taken_by_the_method_that_reads_it_and_its_default_is_what_the_docstring_says():
    plain, sieve = an.fit(RUN, method="bootstrap"), an.fit(RUN, method="bootstrap", resample="sieve")
    assert plain.params == sieve.params != an.fit(RUN, method="bootstrap", resample="residual").params
    ar1 = an.fit(RUN, method="profile", correlated=True)
    assert an.fit(RUN, method="profile").params == ar1.params
    assert "independent noise" in an.fit(RUN, method="profile", correlated=False).report["method"]


@pytest.mark.parametrize(
    ("runs", "hint"),
    [
        ("data/runs", "analysis.read"),
        (["data/runs"], "analysis.read"),
        (5, "analysis.read"),
        (pd.DataFrame({"gpu_hours": [1.0], "accuracy": [0.1]}), "analysis.read_frame"),
        ({"gpu_hours": [1.0], "accuracy": [0.1]}, "analysis.read_frame"),
        ([np.ones(3)], "analysis.read"),
    ],
)
def test_what_is_no_run_is_refused_with_how_to_read_it(runs, hint):
    with pytest.raises(an.UserError, match=rf"^fit takes runs.*{hint}\(") as refused:
        an.fit(runs)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("window", 5), ("window", (1.0,)), ("window", ("a", None)), ("window", (2.0, 1.0)), ("r0", None),
        ("r0", "none"), ("r0", float("nan")), ("r0", [0.1]), ("seed", -1), ("seed", 1.5), ("seed", None),
        ("level", "high"), ("level", 95), ("level", True), ("tolerance", None), ("method", "ols"), ("priors", {}),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_named_in_one_line(option, value):
    with pytest.raises(an.UserError, match=rf"^{option}: ") as refused:
        an.fit(RUN, **{option: value})
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_and_runs_that_come_one_by_one_are_taken():
    fits = an.fit((run for run in [RUN]), seed=np.int64(3), level=np.float64(0.9), window=[None, np.float64(9.0)])
    assert fits[0].report["seed"] == 3 and fits[0].level == 0.9 and fits[0].window == (None, 9.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rho", (0.9, 0.1)), ("rho", (0.0, 2.0)), ("rho", 0.5), ("rho", (0.0, 0.5, 1.0)), ("ceiling", 70.0),
        ("ceiling", 0.0), ("ceiling", (1.0,)), ("ceiling", None), ("C_mid", (5.0, 1.0)), ("C_mid", (0.0, 20.0)),
        ("C_mid", (0.1, float("inf"))), ("log_B", (0.0, -1.0)), ("log_B", (float("nan"), 0.7)), ("log_B", ("1", 0.7)),
        ("R0", (0.1, 0.0)), ("R0", 0.1), ("least_sigma", 0.0), ("least_sigma", float("nan")),
    ],
)  # fmt: skip
def test_a_prior_that_is_none_is_refused_by_its_name(field, value):
    with pytest.raises(an.UserError, match=rf"^priors: {field} is ") as refused:
        an.Priors(**{field: value})
    assert "\n" not in str(refused.value)


def test_the_default_priors_and_their_edges_are_taken():
    edges = an.Priors(rho=(0.4, 0.4), ceiling=np.float64(1.0), R0=(-5.0, 1e-6), C_mid=[0.1, 2.0])
    assert edges.rho == (0.4, 0.4) and an.Priors().rho == (0.0, 1.0)
