"""The memory of a run by its parts, counted before it is started; docs/hardware.md has the formulas.

Counted on a model without memory (torch's meta device) that goes through the trainer's own classes, so it is known
for any size on any machine. Parts that are held all the time are added up, and to them the largest of what comes in
turn: an update, its optimizer call, an evaluation, a checkpoint. What the gradient of a micro-batch keeps has a formula
where the forward pass is written out, and is counted on a pass without memory where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from scalerl.config import ScaleRLConfig
from scalerl.evaluate import SLOTS
from scalerl.forward import AnyForward, AnyWeights, Cache, Forward, Prefix, logits
from scalerl.generic import make_forward
from scalerl.lora import add_adapters
from scalerl.worker import skeleton


class Part(NamedTuple):
    """One use of memory."""

    name: str
    bytes: int
    inputs: str
    """What the figure is the product or sum of."""
    phase: str = ""
    """When it is needed, where it is not held all the time."""


def peak(parts: Sequence[Part]) -> tuple[int, str]:
    """Return the bytes needed at most at one time, and when: what is held, and the largest phase.

    Examples
    --------
    >>> peak([Part("weights", 4, ""), Part("activations", 3, "", "update"), Part("cache", 2, "", "evaluation")])
    (7, 'update')
    """
    phases: dict[str, int] = {}
    for part in parts:
        if part.phase:
            phases[part.phase] = phases.get(part.phase, 0) + part.bytes
    largest = max(phases, key=phases.__getitem__, default="")
    return sum(part.bytes for part in parts if not part.phase) + phases.get(largest, 0), largest


def memory(config: ScaleRLConfig, model: Any, *, eval_prompts: int | None = None, processes: int = 1) -> list[Part]:
    """Return the parts of memory of a run; of a learner over several processes, those of the first.

    Parameters
    ----------
    config : ScaleRLConfig
    model : transformers.PreTrainedModel
        Its architecture and precision are read.
    eval_prompts : int, optional
        Prompts of an evaluation; not known, an evaluation is taken to fill all slots that it may have.
    processes : int
        Of the learner: weights, gradients and moments are split over them, and what multiplies is gathered whole.
    """
    model = skeleton(model.config, next(model.parameters()).dtype)
    forward = make_forward(model, config.max_length, getattr(torch, config.dtype))
    if config.lora_rank is not None:
        add_adapters(model, rank=config.lora_rank, alpha=config.lora_scale, targets=config.lora_targets, seed=0)
    weights = forward.weights(fp32_head=config.use_fp32_lm_head)
    slots = config.slots or config.batch_size
    parameters = list(model.parameters())
    count, size = sum(p.numel() for p in parameters), parameters[0].itemsize
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    cache = Cache(forward, slots, config.max_length)
    layers, item, cached = len(cache.keys), forward.dtype.itemsize, forward.cache_shapes[0]
    generators = _bytes(weights)
    masters = {id(p) for p in parameters}
    shared = f" / {processes} processes" if processes > 1 else ""
    if processes > 1:
        masters = set()  # each is gathered
    working = sum(w.nbytes for w in weights.tensors() if w is not None and id(w) not in masters)
    vocabulary = weights.head.shape[0]
    head = f"{forward.dtype}, head in {weights.head.dtype}".replace("torch.", "")
    copies = 1 if config.generator == "inline" else 1 + config.generators
    parts = [
        Part("master weights", count * size // processes, f"{count:,} weights x {size} B{shared}"),
        Part("gradients", trained * size // processes, f"{trained:,} weights x {size} B{shared}"),
        Part("AdamW moments", 2 * trained * size // processes, f"2 x {trained:,} weights x {size} B{shared}"),
        Part(
            "trainer's working copy",
            working,
            f"weights that are {'gathered' if shared else 'cast or put side by side'}, {head}",
        ),
        Part(
            "generator's weights",
            copies * generators,
            f"{copies} cop{'ies, one to hand over' if copies > 1 else 'y'} in {head}, a tied head apart",
        ),
        Part(
            "KV cache",
            sum(t.nbytes for t in (*cache.keys, *cache.values)),
            f"2 x {layers} layers x {slots} slots x {cached[0]} heads x {config.max_length} tokens x "
            f"{cached[1]} x {item} B",
        ),
        Part(
            "slots",
            slots * config.max_new_tokens * 32,
            f"{slots} slots x {config.max_new_tokens} tokens x 32 B: token, version, log-probability, noise",
        ),
        Part("sampling", slots * vocabulary * 28, f"{slots} slots x {vocabulary:,} words x 28 B of scores"),
    ]
    if isinstance(forward, Forward):
        parts += _activations(config, model, forward, weights)
    else:
        parts.append(_counted_activations(config, model, forward, weights))
    looking = min(SLOTS, config.slots or SLOTS)
    if eval_prompts is not None:
        looking = min(looking, eval_prompts * config.eval_generations)
    look = Cache(forward, looking, config.max_length)
    parts += [
        Part(
            "optimizer's copy",
            trained * size // processes,
            f"{trained:,} weights x {size} B{shared}: square roots of the moments",
            "optimizer call",
        ),
        Part("new weights", generators, "a copy for the generator before the old one goes", "optimizer call"),
        Part(
            "evaluation",
            generators + sum(t.nbytes for t in (*look.keys, *look.values)) + looking * vocabulary * 28,
            f"weights, cache of {looking} slots and scores of its own",
            "evaluation",
        ),
    ]
    if processes > 1:
        largest = max(p.numel() for p in parameters)
        parts.append(
            Part(
                "largest weight",
                2 * largest * size,
                f"2 x {largest:,} x {size} B: gathered, and its gradient",
                "update",
            )
        )
    # Beside what is in use stand holes of what was freed: 2 to 24 % of it in the runs of docs/hardware.md.
    return [
        *parts,
        Part("allocator", peak(parts)[0] // 8, "an eighth of the rest: freed memory that fits nothing else"),
    ]


def _counted_activations(config: ScaleRLConfig, model: Any, forward: AnyForward, weights: AnyWeights) -> Part:
    """Return what the gradient of a micro-batch as in `_activations` keeps, from a pass without memory."""
    rows = max(1, min(config.micro_batch_tokens // config.max_length, config.batch_size))
    prompts = min(rows, config.prompts_per_update)  # completions of one prompt share it
    alive: list[torch.Tensor] = []
    kept: dict[int, int] = {}
    given = {w.untyped_storage()._cdata for w in (*model.parameters(), *weights.tensors()) if w is not None}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # so that no storage's number is used twice
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    before, after = config.prompt_tokens, config.max_new_tokens

    def ids(count: int, length: int) -> torch.Tensor:
        return torch.zeros((count, length), dtype=torch.long, device="meta")

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _FusedAttention():
        run = forward.hidden(ids(prompts, before), weights)
        source = torch.zeros(rows, dtype=torch.long, device="meta")
        lengths = torch.full((prompts,), before, device="meta")
        rest = forward.hidden(ids(rows, after - 1), weights, Prefix(run.keys, run.values, lengths, source))
        states = torch.cat([run.states[source, -1:], rest.states], dim=1)
        logits(states.flatten(0, 1), weights).log_softmax(-1)
    bytes_kept = sum(size for storage, size in kept.items() if storage not in given)
    return Part(
        "activations, logits",
        bytes_kept,
        f"micro-batch of {rows} x {after} tokens and {prompts} x {before} of prompts, counted without memory",
        "update",
    )


class _FusedAttention(TorchFunctionMode):
    """Let attention keep for its gradient what the fused kernels keep.

    Without memory torch takes the plain kernel, which keeps every matrix of attention weights.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))

        def of(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> Any:
            return _Fused.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]

        return of(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Attention without values: queries, keys, values, mask, output, and the log of the sum of every row are kept."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        out: torch.Tensor = query.new_empty((*query.shape[:-1], value.shape[-1]))
        rows = query.new_empty(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32))
        ctx.save_for_backward(query, key, value, mask, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("only what is kept is counted")


def _activations(config: ScaleRLConfig, model: Any, forward: Forward, weights: Any) -> list[Part]:
    """Return what the gradient of one micro-batch of longest completions keeps, each with a prompt of its own."""
    rows = max(1, min(config.micro_batch_tokens // config.max_length, config.batch_size))
    prompts = min(rows, config.prompts_per_update)  # completions of one prompt share it
    before, after = config.prompt_tokens, config.max_new_tokens
    fed = after - 1  # the last token is predicted and not fed
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    layers, d, item = len(weights.layers), forward.head_dim, forward.dtype.itemsize
    n, m = forward.heads, forward.kv_heads
    wide = 4 if forward.dtype.itemsize < 4 else item
    normed = weights.layers[0].qk_norm is not None
    # A token, in every layer: both norms and what they feed, the attention's output, four of the MLP; queries and keys
    # turned and, where they are, normed.
    token = 4 * hidden + n * d + 4 * inner + (n + m) * d * (2 if normed else 1)
    statistics = (2 + (n + m if normed else 0)) * wide
    read, written = prompts * before, rows * fed  # tokens that are run
    kept = read * (token + (n + 2 * m) * d) + written * token + rows * 2 * m * d * (before + fed)
    body = layers * (kept * item + (read + written) * statistics)
    masks = rows * fed * (before + fed) * item
    ends = (read + written) * (hidden * item + wide) + rows * after * hidden * weights.head.dtype.itemsize
    scores = rows * after * weights.head.shape[0] * max(4, weights.head.dtype.itemsize)
    shape = f"{rows} x {after} tokens and {prompts} x {before} of prompts"
    return [
        Part(
            "activations",
            body + ends,
            f"micro-batch of {shape}, {layers} layers, width {hidden}, MLP {inner}, {n} + {m} heads of {d}, x {item} B",
            "update",
        ),
        Part(
            "attention mask", masks, f"{rows} x {fed} x {before + fed} tokens x {item} B, one for all layers", "update"
        ),
        Part(
            "logits",
            3 * scores,
            f"3 x {rows} x {after} tokens x {weights.head.shape[0]:,} words, kept and differentiated",
            "update",
        ),
        Part(
            "passing",
            written * (3 * inner + 3 * hidden) * item,
            f"{rows} x {fed} tokens x 3 x ({inner} + {hidden}) x {item} B: gradients within one layer",
            "update",
        ),
    ]


def _bytes(weights: AnyWeights) -> int:
    return sum(w.nbytes for w in weights.tensors() if w is not None)
