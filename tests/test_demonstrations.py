"""Warm-up on own data: the loss and the steps are those of plain PyTorch on the completions' tokens, shifted by one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import scalerl.demonstrations
from scalerl.cli import main
from scalerl.demonstrations import warmup_on_data
from scalerl.policy import Policy, new_policy
from scalerl.runlog import UserError
from scalerl.warmup import warmup

ITEMS = [
    {"prompt": "1+1=", "answer": "2", "thinking": "+12", "solution": "#2"},
    {"prompt": "7+3*4-2=", "answer": "008", "thinking": "+30*40-28", "solution": "008"},
    {"prompt": "2*2=", "answer": "4", "thinking": "*24", "solution": "4", "tests": [1]},
    {"prompt": "9-2=", "answer": "7", "solution": "7"},
    {"prompt": "9-3=", "answer": "6", "thinking": "", "solution": "6"},
    {"prompt": "1+1+1+1+1+1+1+1+1=", "answer": "9", "thinking": "1" * 40, "solution": "9"},
]
TEXTS = [("1+1=", "+12#2"), ("7+3*4-2=", "+30*40-28#008"), ("2*2=", "*24#4")]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(ITEMS))
    return str(tmp_path / "train.json")


def run(chain_model, data, output, **options):
    settings = {"max_length": 40, "end_of_thinking": "#", "learning_rate": 1e-3, **options}
    return warmup_on_data(str(chain_model), data, str(output), **settings)


@pytest.mark.parametrize(("steps", "told"), [(3, "the loss is not finite at step 2 of 3"), (1, "weights became")])
def test_a_warm_up_that_goes_wrong_writes_no_model(tmp_path, monkeypatch, steps, told):
    monkeypatch.setattr("scalerl.warmup.learning_rate", lambda *_: math.nan)
    with pytest.raises(UserError, match=told):
        warmup("chain", str(tmp_path / "m"), steps=steps, batch_size=2, width=8, layers=1)
    assert not list(tmp_path.iterdir())


def test_the_model_of_a_warm_up_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(self, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Policy, "save", full)
    with pytest.raises(UserError, match="the model cannot be written: No space left"):
        warmup("chain", str(tmp_path / "m"), steps=1, batch_size=2, width=8, layers=1)
    assert not list(tmp_path.iterdir())


def plain_steps(folder, texts, epochs, learning_rate):
    """The same training in plain PyTorch and transformers, the whole set a batch; return losses and weights."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (epochs - epoch) / epochs
        total, count = 0.0, 0
        for prompt, completion in texts:
            start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            end = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            log_p = model(torch.tensor([start + end])).logits[0].log_softmax(-1)
            for place, token in enumerate(end, len(start)):  # token t is predicted by what stands before it
                total = total - log_p[place - 1, token]
                count += 1
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append((total / count).item())
    return losses, model.state_dict(), count


def test_loss_and_steps_are_those_written_out_plainly(tmp_path, chain_model, data):
    seen = []
    made = run(chain_model, data, tmp_path / "out", epochs=3, progress=lambda *told: seen.append(told))
    losses, weights, count = plain_steps(chain_model, TEXTS, 3, 1e-3)
    assert (made.rows, made.incomplete, made.too_long, made.steps) == (3, 2, 1, 3)
    assert made.tokens == 3 * count == 3 * sum(len(completion) + 1 for _, completion in TEXTS)
    assert [step for step, _, _ in seen] == [1, 2, 3] and {steps for _, steps, _ in seen} == {3}
    assert np.allclose([loss for _, _, loss in seen], losses, rtol=1e-5)
    assert made.first_loss == pytest.approx(losses[0], rel=1e-5) and made.last_loss < made.first_loss
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in weights.items():
        assert torch.allclose(saved[name], tensor, atol=2e-5), name
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("1+1")["input_ids"]


def test_a_prompt_may_have_several_demonstrations(tmp_path, chain_model):
    several = [ITEMS[0], {**ITEMS[0], "thinking": "+12+02"}, ITEMS[1], ITEMS[0]]
    (tmp_path / "several.json").write_text(json.dumps(several))
    made = run(chain_model, str(tmp_path / "several.json"), tmp_path / "out", epochs=1)
    assert (made.rows, made.incomplete, made.too_long) == (4, 0, 0)


def test_a_batch_run_in_parts_makes_the_same_step(tmp_path, chain_model, data, monkeypatch):
    run(chain_model, data, tmp_path / "whole", epochs=2)
    monkeypatch.setattr(scalerl.demonstrations, "MOST_TOKENS", 25)
    run(chain_model, data, tmp_path / "parts", epochs=2)
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(one[name], other[name], atol=2e-5) for name in one)


def test_same_seed_same_bytes_and_batches_walk_every_row_once_an_epoch(tmp_path, chain_model, data):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made = run(chain_model, data, tmp_path / name, epochs=2, batch_size=1, seed=seed)
        assert made.steps == 6 and made.tokens == 2 * sum(len(completion) + 1 for _, completion in TEXTS)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_the_solution_alone_can_be_the_completion(tmp_path, chain_model, data):
    made = run(chain_model, data, tmp_path / "out", thinking=False, epochs=1)
    assert (made.rows, made.incomplete, made.tokens) == (6, 0, 2 + 1 + 3 + 1 + 4 * 2)


def test_the_command_types_as_documented_and_what_it_makes_can_be_warmed_up_again(tmp_path, chain_model, data, capsys):
    command = [
        "warmup",
        "--model",
        str(chain_model),
        "--train-data",
        data,
        "--output",
        str(tmp_path / "m"),
        "--seed",
        "3",
    ]
    command += ["--epochs", "3", "--learning-rate", "1e-3", "--max-length", "40", "--batch-size", "2"]
    assert main([*command, "--end-of-thinking", "#"]) == 0
    told = capsys.readouterr()
    assert "3 demonstrations (2 without all columns and 1 too long left out), 6 steps" in told.out
    assert told.err.startswith("step 1 of 6  loss ") and told.err.count("nats a token") == 6
    assert (
        run(tmp_path / "m", data, tmp_path / "again").first_loss < run(chain_model, data, tmp_path / "new").first_loss
    )


@pytest.mark.parametrize(
    "case",
    [
        (["--epochs", "0", "--batch-size", "0"], "--epochs 0: at least 1\nscalerl: --batch-size 0: at least 1"),
        (["--learning-rate", "nan"], "--learning-rate nan: a number above 0"),
        (["--learning-rate", "0"], "--learning-rate 0.0: a number above 0"),
        (["--end-of-thinking", ""], "--end-of-thinking: is empty"),
        (["--end-of-thinking", "</think>"], "the tokenizer does not know all of the text of the item '1+1='"),
        (
            ["--end-of-thinking", "#", "--max-length", "5"],
            "all 4 demonstrations are longer than 5 tokens (--max-length)",
        ),
        (["--layers", "3"], "--layers: only with --task"),
        (["--model", "nowhere"], "there is no directory nowhere"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(tmp_path, chain_model, data, capsys, case):
    options, message = case
    command = ["warmup", "--model", str(chain_model), "--train-data", data, "--output", str(tmp_path / "out")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["train.json"]


def test_missing_columns_are_named(tmp_path, chain_model, capsys):
    (tmp_path / "d.json").write_text(json.dumps([{"prompt": "1+1=", "answer": "2", "solution": "#2"}]))
    command = ["warmup", "--model", str(chain_model), "--train-data", str(tmp_path / "d.json")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no item has text under 'thinking' and 'solution': 'thinking' is in 0 of 1, 'solution' is in 1 of 1" in error
    assert "--no-thinking" in error
    assert main(["warmup", "--model", str(chain_model), "--output", str(tmp_path / "out")]) == 2
    assert "--train-data: name a file" in capsys.readouterr().err
    assert main(["warmup", "--task", "chain", "--output", str(tmp_path / "out"), "--epochs", "1"]) == 2
    assert "--epochs: only with --model" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["d.json"]


def test_an_output_that_exists_and_a_loss_that_is_not_finite(tmp_path, chain_model, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UserError, match="out: exists already"):
        run(chain_model, data, tmp_path / "out")
    with pytest.raises(UserError, match=r"the loss is not finite at step \d+ of 80; lower --learning-rate"):
        run(chain_model, data, tmp_path / "new", epochs=80, learning_rate=1e30)
    assert not (tmp_path / "new").exists() and math.isfinite(run(chain_model, data, tmp_path / "good").last_loss)


def test_control_tokens_in_a_demonstration_are_text_and_the_mark_may_be_one(tmp_path):
    policy = new_policy("0123456789+=#<>endpau", max_length=72, width=32, heads=2)
    names = policy.tokenizer.convert_ids_to_tokens
    rows = scalerl.demonstrations._encoded("f", policy, [({"prompt": "1<end>="}, "2<end>#3")], "#")
    assert [names(part) for part in rows[0]] == [list("1<end>="), [*"2<end>#3", "<end>"]]
    rows = scalerl.demonstrations._encoded("f", policy, [({"prompt": "1="}, "2<end><pad>3")], "<pad>")
    assert names(rows[0][1]) == [*"2<end>", "<pad>", "3", "<end>"]
