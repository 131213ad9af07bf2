"""Procedural tasks of the package reasoning-gym: their prompts, and their own scores.

``reasoning-gym:NAME`` draws prompts of one data set and scores by it. As a reward ``reasoning-gym`` alone scores each
item by the data set that its ``metadata`` names, so that a data file may mix them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from scalerl.runlog import UserError
from scalerl.tasks import END_OF_THINKING, INTERRUPTION, Item, split_of

INSTALL = "reward: reasoning-gym is not installed: pip install 'scalerl[gym]'"
NO_ANSWER = "(any that scores)"  # some data sets judge an answer and give none
BLOCK = 256  # items made at a time; a data set of the package is a function of its seed and size


def package() -> Any:
    """Return the package.

    Raises
    ------
    UserError
        If it is not installed.
    """
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise UserError(INSTALL) from error
    return reasoning_gym


@cache
def data_set(name: str, size: int = 1, seed: int = 0) -> Any:
    """Return a data set of the package.

    Raises
    ------
    UserError
        If there is none of that name, or it cannot be made.
    """
    known = package().factory.DATASETS
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(sorted(known)[:8])}, ..."
        raise UserError(f"reasoning-gym has no data set {name!r}{hint}")
    try:
        return package().create_dataset(name, size=size, seed=seed)
    except Exception as error:
        raise UserError(f"reasoning-gym:{name} cannot be made: {type(error).__name__}: {error}") from error


def judge(name: str | None) -> Callable[[Mapping[str, Any], str], float]:
    """Return the score function of a data set, or of whichever an item's metadata names."""
    if name is not None:
        data_set(name)
    else:
        package()

    def score(item: Mapping[str, Any], completion: str) -> float:
        entry = entry_of(item)
        source = name or entry["metadata"].get("source_dataset")
        if not isinstance(source, str):
            raise ValueError("the item's metadata name no source_dataset")
        worth = float(data_set(source).score_answer(completion.strip(), entry))
        return min(1.0, max(0.0, worth))

    return score


def entry_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item as the package made it."""
    metadata = item.get("metadata", {})
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    if not isinstance(metadata, Mapping):
        raise ValueError("the item's metadata are no mapping")
    return {"question": item["prompt"], "answer": item["answer"], "metadata": dict(metadata)}


class GymTask:
    """A data set of reasoning-gym as a task.

    Parameters
    ----------
    name : str
        ``reasoning-gym:NAME``

    Raises
    ------
    UserError
        If the package is missing, or has no such data set.
    """

    end_of_thinking = END_OF_THINKING
    interruption = INTERRUPTION + END_OF_THINKING

    def __init__(self, name: str) -> None:
        self.name = name
        self._source = name.partition(":")[2]
        self._checked = False
        data_set(self._source)

    @property
    def characters(self) -> str:
        """The prompts' characters are not known beforehand, so there is no alphabet for a character tokenizer.

        Raises
        ------
        UserError
            Always.
        """
        raise UserError(f"task: {self.name} has no alphabet of its own; it needs a model with a tokenizer")

    def prompts(self, split: str, seed: int) -> Iterator[Item]:
        """Yield the items of a split; which split a prompt belongs to is a function of its text alone."""
        rng = np.random.default_rng([seed, *split.encode()])
        while True:
            data = package().create_dataset(self._source, size=BLOCK, seed=int(rng.integers(2**31)))
            for entry in data:
                answer = NO_ANSWER if entry["answer"] is None else str(entry["answer"])
                metadata = json.loads(json.dumps(entry["metadata"], default=str))
                item: Any = {"prompt": str(entry["question"]), "answer": answer, "metadata": metadata}
                if not self._checked:
                    self._refuse_what_json_breaks(data, entry, item)
                if split_of(item["prompt"]) == split and answer:
                    yield item

    def _refuse_what_json_breaks(self, data: Any, entry: Any, item: Item) -> None:
        """Raise `UserError` if an item that was written to a file is not what it was: some hold more than JSON can."""
        try:
            before, after = data.score_answer(entry["answer"], entry), judge(self._source)(item, item["answer"])
        except Exception as error:
            raise UserError(
                f"task: {self.name} cannot score its own answer: {type(error).__name__}: {error}"
            ) from error
        same = _lists(entry["metadata"]) == item["metadata"] and (entry["answer"] is None or before == after)
        if not same:
            raise UserError(f"task: {self.name} cannot be used: its items do not survive being written to a file")
        self._checked = True

    def demonstration(self, item: Item, rng: np.random.Generator) -> str:
        """Return the answer; the package shows no way to it."""
        del rng
        return self.end_of_thinking + str(item["answer"])

    def score(self, item: Item, completion: str) -> float:
        """Return the worth of what follows the thinking."""
        return judge(self._source)(item, completion.rpartition(self.end_of_thinking)[2])


def _lists(value: Any) -> Any:
    """Return a value with its tuples made lists, as JSON does; keys that are no text stay what they are."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value
