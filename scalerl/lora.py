"""Low-rank adapters (LoRA): few weights are trained, and what multiplies is the matrix with its adapter merged in.

`peft` makes the adapters and writes them to disk. The arithmetic is ours: a weight is gathered as
``W + alpha / r * B A``, differentiably, once for all tokens of a micro-batch, so that generator, generator process and
trainer run the plain architecture and see one and the same matrix. The gradient of an adapted matrix is therefore a
whole matrix for a moment; gradients, moments and checkpoints hold the adapters alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalerl.runlog import UserError

ADAPTER = "default"  # peft's name of the first adapter
ADAPTER_FOLDER = "adapter"


def add_adapters(model: Any, *, rank: int, alpha: float, targets: Sequence[str] | None, seed: int) -> None:
    """Put adapters beside matrices of a causal LM, in place; nothing but them is trained from then on.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    rank : int
    alpha : float
        The product of both factors is multiplied by ``alpha / rank``.
    targets : sequence of str, optional
        Ends of module names, as ``q_proj``; every linear layer but the head if not given.
    seed : int
        Of the random factor; the other one begins at zero, so that the policy begins as it was.

    Raises
    ------
    UserError
        If peft is not installed, there is no such module, it is an embedding or shares its weight with one, or peft
        adapts what cannot be merged.
    """
    looked_up = _looked_up(model, targets or ())
    if looked_up:
        raise UserError(
            f"lora_targets: {looked_up[0]} is looked up, not multiplied; leave embeddings and a tied head out"
        )
    names = [f".{name}" for name, _ in model.named_modules()]
    none = [target for target in targets or () if not any(name.endswith(f".{target}") for name in names)]
    if none and len(none) < len(targets or ()):  # peft would adapt the others without a word
        raise UserError(f"lora_targets: no layer of this model is named {', '.join(none)}")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("lora_rank: needs peft, which is not installed: pip install 'scalerl[lora]'") from error
    wanted: Any = "all-linear" if targets is None else list(targets)
    about: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": wanted, "task_type": "CAUSAL_LM"}
    config = LoraConfig(**about, lora_dropout=0.0)
    plain = {name for name, _ in model.named_parameters()}
    layers = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft and transformers among themselves
            torch.manual_seed(seed)
            wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    except Exception as error:  # peft maps names of some architectures onto others, and can fail anywhere in that
        if isinstance(error, ValueError) and targets is not None:
            listed = ", ".join(sorted(layers))
            raise UserError(f"lora_targets: {wanted}: fits no layer of this model; it has {listed}") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"lora_rank: peft cannot adapt a {model.config.model_type!r} model: {reason}") from error
    if {_plain_name(name) for name, _ in model.named_parameters()} - {None} != plain:
        raise UserError(
            f"lora_targets: peft adapts experts of this {model.config.model_type!r} model, or other weights outside of "
            f"linear layers, and these cannot be merged here; name some of its layers: {', '.join(sorted(layers))}"
        )
    # The wrapper holds the model; held by the model in a cell that torch does not see as a part, it can be asked later.
    model.__dict__["scalerl_adapters"] = wrapped


def has_adapters(model: Any) -> bool:
    """Return whether `add_adapters` was called on a model."""
    return "scalerl_adapters" in model.__dict__


def merged(module: Any) -> Tensor:
    """Return the weight of a linear layer, its adapter included, differentiably.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 3)
    >>> merged(layer) is layer.weight
    True
    """
    if not _adapted(module):
        weight: Tensor = module.weight
        return weight
    base, scale = module.base_layer.weight, module.scaling[ADAPTER]
    product = module.lora_B[ADAPTER].weight @ module.lora_A[ADAPTER].weight
    return torch.add(base, product.T if module.fan_in_fan_out else product, alpha=scale)


def plain_weights(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by the names that they have without adapters; what is adapted is merged."""
    for name, parameter in module.named_parameters():
        plain = _plain_name(name)
        if plain is None:
            continue
        adapted = plain != name and plain.endswith(".weight")
        yield plain, merged(module.get_submodule(plain.rpartition(".")[0])) if adapted else parameter


def adapted_weights(model: Any) -> tuple[int, int, int]:
    """Return the weights of adapted matrices in the backbone and head, and the multiplications of all B A."""
    head = model.get_output_embeddings()
    found = [module for module in model.modules() if _adapted(module)]
    of_head = head.base_layer.weight.numel() if _adapted(head) else 0
    products = sum(m.base_layer.weight.numel() * m.lora_A[ADAPTER].weight.shape[0] for m in found)
    return sum(m.base_layer.weight.numel() for m in found) - of_head, of_head, products


@torch.no_grad()
def merge(model: Any) -> None:
    """Make a model with adapters a plain one, in place, that multiplies by the same matrices."""
    weights = {name: weight.clone() for name, weight in plain_weights(model)}
    model.__dict__.pop("scalerl_adapters").unload()
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
        parameter.requires_grad_(True)


@torch.no_grad()
def save_merged(model: Any, folder: Path) -> None:
    """Write a model with adapters as a plain model directory, and the adapters beside its files in `ADAPTER_FOLDER`."""
    state = {name: weight.detach().clone() for name, weight in plain_weights(model)}
    buffers = {name for name, _ in model.named_buffers()}
    state |= {name: value for name, value in model.state_dict().items() if name in buffers}
    model.save_pretrained(folder, state_dict=state)
    # What is looked up was not trained: without being told, peft would add it to the file where the head is adapted.
    model.__dict__["scalerl_adapters"].save_pretrained(folder / ADAPTER_FOLDER, save_embedding_layers=False)


def _plain_name(name: str) -> str | None:
    """Return the name that a weight has without adapters; None for one of theirs."""
    if any(part.startswith("lora_") for part in name.split(".")):
        return None
    parent, _, kind = name.rpartition(".")
    return f"{parent.removesuffix('.base_layer')}.{kind}" if parent.endswith(".base_layer") else name


def _adapted(module: Any) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "lora_A")


def _looked_up(model: Any, targets: Sequence[str]) -> list[str]:
    """Return the targets that are embeddings, or that share the weight of one: merging would change that one, too."""
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    meant = tuple(f".{target}" for target in targets)  # as peft takes them: whole names, or their ends from a dot on
    return [
        name
        for name, part in model.named_modules(remove_duplicate=False)
        if f".{name}".endswith(meant) and id(getattr(part, "weight", None)) in tables
    ]
