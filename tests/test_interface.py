"""Every command of the interface that people know from the scripts it grew from, typed as written there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import analysis as an
from scalerl.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small configuration of the shipped checkpoint, in which the commands are typed."""
    folder = tmp_path_factory.mktemp("interface")
    small = {
        "model_name": str(Path("data/checkpoints/chain").resolve()),
        "task": "chain", "max_length": 72, "prompt_tokens": 22, "thinking_tokens": 36,
        "solution_tokens": 14, "batch_size": 16, "generations_per_prompt": 4, "eval_every": 1, "eval_generations": 2,
        "max_steps": 6, "learning_rate": 1.0e-4, "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in small.items()))
    return folder


def typed(line: str) -> int:
    return main(line.split())


def test_the_four_commands_one_after_the_other(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert typed("prepare --task chain --output polaris_processed --sizes 32 8 8") == 0
    assert {p.name for p in (place / "polaris_processed").iterdir()} == {"train.json", "eval.json", "test.json"}
    assert (
        typed(
            "train --config config.yaml --train-data polaris_processed/train.json --eval-data "
            "polaris_processed/eval.json --output-dir ./outputs --log-file training_log.csv"
        )
        == 0
    )
    with (place / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert {"gpu_hours", "accuracy"} <= set(rows[0])
    assert (
        typed(
            "evaluate --model-path ./outputs/model --eval-data polaris_processed/test.json --output-file "
            "evaluation_results.json"
        )
        == 0
    )
    found = json.loads((place / "evaluation_results.json").read_text())
    assert found["data"][0]["n_prompts"] == 8
    assert set(found["data"][0]["pass_at_k"]) == {"1", "2"}
    assert typed("check-data --data polaris_processed/train.json --model ./outputs/model --config config.yaml") == 0
    A, B, C_mid = an.plot_training_curves("training_log.csv", output="curve.png")
    assert (place / "curve.png").stat().st_size > 1000
    assert len((A, B, C_mid)) == 3


def test_the_model_of_the_interface_may_be_anywhere(place, monkeypatch, tmp_path):
    """A directory without a run around it, and no configuration: a policy carries its own."""
    import shutil

    monkeypatch.chdir(place)
    shutil.copytree(place / "outputs/model", tmp_path / "M")
    out = tmp_path / "results.json"
    assert typed(f"evaluate --model-path {tmp_path}/M --eval-data polaris_processed/eval.json --output-file {out}") == 0
    found, config = json.loads(out.read_text()), json.loads((place / "outputs/run.json").read_text())["config"]
    assert found["k"] == config["eval_generations"]
    assert found["config"] == {**config, "eval_prompts": None}
