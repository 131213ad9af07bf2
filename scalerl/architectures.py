"""What is asked of an architecture before it is trained: what cannot be, by name, and how far its positions go."""

from __future__ import annotations

from typing import Any

from torch import nn

from scalerl.runlog import UserError


def rotary(model: Any) -> bool:
    """Return whether a model computes the angles of its positions, so that they go on beyond what it was made for."""
    return any(name.rpartition(".")[2].endswith("inv_freq") for name, _ in model.named_buffers())


def beyond_positions(model: Any, max_length: int) -> int | None:
    """Return how many positions a model was made for, where that is less than `max_length` and it takes more."""
    made_for = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return made_for if made_for and made_for < max_length else None


def beyond_text(max_length: int, made_for: int) -> str:
    """Return what is to be said of a length beyond a model's positions."""
    return (
        f"max_length {max_length}: the model was made for {made_for} positions (max_position_embeddings); beyond "
        "them its rotary angles are ones that it has not seen, and completions may fall apart"
    )


def refuse_unfit(model: Any, max_length: int) -> None:
    """Raise `UserError` for what is known not to fit the generic forward, by name."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or [])
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    chunk, local = getattr(config, "attention_chunk_size", None), getattr(config, "window_size", None)
    windows = [
        size
        for size, kind in ((window, "sliding_attention"), (chunk, "chunked_attention"), (local, "local"))
        if size and (not kinds or kind in kinds)
    ]
    tables = [m for m in model.base_model.modules() if isinstance(m, nn.Embedding)]
    places = min((t.num_embeddings for t in tables if t is not model.get_input_embeddings()), default=max_length)
    if not (rotary(model) or getattr(config, "alibi", False)):  # a table may have rows that stand for no place
        places = min(places, getattr(config, "max_position_embeddings", None) or max_length)
    grows = [part for part in ropes if part.get("rope_type") in {"dynamic", "longrope"}]
    longest = min((part.get("original_max_position_embeddings") or config.max_position_embeddings for part in grows),
                  default=max_length)  # fmt: skip
    what = ""
    if getattr(model, "_is_stateful", False) or getattr(model, "is_stateful", False):
        what = "cannot be trained: it keeps a state instead of keys and values"
    elif model.base_model is model or model.get_output_embeddings() is None:
        what = "cannot be trained: it has no backbone and head apart"
    elif any(not p.is_floating_point() for p in model.parameters()):
        what = "cannot be trained: its weights are quantised"
    elif windows and max_length > min(windows):
        what = f"attends to the last {min(windows)} tokens only: set max_length to that or less, it is {max_length}"
    elif places < max_length and hasattr(config, "max_position_embeddings"):
        what = f"has positions for {places} tokens: set max_length to that or less, it is {max_length}"
    elif longest < max_length:
        what = f"turns its angles otherwise beyond {longest} tokens: set max_length to that or less, it is {max_length}"
    if what:
        raise UserError(f"model_name: a {config.model_type!r} model {what}")
