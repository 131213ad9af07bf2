"""Checkpoints in shares: every process writes what it holds, and any number of processes reads it again.

torch's distributed checkpoints, in the form that is plain safetensors: a file a process, whose header says where in
which tensor its parts stand. The pickled form is neither written nor read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save


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
