"""Prompts on disk: prepared once into a finite pool, walked in epochs without replacement."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalerl.runlog import UserError, read_regular, write_json
from scalerl.tasks import Item, get_task

SPLITS = ("train", "eval", "test")
MOST_REPEATS = 1000  # so many prompts drawn in a row that were drawn before: there are hardly any others


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
        If one of the files exists already, or the task has not so many distinct prompts.
    """
    task, folder = get_task(task_name), Path(output)
    if min(sizes) < 1 or seed < 0:
        raise DataError(f"--sizes {' '.join(map(str, sizes))} --seed {seed}: sizes start at 1 and seeds at 0")
    taken = [str(folder / f"{split}.json") for split in SPLITS if (folder / f"{split}.json").exists()]
    if taken:
        raise DataError(f"{', '.join(taken)}: exists already; choose another --output or move it away")
    drawn = {split: _distinct(task.prompts(split, seed), size) for split, size in zip(SPLITS, sizes, strict=True)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, items in drawn.items():
            write_json(folder / f"{split}.json", items)
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
        items = json.loads(read_regular(path))
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
            if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise DataError(f"{path}: item {index}: {key!r} holds half a character (a lone surrogate)")
        if item["prompt"] in seen:
            raise DataError(f"{path}: item {index} has the prompt of item {seen[item['prompt']]}")
        seen[item["prompt"]] = index
    items = items[:limit]
    pairs = [[item["prompt"], item["answer"]] for item in items]
    return DataSet(str(path), items, hashlib.sha256(json.dumps(pairs).encode()).hexdigest())


def check_prompts(
    data: DataSet, prompts: Sequence[tuple[int, ...]], *, prompt_tokens: int, unknown_id: int | None
) -> None:
    """Check the encoded prompts of a data set.

    Raises
    ------
    DataError
        If some are empty, longer than their budget, or hold text that the tokenizer does not know.
    """
    unread = [index for index, ids in enumerate(prompts) if unknown_id is not None and unknown_id in ids]
    if unread:
        raise DataError(
            f"{data.path}: {len(unread)} of {len(prompts)} prompts hold characters that the tokenizer does not know, "
            f"the first is item {unread[0]}: {data.items[unread[0]]['prompt'][:60]!r}"
        )
    long = [index for index, ids in enumerate(prompts) if not 0 < len(ids) <= prompt_tokens]
    if long:
        raise DataError(
            f"{data.path}: {len(long)} of {len(prompts)} prompts do not have 1 to prompt_tokens = {prompt_tokens} "
            f"tokens, the first is item {long[0]} with {len(prompts[long[0]])}"
        )


def check_apart(train: DataSet, evaluation: DataSet) -> None:
    """Raise `DataError` if an evaluation prompt is also a train prompt: it would not be held out."""
    train_prompts = {item["prompt"] for item in train.items}
    shared = [item["prompt"] for item in evaluation.items if item["prompt"] in train_prompts]
    if shared:
        raise DataError(
            f"{evaluation.path}: {len(shared)} of {len(evaluation.items)} prompts are in {train.path}, too, "
            f"the first is {shared[0][:60]!r}; evaluate on prompts that are not trained on"
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


def _distinct(items: Iterator[Item], size: int) -> list[Item]:
    chosen: dict[str, Item] = {}
    repeats = 0
    while len(chosen) < size:
        item = next(items)
        repeats = repeats + 1 if item["prompt"] in chosen else 0
        if repeats > MOST_REPEATS:
            raise DataError(f"--sizes: the task has not many more than {len(chosen)} distinct prompts; ask for fewer")
        chosen.setdefault(item["prompt"], item)
    return list(chosen.values())
