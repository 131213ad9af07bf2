"""Weights in one stretch of memory, so that another process can see them, or be handed them as they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scalerl.forward import AnyWeights

ALIGNMENT = 64  # bytes


class Packed(NamedTuple):
    """Weights in one stretch of memory."""

    memory: Tensor  # (bytes,)
    places: tuple[tuple[int, tuple[int, ...], torch.dtype] | None, ...]  # first byte, shape, dtype of each weight
    form: Callable[[Sequence[Tensor | None]], AnyWeights]

    @torch.no_grad()
    def write(self, weights: AnyWeights) -> None:
        """Copy weights into the memory."""
        for view, weight in zip(self._views(), weights.tensors(), strict=True):
            if view is not None and weight is not None:
                view.copy_(weight)
        finish(self.memory.device)

    def weights(self, where: torch.device) -> AnyWeights:
        """Return the weights as they are seen from a device; on the memory's own they are views of it."""
        return self.form([None if view is None else view.to(where) for view in self._views()])

    def _views(self) -> Iterator[Tensor | None]:
        for place in self.places:
            if place is None:
                yield None
            else:
                first, shape, dtype = place
                size = torch.Size(shape).numel() * dtype.itemsize
                yield self.memory[first : first + size].view(dtype).view(shape)


def pack(weights: AnyWeights, where: torch.device | None = None) -> Packed:
    """Put a copy of weights into memory on a device, their own if none is given."""
    places: list[tuple[int, tuple[int, ...], torch.dtype] | None] = []
    size = 0
    for weight in weights.tensors():
        places.append(None if weight is None else (size, tuple(weight.shape), weight.dtype))
        if weight is not None:
            size += -(-weight.numel() * weight.dtype.itemsize // ALIGNMENT) * ALIGNMENT
    memory = torch.empty(size, dtype=torch.uint8, device=where or weights.head.device)
    packed = Packed(memory, tuple(places), weights.form())
    packed.write(weights)
    return packed


def finish(where: torch.device) -> None:
    """Wait for what a device was told to do."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
