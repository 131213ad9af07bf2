"""How `scalerl evaluate` and `scalerl check-data` ask for scores: the one place that knows who gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from scalerl.config import ScaleRLConfig
from scalerl.rewards import Score, make_scorer
from scalerl.tasks import Item, get_task


def score(config: ScaleRLConfig, pairs: Sequence[tuple[Item, str]]) -> list[Score]:
    """Return the score of each completion.

    Examples
    --------
    >>> [given.right for given in score(ScaleRLConfig(task="chain"), [({"prompt": "7+3=", "answer": "0"}, "+30#0")])]
    [True]
    """
    with closing(make_scorer(config)) as scorer:
        return scorer.score(pairs)


def answer_of(config: ScaleRLConfig) -> Callable[[str], str | None] | None:
    """Return what finds the answer in a completion, for a vote; None where the task, or a `reward`, does not say.

    Examples
    --------
    >>> answer_of(ScaleRLConfig(task="chain"))("+30#0")
    '0'
    """
    if config.reward is not None:
        return None
    found: Callable[[str], str | None] | None = getattr(get_task(config.task), "answer", None)
    return found
