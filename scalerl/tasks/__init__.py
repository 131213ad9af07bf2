"""Tasks: prompts with answers that a program can check.

A task is a small object (see `Task`). Training and evaluation see nothing of a task but its items and scores, so
a new one is a new file here and a line in `TASKS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from scalerl.runlog import UserError

if TYPE_CHECKING:
    from scalerl.config import ScaleRLConfig

Item = Mapping[str, Any]
"""``prompt`` and ``answer``, both text; demonstrations for the warm-up also have ``thinking`` and ``solution``. Further
columns of a data set hold whatever JSON can."""

END_OF_THINKING = "</think>"
INTERRUPTION = "Okay, time is up. Let me stop thinking and formulate a final answer "
"""What is forced in front of the end of the thinking (arXiv 2510.13786)."""

# A prompt belongs to the split that its own text hashes to, so splits are disjoint for any seeds and any sizes.
SPLIT_SHARES = {"warmup": 40, "train": 40, "eval": 10, "test": 10}


class Thinking(Protocol):
    """What generation must know: where thinking ends."""

    @property
    def end_of_thinking(self) -> str:
        """Text that ends the thinking part of a completion; found by content, never by position."""

    @property
    def interruption(self) -> str:
        """Text that is forced on a completion whose thinking budget is used up; it holds `end_of_thinking`."""


class Marks(NamedTuple):
    """Where thinking ends when a reward is set."""

    end_of_thinking: str
    interruption: str


class Task(Protocol):
    """What the trainer asks of a task."""

    name: str
    characters: str
    """Every character that prompts and completions use, for the character tokenizer."""
    end_of_thinking: str
    """Text that ends the thinking part of a completion; found by content, never by position."""
    interruption: str
    """Text that is forced on a completion whose thinking budget is used up; it holds `end_of_thinking`."""

    def prompts(self, split: str, seed: int) -> Iterator[Item]:
        """Yield the items of a split in an order drawn from the seed, without end, possibly repeating."""
        ...

    def demonstration(self, item: Item, rng: np.random.Generator) -> str:
        """Return a completion to imitate in the warm-up."""
        ...

    def score(self, item: Item, completion: str) -> bool | float:
        """Return whether the completion is right, or its worth from 0 to 1; 1 is right."""
        ...


def completion_of(item: Item, mark: str) -> str | None:
    """Return the completion that an item demonstrates: its thinking, the mark that ends it, its solution.

    Parameters
    ----------
    item : mapping
    mark : str
        Not doubled where the solution begins with it.

    Returns
    -------
    str or None
        The solution alone where there is no thinking; None where there is no solution.

    Examples
    --------
    >>> completion_of({"thinking": "3 + 4", "solution": "7"}, "</think>"), completion_of({"solution": "7"}, "</think>")
    ('3 + 4</think>7', '7')
    """
    thinking, solution = item.get("thinking"), item.get("solution")
    if not isinstance(solution, str) or not solution:
        return None
    if not isinstance(thinking, str) or not thinking:
        return solution
    return thinking + ("" if solution.startswith(mark) else mark) + solution


def split_of(prompt: str) -> str:
    """Return the split that a prompt belongs to: a function of its text alone.

    Examples
    --------
    >>> {split_of(f"{a}+{b}=") for a in range(10) for b in range(10)} == set(SPLIT_SHARES)
    True
    """
    bucket = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") % 100
    for split, share in SPLIT_SHARES.items():
        bucket -= share
        if bucket < 0:
            return split
    raise AssertionError("the split shares add up to 100")


def get_task(name: str) -> Task:
    """Return the task of that name: one of ours, ``reasoning-gym:NAME``, or an entry point of group ``scalerl.tasks``.

    Raises
    ------
    UserError
        If there is none; the message lists the tasks.
    """
    from scalerl.rewards.names import GYM, load_plugin, plugins
    from scalerl.tasks.addition import Addition
    from scalerl.tasks.chain import Chain, LongChain

    tasks: dict[str, Task] = {task.name: task for task in (Chain(), LongChain(), Addition())}
    if name in tasks:
        return tasks[name]
    if name.startswith(f"{GYM}:"):
        from scalerl.rewards.gym import GymTask

        return cast("Task", GymTask(name))
    others = plugins()
    if name in others:
        return cast("Task", load_plugin(name))
    known = ", ".join([*sorted({*tasks, *others}), f"{GYM}:NAME"])
    raise UserError(f"task: there is no task {name!r}; there are {known}")


def thinking_of(config: ScaleRLConfig) -> Thinking:
    """Return where thinking ends in a configuration: by its task, or with a reward by `end_of_thinking`."""
    if config.reward is None:
        return get_task(config.task)
    return Marks(config.end_of_thinking, INTERRUPTION + config.end_of_thinking)
