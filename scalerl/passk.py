"""Scores of k completions a prompt: mean@k, pass@k, majority@k, and their intervals over prompts. Without torch.

Promises: pass@k is unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1); intervals take the prompt as the unit that
was sampled, for the completions of one prompt are alike, and never leave [0, 1] or have no width. Does not promise an
interval for other prompts than such as these.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
UNSEEN = 0.25  # prompts at the far end that are added to the variance: few prompts seldom show the rare ones


class Interval(NamedTuple):
    """A mean over prompts, a fraction, and its limits at 95 %."""

    value: float
    lo: float
    hi: float


def pass_at_k(correct: int, n: int, k: int) -> float:
    """Return the unbiased estimate of P(at least one of k completions is right), from `correct` of n right ones.

    1 - C(n - c, k) / C(n, k), the share of all choices of k that hold a right one. The binomials are not computed:
    their quotient is a product of c factors 1 - k / i.

    Raises
    ------
    ValueError
        Unless 0 <= correct <= n and 1 <= k <= n.

    Examples
    --------
    >>> round(pass_at_k(1, 4, 1), 12), round(pass_at_k(2, 4, 2), 12)
    (0.25, 0.833333333333)
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k: {correct} right of {n}, k = {k}")
    if n - correct < k:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(n - correct + 1, n + 1)))


def powers(k: int) -> list[int]:
    """Return 1, 2, 4, ... below k, and k.

    Examples
    --------
    >>> powers(12)
    [1, 2, 4, 8, 12]
    """
    return [*(2**i for i in range((k - 1).bit_length())), k]


def majority(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """Return whether the most frequent answer of a prompt is right, 1 or 0.

    Where several answers are the most frequent, the share of them that is right: what a draw among them would give on
    average. A completion without an answer has no vote; if none has one, the score is 0.

    Parameters
    ----------
    answers : sequence of str or None
        Of each completion.
    right : sequence of bool
        Whether it was scored as right. An answer counts as right as its first completion did.

    Examples
    --------
    >>> majority(["7", "7", "8", None], [True, True, False, False])
    1.0
    >>> majority(["7", "8", "9", None], [True, False, False, False])
    0.3333333333333333
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    leading = [answer for answer, count in votes.items() if count == most]
    return sum(right[answers.index(answer)] for answer in leading) / len(leading)


def over_prompts(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Return the mean of one value a prompt, each in [0, 1], with limits for the mean over prompts like these.

    Wilson's score interval with the number of prompts replaced by the effective one, m p (1 - p) / s^2, and the
    normal quantile by Student's with m - 1 degrees of freedom (as for clustered surveys, Franco et al. 2019,
    doi:10.1093/jssam/smy019). s^2 is the sample variance between the prompts, plus that of a quarter of a prompt at
    the far end, max(p, 1 - p)^2 / 4 m (ours): where nearly all prompts agree, the others may not have been drawn.
    Where all prompts have one value v, at most a share e = 1 - (1 - level)^(1/m) of such prompts is otherwise, and the
    limits are v (1 - e) and v (1 - e) + e. Coverage in simulations: ``python -m benchmarks.passk``.

    Examples
    --------
    >>> [round(x, 3) for x in over_prompts([0.0, 0.25, 0.5, 1.0, 0.75, 0.25, 0.0, 1.0])]
    [0.469, 0.191, 0.767]
    >>> [round(x, 3) for x in over_prompts([0.0] * 30)]
    [0.0, 0.0, 0.095]
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=float)
    m, p = len(x), float(x.mean())
    variance = float(x.var(ddof=1)) if m > 1 else 0.0
    if variance <= 1e-18:  # equal but for rounding
        e = 1 - (1 - level) ** (1 / m)
        return Interval(p, p * (1 - e), min(1.0, p * (1 - e) + e))
    variance += UNSEEN * max(p, 1 - p) ** 2 / m
    square = float(stdtrit(m - 1, (1 + level) / 2)) ** 2 * variance / m / (p * (1 - p))  # t^2 / effective prompts
    middle = (p + square / 2) / (1 + square)
    half = math.sqrt(square * p * (1 - p) + square**2 / 4) / (1 + square)
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))
