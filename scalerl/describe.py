"""What a run says of itself: fields of its step rows and of its header. See docs/log-format.md."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

import scalerl
from scalerl.config import ScaleRLConfig
from scalerl.data import DataSet
from scalerl.generate import Completion
from scalerl.policy import checkpoint_hash


def reward_fields(rewards: torch.Tensor) -> dict[str, Any]:
    """Return the fields of a step row that rewards (P, G) give."""
    same = (rewards == rewards[:, :1]).all(dim=1)
    return {
        "reward_sum": float(rewards.sum()),
        "reward_count": rewards.numel(),
        "reward_var": float(rewards.var(correction=0)),
        "prompts": len(rewards),
        "zero_variance_share": float(same.double().mean()),
    }


def completion_fields(completions: list[Completion]) -> dict[str, Any]:
    """Return the fields of a step row that one update's completions give."""
    tokens = sum(len(c.tokens) for c in completions)
    return {
        "length_mean": tokens / len(completions),
        "truncation_rate": sum(c.truncated for c in completions) / len(completions),
        "entropy": sum(c.entropy for c in completions) / tokens,
    }


def multiplying_weights(model: Any) -> tuple[int, int]:
    """Return how many weights of backbone and head multiply a token; an embedding is looked up, not multiplied."""
    head = model.get_output_embeddings().weight
    looked_up = model.get_input_embeddings().weight
    backbone = sum(p.numel() for p in model.parameters()) - looked_up.numel()
    backbone -= 0 if head is looked_up else head.numel()  # a tied head is one parameter with the embedding
    return backbone, head.numel()


def header(config: ScaleRLConfig, train_set: DataSet, eval_set: DataSet, device: str) -> dict[str, Any]:
    """Return what ``run.json`` says of a run besides what `RunLog` writes itself."""
    import transformers

    note = "on a CPU one process counts as one device" if device == "cpu" else None
    files = {"train": train_set, "eval": eval_set}
    return {
        "command": shlex.join(["scalerl", *sys.argv[1:]]) if Path(sys.argv[0]).stem in {"scalerl", "cli"} else None,
        "note": note,
        "config": config.model_dump(),
        "checkpoint": {"name": config.model_name, "sha256": checkpoint_hash(config.model_name)},
        "data": {name: {"file": d.path, "items": len(d.items), "sha256": d.sha256} for name, d in files.items()},
        "versions": {
            "scalerl": scalerl.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": config.threads},
    }
