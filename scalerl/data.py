"""Prompts on disk: prepared once into a finite pool, walked in epochs without replacement."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.preparing.columns import REASONS
from scalerl.preparing.readers import SUFFIXES, DataError, Twice, as_object, find_sources, read_rows
from scalerl.runlog import UserError, read_regular, write_json
from scalerl.tasks import Item, get_task

SPLITS = ("train", "eval", "test")
UNREAD = frozenset({"thinking", "solution", "difficulty"})  # columns that no reward is given, and no hash covers
ROW_SUFFIXES = tuple(suffix for suffix, kind in SUFFIXES.items() if kind != "json")
MOST_REPEATS = 1000  # so many prompts drawn in a row that were drawn before: there are hardly any others


class DataSet(NamedTuple):
    """Items of one file and the hash of their prompts and answers."""

    path: str
    items: list[Item]
    sha256: str
    dropped: int = 0
    """Items left out because their prompts are over the token budget."""


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


def load_data(path: str | os.PathLike[str], *, limit: int | None = None, repeats: bool = False) -> DataSet:
    """Read items with ``prompt`` and ``answer``, and whatever columns they have beside these.

    Parameters
    ----------
    path : path
        A JSON list, JSONL, Parquet, or an Arrow file or a folder that ``datasets.save_to_disk`` wrote.
    limit : int, optional
        Keep so many items from the top; all of them are checked.
    repeats : bool
        Take a prompt more than once, as demonstrations of several ways to one answer have it.

    Raises
    ------
    DataError
        If the file cannot be read, is not such a list, or has a prompt twice; the message names the first item.
    """
    file = Path(path)
    items = _items_of_rows(file) if file.is_dir() or file.suffix.lower() in ROW_SUFFIXES else _items_of_json(file)
    if not isinstance(items, list) or not items:
        raise DataError(f'{path}: expected a list of items, each with "prompt" and "answer"')
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        for key in ("prompt", "answer", "system"):
            value = item.get(key) if isinstance(item, dict) else None
            if key == "system" and (value is None or value == ""):
                continue
            if key == "system" and not isinstance(value, str):
                raise DataError(f"{path}: item {index}: 'system' is no text; give text, or null for none")
            if not isinstance(value, str) or not value:
                raise DataError(f"{path}: item {index}: no text under {key!r}")
            if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise DataError(f"{path}: item {index}: {key!r} holds half a character (a lone surrogate)")
        if item["prompt"] in seen and not repeats:
            raise DataError(f"{path}: item {index} has the prompt of item {seen[item['prompt']]}")
        seen[item["prompt"]] = index
    items = items[:limit]
    return DataSet(str(path), items, hash_items(items))


def _items_of_json(path: Path) -> Any:
    try:
        found = json.loads(read_regular(path), object_pairs_hook=as_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    for index, item in enumerate(found if isinstance(found, list) else []):
        if isinstance(item, Twice):
            raise DataError(f"{path}: item {index}: {REASONS['name_twice']}; scalerl prepare leaves such out")
    return found


def _items_of_rows(path: Path) -> list[Any]:
    sources, _ = find_sources([str(path)])
    items = []
    for source in sources:
        for row in read_rows(source):
            if row.problem:
                raise DataError(f"{source.path}:{row.number}: {REASONS[row.problem]}; scalerl prepare leaves such out")
            if column := _no_json(row.value):
                name, cell = column
                raise DataError(
                    f"{source.path}:{row.number}: column {name!r} holds {type(cell).__name__}, which JSON has not; "
                    "scalerl prepare leaves such cells out"
                )
            items.append(row.value)
    return items


def _no_json(row: Any) -> tuple[str, Any] | None:
    """Return the first column that JSON cannot hold, as bytes and dates in Parquet: no reward could be sent it."""
    for name, cell in row.items() if isinstance(row, dict) else ():
        try:
            json.dumps(cell)
        except (TypeError, ValueError, RecursionError):
            return name, cell
    return None


def encode_prompts(
    data: DataSet, encode: Callable[[Item], tuple[int, ...]], *, prompt_tokens: int, unknown_id: int | None
) -> tuple[DataSet, list[tuple[int, ...]]]:
    """Encode the prompts of a data set; drop those over their token budget.

    Raises
    ------
    DataError
        If some cannot be rendered, are empty or hold text that the tokenizer does not know, or none is left.
    """
    prompts = []
    for index, item in enumerate(data.items):
        try:
            prompts.append(encode(item))
        except UserError as error:
            raise DataError(f"{data.path}: item {index}: {error}") from error
    unread = [index for index, ids in enumerate(prompts) if not ids or (unknown_id is not None and unknown_id in ids)]
    if unread:
        raise DataError(
            f"{data.path}: {len(unread)} of {len(prompts)} prompts are empty or hold text that the tokenizer does "
            f"not know, the first is item {unread[0]}: {data.items[unread[0]]['prompt'][:60]!r}"
        )
    short = [index for index, ids in enumerate(prompts) if len(ids) <= prompt_tokens]
    if not short:
        raise DataError(
            f"{data.path}: all {len(prompts)} prompts are longer than prompt_tokens = {prompt_tokens} tokens"
        )
    if len(short) == len(prompts):
        return data, prompts
    items = [data.items[index] for index in short]
    kept = DataSet(data.path, items, hash_items(items), dropped=len(prompts) - len(short))
    return kept, [prompts[index] for index in short]


def hash_prompts(*sets: Sequence[tuple[int, ...]]) -> str:
    """Return the sha256 of encoded prompts, set by set, as the policy is given them.

    Examples
    --------
    >>> hash_prompts([(1, 2)], [(3,)]) == hash_prompts([(1, 2), (3,)], [])
    False
    """
    digest = hashlib.sha256()
    for prompts in sets:
        digest.update(b"prompts")
        for prompt in prompts:
            digest.update(json.dumps(prompt).encode())
    return digest.hexdigest()


def check_apart(train: DataSet, evaluation: DataSet) -> None:
    """Raise `DataError` if an evaluation prompt is also a train prompt: it would not be held out."""
    train_prompts = {item["prompt"] for item in train.items}
    shared = [item["prompt"] for item in evaluation.items if item["prompt"] in train_prompts]
    if shared:
        raise DataError(
            f"{evaluation.path}: {len(shared)} of {len(evaluation.items)} prompts are in {train.path}, too, "
            f"the first is {shared[0][:60]!r}; evaluate on prompts that are not trained on"
        )


def for_reward(item: Item) -> Item:
    """Return an item as a reward is given it: without demonstration and recorded difficulty, which no hash covers.

    Examples
    --------
    >>> for_reward({"prompt": "1+1=", "answer": "2", "tests": [], "thinking": "well ...", "solution": "2"})
    {'prompt': '1+1=', 'answer': '2', 'tests': []}
    """
    return {key: value for key, value in item.items() if key not in UNREAD}


def hash_items(items: Sequence[Item]) -> str:
    """Return the sha256 of prompts, answers and whatever else a reward may read, in their order.

    Demonstrations and the recorded difficulty are not in it: they can change nothing of a run. A column that is null
    counts as one that is not there, for formats differ in that.
    """
    pairs = []
    for item in items:
        rest = {key: value for key, value in for_reward(item).items() if value is not None}
        pair = [rest.pop("prompt"), rest.pop("answer")]
        pairs.append([*pair, *([rest] if rest else [])])
    return hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).hexdigest()


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
