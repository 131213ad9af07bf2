"""The forward pass of any causal LM, through the modules of `transformers`, behind the interface of `scalerl.forward`.

The modules run as functions: a copy of the backbone without memory is called with weights from outside, so that the
generator, a generator process and the trainer run the same code on weights of their own. Keys and values go through a
cache of ours, and masks and positions are given, never guessed by the modules from ids or from a cache's length.

What a module does with them is its own affair. Before a model is trained, this path is therefore held against the
model's own forward on a few hundred tokens (whole, continued, and one by one), and a model on which they differ is
refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from scalerl.architectures import refuse_unfit
from scalerl.forward import AnyForward, Cache, Finish, Forward, Hidden, Prefix, head_weights, logits
from scalerl.lora import plain_weights
from scalerl.modulecache import Continued, Slots
from scalerl.runlog import UserError

CHECKED_WIDE = 5e7  # weights up to which a model is checked in FP64
CHECKED_LENGTHS, MOST_COMPARED = (12, 300), 16  # tokens of the sequences, and those at the end of each that count
WIDE_TOLERANCE, TOLERANCE = 1e-9, 1e-3  # of the largest logit, in FP64 and in FP32


def make_forward(model: Any, max_length: int, dtype: torch.dtype | None = None) -> AnyForward:
    """Return the forward pass of a causal LM: the one that is written out where it covers the architecture.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    max_length : int
        Longest sequence.
    dtype : torch.dtype, optional
        Of the activations and the weights that multiply them; the model's own if not given.

    Raises
    ------
    UserError
        If the architecture cannot be trained.
    """
    return (Forward if Forward.covers(model.config) else GenericForward)(model, max_length, dtype)


class GenericWeights(NamedTuple):
    """Weights of a causal LM: those of the backbone by name, head (V, H) and its bias (V,) or None."""

    body: dict[str, Tensor]
    head: Tensor
    head_bias: Tensor | None
    finish: Finish

    def tensors(self) -> list[Tensor | None]:
        """Return all tensors in one order."""
        return [*self.body.values(), self.head, self.head_bias]

    def form(self) -> Callable[[Sequence[Tensor | None]], GenericWeights]:
        """Return what makes such weights of such a list."""
        return partial(_weights_of, tuple(self.body), self.finish)


def _weights_of(names: tuple[str, ...], finish: Finish, found: Sequence[Tensor | None]) -> GenericWeights:
    *body, head, bias = found
    return GenericWeights(dict(zip(names, body, strict=True)), head, bias, finish)  # type: ignore[arg-type]


class GenericForward:
    """The backbone of any causal LM that keeps keys and values: token ids in, final hidden states out.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        It keeps owning its parameters.
    max_length : int
        Longest sequence.
    dtype : torch.dtype, optional
        Of the activations and the weights that multiply them; the model's own if not given.

    Raises
    ------
    UserError
        If this path does not give what the model's own forward gives, or the architecture is known not to fit.
    """

    def __init__(self, model: Any, max_length: int, dtype: torch.dtype | None = None) -> None:
        config = model.config.get_text_config(decoder=True)
        refuse_unfit(model, max_length)
        self.model, self.name = model, str(config.model_type)
        self.config, self.architecture = model.config, type(model).__name__
        self.prefix = str(model.base_model_prefix)
        self.device, self.dtype = model.device, dtype or model.dtype
        cap, scaling = getattr(config, "final_logit_softcapping", None), getattr(config, "logits_scaling", None)
        self.finish = Finish((getattr(config, "logit_scale", None) or 1.0) / (scaling or 1.0), cap)
        self.shell = _without_memory(model.base_model)
        self.cache_shapes: list[tuple[int, int, int]] = []
        with _named(self.name), torch.no_grad():
            run = self.hidden(torch.zeros((1, 1), dtype=torch.long, device=self.device), self.weights())
            self.cache_shapes = [
                (k.shape[1], k.shape[3], v.shape[3]) for k, v in zip(run.keys, run.values, strict=True)
            ]
            if self.device.type != "meta":
                self._check(config.vocab_size, max_length)

    def bare(self, device: torch.device) -> GenericForward:
        """Return a copy without the model, for a process that is given weights and gathers none."""
        bare = copy.copy(self)
        bare.model, bare.device, bare.shell = None, device, _without_memory(self.shell, device)
        return bare

    def weights(self, *, fp32_head: bool = True) -> GenericWeights:
        """Gather the weights in the precision they multiply in, differentiably; call it anew after every update.

        With `fp32_head` the head stays in FP32 at least, from the master copy.
        """
        wide = torch.promote_types(self.dtype, torch.float32) if fp32_head else self.dtype
        head, bias = head_weights(self.model)
        return GenericWeights(
            {name: weight.to(self.dtype) for name, weight in plain_weights(self.model.base_model)},
            head.to(wide),
            None if bias is None else bias.to(wide),
            self.finish,
        )

    def named(self, weights: GenericWeights) -> Iterator[tuple[str, Tensor]]:
        """Yield weights but the head by the names that they have in a model directory."""
        for name, weight in weights.body.items():
            yield f"{self.prefix}.{name}", weight

    def hidden(self, ids: Tensor, weights: GenericWeights, prefix: Prefix | None = None) -> Hidden:
        """Run sequences, from their start or as continuations of prompts that were run before; see `Forward.hidden`."""
        cache = Continued(prefix)
        if prefix is None:
            steps = torch.arange(ids.shape[1], device=ids.device)
            positions = steps[None].expand_as(ids)
            mask = _mask(steps[:, None] < steps, self.dtype)[None, None]
        else:
            positions, mask = prefix.continued(ids.shape[1], self.dtype)
        states = self._run(ids, positions, mask, weights, cache)
        order = range(len(cache.keys))
        return Hidden(states, [cache.keys[i] for i in order], [cache.values[i] for i in order])

    def step(self, ids: Tensor, positions: Tensor, weights: GenericWeights, cache: Cache, extent: int) -> Tensor:
        """Run one more token of the sequences in the cache's first B slots; return hidden states (B, H).

        See `Forward.step`.
        """
        unseen = torch.arange(extent, device=ids.device) > positions[:, None]
        mask = _mask(unseen, self.dtype)[:, None, None]  # (B, 1, 1, extent)
        states = self._run(ids[:, None], positions[:, None], mask, weights, Slots(cache, positions, extent))
        return states[:, 0]

    def _run(self, ids: Tensor, positions: Tensor, mask: Tensor, weights: GenericWeights, cache: Any) -> Tensor:
        given: dict[str, Tensor] = weights.body
        with _staying(self.dtype):
            if self.dtype == torch.float64:
                given = given | {n: b.double() for n, b in self.shell.named_buffers() if b.is_floating_point()}
            inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "past_key_values": cache}
            out = functional_call(self.shell, given, kwargs={**inputs, "use_cache": True, "return_dict": True})
        states: Tensor = out.last_hidden_state
        return states

    def _check(self, words: int, max_length: int) -> None:
        """Raise `ValueError` if this path gives other logits than the model's own forward.

        Short sequences show errors of masks and positions; long ones, behind prompts of very different length, show
        what a layer does with tokens that are far back.
        """
        probe = copy.copy(self)
        parameters = sum(p.numel() for p in self.model.parameters())
        mixed = any("experts" in name for name, _ in self.model.named_modules())  # their product has no FP64
        probe.dtype = torch.float64 if parameters <= CHECKED_WIDE and not mixed else self.model.dtype
        weights = probe.weights()
        for length in sorted({min(length, max_length) for length in CHECKED_LENGTHS}):
            error, largest = probe._differs(words, length, weights)
            if not error <= largest * (WIDE_TOLERANCE if probe.dtype == torch.float64 else TOLERANCE):
                raise ValueError(
                    f"logits differ from the model's own by {error:.2g}, where the largest is {largest:.2g}, on "
                    f"sequences of {length} tokens"
                )

    def _differs(self, words: int, length: int, weights: GenericWeights) -> tuple[float, float]:
        """Return the largest difference from the model's own logits, and the largest of these.

        Two sequences, whole; continued behind a long and a short prompt, in the other order; and token by token from a
        cache that holds what is before, at places far apart, among slots with something else in them.
        """
        ids = torch.randint(words, (2, length), generator=torch.Generator().manual_seed(0)).to(self.device)
        expected = _own_logits(self.model, ids, self.dtype)
        error = 0.0

        def compare(states: Tensor, rows: Sequence[int], end: int) -> None:
            nonlocal error
            count = min(states.shape[1], MOST_COMPARED)  # the last ones see the most
            wanted = expected[list(rows), end - count : end]
            error = max(error, float((logits(states[:, -count:], weights) - wanted).abs().max()))

        whole = self.hidden(ids, weights)
        compare(whole.states, (0, 1), length)
        long, short = max(1, 2 * length // 3), max(1, length // 12)
        lengths, source = torch.tensor([long, short], device=self.device), torch.tensor([1, 0], device=self.device)
        run, more = self.hidden(ids[:, :long], weights), length - long
        tails = torch.stack([ids[1, short : short + more], ids[0, long:]])
        if more:
            rest = self.hidden(tails, weights, Prefix(run.keys, run.values, lengths, source)).states
            compare(rest[:1], (1,), short + more)
            compare(rest[1:], (0,), length)
        cache = Cache(self, 3, length + 4)
        for layer in (*cache.keys, *cache.values):
            layer.fill_(10.0)
        same = torch.arange(2, device=self.device)
        cache.put(Prefix(whole.keys, whole.values, lengths, same), 0)
        behind = length // 2
        for place in range(max(behind, length - 4), length):
            at = torch.tensor([place, place - behind], device=self.device)
            states = self.step(ids[same, at], at, weights, cache, extent=place + 1)
            compare(states[:1, None], (0,), place + 1)
            compare(states[1:, None], (1,), place - behind + 1)
        return error, float(expected.abs().max())


class _StayWide(TorchFunctionMode):
    """In FP64, let the detours that modules take through FP32 (norms, softmax, angles) stay in FP64.

    FP64 is there to find errors of masks and positions, which rounding to FP32 would hide.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {key: torch.float64 if arg is torch.float32 else arg for key, arg in kwargs.items()}
        return func(*args, **kwargs)


def _staying(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return what is entered while modules run; in FP32 and below nothing is, for a mode costs time on every call."""
    return _StayWide() if dtype == torch.float64 else nullcontext()


class _named:  # noqa: N801 - used as a statement
    """Turn whatever goes wrong inside into one line that names the architecture."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"model_name: a {self.name!r} model cannot be trained: {reason}") from error


def _without_memory(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """Return a copy of a module whose weights have no memory; buffers, as tables of angles, are copied to a device."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in module.parameters()
    }
    shell = copy.deepcopy(module, memo)
    for part in shell.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device or buffer.device)
    return shell.eval()


def _mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add: 0 where something is seen, minus infinity where it is hidden."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def _own_logits(model: Any, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the model's own forward gives, in a precision that may be wider than its weights'."""
    with _staying(dtype):
        state = {
            name: t.to(dtype) if t.is_floating_point() else t
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        given = state if dtype == torch.float64 else {}
        out: Tensor = functional_call(model, given, kwargs={"input_ids": ids, "use_cache": False}).logits
    return out
