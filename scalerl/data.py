"""Prompts on disk: prepared once into a finite pool, walked in epochs without replacement."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalerl.runlog import UserError, write_json
from scalerl.tasks import Item, get_task

SPLITS = ("train", "eval", "test")


class DataError(UserError):
    """A data file that cannot be used."""


class DataSet(NamedTuple):
    """Items of one file and the hash of their prompts and answers."""

    path: str
    items: list[Item]
    sha256: str


def prepare(task_name: str, output: str, *, sizes: Sequence[int] = (1500, 256, 256), seed: int = 0) -> dict[str, int]:
    """Write ``train.json``, ``eval.json`` and ``test.json`` with distinct prompts of a task; return their sizes.

    Raises
    ------
    DataError
        If one of the files exists already.
    """
    task, folder = get_task(task_name), Path(output)
    taken = [str(folder / f"{split}.json") for split in SPLITS if (folder / f"{split}.json").exists()]
    if taken:
        raise DataError(f"{', '.join(taken)}: exists already; choose another --output or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, size in zip(SPLITS, sizes, strict=True):
            write_json(folder / f"{split}.json", _distinct(task.prompts(split, seed), size))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from error
    return dict(zip(SPLITS, sizes, strict=True))


def load_data(path: str | os.PathLike[str], *, limit: int | None = None) -> DataSet:
    """Read a JSON list of items with ``prompt`` and ``answer``.

    Raises
    ------
    DataError
        If the file cannot be read, is not such a list, or has a prompt twice; the message names the first item.
    """
    try:
        items = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(items, list) or not items:
        raise DataError(f'{path}: expected a list of items, each with "prompt" and "answer"')
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        for key in ("prompt", "answer"):
            value = item.get(key) if isinstance(item, dict) else None
            if not isinstance(value, str) or not value:
                raise DataError(f"{path}: item {index}: no text under {key!r}")
        if item["prompt"] in seen:
            raise DataError(f"{path}: item {index} has the prompt of item {seen[item['prompt']]}")
        seen[item["prompt"]] = index
    items = items[:limit]
    pairs = [[item["prompt"], item["answer"]] for item in items]
    return DataSet(str(path), items, hashlib.sha256(json.dumps(pairs).encode()).hexdigest())


def check_lengths(data: DataSet, prompts: Sequence[tuple[int, ...]], prompt_tokens: int) -> None:
    """Raise `DataError` if an encoded prompt is empty or longer than its budget, with the number that are."""
    long = [index for index, ids in enumerate(prompts) if not 0 < len(ids) <= prompt_tokens]
    if long:
        raise DataError(
            f"{data.path}: {len(long)} of {len(prompts)} prompts do not have 1 to prompt_tokens = {prompt_tokens} "
            f"tokens, the first is item {long[0]} with {len(prompts[long[0]])}"
        )


class PromptOrder:
    """The order in which train prompts are drawn: a new permutation every epoch, a function of the seed alone.

    Examples
    --------
    >>> order = PromptOrder(size=5, seed=0)
    >>> sorted(order[i] for i in range(5, 10))
    [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def __getitem__(self, draw: int) -> int:
        """Return the index of the prompt of that draw, counted from 0 over all epochs."""
        epoch, place = divmod(draw, self.size)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return int(self._permutation[place])


def _distinct(items: object, size: int) -> list[Item]:
    chosen: dict[str, Item] = {}
    for item in items:  # type: ignore[attr-defined]
        chosen.setdefault(item["prompt"], item)
        if len(chosen) == size:
            break
    return list(chosen.values())
