"""What a run says of itself: fields of its step rows and of its header. See docs/log-format.md."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import scalerl
from scalerl.completions import Completion
from scalerl.config import ScaleRLConfig
from scalerl.data import DataSet
from scalerl.lora import adapted_weights, has_adapters
from scalerl.policy import Policy, checkpoint_hash, device_of
from scalerl.ranks import world_size
from scalerl.rewards.names import file_of
from scalerl.rewards.scorers import scored_here
from scalerl.runlog import UserError, read_regular
from scalerl.vllmstart import vllm_version

# Names under which configurations have the number of experts, and of those that a token is sent to.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k")


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


def multiplying_weights(model: Any) -> tuple[float, int]:
    """Return how many weights of backbone and head multiply a token; what is looked up, not multiplied, is left out.

    Adapters are left out, too, for they are merged; of experts the share counts that a token is sent to.

    Raises
    ------
    UserError
        If there are experts, and the configuration does not say how many of how many a token is sent to.
    """
    head = model.get_output_embeddings().weight
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    architecture = model.config.get_text_config(decoder=True)
    there, sent_to = (
        next((count for name in names if (count := getattr(architecture, name, None))), None)
        for names in (EXPERTS, EXPERTS_A_TOKEN)
    )
    backbone: float = 0
    for name, p in model.named_parameters():
        if ".lora_" in name or id(p) in looked_up or p is head:
            continue
        if ".experts." not in name and not (".block_sparse_moe." in name and p.ndim == 3):
            backbone += p.numel()
        elif there and sent_to:
            backbone += p.numel() * (sent_to / there) if sent_to != there else p.numel()
        else:
            raise UserError(
                f"model_name: a {architecture.model_type!r} model has experts ({name}), and its configuration does not "
                "say under a name that is known how many of how many a token is sent to: its FLOPs cannot be counted"
            )
    return backbone, head.numel()


def training_flops(model: Any, *, backbone_tokens: int, head_tokens: int, gathers: int) -> float:
    """Return the operations of tokens run forward and backward: 6 N; of weights that are not trained, 4 N.

    With adapters (LoRA) the gradient passes through every weight, but is taken for the adapted matrices only; each time
    that weights are gathered their products are computed, and differentiated.

    Parameters
    ----------
    backbone_tokens, head_tokens : int
        Tokens run through backbone and head.
    gathers : int
        Micro-batches.
    """
    backbone, head = multiplying_weights(model)
    if not has_adapters(model):
        return 6.0 * (backbone * backbone_tokens + head * head_tokens)
    of_backbone, of_head, products = adapted_weights(model)
    once = backbone * backbone_tokens + head * head_tokens
    return 4.0 * once + 2.0 * (of_backbone * backbone_tokens + of_head * head_tokens) + 6.0 * products * gathers


def header(
    config: ScaleRLConfig, policy: Policy, train_set: DataSet, eval_set: DataSet, *, prompts_sha256: str, device: str
) -> dict[str, Any]:
    """Return what ``run.json`` says of a run besides what `RunLog` writes itself."""
    import transformers

    first = train_set.items[0]
    multiplying_weights(policy.model)  # says, before anything is written, if they cannot be counted
    note = "on a CPU one process counts as one device" if device == "cpu" else None
    files = {"train": train_set, "eval": eval_set}
    return {
        "command": shlex.join(["scalerl", *sys.argv[1:]]) if Path(sys.argv[0]).stem in {"scalerl", "cli"} else None,
        "note": note,
        "config": config.model_dump(),
        "reward_module": reward_module(config),
        "prompt": {
            "format": "chat" if policy.chat else "plain",
            "example": policy.render(first["prompt"], first.get("system")),
            "sha256": prompts_sha256,
            "clock": policy.clock.isoformat() if policy.clock and policy.reads_clock else None,
        },
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
            **({} if config.engine == "own" else {"vllm": vllm_version()}),
        },
        "machine": machine(config),
        "not_reproducible": driven_by_time(config, policy),
    }


def reward_module(config: ScaleRLConfig) -> dict[str, str] | None:
    """Return file and sha256 of the module of a reward of one's own; None where there is none, or it is installed."""
    file = file_of(config.reward, config.reward_path or ".")
    return None if file is None else {"file": str(file), "sha256": hashlib.sha256(read_regular(file)).hexdigest()}


def driven_by_time(config: ScaleRLConfig, policy: Policy | None = None) -> list[str]:
    """Return the fields of a configuration by which real time has a say in what the run does.

    `engine` is among them: what vLLM had in work when a run was cut off is written again.

    A score that takes about as long as `reward_time_limit_s` is there in one run and an error in the next. With a
    policy its chat template is looked at, too: one that reads the clock gives another run other prompts.

    Examples
    --------
    >>> driven_by_time(ScaleRLConfig()), driven_by_time(ScaleRLConfig(dynamic_batch_size=True, max_gpu_hours=2.0))
    ([], ['dynamic_batch_size', 'max_gpu_hours'])
    >>> driven_by_time(ScaleRLConfig(reward="math"))
    ['reward_time_limit_s']
    """
    has_a_say = {
        "dynamic_batch_size": config.dynamic_batch_size,
        "engine": config.engine != "own",
        "generator": config.generator != "inline",
        "max_gpu_hours": config.max_gpu_hours is not None,
        "prompt_format": policy is not None and policy.reads_clock,
        "reward_time_limit_s": not scored_here(config),
    }
    return [name for name, used in has_a_say.items() if used]


def clock_of(run: Mapping[str, Any]) -> dt.datetime | None:
    """Return the time that a run's chat template was told; None where it asked for none."""
    prompt = run.get("prompt")
    try:
        return dt.datetime.fromisoformat(prompt["clock"]) if isinstance(prompt, dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def device_kind(device: str) -> str:
    """Return the kind of device that a `device` of a configuration stands for on this machine."""
    return torch.cuda.get_device_name() if device_of(device) == "cuda" else "cpu process"


def machine(config: ScaleRLConfig) -> dict[str, Any]:
    """Return what bit-equal results depend on, and the number of cores."""
    import transformers

    return {
        "device": device_kind(config.device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "processes": world_size(),
        "threads": config.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{platform.machine()} {line.partition(':')[2].strip()}"
    return platform.processor() or platform.machine()
