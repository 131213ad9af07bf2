"""Who may be generated when, and when an update is made: on-policy, PPO-off-policy-k and PipelineRL-k in one place.

Pure Python. Completions are numbered from 0; completion c belongs to group ``c // G`` (one prompt), and the groups of
a batch follow one another, P of them: while P stays what it is, group g belongs to batch ``g // P``. Batch u is
trained when u updates have been made. Batches go by number, never by who finishes first, so that nothing is dropped
and short completions are not favoured.

P may change while a run goes on (`resize`). A batch keeps the size that it began with, so a completion never moves
to another batch once it has started, and what follows about its lag holds for any sequence of sizes.

Lag of a token = its batch's number - the number of updates made when it was sampled. A completion may start only
where that is at most k; later tokens of it only lag less. k = 0 is the on-policy scheme.

The paper (arXiv 2510.13786) names the schemes; the rules are ours where it leaves them open.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Schedule:
    """Admit completions into slots and say when the next update fires.

    Parameters
    ----------
    prompts, generations : int
        P prompts an update, of batches that have not begun, and G completions a prompt.
    slots : int
        Completions in work at once.
    k : int
        Largest lag, in updates ("pipeline"), or batches generated with one policy ("ppo", at least 1).
    scheme : {"pipeline", "ppo"}
        PipelineRL-k streams. PPO-off-policy-k generates k batches with one policy and then makes k updates.
    lead : {"full", "eager"}
        When a PipelineRL update fires, once its batch is complete: as late as the lag allows, so that k is really the
        lag, or at once.

    Examples
    --------
    >>> schedule = Schedule(prompts=1, generations=2, slots=2, k=1)
    >>> list(schedule.admit()), list(schedule.admit())
    ([0, 1], [])
    >>> schedule.finished([0, 1])
    >>> schedule.next_batch()                  # complete, but there is room to run ahead
    >>> list(schedule.admit())
    [2, 3]
    >>> schedule.finished([2])
    >>> schedule.next_batch()                  # a slot is free and nothing more may start
    range(0, 2)
    """

    prompts: int
    generations: int
    slots: int
    k: int = 0
    scheme: str = "pipeline"
    lead: str = "full"
    version: int = 0
    """Updates made."""
    admitted: int = 0
    """Completions started so far; they start in the order of their numbers."""
    closed: bool = False
    """Whether there are no more prompts."""
    first: int = 0
    """Number of the first completion of the next batch to train."""
    ends: list[int] = field(default_factory=list)
    """Where each batch that has begun and is not trained yet ends, that next one first."""
    complete: dict[int, int] = field(default_factory=dict)
    """Finished completions of each batch that is not trained yet."""

    @property
    def batch_size(self) -> int:
        """Completions of a batch that has not begun."""
        return self.prompts * self.generations

    @property
    def in_flight(self) -> int:
        """Completions started and not finished."""
        return self.admitted - self.first - sum(self.complete.values())

    @property
    def limit(self) -> int:
        """Number of the first completion that may not start yet."""
        in_blocks = self.scheme == "ppo"
        batches = (self.version // self.k + 1) * self.k if in_blocks else self.version + self.k + 1
        return self._end(batches - 1)

    @property
    def over(self) -> bool:
        """Whether the next batch can never be complete."""
        return self.closed and self.admitted < self._end(self.version)

    def resize(self, prompts: int) -> None:
        """Give batches that have not begun another number of prompts."""
        self.prompts = prompts

    def admit(self) -> range:
        """Start completions: as many as slots and lag allow; return their numbers."""
        if self.closed:
            return range(0)
        first = self.admitted
        self.admitted = max(first, min(self.limit, first + self.slots - self.in_flight))
        self._begin()
        return range(first, self.admitted)

    def close(self, first: int) -> None:
        """Take back the completions from number `first` on: there is no prompt for them, now or later."""
        self.admitted, self.closed = first, True

    def finished(self, numbers: Iterable[int]) -> None:
        """Note completions that are done."""
        for number in numbers:
            batch = self.version + bisect_right(self.ends, number)
            self.complete[batch] = self.complete.get(batch, 0) + 1

    def next_batch(self) -> range | None:
        """Return the numbers of the completions to train on now, or None if no update fires yet."""
        last = self._last_needed()
        if any(self.complete.get(batch, 0) < self._size(batch) for batch in range(self.version, last + 1)):
            return None
        blocked = self.in_flight < self.slots and (self.closed or self.admitted == self.limit)
        if self.scheme == "pipeline" and self.lead == "full" and not blocked:
            return None
        return range(self.first, self._end(self.version))

    def updated(self) -> None:
        """Note that the update on the next batch was made."""
        self.complete.pop(self.version)
        self.first = self.ends.pop(0)
        self.version += 1

    def _last_needed(self) -> int:
        """Return the last batch that must be complete before the next update."""
        if self.scheme == "pipeline" or self.version % self.k:
            return self.version
        last = self.version + self.k - 1
        # When the prompts have run out the block may be a shorter one: it ends with the last batch that is whole.
        whole = self.version + bisect_right(self.ends, self.admitted) - 1
        return max(self.version, min(last, whole)) if self.closed else last

    def _begin(self) -> None:
        """Fix the size of every batch that a completion was started for."""
        while (self.ends[-1] if self.ends else self.first) < self.admitted:
            self.ends.append(self._end(self.version + len(self.ends)))

    def _end(self, batch: int) -> int:
        """Return the number of the first completion behind a batch that is not trained yet, begun or not."""
        begun = batch - self.version
        if begun < len(self.ends):
            return self.ends[begun]
        last = self.ends[-1] if self.ends else self.first
        return last + (begun - len(self.ends) + 1) * self.batch_size

    def _size(self, batch: int) -> int:
        """Return the completions of a batch that is not trained yet."""
        return self._end(batch) - (self._end(batch - 1) if batch > self.version else self.first)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        names = ("version", "admitted", "closed", "complete", "prompts", "first", "ends")
        return {name: value for name, value in asdict(self).items() if name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a kept state."""
        self.version, self.admitted, self.closed = state["version"], state["admitted"], state["closed"]
        self.complete = {int(batch): count for batch, count in state["complete"].items()}
        self.prompts = state.get("prompts", self.prompts)
        self.first = state.get(
            "first", self.version * self.batch_size
        )  # of a checkpoint from before sizes could change
        self.ends = list(state.get("ends", []))
        self._begin()
