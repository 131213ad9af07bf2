"""Score in worker processes, while the training thread goes on with its own work."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from scalerl.rewards.hand import Hand, Spec
from scalerl.rewards.scores import LONGEST_MESSAGE, Score
from scalerl.runlog import UserError


class Job(NamedTuple):
    """A completion to judge, under a number of the trainer's or a negative one of our own."""

    ticket: int
    item: Mapping[str, Any]
    text: str


class Pool:
    """Judge completions in worker processes, one thread here a worker.

    Starts one worker and waits until it has found its judge; the others start when there is work.

    Parameters
    ----------
    spec : Spec
    workers : int

    Raises
    ------
    UserError
        If the judge cannot be found or loaded.
    """

    def __init__(self, spec: Spec, *, workers: int) -> None:
        self._changed = threading.Condition()
        self._numbered: deque[Job] = deque()
        self._pairs: deque[Job] = deque()
        self._awaited: set[int] = set()
        self._scores: dict[int, Score] = {}
        self._tickets = itertools.count(1)
        self._apart = False
        self._closed = False
        self._hands = [Hand(spec, lambda: self._closed) for _ in range(workers)]
        said = self._hands[0].start()
        mark = said.get("end_of_thinking")
        if spec.reward is not None and mark is not None and mark != spec.end_of_thinking:
            self._hands[0].end()
            raise UserError(
                f"reward: {spec.reward} ends its thinking with {mark!r}, and end_of_thinking is "
                f"{spec.end_of_thinking!r}; make them equal"
            )
        self._threads = [threading.Thread(target=self._work, args=(hand,), daemon=True) for hand in self._hands]
        for thread in self._threads:
            thread.start()

    def submit(self, number: int, item: Mapping[str, Any], text: str) -> None:
        """Hand over a completion."""
        with self._changed:
            self._numbered.append(Job(number, item, text))
            self._awaited.add(number)
            self._changed.notify_all()

    def take(self, numbers: Iterable[int]) -> list[Score]:
        """Return the scores of submitted completions; wait for those that are missing.

        Raises
        ------
        KeyError
            If one was never submitted.
        """
        return [self._take(number) for number in numbers]

    def _take(self, number: int) -> Score:
        with self._changed:
            self._awaited.remove(number)  # KeyError: it was never submitted, and waiting would not end
            self._changed.wait_for(lambda: number in self._scores)
            return self._scores.pop(number)

    def score(self, pairs: Sequence[tuple[Mapping[str, Any], str]]) -> list[Score]:
        """Return the scores of (item, completion) pairs."""
        tickets = [-next(self._tickets) for _ in pairs]
        with self._changed:
            self._awaited.update(tickets)
            self._pairs += [Job(ticket, *pair) for ticket, pair in zip(tickets, pairs, strict=True)]
            self._changed.notify_all()
        return self.take(tickets)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """While entered, what was submitted by number is not begun."""
        with self._changed:
            self._apart = True
        try:
            yield
        finally:
            with self._changed:
                self._apart = False
                self._changed.notify_all()

    def close(self) -> None:
        """End the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, hand: Hand) -> None:
        while (job := self._next()) is not None:
            try:
                score = hand.ask(dict(job.item), job.text)
            except Exception as error:  # whatever it is, the training must not wait for ever
                score = Score(0.0, f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE])
            with self._changed:
                self._scores[job.ticket] = score
                self._changed.notify_all()
        hand.end()

    def _next(self) -> Job | None:
        """Return the next job, or None when there will be none."""
        with self._changed:
            while not self._closed:
                if self._pairs:
                    return self._pairs.popleft()
                if self._numbered and not self._apart:
                    return self._numbered.popleft()
                self._changed.wait()
        return None
