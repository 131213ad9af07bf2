"""Completions as tensors and back, for checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from scalerl.completions import Completion


def pack(completions: Sequence[Completion]) -> dict[str, Tensor]:
    """Return completions as flat columns; log-probabilities keep every bit.

    Examples
    --------
    >>> one = Completion(7, (1, 2), (3, 0), (-0.5, -0.25), (0, 1), 0.125, truncated=False, forced=(0, 1))
    >>> unpack(pack([one])) == [one]
    True
    """

    def whole(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    return {
        "number": whole([c.number for c in completions]),
        "prompt_length": whole([len(c.prompt) for c in completions]),
        "prompt": whole([t for c in completions for t in c.prompt]),
        "length": whole([len(c.tokens) for c in completions]),
        "tokens": whole([t for c in completions for t in c.tokens]),
        "versions": whole([v for c in completions for v in c.versions]),
        "logprobs": torch.tensor([p for c in completions for p in c.logprobs], dtype=torch.float64),
        "entropy": torch.tensor([c.entropy for c in completions], dtype=torch.float64),
        "truncated": torch.tensor([c.truncated for c in completions], dtype=torch.bool),
        "forced": torch.tensor([c.forced for c in completions], dtype=torch.long).view(-1, 2),
    }


def unpack(columns: dict[str, Tensor]) -> list[Completion]:
    """Return the completions that `pack` was given."""
    prompt, tokens, versions, logprobs = (
        iter(columns[name].tolist()) for name in ("prompt", "tokens", "versions", "logprobs")
    )
    single = ("number", "prompt_length", "length", "entropy", "truncated", "forced")
    found = []
    for number, before, n, entropy, truncated, forced in zip(*(columns[s].tolist() for s in single), strict=True):
        found.append(
            Completion(
                number=number,
                prompt=tuple(islice(prompt, before)),
                tokens=tuple(islice(tokens, n)),
                logprobs=tuple(islice(logprobs, n)),
                versions=tuple(islice(versions, n)),
                entropy=entropy,
                truncated=truncated,
                forced=(forced[0], forced[1]),
            )
        )
    return found
