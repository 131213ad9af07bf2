"""The forward pass of the Llama and Qwen3 family, written out: one for training and prefill, one for decoding.

Why our own: both passes share weights and arithmetic, so that the log-probability a token was sampled with and the
one it is trained with differ by rounding only; the decode step keeps finished completions out of the batch; and
both are faster on a CPU than the general modules. The model of `transformers` stays the owner of the weights, the
format on disk, and the oracle in the tests.

Shapes: B sequences, T tokens, H hidden width, N query heads, M key-value heads, D head width, S cache slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scalerl.runlog import UserError

FAMILY = ("llama", "qwen3")


class LayerWeights(NamedTuple):
    """Weights of one decoder layer, projections that read the same input side by side."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class KVCache(NamedTuple):
    """Keys and values of every layer, each (S, M, T_max, D)."""

    keys: list[Tensor]
    values: list[Tensor]


class Forward:
    """The backbone of a causal LM: token ids in, final hidden states out.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A Llama or Qwen3 causal LM. Its parameters are read at every call of `weights`, never copied for good.
    max_length : int
        Longest sequence, for the table of rotary angles.

    Raises
    ------
    UserError
        If the architecture is another one or uses a feature that is not written out here.
    """

    def __init__(self, model: Any, max_length: int) -> None:
        config = model.config
        windows = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or [])
        if config.model_type not in FAMILY or config.hidden_act != "silu" or windows:
            raise UserError(
                f"model_name: a {config.model_type!r} model of this configuration cannot be trained yet; "
                f"families: {', '.join(FAMILY)} with full attention"
            )
        self.model = model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        embedding = model.model.embed_tokens.weight
        self.device, self.dtype = embedding.device, embedding.dtype
        with torch.no_grad():
            positions = torch.arange(max_length, device=self.device)[None]
            cos, sin = model.model.rotary_emb(embedding[:1, :1], positions)
        self.cos, self.sin = cos[0], sin[0]  # (max_length, D)

    def weights(self) -> list[LayerWeights]:
        """Gather the layers' weights, differentiably; call it anew after every update."""
        return [_layer_weights(layer) for layer in self.model.model.layers]

    def hidden(self, ids: Tensor, weights: list[LayerWeights], cache: KVCache | None = None) -> Tensor:
        """Run whole sequences and return their final hidden states (B, T, H).

        Sequences are padded on the right. Attention is causal, so no real token ever sees padding, whatever id the
        padding has, and no mask is built from ids. With a `cache` of at least B slots the keys and values are also
        written to its first B slots.

        Parameters
        ----------
        ids : (B, T) integer tensor
        """
        b, t = ids.shape
        cos, sin = self.cos[:t], self.sin[:t]
        x = F.embedding(ids, self.model.model.embed_tokens.weight)
        for index, w in enumerate(weights):
            q, k, v = self._qkv(_norm(x, w.input_norm, self.eps), w)
            q, k = (_rotate(a.transpose(1, 2), cos, sin) for a in (q, k))  # (B, heads, T, D)
            v = v.transpose(1, 2)
            if cache is not None:
                cache.keys[index][:b, :, :t], cache.values[index][:b, :, :t] = k, v
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
            x = self._close(x, y.transpose(1, 2).reshape(b, t, -1), w)
        return _norm(x, self.model.model.norm.weight, self.eps)

    def step(self, ids: Tensor, positions: Tensor, weights: list[LayerWeights], cache: KVCache, extent: int) -> Tensor:
        """Run one more token of the sequences in the cache's first B slots; return hidden states (B, H).

        Parameters
        ----------
        ids, positions : (B,) integer tensors
            The tokens and where they stand; their keys and values are written there.
        extent : int
            One more than the largest position; what lies past it in the cache is not read.
        """
        b = ids.shape[0]
        rows = torch.arange(b, device=ids.device)
        unseen = torch.arange(extent, device=ids.device)[None, :] > positions[:, None]  # (B, extent)
        unseen = unseen[:, None, None, :]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (B, 1, D)
        scale = self.head_dim**-0.5
        x = F.embedding(ids, self.model.model.embed_tokens.weight)
        for w, keys, values in zip(weights, cache.keys, cache.values, strict=True):
            q, k, v = self._qkv(_norm(x, w.input_norm, self.eps), w)
            keys[rows, :, positions] = _rotate(k, cos, sin)
            values[rows, :, positions] = v
            q = (_rotate(q, cos, sin) * scale).view(b, self.kv_heads, -1, self.head_dim)
            scores = q @ keys[:b, :, :extent].transpose(2, 3)  # (B, M, N / M, extent)
            scores.masked_fill_(unseen, -torch.inf)
            y = scores.softmax(-1) @ values[:b, :, :extent]
            x = self._close(x, y.reshape(b, -1), w)
        return _norm(x, self.model.model.norm.weight, self.eps)

    def new_cache(self, slots: int, length: int) -> KVCache:
        """Return a zeroed cache for `slots` sequences of up to `length` tokens."""
        shape = (slots, self.kv_heads, length, self.head_dim)
        layers = len(self.model.model.layers)
        keys, values = (
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(layers)] for _ in range(2)
        )
        return KVCache(keys, values)

    def _qkv(self, x: Tensor, w: LayerWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Project (..., H) to queries (..., N, D), keys and values (..., M, D), normalised where the family does."""
        qkv = F.linear(x, w.qkv, w.qkv_bias).reshape(*x.shape[:-1], -1, self.head_dim)
        q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], dim=-2)
        if w.q_norm is not None and w.k_norm is not None:
            q, k = _norm(q, w.q_norm, self.eps), _norm(k, w.k_norm, self.eps)
        return q, k, v

    def _close(self, x: Tensor, attended: Tensor, w: LayerWeights) -> Tensor:
        """Add the attention's output and then the MLP's to the residual stream (..., H)."""
        x = x + F.linear(attended, w.out, w.out_bias)
        gate, up = F.linear(_norm(x, w.mlp_norm, self.eps), w.gate_up, w.gate_up_bias).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, w.down, w.down_bias)


def head_weights(model: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight (V, H) and bias (V,), if there is one, of the LM head."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, fp32: bool) -> Tensor:
    """Apply the LM head to hidden states (..., H) and return logits (..., V).

    With `fp32` hidden states and weights of less precision are widened first, so that the product itself is
    computed in FP32 (ScaleRL section 3.2); the result is at least FP32 either way. Generator and trainer both
    call this, so that neither can do without what the other has.
    """
    if fp32:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        hidden, weight, bias = hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide)
    out = F.linear(hidden, weight, bias)
    return out.to(torch.promote_types(out.dtype, torch.float32))


def _layer_weights(layer: Any) -> LayerWeights:
    a, m = layer.self_attn, layer.mlp
    return LayerWeights(
        input_norm=layer.input_layernorm.weight,
        qkv=torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]),
        qkv_bias=None if a.q_proj.bias is None else torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]),
        q_norm=a.q_norm.weight if hasattr(a, "q_norm") else None,
        k_norm=a.k_norm.weight if hasattr(a, "k_norm") else None,
        out=a.o_proj.weight,
        out_bias=a.o_proj.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=torch.cat([m.gate_proj.weight, m.up_proj.weight]),
        gate_up_bias=None if m.gate_proj.bias is None else torch.cat([m.gate_proj.bias, m.up_proj.bias]),
        down=m.down_proj.weight,
        down_bias=m.down_proj.bias,
    )


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of (..., D) by the rotary angles."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
