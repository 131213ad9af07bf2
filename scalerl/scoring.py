"""What scores a configuration, in words, and what a completion answers, for a vote among completions."""

from __future__ import annotations

from collections.abc import Callable

from scalerl.config import ScaleRLConfig
from scalerl.tasks import get_task


def scored_by(config: ScaleRLConfig) -> str:
    """Return what scores completions; a task that was not asked for must not score in silence.

    Examples
    --------
    >>> scored_by(ScaleRLConfig()), scored_by(ScaleRLConfig(reward="math"))
    ('task chain (no reward set)', 'reward math')
    """
    return f"task {config.task} (no reward set)" if config.reward is None else f"reward {config.reward}"


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
