"""Policy-gradient losses: pure functions of tensors that return the loss of each token and its statistics.

Arguments are flat over the tokens in the loss, shape (N,): `logprobs` under the policy in training (with gradient),
`sampled` under the policy that generated them, and the `advantage` of their completion. The importance ratio is
``exp(logprobs - sampled)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenLoss(NamedTuple):
    """Loss of each token (N,), before weights; importance ratios (N,) and which were clipped (N,), no gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def cispo(logprobs: Tensor, sampled: Tensor, advantage: Tensor, *, epsilon_max: float) -> TokenLoss:
    """CISPO: REINFORCE with the importance ratio as a weight that is cut off and carries no gradient.

    ``- stop_gradient(min(ratio, epsilon_max)) * advantage * logprobs``. Public trainers read the clip in three
    ways; here it is an absolute maximum of the ratio, and there is no lower one (ScaleRL, section 3.2).

    Examples
    --------
    >>> logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    >>> out = cispo(logprobs, torch.tensor([-1.0, -4.0]), torch.tensor([1.0, 1.0]), epsilon_max=4.0)
    >>> out.loss.sum().backward()
    >>> logprobs.grad.tolist()          # the second ratio is e^3, cut off at 4
    [-1.0, -4.0]
    """
    ratio = (logprobs.detach() - sampled).exp()
    weight = ratio.clamp(max=epsilon_max)
    return TokenLoss(-weight * advantage * logprobs, ratio, ratio > epsilon_max)


def clipped_surrogate(
    logprobs: Tensor, sampled: Tensor, advantage: Tensor, *, epsilon_low: float, epsilon_high: float
) -> TokenLoss:
    """PPO's clipped surrogate, as in GRPO; with a larger `epsilon_high` as in DAPO.

    ``- min(ratio * advantage, clamp(ratio, 1 - epsilon_low, 1 + epsilon_high) * advantage)``. A token counts as
    clipped where the clamped term is the smaller one, so that the token has no gradient.

    Examples
    --------
    >>> logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    >>> out = clipped_surrogate(logprobs, torch.tensor([-1.0, -4.0]), torch.ones(2), epsilon_low=0.2, epsilon_high=0.2)
    >>> out.loss.sum().backward()
    >>> logprobs.grad.tolist(), out.clipped.tolist()
    ([-1.0, 0.0], [False, True])
    """
    ratio = (logprobs - sampled).exp()
    free = ratio * advantage
    bounded = ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantage
    return TokenLoss(-torch.minimum(free, bounded), ratio.detach(), (bounded < free).detach())


def gspo(logprobs: Tensor, sampled: Tensor, advantage: Tensor, lengths: Tensor, *, epsilon: float) -> TokenLoss:
    """GSPO: the clipped surrogate with one ratio a sequence, the geometric mean of its tokens' ratios.

    ``- min(s * advantage, clamp(s, 1 - epsilon, 1 + epsilon) * advantage)`` with ``s = exp(mean(logprobs - sampled))``
    (arXiv 2507.18071, eq. 5); every token of a sequence has the sequence's loss, ratio and clip, so that weights that
    add up over tokens mean the same as for the other losses.

    Parameters
    ----------
    lengths : (S,) integer tensor
        Tokens in the loss of each sequence; the arguments hold them one sequence after another.

    Examples
    --------
    >>> logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    >>> out = gspo(logprobs, torch.tensor([-1.0, -2.0]), torch.ones(2), torch.tensor([2]), epsilon=0.004)
    >>> out.loss.sum().backward()
    >>> logprobs.grad.tolist()          # two tokens' losses, each with half of the gradient on each token
    [-1.0, -1.0]
    """
    difference = logprobs - sampled
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    total = torch.zeros(len(lengths), dtype=difference.dtype, device=difference.device)
    ratio = (total.index_add(0, sequence, difference) / lengths).exp()[sequence]
    free = ratio * advantage
    bounded = ratio.clamp(1 - epsilon, 1 + epsilon) * advantage
    return TokenLoss(-torch.minimum(free, bounded), ratio.detach(), (bounded < free).detach())


def reinforce(logprobs: Tensor, sampled: Tensor, advantage: Tensor) -> TokenLoss:
    """REINFORCE without a correction for old samples: ``- advantage * logprobs``.

    Examples
    --------
    >>> reinforce(torch.tensor([-2.0]), torch.tensor([-2.0]), torch.tensor([0.5])).loss.tolist()
    [1.0]
    """
    ratio = (logprobs.detach() - sampled).exp()
    return TokenLoss(-advantage * logprobs, ratio, torch.zeros_like(ratio, dtype=torch.bool))
