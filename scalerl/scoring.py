"""How `scalerl evaluate` and `scalerl check-data` ask for scores: the one place that knows who gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scalerl.config import ScaleRLConfig
from scalerl.tasks import Item, get_task


def score(config: ScaleRLConfig, pairs: Sequence[tuple[Item, str]]) -> list[bool]:
    """Return which completions are right.

    Examples
    --------
    >>> score(ScaleRLConfig(task="chain"), [({"prompt": "7+3=", "answer": "0"}, "+30#0")])
    [True]
    """
    task = get_task(config.task)
    return [bool(task.score(item, text)) for item, text in pairs]


def answer_of(config: ScaleRLConfig) -> Callable[[str], str | None] | None:
    """Return what finds the answer in a completion, for a vote; None where the task does not say.

    Examples
    --------
    >>> answer_of(ScaleRLConfig(task="chain"))("+30#0")
    '0'
    """
    found: Callable[[str], str | None] | None = getattr(get_task(config.task), "answer", None)
    return found
