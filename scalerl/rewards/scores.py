"""What a score is, and what the trainer asks of whoever makes scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

LONGEST_MESSAGE = 300  # characters of an error that are kept


class Score(NamedTuple):
    """The worth of one completion.

    Examples
    --------
    >>> Score(1.0).reward, Score(0.0, "ValueError: no number").reward, Score(0.75).reward
    (1, -1, 0.5)
    """

    value: float
    """0 to 1."""
    error: str | None = None
    """Why there is no true score; the value is 0 then."""

    @property
    def right(self) -> bool:
        """Whether it counts for the pass rate."""
        return self.value == 1

    @property
    def reward(self) -> float:
        """The training reward, -1 to 1."""
        return 1 if self.right else 2 * self.value - 1 if self.value else -1


class Failed(NamedTuple):
    """The scores that failed among others; a reward that is broken must not look like a policy that knows nothing.

    Examples
    --------
    >>> print(Failed.among([Score(1.0), Score(0.0, "ValueError: no\\nnumber"), Score(0.0, "TimeoutError")]))
    2 of 3 scores failed and count as wrong, the first: ValueError: no number
    """

    errors: int
    scores: int
    first: str | None
    """Why, on one line; None where none failed."""

    @classmethod
    def among(cls, scores: Sequence[Score]) -> Failed:
        """Count those of some scores."""
        errors = [score.error for score in scores if score.error is not None]
        return cls(len(errors), len(scores), _one_line(errors[0]) if errors else None)

    def __str__(self) -> str:
        return f"{self.errors} of {self.scores} scores failed and count as wrong, the first: {self.first}"


class Scorer(Protocol):
    """Judge completions, maybe while the training thread does other work."""

    def submit(self, number: int, item: Mapping[str, Any], text: str) -> None:
        """Hand over a completion as soon as it is finished; `number` is its own."""

    def take(self, numbers: Iterable[int]) -> list[Score]:
        """Return the scores of submitted completions, in this order; wait for those that are missing."""

    def score(self, pairs: Sequence[tuple[Mapping[str, Any], str]]) -> list[Score]:
        """Return the scores of (item, completion) pairs, in this order."""

    def apart(self) -> AbstractContextManager[None]:
        """While entered, what was submitted by number waits; evaluations must not work for the training, unbilled."""

    def close(self) -> None:
        """End all that judges."""


def as_score(value: Any) -> Score:
    """Check what a judge returned.

    Examples
    --------
    >>> as_score(True), as_score(0.5)
    (Score(value=1.0, error=None), Score(value=0.5, error=None))
    >>> as_score("yes").error
    "returned 'yes', which is no bool and no number from 0 to 1"
    """
    try:
        number = float(value) if not isinstance(value, str | bytes | bytearray) else math.nan
    except Exception:  # whatever __float__ of a stranger raises
        number = math.nan
    if not 0 <= number <= 1:
        return Score(0.0, f"returned {value!r}"[:100] + ", which is no bool and no number from 0 to 1")
    return Score(number)


def message_of(error: BaseException) -> str:
    """Return what is kept of an exception that a judge raised."""
    try:
        return f"{type(error).__name__}: {error}".strip().removesuffix(":")[:LONGEST_MESSAGE]
    except BaseException:  # a stranger's __str__
        return type(error).__name__[:LONGEST_MESSAGE]


def after_thinking(completion: str, end_of_thinking: str) -> str:
    """Return what follows the last end of thinking; all of it where there is none.

    Examples
    --------
    >>> after_thinking("3 + 4, or </think> no </think>7", "</think>")
    '7'
    >>> after_thinking("7", "</think>")
    '7'
    """
    return completion.rpartition(end_of_thinking)[2]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
