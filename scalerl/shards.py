"""Checkpoints in shares: every process writes what it holds, and any number of processes reads it again.

torch's distributed checkpoints, in the form that is plain safetensors: a file a process, whose header says where in
which tensor its parts stand. The pickled form is neither written nor read; what the processes tell one another about
a write is pickled by torch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

SHARED_S = 60.0  # in which a file that another node wrote must show


class SharesError(OSError):
    """A share that cannot be written: every process of the group raises it, whichever failed."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this process's share of the tensors; all processes of the group must call it.

    Raises
    ------
    SharesError
        If one of them cannot.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts among themselves
        try:
            save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
        except CheckpointException as failed:
            process, (error, _) = min(failed.failures.items())
            raise SharesError(f"process {process}: {getattr(error, 'strerror', None) or error}") from failed


def check_shards(folder: Path, shapes: Mapping[str, torch.Size], wait_s: float = SHARED_S) -> None:
    """Make sure that the shares of all processes can be seen from here, after they were written.

    Parameters
    ----------
    shapes : mapping of name to shape
        Of the whole tensors.
    wait_s : float
        How long a network file system may take to show what another node wrote.

    Raises
    ------
    SharesError
        If they cannot, as where the folder is another one on every node.
    """
    end = time.monotonic() + wait_s
    while True:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        short = [name for name, shape in shapes.items() if not _is_whole(found.get(name), shape)]
        if not short:
            return
        if time.monotonic() > end:
            raise SharesError(
                f"shares of other processes are not in {folder} ({short[0]} is not whole): the folder must be one that "
                "all nodes share"
            )
        time.sleep(wait_s / 60)


def _is_whole(held: Any, shape: torch.Size) -> bool:
    """Whether the parts of a tensor that were found make up the whole."""
    return (
        isinstance(held, TensorStorageMetadata)
        and held.size == shape
        and sum(part.sizes.numel() for part in held.chunks) == shape.numel()
    )


def read_shards(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Return the whole tensors that shares in a folder make up, by group ("model", "optimizer") and name."""
    reader = HuggingFaceStorageReader(str(folder))
    about = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.empty(tuple(held.size), dtype=held.properties.dtype)
        for name, held in about.items()
        if isinstance(held, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a single process is meant
        load(found, storage_reader=reader, no_dist=True)
    groups: dict[str, dict[str, Tensor]] = {
        "model": {},
        "optimizer": {},
    }  # before the first update there are no moments
    for name, tensor in found.items():
        group, _, key = name.partition(".")
        groups[group][key] = tensor
    return groups
