"""A saved policy to evaluate: a model directory, a checkpoint of a run, or a file of weights put onto a base.

Promises: nothing in a file is executed, and a weight that is missing, unknown or of another shape is refused by name.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scalerl.checkpoint import read_folder
from scalerl.config import change_config
from scalerl.lora import add_adapters, merge
from scalerl.modelcard import read_facts
from scalerl.places import read_latest
from scalerl.policy import Policy, checkpoint_hash, load_policy
from scalerl.runlog import BEST_FOLDER, CHECKPOINT_FOLDER, MODEL_FOLDER, UserError, read_header, read_regular

WEIGHT_FILES = (".pt", ".pth")
LORA_FIELDS = ("lora_rank", "lora_alpha", "lora_targets")
WRAPPED = ("model", "state_dict", "model_state_dict")  # names under which trainers keep the weights among other things
MOST_NAMED = 3


class Saved(NamedTuple):
    """A policy and what it was loaded from."""

    policy: Policy
    about: dict[str, Any]
    """``path``, ``sha256``, and ``base`` where the weights were put onto one."""


def run_of(path: str) -> Path | None:
    """Return the run folder that a model or checkpoint lies in, or None."""
    here = Path(path).resolve()
    for folder in (here.parent, here.parent.parent if here.parent.name == CHECKPOINT_FOLDER else here.parent):
        if (folder / "run.json").is_file():
            return folder
    return None


def load_saved(path: str, *, base: str | None, device: str = "cpu", dtype: str = "float32") -> Saved:
    """Load a policy: a model directory or hub name, ``checkpoints/step-N`` of a run, or a ``.pt`` file onto `base`.

    Raises
    ------
    UserError
        If there is none, or it does not fit onto its base.
    """
    file = Path(path)
    name = re.fullmatch(r"step-\d{8}", file.name)
    if name is not None and file.parent.name == CHECKPOINT_FOLDER and not (file / "config.json").exists():
        config = read_latest(file.parent.parent).get("config")
        began = config.get("model_name") if isinstance(config, dict) else None
        policy = load_policy(base or str(began), device=device, dtype=dtype)
        tensors = read_folder(file).tensors.get("model", {})
        lora = change_config({name: config.get(name) for name in LORA_FIELDS} if isinstance(config, dict) else {}, [])
        if lora.lora_rank is not None:  # the checkpoint holds the adapters alone
            add_adapters(policy.model, rank=lora.lora_rank, alpha=lora.lora_scale, targets=lora.lora_targets, seed=0)
        put(policy.model, tensors, str(file))
        if lora.lora_rank is not None:
            merge(policy.model)
        return Saved(policy, {"path": path, "sha256": _hash(tensors), "base": base or began})
    if file.suffix.lower() in WEIGHT_FILES and not file.is_dir():
        if base is None:
            raise UserError(
                f"{path}: holds weights without a model; name the directory that they belong to with --base DIR"
            )
        content = read_regular(path)
        tensors = _read_weights(path)
        policy = load_policy(base, device=device, dtype=dtype)
        put(policy.model, tensors, path)
        return Saved(policy, {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "base": base})
    if base is not None:
        raise UserError(f"--base: is read with {' and '.join(WEIGHT_FILES)} files alone, and {path} is none")
    policy = load_policy(path, device=device, dtype=dtype)
    return Saved(policy, {"path": path, "sha256": checkpoint_hash(path), "base": None})


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    """Read a state dict, with nothing in it but tensors and plain values."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than weights, and nothing of it was executed; save a state dict"
        ) from error
    except Exception as error:  # a damaged archive can fail anywhere inside torch
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as weights: {reason}") from error
    wrapped = [name for name in WRAPPED if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)]
    if len(wrapped) == 1:
        found = found[wrapped[0]]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise UserError(f"{path}: is no state dict, which has a tensor under every name")
    return {str(name): tensor for name, tensor in found.items()}


@torch.no_grad()
def put(model: Any, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Put weights into a model, all of them that are trained (with adapters these alone) or none.

    Raises
    ------
    UserError
        If one is missing, unknown, or of another shape; the message names the first of each kind.
    """
    own = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    odd = [
        f"{name} ({str(tensor.layout).removeprefix('torch.')} {str(tensor.dtype).removeprefix('torch.')}"
        f"{' without values' if tensor.is_meta else ''})"
        for name, tensor in tensors.items()
        if tensor.is_meta or tensor.layout != torch.strided or (name in own and not tensor.dtype.is_floating_point)
    ]
    if odd:
        raise UserError(
            f"{where}: {len(odd)} weights are no plain tensors of real numbers: {', '.join(odd[:MOST_NAMED])}"
        )
    # A tied head stands here under its first name alone.
    once = {name: p for name, p in model.named_parameters() if p.requires_grad}
    again = {name for name in own if name not in once}
    buffers = dict(model.named_buffers())
    kept = {name: buffers[name] for name in model.state_dict() if name in buffers}  # others are made anew
    fitted = {**own, **kept}
    missing = [name for name in once if name not in tensors]
    unknown = [name for name in tensors if name not in own and name not in buffers]
    mismatched = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in fitted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    lines = [
        f"{len(names)} weights {what}: {', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''}"
        for what, names in (("are missing", missing), ("are of another shape", mismatched), ("are unknown", unknown))
        if names
    ]
    if lines:
        raise UserError(f"{where}: does not fit its base model: {'; '.join(lines)}")
    tied = [name for name in again if name in tensors and not _same(tensors, name, own, once)]
    if tied:
        raise UserError(f"{where}: {tied[0]} differs from the weight that the base model ties it to")
    for name, tensor in {**once, **kept}.items():
        if name in tensors:
            tensor.copy_(tensors[name])


def _same(
    tensors: Mapping[str, torch.Tensor], name: str, own: Mapping[str, Any], once: Mapping[str, torch.Tensor]
) -> bool:
    first = next(n for n, parameter in once.items() if parameter is own[name])
    return torch.equal(tensors[name], tensors[first])


def _hash(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def step_of(path: str, run: Path, sha256: str | None, rows: list[dict[str, Any]]) -> int | None:
    """Return the update of a run that a saved policy is from, where that can be known; else None.

    ``model/`` is from the last update if the run came to its end, ``checkpoints/step-N`` from update N, and what has
    the hash of the starting checkpoint from before the first. ``best/`` says so itself.
    """
    here, home = Path(path).resolve(), run.resolve()
    checkpoint = read_header(run).get("checkpoint")
    if isinstance(checkpoint, dict) and sha256 is not None and checkpoint.get("sha256") == sha256:
        return 0
    if here.parent == home / CHECKPOINT_FOLDER:
        name = here.name.removeprefix("step-")
        return int(name) if name.isdecimal() else None
    ends = [row.get("event") for row in rows if row.get("kind") == "event"]
    if here == home / MODEL_FOLDER and ends and ends[-1] == "end":
        return max((row["step"] for row in rows if row.get("kind") == "step"), default=0)
    compute = (read_facts(here) or {}).get("compute") if here == home / BEST_FOLDER else None
    number = compute.get("step") if isinstance(compute, dict) else None
    return number if isinstance(number, int) else None
