"""Calls of the verbs in Python: one value or several, numbers of numpy, one sentence for what makes no sense."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import analysis as an
from scalerl.cli import main
from tests.made import as_run, noisy


@pytest.fixture(scope="module")
def fits():
    runs = [
        replace(noisy(i, k=4.0, A=A), name=name, recipe=name) for i, (name, A) in enumerate([("a", 0.7), ("b", 0.6)])
    ]
    return an.fit(runs)


def test_numbers_of_numpy_and_single_values_mean_what_they_say(fits):
    one = fits[0]
    rows = [an.forecast(one, at).rows[0] for at in (12, np.int64(12), np.float32(12), [np.int64(12)], "12")]
    assert len({row.pass_rate for row in rows}) == 1
    told = [an.compare(fits, at=at).rows[0].rates[0].compute for at in ("2X", "2x", ["2x"], np.float64(16.0), 16)]
    assert told == [16.0] * 5
    usual = an.compare(fits)
    assert an.compare(fits, at=None).rows[0].rates == usual.rows[0].rates
    assert an.compare(fits, target=np.float32(0.5)).pairs[0].to[0].target == 0.5
    plans = [
        an.plan(one, budgets=2, futures=np.int64(2), until=u)[0].gain_until for u in ("2x", 16, np.float64(16.0), None)
    ]
    assert plans == [plans[0]] * 4
    assert an.check(fits)["a"].checks == an.check([f.run for f in fits])["a"].checks


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: an.compare(f[0]), "1 recipe"),
        (lambda _: an.compare("runs"), "compare takes runs or fits, not 'runs'"),
        (lambda f: an.compare([*f, "runs"]), "'runs' is none"),
        (lambda _: an.compare(pd.DataFrame({"a": [1]})), "read_frame"),
        (lambda f: an.compare(f, level=None), "level: None"),
        (lambda f: an.compare(f, target="0.5"), "target: '0.5' is not a number"),
        (lambda f: an.compare(f, recipes=["a"]), "recipes: is no mapping"),
        (lambda f: an.compare(f, seed_sd="0.02"), "seed_sd: '0.02' is not a number"),
        (lambda f: an.compare(f, at=object), "at: <class 'object'> is neither"),
        (lambda f: an.compare(f, at=[True]), "at: True is neither"),
        (lambda f: an.compare(f, at="1e308x"), "at: 1e308x is farther than can be computed with"),
        (lambda f: an.compare(f, by=None), "by: None"),
        (lambda f: an.forecast(f[0], "1e308x"), "at: 1e308x is farther"),
        (lambda f: an.forecast(f[0], 1e305), "farther"),
        (lambda _: an.forecast(3, "2x"), "forecast takes runs or fits, not 3"),
        (lambda f: an.forecast(f[0], None), "nothing to forecast"),
        (lambda f: an.plan(f, futures=2.5), "futures: 2.5 is not a whole number"),
        (lambda f: an.plan(f, until="soon"), "until: 'soon'"),
        (lambda f: an.plan(f, until="1e308x"), "until: 1e308x is farther"),
        (lambda f: an.plan(f, seed=-1), "seed: -1"),
        (lambda f: an.plan(f, budgets=None), "budgets"),
        (lambda f: an.plan(f, seeds=None), "seeds"),
        (lambda f: an.plan(f, reach="2"), "reach: '2' is not a number"),
        (lambda _: an.plan("runs"), "plan takes runs or fits"),
        (lambda _: an.check("runs"), "check takes runs or fits, not 'runs'; read files with analysis.read"),
        (lambda f: an.check(f, effect="0.1"), "effect: '0.1' is not a number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(fits, call, words):
    with pytest.raises(an.UserError) as error:
        call(fits)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_run_whose_compute_never_leaves_0_is_said_to_be_one(tmp_path, capsys):
    still = as_run(np.zeros(30), np.linspace(0.1, 0.5, 30))
    told = an.forecast(still)
    assert {row.multiple for row in told.rows} == {None} and "inf" not in repr(told)
    json.dumps(an.Forecasts([told]).to_dict(), allow_nan=False)
    assert an.Forecasts([told]).frame["multiple"].isna().all()
    plan = an.plan(still)
    assert (plan.horizon, plan[0].until, plan[0].verdict) == (None, None, None)
    assert "its compute never leaves 0" in repr(plan) or "compute" in plan[0].findings[-1].message
    file = tmp_path / "still.csv"
    file.write_text("\n".join(["gpu_hours,accuracy", *(f"0,{0.1 + i / 100}" for i in range(30))]))
    for argv in (["forecast", str(file)], ["watch", str(file), "--once"], ["plan", str(file)]):
        assert main([*argv, "--json"]) in {0, 1}
        json.loads(capsys.readouterr().out)


def test_a_step_that_never_moves_leaves_the_noise_to_compute():
    run, plain = noisy(0), an.fit(noisy(0))
    stuck = replace(run, data={**run.data, "step": np.full(len(run), 7.0)}, axes=("gpu_hours", "step"))
    assert an.fit(stuck).params == plain.params
    assert an.plan(stuck, budgets=[2], futures=2)[0].budgets == an.plan(run, budgets=[2], futures=2)[0].budgets


def test_a_closed_output_is_no_error(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("\n".join(["gpu_hours,accuracy", *(f"{i},{0.1 + i / 100}" for i in range(20))]) + "\n")
    for argv in (["check", str(file), "--json"], ["watch", str(file)]):
        call = f"import sys; from scalerl.cli import main; sys.exit(main({argv!r}))"
        ended = subprocess.run(
            ["sh", "-c", f"exec {shlex.quote(sys.executable)} -c {shlex.quote(call)} >&-"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_options_of_a_figure_are_refused_without_one_and_nothing_is_no_figure(tmp_path, capsys):
    out = tmp_path / "x.png"
    for argv, words in (
        (["--figure", "line"], "read with -o"),
        (["--full", "nope"], "read with -o"),
        (["--full", "nope", "-o", str(out)], "leave-one-out"),
        (["--full", "nope", "--figure", "leave-one-out", "-o", str(out)], "nope"),
    ):
        assert main(["compare", "data/runs", "--seed-sd", ".02", *argv]) == 2
        assert words in capsys.readouterr().err and not out.exists()
    one = tmp_path / "one.csv"
    one.write_text("gpu_hours,accuracy\n1,0.5\n")
    assert main(["forecast", str(one), "-o", str(out)]) == 1
    assert not out.exists() and "wrote" not in capsys.readouterr().out
