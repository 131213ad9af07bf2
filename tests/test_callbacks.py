"""A Trainer and a GRPOTrainer, killed and resumed: the run folder goes on where it was, trainer_state.json does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import analysis as an
from scalerl.runlog import UserError, read_header, read_log

ROOT = Path(__file__).parent.parent
STEPS, KILLED, SAVED = 6, 5, 4
RATES = {"transformers": "eval_half_hits", "trl": "eval_rewards/right/mean"}

# One process imports once and forks: the first child is killed in a step, the second goes on from the checkpoint.
SCRIPT = """
import os, shutil, signal, sys, warnings
from pathlib import Path
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
from trl import GRPOConfig, GRPOTrainer
from scalerl.callbacks import ScaleRLCallback

top, model, steps, killed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
common = dict(
    max_steps=steps, logging_steps=1, eval_strategy="steps", eval_steps=1,
    save_strategy="steps", save_steps=2, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, seed=3,
    per_device_train_batch_size=8, per_device_eval_batch_size=8, gradient_checkpointing=False,
)
prompts = [{"prompt": p, "answer": a} for p, a in (("3+4-2=", "5"), ("1+1=", "2"), ("9-4=", "5"), ("2+2=", "4"))]

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == killed:
            os.kill(os.getpid(), signal.SIGKILL)

class Own(TrainerCallback):
    "Figures that somebody logs inside a step, and names that the log has itself."
    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.log({"mine": float(state.global_step), "time": 1.5})

def right(completions, answer, **more):
    return [float(a in c) for c, a in zip(completions, answer)]

policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(model)

def make(kind, place, callbacks):
    out = str(place / "out")
    if kind == "trl":
        config = GRPOConfig(output_dir=out, **common, num_generations=4, max_completion_length=8)
        data = Dataset.from_list(prompts)  # its metrics of the two sets have one name: the first is the curve
        return GRPOTrainer(
            model=policy, processing_class=tokenizer, reward_funcs=right, args=config, train_dataset=data,
            eval_dataset={"all": data, "half": data.select(range(2))}, callbacks=callbacks,
        )
    ids = [tokenizer(p["prompt"] + p["answer"])["input_ids"][:5] for p in prompts]
    data = [{"input_ids": i, "labels": i} for i in ids if len(i) == 5] * 4
    def hits(found):
        return {"hits": float((found.predictions.argmax(-1)[:, :-1] == found.label_ids[:, 1:]).mean())}
    args = TrainingArguments(output_dir=out, **common)
    return Trainer(
        model=policy, args=args, train_dataset=data, eval_dataset={"all": data, "half": data[:2]}, callbacks=callbacks,
        compute_metrics=hits,
    )

def train(kind, place, **more):
    rate = "eval_half_hits" if kind == "transformers" else lambda found: found["eval_rewards/right/mean"]
    own = Own()
    log = ScaleRLCallback(place / "run", recipe="mine", pass_rate=rate, devices=4)
    own.trainer = trainer = make(kind, place, [log, own, *([] if more else [Kill()])])
    trainer.train(**more)

for kind in ("transformers", "trl"):
    codes, place = [], top / kind
    for more in ({}, {"resume_from_checkpoint": True}):
        child = os.fork()
        if child == 0:
            try:
                train(kind, place, **more)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        codes.append(str(os.waitpid(child, 0)[1]))
        if not more:
            shutil.copytree(place / "run", place / "killed")
    (place / "codes").write_text(" ".join(codes))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), "data/checkpoints/chain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(STEPS), str(KILLED)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    for kind in ("transformers", "trl"):  # the first was killed, the second ended
        assert (folder / kind / "codes").read_text() == "9 0", done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module", params=["transformers", "trl"])
def place(request, both) -> Path:
    return both / request.param


def rows_of(folder: Path, kind: str) -> list[dict]:
    return [row for row in read_log(folder / "log.jsonl").rows if row["kind"] == kind]


def test_gpu_hours_and_pass_rate_go_on_where_they_were(place):
    before, after = (rows_of(place / name, "eval") for name in ("killed", "run"))
    assert [row["step"] for row in before] == list(range(1, KILLED + 1))
    assert [row["step"] for row in after] == list(range(1, STEPS + 1))
    assert after[:SAVED] == before[:SAVED]  # what the checkpoint knows stays, byte for byte
    assert all(0 <= row["pass_rate"] <= 1 and row["evaluate_s"] > 0 for row in after)
    for kind in ("step", "eval"):
        hours = [row["gpu_hours"] for row in rows_of(place / "run", kind)]
        assert hours == sorted(hours) and hours[0] > 0 and len(set(hours)) == STEPS
    steps = rows_of(place / "run", "step")
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["attempt"] for row in steps] == [1] * SAVED + [2] * (STEPS - SAVED)
    assert all(
        row["loss"] is not None and row["learning_rate"] >= 0 and row["mine"] == row["step"] - 1 for row in steps
    )
    assert all(row["logged_time"] == 1.5 for row in steps)


def test_the_axis_is_wall_time_by_devices_without_evaluations_and_checkpoints(place):
    resume = next(row for row in rows_of(place / "run", "event") if row["event"] == "resume")
    saved = [row for row in rows_of(place / "run", "event") if row["event"] == "saved"]
    steps = {row["step"]: row for row in rows_of(place / "run", "step")}
    assert [row["step"] for row in saved] == [2, 4, 6]
    for row in saved:  # the clock stood still between the row of the step and its checkpoint
        assert row["gpu_hours"] == steps[row["step"]]["gpu_hours"]
    lost = json.loads((place / "run" / "lost" / "attempt-1.jsonl").read_text().splitlines()[0])
    died = rows_of(place / "killed", "step")[-1]["gpu_hours"]
    assert resume["gpu_hours_lost"] == lost["gpu_hours_lost"] == pytest.approx(died - steps[SAVED]["gpu_hours"])
    assert resume["step"] == SAVED and "estimated" not in resume
    assert read_header(place / "run")["devices"] == {"kind": "cpu process", "count": 4}
    total = steps[STEPS]["gpu_hours"] * 3600 / 4
    assert 0 < total < 300 and steps[STEPS]["cpu_s"] > 0


def test_trl_figures_have_the_names_of_the_log(both):
    for row in rows_of(both / "trl" / "run", "step"):
        assert 0 <= row["truncation_rate"] <= 1 and row["length_mean"] > 0 and 0 <= row["zero_variance_share"] <= 1
        assert 0 <= row["rewards/right/mean"] <= 1 and row["num_tokens"] > 0
    assert {(row["n_prompts"], row["k"]) for row in rows_of(both / "trl" / "run", "eval")} == {(4, 4)}


def test_of_several_data_sets_one_is_the_curve(both):
    """The second where its metric is named; the first where both have the same, as in TRL."""
    assert {row["n_prompts"] for row in rows_of(both / "transformers" / "run", "eval")} == {2}
    assert {row["n_prompts"] for row in rows_of(both / "trl" / "run", "eval")} == {4}


def test_trainer_state_alone_has_no_total_and_not_what_was_lost(place):
    """What the reader of such a file makes of it: steps of one branch, and with TRL their seconds added up."""
    state = json.loads((place / "out" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    rows = state["log_history"]
    assert {row["step"] for row in rows if any(name.startswith("eval_") for name in row)} == set(range(1, STEPS + 1))
    (run,) = an.read(place / "run")
    rate = RATES[place.name]
    (alone,) = an.read(place / "out" / f"checkpoint-{STEPS}" / "trainer_state.json", devices=4, y=rate)
    first = {row["step"]: row[rate] for row in reversed(rows) if rate in row}
    assert [first[step] for step in sorted(first)] == run.data["pass_rate"].tolist()
    repeated = "steps-repeated" in {finding.code for finding in alone.findings}
    if place.name == "transformers":  # no time of steps at all
        assert not repeated and alone.data["pass_rate"].tolist() == run.data["pass_rate"].tolist()
        assert "gpu_hours" not in alone.data and "step" in alone.data
    else:
        assert repeated  # TRL's metrics of two data sets have one name there
        seconds = sum(row.get("step_time", 0.0) for row in rows)
        assert alone.data["gpu_hours"][-1] == pytest.approx(seconds * 4 / 3600)
        assert 0 < alone.data["gpu_hours"][-1] < run.data["gpu_hours"][-1]  # the time between steps is missing
    assert "resumed" in {found.code for found in run.findings}
    assert not {"resumed", "work-lost"} & {found.code for found in alone.findings}
    assert sum(row["step"] == KILLED and "loss" in row for row in rows) == 1  # of two updates that were made
    lost = [json.loads(line) for line in (place / "run" / "lost" / "attempt-1.jsonl").read_text().splitlines()]
    assert [(row["kind"], row.get("step")) for row in lost] == [("lost", None), ("step", KILLED), ("eval", KILLED)]
    assert lost[0]["gpu_hours_lost"] > 0


def test_the_analysis_reads_it_as_any_run(place):
    (run,) = an.read(place / "run")
    assert run.name == "mine/seed3" and len(run.data["pass_rate"]) == STEPS
    assert run.data["gpu_hours"].tolist() == [row["gpu_hours"] for row in rows_of(place / "run", "eval")]
    assert "resumed" in {finding.code for finding in run.findings} and run.end_time is not None


def test_other_processes_than_the_first_write_nothing(tmp_path, caplog):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from scalerl.callbacks import ScaleRLCallback

    args, control = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, seed=7), TrainerControl()
    log = ScaleRLCallback(tmp_path / "run", recipe="mine", pass_rate="eval_right")  # noqa: S106
    state = TrainerState(is_world_process_zero=False)
    for event in ("train_begin", "step_begin", "step_end", "log", "evaluate", "save", "train_end"):
        getattr(log, f"on_{event}")(args, state, control)
    assert not (tmp_path / "run").exists()
    state = TrainerState(is_world_process_zero=True)
    log.on_train_begin(args, state, control)
    log.on_evaluate(args, state, control, metrics={"eval_wrong": 0.5, "eval_loss": 1.0})
    with pytest.raises(UserError, match="no metric 'eval_right'; it has eval_loss, eval_wrong"):
        log.on_step_begin(args, state, control)
    log.on_train_end(args, state, control)
    assert "no metric 'eval_right'" in caplog.text
    header = read_header(tmp_path / "run")
    assert header["devices"]["count"] == 1 and header["seed"] == 7 and header["config"]["learning_rate"] == 5e-5


def test_once_the_metric_was_there_evaluations_without_it_are_passed_over(tmp_path):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from scalerl.callbacks import ScaleRLCallback

    args, control = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True), TrainerControl()
    state = TrainerState(is_world_process_zero=True)
    log = ScaleRLCallback(tmp_path / "run", recipe="mine", pass_rate="eval_b_right")  # noqa: S106
    log.on_train_begin(args, state, control)
    for step, found in [
        (0, {"eval_a_right": 0.5}),
        (0, {"eval_b_right": 0.25, "eval_b_runtime": 1.5}),
        (0, {"eval_b_right": 0.75}),  # again at the same step
        (1, {"eval_a_right": 0.5}),
        (2, {"eval_a_right": 0.5}),
        (2, {"eval_b_right": 0.5, "eval_b_runtime": 2.5}),
    ]:
        state.global_step = step
        log.on_evaluate(args, state, control, metrics=found)
        if "eval_b_runtime" in found or step == 1:
            log.on_step_begin(args, state, control)
    log.on_train_end(args, state, control)
    evals = rows_of(tmp_path / "run", "eval")
    assert [(row["step"], row["pass_rate"], row["evaluate_s"]) for row in evals] == [(0, 0.25, 1.5), (2, 0.5, 2.5)]
