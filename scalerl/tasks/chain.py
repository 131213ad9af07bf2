"""Chain arithmetic: work out every running value of a chain of operations, modulo 10.

The prompt ``7+3*4-2=`` asks for the completion ``+30*40-28#008``: for each step the operator, the digit and the
running value, then ``#`` and all running values again. The whole list is compared, so a chain of K steps cannot be
guessed (10^K answers). Chains that can be guessed make a policy drop the reasoning (see LOG.md).
"""

from __future__ import annotations

import numpy as np

from scalerl.tasks.worked import WorkedTask

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


class Chain(WorkedTask):
    """Chains of 4 to 10 steps; the warm-up shows 4 to 8 only, so two lengths are never demonstrated.

    Examples
    --------
    >>> Chain().score({"prompt": "7+3*4-2=", "answer": "008"}, "+30*40-28#008")
    True
    """

    name = "chain"
    characters = "0123456789+-*=#"
    slip = 0.3
    steps = (4, 10)
    warmup_steps = (4, 8)

    def draw(self, split: str, rng: np.random.Generator) -> str:
        """Return a chain of random length, digits and operators."""
        low, high = self.warmup_steps if split == "warmup" else self.steps
        steps = int(rng.integers(low, high + 1))
        digits = rng.integers(0, 10, steps + 1)
        operators = rng.choice(list(OPERATIONS), steps)
        return f"{digits[0]}" + "".join(f"{o}{d}" for o, d in zip(operators, digits[1:], strict=True)) + "="

    def work_out(self, prompt: str, slip: float = 0.0, rng: np.random.Generator | None = None) -> tuple[str, str]:
        """Go through the chain from the left; a slip replaces the running value by a random digit."""
        value = int(prompt[0])
        thinking, values = "", ""
        for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
            value = OPERATIONS[operator](value, int(digit)) % 10
            if rng is not None and rng.random() < slip:
                value = int(rng.integers(0, 10))
            thinking += f"{operator}{digit}{value}"
            values += str(value)
        return thinking, values


class LongChain(Chain):
    """Chains of 8 to 16 steps; the warm-up shows 8 to 13 only, with fewer slips, for twice as many must go right."""

    name = "long-chain"
    slip = 0.2
    steps = (8, 16)
    warmup_steps = (8, 13)
