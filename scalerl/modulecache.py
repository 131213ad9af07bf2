"""What the modules of `transformers` take for their cache while they run on keys and values of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache as ModelCache

from scalerl.forward import Cache, Prefix


class Continued(ModelCache):
    """What a module takes for its cache while sequences run: a prefix is put before what comes, which is kept."""

    def __init__(self, prefix: Prefix | None) -> None:
        super().__init__(layers=[])
        self.prefix = prefix
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.keys[layer_idx], self.values[layer_idx] = key_states, value_states
        if self.prefix is None:
            return key_states, value_states
        keys, values = (kept[layer_idx][self.prefix.source] for kept in (self.prefix.keys, self.prefix.values))
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.prefix is None else int(self.prefix.keys[layer_idx].shape[2])

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length(layer_idx) + query_length, 0


class Slots(ModelCache):
    """What a module takes for its cache while one token runs: it writes into slots and reads their first columns."""

    def __init__(self, cache: Cache, positions: Tensor, extent: int) -> None:
        super().__init__(layers=[])
        self.cache, self.positions, self.extent = cache, positions, extent
        self.rows = torch.arange(len(positions), device=positions.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values, b = self.cache.keys[layer_idx], self.cache.values[layer_idx], len(self.rows)
        keys[self.rows, :, self.positions] = key_states[:, :, 0]
        values[self.rows, :, self.positions] = value_states[:, :, 0]
        return keys[:b, :, : self.extent], values[:b, :, : self.extent]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the modules ask so
        return self.extent - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        return self.extent, 0
