"""How the processes of a sharded run meet, and how the first tells the others what comes; `scalerl.sharded` obeys.

Orders are JSON and safetensors, broadcast over gloo: nothing of them is unpickled. (torch's distributed checkpoint
exchanges its plans as pickles among the same processes, see `scalerl.shards`: they trust one another.)
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from scalerl.ranks import local_rank, meeting_place, rank, world_size
from scalerl.runlog import UserError

MEETING = dt.timedelta(minutes=10)  # longest wait for the other processes at the start
PATIENCE = dt.timedelta(days=1)  # an update is waited for that long; a process that died is noticed at once
JSON = "json"  # name of an order among the tensors that come with it


def meet() -> None:
    """Meet the other processes of this run.

    Raises
    ------
    UserError
        If they do not come.
    """
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    torchrun_holds_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    master = rank() == 0 and not torchrun_holds_it
    place = meeting_place()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # When torchrun starts the processes again, gloo must not find the addresses of those before.
    attempt = f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store: Any = dist.TCPStore(*place, world_size(), master, MEETING)  # type: ignore[attr-defined]
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=MEETING)
    except RuntimeError as error:
        where = f"{place[0]}:{place[1]}"
        raise UserError(f"process {rank()}: the {world_size()} processes of this run do not meet at {where}") from error
    _set_pg_timeout(PATIENCE)


def leave() -> None:
    """Part from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def send(order: str, tensors: Mapping[str, Tensor] | None = None, **content: Any) -> None:
    """Tell the other processes what comes."""
    text = json.dumps({"order": order, **content}).encode()
    whole = {
        JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8),
        **{name: t.contiguous() for name, t in (tensors or {}).items()},
    }
    data = torch.frombuffer(bytearray(save(whole)), dtype=torch.uint8)
    dist.broadcast(torch.tensor([len(data)]), 0)
    dist.broadcast(data, 0)


def receive() -> dict[str, Any]:
    """Wait for an order: its name, tensors, and what else belongs to it."""
    size = torch.zeros(1, dtype=torch.long)
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, 0)
    tensors = load(data.numpy().tobytes())
    content: dict[str, Any] = json.loads(tensors.pop(JSON).numpy().tobytes())
    return {**content, "tensors": tensors}


@contextmanager
def saying(line: str) -> Iterator[None]:
    """While entered, turn what torch raises where a connection ends into one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "onnection" not in str(error):
            raise
        raise UserError(line) from error
