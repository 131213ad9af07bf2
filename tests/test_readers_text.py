"""Text logs of other programs: every row of the file and no other, each cell as it stands there; the rest is counted.

Oracles are the json and csv modules, the programs' own history where the program runs here, and the numbers that a
test wrote into a file itself.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.readers import formats
from analysis.readers.lineage import lineages
from analysis.readers.pythondict import parse
from scalerl.runlog import UserError
from tests.made_text_logs import RAY, names, numbers, read, rows, write

LOGS = Path(__file__).parent / "data" / "logs"


# What shipped logs hold


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("trl_gsm8k_250", 250),
        ("trl_50_a2_vi_42", 10),
        ("trl_50_a3_enlang_42", 10),
        ("trl_50_reproduce_openrs_rs2_42", 10),
    ],
)
def test_a_trainer_state_is_its_history(name, count):
    path = LOGS / f"{name}.trainer_state.json"
    found = read(path, "trainer-state")
    state = json.loads(path.read_text())
    assert rows(found) == state["log_history"]
    assert len(found.table.lines) == count
    assert found.label.name == name
    assert found.step == "step"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.rates == ()  # no evaluation in any, and a sum of rewards is no pass rate
    assert found.header["max_steps"] == state["max_steps"]
    lines = path.read_text().splitlines()
    assert all(lines[line - 1].strip() == "{" for line in found.table.lines)


def test_the_console_of_two_runs_is_that_of_their_table():
    found = read(LOGS / "qwen3_math_console.txt", "console")
    with (LOGS.parent / "qwen3_math_two_runs_in_one.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert len(told) == len(found.table.lines) == 505
    assert list(found.table.lines) == list(range(1, 506))
    for row, other in zip(rows(found), told, strict=True):
        assert (row["step"], row["total_steps"]) == (int(other["step"]), int(other["total_steps"]))
        for name, digits in (("loss", 2), ("reward_avg", 3), ("tokens_per_sec", 1), ("avg_response_len", 1)):
            assert row[name] == pytest.approx(float(other[name]), abs=0.5001 * 10**-digits)


# TRL, by its own trainer


@pytest.fixture(scope="module")
def trl_run(tmp_path_factory, chain_model):
    """A run of two steps, killed, and gone on with to the third; what it printed, and its history."""
    pytest.importorskip("trl", reason="needs the extra peers")
    import contextlib

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    out = tmp_path_factory.mktemp("trl") / "grpo_seed3"

    def right(prompts, completions, **more):
        return [float(len(text) % 2) for text in completions]

    def trained(steps, resume):
        sizes = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 6}
        often = {"save_steps": 1, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
        plain = {"use_cpu": True, "bf16": False, "report_to": "none", "seed": 0, "per_device_eval_batch_size": 4}
        config = GRPOConfig(output_dir=str(out), max_steps=steps, **sizes, **often, **plain)
        items = Dataset.from_list([{"prompt": f"{i}+{i}="} for i in range(4)])
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(chain_model, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(chain_model),
            reward_funcs=right,
            args=config,
            train_dataset=items,
            eval_dataset=items,
        )
        with (
            (out.parent / "console.log").open("a") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            trainer.train(resume_from_checkpoint=resume)
            trainer.save_state()
        return trainer.state.log_history

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of TRL and its packages among each other
        first = trained(2, None)
        second = trained(3, True)
    return out, first, second


def pairs(history):
    return {
        (row["step"], name, value)
        for row in history
        if "train_runtime" not in row
        for name, value in row.items()
        if name != "step"
    }


def test_trl_is_read_back_without_a_differing_pair(trl_run):
    out, _, history = trl_run
    found = read(out, "trainer-state")
    state = json.loads((out / "trainer_state.json").read_text())
    assert pairs(rows(found)) ^ pairs(state["log_history"]) == set()
    assert pairs(rows(found)) ^ pairs(history) == set()
    assert (found.label.recipe, found.label.seed) == ("grpo", 3)
    assert found.starts == ()
    assert found.rates == ("eval_rewards/right/mean",)
    assert found.header["checkpoints"] == {"read": 4, "agree": 4, "branches": 0}
    assert found.dropped == {"summary of a training": 1}
    assert "train_runtime" not in found.table.columns
    assert found.header["summary"]["train_runtime"] == history[-1]["train_runtime"]


def test_trl_is_read_back_from_its_console(trl_run):
    out, first, second = trl_run
    found = read(out.parent / "console.log", "trl-console")
    histories = [*(row for row in first if "train_runtime" not in row), *second[len(first) - 1 :]]
    printed = [row for row in histories if "train_runtime" not in row]
    told = rows(found)
    assert len(told) == len(printed) == 6
    assert found.step == "step"
    assert [f.code for f in found.findings] == ["step-derived"]
    for row, other in zip(told, printed, strict=True):
        shown = {name: value for name, value in other.items() if name != "total_flos"}
        assert row == {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in shown.items()}
    assert found.dropped["summary of a training"] == 2


# Checkpoints


def state(path, history, step):
    return write(path, json.dumps({"global_step": step, "log_history": history, "max_steps": 9}))


def test_checkpoints_that_agree_are_one_run(tmp_path):
    history = [{"step": i, "loss": math.nan if i == 2 else i / 3} for i in range(1, 7)]
    for step in (2, 4, 6):
        state(tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json", history[:step], step)
    found = read(tmp_path / "run", "trainer-state")
    assert found.table.columns["step"] == [1, 2, 3, 4, 5, 6]
    assert found.starts == ()
    assert found.header["checkpoints"] == {"read": 3, "agree": 3, "branches": 0}


def test_a_dead_branch_is_an_attempt_that_the_run_took_back(tmp_path):
    lived = [{"step": i, "loss": 1.0 * i} for i in range(1, 9)]
    died = [*lived[:2], *({"step": i, "loss": -1.0 * i} for i in range(3, 7))]
    for step, history in ((2, lived), (4, died), (6, died), (8, lived)):
        state(tmp_path / f"checkpoint-{step}" / "trainer_state.json", history[:step], step)
    found = read(tmp_path, "trainer-state")
    assert found.table.columns["step"] == [1, 2, 3, 4, 5, 6, *range(3, 9)]
    assert found.table.columns["loss"] == [1, 2, -3, -4, -5, -6, *range(3, 9)]
    assert found.starts == (6,)
    assert found.header["checkpoints"] == {"read": 4, "agree": 2, "branches": 1}
    (run,) = lineages(found)
    assert run.table.columns["loss"] == list(range(1, 9))
    assert [lost.columns["loss"] for lost in run.lost] == [[-3, -4, -5, -6]]


def test_two_branches_leave_the_run_where_they_did(tmp_path):
    lived = [{"step": i, "loss": 1.0 * i} for i in range(1, 9)]
    early = [*lived[:2], {"step": 3, "loss": -3.0}]
    late = [*lived[:5], {"step": 6, "loss": -6.0}, {"step": 7, "loss": -7.0}]
    for history in (early, late, lived):
        state(tmp_path / f"checkpoint-{len(history)}" / "trainer_state.json", history, len(history))
    found = read(tmp_path, "trainer-state")
    assert found.table.columns["loss"] == [1, 2, -3, 3, 4, 5, -6, -7, 6, 7, 8]
    assert found.starts == (3, 8)
    (run,) = lineages(found)
    assert run.table.columns["loss"] == list(range(1, 9))
    assert sum(len(lost.lines) for lost in run.lost) == 3


def test_a_checkpoint_that_was_cut_is_named_and_the_others_are_read(tmp_path):
    state(tmp_path / "checkpoint-2" / "trainer_state.json", [{"step": 1, "loss": 0.5}], 2)
    write(tmp_path / "checkpoint-4" / "trainer_state.json", '{"global_step": 4, "log_history": [{"step": 1,')
    found = read(tmp_path, "trainer-state")
    assert rows(found) == [{"step": 1, "loss": 0.5}]
    assert found.dropped == {"unreadable checkpoint": 1}
    (said,) = found.findings
    assert "checkpoint-4/trainer_state.json:1: not JSON" in said.message


def test_a_value_that_lies_across_two_blocks_of_the_file_is_whole(tmp_path):
    for pad in range((1 << 16) - 60, 1 << 16):
        text = json.dumps(
            {"pad": "x" * pad, "global_step": 1234567, "log_history": [{"step": 1, "a": 0.5}], "end": -12}
        )
        (found,) = formats.read_as("trainer-state", write(tmp_path / "trainer_state.json", text))
        assert (found.header["global_step"], found.header["end"], rows(found)) == (
            1234567,
            -12,
            [{"step": 1, "a": 0.5}],
        )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"global_step": 1, "log_history": []}', "its log_history is empty"),
        ('{"global_step": 1,\n"log_history": [3]}', ":2: log_history holds something that is no row"),
        ('{"global_step": 1, "log_history": [{"step": 1}', ":1: not JSON: the file breaks off here"),
        ('{"log_history": [' + "[" * 100_000, ":1: not JSON: nested too deep"),
    ],
)
def test_a_broken_trainer_state_is_one_error(tmp_path, text, what):
    path = write(tmp_path / "trainer_state.json", text)
    with pytest.raises(UserError) as error:
        formats.read_as("trainer-state", path)
    assert str(error.value).startswith(f"{path}:")
    assert what in str(error.value)


VERL = [
    "{'actor_rollout_ref': {'rollout': {'n': 5, 'n_gpus_per_node': 1}},",
    " 'trainer': {'balance_batch': True,",
    "             'n_gpus_per_node': 8,",
    "             'nnodes': 2,",
    "             'total_epochs': 15},",
    " 'worker': {'nnodes': 7}}",
    "Next step: 7 - we train",
    "step:0 - val-core/openai/gsm8k/acc/mean@4:0.25 - val-core/openai/gsm8k/acc/best@4/mean:0.5",
    "step:1 - critic/rewards/mean:np.float64(0.494) - actor/lr:1e-06 - timing_s/step:61.5 - perf/total_num_tokens:123",
    "resumed at step:1 - from disk",
    "step:2 - critic/rewards/mean:0.5 - actor/entropy:nan - timing_s/step:60.25(WorkerDict pid=3126) saving",
    "step:2 - val-core/openai/gsm8k/acc/mean@4:0.375 - val/shop_task_score (not success_rate):0.740Train: 13%|# 2/15",
]


def test_verl_prints_a_row_behind_prefixes_and_colours(tmp_path):
    path = write(tmp_path / "grpo_s1.log", "".join(f"{RAY}{line}\n" for line in VERL))
    found = read(path, "verl-console")
    told = rows(found)
    assert math.isnan(told[2].pop("actor/entropy"))
    assert told == [
        {"step": 0, "val-core/openai/gsm8k/acc/mean@4": 0.25, "val-core/openai/gsm8k/acc/best@4/mean": 0.5},
        {
            "step": 1,
            "critic/rewards/mean": 0.494,
            "actor/lr": 1e-06,
            "timing_s/step": 61.5,
            "perf/total_num_tokens": 123,
        },
        {"step": 2, "critic/rewards/mean": 0.5, "timing_s/step": 60.25},
        {"step": 2, "val-core/openai/gsm8k/acc/mean@4": 0.375, "val/shop_task_score (not success_rate)": 0.74},
    ]
    assert list(found.table.lines) == [8, 9, 11, 12]
    assert found.rates == ("val-core/openai/gsm8k/acc/mean@4",)
    assert found.devices == 16  # those of the trainer, not of what the rollout counts for itself
    assert found.dropped == {"prose": 9}
    assert (found.label.recipe, found.label.seed) == ("grpo", 1)


def test_verl_says_its_devices_on_the_command_line_too(tmp_path):
    command = "+ python3 -m verl.trainer.main_ppo trainer.n_gpus_per_node=4 trainer.nnodes=1 rollout.nnodes=3"
    path = write(tmp_path / "a.log", f"{command}\nstep:1 - a:0.5\n")
    assert read(path, "verl-console").devices == 4


def test_generators_with_devices_of_their_own_leave_the_number_open(tmp_path):
    lines = ["{'rollout': {'n_gpus_per_node': 8, 'nnodes': 1},", *VERL[1:4]]
    path = write(tmp_path / "a.log", "".join(f"{line}\n" for line in [*lines, VERL[8]]))
    assert read(path, "verl-console").devices is None


def test_verls_2024_validation_is_a_rate_too(tmp_path):
    path = write(tmp_path / "a.log", "step:0 - val/test_score/gsm8k:0.125\nstep:1 - timing/step:3.5 - a:1\n")
    assert read(path, "verl-console").rates == ("val/test_score/gsm8k",)


def test_a_first_step_behind_megabytes_of_warnings_is_seen(tmp_path):
    path = write(tmp_path / "a.log", "(pid=1) a warning of vLLM\n" * 100_000 + f"{RAY}step:0 - a:1\n")
    assert rows(read(path, "verl-console")) == [{"step": 0, "a": 1}]


def test_verls_file_logger(tmp_path):
    data = [{"val-core/m/acc/mean@4": 0.5}, {"critic/rewards/mean": 0.25, "timing_s/step": 61.5}]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"step": i, "data": d}) + "\n" for i, d in enumerate(data)))
    found = read(path, "verl-file")
    assert rows(found) == [{"step": i, **d} for i, d in enumerate(data)]
    assert found.rates == ("val-core/m/acc/mean@4",)


# TRL's console, written here


def test_trls_console_with_values_in_quotes_and_bars_on_one_line(tmp_path):
    text = "Loading: 100%|####| 25/25 [00:00<00:00]\n"
    for step in (5, 10, 15):
        bar = f"\r {step}%|#    | {step}/100 [00:50<14:12, 9.1s/it]"
        text += (
            f"{bar}\r          \r{{'loss': '0', 'reward': '0.{step}', 'note': None, 'epoch': '{step / 100}'}}\n{bar}"
        )
    found = read(write(tmp_path / "a.log", text + "\n"), "trl-console")
    assert found.table.columns["reward"] == [0.5, 0.1, 0.15]
    assert found.table.columns["step"] == [5, 10, 15]
    assert [f.code for f in found.findings] == ["step-derived"]


def test_steps_are_not_read_from_bars_that_were_printed_long_before(tmp_path):
    """Standard output that waits in a buffer: rows of several steps behind one bar."""
    row, bar = "{{'loss': 0.5, 'epoch': {}}}\n", "\r 1%|#| {}/30000 [00:50<14:12, 9.1s/it]\n"
    text = bar.format(300) + row.format(0.0100) + row.format(0.0101) + bar.format(400) + row.format(0.0134)
    assert read(write(tmp_path / "a.log", text), "trl-console").step is None


def test_steps_are_not_read_from_bars_that_contradict_the_epochs(tmp_path):
    bars = "".join(f"\r 1%|#| {step}/100 [00:50<14:12, 9.1s/it]" for step in (1, 2, 3))
    text = f"{bars}\n" + "".join(f"{{'loss': 0.5, 'epoch': {epoch}}}\n" for epoch in (0.2, 0.4, 0.6))
    found = read(write(tmp_path / "a.log", text), "trl-console")
    assert found.step is None
    assert "step" not in found.table.columns
    assert found.findings == ()


@given(st.dictionaries(names, numbers, min_size=1))
def test_a_printed_dict_is_read_as_it_was(cells):
    text = f"before {cells} behind"
    assert parse(text, 7) == (cells, len(text) - 7)


@given(st.dictionaries(names, numbers | st.lists(st.integers(), max_size=3) | st.tuples(st.floats()), min_size=1))
def test_lists_in_a_printed_dict_are_stepped_over(cells):
    parsed = parse(str(cells))
    assert parsed == ({name: v for name, v in cells.items() if not isinstance(v, (list, tuple))}, len(str(cells)))


@pytest.mark.parametrize(
    "text",
    [
        "{'a': 'x' 'y'}",
        "{" * 10_000,
        "{'a': " * 10_000,
        "{'a': [" + "(" * 100_000,
        "{'a" + "\\" * 100_000,
        "{'a': " + " " * 100_000,
        "{'a': 1" + "1" * 100_000,
    ],
)
def test_deep_and_long_dicts_cost_no_more_than_their_length(text):
    assert parse(text) is None
