"""What goes into a generator and what comes out: plain data, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from scalerl.runlog import UserError

TRAIN_STREAM = 0
"""Stream of the training completions; evaluations take streams of their own."""


class GenerationError(UserError):
    """The policy cannot be sampled from."""


@dataclass(frozen=True)
class Request:
    """Ask for `count` completions of one prompt, numbered from `first`."""

    first: int
    count: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """What came back for one number.

    `logprobs[i]` is the log-probability of `tokens[i]` under the sampling distribution (temperature included) of
    policy version `versions[i]`, and `entropy` the sum of those distributions' entropies, in nats. A completion
    that was not `truncated` ends with an end token. Tokens ``forced[0]`` to ``forced[1] - 1`` were not sampled.
    """

    number: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    entropy: float
    truncated: bool
    forced: tuple[int, int] = (0, 0)

    @property
    def sampled(self) -> int:
        """Tokens that the policy chose itself."""
        return len(self.tokens) - (self.forced[1] - self.forced[0])


class Interruption(NamedTuple):
    """End the thinking of a completion whose budget is used up: force a phrase, then leave room for the answer."""

    low: int
    """Smallest budget, phrase included; each completion's is drawn uniformly between `low` and `high`."""
    high: int
    phrase: tuple[int, ...]
    answer_tokens: int
    """Room after the phrase."""
    over: Callable[[Sequence[int]], bool]
    """Whether these tokens hold the end of the thinking already."""


class Counts(NamedTuple):
    """Tokens since they were last asked for: sampled (forced ones included), decoded one by one, and of prompts.

    And the wall seconds that prompts took until their completions stood in their slots; 0 where they have no clock of
    their own.
    """

    sampled: int = 0
    decoded: int = 0
    prefilled: int = 0
    prefill_s: float = 0.0

    def __add__(self, other: object) -> Counts:
        """Add up."""
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts._make(a + b for a, b in zip(self, other, strict=True))


class Generation(Protocol):
    """What the trainer asks of a generator, in this process or another."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; completions start in this order."""

    def poll(self, ticks: int | None = None) -> list[Completion]:
        """Go on for a while and return what was finished since the last call."""

    def load(self, version: int, weights: Any) -> None:
        """Take over new weights; completions in work go on with them."""

    def take_counts(self) -> Counts:
        """Return what was computed since the last call."""

    def state(self, *, cache: bool) -> dict[str, Any] | None:
        """Return tensors that `restore` goes on from, or None if what is in work must be asked for again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def refresh(self) -> None:
        """Make the cache of all that is in work anew, with the current weights."""

    def close(self) -> None:
        """Free what is held."""


class Engine(Generation, Protocol):
    """A generator in this process."""

    version: int
    """Of the weights loaded last."""

    @property
    def in_flight(self) -> int:
        """Completions in work or waiting."""


def sampling_noise(key: tuple[int, int], first: int, count: int, length: int, *, purpose: int = 0) -> np.ndarray:
    """Return uniform noise on [0, 1), shape (count, length): row i belongs to completion ``first + i``.

    The key is (seed, stream).

    Philox makes four numbers a counter. Its 256-bit counter holds the completion in the low word and a quarter of the
    position in the next, so that a number depends on (seed, stream, completion, position) and on no length limit; the
    third word keeps tokens (0) and thinking budgets (1) apart.

    Examples
    --------
    >>> both = sampling_noise((1, 0), first=6, count=2, length=5)
    >>> bool((both[1:, :3] == sampling_noise((1, 0), first=7, count=1, length=3)).all())
    True
    """
    blocks = -(-length // 4)
    noise = np.empty((count, blocks, 4))
    for block in range(blocks):
        bits = np.random.Philox(key=key, counter=[first, block, purpose, 0])
        noise[:, block] = np.random.Generator(bits).random((count, 4))
    return noise.reshape(count, -1)[:, :length]
