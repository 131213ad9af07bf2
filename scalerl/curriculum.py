"""Which prompt is drawn next: epochs without replacement, without the prompts that are solved.

No-Positive-Resampling (ScaleRL, section 3.2): every prompt keeps the pass rates of its visits; once one reaches the
threshold the prompt is never drawn again. Completions of it that are in work then still train.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class PromptPool:
    """Draw prompts from a finite pool: a new permutation every epoch, a function of the seed alone.

    Parameters
    ----------
    size : int
        Prompts in the pool.
    seed : int
    threshold : float, optional
        Pass rate of a visit from which on a prompt is retired; None samples uniformly for ever.

    Examples
    --------
    >>> pool = PromptPool(size=3, seed=0, threshold=0.9)
    >>> first = [pool.draw() for _ in range(3)]
    >>> sorted(first)
    [0, 1, 2]
    >>> pool.record(first[0], correct=16, count=16)
    >>> sorted([pool.draw(), pool.draw()]) == sorted(first[1:])
    True
    """

    def __init__(self, size: int, seed: int, threshold: float | None = None) -> None:
        self.size, self.seed, self.threshold = size, seed, threshold
        self.place = 0
        """Draws looked at, over all epochs, retired prompts passed over included."""
        self.history: dict[int, list[tuple[int, int]]] = {}
        """Of each visited prompt, the correct and all completions of every visit."""
        self.retired: set[int] = set()
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    @property
    def epoch(self) -> float:
        """Passes over the pool so far."""
        return self.place / self.size

    @property
    def active(self) -> int:
        """Prompts that may still be drawn."""
        return self.size - len(self.retired)

    def draw(self) -> int | None:
        """Return the index of the next prompt, or None if all are retired."""
        if not self.active:
            return None
        while True:
            epoch, place = divmod(self.place, self.size)
            if epoch != self._epoch:
                self._epoch, self._permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
            self.place += 1
            index = int(self._permutation[place])
            if index not in self.retired:
                return index

    def record(self, index: int, *, correct: int, count: int) -> None:
        """Add a visit to a prompt's history, and retire the prompt if it is solved."""
        self.history.setdefault(index, []).append((correct, count))
        if self.threshold is not None and correct / count >= self.threshold:
            self.retired.add(index)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"place": self.place, "history": {index: list(visits) for index, visits in self.history.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a kept state."""
        self.place, self.history, self.retired = state["place"], {}, set()
        for index, visits in state["history"].items():
            for correct, count in visits:
                self.record(int(index), correct=correct, count=count)
