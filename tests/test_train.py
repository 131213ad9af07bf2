"""A run from start to end: same seed, same log; evaluations disturb nothing; what is promised is in the rows."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scalerl.policy import load_policy, new_policy
from scalerl.runlog import COMPUTE_AXES, EVAL_FIELDS, STEP_FIELDS, TIME_FIELDS, UserError, read_header, read_log
from scalerl.tasks import get_task
from scalerl.train import multiplying_weights, train


def rows_of(folder: Path, kind: str | None = None) -> list[dict]:
    return [row for row in read_log(folder / "log.jsonl").rows if kind in (None, row["kind"])]


def untimed(rows: list[dict]) -> list[dict]:
    """Rows without the listed time fields; any other field, new ones too, stays and is compared."""
    return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows]


@pytest.fixture
def run(quick, prompts, tmp_path):
    def make(name: str = "run", *, recipe: str = "scalerl", log_file=None, report=lambda _: None, **fields) -> Path:
        return train(
            quick(recipe, **fields), str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / name),
            log_file=log_file, report=report,
        )  # fmt: skip

    return make


def test_same_seed_same_log_and_another_seed_another(run):
    one, two, other = run("one", seed=3), run("two", seed=3), run("other", seed=4)
    assert untimed(rows_of(one)) == untimed(rows_of(two))
    assert untimed(rows_of(one, "step")) != untimed(rows_of(other, "step"))
    assert (one / "samples.jsonl").read_bytes() == (two / "samples.jsonl").read_bytes()
    weights = [load_policy(str(folder / "model")).model.state_dict() for folder in (one, two)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_the_two_recipes_differ(run):
    assert untimed(rows_of(run("a"), "step")) != untimed(rows_of(run("b", recipe="grpo"), "step"))


def test_another_evaluation_interval_leaves_the_step_rows_as_they_are(run):
    often = run("often", eval_every=1, eval_generations=5)
    seldom = run("seldom", eval_every=4)
    assert untimed(rows_of(often, "step")) == untimed(rows_of(seldom, "step"))
    assert [row["step"] for row in rows_of(often, "eval")] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows_of(seldom, "eval")] == [0, 4]


def test_rows_hold_the_described_fields_and_no_other(run):
    folder = run()
    meters = set(COMPUTE_AXES) | {"kind"}
    for kind, fields in (("step", STEP_FIELDS), ("eval", EVAL_FIELDS)):
        rows = rows_of(folder, kind)
        assert rows
        for row in rows:
            assert set(row) == set(fields) | meters
    first, last = rows_of(folder, "eval")[0], rows_of(folder, "eval")[-1]
    assert all(first[axis] == 0 for axis in COMPUTE_AXES)
    assert last["step"] == 4 and last["n_prompts"] == 8 and last["k"] == 2 and last["sampling_seed"] == 0
    assert [row.get("event") for row in rows_of(folder, "event")] == ["start", "end"]
    header = read_header(folder)
    assert header["config"]["learning_rate"] == 2e-4 and header["devices"] == {"kind": "cpu process", "count": 1}
    assert "one process counts as one device" in header["note"]
    assert len(header["checkpoint"]["sha256"]) == len(header["data"]["eval"]["sha256"]) == 64
    assert last["prompt_set"] == header["data"]["eval"]["sha256"]


def test_compute_grows_and_adds_up(run):
    folder = run(learning_rate="1e-3")
    rows = [row for row in rows_of(folder) if row["kind"] != "event"]
    for axis in COMPUTE_AXES:
        values = [row[axis] for row in rows]
        assert values == sorted(values) and values[-1] > values[0], axis
    steps = rows_of(folder, "step")
    assert steps[-1]["tokens_generated"] == pytest.approx(sum(row["length_mean"] * 32 for row in steps))
    assert 0 < steps[-1]["tokens_trained"] < steps[-1]["tokens_generated"]  # the filter left some prompts out
    for row in steps:
        assert row["reward_count"] == 32 and row["prompts"] == 8
        mean = row["reward_sum"] / 32
        assert row["reward_var"] == pytest.approx(1 - mean**2)  # rewards are +1 and -1


def test_flops_agree_with_torchs_own_counter():
    """2 N a generated and 6 N a trained token, attention left out, against the operations that torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    policy = load_policy("data/checkpoints/chain")
    counter = FlopCounterMode(display=False)
    ids = torch.randint(3, 15, (4, 30))
    with counter:
        policy.model(input_ids=ids).logits.sum().backward()
    attention = sum(
        count
        for name, count in counter.get_flop_counts()["Global"].items()
        if "attention" in str(name) or "bmm" in str(name)
    )
    backbone, head = multiplying_weights(policy.model)
    assert 6 * (backbone + head) * ids.numel() == pytest.approx(counter.get_total_flops() - attention, rel=0.003)


def test_the_csv_holds_the_evaluations(run, tmp_path):
    path = tmp_path / "sub" / "evals.csv"
    folder = run(log_file=str(path))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    logged = rows_of(folder, "eval")
    assert [float(r["gpu_hours"]) for r in rows] == pytest.approx([r["gpu_hours"] for r in logged], rel=1e-3, abs=1e-5)
    assert (
        [float(r["accuracy"]) for r in rows]
        == [float(r["pass_rate"]) for r in rows]
        == [r["pass_rate"] for r in logged]
    )


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 3}, 3),
        ({"max_steps": "null", "max_epochs": 1.0}, 3),
        ({"max_steps": "null", "max_gpu_hours": "1e-6"}, 1),
    ],
)
def test_a_run_stops_at_the_first_limit(run, limits, steps):
    folder = run(**limits)
    assert [row["step"] for row in rows_of(folder, "step")] == list(range(1, steps + 1))
    assert rows_of(folder, "eval")[-1]["step"] == steps


def test_prompts_are_walked_in_epochs(run, prompts):
    folder = run(max_steps=7)
    assert [row["epoch"] for row in rows_of(folder, "step")] == pytest.approx([n * 8 / 24 for n in range(1, 8)])


def test_the_final_model_is_a_hugging_face_directory_that_was_trained(run):
    folder = run(learning_rate="1e-3", recipe="grpo", max_steps=6)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.decode(tokenizer("7+3*4-2=", add_special_tokens=False)["input_ids"]) == "7+3*4-2="
    start = AutoModelForCausalLM.from_pretrained("data/checkpoints/chain").state_dict()
    assert all(row["grad_norm"] > 0 for row in rows_of(folder, "step"))
    assert any((value != start[name]).any() for name, value in model.state_dict().items())


def test_a_tied_head_stays_tied_through_training_and_saving(quick, prompts, tmp_path):
    new_policy(get_task("chain").characters, max_length=72, width=32, heads=2, tie_word_embeddings=True).save(
        tmp_path / "tied"
    )
    config = quick("grpo", model_name=str(tmp_path / "tied"))
    folder = train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "run"))
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert multiplying_weights(model)[1] == model.lm_head.weight.numel()


def test_samples_are_kept_to_read(run):
    folder = run()
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * 4 and {s["step"] for s in samples} == {0, 2, 4}
    assert all(
        s["prompt"].endswith("=") and s["reward"] in (1, -1) and isinstance(s["completion"], str) for s in samples
    )


def test_progress_is_told(run):
    told = []
    run(report=told.append)
    assert [p.step for p in told if not p.evaluated] == [1, 2, 3, 4]
    assert [p.step for p in told if p.evaluated] == [0, 2, 4]
    assert told[-1].fraction == 1 and told[-1].gpu_hours > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name": "nowhere"}, "model_name: there is no directory nowhere"),
        ({"model_name": "./tests"}, "no config.json"),
        ({"prompt_tokens": 5}, "do not have 1 to prompt_tokens = 5 tokens"),
        ({"task": "nothing"}, "there is no task 'nothing'"),
        ({"off_policy_steps": 8}, "on-policy only"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(run, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        run("never", **change)
    assert not (tmp_path / "never").exists()


def test_nothing_is_written_over(run, tmp_path):
    folder = run()
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(UserError, match="holds a run already"):
        run()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    (tmp_path / "mine.csv").write_text("keep me")
    with pytest.raises(UserError, match=r"mine\.csv: exists already"):
        run("second", log_file=str(tmp_path / "mine.csv"))
    assert (tmp_path / "mine.csv").read_text() == "keep me" and not (tmp_path / "second").exists()


def test_a_model_that_goes_wrong_stops_with_its_log_whole(run, chain_model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(chain_model, broken)
    policy = load_policy(str(broken))
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(float("nan"))
    policy.save(broken)
    with pytest.raises(UserError):
        run(model_name=str(broken), recipe="grpo")
    events = [row["event"] for row in rows_of(tmp_path / "run", "event")]
    assert events == ["start", "failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_its_log_whole(prompts, chain_model, tmp_path, number):
    command = [sys.executable, "-m", "scalerl.cli", "train", "--config", "scalerl", "--config", "demo"]
    command += ["--set", f"model_name={chain_model}", "--set", "max_steps=100000", "--set", "eval_every=100000"]
    command += ["--set", "batch_size=32", "--train-data", str(prompts / "train.json")]
    command += ["--eval-data", str(prompts / "eval.json"), "--output-dir", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        log = tmp_path / "run" / "log.jsonl"
        while time.monotonic() < deadline and not (log.exists() and log.read_bytes().count(b"\n") > 4):
            time.sleep(0.05)
        process.send_signal(number)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "Traceback" not in error and "interrupted" in error
    rows, cut = read_log(log)
    assert not cut and rows[-1]["event"] == "interrupted"
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 2
