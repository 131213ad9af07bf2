"""Which process of a run this is, as torchrun says by the environment; without torch."""

from __future__ import annotations

import os


def world_size() -> int:
    """Return how many processes train one run together.

    Examples
    --------
    >>> world_size()
    1
    """
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    """Return the number of this process among them; 0 runs the loop and writes the log."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0
