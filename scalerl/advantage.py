"""From rewards to the weight of every completion in the loss.

The order is fixed: first the zero-variance filter, then the standard deviation and every denominator over the
prompts that are KEPT. Weights are computed once for the whole update, before anything is split, so that the loss is
a plain weighted sum and neither micro-batches nor several devices can get a mean wrong.

Shapes: P prompts, G completions a prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 1e-8


def keep_prompts(rewards: Tensor, *, filter_zero_variance: bool) -> Tensor:
    """Return which prompts stay in the update, (P,) boolean.

    A prompt whose completions all got one reward teaches nothing; the filter looks at each prompt by itself.

    Examples
    --------
    >>> keep_prompts(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), filter_zero_variance=True).tolist()
    [True, False]
    """
    if not filter_zero_variance:
        return torch.ones(len(rewards), dtype=torch.bool)
    return (rewards != rewards[:, :1]).any(dim=1)


def length_penalty(lengths: Tensor, *, max_tokens: int, cache_tokens: int) -> Tensor:
    """Return what is added to the reward of a RIGHT completion for its length: 0 to -1.

    ``clip((max_tokens - length) / cache_tokens - 1, -1, 0)``: nothing up to max_tokens - cache_tokens, -1 from
    max_tokens on (ScaleRL, section 3.2; DAPO's soft overlong punishment).

    Examples
    --------
    >>> length_penalty(torch.tensor([80, 95, 200]), max_tokens=100, cache_tokens=10).tolist()
    [0.0, -0.5, -1.0]
    """
    return ((max_tokens - lengths) / cache_tokens - 1).clamp(-1, 0)


def advantages(rewards: Tensor, normalization: str) -> Tensor:
    """Return advantages (P, G) of the kept prompts' rewards (P, G).

    Rewards are centred on their prompt's mean and divided by a population standard deviation (+ 1e-8): of all
    advantages in the batch ("batch", ScaleRL), of the prompt's own ("prompt", GRPO), or by nothing ("none",
    Dr. GRPO).

    Raises
    ------
    ValueError
        If the normalization is another.

    Examples
    --------
    >>> advantages(torch.tensor([[1.0, -1.0]]), "batch").tolist()
    [[1.0, -1.0]]
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if normalization == "none":
        return centred
    if normalization == "batch":
        return centred / (centred.std(correction=0) + STD_FLOOR)
    if normalization == "prompt":
        return centred / (centred.std(dim=1, correction=0, keepdim=True) + STD_FLOOR)
    raise ValueError(f"normalization is batch, prompt or none, not {normalization!r}")


def token_weights(lengths: Tensor, aggregation: str) -> Tensor:
    """Return the weight of one token of each completion, (P, G), from the kept completions' lengths (P, G).

    All weights times lengths add up to 1. With "prompt" every prompt weighs the same and its tokens share that
    (J_ScaleRL); with "sample" every completion weighs the same (GRPO); with "token" every token.

    Raises
    ------
    ValueError
        If the aggregation is another.

    Examples
    --------
    >>> token_weights(torch.tensor([[1, 3], [2, 2]]), "prompt").tolist()
    [[0.125, 0.125], [0.125, 0.125]]
    >>> token_weights(torch.tensor([[1, 3], [2, 2]]), "sample").tolist()[0]
    [0.25, 0.0833...]
    """
    lengths = lengths.double()
    if aggregation == "prompt":
        return (1 / (len(lengths) * lengths.sum(dim=1, keepdim=True))).expand_as(lengths)
    if aggregation == "sample":
        return 1 / (lengths.numel() * lengths)
    if aggregation == "token":
        return (1 / lengths.sum()).expand_as(lengths)
    raise ValueError(f"aggregation is prompt, sample or token, not {aggregation!r}")
