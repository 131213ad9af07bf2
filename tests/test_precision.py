"""Precision: narrow arithmetic, FP32 master weights, and a head in FP32 on both sides, after updates and swaps too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import scalerl.generate
import scalerl.learner
from scalerl.completions import Request
from scalerl.generate import Generator
from scalerl.learner import Learner
from scalerl.policy import load_policy
from scalerl.train import make_batch

NARROW = ("bfloat16", "float16")
REWARDS = torch.tensor([[1.0, -1, -1, 1, 1, -1, -1, -1]] * 2, dtype=torch.float64)


def tiny(*, tied: bool, bias: bool) -> Qwen3ForCausalLM:
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=19, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=72, tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.3)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(19))
    return model


def generator_of(learner: Learner, slots: int = 16) -> Generator:
    return Generator(learner.forward, learner.weights(), slots=slots, max_new_tokens=20, max_length=72, end_ids=[1])


REQUESTS = [Request(0, 8, (3, 4, 5)), Request(8, 8, (7, 9, 2, 2, 11))]


@pytest.fixture
def products(monkeypatch):
    """What went into the head and came out, where generator and learner call it."""
    seen: dict[str, list] = {"generator": [], "learner": []}
    for name, module in (("generator", scalerl.generate), ("learner", scalerl.learner)):

        def recorded(hidden, weights, real=module.logits, kept=seen[name]):
            out = real(hidden, weights)
            kept.append((hidden.detach().clone(), out.detach().clone()))
            return out

        monkeypatch.setattr(module, "logits", recorded)
    return seen


@pytest.mark.parametrize("wide", [True, False], ids=["FP32 head", "narrow head"])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", [(True, False), (True, True), (False, False), (False, True)])
def test_both_sides_multiply_by_the_head_of_now_after_an_update_and_after_a_swap(quick, products, kind, dtype, wide):
    """Tied or not, with a bias or without."""
    model = tiny(tied=kind[0], bias=kind[1])
    config = quick(dtype=dtype, use_fp32_lm_head=str(wide).lower(), learning_rate="1e-2", warmup_steps=0)
    learner = Learner(model, config)
    generator = generator_of(learner)
    heads = []
    for version in range(3):
        generator.load(version, learner.weights())
        head = model.get_output_embeddings()
        heads.append(head.weight.detach().clone())
        generator.submit([Request(16 * version + r.first, r.count, r.prompt) for r in REQUESTS])
        done = sorted(generator.poll(), key=lambda c: c.number)
        new = learner.logprobs(done)
        for side in ("generator", "learner"):
            assert products[side]
            for hidden, out in products[side]:
                weight, bias = (w if w is None else w.detach() for w in (head.weight, head.bias))
                exact, narrow = hidden.float() @ weight.T, hidden @ weight.to(hidden.dtype).T
                if kind[1]:
                    exact, narrow = exact + bias, narrow + bias.to(hidden.dtype)
                assert hidden.dtype == getattr(torch, dtype) and out.dtype == torch.float32
                if wide:
                    assert (out - exact).abs().max() < 1e-6 * max(1, exact.abs().max())
                    assert (out - narrow.float()).abs().max() > 1e-4
                else:
                    rounding = 2 * torch.finfo(hidden.dtype).eps * exact.abs().max()
                    assert (out - narrow.float()).abs().max() < rounding
                    assert (out - exact).abs().max() > 1e-4
            products[side].clear()
        assert torch.isfinite(new).all()
        while learner.update(make_batch(REWARDS, done, config), version + 1)["skipped"]:
            pass  # the first scales of FP16 may be too large
        products["learner"].clear()
    assert (heads[1] - heads[0]).abs().max() > 1e-3 and (heads[2] - heads[1]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", NARROW)
def test_half_written_completions_go_on_with_the_new_head(quick, products, dtype):
    model = tiny(tied=False, bias=False)
    learner = Learner(model, quick(dtype=dtype))
    generator = generator_of(learner)
    generator.submit(REQUESTS)
    generator.poll(ticks=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    products["generator"].clear()
    generator.load(1, learner.weights())
    generator.poll(ticks=2)
    for hidden, out in products["generator"]:
        assert (out - hidden.float() @ model.lm_head.weight.detach().T).abs().max() < 1e-5
    assert len(products["generator"]) == 2


@pytest.mark.parametrize("dtype", NARROW)
def test_master_weights_and_moments_stay_fp32_and_take_steps_that_the_narrow_type_has_not(quick, dtype):
    model = tiny(tied=False, bias=False)
    learner = Learner(model, quick(dtype=dtype, learning_rate="1e-6", warmup_steps=0, weight_decay=0.0))
    generator = generator_of(learner)
    generator.submit(REQUESTS)
    batch = make_batch(REWARDS, generator.poll(), learner.config)
    before = [p.detach().clone() for p in model.parameters()]
    made = 0
    while made < 3:  # the first scales of FP16 may be too large
        made += not learner.update(batch, 1)["skipped"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    moments = [m for state in learner.optimizer.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    assert moments and {m.dtype for m in moments} == {torch.float32}
    moved = [(b - a).abs().max().item() for a, b in zip(before, model.parameters(), strict=True)]
    assert min(moved) > 0 and max(moved) < 4e-6
    narrow = getattr(torch, dtype)
    norm_before, norm = next((a, b) for a, b in zip(before, model.parameters(), strict=True) if a.ndim == 1)
    assert (norm != norm_before).any() and (norm.to(narrow) == norm_before.to(narrow)).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_narrow_update_is_the_wide_one_but_for_rounding(quick, dtype):
    """FP16 through torch's scaler: the scale is taken out again before the norm is logged and clipped."""
    rows, changes, done = {}, {}, None
    for kind in ("float32", dtype):
        model = tiny(tied=True, bias=True)
        learner = Learner(model, quick(dtype=kind, learning_rate="1e-3", warmup_steps=0, adam_epsilon=1.0))
        if done is None:
            generator = generator_of(learner)
            generator.submit(REQUESTS)
            done = generator.poll()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        rows[kind] = learner.update(make_batch(REWARDS, done, learner.config), 1)
        changes[kind] = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert rows[dtype]["grad_norm"] == pytest.approx(rows["float32"]["grad_norm"], rel=0.02)
    assert rows[dtype]["loss"] == pytest.approx(rows["float32"]["loss"], abs=0.01)
    error = (changes[dtype] - changes["float32"]).norm() / changes["float32"].norm()
    assert 0 < error < 0.05  # adam_epsilon 1 keeps the step in proportion to the gradient


def test_an_fp16_gradient_that_overflows_skips_the_update_and_the_scale_falls_until_it_fits(quick):
    model = tiny(tied=False, bias=False)
    learner = Learner(model, quick(dtype="float16", learning_rate="1e-3", warmup_steps=0))
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    generator = generator_of(learner)
    generator.submit(REQUESTS)
    batch = make_batch(REWARDS, generator.poll(), learner.config)
    before = [p.detach().clone() for p in model.parameters()]
    row = learner.update(batch, 1)
    assert row["skipped"] and row["grad_norm"] is None and row["loss"] is not None
    assert all((a == b).all() for a, b in zip(before, model.parameters(), strict=True))
    assert learner.scaler.get_scale() == 2.0**39
    tries = 1
    while row["skipped"]:
        row, tries = learner.update(batch, 1), tries + 1
        assert tries < 40
    assert np.isfinite(row["grad_norm"]) and tries > 2
    assert any((a != b).any() for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("dtype", "mean"), [("bfloat16", 0.01), ("float16", 0.002)])
def test_sampler_and_trainer_differ_by_rounding_only(quick, chain_model, dtype, mean):
    """One token at a time and all at once round differently; nothing else may."""
    policy = load_policy(str(chain_model))
    learner = Learner(policy.model, quick(dtype=dtype))
    generator = generator_of(learner)
    generator.submit(REQUESTS)
    done = generator.poll()
    old = np.concatenate([c.logprobs for c in done])
    new = learner.logprobs(done).detach().numpy()
    assert len(old) > 200 and np.abs(old - new).mean() < mean and np.abs(old - new).max() < 20 * mean


def test_the_scale_of_fp16_comes_back_as_it_was(quick):
    def learner() -> Learner:
        return Learner(tiny(tied=True, bias=False), quick(dtype="float16"))

    def update(learner: Learner) -> None:
        learner.optimizer.zero_grad()
        learner.scaler.scale(sum((p**2).sum() for p in learner.model.parameters())).backward()
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()

    ours, theirs = learner(), learner()
    update(ours)
    update(ours)
    theirs.load(ours.save())
    assert theirs.scaler.state_dict() == ours.scaler.state_dict()
    update(theirs)
    assert theirs.scaler.state_dict()["_growth_tracker"] == 3
