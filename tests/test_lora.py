"""Adapters: they alone are trained and kept, what is sampled is what is trained, and the final model is a plain one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from scalerl.checkpoint import read_checkpoint
from scalerl.cli import main
from scalerl.describe import multiplying_weights, training_flops
from scalerl.learner import Learner
from scalerl.lora import adapted_weights
from scalerl.policy import Policy, character_tokenizer, load_policy
from scalerl.runlog import UserError, read_log
from scalerl.saved import load_saved
from scalerl.start import resume
from scalerl.tasks.chain import Chain
from tests.test_generic import (  # noqa: F401 - a fixture
    GROUPED,
    KINDS,
    SIZE,
    folders,
    learner_of,
    made,
    rows_of,
    run_of,
    sampled,
)

LORA = {"lora_rank": 2, "lora_targets": "null"}


@pytest.fixture(autouse=True)
def _random_policies_score(monkeypatch):
    monkeypatch.setattr(Chain, "score", lambda _, __, completion: len(completion) % 2 == 0)


def moved(learner: Learner) -> None:
    """Let every adapter do something."""
    with torch.no_grad():
        for p in learner.trainable().values():
            p.add_(torch.randn_like(p) * 0.1)


def peft_logprobs(learner: Learner, done) -> torch.Tensor:
    """Log-probabilities by peft's own forward, which adds ``B A x`` to ``W x``; no code is shared."""
    model = learner.model.__dict__["scalerl_adapters"]
    out = []
    for c in done:
        scores = model(torch.tensor([c.prompt + c.tokens])).logits[0, len(c.prompt) - 1 : -1]
        out.append(scores.log_softmax(-1)[torch.arange(len(c.tokens)), list(c.tokens)])
    return torch.cat(out)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox", "gemma2", "gpt2"])
def test_sampler_trainer_and_peft_agree_and_so_do_the_gradients_of_the_adapters(folders, kind):  # noqa: F811
    policy = load_policy(folders(kind), dtype="float64")
    learner = learner_of(policy, **LORA)
    moved(learner)
    done = sampled(policy, learner)
    new = learner.logprobs(done)
    assert np.abs(np.concatenate([c.logprobs for c in done]) - new.detach().numpy()).max() < 1e-10
    theirs = peft_logprobs(learner, done)
    assert (theirs - new).abs().max() < 1e-5
    for logprobs in (new, theirs):
        learner.optimizer.zero_grad()
        logprobs.sum().backward()
        if logprobs is new:
            ours = {name: p.grad.clone() for name, p in learner.trainable().items()}
    assert ours and all(".lora_" in name for name in ours)
    for name, p in learner.trainable().items():
        assert (ours[name] - p.grad).abs().max() < 1e-4 * max(1, p.grad.abs().max()), name
    assert all(p.grad is None for name, p in policy.model.named_parameters() if ".lora_" not in name)


def test_a_policy_begins_as_it_was_and_the_same_seed_gives_the_same_adapters(folders):  # noqa: F811
    plain = load_policy(folders("llama"))
    learners = [learner_of(load_policy(folders("llama")), **LORA, seed=seed) for seed in (3, 3, 4)]
    done = sampled(plain, learner_of(plain))
    expected = learner_of(plain).logprobs(done)
    assert all(torch.equal(learner.logprobs(done), expected) for learner in learners)
    a, b, c = ([p for p in learner.trainable().values() if p.any()] for learner in learners)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) and not torch.equal(a[0], c[0])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's, where it loads
@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_a_run_keeps_adapters_goes_on_exactly_and_ends_with_a_plain_model(folders, prompts, tmp_path, kind):  # noqa: F811
    fields = {**LORA, "lora_alpha": 8, "learning_rate": "1e-2"}
    short, long = (run_of(folders(kind), prompts, tmp_path / str(n), max_steps=n, **fields) for n in (3, 5))
    kept = read_checkpoint(short).tensors
    assert kept["model"] and all(".lora_" in name for name in kept["model"])
    resume(str(short), ["max_steps=5"], say=pytest.fail)
    assert rows_of(short) == rows_of(long)
    start = load_file(f"{folders(kind)}/model.safetensors")
    final, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (short, long))
    assert start.keys() == final.keys() and all(torch.equal(final[name], theirs[name]) for name in final)
    changed = {name for name in start if not torch.equal(start[name], final[name])}
    assert changed and all(start[name].ndim == 2 and "embed" not in name for name in changed)
    model = AutoModelForCausalLM.from_pretrained(short / "model")
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folders(kind)), short / "model" / "adapter"
    )
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    assert (model(ids).logits - adapted(ids).logits).abs().max() < 1e-5
    about = json.loads((short / "model" / "adapter" / "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"]) == (2, 8)


def test_a_checkpoint_of_adapters_is_evaluated_as_the_run_was(folders, prompts, tmp_path, monkeypatch):  # noqa: F811
    fields = {**LORA, "lora_alpha": 8, "learning_rate": "1e-2", "eval_every": 2, "checkpoint_every": 2}
    run = run_of(folders("llama"), prompts, tmp_path / "run", max_steps=4, **fields)
    logged = {row["step"]: row["correct"] for row in read_log(run / "log.jsonl").rows if row["kind"] == "eval"}
    place = str(run / "checkpoints" / "step-00000004")
    saved, final = load_saved(place, base=None), load_policy(str(run / "model"))
    for (name, p), (other, q) in zip(
        saved.policy.model.named_parameters(), final.model.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(p, q) and p.requires_grad, name
    assert logged[4] != logged[0]
    argv = ["evaluate", "--model-path", place, "--eval-data", str(prompts / "eval.json"), "--output-file"]
    assert main([*argv, str(tmp_path / "r.json"), "--run", str(run)]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["data"][0]["correct"] == logged[4]
    with pytest.raises(UserError, match=r"does not fit its base model: .* weights are of another shape: .*lora_A"):
        monkeypatch.setattr("scalerl.saved.read_latest", lambda _: {"config": {"lora_rank": 3}})
        load_saved(place, base=folders("llama"))


@pytest.mark.parametrize("targets", ["null", "[q_proj, v_proj]"])
def test_operations_are_what_torch_counts(folders, targets):  # noqa: F811
    policy = load_policy(folders("llama"))
    learner = learner_of(policy, lora_rank=2, lora_targets=targets)
    done = sampled(policy, learner)
    with FlopCounterMode(display=False) as counter:
        learner.logprobs(done).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    matrices = sum(n for op, n in counts.items() if "attention" not in str(op))
    # What the log counts: tokens as they are. Here every sequence is padded to the longest, so they are counted so.
    prompts = {c.prompt for c in done}
    run = len(prompts) * max(map(len, prompts)) + len(done) * (max(len(c.tokens) for c in done) - 1)
    passed = sum(len(c.tokens) for c in done)
    told = training_flops(policy.model, backbone_tokens=run, head_tokens=passed, gathers=1)
    backbone, _ = multiplying_weights(policy.model)
    norms = sum(p.numel() for p in policy.model.parameters() if p.ndim == 1)
    # No gradient goes below the first layer: what reads its input is not passed back to, which is left out of account.
    first = policy.model.model.layers[0].self_attn
    below = sum(m.base_layer.weight.numel() if hasattr(m, "base_layer") else m.weight.numel()
                for m in (first.q_proj, first.k_proj, first.v_proj))  # fmt: skip
    # Queries, keys and values are one product: where two of the three are adapted, the third's gradient is taken, too.
    beside = (
        0 if targets == "null" else sum(layer.self_attn.k_proj.weight.numel() for layer in policy.model.model.layers)
    )
    assert told - (4 * norms + 2 * below - 2 * beside) * run == pytest.approx(matrices, rel=2e-3)
    of_backbone, of_head, products = adapted_weights(policy.model)
    assert 0 < of_backbone <= backbone and of_head == 0 and products == 2 * of_backbone


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_targets": "[nothing]"}, r"lora_targets: \['nothing'\]: fits no layer of this model; it has .*q_proj"),
        ({"lora_targets": "[q_proj, nothing, q_pro]"}, "lora_targets: no layer of this model is named nothing, q_pro"),
        ({"lora_targets": "[embed_tokens]"}, "embed_tokens is looked up, not multiplied"),
    ],
)
def test_targets_that_do_not_fit_are_refused(folders, fields, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        learner_of(load_policy(folders("llama")), **{**LORA, **fields})


def test_an_adapted_head_is_saved_as_it_was_trained_and_a_tied_one_is_refused(folders, tmp_path):  # noqa: F811
    fields = {**LORA, "lora_targets": "[lm_head, q_proj]"}
    policy = load_policy(folders("llama"))
    learner = learner_of(policy, **fields)
    moved(learner)
    policy.save(tmp_path / "saved")
    again = load_policy(str(tmp_path / "saved"))
    done = sampled(policy, learner)
    assert (learner_of(again).logprobs(done) - learner.logprobs(done)).abs().max() < 1e-5
    tied = load_policy(folders("qwen3"))
    with pytest.raises(UserError, match=r"lora_targets: lm_head is looked up, not multiplied; leave .* tied head out"):
        learner_of(tied, **fields)
    assert not any(".lora_" in name for name, _ in tied.model.named_parameters())  # refused before it was changed


def test_fields_that_need_a_rank_are_refused_without_one(quick):
    with pytest.raises(UserError, match="lora_alpha: has no meaning without lora_rank"):
        quick(lora_alpha=4)


def test_without_peft_the_extra_is_named(folders, monkeypatch):  # noqa: F811
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"lora_rank: needs peft.*pip install 'scalerl\[lora\]'"):
        learner_of(load_policy(folders("llama")), **LORA)


EXPERTS = {**SIZE, **GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}


def test_experts_that_peft_would_adapt_are_refused_before_a_folder_is_made_and_layers_are_trained(
    monkeypatch, prompts, tmp_path
):
    monkeypatch.setitem(KINDS, "mixtral", EXPERTS)
    Policy(made("mixtral"), character_tokenizer(Chain().characters), (1,)).save(tmp_path / "mixtral")
    told = r"lora_targets: peft adapts experts of this 'mixtral' model, .* name some of its layers: k_proj, .*q_proj"
    with pytest.raises(UserError, match=told):
        run_of(str(tmp_path / "mixtral"), prompts, tmp_path / "run", **LORA)
    assert not (tmp_path / "run").exists()
    fields = {**LORA, "lora_targets": "[q_proj, v_proj]", "learning_rate": "1e-2"}
    folder = run_of(str(tmp_path / "mixtral"), prompts, tmp_path / "run", **fields)
    start, final = (
        load_file(place / "model.safetensors") for place in (tmp_path / "mixtral", folder / "model")
    )  # fmt: skip
    changed = {name for name in start if not torch.equal(start[name], final[name])}
    assert start.keys() == final.keys() and changed and all(".q_proj." in n or ".v_proj." in n for n in changed)


def test_whatever_peft_raises_over_an_architecture_is_a_line(folders, monkeypatch):  # noqa: F811
    import peft

    def fails(*_, **__):
        raise AttributeError("no such part\nof a model")

    monkeypatch.setattr(peft, "get_peft_model", fails)
    with pytest.raises(UserError, match=r"^lora_rank: peft cannot adapt a 'llama' model: no such part$"):
        learner_of(load_policy(folders("llama")), **LORA)
