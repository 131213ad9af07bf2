"""Generate completions, and record the log-probability of every token under the policy that sampled it.

Completions live in the slots of one key-value cache; a finished one makes room at once, so that no time goes into
decoding past an end. New weights can enter between two tokens: what is half written goes on with them and with the
keys and values that the old weights made.

Sampling noise is counter-based in (seed, stream, completion, position): there is no generator
state, so neither the number of slots nor an evaluation in between can change what a completion draws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from scalerl.completions import (
    TRAIN_STREAM,
    Completion,
    Counts,
    GenerationError,
    Interruption,
    Request,
    sampling_noise,
)
from scalerl.forward import AnyForward, AnyWeights, Cache, Hidden, Prefix, logits, own

REFRESH_SLOTS = 64  # sequences that are run at once when their keys and values are made anew
# What a slot knows of its completion besides tokens, in the order in which a checkpoint keeps it.
SLOT_COLUMNS = ("length", "position", "next", "entropy", "tokens", "versions", "logprobs", "limit", "check", "forced")


class Generator:
    """Sample from a model in this process, in slots, one token of every live slot a tick.

    Parameters
    ----------
    forward : AnyForward
        The model's arithmetic.
    weights : AnyWeights
        Those of version 0.
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
    interruption : Interruption, optional
    """

    def __init__(
        self,
        forward: AnyForward,
        weights: AnyWeights,
        *,
        slots: int,
        max_new_tokens: int,
        max_length: int,
        end_ids: Sequence[int],
        temperature: float = 1.0,
        seed: int = 0,
        stream: int = TRAIN_STREAM,
        interruption: Interruption | None = None,
    ) -> None:
        self.forward, self.max_new_tokens, self.temperature = forward, max_new_tokens, temperature
        self.key, self.interruption = (seed, stream), interruption
        self._counts = Counts()
        device = self.forward.device
        self._end_ids = torch.tensor(sorted(end_ids), device=device)
        self._phrase = torch.tensor(interruption.phrase if interruption else (0,), device=device)
        self._waiting: deque[Request] = deque()
        self._cache = Cache(self.forward, slots, max_length)
        self._slots = slots
        # Slots 0 .. live - 1 hold the completions in work; these arrays are indexed by slot.
        self._live = 0
        self._numbers = np.zeros(slots, np.int64)
        self._prompts: list[tuple[int, ...]] = [()] * slots

        def column(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros((slots, *shape), dtype=dtype, device=device)

        self._length = column()  # tokens so far
        self._position = column()  # where the next one will stand
        self._next = column()  # the last one, not yet in the cache
        self._limit = column()  # longest that this completion may get
        self._check = column()  # length at which its thinking must be over
        self._forced = column()  # where its forced phrase begins, or -1
        self._tokens, self._versions = column(max_new_tokens), column(max_new_tokens)
        self._logprobs = column(max_new_tokens, dtype=torch.float64)
        self._noise = column(max_new_tokens, dtype=torch.float64)
        self._entropy = column(dtype=torch.float64)
        self.load(0, weights)

    @property
    def in_flight(self) -> int:
        """Completions in work or waiting."""
        return self._live + sum(request.count for request in self._waiting)

    @torch.inference_mode()
    def load(self, version: int, weights: AnyWeights) -> None:
        """Take over a copy of weights, as policy `version`; completions in work go on with them."""
        self.version, self._weights = version, own(weights)

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

    def take_counts(self) -> Counts:
        """Return what was computed since the last call."""
        counts, self._counts = self._counts, Counts()
        return counts

    def close(self) -> None:
        """Free what the generator holds; a generator in this process holds nothing but memory."""

    def state(self, *, cache: bool) -> dict[str, Tensor]:
        """Return copies of all that is in work, slot order included, and with `cache` the keys and values too."""
        if self._waiting:
            raise ValueError("a state is taken between two polls, when nothing waits for a slot")
        live = self._live
        kept = {name: getattr(self, f"_{name}")[:live] for name in SLOT_COLUMNS}
        kept["numbers"] = torch.from_numpy(self._numbers[:live])
        kept["prompt_lengths"] = torch.tensor([len(p) for p in self._prompts[:live]], dtype=torch.long)
        kept["prompt_tokens"] = torch.tensor([t for p in self._prompts[:live] for t in p], dtype=torch.long)
        if cache:
            extent = int(self._position[:live].max()) if live else 0
            for layer, (keys, values) in enumerate(zip(self._cache.keys, self._cache.values, strict=True)):
                kept[f"keys.{layer}"], kept[f"values.{layer}"] = keys[:live, :, :extent], values[:live, :, :extent]
        return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in kept.items()}

    @torch.inference_mode()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on with a kept state; without keys and values in it, call `refresh` next."""
        live = len(state["numbers"])
        self._live = 0
        self._draw(state["numbers"].numpy())
        self._live = live
        for name in SLOT_COLUMNS:
            getattr(self, f"_{name}")[:live] = state[name]
        self._numbers[:live] = state["numbers"].numpy()
        tokens = iter(state["prompt_tokens"].tolist())
        self._prompts[:live] = [tuple(islice(tokens, n)) for n in state["prompt_lengths"].tolist()]
        if "keys.0" in state:
            extent = state["keys.0"].shape[2]
            for layer, (keys, values) in enumerate(zip(self._cache.keys, self._cache.values, strict=True)):
                keys[:live, :, :extent], values[:live, :, :extent] = state[f"keys.{layer}"], state[f"values.{layer}"]

    @torch.inference_mode()
    def refresh(self) -> None:
        """Make the keys and values of all that is in work anew, with the current weights."""
        live = self._live
        for first in range(0, live, REFRESH_SLOTS):
            slots = range(first, min(live, first + REFRESH_SLOTS))
            length = self._length[first : slots.stop].tolist()
            rows = [
                (*self._prompts[slot], *self._tokens[slot, : n - 1].tolist())
                for slot, n in zip(slots, length, strict=True)
            ]
            run = self._prefill(rows)
            source = torch.arange(len(rows), device=self.forward.device)
            self._cache.put(Prefix(run.keys, run.values, self._position[first : slots.stop], source), first)

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
        run = self._prefill([request.prompt for request in chosen])
        device = self.forward.device
        lengths = torch.tensor([len(r.prompt) for r in chosen], device=device)
        last = run.states[torch.arange(len(chosen), device=device), lengths - 1]
        counts = torch.tensor([r.count for r in chosen], device=device)
        source = torch.repeat_interleave(torch.arange(len(chosen), device=device), counts)
        start, end = self._live, self._live + len(source)
        self._cache.put(Prefix(run.keys, run.values, lengths, source), start)
        self._numbers[start:end] = np.concatenate([np.arange(r.first, r.first + r.count) for r in chosen])
        self._prompts[start:end] = [r.prompt for r in chosen for _ in range(r.count)]
        self._draw(self._numbers[start:end])
        self._length[start:end] = 0
        self._entropy[start:end] = 0
        self._position[start:end] = lengths[source] - 1
        self._limit[start:end] = self.max_new_tokens
        self._forced[start:end] = -1
        self._live = end
        self._sample(last[source], slice(start, end))
        self._retire(done)

    def _prefill(self, rows: Sequence[tuple[int, ...]]) -> Hidden:
        """Run whole sequences from their start."""
        self._counts += Counts(prefilled=sum(map(len, rows)))
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return self.forward.hidden(ids.to(self.forward.device), self._weights)

    def _draw(self, numbers: np.ndarray) -> None:
        """Draw the noise and the thinking budgets of the slots from `live` on, whose completions are given."""
        start = self._live
        for first, count in _runs(numbers):
            slots = slice(start, start + count)
            noise = sampling_noise(self.key, first, count, self.max_new_tokens)
            self._noise[slots] = torch.from_numpy(noise).to(self._noise.device)
            if self.interruption is not None:
                low, high = self.interruption.low, self.interruption.high
                share = sampling_noise(self.key, first, count, 1, purpose=1)[:, 0]
                budget = low + (share * (high - low + 1)).astype(np.int64)
                self._check[slots] = torch.from_numpy(budget - len(self._phrase)).to(self._check.device)
            start += count

    def _tick(self, done: list[Completion]) -> None:
        if not self._live:
            return
        live = slice(0, self._live)
        self._counts += Counts(decoded=self._live)
        position = self._position[live]
        extent = int(position.max()) + 1
        hidden = self.forward.step(self._next[live], position, self._weights, self._cache, extent)
        self._sample(hidden, live)
        self._retire(done)

    def _sample(self, hidden: Tensor, slots: slice) -> None:
        """Draw one token a row from hidden states (B, H) by inverting the distribution function at the noise."""
        self._counts += Counts(sampled=slots.stop - slots.start)
        scores = logits(hidden, self._weights)  # (B, V)
        logprobs = (scores / self.temperature).log_softmax(-1)
        probs = logprobs.exp()
        cumulative = probs.double().cumsum(-1)  # in FP32 the rare tokens of a large vocabulary would be rounded away
        length = self._length[slots]
        rows = torch.arange(slots.start, slots.stop, device=length.device)
        threshold = self._noise[rows, length][:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=scores.shape[-1] - 1)
        if self.interruption is not None:
            self._force(token, slots, self.interruption)
        self._logprobs[rows, length] = logprobs.gather(-1, token)[:, 0].double()
        self._entropy[slots] -= (probs * logprobs.clamp(min=-1e4)).sum(-1).double()
        self._tokens[rows, length] = self._next[slots] = token[:, 0]
        self._versions[rows, length] = self.version
        self._length[slots] += 1
        self._position[slots] += 1

    def _force(self, token: Tensor, slots: slice, interruption: Interruption) -> None:
        """Put the phrase in place of sampled tokens (B, 1) where the thinking budget is used up."""
        length = self._length[slots]
        for row in (length == self._check[slots]).nonzero()[:, 0].tolist():
            slot = slots.start + row
            written = self._tokens[slot, : length[row]].tolist()
            if not interruption.over(written):
                self._forced[slot] = len(written)
                self._limit[slot] = len(written) + len(self._phrase) + interruption.answer_tokens
        place = length - self._forced[slots]
        forcing = (self._forced[slots] >= 0) & (place < len(self._phrase))
        token[forcing, 0] = self._phrase[place[forcing]]

    def _retire(self, done: list[Completion]) -> None:
        """Hand over the finished completions and move the last live slots into their places."""
        live = slice(0, self._live)
        ended = torch.isin(self._next[live], self._end_ids)
        finished = ended | (self._length[live] >= self._limit[live])
        if not finished.any():
            return
        if not torch.isfinite(self._entropy[live]).all():
            raise GenerationError(
                f"policy version {self.version} gives scores that are no numbers (NaN or infinite); "
                "check the checkpoint, temperature and dtype"
            )
        slots = finished.nonzero()[:, 0]
        columns = (self._tokens, self._logprobs, self._versions, self._length, self._entropy, self._forced)
        tokens, logprobs, versions, length, entropy, forced = (column[slots].tolist() for column in columns)
        for row, slot in enumerate(slots.tolist()):
            n, phrase = length[row], forced[row]
            done.append(
                Completion(
                    number=int(self._numbers[slot]),
                    prompt=self._prompts[slot],
                    tokens=tuple(tokens[row][:n]),
                    logprobs=tuple(logprobs[row][:n]),
                    versions=tuple(versions[row][:n]),
                    entropy=entropy[row],
                    truncated=not bool(ended[slot]),
                    forced=(phrase, min(n, phrase + len(self._phrase))) if phrase >= 0 else (0, 0),
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
        self._cache.move(source, target, extent=int(self._position[source].max()))
        for name in (*SLOT_COLUMNS, "noise"):
            column = getattr(self, f"_{name}")
            column[target] = column[source]
        for old, new in zip(source.tolist(), target.tolist(), strict=True):
            self._numbers[new], self._prompts[new] = self._numbers[old], self._prompts[old]


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of the stretches of numbers that follow one another."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for stretch in np.split(numbers, breaks):
        if len(stretch):
            yield int(stretch[0]), len(stretch)
