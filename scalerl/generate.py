"""Generate completions, and record the log-probability of every token under the policy that sampled it.

Completions live in the slots of one key-value cache; a finished one makes room at once, so that no time goes into
decoding past an end. Sampling noise is counter-based in (seed, stream, completion, position): there is no generator
state, so neither the number of slots nor an evaluation in between can change what a completion draws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerl.forward import Forward, Prefix, Ring, logits
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
    that was not `truncated` ends with an end token.
    """

    number: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    entropy: float
    truncated: bool


class Generator:
    """Sample from a model in this process, in slots, one token of every live slot a tick.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    slots : int
        Completions decoded at once.
    max_new_tokens : int
        Length limit of a completion, end token included.
    max_length : int
        Longest prompt plus completion.
    end_ids : sequence of int
        Tokens that end a completion.
    temperature : float
    seed, stream : int
        Key of the sampling noise.
    fp32_head : bool
        Compute the logits in FP32 whatever the model's precision.
    """

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        max_new_tokens: int,
        max_length: int,
        end_ids: Sequence[int],
        temperature: float = 1.0,
        seed: int = 0,
        stream: int = TRAIN_STREAM,
        fp32_head: bool = True,
    ) -> None:
        self.forward = Forward(model, max_length)
        self.max_new_tokens, self.temperature, self.fp32_head = max_new_tokens, temperature, fp32_head
        self.seed, self.stream = seed, stream
        self.prompt_tokens = 0
        """Prompt tokens run since it was last set to 0."""
        device = self.forward.device
        self._end_ids = torch.tensor(sorted(end_ids), device=device)
        self._waiting: deque[Request] = deque()
        self._ring = Ring(self.forward, slots, max_length)
        self._slots = slots
        # Slots 0 .. live - 1 hold the completions in work; these arrays are indexed by slot.
        self._live = 0
        self._numbers = np.zeros(slots, np.int64)
        self._prompts: list[tuple[int, ...]] = [()] * slots
        self._length = torch.zeros(slots, dtype=torch.long, device=device)  # tokens sampled so far
        self._position = torch.zeros(slots, dtype=torch.long, device=device)  # where the next one will stand
        self._next = torch.zeros(slots, dtype=torch.long, device=device)  # sampled last, not yet in the cache
        shape = (slots, max_new_tokens)
        self._tokens = torch.zeros(shape, dtype=torch.long, device=device)
        self._versions = torch.zeros(shape, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(shape, dtype=torch.float64, device=device)
        self._noise = torch.zeros(shape, dtype=torch.float64, device=device)
        self._entropy = torch.zeros(slots, dtype=torch.float64, device=device)
        self.load(0)

    @torch.inference_mode()
    def load(self, version: int) -> None:
        """Copy the model's current weights, as policy `version`; completions in work go on with them."""
        self.version = version
        self._weights = self.forward.snapshot()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; completions start in this order as slots become free."""
        self._waiting.extend(requests)

    @torch.inference_mode()
    def poll(self, ticks: int | None = None) -> list[Completion]:
        """Decode for so many ticks, or until nothing is left, and return what was finished, by number."""
        done: list[Completion] = []
        while (self._live or self._waiting) and (ticks is None or ticks > 0):
            self._admit(done)
            self._tick(done)
            ticks = None if ticks is None else ticks - 1
        return sorted(done, key=lambda completion: completion.number)

    def _admit(self, done: list[Completion]) -> None:
        """Prefill waiting prompts, each once, into free slots, and sample the first token of their completions."""
        chosen: list[Request] = []
        free = self._slots - self._live
        while self._waiting and free:
            request = self._waiting.popleft()
            if request.count > free:
                rest = Request(request.first + free, request.count - free, request.prompt)
                self._waiting.appendleft(rest)
                request = Request(request.first, free, request.prompt)
            chosen.append(request)
            free -= request.count
        if not chosen:
            return
        device = self.forward.device
        lengths = torch.tensor([len(r.prompt) for r in chosen], device=device)
        extent = int(lengths.max())
        ids = torch.zeros(len(chosen), extent, dtype=torch.long, device=device)
        for row, request in enumerate(chosen):
            ids[row, : len(request.prompt)] = torch.tensor(request.prompt, device=device)
        self.prompt_tokens += int(lengths.sum())
        run = self.forward.hidden(ids, self._weights)
        last = run.states[torch.arange(len(chosen), device=device), lengths - 1]

        counts = torch.tensor([r.count for r in chosen], device=device)
        source = torch.repeat_interleave(torch.arange(len(chosen), device=device), counts)
        start, end = self._live, self._live + len(source)
        self._ring.put(Prefix(run.keys, run.values, lengths, source), start)
        self._numbers[start:end] = np.concatenate([np.arange(r.first, r.first + r.count) for r in chosen])
        self._prompts[start:end] = [r.prompt for r in chosen for _ in range(r.count)]
        self._noise[start:end] = torch.from_numpy(self._draw(chosen)).to(device)
        self._length[start:end] = 0
        self._entropy[start:end] = 0
        self._position[start:end] = lengths[source] - 1
        self._live = end
        self._sample(last[source], slice(start, end))
        self._retire(done)

    def _draw(self, chosen: Sequence[Request]) -> np.ndarray:
        """Return the noise of requests, drawn at once for numbers that follow one another."""
        spans: list[list[int]] = []
        for request in chosen:
            if spans and sum(spans[-1]) == request.first:
                spans[-1][1] += request.count
            else:
                spans.append([request.first, request.count])
        length = self.max_new_tokens
        return np.concatenate([sampling_noise(self.seed, self.stream, first, count, length) for first, count in spans])

    def _tick(self, done: list[Completion]) -> None:
        if not self._live:
            return
        live = slice(0, self._live)
        hidden = self.forward.step(self._next[live], self._position[live], self._weights, self._ring)
        self._sample(hidden, live)
        self._retire(done)

    def _sample(self, hidden: Tensor, slots: slice) -> None:
        """Draw one token a row from hidden states (B, H) by inverting the distribution function at the noise."""
        scores = logits(hidden, self._weights.head, self._weights.head_bias, fp32=self.fp32_head)  # (B, V)
        logprobs = (scores / self.temperature).log_softmax(-1)
        probs = logprobs.exp()
        cumulative = probs.double().cumsum(-1)  # in FP32 the rare tokens of a large vocabulary would be rounded away
        length = self._length[slots]
        rows = torch.arange(slots.start, slots.stop, device=length.device)
        threshold = self._noise[rows, length][:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=scores.shape[-1] - 1)
        self._logprobs[rows, length] = logprobs.gather(-1, token)[:, 0].double()
        self._entropy[slots] -= (probs * logprobs.clamp(min=-1e4)).sum(-1).double()
        self._tokens[rows, length] = self._next[slots] = token[:, 0]
        self._versions[rows, length] = self.version
        self._length[slots] += 1
        self._position[slots] += 1

    def _retire(self, done: list[Completion]) -> None:
        """Hand over the finished completions and move the last live slots into their places."""
        live = slice(0, self._live)
        ended = torch.isin(self._next[live], self._end_ids)
        finished = ended | (self._length[live] >= self.max_new_tokens)
        if not finished.any():
            return
        if not torch.isfinite(self._entropy[live]).all():
            raise GenerationError(
                f"policy version {self.version} gives scores that are no numbers (NaN or infinite); "
                "check the checkpoint, temperature and dtype"
            )
        slots = finished.nonzero()[:, 0]
        columns = (self._tokens, self._logprobs, self._versions, self._length, self._entropy)
        tokens, logprobs, versions, length, entropy = (column[slots].tolist() for column in columns)
        for row, slot in enumerate(slots.tolist()):
            n = length[row]
            done.append(
                Completion(
                    number=int(self._numbers[slot]),
                    prompt=self._prompts[slot],
                    tokens=tuple(tokens[row][:n]),
                    logprobs=tuple(logprobs[row][:n]),
                    versions=tuple(versions[row][:n]),
                    entropy=entropy[row],
                    truncated=not bool(ended[slot]),
                )
            )
        left = self._live - len(slots)
        holes = slots[slots < left]
        movers = left + (~finished[left:]).nonzero()[:, 0]
        self._move(movers, holes)
        self._live = left

    def _move(self, source: Tensor, target: Tensor) -> None:
        if not len(source):
            return
        self._ring.move(source, target)
        for column in (
            *(self._length, self._position, self._next, self._entropy),
            *(self._tokens, self._versions, self._logprobs, self._noise),
        ):
            column[target] = column[source]
        for old, new in zip(source.tolist(), target.tolist(), strict=True):
            self._numbers[new], self._prompts[new] = self._numbers[old], self._prompts[old]


def sampling_noise(seed: int, stream: int, first: int, count: int, length: int) -> np.ndarray:
    """Return uniform noise on [0, 1), shape (count, length): row i belongs to completion ``first + i``.

    Philox makes four numbers a counter. Its 256-bit counter holds the completion in the low word and a quarter of the
    position in the next, so that a number depends on (seed, stream, completion, position) and on no length limit.

    Examples
    --------
    >>> both = sampling_noise(1, 0, first=6, count=2, length=5)
    >>> bool((both[1:, :3] == sampling_noise(1, 0, first=7, count=1, length=3)).all())
    True
    """
    blocks = -(-length // 4)
    noise = np.empty((count, blocks, 4))
    for block in range(blocks):
        bits = np.random.Philox(key=[seed, stream], counter=[first, block, 0, 0])
        noise[:, block] = np.random.Generator(bits).random((count, 4))
    return noise.reshape(count, -1)[:, :length]
