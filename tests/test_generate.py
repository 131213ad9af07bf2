"""Generation: the recorded log-probabilities are the policy's, and the noise depends on nothing but its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.completions import Interruption, Request, sampling_noise
from scalerl.config import load_config
from scalerl.forward import Forward
from scalerl.generate import Generator
from scalerl.learner import Learner
from scalerl.policy import load_policy

PROMPTS = ["7+3*4-2=", "1+1+1+1=", "9*9*9-3+4-5=", "0-5-4-5+5*0+6-9*7*3="]


def requests(policy, count: int = 8, texts: list[str] = PROMPTS) -> list[Request]:
    return [Request(i * count, count, policy.encode(text)) for i, text in enumerate(texts)]


def generator_of(policy, *, slots: int = 64, **options) -> Generator:
    settings = {"max_new_tokens": 24, "max_length": 72, "end_ids": policy.end_ids, "seed": 5, **options}
    forward = Forward(policy.model, settings["max_length"])
    return Generator(forward, forward.weights(), slots=slots, **settings)


def generate(policy, *, wanted: list[Request] | None = None, **options):
    generator = generator_of(policy, **options)
    generator.submit(wanted or requests(policy))
    return generator.poll()


def relearned(policy, completions, **fields) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities as generated and as the learner computes them, in the policy's precision."""
    fields = {"dtype": str(policy.model.dtype).removeprefix("torch."), **fields}
    config = load_config(["scalerl", "demo"], [f"{k}={v}" for k, v in fields.items()])
    new = Learner(policy.model, config).logprobs(completions).detach().double().numpy()
    return np.concatenate([c.logprobs for c in completions]), new


@pytest.fixture(scope="module", params=["random", "shipped"])
def folder(request, chain_model):
    return str(chain_model) if request.param == "random" else "data/checkpoints/chain"


@pytest.mark.parametrize(("dtype", "mean", "largest"), [("float32", 1e-6, 1e-4), ("float64", 1e-10, 1e-10)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_trainer_agree(folder, dtype, mean, largest, temperature):
    policy = load_policy(folder, dtype=dtype)
    done = generate(policy, temperature=temperature, slots=20)
    old, new = relearned(policy, done, temperature=temperature)
    difference = np.abs(old - new)
    assert len(difference) > 300
    assert difference.mean() <= mean and difference.max() <= largest


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 1e-4), ("float64", 1e-10)])
def test_they_agree_also_when_the_policy_samples_the_pad_token(chain_model, dtype, largest):
    policy = load_policy(str(chain_model), dtype=dtype)
    pad = policy.tokenizer.pad_token_id
    with torch.no_grad():  # make the pad token likely everywhere
        policy.model.lm_head.weight[pad] = policy.model.lm_head.weight.mean(0)
    done = generate(policy)
    share = np.mean([token == pad for c in done for token in c.tokens])
    assert 0.02 < share < 0.9
    assert any(pad in c.tokens[:-1] for c in done)
    old, new = relearned(policy, done)
    assert np.abs(old - new).max() <= largest


def test_recorded_logprobs_are_those_of_the_plain_model(chain_model):
    """The oracle shares no code: transformers' forward, one sequence at a time, shift by one, log-softmax."""
    policy = load_policy(str(chain_model), dtype="float64")
    for c in generate(policy)[::5]:
        ids = torch.tensor([c.prompt + c.tokens])
        with torch.no_grad():
            scores = policy.model(input_ids=ids).logits[0]
        for place, (token, logprob) in enumerate(zip(c.tokens, c.logprobs, strict=True)):
            expected = torch.log_softmax(scores[len(c.prompt) + place - 1], -1)[token]
            assert abs(expected.item() - logprob) < 1e-6


def test_slots_and_order_of_admission_do_not_change_what_is_drawn(chain_model):
    policy = load_policy(str(chain_model), dtype="float64")
    all_at_once = generate(policy, slots=32)
    for slots in (1, 5, 31):
        few = generate(policy, slots=slots)
        assert [(c.number, c.prompt, c.tokens, c.truncated) for c in few] == [
            (c.number, c.prompt, c.tokens, c.truncated) for c in all_at_once
        ]
        assert (
            max(
                abs(a - b)
                for x, y in zip(few, all_at_once, strict=True)
                for a, b in zip(x.logprobs, y.logprobs, strict=True)
            )
            < 1e-10
        )
    backwards = generate(policy, wanted=requests(policy)[::-1])
    assert [c.tokens for c in backwards] == [c.tokens for c in all_at_once]
    assert [c.entropy for c in few] == pytest.approx([c.entropy for c in all_at_once], rel=1e-9)


def test_ticks_give_back_the_same_as_running_to_the_end(chain_model):
    policy = load_policy(str(chain_model), dtype="float64")
    generator = generator_of(policy, slots=7)
    generator.submit(requests(policy))
    done = []
    for _ in range(2000):
        done += generator.poll(ticks=1)
        if len(done) == 32:
            break
    assert sorted((c.number, c.tokens) for c in done) == [(c.number, c.tokens) for c in generate(policy)]


def test_seeds_and_streams_differ(chain_model):
    policy = load_policy(str(chain_model))
    base = [c.tokens for c in generate(policy)]
    assert [c.tokens for c in generate(policy)] == base
    assert [c.tokens for c in generate(policy, seed=6)] != base
    assert [c.tokens for c in generate(policy, stream=3)] != base


def test_completions_end_at_an_end_token_or_at_the_limit(folder):
    policy = load_policy(folder)
    done = generate(policy, max_new_tokens=14)
    assert len(done) == 32 and {c.number for c in done} == set(range(32))
    for c in done:
        assert len(c.tokens) == len(c.logprobs) == len(c.versions) <= 14
        assert not set(c.tokens[:-1]) & set(policy.end_ids)
        assert c.truncated == (c.tokens[-1] not in policy.end_ids)
        assert not c.truncated or len(c.tokens) == 14


def test_tokens_are_drawn_from_the_models_distribution(chain_model):
    """Chi-square of 20,000 first tokens against the model's probabilities; the seed is fixed."""
    from scipy.stats import chisquare

    policy = load_policy(str(chain_model), dtype="float64")
    prompt = policy.encode(PROMPTS[0])
    done = generate(policy, slots=20_000, max_new_tokens=1, wanted=[Request(0, 20_000, prompt)], temperature=1.3)
    with torch.no_grad():
        expected = torch.softmax(policy.model(input_ids=torch.tensor([prompt])).logits[0, -1] / 1.3, -1).numpy()
    observed = np.bincount([c.tokens[0] for c in done], minlength=len(expected))
    assert chisquare(observed, expected / expected.sum() * 20_000).pvalue > 1e-3
    entropy = -(expected * np.log(expected)).sum()
    assert all(abs(c.entropy - entropy) < 1e-6 for c in done[:5])


def test_a_version_is_recorded_with_every_token_and_new_weights_are_taken_over(chain_model):
    policy = load_policy(str(chain_model), dtype="float64")
    generator = generator_of(policy, slots=32)
    generator.submit(requests(policy))
    early = generator.poll(ticks=3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.5)
    generator.load(1, generator.forward.weights())
    late = generator.poll()
    assert all(set(c.versions) == {0} for c in early)
    swapped = [c for c in late if len(c.tokens) > 5]
    assert swapped and all(c.versions[0] == 0 and c.versions[-1] == 1 for c in swapped)
    for c in late:  # one version after the other, also for completions that were moved to another slot
        assert list(c.versions) == sorted(c.versions) and c.versions.count(0) == min(4, len(c.versions))
    unswapped = {c.number: c for c in generate(load_policy(str(chain_model), dtype="float64"))}
    assert any(c.tokens != unswapped[c.number].tokens for c in swapped)


@pytest.mark.parametrize("slots", [7, 32])
def test_a_cache_that_is_kept_over_a_swap_is_stale_and_a_refreshed_one_is_not(chain_model, slots):
    """The plain model with the last weights agrees with the last tokens only if the cache was made anew."""
    differences = {}
    for fresh in (False, True):
        policy = load_policy(str(chain_model), dtype="float64")
        generator = generator_of(policy, slots=slots)
        generator.submit(requests(policy))
        done = generator.poll(ticks=4)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.2)
        generator.load(1, generator.forward.weights())
        if fresh:
            generator.refresh()
        done += generator.poll()
        found = []
        for c in done:
            with torch.no_grad():
                ids = torch.tensor([c.prompt + c.tokens])
                scores = policy.model(input_ids=ids).logits[0, len(c.prompt) - 1 : -1].log_softmax(-1)
            new = scores[torch.arange(len(c.tokens)), torch.tensor(c.tokens)].tolist()
            both = zip(new, c.logprobs, c.versions, strict=True)
            found += [abs(a - b) for a, b, version in both if version == 1 and c.versions[0] == 0]
        assert len(found) > 40
        differences[fresh] = max(found)
    assert differences[True] < 1e-6 and differences[False] > 1e-2


def test_a_state_goes_on_as_if_nothing_had_been(chain_model):
    policy = load_policy(str(chain_model))
    one, two = generator_of(policy, slots=7), generator_of(policy, slots=7)
    one.submit(requests(policy, count=2)[:3])
    early = one.poll(ticks=5)
    one.submit([])
    two.restore(one.state(cache=True))
    late = [generator.poll() for generator in (one, two)]
    assert late[0] == late[1] and len(early) + len(late[0]) == 6


PHRASE = "#1"


def interrupted(policy, low: int, high: int, answer_tokens: int, **options):
    phrase = policy.encode(PHRASE)
    over = Interruption(low, high, phrase, answer_tokens, lambda tokens: "#" in policy.decode(tokens))
    return generate(policy, interruption=over, **options)


@settings(max_examples=15, deadline=None)
@given(low=st.integers(3, 12), more=st.integers(0, 8), answer=st.integers(1, 6), slots=st.sampled_from([3, 32]))
def test_thinking_ends_by_force_within_its_budget_and_leaves_room_for_the_answer(chain_model, low, more, answer, slots):
    policy = load_policy(str(chain_model))
    phrase = policy.encode(PHRASE)
    done = interrupted(policy, low, low + more, answer, slots=slots, max_new_tokens=low + more + answer)
    forced = [c for c in done if c.forced != (0, 0)]
    assert forced
    for c in done:
        begin, end = c.forced
        assert len(c.tokens) <= low + more + answer
        if c in forced:
            assert c.tokens[begin:end] == phrase and low <= end <= low + more
            assert "#" not in policy.decode(c.tokens[:begin]) and len(c.tokens) <= end + answer
            assert c.sampled == len(c.tokens) - len(phrase)
        else:  # it ended, or ended its thinking, in time
            room = c.tokens[: low + more - len(phrase)]
            assert set(c.tokens[-1:]) & set(policy.end_ids) or "#" in policy.decode(room)


def test_budgets_are_uniform_in_their_range_and_depend_on_the_number_alone(chain_model):
    from scipy.stats import chisquare

    policy = load_policy(str(chain_model))
    never_over = Interruption(4, 8, policy.encode(PHRASE), 2, lambda _: False)
    many = [Request(0, 1500, policy.encode(PROMPTS[0]))]
    options = {"wanted": many, "max_new_tokens": 10, "end_ids": [10**6], "interruption": never_over}
    ends = [c.forced[1] for c in generate(policy, slots=400, **options)]
    assert set(ends) == {4, 5, 6, 7, 8} and chisquare(np.bincount(ends)[4:]).pvalue > 1e-3
    assert [c.forced[1] for c in generate(policy, slots=37, **options)] == ends
    assert [c.forced[1] for c in generate(policy, slots=400, seed=6, **options)] != ends


def test_forced_tokens_have_the_policys_log_probability_and_what_follows_has_seen_them(chain_model):
    policy = load_policy(str(chain_model), dtype="float64")
    done = interrupted(policy, 4, 8, 6, slots=9, max_new_tokens=14)
    assert sum(c.forced[1] > 0 for c in done) > 10
    old, new = relearned(policy, done)
    assert np.abs(old - new).max() <= 1e-10


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**63), stream=st.integers(0, 10**6), first=st.integers(0, 10**12),
    count=st.integers(1, 20), length=st.integers(1, 70),
)  # fmt: skip
def test_noise_of_a_completion_depends_on_its_number_alone(seed, stream, first, count, length):
    block = sampling_noise((seed, stream), first, count, length)
    assert block.shape == (count, length) and (block >= 0).all() and (block < 1).all()
    for row in (0, count - 1):
        assert (sampling_noise((seed, stream), first + row, 1, length)[0] == block[row]).all()
    assert (sampling_noise((seed, stream), first, count, length + 9)[:, :length] == block).all()
    assert not (sampling_noise((seed, stream), first, count, length, purpose=1) == block).any()


def test_weights_that_change_before_they_are_loaded_reach_no_completion(chain_model):
    policy = load_policy(str(chain_model), dtype="float64")
    generator = generator_of(policy, slots=32)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.5)
    generator.submit(requests(policy))
    fresh = generate(load_policy(str(chain_model), dtype="float64"))
    assert [(c.tokens, c.logprobs) for c in generator.poll()] == [(c.tokens, c.logprobs) for c in fresh]


def test_noise_is_uniform_and_rows_are_not_related():
    block = sampling_noise((3, 0), 1000, 4000, 25)
    assert abs(block.mean() - 0.5) < 4 * np.sqrt(1 / 12 / block.size)
    assert abs(np.corrcoef(block[:-1].ravel(), block[1:].ravel())[0, 1]) < 4 / np.sqrt(block.size)
