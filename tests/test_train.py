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

from scalerl.describe import multiplying_weights
from scalerl.learner import Learner
from scalerl.policy import load_policy, new_policy
from scalerl.runlog import COMPUTE_AXES, EVAL_FIELDS, STEP_FIELDS, TIME_FIELDS, UserError, read_header, read_log
from scalerl.start import train
from scalerl.tasks import get_task


def rows_of(folder: Path, kind: str | None = None) -> list[dict]:
    return [row for row in read_log(folder / "log.jsonl").rows if kind in (None, row["kind"])]


BESIDE = {
    *("generator_busy_s", "generator_sync_s", "weight_sync_s", "generator_gpu_hours", "learner_gpu_hours"),
    *("generator_idle_share", "learner_idle_share"),
}


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
            assert set(row) == (set(fields) | meters) - BESIDE  # there is no second process
    first, last = rows_of(folder, "eval")[0], rows_of(folder, "eval")[-1]
    assert all(first[axis] == 0 for axis in COMPUTE_AXES)
    assert last["step"] == 4 and last["n_prompts"] == 8 and last["k"] == 2 and last["sampling_seed"] == 0
    assert [row.get("event") for row in rows_of(folder, "event")] == ["start", "end"]
    header = read_header(folder)
    assert header["config"]["learning_rate"] == 1e-4 and header["devices"] == {"kind": "cpu process", "count": 1}
    assert "one process counts as one device" in header["note"]
    assert len(header["checkpoint"]["sha256"]) == len(header["data"]["eval"]["sha256"]) == 64
    assert last["prompt_set"] == header["data"]["eval"]["sha256"]


def test_compute_grows_and_adds_up(run):
    folder = run(learning_rate="1e-3", off_policy_steps=0)
    rows = [row for row in rows_of(folder) if row["kind"] != "event"]
    for axis in COMPUTE_AXES:
        values = [row[axis] for row in rows]
        assert values == sorted(values) and values[-1] > values[0], axis
    steps = rows_of(folder, "step")
    assert steps[-1]["tokens_generated"] == pytest.approx(sum(row["length_mean"] * 32 for row in steps))
    assert 0 < steps[-1]["tokens_trained"] < steps[-1]["tokens_generated"]  # the filter left some prompts out
    for row in steps:
        assert row["reward_count"] == 32 and row["prompts"] == 8
        assert 0 < row["prefill_s"] < row["generate_s"]
        mean = row["reward_sum"] / 32
        assert row["reward_var"] == pytest.approx(1 - mean**2)  # rewards are +1 and -1


def flops_by_torch(do) -> float:
    """Floating-point operations of a call by torch's own formulas, without attention, which the log leaves out."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func._overloadpacket is torch.ops.aten.linear:  # stays whole in inference mode
                self.total += 2 * args[0].numel() * args[1].shape[0]
            elif func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
                self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            return out

    with Counter() as counter:
        do()
    return counter.total


@pytest.mark.parametrize(("recipe", "lag"), [("scalerl", 0), ("grpo", 0), ("grpo", 1)])
def test_logged_flops_agree_with_torchs_own_counter(run, quick, prompts, recipe, lag):
    """The flops of a real step row: what torch counts in the run less what it counts in its two evaluations."""
    from scalerl.data import load_data
    from scalerl.evaluate import evaluate

    folders = []
    # The weights stay, so that both evaluations can be made again. One prompt, and one completion a micro-batch: there
    # is no padding, which the log does not count; completions run one by one share no prompt, which it does.
    fields = {"max_steps": 1, "learning_rate": "1e-30", "batch_size": 4, "micro_batch_tokens": 1}
    fields |= {"off_policy": "pipeline", "off_policy_steps": lag, "slots": 1 if lag else 4}  # one prompt a prefill
    total = flops_by_torch(lambda: folders.append(run(recipe=recipe, **fields)))
    policy, data, config = (
        load_policy("data/checkpoints/chain"),
        load_data(prompts / "eval.json"),
        quick(recipe, **fields),
    )
    learner = Learner(policy.model, config)
    evaluations = sum(
        flops_by_torch(lambda step=step: evaluate(learner, policy, get_task("chain"), data, step)) for step in (0, 1)
    )
    (row,) = rows_of(folders[0], "step")
    assert row["flops"] == pytest.approx(total - evaluations, rel=0.003)


def test_a_run_hands_on_what_it_is_told(run, quick, prompts, monkeypatch):
    """Noise numbers, seeds, streams, versions and optimizer settings as they reach their users, recorded in passing."""
    import scalerl.drafts
    import scalerl.evaluate
    import scalerl.learner

    drawn, optimizers, norms, versions = [], [], [], []
    noise, adam, clip = scalerl.drafts.sampling_noise, torch.optim.AdamW, torch.nn.utils.clip_grad_norm_
    update = scalerl.learner.Learner.update
    monkeypatch.setattr(scalerl.drafts, "sampling_noise", lambda *a, **k: (drawn.append((*a, k)), noise(*a, **k))[1])
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, **k: (optimizers.append(k), adam(*a, **k))[1])
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, n: (norms.append(n), clip(p, n))[1])

    def recorded(self, batch, step):
        versions.append({v for c in batch.completions for v in c.versions})
        return update(self, batch, step)

    monkeypatch.setattr(scalerl.learner.Learner, "update", recorded)
    optimizer = {"max_grad_norm": 0.7, "weight_decay": 0.03}
    on_policy = {"off_policy": "pipeline", "off_policy_steps": 0}
    run(recipe="grpo", seed=11, eval_seed=5, max_steps=3, eval_every=2, **on_policy, **optimizer)
    train_draws = [(key, first, count) for key, first, count, _, _ in drawn if key[1] == 0]
    assert train_draws == [((11, 0), 0, 32), ((11, 0), 32, 32), ((11, 0), 64, 32)]
    assert [(key, first) for key, first, *_ in drawn if key[1]] == [((5, 1), 0), ((5, 3), 0), ((5, 4), 0)]
    assert versions == [{0}, {1}, {2}]
    assert norms == [0.7] * 3
    assert optimizers[0]["weight_decay"] == 0.03 and optimizers[0]["betas"] == (0.9, 0.95)
    assert optimizers[0]["eps"] == 1e-15


def test_a_run_that_streams_draws_the_noise_of_every_completion_once(run, monkeypatch):
    import scalerl.drafts

    drawn = []
    noise = scalerl.drafts.sampling_noise
    monkeypatch.setattr(scalerl.drafts, "sampling_noise", lambda *a, **k: (drawn.append((*a, k)), noise(*a, **k))[1])
    folder = run(seed=11, off_policy_steps=2)
    for purpose in ({}, {"purpose": 1}):  # tokens, thinking budgets
        blocks = [(first, count) for key, first, count, _, kind in drawn if key == (11, 0) and kind == purpose]
        numbers = [n for first, count in blocks for n in range(first, first + count)]
        assert numbers == list(range(len(numbers))) and len(numbers) >= 4 * 32
    assert len(numbers) > 4 * 32 and rows_of(folder, "step")[-1]["in_flight"] > 0


def test_row_statistics_are_those_of_the_completions(run, monkeypatch):
    """Entropy, zero-variance share, lengths and truncation, worked out again from what the generator gave back."""
    import scalerl.generate

    given = []
    poll = scalerl.generate.Generator.poll

    def recorded(self, ticks=None):
        done = poll(self, ticks)
        if self.drafts.key[1] == 0:
            given.extend(done)
        return done

    monkeypatch.setattr(scalerl.generate.Generator, "poll", recorded)
    rows = rows_of(run(max_steps=2, thinking_tokens=10, length_control="none"), "step")
    given.sort(key=lambda completion: completion.number)
    batches = [given[:32], given[32:64]]
    task = get_task("chain")
    policy = load_policy("data/checkpoints/chain")
    for row, done in zip(rows, batches, strict=True):
        tokens = sum(len(c.tokens) for c in done)
        assert row["entropy"] == pytest.approx(sum(c.entropy for c in done) / tokens, rel=1e-12)
        assert row["length_mean"] == tokens / 32
        assert row["truncation_rate"] == sum(c.tokens[-1] != policy.end_ids[0] for c in done) / 32 > 0
        right = []
        for c in done:
            prompt = policy.decode(c.prompt)
            answer = next(task_answer for task_answer in [task.work_out(prompt)[1]])
            right.append(task.score({"prompt": prompt, "answer": answer}, policy.decode(c.tokens)))
        groups = [right[i : i + 4] for i in range(0, 32, 4)]
        assert row["zero_variance_share"] == sum(len(set(g)) == 1 for g in groups) / 8
        assert row["reward_sum"] == 2 * sum(right) - 32


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
        ({"prompt_tokens": 5}, "all 24 prompts are longer than prompt_tokens = 5 tokens"),
        ({"task": "nothing"}, "there is no task 'nothing'"),
        ({"off_policy": "ppo", "off_policy_steps": 0}, "ppo generates at least one batch"),
        (
            {"interruption_phrase": "'1'"},
            "does not hold '#', which ends the thinking of task chain, and that scores since no reward is set",
        ),
        ({"interruption_phrase": "'123#'", "interruption_tokens": 4}, "its 4 tokens leave nothing"),
        ({"interruption_phrase": "'stop#'"}, "characters the tokenizer does not know"),
        ({"device": "cuda"}, "finds no CUDA device"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(run, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        run("never", **change)
    assert not (tmp_path / "never").exists()


def copied(tmp_path: Path) -> Path:
    shutil.copytree("data/checkpoints/chain", tmp_path / "copy")
    return tmp_path / "copy"


def without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_config(**fields):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_head, "1 weights are missing or of another shape, the first is lm_head.weight"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 64), "cannot be loaded"),
        (only_a_pickle, "cannot be loaded"),
        (with_config(num_hidden_layers=4, layer_types=["full_attention"] * 4), "weights are missing"),
        (with_config(vocab_size=30), "another shape"),
        (with_config(num_hidden_layers="x"), "cannot be loaded"),
        (with_config(model_type="mine", auto_map={"AutoConfig": "mine.Mine"}), "cannot be loaded"),
        (lambda f: [p.unlink() for p in f.glob("token*")], "cannot be loaded|no tokenizer"),
    ],
)
def test_broken_model_directories_are_refused_before_anything_is_written(run, tmp_path, damage, message):
    folder = copied(tmp_path)
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        run("never", model_name=str(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "never").exists()


def test_prompts_that_cannot_be_used_are_named(quick, tmp_path, prompts):
    good = json.loads((prompts / "train.json").read_text())
    for bad, message in (
        (
            [{"prompt": "日本=", "answer": "1"}],
            "1 of 1 prompts are empty or hold text that the tokenizer",
        ),
        ([{"prompt": "\ud800", "answer": "1"}], "item 0: 'prompt' holds half a character"),
        (good, "24 of 24 prompts are in .*train.json, too"),
    ):
        path = tmp_path / "eval.json"
        path.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=message):
            train(quick(), str(prompts / "train.json"), str(path), str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()


def test_a_csv_that_cannot_be_written_is_said_before_the_run_begins(run, tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file" / "x.csv", tmp_path / ("x" * 300), tmp_path / "never" / "log.jsonl"):
        with pytest.raises(UserError, match="log-file"):
            run("never", log_file=str(bad))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("name", ["samples.jsonl", "model", "run.json", "checkpoints", "lost"])
def test_files_of_a_run_that_are_there_already_are_left_alone(run, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("precious")
    with pytest.raises(UserError, match="holds a run already"):
        run()
    assert [(p.name, p.read_text()) for p in (tmp_path / "run").iterdir()] == [(name, "precious")]


def test_a_run_that_ends_on_its_compute_budget_is_evaluated_at_its_end(run):
    folder = run(max_steps="null", max_gpu_hours="1e-4", eval_every=1000)
    assert rows_of(folder, "eval")[-1]["step"] == rows_of(folder, "step")[-1]["step"]


def test_nothing_is_written_over(run, tmp_path):
    folder = run()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="holds a run already"):
        run()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
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
    with pytest.raises(UserError, match="policy version 0 gives scores that are no numbers"):
        run(model_name=str(broken), recipe="grpo")
    assert [row.get("event") for row in rows_of(tmp_path / "run")] == ["start", "failed"]


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
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps[-1]:08d}" / "manifest.json").exists()
    assert f"go on with: scalerl train --resume --output-dir {tmp_path / 'run'}" in error
