"""Do the intervals hold the truth where evaluations are means over prompts, with and without the counts in the log?

Run ``python -m benchmarks.evaluation_noise`` from the repository's root. Simulated: curves of `benchmarks.simulate` (60
evaluations, k = 5 and 2), each seen through 256 fixed prompts with 16 completions at every evaluation, and run noise
with correlation .7 between neighbours, of sd .004 (evaluation noise is then most of the variance) and .01. 500 curves a
cell, seed 1.

Prompts. A prompt has one easiness u ~ U(0, 1) and solves at the rate r(u) before training and a(u) at the ceiling, with
r and a the quantiles of Beta(m / 2, (1 - m) / 2) for m = R0 and A: U-shaped, most prompts nearly never or nearly
always solved. In between its rate is r + (a - r) s(C) with the curve's own rise s. So the mean over a population of
prompts is exactly the curve, and the mean over the 256 is a sigmoid too, with the same B and C_mid and the ceiling
A_set = mean a(u): the fixed-set truth. Run noise e moves the rates by e p (1 - p) / mean p (1 - p), which keeps them in
[0, 1] and moves the set's mean by e exactly.

With counts the evaluation's variance comes from `noise.evaluation_variance`; without, its share is unknown. For the
truth of the population the draws of A are widened by a normal with `noise.prompt_variance` of the last evaluation.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from analysis.curves.families import Array
from analysis.posteriors.noise import evaluation_variance, prompt_variance
from analysis.posteriors.posterior import posterior
from benchmarks.simulate import ar1_noise, draw_params, wilson

PROMPTS, COMPLETIONS, POINTS, RHO = 256, 16, 60, 0.7
SEED = 1
SHARES = np.array([0.025, 0.975])
WITH_COUNTS, WITHOUT, POPULATION, NOT_WIDENED = (
    "counts, set",
    "no counts, set",
    "widened, population",
    "as is, population",
)
METHODS = (WITH_COUNTS, WITHOUT, POPULATION, NOT_WIDENED)
BARS = {(WITH_COUNTS, 5.0): 0.92, (WITH_COUNTS, 2.0): 0.89, (WITHOUT, 5.0): 0.90, (WITHOUT, 2.0): 0.86}


class Design(NamedTuple):
    """Compute ends at k C_mid; sd of the run noise."""

    k: float
    run_noise: float


DESIGNS = tuple(Design(k, sd) for k in (5.0, 2.0) for sd in (0.004, 0.01))


class Evaluated(NamedTuple):
    """One run: compute (n,), correct completions (n, prompts), and the ceilings of the population and of the set."""

    compute: Array
    correct: NDArray[np.int64]
    A: float
    A_set: float


def simulate(design: Design, i: int, seed: int = SEED) -> Evaluated:
    """Run `i` of a design."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, DESIGNS.index(design), i]))
    R0, A, B, C_mid = draw_params(rng)
    compute = C_mid * np.linspace(0.1, design.k, POINTS)
    easiness = rng.random(PROMPTS)
    before, ceiling = (betaincinv(0.5 * m, 0.5 * (1.0 - m), easiness) for m in (R0, A))
    s = 1.0 / (1.0 + (C_mid / compute) ** B)
    rate = before + (ceiling - before) * s[:, None]
    room = rate * (1.0 - rate)
    moved = ar1_noise(rng, POINTS, RHO, design.run_noise) / room.mean(axis=1)
    rate = np.clip(rate + np.clip(moved, -1.0, 1.0)[:, None] * room, 0.0, 1.0)
    return Evaluated(compute, rng.binomial(COMPLETIONS, rate), float(A), float(ceiling.mean()))


class Row(NamedTuple):
    """Whether each of `METHODS` holds its truth, and the width of its interval."""

    held: tuple[bool, ...]
    width: tuple[float, ...]


def row(design: Design, i: int, draws: int = 2000) -> Row:
    """One run through the posterior, with the counts and without."""
    run = simulate(design, i)
    y = run.correct.mean(axis=1) / COMPLETIONS
    variance = np.array([evaluation_variance(correct, COMPLETIONS) for correct in run.correct], dtype=float)
    with_counts = posterior(run.compute, y, variance=variance, draws=draws, seed=i)
    without = posterior(run.compute, y, draws=draws, seed=i)
    offset = np.sqrt(prompt_variance(run.correct[-1], COMPLETIONS) or 0.0)
    widened = with_counts.A + offset * np.random.default_rng(i).standard_normal(draws)
    limits = [
        with_counts.quantile(with_counts.A, SHARES),
        without.quantile(without.A, SHARES),
        with_counts.quantile(widened, SHARES),
        with_counts.quantile(with_counts.A, SHARES),
    ]
    truths = (run.A_set, run.A_set, run.A, run.A)
    return Row(
        tuple(bool(low <= A <= high) for (low, high), A in zip(limits, truths, strict=True)),
        tuple(float(high - low) for low, high in limits),
    )


class Result(NamedTuple):
    """Share held of a design and method, median width, and the bar."""

    design: Design
    method: str
    hits: int
    curves: int
    width: float

    @property
    def bar(self) -> float | None:
        return BARS.get((self.method, self.design.k))

    @property
    def ok(self) -> bool:
        """Not wholly below the bar by the 99.9 % Wilson interval."""
        return self.bar is None or wilson(self.hits, self.curves).high >= self.bar


def results(design: Design, rows: Sequence[Row]) -> list[Result]:
    """Summarise the rows of a design."""
    held, width = np.array([r.held for r in rows]), np.array([r.width for r in rows])
    return [
        Result(design, method, int(held[:, k].sum()), len(rows), float(np.median(width[:, k])))
        for k, method in enumerate(METHODS)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and print the table; the exit status says whether every bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--curves", type=int, default=500, help="curves a cell")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # read by the processes, which load numpy anew
    print(f"{'k':<4}{'run noise':<11}{'method, truth':<22}{'held, 99.9 %':<22}{'median width':>13}{'bar':>6}")
    ok = True
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for design in DESIGNS:
            numbers = range(options.curves)
            found = list(pool.map(row, [design] * options.curves, numbers, chunksize=10))
            for result in results(design, found):
                bar = "" if result.bar is None else f"{100 * result.bar:.0f}"
                share = str(wilson(result.hits, result.curves))
                mark = "" if result.ok else "  missed"
                print(
                    f"{design.k:<4g}{design.run_noise:<11g}{result.method:<22}{share:<22}{result.width:>13.4f}{bar:>6}{mark}"
                )
                ok &= result.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
