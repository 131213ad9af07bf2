"""Coverage of the intervals of ``scalerl evaluate``: how often they hold the truth, in simulations, beside plain t.

Run ``python -m benchmarks.passk [--repeat 2000]`` from the repository's root. Prompts are drawn with a pass rate from a
beta distribution, completions from a binomial one, so that the true pass@k is known as a sum.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from scalerl.passk import over_prompts, pass_at_k

# prompts, the beta distribution of their pass rates, completions a prompt, k of pass@k
CASES = [
    (30, (0.3, 1.2), 16, 1), (30, (0.1, 2.0), 16, 1), (100, (0.1, 5.0), 8, 1), (30, (1.2, 0.3), 16, 8),
    (100, (0.2, 0.2), 16, 4), (256, (0.3, 1.0), 4, 4), (64, (1.0, 9.0), 1, 1), (64, (0.05, 3.0), 16, 1),
    (10, (0.5, 0.5), 16, 1), (100, (1.2, 0.3), 16, 8), (256, (1.2, 0.3), 16, 16),
]  # fmt: skip


def covered(case: int, repeat: int, seed: int = 0) -> tuple[float, float, float]:
    """Return the truth, and the shares of repetitions in which our interval and the plain t interval hold it."""
    m, (a, b), n, k = CASES[case]
    table = np.array([pass_at_k(c, n, k) for c in range(n + 1)])
    truth = float(stats.betabinom.pmf(np.arange(n + 1), n, a, b) @ table)
    rng, ours, plain = np.random.default_rng([seed, case]), 0, 0
    for _ in range(repeat):
        values = table[rng.binomial(n, rng.beta(a, b, m))]
        score = over_prompts(values)
        ours += score.lo <= truth <= score.hi
        half = stats.t.ppf(0.975, m - 1) * values.std(ddof=1) / m**0.5
        plain += abs(values.mean() - truth) <= half
    return truth, ours / repeat, plain / repeat


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=2000)
    repeat = parser.parse_args().repeat
    print("prompts  pass rates      k of n   truth   ours     t")
    for case, (m, (a, b), n, k) in enumerate(CASES):
        truth, ours, plain = covered(case, repeat)
        print(f"{m:>7}  beta({a}, {b})  {k:>2} of {n:<2}  {truth:.3f}  {ours:.3f}  {plain:.3f}")


if __name__ == "__main__":
    main()
