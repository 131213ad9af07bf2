"""One update: filter, advantages, weights, loss and gradient against plain loops that share no code."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.completions import Completion, Interruption, Request
from scalerl.forward import Forward
from scalerl.generate import Generator
from scalerl.learner import Batch, Learner, TrainingError, UpdateStatistics, micro_batches
from scalerl.policy import load_policy
from scalerl.train import make_batch

LOSSES = ("cispo", "clipped", "gspo", "reinforce")
ALL = [
    (loss, aggregation, normalization, keep)
    for loss in LOSSES
    for aggregation in ("prompt", "sample", "token")
    for normalization in ("batch", "prompt", "none")
    for keep in (True, False)
]


def plain_loss(
    rewards, logprobs, sampled, *, loss, aggregation, normalization, keep, epsilon_max=4.0, low=0.2, high=0.2, gspo=4e-3
):
    """The loss with every sum written out; logprobs and sampled are lists of lists of tokens, prompt by prompt.

    Both hold the tokens only that the policy chose: what was forced is in no sum and in no count.
    """
    count = len(rewards[0])
    kept = [p for p, row in enumerate(rewards) if not keep or len(set(row)) > 1]
    centred = {(p, g): rewards[p][g] - sum(rewards[p]) / count for p in kept for g in range(count)}
    flat = list(centred.values())
    batch_std = math.sqrt(sum(a * a for a in flat) / len(flat) - (sum(flat) / len(flat)) ** 2)
    total = 0.0
    for p in kept:
        own = [centred[p, g] for g in range(count)]
        prompt_std = math.sqrt(max(0, sum(a * a for a in own) / count - (sum(own) / count) ** 2))
        divisor = {"batch": batch_std + 1e-8, "prompt": prompt_std + 1e-8, "none": 1.0}[normalization]
        prompt_tokens = sum(len(logprobs[p * count + g]) for g in range(count))
        all_tokens = sum(len(logprobs[q * count + g]) for q in kept for g in range(count))
        for g in range(count):
            advantage = centred[p, g] / divisor
            pairs = list(zip(logprobs[p * count + g], sampled[p * count + g], strict=True))
            sequence = math.exp(sum(new - old for new, old in pairs) / len(pairs))
            for new, old in pairs:
                ratio = math.exp(new - old)
                if loss == "cispo":
                    term = min(ratio, epsilon_max) * advantage * new
                elif loss == "reinforce":
                    term = advantage * new
                elif loss == "gspo":
                    term = min(sequence * advantage, min(max(sequence, 1 - gspo), 1 + gspo) * advantage)
                else:
                    term = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
                share = {
                    "prompt": 1 / len(kept) / prompt_tokens,
                    "sample": 1 / len(kept) / count / len(pairs),
                    "token": 1 / all_tokens,
                }[aggregation]
                total -= share * term
    return total


def chosen(completion, values) -> list:
    """Those of a completion's values, one a token, whose tokens were not forced."""
    return [v for place, v in enumerate(values) if not completion.forced[0] <= place < completion.forced[1]]


@pytest.fixture(scope="module")
def policy(chain_model):
    return load_policy(str(chain_model), dtype="float64")


@pytest.fixture(scope="module")
def completions(policy):
    """Six prompts with four completions each, some with a forced phrase in the middle.

    Sampled and then moved away from, so that ratios differ from 1, a completion as a whole and token by token.
    """
    texts = ["7+3*4-2=", "1+1+1+1=", "9*9*9-3+4-5=", "0-5-4-5+5*0=", "3*3*3*3=", "2+2+2+2+2="]
    over = Interruption(4, 9, policy.encode("#1"), 4, lambda tokens: "#" in policy.decode(tokens))
    forward = Forward(policy.model, 72)
    generator = Generator(
        forward, forward.weights(), slots=24, max_new_tokens=13, max_length=72, end_ids=policy.end_ids, seed=2,
        interruption=over,
    )  # fmt: skip
    generator.submit([Request(i * 4, 4, policy.encode(text)) for i, text in enumerate(texts)])
    rng = np.random.default_rng(0)
    done = [
        replace(c, logprobs=tuple(p + whole + rng.normal(0, 0.8) for p in c.logprobs))
        for c, whole in zip(generator.poll(), rng.normal(0, 0.3, 24), strict=True)
    ]
    assert 5 < sum(c.forced[1] > 0 for c in done) < 24
    return done


REWARDS = [[1, -1, -1, 1], [1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, -1, -1], [1, 1, 1, -1], [-1, 1, -1, 1]]


def learner_of(policy, quick, **fields) -> Learner:
    return Learner(policy.model, quick(**{"dtype": "float64", **fields}))


def gradient(policy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()])


def backward(learner: Learner, batch: Batch) -> float:
    """Loss of a batch, its gradient left in the parameters, without an optimizer step."""
    statistics = UpdateStatistics()
    learner.optimizer.zero_grad()
    for chosen in micro_batches(batch.completions, learner.config.micro_batch_tokens):
        learner._backward(batch, chosen, statistics)
    return statistics.loss


@pytest.mark.parametrize("axes", ALL, ids=str)
def test_the_loss_is_the_formula_written_out(policy, completions, quick, axes):
    loss, aggregation, normalization, keep = axes
    learner = learner_of(
        policy, quick, loss=loss, aggregation=aggregation, advantage_normalization=normalization,
        zero_variance_filtering=str(keep).lower(), epsilon_max=1.5, gspo_epsilon=0.1,
    )  # fmt: skip
    batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, learner.config)
    assert len(batch.completions) == (16 if keep else 24)
    value = backward(learner, batch)
    flat = iter(learner.logprobs(completions).tolist())
    new = [chosen(c, [next(flat) for _ in c.tokens]) for c in completions]
    expected = plain_loss(
        REWARDS, new, [chosen(c, c.logprobs) for c in completions], loss=loss, aggregation=aggregation,
        normalization=normalization, keep=keep, epsilon_max=1.5, gspo=0.1,
    )  # fmt: skip
    assert value == pytest.approx(expected, abs=1e-12)
    assert abs(value) > 1e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences_with_the_stop_gradient(policy, completions, quick, loss):
    """Along random directions; CISPO's weight is held at its value, as its stop-gradient says."""
    learner = learner_of(policy, quick, loss=loss, epsilon_max=1.5, gspo_epsilon=0.1)
    batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, learner.config)
    backward(learner, batch)
    analytic = gradient(policy)
    rows = list(zip(batch.completions, batch.advantages.tolist(), batch.weights.tolist(), strict=True))

    def logprobs() -> list[list[float]]:
        with torch.no_grad():
            flat = iter(learner.logprobs(batch.completions).tolist())
        return [chosen(c, [next(flat) for _ in c.tokens]) for c in batch.completions]

    held = logprobs()

    def value() -> float:
        total = 0.0
        for (c, advantage, weight), new, kept in zip(rows, logprobs(), held, strict=True):
            old = chosen(c, c.logprobs)
            ratios = [math.exp(a - b) for a, b in zip(new, old, strict=True)]
            for place, token_ratio in enumerate(ratios):
                ratio, low, high = token_ratio, 0.8, 1.2
                if loss == "gspo":
                    ratio, low, high = math.prod(ratios) ** (1 / len(ratios)), 0.9, 1.1
                if loss == "cispo":
                    total -= weight * min(math.exp(kept[place] - old[place]), 1.5) * advantage * new[place]
                elif loss == "reinforce":
                    total -= weight * advantage * new[place]
                else:
                    total -= weight * min(ratio * advantage, min(max(ratio, low), high) * advantage)
        return total

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


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulated_bucketed_and_whole_updates_agree(policy, completions, quick, loss):
    """One completion at a time, a few of like length, all at once: the same loss, gradient and statistics."""
    results = []
    for budget in (1, 40, 200, 10_000):
        learner = learner_of(policy, quick, loss=loss, micro_batch_tokens=budget)
        batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, learner.config)
        learner.optimizer.step = lambda: None  # the weights stay
        results.append((learner.update(batch, step=1), gradient(policy), len(list(parts(batch, budget)))))
    assert [count for *_, count in results] == sorted({count for *_, count in results}, reverse=True)
    assert results[0][2] == 16 and results[-1][2] == 1
    for row, grad, _ in results[1:]:
        assert row == {k: pytest.approx(v, rel=1e-9, abs=1e-14) for k, v in results[0][0].items()}
        assert (grad - results[0][1]).abs().max() < 1e-12


def parts(batch: Batch, budget: int):
    return micro_batches(batch.completions, budget)


def test_the_statistics_are_means_over_the_tokens_that_were_chosen(policy, completions, quick):
    learner = learner_of(policy, quick, micro_batch_tokens=60, epsilon_max=1.5)
    batch = make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, learner.config)
    learner.optimizer.step = lambda: None
    row = learner.update(batch, step=1)
    flat = iter(learner.logprobs(batch.completions).tolist())
    new = [x for c in batch.completions for x in chosen(c, [next(flat) for _ in c.tokens])]
    old = [x for c in batch.completions for x in chosen(c, c.logprobs)]
    ratios = [math.exp(a - b) for a, b in zip(new, old, strict=True)]
    differences = [abs(a - b) for a, b in zip(new, old, strict=True)]
    assert row["ratio_mean"] == pytest.approx(sum(ratios) / len(ratios))
    assert row["ratio_max"] == pytest.approx(max(ratios))
    assert row["clipped_share"] == sum(r > 1.5 for r in ratios) / len(ratios) > 0
    assert row["logprob_diff_mean"] == pytest.approx(sum(differences) / len(differences))
    assert row["logprob_diff_max"] == pytest.approx(max(differences))


@pytest.mark.parametrize("loss", LOSSES)
def test_forced_tokens_have_no_gradient_and_no_weight(policy, completions, quick, loss):
    """Whatever was recorded for them: loss and gradient are those of the tokens around them."""
    learner = learner_of(policy, quick, loss=loss)
    moved = [
        replace(c, logprobs=tuple(p - 5.0 * (c.forced[0] <= i < c.forced[1]) for i, p in enumerate(c.logprobs)))
        for c in completions
    ]
    results = []
    for done in (completions, moved):
        value = backward(learner, make_batch(torch.tensor(REWARDS, dtype=torch.float64), done, learner.config))
        results.append((value, gradient(policy)))
    assert results[0][0] == results[1][0] and (results[0][1] == results[1][1]).all()
    seen = []  # gradient that reaches each token's log-probability
    logprobs = learner.logprobs

    def watched(part):
        out = logprobs(part)
        out.register_hook(lambda grad: seen.append((part, grad)))
        return out

    learner.logprobs = watched
    backward(learner, make_batch(torch.tensor(REWARDS, dtype=torch.float64), completions, learner.config))
    forced = own = 0.0
    for part, grad in seen:
        places = iter(grad.abs().tolist())
        for c in part:
            values = [next(places) for _ in c.tokens]
            forced += sum(values[c.forced[0] : c.forced[1]])
            own += sum(chosen(c, values))
    assert forced == 0 and own > 0.1


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
        padded = max(shapes[i][0] for i in part) + max(shapes[i][1] for i in part)
        assert len(part) == 1 or len(part) * padded <= budget


def test_nothing_kept_makes_no_optimizer_call_and_advances_everything(policy, completions, quick):
    learner = learner_of(policy, quick)
    config = learner.config
    before = [p.detach().clone() for p in policy.model.parameters()]
    same = torch.tensor([[1.0] * 4, [-1.0] * 4] * 3, dtype=torch.float64)
    row = learner.update(make_batch(same, completions, config), step=3)
    assert row["skipped"] is True and row["loss"] is None and row["grad_norm"] is None
    assert row["learning_rate"] == learner.learning_rate(3)
    assert all((a == b).all() for a, b in zip(before, policy.model.parameters(), strict=True))
    assert not learner.optimizer.state


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(chain_model, completions, quick):
    policy = load_policy(str(chain_model), dtype="float64")
    config = quick(dtype="float64")
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
    assert learner_of(policy, quick, warmup_steps=0, learning_rate="2e-4").learning_rate(1) == 2e-4
