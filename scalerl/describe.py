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
from scalerl.completions import Completion
from scalerl.config import ScaleRLConfig
from scalerl.data import DataSet
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


def completion_fields(completions: list[Completion], version: int) -> dict[str, Any]:
    """Return the fields of a step row that one update's completions give; `version` counts the updates before it."""
    tokens = sum(len(c.tokens) for c in completions)
    lags = [version - v for c in completions for v in c.versions]
    versions = [len(set(c.versions)) for c in completions]
    forced = [c.forced[1] - c.forced[0] for c in completions]
    count = len(completions)
    return {
        "length_mean": tokens / count,
        "truncation_rate": sum(c.truncated for c in completions) / count,
        "entropy": sum(c.entropy for c in completions) / tokens,
        "lag_min": min(lags),
        "lag_mean": sum(lags) / tokens,
        "lag_max": max(lags),
        "versions_mean": sum(versions) / count,
        "versions_max": max(versions),
        "mixed_share": sum(v > 1 for v in versions) / count,
        "interrupted_share": sum(n > 0 for n in forced) / count,
        "forced_tokens": sum(forced),
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
        "data": {
            name: {"file": d.path, "items": len(d.items), "dropped": d.dropped, "sha256": d.sha256}
            for name, d in files.items()
        },
        "versions": {
            "scalerl": scalerl.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": machine(config.threads),
        "not_reproducible": driven_by_time(config),
    }


def driven_by_time(config: ScaleRLConfig) -> list[str]:
    """Return the fields of a configuration by which real time has a say in what the run does.

    Examples
    --------
    >>> driven_by_time(ScaleRLConfig()), driven_by_time(ScaleRLConfig(dynamic_batch_size=True, max_gpu_hours=2.0))
    ([], ['dynamic_batch_size', 'max_gpu_hours'])
    """
    has_a_say = {
        "dynamic_batch_size": config.dynamic_batch_size,
        "generator": config.generator == "process",
        "max_gpu_hours": config.max_gpu_hours is not None,
    }
    return [name for name, used in has_a_say.items() if used]


def machine(threads: int) -> dict[str, Any]:
    """Return what bit-equal results depend on, and the number of cores."""
    return {"processor": _processor(), "cores": os.cpu_count(), "threads": threads, "torch": torch.__version__}


def _processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{platform.machine()} {line.partition(':')[2].strip()}"
    return platform.processor() or platform.machine()
