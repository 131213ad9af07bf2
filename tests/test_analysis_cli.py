"""The commands answer quickly, in text or JSON, and fail in one line without touching anything."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.cli import add_commands
from analysis.curves.curve import R
from scalerl.runlog import RunLog, UserError

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "data" / "paper" / "scalerl_8b_bs2048_100k.csv"
DECAY = ROOT / "tests" / "data" / "qwen3_math_decay.csv"


def command(*argv):
    parser = argparse.ArgumentParser(prog="scalerl")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args([str(a) for a in argv])
    return args.run(args)


def write_run(folder, *, recipe="scalerl", seed=0, A=0.7, n=15):
    rng = np.random.default_rng(seed)
    with RunLog(folder, recipe=recipe, seed=seed) as log:
        for i, c in enumerate(np.linspace(0.0, 8.0, n)):
            correct = rng.binomial(8, R(c, 0.1, A, 1.8, 2.0), size=100)
            log.evaluate(step=i, correct=correct, k=8, gpu_hours=float(c), cpu_s=float(c * 3000), prompt_set="p")
    return folder


def test_fit_prints_a_table_with_unit_limits_standing_and_findings(tmp_path, capsys):
    assert command("fit", write_run(tmp_path / "a")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scalerl/seed0   15 evaluations, 0 to 8 gpu_hours, posterior"
    assert [line.split()[0] for line in lines[1:7]] == ["reach", "A", "A", "B", "C_mid", "R0"]
    assert "gpu_hours" in lines[5] and "usable: P(C_max > 2 C_mid)" in lines[2] and lines[4].endswith("identified")


def test_every_method_can_be_asked_for(tmp_path, capsys):
    from analysis.commands.common import METHODS
    from analysis.fits.methods import METHODS as KNOWN

    assert tuple(KNOWN) == METHODS
    run = write_run(tmp_path / "a")
    for method in METHODS:
        assert command("fit", run, "--method", method, "--skip-below", "0.5", "--json") == 0
        (fitted,) = json.loads(capsys.readouterr().out)["runs"]
        assert fitted["method"] == method and fitted["n"] == 14
        known = method != "paper"
        assert (fitted["params"]["A"]["lo"] is not None) == known
        assert (fitted["grade"] is not None) == known
        assert (fitted["reach"] is not None) <= (method in {"posterior", "bootstrap"})
    assert command("fit", run, "--checklist") == 0
    assert "equation" in capsys.readouterr().out
    with pytest.raises(UserError, match="--checklist"):
        command("fit", run, "--checklist", "--json")


def test_json_is_the_promised_shape_and_holds_no_nan(tmp_path, capsys):
    assert command("fit", write_run(tmp_path / "a"), write_run(tmp_path / "b", recipe="b", n=2), "--json") == 0
    out = capsys.readouterr().out

    def refuse(constant):
        raise AssertionError(constant)

    runs = json.loads(out, parse_constant=refuse)["runs"]
    assert [run["run"] for run in runs] == ["scalerl/seed0", "b/seed0"]
    for run in runs:
        assert list(run) == ["run", "n", "x", "method", "reach", "grade", "params", "findings"]
        assert list(run["params"]) == ["A", "B", "C_mid", "R0"]
        assert all(list(p) == ["value", "lo", "hi", "identified"] for p in run["params"].values())
        assert all(list(f) == ["code", "severity", "message"] for f in run["findings"])
    assert runs[0]["params"]["A"]["identified"] is True
    assert runs[1]["params"]["A"] == {"value": None, "lo": None, "hi": None, "identified": False}
    assert command("fit", tmp_path / "a", tmp_path / "b", "--json") == 0
    assert capsys.readouterr().out == out


def test_what_a_shell_expands_a_pattern_to_is_fitted_and_the_rest_named_in_one_line(tmp_path, capsys):
    write_run(tmp_path / "a")
    (tmp_path / "README.md").write_text("# notes")
    (tmp_path / "prompts").mkdir()
    assert command("fit", *sorted(tmp_path.iterdir())) == 0
    out, err = capsys.readouterr()
    assert out.startswith("scalerl/seed0") and err.count("\n") == 1
    assert str(tmp_path / "README.md") in err and str(tmp_path / "prompts") in err


@pytest.mark.parametrize(
    ("argv", "says"), [(["--y", ""], "--y is empty"), (["--x", ""], "--x is empty"), ([""], "empty")]
)
def test_an_empty_word_is_one_clear_line(tmp_path, argv, says):
    with pytest.raises(UserError, match=says) as error:
        command("fit", write_run(tmp_path / "a"), *argv)
    assert "\n" not in str(error.value)


def test_nothing_fitted_is_exit_code_1_with_the_reason(tmp_path, capsys):
    assert command("fit", write_run(tmp_path / "a", n=2)) == 1
    assert "error    nothing fitted" in capsys.readouterr().out


def test_options_reach_the_fit(capsys):
    command("fit", PAPER, "--from", 5000, "--to", 50000, "--r0", "0.402", "--json")
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert run["n"] == 22 and run["params"]["R0"]["value"] == 0.402
    command("fit", DECAY, "--x", "total_steps", "--y", "eval_acc", "--scale", "0.01", "--json")
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert run["x"] == "total_steps" and "scaled" in [f["code"] for f in run["findings"]]


def test_a_decaying_log_warns_in_text_and_json(capsys):
    command("fit", DECAY, "--y", "eval_acc")
    text = capsys.readouterr().out
    assert "warning  the pass rate falls" in text and "not identified: the run decays" in text


def test_plot_writes_a_picture_and_refuses_to_write_over_it(tmp_path, capsys):
    picture = tmp_path / "fig.png"
    assert command("plot", PAPER, "-o", picture, "--extend", 2) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = picture.read_bytes()
    with pytest.raises(UserError, match="--force"):
        command("plot", PAPER, "-o", picture)
    assert picture.read_bytes() == before
    assert command("plot", PAPER, "-o", picture, "--force") == 0
    for name in ("fig.bmp", "fig"):
        with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
            command("plot", PAPER, "-o", tmp_path / name)


def test_an_output_is_checked_before_any_log_is_read(tmp_path):
    with pytest.raises(UserError, match=r"fig\.gif"):
        command("plot", tmp_path / "missing", "-o", tmp_path / "fig.gif")


@pytest.mark.slow
def test_report_writes_one_file_and_prints_the_comparison(tmp_path, capsys):
    runs = write_run(tmp_path / "a"), write_run(tmp_path / "b", recipe="grpo", A=0.5)
    assert command("report", *runs, "-o", tmp_path / "report.html") == 0
    out = capsys.readouterr().out
    assert "ahead at equal gpu_hours: scalerl" in out and "ahead at equal CPU-seconds: scalerl" in out
    assert "not tested" in out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    with pytest.raises(UserError, match="--force"):
        command("report", *runs, "-o", tmp_path / "report.html")


@pytest.mark.parametrize("argv", [["fit"], ["fit", "a", "--scale", "x"], ["fit", "a", "--to", "nan"], ["plot", "a"]])
def test_a_malformed_command_is_a_usage_error(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(*argv)
    assert stopped.value.code == 2 and "Traceback" not in capsys.readouterr().err


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_importing_the_package_and_the_commands_loads_nothing_heavy():
    heavy = "{'numpy', 'pandas', 'scipy', 'lmfit', 'matplotlib', 'seaborn', 'torch', 'transformers'}"
    code = f"import sys, analysis, analysis.cli; dir(analysis); print(sorted({heavy} & set(sys.modules)))"
    assert python(code).strip() == "[]"


def test_fitting_from_the_command_line_loads_no_plotting_and_no_frame():
    code = (
        "import sys, argparse, analysis.cli as c; p = argparse.ArgumentParser(); c.add_commands(p.add_subparsers()); "
        f"a = p.parse_args(['fit', {str(PAPER)!r}]); a.run(a); "
        "print(sorted({'pandas', 'matplotlib', 'lmfit', 'scipy.stats', 'torch'} & set(sys.modules)))"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_every_public_name_is_there():
    assert python("import analysis as an; print(all(getattr(an, n) is not None for n in an.__all__))").strip() == "True"
    assert python("from analysis import *; print(callable(fit), callable(read))").strip() == "True True"


def test_a_fit_of_a_run_answers_within_two_seconds_cold(tmp_path):
    write_run(tmp_path / "a", n=25)
    code = (
        "import argparse, analysis.cli as c; p = argparse.ArgumentParser(); c.add_commands(p.add_subparsers()); "
        f"a = p.parse_args(['fit', {str(tmp_path / 'a')!r}]); a.run(a)"
    )
    took = []
    for _ in range(3):
        begin = os.times()
        python(code)
        end = os.times()
        took.append(end.children_user + end.children_system - begin.children_user - begin.children_system)
    assert min(took) < 2.0


DOCUMENTED = (
    ("fit", "--json"),
    ("fit", "--by", "difficulty", "--json"),
    ("forecast", "--json"),
    ("plan", "--futures", "2", "--budget", "2", "--json"),
    ("compare", "--seed-sd", "0.02", "--nested", "--json"),
    ("backtest", "--origins", "3", "--json"),
    ("check", "--json"),
    ("watch", "--once", "--json"),
    ("logs", "--json"),
)


def test_docs_json_names_every_schema_and_every_key_that_the_commands_print(tmp_path, capsys):
    """One part for each schema; in it every key on top stands as code."""
    text = (ROOT / "docs" / "json.md").read_text()
    parts = {
        name: part for part in text.split("\n## ")[1:] for name in re.findall(r"[a-z-]+/\d", part.partition("\n")[0])
    }
    source = "".join(p.read_text() for folder in ("analysis", "scalerl") for p in (ROOT / folder).rglob("*.py"))
    written = set(re.findall(r"schema\W{1,8}([a-z-]+/\d)", source, re.IGNORECASE))
    assert len(written) >= 13 and written <= set(parts)
    runs = [write_run(tmp_path / name, recipe=name, A=A) for name, A in (("a", 0.7), ("b", 0.6))]
    seen = set()
    for name, *options in DOCUMENTED:
        command(name, *(runs[:1] if "--by" in options else runs), *options)
        for line in capsys.readouterr().out.splitlines() if name == "watch" else [capsys.readouterr().out]:
            told = json.loads(line)
            words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", parts[told["schema"]]))))
            assert set(told) - {"schema"} <= words, told["schema"]
            seen.add(told["schema"])
    assert len(seen) == len(DOCUMENTED)
