"""Weights that several processes share, whole again; and whether all of them began with the same."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from scalerl.config import ConfigError
from scalerl.ranks import world_size

SAME = 1e-9  # relative difference of a sum over a weight, from which on two processes have loaded different models


class _Gathered(torch.autograd.Function):
    """A parameter, whole on every process; its gradient is summed over them as wide as the parameter, and split."""

    @staticmethod
    def forward(ctx: Any, p: DTensor, dtype: torch.dtype) -> Tensor:
        ctx.like = p.device_mesh, p.placements, p.dtype
        narrow: Any = p.detach().to(dtype)
        whole: Tensor = narrow.full_tensor()
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        mesh, placements, dtype = ctx.like
        return DTensor.from_local(grads[0].to(dtype), mesh, [Partial()]).redistribute(placements=placements), None


def gathered(p: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Gather a parameter, in its own precision if none is given."""
    if not isinstance(p, DTensor):
        return p
    found: Tensor = _Gathered.apply(p, dtype or p.dtype)  # type: ignore[no-untyped-call]
    return found


def local(p: Tensor) -> Tensor:
    """Return this process's share of a tensor."""
    return p.to_local() if isinstance(p, DTensor) else p


def refuse_other_models(model: Any, name: str) -> None:
    """Raise `ConfigError` in every process if one of them has loaded another model than the first.

    Compared are the sum and the sum of squares of every tensor (in FP64), not its bytes: that is no hash of a file, but
    costs one pass over the weights where each process holds them anyway.
    """
    own = torch.cat([_sums(w) for w in model.state_dict().values()]).cpu()
    sizes = [torch.zeros(1) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([float(len(own))]))
    if len({float(size) for size in sizes}) == 1:
        found = [torch.zeros_like(own) for _ in range(world_size())]
        dist.all_gather(found, own)
        wrong = [i for i, each in enumerate(found) if not torch.allclose(each, found[0], rtol=SAME, atol=SAME)]
    else:
        wrong = [i for i, size in enumerate(sizes) if float(size) != float(sizes[0])]
    if wrong:
        told = ", ".join(map(str, wrong))
        raise ConfigError(f"model_name: {name} holds another model for process {told} than for the first one")


def _sums(weight: Tensor) -> Tensor:
    wide = weight.double()
    return torch.stack([wide.sum(), wide.square().sum()])
