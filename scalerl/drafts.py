"""Completions in work: who waits, what is written, how the next token is drawn, and when one is done.

Which engine computes the scores of the next token is not known here. All that makes a completion what it is stands
here: the noise that its number draws, its thinking budget and the forced phrase, its limit and end, and the record of
tokens, log-probabilities, versions and entropy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scalerl.completions import Completion, GenerationError, Interruption, Request, sampling_noise

# What is known of a completion besides its number and prompt, in the order in which a checkpoint keeps it.
COLUMNS = ("length", "next", "entropy", "tokens", "versions", "logprobs", "limit", "check", "forced")


class Drawn(NamedTuple):
    """The next token of some completions (B,), its log-probability and the entropy of what it was drawn from."""

    token: Tensor
    logprob: Tensor
    entropy: Tensor


class Retired(NamedTuple):
    """What is done, and the slots of completions in work that took the places of others, and these places."""

    completions: list[Completion]
    source: Tensor
    target: Tensor


class Drafts:
    """Slots 0 to live - 1 hold the completions in work; the columns are indexed by slot.

    Parameters
    ----------
    slots : int
        Completions in work at once.
    max_new_tokens : int
        Length limit of a completion, end token included.
    end_ids : sequence of int
        Tokens that end a completion.
    temperature : float
    key : (int, int)
        Seed and stream of the sampling noise.
    interruption : Interruption, optional
    device : torch.device
        Where the scores are.
    """

    def __init__(
        self,
        slots: int,
        *,
        max_new_tokens: int,
        end_ids: Sequence[int],
        temperature: float,
        key: tuple[int, int],
        interruption: Interruption | None,
        device: torch.device,
    ) -> None:
        self.slots, self.max_new_tokens, self.temperature = slots, max_new_tokens, temperature
        self.key, self.interruption = key, interruption
        self._end_ids = torch.tensor(sorted(end_ids), device=device)
        self._phrase = torch.tensor(interruption.phrase if interruption else (0,), device=device)
        self.waiting: deque[Request] = deque()
        self.live = 0
        self.numbers = np.zeros(slots, np.int64)
        self.prompts: list[tuple[int, ...]] = [()] * slots

        def column(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros((slots, *shape), dtype=dtype, device=device)

        self.length = column()  # tokens so far
        self.next = column()  # the last one
        self.limit = column()  # longest that this completion may get
        self.check = column()  # length at which its thinking must be over
        self.forced = column()  # where its forced phrase begins, or -1
        self.tokens, self.versions = column(max_new_tokens), column(max_new_tokens)
        self.logprobs = column(max_new_tokens, dtype=torch.float64)
        self.noise = column(max_new_tokens, dtype=torch.float64)
        self.entropy = column(dtype=torch.float64)

    @property
    def in_flight(self) -> int:
        """Completions in work or waiting."""
        return self.live + sum(request.count for request in self.waiting)

    def admit(self) -> list[Request]:
        """Take as much of what waits as there are slots free; `begin` puts it into them."""
        chosen: list[Request] = []
        free = self.slots - self.live
        while self.waiting and free:
            request = self.waiting.popleft()
            if request.count > free:
                rest = Request(request.first + free, request.count - free, request.prompt)
                self.waiting.appendleft(rest)
                request = Request(request.first, free, request.prompt)
            chosen.append(request)
            free -= request.count
        return chosen

    def begin(self, chosen: Sequence[Request]) -> slice:
        """Put the completions of requests into free slots, and return these."""
        start, end = self.live, self.live + sum(request.count for request in chosen)
        self.numbers[start:end] = np.concatenate([np.arange(r.first, r.first + r.count) for r in chosen])
        self.prompts[start:end] = [r.prompt for r in chosen for _ in range(r.count)]
        self._draw_noise(self.numbers[start:end])
        self.length[start:end] = 0
        self.entropy[start:end] = 0
        self.limit[start:end] = self.max_new_tokens
        self.forced[start:end] = -1
        self.live = end
        return slice(start, end)

    def draw(self, scores: Tensor, slots: Tensor) -> Drawn:
        """Draw one token a row from scores (B, V) by inverting the distribution function at the noise.

        Drawing again without `write` in between draws the same for the same scores.
        """
        logprobs = (scores / self.temperature).log_softmax(-1)
        probs = logprobs.exp()
        cumulative = probs.double().cumsum(-1)  # in FP32 the rare tokens of a large vocabulary would be rounded away
        threshold = self.noise[slots, self.length[slots]][:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=scores.shape[-1] - 1)
        if self.interruption is not None:
            self._force(token, slots, self.interruption)
        logprob = logprobs.gather(-1, token)[:, 0].double()
        return Drawn(token[:, 0], logprob, -(probs * logprobs.clamp(min=-1e4)).sum(-1).double())

    def write(self, slots: Tensor, drawn: Drawn, version: int) -> None:
        """Record what was drawn under a policy version."""
        length = self.length[slots]
        self.logprobs[slots, length] = drawn.logprob
        self.entropy[slots] += drawn.entropy
        self.tokens[slots, length] = self.next[slots] = drawn.token
        self.versions[slots, length] = version
        self.length[slots] += 1

    def retire(self, version: int) -> Retired | None:
        """Hand over what is done and move the last completions in work into its places.

        Raises
        ------
        GenerationError
            If one that is done was drawn from scores that are no numbers.
        """
        live = slice(0, self.live)
        ended = torch.isin(self.next[live], self._end_ids)
        finished = ended | (self.length[live] >= self.limit[live])
        if not finished.any():
            return None
        if not torch.isfinite(self.entropy[live]).all():
            raise GenerationError(
                f"policy version {version} gives scores that are no numbers (NaN or infinite); "
                "check the checkpoint, temperature and dtype"
            )
        slots = finished.nonzero()[:, 0]
        columns = (self.tokens, self.logprobs, self.versions, self.length, self.entropy, self.forced)
        tokens, logprobs, versions, length, entropy, forced = (column[slots].tolist() for column in columns)
        done: list[Completion] = []
        for row, slot in enumerate(slots.tolist()):
            n, phrase = length[row], forced[row]
            done.append(
                Completion(
                    number=int(self.numbers[slot]),
                    prompt=self.prompts[slot],
                    tokens=tuple(tokens[row][:n]),
                    logprobs=tuple(logprobs[row][:n]),
                    versions=tuple(versions[row][:n]),
                    entropy=entropy[row],
                    truncated=not bool(ended[slot]),
                    forced=(phrase, min(n, phrase + len(self._phrase))) if phrase >= 0 else (0, 0),
                )
            )
        left = self.live - len(slots)
        source, target = left + (~finished[left:]).nonzero()[:, 0], slots[slots < left]
        for name in (*COLUMNS, "noise"):
            column = getattr(self, name)
            column[target] = column[source]
        for old, new in zip(source.tolist(), target.tolist(), strict=True):
            self.numbers[new], self.prompts[new] = self.numbers[old], self.prompts[old]
        self.live = left
        return Retired(done, source, target)

    def state(self) -> dict[str, Tensor]:
        """Return all that is in work, slot order included, as views."""
        if self.waiting:
            raise ValueError("a state is taken between two polls, when nothing waits for a slot")
        live = self.live
        kept = {name: getattr(self, name)[:live] for name in COLUMNS}
        kept["numbers"] = torch.from_numpy(self.numbers[:live])
        kept["prompt_lengths"] = torch.tensor([len(p) for p in self.prompts[:live]], dtype=torch.long)
        kept["prompt_tokens"] = torch.tensor([t for p in self.prompts[:live] for t in p], dtype=torch.long)
        return kept

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on with a kept state."""
        live = len(state["numbers"])
        self.live = 0
        self._draw_noise(state["numbers"].numpy())
        self.live = live
        for name in COLUMNS:
            getattr(self, name)[:live] = state[name]
        self.numbers[:live] = state["numbers"].numpy()
        tokens = iter(state["prompt_tokens"].tolist())
        self.prompts[:live] = [tuple(islice(tokens, n)) for n in state["prompt_lengths"].tolist()]

    def _draw_noise(self, numbers: np.ndarray) -> None:
        """Draw the noise and the thinking budgets of the slots from `live` on, whose completions are given."""
        start = self.live
        for first, count in _runs(numbers):
            slots = slice(start, start + count)
            noise = sampling_noise(self.key, first, count, self.max_new_tokens)
            self.noise[slots] = torch.from_numpy(noise).to(self.noise.device)
            if self.interruption is not None:
                low, high = self.interruption.low, self.interruption.high
                share = sampling_noise(self.key, first, count, 1, purpose=1)[:, 0]
                budget = low + (share * (high - low + 1)).astype(np.int64)
                self.check[slots] = torch.from_numpy(budget - len(self._phrase)).to(self.check.device)
            start += count

    def _force(self, token: Tensor, slots: Tensor, interruption: Interruption) -> None:
        """Put the phrase in place of sampled tokens (B, 1) where the thinking budget is used up."""
        length = self.length[slots]
        for row in (length == self.check[slots]).nonzero()[:, 0].tolist():
            slot = slots[row]
            written = self.tokens[slot, : length[row]].tolist()
            if not interruption.over(written):
                self.forced[slot] = len(written)
                self.limit[slot] = len(written) + len(self._phrase) + interruption.answer_tokens
        place = length - self.forced[slots]
        forcing = (self.forced[slots] >= 0) & (place < len(self._phrase))
        token[forcing, 0] = self._phrase[place[forcing]]


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of the stretches of numbers that follow one another."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for stretch in np.split(numbers, breaks):
        if len(stretch):
            yield int(stretch[0]), len(stretch)
