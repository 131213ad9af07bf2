"""Decoding with vLLM: what its own generator writes, the same runs, and one line where it cannot.

The contract of a generator is in tests/test_generators.py. CPU builds of vLLM want heads of 32 and more.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import scalerl.vllmstart
from scalerl.completions import GenerationError, Interruption, Request
from scalerl.config import ConfigError, load_config
from scalerl.describe import driven_by_time
from scalerl.forward import Forward
from scalerl.generate import Generator
from scalerl.generic import GenericForward, make_forward
from scalerl.policy import Policy, character_tokenizer, load_policy, new_policy
from scalerl.runlog import UserError, read_header, read_log
from scalerl.start import resume, train
from scalerl.tasks import get_task
from scalerl.tasks.chain import Chain
from scalerl.vllmengine import VllmGenerator

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE = {"vocab_size": 18, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 72, "bos_token_id": None,
        "eos_token_id": 1, "pad_token_id": 0}  # fmt: skip
KINDS = {
    "qwen3": SIZE,
    "llama": {**SIZE, "tie_word_embeddings": True, "attention_bias": True},
    "qwen2": {**SIZE, "hidden_size": 128, "use_sliding_window": False},
    "gemma2": {**SIZE, "query_pre_attn_scalar": 32, "sliding_window": 72, "final_logit_softcapping": 3.0,
               "attn_logit_softcapping": None},  # its CPU kernel has a cap in attention to three digits only
}  # fmt: skip
WAYS = {
    "plain": {},
    "interrupted": {"interruption": Interruption(4, 9, (5, 6), 6, lambda tokens: 7 in tokens)},
    "cool": {"temperature": 0.7, "seed": 11},
}
TEXTS = ("7+3*4-2=", "1+1=", "9*9*9-3+4-5=", "0-5-4-5+5*0+6-9*7*3=")


@pytest.fixture
def vllm():
    """Skip where it is not installed; it is not imported here, for it reads its environment when it is."""
    if find_spec("vllm") is None:
        pytest.skip("needs vllm")


def made(kind: str) -> Policy:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind])).eval()
    with torch.no_grad():  # norms and biases that do something, and scores that differ
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.1))
    return Policy(model.to(DEVICE), character_tokenizer(get_task("chain").characters), (1,))


def requests(policy: Policy, count: int = 6) -> list[Request]:
    return [Request(i * count, count, policy.encode(text)) for i, text in enumerate(TEXTS)]


def both(policy: Policy, **options):
    """The package's own generator, and one that decodes with vLLM."""
    about = {"slots": 7, "max_new_tokens": 20, "max_length": 72, "end_ids": policy.end_ids, "seed": 5, **options}
    forward = make_forward(policy.model, 72, torch.float32)
    return Generator(forward, forward.weights(), **about), VllmGenerator(forward, forward.weights(), **about)


def compare(own, other, wanted) -> None:
    """Hold completions against one another: the same tokens, and figures that rounding sets apart."""
    for generator in (own, other):
        generator.submit(wanted)
    ours, theirs = own.poll(), other.poll()
    assert [(c.number, c.tokens, c.forced, c.truncated) for c in ours] == [
        (c.number, c.tokens, c.forced, c.truncated) for c in theirs
    ]
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(np.subtract(a.logprobs, b.logprobs)).max() < 1e-5
        assert a.entropy == pytest.approx(b.entropy, abs=1e-4)
    assert len({c.tokens for c in ours}) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_completions_are_those_of_the_own_generator_before_and_after_new_weights(vllm, kind):
    policy = made(kind)
    own, other = both(policy)
    try:
        assert isinstance(own.forward, Forward if kind in ("qwen3", "llama") else GenericForward)
        compare(own, other, requests(policy))
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.1)
        for generator in (own, other):
            generator.load(1, own.forward.weights())
        compare(own, other, requests(policy))
    finally:
        other.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_they_are_also_where_prompts_come_in_parts_and_phrases_are_forced(vllm, monkeypatch, way):
    monkeypatch.setattr(scalerl.vllmstart, "STEP_TOKENS", 8)  # less than most prompts are long
    policy = made("qwen3")
    own, other = both(policy, **WAYS[way])
    try:
        compare(own, other, requests(policy))
    finally:
        other.close()
    if way == "interrupted":
        own.submit(requests(policy))
        assert sum(c.forced != (0, 0) for c in own.poll()) > 5


@pytest.mark.slow
def test_starting_it_leaves_the_process_as_it_was(vllm):
    def about():
        plain = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
        drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        return plain, drawn, torch.set_num_threads, torch.get_num_threads()

    before = about()
    _, other = both(made("qwen3"))
    other.close()
    other.close()
    assert about() == before
    with pytest.raises(GenerationError, match="was closed"):
        other.poll()


@pytest.mark.slow
def test_a_model_that_it_computes_otherwise_or_not_at_all_is_refused_with_one_line(vllm):
    policy = made("qwen3")
    forward = make_forward(policy.model, 72, torch.float32)
    about = {"slots": 4, "max_new_tokens": 20, "max_length": 72, "end_ids": policy.end_ids}
    forward.eps = 0.5
    with pytest.raises(UserError, match=r"^engine: vllm gives other scores than the own forward for Qwen3ForCausalLM"):
        VllmGenerator(forward, forward.weights(), **about)
    forward.architecture = "NoSuchModel"
    with pytest.raises(UserError, match=r"^engine: vllm cannot run NoSuchModel in float32 on .*; set engine to own$"):
        VllmGenerator(forward, forward.weights(), **about)
    forward = make_forward(policy.model, 72, torch.float32)
    VllmGenerator(forward, forward.weights(), **about).close()  # what failed before is no hindrance


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A policy of random weights with heads of 32."""
    path = tmp_path_factory.mktemp("wide")
    new_policy(get_task("chain").characters, max_length=72, width=64, heads=2, seed=1).save(path)
    return str(path)


@pytest.fixture
def start(folder, prompts, tmp_path, quick, monkeypatch):
    """Train with an engine; random policies score, too."""
    monkeypatch.setattr(Chain, "score", lambda _, __, completion: len(completion) % 2 == 0)

    def start(name: str, **fields) -> Path:
        config = quick(model_name=folder, device=DEVICE, **fields)
        return train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / name))

    return start


def steps_of(folder: Path) -> list[dict]:
    return [row for row in read_log(folder / "log.jsonl").rows if row["kind"] == "step"]


@pytest.mark.slow
def test_a_run_gets_the_rewards_of_one_that_decodes_itself(vllm, start):
    rows = {engine: steps_of(start(engine, engine=engine, off_policy_steps=0)) for engine in ("own", "vllm")}
    for own, other in zip(rows["own"], rows["vllm"], strict=True):
        assert own["reward_sum"] == other["reward_sum"] and own["length_mean"] == other["length_mean"]
        assert own["tokens_generated"] == other["tokens_generated"] and own["lag_max"] == other["lag_max"] == 0
        assert own["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert other["logprob_diff_max"] < 1e-4
    assert len({row["reward_sum"] for row in rows["own"]}) > 2


@pytest.mark.slow
def test_the_lag_is_bound_and_a_run_goes_on(vllm, start):
    path = start("run", engine="vllm", off_policy_steps=2, slots=24)
    assert read_header(path)["not_reproducible"] == ["engine"]
    resume(str(path), ["max_steps=7"])
    rows = steps_of(path)
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert max(row["lag_max"] for row in rows) == 2 and all(row["reward_count"] == 32 for row in rows)
    assert any(row["mixed_share"] > 0 for row in rows)


def test_where_it_is_missing_one_line_names_the_extra_and_nothing_is_written(start, tmp_path, monkeypatch):
    monkeypatch.setattr(scalerl.vllmstart, "find_spec", lambda _: None)
    for where in ("inline", "process"):
        with pytest.raises(UserError) as failure:
            start("run", engine="vllm", generator=where)
        assert str(failure.value) == (
            "engine: vllm is not installed: pip install 'scalerl[train,vllm]', or set engine to own"
        )
    assert not (tmp_path / "run").exists()


def test_what_it_cannot_be_asked_for_is_refused_and_what_is_not_promised_is_named():
    with pytest.raises(ConfigError, match="dtype: float64: vLLM does not compute in it"):
        load_config(["demo"], ["engine=vllm", "dtype=float64"])
    assert driven_by_time(load_config(["demo"], ["engine=vllm"])) == ["engine"]


def test_it_is_not_imported_by_a_run_that_does_not_use_it():
    code = "import sys, scalerl.start, scalerl.vllmengine; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_the_names_and_values_of_a_model_directory(kind, tmp_path):
    policy = made(kind)
    policy.save(tmp_path)
    forward = make_forward(policy.model, 72)
    named = dict(forward.named(forward.weights()))
    loaded = load_policy(str(tmp_path)).model.state_dict()
    assert set(named) == set(loaded) - {"lm_head.weight"}
    assert all(torch.equal(named[name].cpu(), loaded[name]) for name in named)
