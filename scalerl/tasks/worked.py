"""What tasks with a worked solution share: the answer stands behind a mark and is compared to the last character."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from scalerl.tasks import Item, split_of


class WorkedTask(ABC):
    """A task whose completions are steps, then ``#``, then an answer; a subclass draws prompts and works them out."""

    name: str
    characters: str
    end_of_thinking = interruption = "#"
    slip: float
    """Share of the steps in which a demonstration goes wrong and goes on from there."""

    @abstractmethod
    def draw(self, split: str, rng: np.random.Generator) -> str:
        """Return a prompt; the warm-up's may be easier than the others'."""

    @abstractmethod
    def work_out(self, prompt: str, slip: float = 0.0, rng: np.random.Generator | None = None) -> tuple[str, str]:
        """Return steps and answer; with `rng`, a step goes wrong with probability `slip`."""

    def prompts(self, split: str, seed: int) -> Iterator[Item]:
        """Yield items of a split without end."""
        rng = np.random.default_rng([seed, *split.encode()])
        while True:
            prompt = self.draw(split, rng)
            if split_of(prompt) == split:
                thinking, answer = self.work_out(prompt)
                solution = self.end_of_thinking + answer
                yield {"prompt": prompt, "thinking": thinking, "solution": solution, "answer": answer}

    def demonstration(self, item: Item, rng: np.random.Generator) -> str:
        """Return a worked solution with slips: the procedure is shown, the arithmetic only mostly."""
        thinking, answer = self.work_out(item["prompt"], slip=self.slip, rng=rng)
        return thinking + self.end_of_thinking + answer

    def score(self, item: Item, completion: str) -> bool:
        """Return whether what follows the first mark is the answer, to the last character."""
        return self.answer(completion) == str(item["answer"])

    def answer(self, completion: str) -> str | None:
        """Return what follows the first mark, or None without one."""
        _, mark, answer = completion.partition(self.end_of_thinking)
        return answer if mark else None
