"""A saved fit comes back with its self-check and with every column of its run as it was."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import analysis as an
from analysis.posteriors.quadrature import Posterior
from tests.made import as_run, noisy


def with_column(values):
    run = noisy(0, n=12)
    return an.fit(as_run(run.data["gpu_hours"], run.data["pass_rate"], extra=values), method="lsq")


def again(fit):
    text = fit.to_json()
    made = an.Fit.from_json(text)
    assert made.to_json() == text
    json.loads(text, parse_constant=pytest.fail)
    return made


def test_a_posterior_comes_back_as_one():
    fit = an.fit(noisy(0, n=12))
    draws = again(fit).draws
    assert type(draws) is Posterior is type(fit.draws) and draws.checks == dict(fit.draws.checks)
    assert np.array_equal(draws.white, fit.draws.white) and draws.effective == fit.draws.effective
    assert type(again(an.fit(noisy(0, n=12), method="bootstrap")).draws) is an.Draws


def test_priors_and_r0_come_back_and_a_file_without_them_has_the_usual_ones():
    priors = an.Priors(log_B=(0.5, 0.3), R0=(0.1, 0.05))
    fit = an.fit(noisy(0, n=12), priors=priors, r0="first")
    assert again(fit).priors == priors and again(fit).r0 == "first"
    old = json.loads(an.fit(noisy(0, n=12), r0=0.12).to_json())
    del old["fits"][0]["priors"], old["fits"][0]["r0"]
    made = an.Fit.from_json(json.dumps(old))
    assert made.priors is None and made.r0 == 0.12


@pytest.mark.parametrize(
    "kind", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool", "float16", "float32"]
)
def test_a_column_keeps_its_kind(kind):
    largest = 1 if kind == "bool" else np.iinfo(kind).max if "int" in kind else 0.1
    column = np.array([0, largest] * 6, dtype=kind)
    found = again(with_column(column)).run.data["extra"]
    assert found.dtype == column.dtype and np.array_equal(found, column)


def test_what_is_missing_or_infinite_in_a_column_stays_so():
    column = np.arange(12.0)
    column[0], column[3], column[4] = math.nan, math.inf, -math.inf
    assert np.array_equal(again(with_column(column)).run.data["extra"], column, equal_nan=True)
    objects = np.empty(12, dtype=object)
    objects[:] = [[math.inf, "inf", 1], {"a": -math.inf}, "inf", None, *range(8)]
    assert again(with_column(objects)).run.data["extra"].tolist() == objects.tolist()
    objects[5] = math.nan
    assert math.isnan(again(with_column(objects)).run.data["extra"][5])


def test_what_must_be_known_is_named_where_it_is_not():
    fit = with_column(np.arange(12.0))
    fit.pass_rate[3] = math.nan
    with pytest.raises(an.UserError, match=r"^column pass_rate: a fit that holds NaN cannot be saved"):
        fit.to_json()
    saved = json.loads(with_column(np.arange(12, dtype=np.uint8)).to_json())
    saved["fits"][0]["run"]["data"]["extra"]["values"][2] = 256
    with pytest.raises(an.UserError, match=r"extra.values\[2\]: 256 is not a whole number of kind uint8"):
        an.Fit.from_json(json.dumps(saved))
    saved["fits"][0]["run"]["data"]["pass_rate"]["values"][2] = None
    with pytest.raises(an.UserError, match="is not a"):
        an.Fit.from_json(json.dumps(saved))
