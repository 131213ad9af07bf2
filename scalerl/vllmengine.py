"""A generator that decodes with vLLM (``engine: vllm``), behind the interface of `scalerl.generate.Generator`.

vLLM computes the scores of the next token: scheduling, paged keys and values, and its kernels are its own. The rest
stays ours: the head is multiplied by `scalerl.forward.logits`, from the same weights in the same precision as the
learner's, and each token is drawn by `scalerl.drafts`, which leaves vLLM nothing else to choose. So a completion has
the noise, budget and forced phrase of its number, and the log-probability that is recorded is that of the distribution
it was drawn from.

The engine runs in this process, on one device, one step a tick; between two polls nothing happens. New weights enter
between two steps; what is half written keeps the keys and values that the old weights made.

Does not promise: bits. vLLM's kernels round otherwise than ours, so now and then a token is another one. Nothing of the
cache is kept in a checkpoint: a run that goes on asks again for what was half written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor

from scalerl.completions import TRAIN_STREAM, Completion, Counts, GenerationError, Interruption, Request
from scalerl.drafts import Drafts, Drawn
from scalerl.forward import AnyForward, AnyWeights, Finish, logits
from scalerl.outofmemory import is_out_of_memory
from scalerl.runlog import UserError
from scalerl.vllmstart import refuse_no_vllm, start

PROBE = -1  # number of the completion that the scores are held against the own forward on
PROBED, STEPS = 300, 3  # tokens of its prompt, and behind it
TOLERANCE = {torch.float32: 1e-3}  # of the largest score; below FP32 it is NARROW
NARROW = 0.1


class _Head(NamedTuple):
    head: Tensor
    head_bias: Tensor | None
    finish: Finish


class VllmGenerator:
    """Sample with vLLM in this process, one token of every live slot a tick.

    Parameters
    ----------
    forward : AnyForward
        Says what the model is, and what scores are right.
    weights : AnyWeights
        Those of version 0.
    slots, max_new_tokens, max_length, end_ids, temperature, seed, stream, interruption
        As `scalerl.generate.Generator` takes them.

    Raises
    ------
    UserError
        If vLLM is not installed, cannot run the model, or gives other scores than the own forward.
    GenerationError
        From any method but `close`, once the engine failed.
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
        refuse_no_vllm()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise UserError(
                "engine: vllm has no place in a process of a learner over several; set generator to process or ray"
            )
        self.forward = forward
        self.drafts = Drafts(
            slots,
            max_new_tokens=max_new_tokens,
            end_ids=end_ids,
            temperature=temperature,
            key=(seed, stream),
            interruption=interruption,
            device=forward.device,
        )
        self.max_new_tokens = max_new_tokens
        self._counts = Counts()
        self._error: GenerationError | None = None
        self._slots: dict[int, int] = {}  # of each number in work
        self._drawn: tuple[dict[int, int], Drawn] | None = None  # the last step's, and the row of each number
        self._seen: Tensor | None = None  # scores of the probe
        try:
            self._engine, self._params = start(forward, slots, max_length, self._choose)
            self._engine.collective_rpc("apply_model", args=(self._take_head,))
            self.load(0, weights)
            self._check(weights, max_length)
        except Exception as error:
            self.close()
            if is_out_of_memory(error) or isinstance(error, UserError):
                raise
            raise UserError(
                f"engine: vllm cannot run {forward.architecture} in {str(forward.dtype).removeprefix('torch.')} on "
                f"{forward.device.type}: {_words(error)}; set engine to own"
            ) from error

    @property
    def in_flight(self) -> int:
        """Completions in work or waiting."""
        return self.drafts.in_flight

    def load(self, version: int, weights: AnyWeights) -> None:
        """Take over a copy of weights, as policy `version`; completions in work go on with them."""
        with self._told(), torch.no_grad():
            self.version = version
            self._head = _Head(
                weights.head.detach().clone(),
                None if weights.head_bias is None else weights.head_bias.detach().clone(),
                weights.finish,
            )
            named = ((name, weight.detach()) for name, weight in self.forward.named(weights))
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": named})

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; completions start in this order as slots become free."""
        self.drafts.waiting.extend(requests)

    @torch.inference_mode()
    def poll(self, ticks: int | None = None) -> list[Completion]:
        """Decode for so many ticks, or until nothing is left, and return what was finished, by number."""
        done: list[Completion] = []
        with self._told():
            while self.in_flight and (ticks is None or ticks > 0):
                self._admit()
                self._tick()
                done += self._retire()
                ticks = None if ticks is None else ticks - 1
        return sorted(done, key=lambda completion: completion.number)

    def take_counts(self) -> Counts:
        """Return what was computed since the last call."""
        counts, self._counts = self._counts, Counts()
        return counts

    def state(self, *, cache: bool) -> None:
        """Return None: what is in work must be asked for again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Refuse: there is no state to go on from."""
        raise ValueError(f"a generator that decodes with vLLM keeps no state; was given {', '.join(state)}")

    def refresh(self) -> None:
        """Do nothing: caches are made anew only for what a state must repeat, and there is none."""

    def close(self) -> None:
        """End the engine and free what it holds."""
        engine, self._engine = getattr(self, "_engine", None), None
        if engine is not None:
            engine.engine_core.shutdown()
            self._error = self._error or GenerationError("engine: vllm: was closed")

    def _take_head(self, model: Any) -> None:
        """Let scores be computed as by the learner; the engine's own head stays unused."""
        model.compute_logits = lambda hidden: logits(hidden, self._head)

    def _admit(self) -> None:
        """Hand over to the engine what finds a slot free."""
        chosen = self.drafts.admit()
        if not chosen:
            return
        slots = self.drafts.begin(chosen)
        for slot in range(slots.start, slots.stop):
            number = int(self.drafts.numbers[slot])
            self._slots[number] = slot
            about = self._params(number, self.max_new_tokens)
            self._engine.add_request(str(number), _prompt(self.drafts.prompts[slot]), about)

    def _tick(self) -> None:
        """Let the engine make a step, and record what it delivers: not all rows that are drawn are."""
        outputs = self._engine.step()
        drawn_now, self._drawn = self._drawn, None
        delivered = {int(o.request_id): o.outputs[0].token_ids[-1] for o in outputs if o.outputs[0].token_ids}
        if not delivered:  # a part of a long prompt
            return
        if drawn_now is None:
            raise RuntimeError("a token was delivered that nobody drew")
        rows, drawn = drawn_now
        chosen = torch.tensor([rows[number] for number in delivered], device=self.forward.device)
        mine = Drawn(*(column[chosen] for column in drawn))
        if mine.token.tolist() != list(delivered.values()):
            raise RuntimeError("another token was sampled than the one that was left")
        slots = [self._slots[number] for number in delivered]
        places = torch.tensor(slots, device=self.forward.device)
        begun = (self.drafts.length[places] == 0).tolist()
        prefilled = sum(len(self.drafts.prompts[slot]) for slot, first in zip(slots, begun, strict=True) if first)
        self._counts += Counts(len(slots), len(slots) - sum(begun), prefilled)
        self.drafts.write(places, mine, self.version)

    def _choose(self, scores: Tensor, numbers: Sequence[int]) -> Tensor:
        """Draw the next tokens (B,) of completions from the engine's scores (B, V)."""
        if PROBE in numbers:  # alone, before there is anything else
            self._seen = scores[0].clone()
            return scores.argmax(-1)
        slots = torch.tensor([self._slots[number] for number in numbers], device=scores.device)
        drawn = self.drafts.draw(scores, slots)
        self._drawn = {number: row for row, number in enumerate(numbers)}, drawn
        return drawn.token

    def _check(self, weights: AnyWeights, max_length: int) -> None:
        """Raise `UserError` if the engine gives other scores than the own forward, at once and token by token."""
        length = max(1, min(PROBED, max_length - STEPS))
        words = weights.head.shape[0]
        ids = torch.randint(words, (length,), generator=torch.Generator().manual_seed(0)).tolist()
        self._engine.add_request(str(PROBE), _prompt(ids), self._params(PROBE, min(STEPS, max_length - length)))
        while self._engine.has_unfinished_requests():
            tokens = [token for output in self._engine.step() for token in output.outputs[0].token_ids]
            if not tokens or self._seen is None:  # the prompt came in parts
                continue
            row = torch.tensor([ids], device=self.forward.device)
            with torch.inference_mode():
                own = logits(self.forward.hidden(row, weights).states[0, -1], weights)
                error, largest = float((self._seen - own).abs().max()), float(own.abs().max())
            if not error <= TOLERANCE.get(self.forward.dtype, NARROW) * largest:
                raise UserError(
                    f"engine: vllm gives other scores than the own forward for {self.forward.architecture}: they "
                    f"differ by {error:.2g}, where the largest is {largest:.2g}; set engine to own"
                )
            ids += tokens

    def _retire(self) -> list[Completion]:
        retired = self.drafts.retire(self.version)
        if retired is None:
            return []
        self._engine.abort_request([str(completion.number) for completion in retired.completions])
        self._slots = {int(number): slot for slot, number in enumerate(self.drafts.numbers[: self.drafts.live])}
        return retired.completions

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the engine raises into a line, and say it again to whoever comes later."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, UserError):
                raise
            self._error = GenerationError(f"engine: vllm: {_words(error)}")
            raise self._error from error


def _prompt(tokens: Sequence[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": list(tokens)}


def _words(error: BaseException) -> str:
    """Return the kind of an error and the first line that it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
