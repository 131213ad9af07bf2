"""A swap keeps the cache: only a replay with each version's own weights gives back what was recorded.

Everything is read back from the folder of a real run: completions that wait for their batch, and those in work, stand
in its checkpoints, and so do the weights of every version. The oracle is the plain model of transformers with its own
cache, one token at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache

from scalerl.kept import unpack
from scalerl.start import train

CHECKPOINT = "data/checkpoints/chain"
# Large steps, so that versions differ by more than rounding, and slots for more than one batch, so that several
# versions write one completion.
FIELDS = {
    "batch_size": 16, "slots": 48, "max_steps": 14, "learning_rate": "1e-3", "warmup_steps": 0, "checkpoint_every": 1,
    "keep_checkpoints": 100, "eval_every": 100, "eval_generations": 1, "zero_variance_filtering": "false",
    "thinking_tokens": 24, "interruption_tokens": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def models_and_completions(tmp_path_factory, prompts):
    """Of a run with each way over a checkpoint: the model by version, and the completions of several versions."""
    from scalerl.config import load_config

    found = {}

    def look(in_flight: str):
        if in_flight not in found:
            values = {**FIELDS, "in_flight": in_flight, "generations_per_prompt": 4}
            config = load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in values.items()])
            folder = tmp_path_factory.mktemp(in_flight) / "run"
            train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))
            found[in_flight] = read(folder)
        return found[in_flight]

    return look


def read(folder: Path):
    checkpoints = {int(path.name[5:]): path for path in sorted((folder / "checkpoints").iterdir())}
    models = {step: plain_model(load_file(path / "model.safetensors")) for step, path in checkpoints.items()}
    waiting = [c for path in checkpoints.values() for c in unpack(load_file(path / "completions.safetensors"))]
    mixed = {c.number: c for c in waiting if len(set(c.versions)) > 1}
    return models, list(mixed.values())


def plain_model(weights):
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval()
    model.load_state_dict(weights, strict=True)
    return model


@torch.no_grad()
def replayed(completion, models) -> list[float]:
    """Log-probabilities from a cache that every version filled while it was the policy."""
    cache, out = DynamicCache(), []
    first = models[completion.versions[0]]
    for token in completion.prompt:
        scores = first(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits
    for place, token in enumerate(completion.tokens):
        if place:
            model, before = models[completion.versions[place]], completion.tokens[place - 1]
            scores = model(input_ids=torch.tensor([[before]]), past_key_values=cache, use_cache=True).logits
        out.append(scores[0, -1].log_softmax(-1)[token].item())
    return out


@torch.no_grad()
def prefilled(completion, models) -> list[float]:
    """Log-probabilities of the last version's tokens, everything before them run anew with its weights."""
    model = models[completion.versions[-1]]
    ids = torch.tensor([completion.prompt + completion.tokens])
    scores = model(input_ids=ids).logits[0, len(completion.prompt) - 1 : -1].log_softmax(-1)
    values = scores[torch.arange(len(completion.tokens)), torch.tensor(completion.tokens)].tolist()
    return values[completion.versions.index(completion.versions[-1]) :]


def test_a_replay_with_the_weights_of_every_version_gives_back_every_recorded_log_probability(models_and_completions):
    models, mixed = models_and_completions("kv")
    assert len(mixed) > 60 and max(len(set(c.versions)) for c in mixed) >= 3
    assert sum(c.forced[1] > 0 for c in mixed) > 5  # forced phrases were fed, too
    for c in mixed:
        assert replayed(c, models) == pytest.approx(list(c.logprobs), abs=1e-4), c.number


def test_a_prefill_with_the_last_version_does_not_since_the_caches_are_stale(models_and_completions):
    """Only tokens of the last version are compared, so that nothing but the cache can differ."""
    models, mixed = models_and_completions("kv")
    worst = []
    for c in mixed:
        new = prefilled(c, models)
        worst.append(max(abs(a - b) for a, b in zip(new, c.logprobs[-len(new) :], strict=True)))
    assert sum(difference > 1e-3 for difference in worst) > 0.5 * len(worst)
    assert max(worst) > 0.05


def test_a_refreshed_cache_is_that_of_the_last_version(models_and_completions):
    """The counterpart: where every boundary makes the caches anew, the same prefill agrees."""
    models, mixed = models_and_completions("refresh")
    assert len(mixed) > 60
    for c in mixed:
        new = prefilled(c, models)
        assert new == pytest.approx(list(c.logprobs[-len(new) :]), abs=1e-4), c.number
