"""Chain arithmetic: work out every running value of a chain of operations, modulo 10.

The prompt ``7+3*4-2=`` asks for the completion ``+30*40-28#008``: for each step the operator, the digit and the
running value, then ``#`` and all running values again. The whole list is compared, so a chain of K steps cannot be
guessed (10^K answers). Chains that can be guessed make a policy drop the reasoning (see LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalerl.tasks import Item, split_of

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


class Chain:
    """Chains of 4 to 10 steps; the warm-up shows 4 to 8 only, so two lengths are never demonstrated.

    Examples
    --------
    >>> Chain().score({"prompt": "7+3*4-2=", "answer": "008"}, "+30*40-28#008")
    True
    """

    name = "chain"
    characters = "0123456789+-*=#"
    end_of_thinking = "#"
    steps = (4, 10)
    warmup_steps = (4, 8)
    slip = 0.3
    """Share of running values that a demonstration replaces by a random digit and goes on from."""

    def prompts(self, split: str, seed: int) -> Iterator[Item]:
        """Yield items of a split without end."""
        rng = np.random.default_rng([seed, *split.encode()])
        low, high = self.warmup_steps if split == "warmup" else self.steps
        while True:
            steps = int(rng.integers(low, high + 1))
            digits = rng.integers(0, 10, steps + 1)
            operators = rng.choice(list(OPERATIONS), steps)
            prompt = f"{digits[0]}" + "".join(f"{o}{d}" for o, d in zip(operators, digits[1:], strict=True)) + "="
            if split_of(prompt) == split:
                thinking, answer = _work_out(prompt)
                yield {"prompt": prompt, "thinking": thinking, "solution": f"#{answer}", "answer": answer}

    def demonstration(self, item: Item, rng: np.random.Generator) -> str:
        """Return a worked chain with slips: the procedure is shown, the arithmetic only mostly."""
        thinking, answer = _work_out(item["prompt"], slip=self.slip, rng=rng)
        return f"{thinking}#{answer}"

    def score(self, item: Item, completion: str) -> bool:
        """Return whether what follows the first ``#`` is the list of running values, to the last character."""
        _, mark, answer = completion.partition(self.end_of_thinking)
        return bool(mark) and answer == item["answer"]


def _work_out(prompt: str, slip: float = 0.0, rng: np.random.Generator | None = None) -> tuple[str, str]:
    value = int(prompt[0])
    thinking, values = "", ""
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        value = OPERATIONS[operator](value, int(digit)) % 10
        if rng is not None and rng.random() < slip:
            value = int(rng.integers(0, 10))
        thinking += f"{operator}{digit}{value}"
        values += str(value)
    return thinking, values
