"""Which process of a run this is, as torchrun says by the environment; without torch."""

from __future__ import annotations

import os

from scalerl.runlog import UserError


def world_size() -> int:
    """Return how many processes train one run together.

    Raises
    ------
    UserError
        From this and the others, if a variable holds what torchrun would not set.

    Examples
    --------
    >>> world_size()
    1
    """
    return _number("WORLD_SIZE", 1) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    """Return the number of this process among them; 0 runs the loop and writes the log."""
    return _number("RANK", 0, world_size() - 1) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine, and so of its GPU."""
    return _number("LOCAL_RANK", 0) if world_size() > 1 and "LOCAL_RANK" in os.environ else 0


def local_world_size() -> int:
    """Return how many processes of a learner are on this node."""
    return _number("LOCAL_WORLD_SIZE", 1) if world_size() > 1 and "LOCAL_WORLD_SIZE" in os.environ else 1


def meeting_place() -> tuple[str, int]:
    """Return host and port where the processes meet."""
    return os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0, 65535)


def _number(name: str, least: int, most: int | None = None) -> int:
    """Return what a variable holds."""
    text = os.environ.get(name, "")
    if not (text.isdecimal() and least <= int(text) and (most is None or int(text) <= most)):
        upto = "" if most is None else f" to {most}"
        raise UserError(
            f"{name}: {text!r} is not a whole number from {least}{upto}; torchrun sets it: start several processes "
            "with it, or unset RANK and WORLD_SIZE to train in one"
        )
    return int(text)
