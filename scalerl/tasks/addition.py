"""Addition, worked out digit by digit from the right with carry marks.

The prompt ``47+85=`` asks for ``7+5:2c4+8c:3c#132``: digit by digit from the right the two digits, the carry mark
``c`` where one came in, ``:``, the digit of the sum and ``c`` where one goes out, then ``#`` and the sum.
"""

from __future__ import annotations

import numpy as np

from scalerl.tasks.worked import WorkedTask


class Addition(WorkedTask):
    """Sums of numbers with 3 to 8 digits; the warm-up shows 3 to 6 only.

    Examples
    --------
    >>> Addition().score({"prompt": "47+85=", "answer": "132"}, "7+5:2c4+8c:3c#132")
    True
    """

    name = "addition"
    characters = "0123456789+=:c#"
    slip = 0.35
    digits = (3, 8)
    warmup_digits = (3, 6)

    def draw(self, split: str, rng: np.random.Generator) -> str:
        """Return the sum of two random numbers of one width."""
        low, high = self.warmup_digits if split == "warmup" else self.digits
        width = int(rng.integers(low, high + 1))
        a, b = ("".join(map(str, [rng.integers(1, 10), *rng.integers(0, 10, width - 1)])) for _ in range(2))
        return f"{a}+{b}="

    def work_out(self, prompt: str, slip: float = 0.0, rng: np.random.Generator | None = None) -> tuple[str, str]:
        """Add from the right; a slip writes a random digit and keeps the carry."""
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
