"""One update: filter, advantages, weights, loss and gradient against plain loops that share no code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.advantage import advantages, keep_prompts, token_weights
from scalerl.generate import Completion, Generator, Request
from scalerl.learner import Batch, Learner, TrainingError, micro_batches
from scalerl.loss import cispo, clipped_surrogate
from scalerl.policy import load_policy
from scalerl.train import make_batch

ALL = [
    (loss, aggregation, normalization, keep)
    for loss in ("cispo", "clipped")
    for aggregation in ("prompt", "sample", "token")
    for normalization in ("batch", "prompt", "none")
    for keep in (True, False)
]


def plain_loss(
    rewards, logprobs, sampled, *, loss, aggregation, normalization, keep, epsilon_max=4.0, low=0.2, high=0.2
):
    """The loss with every sum written out; logprobs and sampled are lists of lists of tokens, prompt by prompt."""
    count = len(rewards[0])
    kept = [p for p, row in enumerate(rewards) if not keep or len(set(row)) > 1]
    centred = {(p, g): rewards[p][g] - sum(rewards[p]) / count for p in kept for g in range(count)}
    flat = list(centred.values())
    batch_std = math.sqrt(sum(a * a for a in flat) / len(flat) - (sum(flat) / len(flat)) ** 2)
    total = 0.0
    for p in kept:
        own = [centred[p, g] for g in range(count)]
        prompt_std = math.sqrt(sum(a * a for a in own) / count - (sum(own) / count) ** 2)
        divisor = {"batch": batch_std + 1e-8, "prompt": prompt_std + 1e-8, "none": 1.0}[normalization]
        prompt_tokens = sum(len(logprobs[p * count + g]) for g in range(count))
        all_tokens = sum(len(logprobs[q * count + g]) for q in kept for g in range(count))
        for g in range(count):
            advantage = centred[p, g] / divisor
            for new, old in zip(logprobs[p * count + g], sampled[p * count + g], strict=True):
                ratio = math.exp(new - old)
                if loss == "cispo":
                    term = min(ratio, epsilon_max) * advantage * new
                else:
                    term = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
                share = {
                    "prompt": 1 / len(kept) / prompt_tokens,
                    "sample": 1 / len(kept) / count / len(logprobs[p * count + g]),
                    "token": 1 / all_tokens,
                }[aggregation]
                total -= share * term
    return total


@pytest.fixture(scope="module")
def policy(chain_model):
    return load_policy(str(chain_model), dtype="float64")


@pytest.fixture(scope="module")
def completions(policy):
    """Six prompts with four completions each, sampled and then moved away from, so that ratios differ from 1."""
    texts = ["7+3*4-2=", "1+1+1+1=", "9*9*9-3+4-5=", "0-5-4-5+5*0=", "3*3*3*3=", "2+2+2+2+2="]
    generator = Generator(policy.model, slots=24, max_new_tokens=12, max_length=72, end_ids=policy.end_ids, seed=2)
    generator.submit([Request(i * 4, 4, policy.encode(text)) for i, text in enumerate(texts)])
    rng = np.random.default_rng(0)
    return [
        Completion(**{**vars(c), "logprobs": tuple(p + rng.normal(0, 0.8) for p in c.logprobs)})
        for c in generator.poll()
    ]


REWARDS = [[1, -1, -1, 1], [1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, -1, -1], [1, 1, 1, -1], [-1, 1, -1, 1]]


def learner_of(policy, quick, **fields) -> Learner:
    return Learner(policy.model, quick(**fields))


def gradient(policy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()])


def backward(learner: Learner, batch: Batch) -> float:
    """Loss of a batch, its gradient left in the parameters, without an optimizer step."""
    from scalerl.learner import UpdateStatistics

    statistics = UpdateStatistics()
    learner.optimizer.zero_grad()
    for chosen in micro_batches(batch.completions, learner.config.micro_batch_tokens):
        learner._backward(batch, chosen, statistics)
    return statistics.loss


@pytest.mark.parametrize("axes", ALL, ids=str)
def test_the_loss_is_the_formula_written_out(policy, completions, quick, axes):
    loss, aggregation, normalization, keep = axes
    config = quick(
        loss=loss, aggregation=aggregation, advantage_normalization=normalization,
        zero_variance_filtering=str(keep).lower(), epsilon_max=1.5,
    )  # fmt: skip
    learner = Learner(policy.model, config)
    batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, config)
    assert len(batch.completions) == (16 if keep else 24)
    value = backward(learner, batch)
    flat = iter(learner.logprobs(completions).tolist())
    new = [[next(flat) for _ in c.tokens] for c in completions]
    expected = plain_loss(
        REWARDS, new, [c.logprobs for c in completions],
        loss=loss, aggregation=aggregation, normalization=normalization, keep=keep, epsilon_max=1.5,
    )  # fmt: skip
    assert value == pytest.approx(expected, abs=1e-12)
    assert abs(value) > 1e-4


@pytest.mark.parametrize("loss", ["cispo", "clipped"])
def test_the_gradient_is_that_of_finite_differences_with_the_stop_gradient(policy, completions, quick, loss):
    """Along random directions; CISPO's weight is held at its value, as its stop-gradient says."""
    config = quick(loss=loss, epsilon_max=1.5)
    learner = Learner(policy.model, config)
    batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, config)
    backward(learner, batch)
    analytic = gradient(policy)
    lengths = [len(c.tokens) for c in batch.completions]
    sampled = torch.tensor([p for c in batch.completions for p in c.logprobs], dtype=torch.float64)
    advantage = batch.advantages.repeat_interleave(torch.tensor(lengths))
    weight = batch.weights.repeat_interleave(torch.tensor(lengths))
    held = (learner.logprobs(batch.completions).detach() - sampled).exp().clamp(max=1.5)

    def value() -> float:
        with torch.no_grad():
            new = learner.logprobs(batch.completions)
        if loss == "cispo":
            return float(-(weight * held * advantage * new).sum())
        ratio = (new - sampled).exp()
        return float(-(weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)).sum())

    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(len(analytic), generator=generator, dtype=torch.float64)
        direction[: policy.model.config.hidden_size] = 0  # the embedding of the pad token, which does not learn
        values = []
        for sign in (1, -1):
            shift(policy, direction, sign * 1e-6)
            values.append(value())
            shift(policy, direction, -sign * 1e-6)
        numeric = (values[0] - values[1]) / 2e-6
        assert numeric == pytest.approx(float(analytic @ direction), rel=1e-5, abs=1e-8)


def shift(policy, direction: torch.Tensor, size: float) -> None:
    at = 0
    with torch.no_grad():
        for parameter in policy.model.parameters():
            n = parameter.numel()
            parameter.add_(direction[at : at + n].view_as(parameter), alpha=size)
            at += n


def test_micro_batches_do_not_change_the_update(policy, completions, quick):
    results = []
    for budget in (1, 40, 200, 10_000):
        config = quick(micro_batch_tokens=budget)
        batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, config)
        value = backward(Learner(policy.model, config), batch)
        results.append((value, gradient(policy)))
    for value, grad in results[1:]:
        assert value == pytest.approx(results[0][0], abs=1e-14)
        assert (grad - results[0][1]).abs().max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=40),
    budget=st.integers(1, 200),
)
def test_micro_batches_hold_everything_once_and_keep_the_budget(shapes, budget):
    done = [Completion(i, (1,) * p, (2,) * c, (0.0,) * c, (0,) * c, 0.0, False) for i, (p, c) in enumerate(shapes)]
    parts = list(micro_batches(done, budget))
    assert sorted(i for part in parts for i in part) == list(range(len(done)))
    for part in parts:
        longest = max(sum(shapes[i]) for i in part)
        assert len(part) == 1 or len(part) * longest <= budget


def test_on_policy_the_losses_are_one_gradient(policy, completions, quick):
    """With ratio 1 CISPO and the clipped surrogate have the gradient of REINFORCE."""
    grads = []
    for loss in ("cispo", "clipped"):
        config = quick(loss=loss)
        learner = Learner(policy.model, config)
        with torch.no_grad():
            flat = iter(learner.logprobs(completions).tolist())
        fresh = [Completion(**{**vars(c), "logprobs": tuple(next(flat) for _ in c.tokens)}) for c in completions]
        backward(learner, make_batch(torch.tensor(REWARDS, dtype=torch.float64), fresh, config))
        grads.append(gradient(policy))
    assert (grads[0] - grads[1]).abs().max() < 1e-12 and grads[0].abs().max() > 1e-3


def test_hand_computed_constants():
    rewards = torch.tensor([[1.0, -1, -1, -1], [1, 1, -1, -1]])
    by_batch = advantages(rewards, "batch")
    # centred: 1.5, -.5 x 3 and 1, 1, -1, -1; mean square (2.25 + .75 + 4) / 8 = .875
    assert torch.allclose(by_batch[0], torch.tensor([1.5, -0.5, -0.5, -0.5]) / math.sqrt(0.875))
    by_prompt = advantages(rewards, "prompt")
    assert torch.allclose(by_prompt[0], torch.tensor([1.5, -0.5, -0.5, -0.5]) / math.sqrt(0.75))
    assert torch.allclose(by_prompt[1], torch.tensor([1.0, 1, -1, -1]))
    lengths = torch.tensor([[1, 3], [4, 8]])
    assert torch.allclose(token_weights(lengths, "prompt"), torch.tensor([[1 / 8, 1 / 8], [1 / 24, 1 / 24]]).double())
    assert torch.allclose(token_weights(lengths, "sample"), torch.tensor([[1 / 4, 1 / 12], [1 / 16, 1 / 32]]).double())
    assert torch.allclose(token_weights(lengths, "token"), torch.full((2, 2), 1 / 16).double())


@pytest.mark.parametrize("aggregation", ["prompt", "sample", "token"])
@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=1, max_size=8))
def test_all_token_weights_add_up_to_one(aggregation, lengths):
    lengths = torch.tensor(lengths)
    assert float((token_weights(lengths, aggregation) * lengths).sum()) == pytest.approx(1, abs=1e-12)


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="batch, prompt or none"):
        advantages(torch.zeros(1, 2), "group")
    with pytest.raises(ValueError, match="prompt, sample or token"):
        token_weights(torch.ones(1, 2), "sequence")


def test_cispo_has_one_absolute_bound_and_the_surrogate_two_sides():
    new = torch.log(torch.tensor([0.01, 0.5, 1.0, 3.9, 4.1, 100.0])).requires_grad_()
    zero, one = torch.zeros(6), torch.ones(6)
    out = cispo(new, zero, one, epsilon_max=4.0)
    out.loss.sum().backward()
    assert torch.allclose(-new.grad, torch.tensor([0.01, 0.5, 1.0, 3.9, 4.0, 4.0]))
    assert out.clipped.tolist() == [False] * 4 + [True] * 2
    for sign, clipped in ((1, [False] * 3 + [True] * 3), (-1, [True, True, False, False, False, False])):
        out = clipped_surrogate(new, zero, sign * one, epsilon_low=0.2, epsilon_high=0.26)
        assert out.clipped.tolist() == clipped
        (grad,) = torch.autograd.grad(out.loss.sum(), new)
        assert ((grad == 0) == torch.tensor(clipped)).all()


def test_nothing_kept_makes_no_optimizer_call_and_advances_everything(policy, completions, quick):
    config = quick()
    learner = Learner(policy.model, config)
    before = [p.detach().clone() for p in policy.model.parameters()]
    same = torch.tensor([[1.0] * 4, [-1.0] * 4] * 3, dtype=torch.float64)
    row = learner.update(make_batch(same, completions, config), step=3)
    assert row["skipped"] is True and row["loss"] is None and row["grad_norm"] is None
    assert row["learning_rate"] == learner.learning_rate(3)
    assert all((a == b).all() for a, b in zip(before, policy.model.parameters(), strict=True))
    assert not learner.optimizer.state


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(chain_model, completions, quick):
    policy = load_policy(str(chain_model), dtype="float64")
    config = quick()
    batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, config)
    broken = batch._replace(advantages=batch.advantages * float("inf"))
    before = [p.detach().clone() for p in policy.model.parameters()]
    with pytest.raises(TrainingError, match=r"step 7: .* is not finite"):
        Learner(policy.model, config).update(broken, step=7)
    assert all((a == b).all() for a, b in zip(before, policy.model.parameters(), strict=True))


def test_the_learning_rate_rises_linearly_and_stays(policy, quick):
    learner = learner_of(policy, quick, warmup_steps=4, learning_rate="1e-3")
    assert [learner.learning_rate(step) for step in (1, 2, 3, 4, 5, 900)] == pytest.approx(
        [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3]
    )
    assert learner_of(policy, quick, warmup_steps=0).learning_rate(1) == 2e-4


def test_the_filter_looks_at_each_prompt_by_itself():
    rewards = torch.tensor([[1.0, 1, 1], [1, -1, 1], [-1, -1, -1]])
    assert keep_prompts(rewards, filter_zero_variance=True).tolist() == [False, True, False]
    assert keep_prompts(rewards, filter_zero_variance=False).tolist() == [True, True, True]
