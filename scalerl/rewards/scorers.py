"""Who scores for a configuration: this process, or workers beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scalerl.rewards.names import refuse_unknown
from scalerl.rewards.scores import Score, Scorer, after_thinking, as_score, message_of

if TYPE_CHECKING:
    from scalerl.config import ScaleRLConfig

    Judge = Callable[[Mapping[str, Any], str], Any]

INLINE_TASKS = ("addition", "chain", "long-chain")  # so cheap that handing them over would cost more


class Inline:
    """Score in this process, when the scores are asked for.

    Parameters
    ----------
    judge : callable of (item, completion)

    Examples
    --------
    >>> scorer = Inline(lambda item, text: item["answer"] == text)
    >>> scorer.submit(7, {"answer": "3"}, "3")
    >>> scorer.take([7])[0].right
    True
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._waiting: dict[int, tuple[Mapping[str, Any], str]] = {}

    def submit(self, number: int, item: Mapping[str, Any], text: str) -> None:
        """Keep a completion until its score is asked for."""
        self._waiting[number] = item, text

    def take(self, numbers: Iterable[int]) -> list[Score]:
        """Return the scores of submitted completions."""
        return self.score([self._waiting.pop(number) for number in numbers])

    def score(self, pairs: Sequence[tuple[Mapping[str, Any], str]]) -> list[Score]:
        """Return the scores of (item, completion) pairs."""
        return [self._one(item, text) for item, text in pairs]

    def _one(self, item: Mapping[str, Any], text: str) -> Score:
        try:
            return as_score(self._judge(item, text))
        except Exception as error:  # as with workers, it costs this completion its score and nothing else
            return Score(0.0, message_of(error))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Nothing works meanwhile anyway."""
        yield

    def close(self) -> None:
        """Nothing is held."""


def scored_here(config: ScaleRLConfig) -> bool:
    """Return whether this process scores; workers do all else, under `reward_time_limit_s`."""
    return config.reward == "exact" or (config.reward is None and config.task in INLINE_TASKS)


def make_scorer(config: ScaleRLConfig) -> Scorer:
    """Return what scores for a configuration; close it after use.

    Raises
    ------
    UserError
        If there is no such reward, or its module, function or package cannot be loaded.
    """
    from scalerl.tasks import get_task

    if config.reward is not None:
        refuse_unknown(config.reward)
    if scored_here(config):
        if config.reward is None:
            return Inline(get_task(config.task).score)
        from scalerl.rewards import exact

        return Inline(lambda item, text: exact.score(item, after_thinking(text, config.end_of_thinking)))
    from scalerl.rewards.hand import Spec
    from scalerl.rewards.pool import Pool

    return Pool(
        Spec(
            reward=config.reward,
            task=config.task,
            path=config.reward_path or ".",
            end_of_thinking=config.end_of_thinking,
            memory_gb=config.reward_memory_gb,
            time_limit_s=config.reward_time_limit_s,
            allow_network=config.reward_allow_network,
        ),
        workers=config.reward_workers,
    )
