"""Generate completions, and record the log-probability of every token under the policy that sampled it.

Completions live in the slots of one key-value cache; a finished one makes room at once, so that no time goes into
decoding past an end. New weights can enter between two tokens: what is half written goes on with them and with the
keys and values that the old weights made.

Sampling noise is counter-based in (seed, stream, completion, position): there is no generator
state, so neither the number of slots nor an evaluation in between can change what a completion draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from scalerl.completions import TRAIN_STREAM, Completion, Counts, Interruption, Request
from scalerl.drafts import Drafts
from scalerl.forward import AnyForward, AnyWeights, Cache, Hidden, Prefix, logits, own

REFRESH_SLOTS = 64  # sequences that are run at once when their keys and values are made anew


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
        self.forward = forward
        self._counts = Counts()
        self.drafts = Drafts(
            slots,
            max_new_tokens=max_new_tokens,
            end_ids=end_ids,
            temperature=temperature,
            key=(seed, stream),
            interruption=interruption,
            device=forward.device,
        )
        self._cache = Cache(forward, slots, max_length)
        # Where the next token of each slot will stand; the last one is not yet in the cache.
        self._position = torch.zeros(slots, dtype=torch.long, device=forward.device)
        self._places = torch.arange(slots, device=forward.device)
        self.load(0, weights)

    @property
    def in_flight(self) -> int:
        """Completions in work or waiting."""
        return self.drafts.in_flight

    @torch.inference_mode()
    def load(self, version: int, weights: AnyWeights) -> None:
        """Take over a copy of weights, as policy `version`; completions in work go on with them."""
        self.version, self._weights = version, own(weights)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; completions start in this order as slots become free."""
        self.drafts.waiting.extend(requests)

    @torch.inference_mode()
    def poll(self, ticks: int | None = None) -> list[Completion]:
        """Decode for so many ticks, or until nothing is left, and return what was finished, by number."""
        done: list[Completion] = []
        while self.in_flight and (ticks is None or ticks > 0):
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
        live = self.drafts.live
        kept = {**self.drafts.state(), "position": self._position[:live]}
        if cache:
            extent = int(self._position[:live].max()) if live else 0
            for layer, (keys, values) in enumerate(zip(self._cache.keys, self._cache.values, strict=True)):
                kept[f"keys.{layer}"], kept[f"values.{layer}"] = keys[:live, :, :extent], values[:live, :, :extent]
        return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in kept.items()}

    @torch.inference_mode()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on with a kept state; without keys and values in it, call `refresh` next."""
        self.drafts.restore(state)
        live = self.drafts.live
        self._position[:live] = state["position"]
        if "keys.0" in state:
            extent = state["keys.0"].shape[2]
            for layer, (keys, values) in enumerate(zip(self._cache.keys, self._cache.values, strict=True)):
                keys[:live, :, :extent], values[:live, :, :extent] = state[f"keys.{layer}"], state[f"values.{layer}"]

    @torch.inference_mode()
    def refresh(self) -> None:
        """Make the keys and values of all that is in work anew, with the current weights."""
        drafts, live = self.drafts, self.drafts.live
        for first in range(0, live, REFRESH_SLOTS):
            slots = range(first, min(live, first + REFRESH_SLOTS))
            length = drafts.length[first : slots.stop].tolist()
            rows = [
                (*drafts.prompts[slot], *drafts.tokens[slot, : n - 1].tolist())
                for slot, n in zip(slots, length, strict=True)
            ]
            run = self._prefill(rows)
            source = torch.arange(len(rows), device=self.forward.device)
            self._cache.put(Prefix(run.keys, run.values, self._position[first : slots.stop], source), first)

    def _admit(self, done: list[Completion]) -> None:
        """Prefill waiting prompts, each once, into free slots, and sample the first token of their completions."""
        chosen = self.drafts.admit()
        if not chosen:
            return
        began = time.perf_counter()  # the device has nothing to do: the tick before ended with a look at its tokens
        run = self._prefill([request.prompt for request in chosen])
        device = self.forward.device
        lengths = torch.tensor([len(r.prompt) for r in chosen], device=device)
        last = run.states[torch.arange(len(chosen), device=device), lengths - 1]
        counts = torch.tensor([r.count for r in chosen], device=device)
        source = torch.repeat_interleave(torch.arange(len(chosen), device=device), counts)
        slots = self.drafts.begin(chosen)
        self._cache.put(Prefix(run.keys, run.values, lengths, source), slots.start)
        self._position[slots] = lengths[source] - 1
        self._sample(last[source], slots)
        self._retire(done)
        self._counts += Counts(prefill_s=time.perf_counter() - began)

    def _prefill(self, rows: Sequence[tuple[int, ...]]) -> Hidden:
        """Run whole sequences from their start."""
        self._counts += Counts(prefilled=sum(map(len, rows)))
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return self.forward.hidden(ids.to(self.forward.device), self._weights)

    def _tick(self, done: list[Completion]) -> None:
        if not self.drafts.live:
            return
        live = slice(0, self.drafts.live)
        self._counts += Counts(decoded=self.drafts.live)
        position = self._position[live]
        extent = int(position.max()) + 1
        hidden = self.forward.step(self.drafts.next[live], position, self._weights, self._cache, extent)
        self._sample(hidden, live)
        self._retire(done)

    def _sample(self, hidden: Tensor, slots: slice) -> None:
        """Draw one token of each slot from hidden states (B, H)."""
        self._counts += Counts(sampled=slots.stop - slots.start)
        places = self._places[slots]
        self.drafts.write(places, self.drafts.draw(logits(hidden, self._weights), places), self.version)
        self._position[slots] += 1

    def _retire(self, done: list[Completion]) -> None:
        """Hand over the finished completions and move the cache of those that took their places."""
        retired = self.drafts.retire(self.version)
        if retired is None:
            return
        done.extend(retired.completions)
        source, target = retired.source, retired.target
        if len(source):
            self._cache.move(source, target, extent=int(self._position[source].max()))
            self._position[target] = self._position[source]
