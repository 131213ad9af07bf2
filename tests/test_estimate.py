"""The estimate before a run: memory as the real tensors have it, seconds as a real run takes them, nothing written."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from scalerl.cli import main
from scalerl.completions import Completion
from scalerl.config import ScaleRLConfig, load_config
from scalerl.estimate import GIB, RATE, Speed, _to_the_end, estimate, probe
from scalerl.footprint import memory
from scalerl.learner import Batch, Learner, UpdateStatistics
from scalerl.rewards import Inline
from scalerl.runlog import UserError, read_log
from scalerl.start import _build, train
from scalerl.worker import skeleton

SMALL = {
    "vocab_size": 50, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 72,
}  # fmt: skip
ARCHITECTURES = {
    "grouped heads": Qwen3Config(**SMALL, tie_word_embeddings=False),
    "tied head": Qwen3Config(**{**SMALL, "num_key_value_heads": 4}, tie_word_embeddings=True),
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from scalerl.data import prepare

    folder = tmp_path_factory.mktemp("data")
    prepare("chain", str(folder), sizes=(200, 8, 8))
    return str(folder / "train.json"), str(folder / "eval.json")


@pytest.fixture(scope="module")
def paper_size(tmp_path_factory) -> str:
    """A directory of the dense 8B architecture, with nothing but its config.json."""
    folder = tmp_path_factory.mktemp("model")
    Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=False, architectures=["Qwen3ForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    return str(folder)


def demo(**fields) -> ScaleRLConfig:
    return load_config(["scalerl", "demo"], [f"{key}={value}" for key, value in fields.items()])


def sizes(config: ScaleRLConfig, model) -> dict[str, int]:
    return {part.name: part.bytes for part in memory(config, model)}


def nbytes(tensors) -> int:
    """Bytes of tensors, nested in lists and tuples."""
    if isinstance(tensors, torch.Tensor):
        return tensors.nbytes
    return 0 if tensors is None else sum(map(nbytes, tensors))


def test_the_parts_have_the_bytes_of_the_tensors_of_a_real_trainer(data, tmp_path):
    config = demo(batch_size=64, off_policy_steps=0, slots=48)
    trainer = _build(config, *data, str(tmp_path / "run"), log_file=None, report=lambda _: None)
    told = sizes(config, skeleton(trainer.policy.model.config, torch.float32))
    assert told == sizes(config, trainer.policy.model)
    with trainer.log:
        while trainer.step < 1 or not trainer.learner.optimizer.state:
            trainer._generate()
            if batch := trainer.schedule.next_batch():
                trainer._update(batch)
    parameters = list(trainer.policy.model.parameters())
    moments = [state[name] for state in trainer.learner.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    generator = trainer.generator
    drafts = generator.drafts
    slots = [drafts.tokens, drafts.versions, drafts.logprobs, drafts.noise]
    assert told["master weights"] == nbytes(parameters)
    assert told["gradients"] == nbytes([p.grad for p in parameters])
    assert told["AdamW moments"] == nbytes(moments)
    assert told["generator's weights"] == nbytes(generator._weights.tensors())
    assert told["KV cache"] == nbytes([generator._cache.keys, generator._cache.values])
    assert told["slots"] == nbytes(slots)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_activations_are_what_a_real_backward_pass_keeps(name, dtype):
    config = demo(dtype=dtype, micro_batch_tokens=720)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name])
    rows, before, after = 10, config.prompt_tokens, config.max_new_tokens
    completions = [
        Completion(
            i, tuple((i + j) % 50 for j in range(before)), tuple((3 * i + j) % 50 for j in range(after)),
            (-1.0,) * after, (0,) * after, 0.0, truncated=True,
        )
        for i in range(rows)
    ]  # fmt: skip
    masters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive, kept = [], {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # so that no address is used twice
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        batch = Batch(completions, torch.ones(rows), torch.ones(rows))
        Learner(model, config)._backward(batch, range(rows), UpdateStatistics())
    found = sum(size for address, size in kept.items() if address not in masters)
    told = sizes(config, model)
    # The weights' casts are kept, too, but not all of them: an embedding's is not.
    working = told["trainer's working copy"]
    expected = told["activations"] + told["attention mask"] + told["logits"] // 3
    assert expected * 0.97 < found - working * 0.5 < expected * 1.03 + working * 0.5


def test_paper_size_is_estimated_from_a_config_file_alone(data, paper_size, tmp_path):
    config = ScaleRLConfig(model_name=paper_size, max_steps=1000)
    found = estimate(config, *data)
    by_hand = (
        151936 * 4096 * 2
        + 4096
        + 36 * (4096 * (32 + 8 + 8) * 128 + 32 * 128 * 4096 + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128)
    )
    told = {part.name: part.bytes for part in found.memory}
    assert by_hand == 8_190_735_360
    assert told["master weights"] == by_hand * 4 and told["AdamW moments"] == by_hand * 8
    assert told["KV cache"] == 2 * 36 * 768 * 8 * 16384 * 128 * 2
    # The matrices alone, 2 and 6 a token: attention over up to 16k tokens comes on top, and is less than they are.
    matrices = 8 * (by_hand - 151936 * 4096) * 768 * 14336 / RATE
    assert matrices < found.speed.step_s < 2 * matrices
    assert found.gpu_hours * 3600 == pytest.approx(1000 * found.speed.step_s + 8 * found.speed.generate_s)
    text = str(found)
    assert "8,190,735,360 weights x 4 B" in text and "no probe, for the weights of" in text and "1000 steps" in text
    assert re.search(r"^KV cache +1728 ", text, re.MULTILINE) and f"{found.total_bytes / GIB:.4g}" in text


def test_a_learner_of_several_processes_holds_a_share_of_what_is_trained_and_gathers_the_rest(
    data, paper_size, monkeypatch, capsys
):
    config = demo(model_name=paper_size, max_steps=2)
    whole = {part.name: part.bytes for part in estimate(config, *data).memory}
    for name, value in {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    found = estimate(config, *data)
    split = {part.name: part.bytes for part in found.memory}
    for name in ("master weights", "gradients", "AdamW moments", "optimizer's copy"):
        assert split[name] == whole[name] // 4, name
    assert split["trainer's working copy"] == whole["generator's weights"] > whole["trainer's working copy"]
    assert found.speed.devices == 4 and "the learner is 4 processes; without torchrun" in found.speed.source
    monkeypatch.setenv("RANK", "1")
    paths = ["--train-data", data[0], "--eval-data", data[1], "--output-dir", "nowhere"]
    assert main(["train", "--dry-run", *paths]) == 0 and capsys.readouterr().out == ""  # the first process says it


def test_the_probe_ends_what_it_began(data, monkeypatch):
    ended, real = [], Inline.close
    monkeypatch.setattr(Inline, "close", lambda scorer: ended.append(scorer) or real(scorer))
    probe(demo(batch_size=16, off_policy_steps=0), *data)
    assert len(ended) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"off_policy_steps": 0, "zero_variance_filtering": "false"}])
def test_seconds_a_step_are_within_a_factor_of_two_of_a_real_run(data, tmp_path, fields):
    config = demo(batch_size=256, max_steps=14, eval_every=100, eval_prompts=4, **fields)
    found = estimate(config, *data)
    rows = read_log(train(config, *data, str(tmp_path / "run")) / "log.jsonl").rows
    hours = [row["gpu_hours"] for row in rows if row["kind"] == "step"]
    assert 0.5 < found.speed.step_s / ((hours[-1] - hours[3]) / 10 * 3600) < 2
    assert 0.5 < found.gpu_hours / hours[-1] < 2
    assert found.speed.source.startswith("2 probe steps") and (found.steps, found.speed.devices) == (14, 1)


@pytest.mark.slow
def test_a_generator_process_counts_as_a_device_and_hides_the_shorter_part(data):
    found = estimate(demo(batch_size=128, max_steps=20, generator="process"), *data)
    speed = found.speed
    assert speed.devices == 2 and speed.together and speed.step_s == max(speed.generate_s, speed.train_s) > 0
    one, two = (sizes(demo(generator=name), skeleton(ARCHITECTURES["llama"], torch.float32)) for name in
                ("inline", "process"))  # fmt: skip
    assert two["generator's weights"] == 2 * one["generator's weights"]


def test_the_memory_of_ray_actors_is_told_apart_from_the_trainer_s(data, paper_size):
    """Each actor is a generator with its share of the slots: what it holds is what one alone with so many would."""
    config = ScaleRLConfig(model_name=paper_size, max_steps=9, generator="ray", generators=8, slots=768)
    found, told = estimate(config, *data), {}
    for line in str(found).splitlines():
        if match := re.match(r"(on each actor|with the trainer|total) +(\S+) ", line):
            told[match[1]] = float(match[2])
    alone = {part.name: part.bytes for part in estimate(ScaleRLConfig(
        model_name=paper_size, max_steps=9, slots=96), *data).memory}  # fmt: skip
    held = sum(alone[name] for name in ("generator's weights", "KV cache", "slots", "sampling"))
    assert told["on each actor"] == pytest.approx(held * 9 / 8 / GIB, rel=1e-3)
    assert told["with the trainer"] + 8 * told["on each actor"] == pytest.approx(told["total"], rel=1e-3)
    assert "actor" not in str(estimate(ScaleRLConfig(model_name=paper_size, max_steps=9), *data))


@pytest.mark.slow
def test_a_dry_run_of_many_ray_actors_measures_one_and_starts_no_cluster(data, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("scalerl.raygenerators.import_ray", lambda: pytest.fail("ray was asked for"))
    fields = {"batch_size": 64, "max_steps": 20, "off_policy_steps": 1}
    speed = estimate(demo(**fields, generator="ray", generators=8), *data).speed
    assert speed.devices == 9 and speed.together and "of one generator; 8 are taken to be 8 times" in speed.source
    assert speed.generate_s > 0 and speed.step_s == max(speed.generate_s, speed.train_s)


@pytest.mark.parametrize(
    ("fields", "steps", "hours"),
    [
        ({"max_steps": 90}, 90, 90 * 10 / 3600),
        ({"max_steps": 90, "max_epochs": 3}, 6, 6 * 10 / 3600),  # 3 x 64 prompts, 32 an update
        ({"max_steps": 90, "max_gpu_hours": 0.1}, 36, 0.1),
        ({"max_steps": 90, "max_gpu_hours": 5.0}, 90, 90 * 10 / 3600),
    ],
)
def test_the_first_limit_ends_the_run(fields, steps, hours):
    speed = Speed(generate_s=4.0, train_s=6.0, devices=1, together=False, source="")
    config = demo(batch_size=512, generations_per_prompt=16, **fields)
    found = _to_the_end(config, speed, prompts=64, ahead=0)
    assert found[0] == steps and found[1] == pytest.approx(hours)
    ahead = _to_the_end(config, speed, prompts=64, ahead=8)
    assert ahead[1] == pytest.approx(hours if "max_gpu_hours" in found[2] else hours + 8 * 4 / 3600)


def test_what_is_missing_is_said(data, tmp_path):
    with pytest.raises(UserError, match=r"model_name: some/where is not on this machine; give .* config\.json"):
        estimate(demo(model_name="some/where"), *data)
    with pytest.raises(UserError, match=r"no model directory: it has no config\.json"):
        estimate(demo(model_name=str(tmp_path)), *data)
    with pytest.raises(UserError, match="set at least one"):
        estimate(ScaleRLConfig(), *data)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be used"):
        estimate(demo(model_name=str(tmp_path)), *data)


def test_a_dry_run_prints_and_writes_nothing(data, tmp_path, capsys, monkeypatch):
    for variable in ("TMPDIR", "TMP", "TEMP"):
        monkeypatch.setenv(variable, str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    command = ["train", "--config", "scalerl", "--config", "demo", "--set", "batch_size=64", "--train-data", data[0]]
    command += ["--eval-data", data[1], "--output-dir", str(tmp_path / "run"), "--log-file", str(tmp_path / "l.csv")]
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and all(word in told.out for word in ("KV cache", "a step takes", "GPU-hours", "GiB"))
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_help_names_the_option_and_loads_no_torch():
    code = "import sys; from scalerl.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--dry-run" in done.stdout
