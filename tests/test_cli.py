"""The command line: what works is typed as documented, what does not is one line and a non-zero exit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scalerl.cli import main, make_parser
from scalerl.config import ScaleRLConfig
from scalerl.ranks import meeting_place
from scalerl.runlog import UserError


def test_prepare_train_fit_as_documented(tmp_path, chain_model, capsys):
    data, run = tmp_path / "prompts", tmp_path / "run"
    assert main(["prepare", "--task", "chain", "--output", str(data), "--sizes", "24", "8", "8"]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(f"model_name: {chain_model}\nbatch_size: 16\ngenerations_per_prompt: 4\neval_every: 1\n")
    train = ["train", "--config", "scalerl", "--config", "demo", "--config", str(config)]
    train += ["--train-data", str(data / "train.json"), "--eval-data", str(data / "eval.json")]
    train += ["--output-dir", str(run), "--log-file", str(tmp_path / "log.csv"), "--seed", "5", "--set", "max_steps=6"]
    assert main(train) == 0
    told = capsys.readouterr()
    assert f"wrote {run}" in told.out and told.err.count("pass rate") == 7 and "done" in told.err
    assert json.loads((run / "run.json").read_text())["seed"] == 5
    main(["fit", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["n"] == 7
    assert main(train) == 2
    assert capsys.readouterr().err.startswith(f"scalerl: {run}: holds a run already")


def test_recipes_and_fields_are_listed(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("scalerl", "grpo", "demo"))
    assert main(["recipes", "--fields"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} = " in listed for name in ScaleRLConfig.model_fields)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prepare", "--task", "chess", "--output", "x"], "there is no task 'chess'"),
        (["prepare", "--task", "chain", "--output", "x", "--sizes", "10", "0", "5"], "sizes start at 1"),
        (["warmup", "--task", "chain", "--output", "x", "--width", "3"], "a width that 8 divides"),
        (["demo", "--steps", "0"], "max_steps: 0"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file"),
        (["train", "--config", "demo", "--set", "batch_sise=1"], "did you mean batch_size?"),
        (["train", "--config", "demo", "--set", "max_steps=9O"], "max_steps: '9O'"),
        (["train"], "set at least one, or the run would never end"),
        (["train", "--config", "scalerl", "--config", "demo"], "t.json: cannot be read"),
        (["fit", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_each_and_no_traceback(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if argv[0] == "train":
        argv = [*argv, "--train-data", "t.json", "--eval-data", "e.json", "--output-dir", "out"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and all(line.startswith("scalerl: ") for line in error.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "usage", "message"),
    [
        (
            ["fit", "x", "--metod", "lsq"],
            "scalerl fit ",
            "scalerl fit: error: unknown: --metod lsq; did you mean --method?",
        ),
        (["simulate", "oops"], "scalerl simulate ", "scalerl simulate: error: unknown: oops\n"),
        (["--foo", "fit", "x"], "scalerl ", "scalerl: error: unknown: --foo\n"),
    ],
)
def test_what_a_command_does_not_know_comes_with_its_own_usage(argv, usage, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(f"usage: {usage}") and message in error


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "scalerl.cli", "--debug", "prepare", "--task", "chess", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_a_warm_up_can_be_made_and_used(tmp_path, capsys):
    """Two steps only; what ships was made with the full schedule."""
    short = ["--width", "32", "--steps", "2"]
    assert main(["warmup", "--task", "addition", "--output", str(tmp_path / "m"), *short]) == 0
    assert "parameters" in capsys.readouterr().out
    long = ["warmup", "--task", "long-chain", "--output", str(tmp_path / "long"), *short]
    assert main(long) == 2
    assert "--max-length 80: a demonstration has" in capsys.readouterr().err and not (tmp_path / "long").exists()
    assert main([*long, "--max-length", "104"]) == 0
    assert json.loads((tmp_path / "long/config.json").read_text())["max_position_embeddings"] == 104
    assert main(["warmup", "--task", "addition", "--output", str(tmp_path / "m")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_every_command_and_option_says_what_it_is_for():
    (commands,) = (action for action in make_parser()._actions if isinstance(action.choices, dict))
    assert len(commands.choices) >= 18
    for name, parser in commands.choices.items():
        assert parser.description, name
        assert [a.dest for a in parser._actions if not a.help and a.dest != "shell"] == [], name
        assert max(map(len, parser.format_usage().splitlines())) <= 100


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: 'two' is not a whole number from 1; torchrun sets it"),
        ({"RANK": "2"}, "RANK: '2' is not a whole number from 0 to 1; torchrun sets it"),
        ({"RANK": "-1"}, "RANK: '-1' is not a whole number from 0 to 1; torchrun sets it"),
    ],
)
def test_what_torchrun_would_not_have_set_is_told_in_one_line(told, line, tmp_path, monkeypatch, capsys):
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"} | told).items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--output-dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"scalerl: {line}")


def test_a_meeting_place_without_a_port_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UserError, match=r"^MASTER_PORT: '' is not a whole number from 0 to 65535; torchrun sets it"):
        meeting_place()
