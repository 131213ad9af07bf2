"""Addition, worked out digit by digit from the right with carry marks.

The prompt ``47+85=`` asks for ``7+5:2c4+8c:3c#132``: digit by digit from the right the two digits, the carry mark
``c`` where one came in, ``:``, the digit of the sum and ``c`` where one goes out, then ``#`` and the sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalerl.tasks import Item, split_of


class Addition:
    """Sums of numbers with 3 to 8 digits; the warm-up shows 3 to 6 only.

    Examples
    --------
    >>> Addition().score({"prompt": "47+85=", "answer": "132"}, "7+5:2c4+8c:3c#132")
    True
    """

    name = "addition"
    characters = "0123456789+=:c#"
    end_of_thinking = "#"
    digits = (3, 8)
    warmup_digits = (3, 6)
    slip = 0.35

    def prompts(self, split: str, seed: int) -> Iterator[Item]:
        """Yield items of a split without end."""
        rng = np.random.default_rng([seed, *split.encode()])
        low, high = self.warmup_digits if split == "warmup" else self.digits
        while True:
            width = int(rng.integers(low, high + 1))
            a, b = ("".join(map(str, [rng.integers(1, 10), *rng.integers(0, 10, width - 1)])) for _ in range(2))
            prompt = f"{a}+{b}="
            if split_of(prompt) == split:
                thinking, answer = _work_out(prompt)
                yield {"prompt": prompt, "thinking": thinking, "solution": f"#{answer}", "answer": answer}

    def demonstration(self, item: Item, rng: np.random.Generator) -> str:
        """Return a worked sum with slips: a slipped column writes a random digit and goes on."""
        thinking, answer = _work_out(item["prompt"], slip=self.slip, rng=rng)
        return f"{thinking}#{answer}"

    def score(self, item: Item, completion: str) -> bool:
        """Return whether what follows the first ``#`` is the sum, to the last character."""
        _, mark, answer = completion.partition(self.end_of_thinking)
        return bool(mark) and answer == item["answer"]


def _work_out(prompt: str, slip: float = 0.0, rng: np.random.Generator | None = None) -> tuple[str, str]:
    a, b = prompt.removesuffix("=").split("+")
    thinking, total, carry = "", "", 0
    for x, y in zip(reversed(a), reversed(b), strict=True):
        carry_in = "c" if carry else ""
        carry, digit = divmod(int(x) + int(y) + carry, 10)
        if rng is not None and rng.random() < slip:
            digit = int(rng.integers(0, 10))
        thinking += f"{x}+{y}{carry_in}:{digit}{'c' if carry else ''}"
        total = f"{digit}{total}"
    return thinking, f"1{total}" if carry else total
