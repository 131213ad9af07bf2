"""The tables of docs/hardware.md: memory of a run by model size, from the estimate, and the devices that hold it.

Run ``python -m benchmarks.hardware`` from the repository's root. Nothing is measured here; ``benchmarks.memory`` does.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, Qwen3Config

from scalerl.config import ScaleRLConfig, load_config
from scalerl.estimate import GIB
from scalerl.footprint import memory, peak
from scalerl.worker import skeleton

DEVICES_GIB = (16, 24, 40, 80, 141)
QWEN3 = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}


def qwen3(layers: int, width: int, inner: int, heads: int, *, tied: bool) -> Qwen3Config:
    """Return an architecture of the Qwen3 family."""
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
    }
    return Qwen3Config(**QWEN3, **shape, tie_word_embeddings=tied)


def llama_70b() -> LlamaConfig:
    """Return the architecture of Llama 3 70B."""
    return LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=False,
    )  # fmt: skip


MODELS: dict[str, Any] = {
    "0.6B": lambda: qwen3(28, 1024, 3072, 16, tied=True),
    "1.7B": lambda: qwen3(28, 2048, 6144, 16, tied=True),
    "4B": lambda: qwen3(36, 2560, 9728, 32, tied=True),
    "8B": lambda: qwen3(36, 4096, 12288, 32, tied=False),
    "70B": llama_70b,
}
SHORT = [
    "max_length=2048", "prompt_tokens=512", "thinking_tokens=1024", "solution_tokens=512", "batch_size=128", "slots=32",
    "micro_batch_tokens=2048",
]  # fmt: skip
LONG = ["slots=32", "micro_batch_tokens=16384"]
COLUMNS = (
    *("model", "weights, 10^9", "weights, gradients, moments, copy", "generator", "KV cache"),
    *("update", "evaluation", "total", "fits into"),
)
HEAD = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def row(name: str, config: ScaleRLConfig) -> str:
    """Return a line of a table: GiB of weights, gradients and moments; of the generator; of the phases; at most."""
    model = skeleton(MODELS[name](), torch.float32)
    parts = memory(config, model)
    by = {part.name: part.bytes / GIB for part in parts}
    state = sum(by[n] for n in ("master weights", "gradients", "AdamW moments", "trainer's working copy"))
    update, look = (sum(part.bytes for part in parts if part.phase == p) / GIB for p in ("update", "evaluation"))
    total = peak(parts)[0] / GIB
    fits = next((f"{size} GB" for size in DEVICES_GIB if total * GIB < size * 1e9), "none")
    count = sum(p.numel() for p in model.parameters()) / 1e9
    cells = (state, by["generator's weights"], by["KV cache"], update, look, total)
    return f"| {name} | {count:.2f} | " + " | ".join(f"{cell:.3g}" for cell in cells) + f" | {fits} |"


def tables() -> dict[str, list[str]]:
    """Return both tables: the settings that they are made with, and their lines."""
    return {
        name: [" ".join(f"--set {setting}" for setting in settings), *HEAD]
        + [row(model, load_config([], settings)) for model in MODELS]
        for name, settings in (("short", SHORT), ("long", LONG))
    }


def main() -> None:
    """Print the tables."""
    for name, (settings, *lines) in tables().items():
        print(f"{name}: {settings}", *lines, "", sep="\n")


if __name__ == "__main__":
    main()
