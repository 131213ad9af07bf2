"""Policy-gradient losses: pure functions of tensors that return the loss of each token and its statistics.

Arguments are flat over the tokens in the loss, shape (N,): `logprobs` under the policy in training (with gradient),
`sampled` under the policy that generated them, and the `advantage` of their completion.
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
