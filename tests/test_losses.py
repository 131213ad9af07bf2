"""Losses, penalty, advantages and weights as pure functions: plain loops, constants by hand, finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scalerl.advantage import advantages, keep_prompts, length_penalty, token_weights
from scalerl.completions import Completion
from scalerl.loss import cispo, clipped_surrogate, gspo, reinforce
from scalerl.train import make_rewards

LOSSES = ("cispo", "clipped", "gspo", "reinforce")
BOUNDS = {"most": 3.0, "low": 0.2, "high": 0.3, "epsilon": 0.1}


def ours(loss, new, old, advantage, lengths):
    if loss == "cispo":
        return cispo(new, old, advantage, epsilon_max=BOUNDS["most"])
    if loss == "clipped":
        return clipped_surrogate(new, old, advantage, epsilon_low=BOUNDS["low"], epsilon_high=BOUNDS["high"])
    if loss == "gspo":
        return gspo(new, old, advantage, lengths, epsilon=BOUNDS["epsilon"])
    return reinforce(new, old, advantage)


def plain(loss, new, old, advantage, held=None):
    """Loss and ratio of every token of one sequence. `held` has the values that the stop-gradient keeps as they are."""
    held = new if held is None else held
    ratios = [math.exp(a - b) for a, b in zip(new, old, strict=True)]
    out = []
    for place, token_ratio in enumerate(ratios):
        ratio = token_ratio
        if loss == "cispo":
            kept = math.exp(held[place] - old[place])
            out.append((-(kept if kept < BOUNDS["most"] else BOUNDS["most"]) * advantage * new[place], ratio))
        elif loss == "reinforce":
            out.append((-advantage * new[place], ratio))
        else:
            low, high = 1 - BOUNDS["low"], 1 + BOUNDS["high"]
            if loss == "gspo":
                ratio = math.prod(ratios) ** (1 / len(ratios))
                low, high = 1 - BOUNDS["epsilon"], 1 + BOUNDS["epsilon"]
            bounded = low if ratio < low else high if ratio > high else ratio
            free, cut = ratio * advantage, bounded * advantage
            out.append((-(free if free < cut else cut), ratio))
    return out


logprob = st.floats(-4, -0.01)
sequence = st.tuples(
    st.lists(st.tuples(logprob, st.floats(-1.5, 1.5)), min_size=1, max_size=6),
    st.sampled_from([-1.7, -0.4, 0.6, 1.3]),
)


def flat(drawn):
    new = [[a for a, _ in tokens] for tokens, _ in drawn]
    old = [[a - b for a, b in tokens] for tokens, _ in drawn]
    lengths = torch.tensor([len(row) for row in new])
    advantage = torch.tensor([a for _, a in drawn], dtype=torch.float64).repeat_interleave(lengths)
    tensors = (torch.tensor([x for row in rows for x in row], dtype=torch.float64) for rows in (new, old))
    return new, old, *tensors, advantage, lengths


def assume_no_kink(loss, new, old):
    """Finite differences mean nothing where a clip begins."""
    for a, b in zip(new, old, strict=True):
        ratios = [math.exp(x - y) for x, y in zip(a, b, strict=True)]
        if loss == "gspo":
            ratios = [math.prod(ratios) ** (1 / len(ratios))]
        edges = {
            "cispo": [BOUNDS["most"]],
            "clipped": [1 - BOUNDS["low"], 1 + BOUNDS["high"]],
            "gspo": [1 - BOUNDS["epsilon"], 1 + BOUNDS["epsilon"]],
        }
        assume(all(abs(r - edge) > 1e-3 for r in ratios for edge in edges.get(loss, [])))


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(sequence, min_size=1, max_size=4))
def test_loss_and_ratio_of_every_token_are_the_formula_written_out(loss, drawn):
    new, old, new_flat, old_flat, advantage, lengths = flat(drawn)
    out = ours(loss, new_flat, old_flat, advantage, lengths)
    expected = [t for a, b, (_, adv) in zip(new, old, drawn, strict=True) for t in plain(loss, a, b, adv)]
    assert out.loss.tolist() == pytest.approx([value for value, _ in expected], abs=1e-9)
    assert out.ratio.tolist() == pytest.approx([ratio for _, ratio in expected], rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(sequence, min_size=1, max_size=3))
def test_gradients_are_finite_differences_with_the_stop_gradient_and_zero_where_clipped(loss, drawn):
    new, old, new_flat, old_flat, advantage, lengths = flat(drawn)
    assume_no_kink(loss, new, old)
    new_flat.requires_grad_()
    out = ours(loss, new_flat, old_flat, advantage, lengths)
    (grad,) = torch.autograd.grad(out.loss.sum(), new_flat)
    at = 0
    for row, before, (_, adv) in zip(new, old, drawn, strict=True):
        for place in range(len(row)):
            sums = []
            for sign in (1, -1):
                moved = [x + sign * 1e-5 * (i == place) for i, x in enumerate(row)]
                sums.append(sum(value for value, _ in plain(loss, moved, before, adv, held=row)))
            assert grad[at].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, abs=1e-6)
            if loss in ("clipped", "gspo"):
                assert (grad[at].item() == 0) == out.clipped[at].item()
            at += 1
    assert not out.ratio.requires_grad and not out.clipped.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
def test_on_policy_every_loss_has_the_gradient_of_reinforce(loss):
    old = torch.tensor([-1.0, -0.5, -2.0, -0.1, -3.0], dtype=torch.float64)
    advantage = torch.tensor([0.7, 0.7, 0.7, -1.1, -1.1], dtype=torch.float64)
    new = old.clone().requires_grad_()
    out = ours(loss, new, old, advantage, torch.tensor([3, 2]))
    (grad,) = torch.autograd.grad(out.loss.sum(), new)
    assert torch.allclose(grad, -advantage, atol=1e-12)
    assert not out.clipped.any() and (out.ratio == 1).all()


def test_gspo_by_hand():
    """Differences .2 and 0 in one sequence, -.3 in another: s = e^.1, outside 1 +- .05, and e^-.3."""
    old = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64)
    new = (old + torch.tensor([0.2, 0.0, -0.3])).requires_grad_()
    lengths = torch.tensor([2, 1])
    for advantage, losses, clipped, gradients in (
        ([2.0, 2.0, 2.0], [-2.1, -2.1, -2 * math.exp(-0.3)], [True, True, False], [0, 0, -2 * math.exp(-0.3)]),
        ([-1, -1, -1], [math.exp(0.1)] * 2 + [0.95], [False, False, True], [math.exp(0.1)] * 2 + [0]),
    ):
        out = gspo(new, old, torch.tensor(advantage, dtype=torch.float64), lengths, epsilon=0.05)
        (grad,) = torch.autograd.grad(out.loss.sum(), new)
        assert out.loss.tolist() == pytest.approx(losses, abs=1e-7)
        assert out.clipped.tolist() == clipped
        assert grad.tolist() == pytest.approx(gradients, abs=1e-7)
        assert out.ratio.tolist() == pytest.approx([math.exp(0.1)] * 2 + [math.exp(-0.3)], abs=1e-7)


def test_reinforce_knows_no_ratio():
    new = torch.tensor([-1.0, -2.0], requires_grad=True)
    out = reinforce(new, torch.tensor([-3.0, -0.5]), torch.tensor([0.5, -2.0]))
    out.loss.sum().backward()
    assert out.loss.tolist() == [0.5, -4.0] and new.grad.tolist() == [-0.5, 2.0] and not out.clipped.any()
    assert out.ratio.tolist() == pytest.approx([math.exp(2), math.exp(-1.5)])


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


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 300), longest=st.integers(1, 200), cache=st.integers(1, 100))
def test_the_length_penalty_is_a_ramp_from_nothing_to_minus_one(length, longest, cache):
    value = length_penalty(torch.tensor([length]), max_tokens=longest, cache_tokens=cache).item()
    if length <= longest - cache:
        expected = 0.0
    elif length >= longest:
        expected = -1.0
    else:
        expected = -(length - (longest - cache)) / cache
    assert value == pytest.approx(expected, abs=1e-6)


def test_the_length_penalty_lowers_the_reward_of_right_answers_only(quick):
    done = [Completion(i, (1,), (2,) * n, (0.0,) * n, (0,) * n, 0.0, False) for i, n in enumerate((5, 8, 10, 12))]
    correct = torch.tensor([[True, True], [False, True]])
    fields = {"length_control": "penalty", "penalty_max_tokens": 10, "penalty_cache_tokens": 4}
    rewards, penalty = make_rewards(correct, done, quick(**fields))
    assert penalty.tolist() == [[0, -0.5], [0, -1]]  # 6 tokens are free; then a quarter a token
    assert rewards.tolist() == [[1, 0.5], [-1, 0]]
    for control in ("interruption", "none"):
        rewards, penalty = make_rewards(correct, done, quick(**{**fields, "length_control": control}))
        assert rewards.tolist() == [[1, 1], [-1, 1]] and not penalty.any()


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
    # lengths 90, 96, 100 with L_max 100 and L_cache 8: up to 92 free, then an eighth a token
    penalty = length_penalty(torch.tensor([90, 96, 100, 101]), max_tokens=100, cache_tokens=8)
    assert penalty.tolist() == [0.0, -0.5, -1.0, -1.0]


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


def test_the_filter_looks_at_each_prompt_by_itself():
    rewards = torch.tensor([[1.0, 1, 1], [1, -1, 1], [-1, -1, -1]])
    assert keep_prompts(rewards, filter_zero_variance=True).tolist() == [False, True, False]
    assert keep_prompts(rewards, filter_zero_variance=False).tolist() == [True, True, True]
