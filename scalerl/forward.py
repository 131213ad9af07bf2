"""The forward pass of the Llama and Qwen3 family, written out: one for training and prefill, one for decoding.

Why our own: both passes share weights and arithmetic, so that the log-probability a token was sampled with and the
one it is trained with differ by rounding only; the decode step keeps finished completions out of the batch; and
both are faster on a CPU than the general modules. The model of `transformers` stays the owner of the weights, the
format on disk, and the oracle in the tests. Both passes and their cache stand in one file because they must agree.

Other architectures run through the modules of `transformers`, behind the same interface: see `scalerl.generic`.

Shapes: B sequences, T tokens, H hidden width, N query heads, M key-value heads, D head width, P prompts, S cache slots.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from scalerl.lora import merged
from scalerl.runlog import UserError

FAMILY = ("llama", "qwen3")


class Finish(NamedTuple):
    """What is done to the product with the head: ``scale`` multiplies it, then ``cap * tanh(product / cap)``."""

    scale: float = 1.0
    cap: float | None = None


class AnyHead(Protocol):
    """What makes logits of hidden states."""

    @property
    def head(self) -> Tensor:
        """LM head (V, H)."""

    @property
    def head_bias(self) -> Tensor | None:
        """Its bias (V,), if it has one."""

    @property
    def finish(self) -> Finish:
        """What makes logits of the product."""


class AnyWeights(AnyHead, Protocol):
    """Weights of either forward pass, in the precision that they multiply in."""

    def tensors(self) -> list[Tensor | None]:
        """Return all tensors in one order."""

    def form(self) -> Callable[[Sequence[Tensor | None]], Any]:
        """Return what makes such weights of such a list; it can be sent to another process."""


class AnyForward(Protocol):
    """What generator and learner ask of a forward pass: `Forward`, or `scalerl.generic.GenericForward`."""

    device: torch.device
    dtype: torch.dtype
    config: Any
    """The model's configuration, as transformers has it."""
    architecture: str
    """Name of the model's class."""
    cache_shapes: list[tuple[int, int, int]]
    """Of every layer: key-value heads, width of a key, width of a value."""

    def weights(self, *, fp32_head: bool = True) -> Any:
        """Gather the weights in the precision they multiply in, differentiably."""

    def hidden(self, ids: Tensor, weights: Any, prefix: Prefix | None = None) -> Hidden:
        """Run sequences, from their start or as continuations."""

    def step(self, ids: Tensor, positions: Tensor, weights: Any, cache: Cache, extent: int) -> Tensor:
        """Run one more token of the sequences in the cache's first slots."""

    def named(self, weights: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield weights but the head by the names that they have in a model directory."""

    def bare(self, device: torch.device) -> Self:
        """Return a copy without the model, for a process that is given weights and gathers none."""


class LayerWeights(NamedTuple):
    """Weights of one decoder layer, projections that read the same input side by side."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # (N + M, D)
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate: Tensor
    gate_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Weights(NamedTuple):
    """Weights of a causal LM: embedding (V, H), layers, final norm (H,), head (V, H) and its bias (V,) or None."""

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor
    head_bias: Tensor | None

    @property
    def finish(self) -> Finish:
        """Return what makes logits of the product with the head: nothing."""
        return Finish()

    def tensors(self) -> list[Tensor | None]:
        """Return all tensors in one order."""
        return [self.embedding, *chain.from_iterable(self.layers), self.norm, self.head, self.head_bias]

    def form(self) -> Callable[[Sequence[Tensor | None]], Weights]:
        """Return what makes such weights of such a list."""
        return Weights.of

    @classmethod
    def of(cls, found: Sequence[Tensor | None]) -> Weights:
        """Make weights of a list as `tensors` returns it."""
        width = len(LayerWeights._fields)
        layers = [LayerWeights(*found[i : i + width]) for i in range(1, len(found) - 3, width)]  # type: ignore[arg-type]
        return cls(found[0], layers, *found[-3:])  # type: ignore[arg-type]


class Prefix(NamedTuple):
    """What sequences continue: keys and values of P prompts, per layer (P, M, T_p, D), and who continues which."""

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor  # (P,)
    source: Tensor  # (B,): sequence b continues prompt source[b]

    def continued(self, t: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return where the next T tokens stand (B, T), and what they see as a mask to add, (B, 1, T, T_p + T).

        The mask is made once for all layers, of numbers: a boolean one would be turned into numbers, and kept for the
        gradient, in every layer.
        """
        lengths = self.lengths[self.source][:, None]  # (B, 1)
        steps = torch.arange(t, device=lengths.device)
        b, extent = len(lengths), self.keys[0].shape[2]
        hidden = torch.empty((b, 1, t, extent + t), dtype=torch.bool, device=lengths.device)
        hidden[..., :extent] = (torch.arange(extent, device=lengths.device) >= lengths)[:, None, None]
        hidden[..., extent:] = steps[:, None] < steps
        mask = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device).masked_fill_(hidden, -torch.inf)
        return lengths + steps, mask


class Hidden(NamedTuple):
    """Final hidden states (B, T, H), and the keys and values (B, M, T, D) of every layer."""

    states: Tensor
    keys: list[Tensor]
    values: list[Tensor]


class Cache:
    """Keys and values (S, M, length, D) of S sequences for every layer, each sequence from column 0 on."""

    def __init__(self, forward: AnyForward, slots: int, length: int) -> None:
        def zeros(heads: int, width: int) -> Tensor:
            return torch.zeros((slots, heads, length, width), dtype=forward.dtype, device=forward.device)

        self.keys = [zeros(heads, key) for heads, key, _ in forward.cache_shapes]
        self.values = [zeros(heads, value) for heads, _, value in forward.cache_shapes]

    def put(self, prompts: Prefix, first: int) -> None:
        """Write prompts, sequence b into slot ``first + b``; what stands behind a prompt's end is never seen."""
        end, extent = first + len(prompts.source), prompts.keys[0].shape[2]
        for mine, fresh in zip((*self.keys, *self.values), (*prompts.keys, *prompts.values), strict=True):
            mine[first:end, :, :extent] = fresh[prompts.source]

    def move(self, source: Tensor, target: Tensor, extent: int) -> None:
        """Copy the first `extent` columns of slots onto others."""
        for layer in (*self.keys, *self.values):
            layer[target, :, :extent] = layer[source, :, :extent]


class Forward:
    """The backbone of a causal LM: token ids in, final hidden states out.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A Llama or Qwen3 causal LM. It keeps owning its parameters.
    max_length : int
        Longest sequence, for the table of rotary angles.
    dtype : torch.dtype, optional
        Of the activations and the weights that multiply them; the model's own if not given. The model's parameters
        stay as they are: where they are wider, they are the master copy.

    Raises
    ------
    UserError
        If the architecture is another one or uses a feature that is not written out here.
    """

    def __init__(self, model: Any, max_length: int, dtype: torch.dtype | None = None) -> None:
        config = model.config
        if not Forward.covers(config):
            raise UserError(
                f"a {config.model_type!r} model of this configuration is not written out here; "
                f"families: {', '.join(FAMILY)} with full attention"
            )
        self.model, self.config, self.architecture = model, config, type(model).__name__
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.cache_shapes = [(self.kv_heads, self.head_dim, self.head_dim)] * len(model.model.layers)
        self.eps = config.rms_norm_eps
        self.padding_idx = model.model.embed_tokens.padding_idx
        embedding = model.model.embed_tokens.weight
        self.device, self.dtype = embedding.device, dtype or embedding.dtype
        with torch.no_grad():
            positions = torch.arange(max_length, device=self.device)[None]
            cos, sin = (a.to(self.dtype) for a in model.model.rotary_emb(embedding[:1, :1], positions))
        # Turning (left, right) by an angle adds (-right, left) sin: the sign is kept in the table.
        sign = torch.ones_like(sin).index_fill_(-1, torch.arange(self.head_dim // 2, device=self.device), -1)
        self.cos, self.sin = cos[0, :, None], (sin * sign)[0, :, None]  # (max_length, 1, D)

    @staticmethod
    def covers(config: Any) -> bool:
        """Return whether an architecture is written out here."""
        windows = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or [])
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        grows = rope in {"dynamic", "longrope"}  # angles that change with the length cannot stand in a table
        return config.model_type in FAMILY and config.hidden_act == "silu" and not windows and not grows

    def bare(self, device: torch.device) -> Forward:
        """Return a copy without the model, for a process that is given weights and gathers none."""
        bare = copy.copy(self)
        bare.model, bare.device = None, device
        bare.cos, bare.sin = self.cos.to(device), self.sin.to(device)
        return bare

    def weights(self, *, fp32_head: bool = True) -> Weights:
        """Gather the weights in the precision they multiply in, differentiably; call it anew after every update.

        With `fp32_head` the head stays in FP32 at least (ScaleRL, section 3.2), from the master copy.
        """
        body = self.model.model
        wide = torch.promote_types(self.dtype, torch.float32) if fp32_head else self.dtype
        head, bias = head_weights(self.model)
        return Weights(
            embedding=body.embed_tokens.weight.to(self.dtype),
            layers=[self._layer_weights(layer) for layer in body.layers],
            norm=body.norm.weight.to(self.dtype),
            head=head.to(wide),
            head_bias=None if bias is None else bias.to(wide),
        )

    def named(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """Yield weights but the head by the names that they have in a model directory."""
        sizes = [self.heads * self.head_dim, *[self.kv_heads * self.head_dim] * 2]
        yield "model.embed_tokens.weight", weights.embedding
        for i, w in enumerate(weights.layers):
            parts: dict[str, Tensor | None] = {
                "input_layernorm.weight": w.input_norm,
                **dict(zip((f"self_attn.{x}_proj.weight" for x in "qkv"), torch.split(w.qkv, sizes), strict=True)),
                "self_attn.o_proj.weight": w.out,
                "self_attn.o_proj.bias": w.out_bias,
                "post_attention_layernorm.weight": w.mlp_norm,
            }
            if w.qkv_bias is not None:
                parts |= zip((f"self_attn.{x}_proj.bias" for x in "qkv"), torch.split(w.qkv_bias, sizes), strict=True)
            if w.qk_norm is not None:
                parts |= {"self_attn.q_norm.weight": w.qk_norm[0], "self_attn.k_norm.weight": w.qk_norm[self.heads]}
            for name in ("gate", "up", "down"):
                parts |= {
                    f"mlp.{name}_proj.{x}": t
                    for x, t in (("weight", getattr(w, name)), ("bias", getattr(w, f"{name}_bias")))
                }
            yield from ((f"model.layers.{i}.{name}", part) for name, part in parts.items() if part is not None)
        yield "model.norm.weight", weights.norm

    def hidden(self, ids: Tensor, weights: Weights, prefix: Prefix | None = None) -> Hidden:
        """Run sequences, from their start or as continuations of prompts that were run before.

        Sequences are padded on the right. Attention is causal, so no real token ever sees padding, whatever id the
        padding has, and no mask is built from ids.

        Parameters
        ----------
        ids : (B, T) integer tensor
        prefix : Prefix, optional
            The prompts that these ids continue.
        """
        b, t = ids.shape
        if prefix is None:
            mask, cos, sin = None, self.cos[:t], self.sin[:t]
        else:
            positions, mask = prefix.continued(t, self.dtype)
            cos, sin = self.cos[positions], self.sin[positions]
        x = self._embed(ids, weights)
        keys, values = [], []
        for layer, w in enumerate(weights.layers):
            q, k, v = (a.transpose(1, 2) for a in self._qkv(x, w, cos, sin))  # (B, heads, T, D)
            keys.append(k)
            values.append(v)
            if prefix is not None:
                k = torch.cat([prefix.keys[layer][prefix.source], k], dim=2)
                v = torch.cat([prefix.values[layer][prefix.source], v], dim=2)
            grouped = self.heads != self.kv_heads
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
            x = self._close(x, y.transpose(1, 2).reshape(b, t, -1), w)
        return Hidden(_norm(x, weights.norm, self.eps), keys, values)

    def step(self, ids: Tensor, positions: Tensor, weights: Weights, cache: Cache, extent: int) -> Tensor:
        """Run one more token of the sequences in the cache's first B slots; return hidden states (B, H).

        Parameters
        ----------
        ids, positions : (B,) integer tensors
            The tokens and where they stand in their sequences.
        extent : int
            Largest position plus 1: so many columns of the cache are read.
        """
        b = ids.shape[0]
        rows = torch.arange(b, device=ids.device)
        unseen = (torch.arange(extent, device=ids.device) > positions[:, None])[:, None, None]  # (B, 1, 1, extent)
        cos, sin = self.cos[positions], self.sin[positions]  # (B, 1, D)
        scale = self.head_dim**-0.5
        wide = torch.promote_types(self.dtype, torch.float32)
        x = self._embed(ids, weights)
        for w, keys, values in zip(weights.layers, cache.keys, cache.values, strict=True):
            q, k, v = self._qkv(x, w, cos, sin)  # (B, heads, D)
            keys[rows, :, positions], values[rows, :, positions] = k, v
            q = (q * scale).view(b, self.kv_heads, -1, self.head_dim)
            scores = q @ keys[:b, :, :extent].transpose(2, 3)  # (B, M, N / M, extent)
            scores.masked_fill_(unseen, -torch.inf)
            y = scores.softmax(-1, dtype=wide).to(self.dtype) @ values[:b, :, :extent]
            x = self._close(x, y.reshape(b, -1), w)
        return _norm(x, weights.norm, self.eps)

    def _embed(self, ids: Tensor, weights: Weights) -> Tensor:
        # As in the model, the row of a padding id learns nothing.
        return F.embedding(ids, weights.embedding, self.padding_idx)

    def _qkv(self, x: Tensor, w: LayerWeights, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (..., H) to turned queries (..., N, D) and keys (..., M, D), and values (..., M, D)."""
        qkv = F.linear(_norm(x, w.input_norm, self.eps), w.qkv, w.qkv_bias)
        qkv = qkv.reshape(*x.shape[:-1], -1, self.head_dim)
        qk, v = torch.split(qkv, [self.heads + self.kv_heads, self.kv_heads], dim=-2)
        if w.qk_norm is not None:
            qk = _norm(qk, w.qk_norm, self.eps)
        qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, dims=-1), sin)
        q, k = torch.split(qk, [self.heads, self.kv_heads], dim=-2)
        return q, k, v

    def _close(self, x: Tensor, attended: Tensor, w: LayerWeights) -> Tensor:
        """Add the attention's output and then the MLP's to the residual stream (..., H)."""
        x = x + F.linear(attended, w.out, w.out_bias)
        y = _norm(x, w.mlp_norm, self.eps)
        gated = F.silu(F.linear(y, w.gate, w.gate_bias)) * F.linear(y, w.up, w.up_bias)
        return x + F.linear(gated, w.down, w.down_bias)

    def _layer_weights(self, layer: Any) -> LayerWeights:
        a, m = layer.self_attn, layer.mlp

        def cast(w: Tensor | None) -> Tensor | None:
            return None if w is None else w.to(self.dtype)

        qk_norm = None
        if hasattr(a, "q_norm"):
            heads = (a.q_norm.weight.expand(self.heads, -1), a.k_norm.weight.expand(self.kv_heads, -1))
            qk_norm = torch.cat(heads)
        columns = {
            "input_norm": layer.input_layernorm.weight,
            "qkv": torch.cat([merged(a.q_proj), merged(a.k_proj), merged(a.v_proj)]),
            "qkv_bias": None if a.q_proj.bias is None else torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]),
            "qk_norm": qk_norm,
            "out": merged(a.o_proj),
            "out_bias": a.o_proj.bias,
            "mlp_norm": layer.post_attention_layernorm.weight,
            "gate": merged(m.gate_proj),
            "gate_bias": m.gate_proj.bias,
            "up": merged(m.up_proj),
            "up_bias": m.up_proj.bias,
            "down": merged(m.down_proj),
            "down_bias": m.down_proj.bias,
        }
        return LayerWeights(**{name: cast(w) for name, w in columns.items()})  # type: ignore[arg-type]


def own(weights: Any) -> Any:
    """Copy weights, without gradient, so that a later change of the model's does not reach them."""
    return weights.form()([None if w is None else w.detach().clone() for w in weights.tensors()])


def head_weights(model: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight (V, H) and bias (V,), if there is one, of the LM head."""
    head = model.get_output_embeddings()
    return merged(head), getattr(head, "bias", None)


def logits(hidden: Tensor, weights: AnyHead) -> Tensor:
    """Apply the LM head, and what the model does behind it, to hidden states (..., H); return logits (..., V), in FP32
    at least.

    The product is computed in the head's own precision: hidden states are widened to it (see `Forward.weights`).
    Generator and trainer both call this, so that neither can do without what the other has.
    """
    out = F.linear(hidden.to(weights.head.dtype), weights.head, weights.head_bias)
    out = out.to(torch.promote_types(out.dtype, torch.float32))
    scale, cap = weights.finish
    if scale != 1:
        out = out * scale
    return out if cap is None else torch.tanh(out / cap) * cap


class _RMSNorm(torch.autograd.Function):
    """``weight * x / rms(x)``. The gradient is written out: half as many passes over memory as autograd makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1] + eps)
        normed = (wide * inverse).to(x.dtype)
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        normed, inverse, weight = ctx.saved_tensors
        along = grad * normed
        to_weight = along.sum_to_size(weight.shape)
        mean = (along * weight).mean(-1, keepdim=True)
        to_x = torch.addcmul(grad * weight, normed, mean, value=-1).mul_(inverse.to(grad.dtype))
        return to_x, to_weight, None


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise (..., H) by its root mean square; the statistic is FP32 at least."""
    out: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out
