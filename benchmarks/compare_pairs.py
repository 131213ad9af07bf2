"""Simulated pairs of recipes and the posterior draws of their seeds, kept on disk: the data of `benchmarks.compare`.

Run ``python -m benchmarks.compare_pairs --k 5 --pairs 1000``; chunks that are there are not made again, so that a run
can be cut off and gone on with. Curves as in `benchmarks.simulate` (60 evaluations, noise sd .01 with correlation .5),
five seeds a recipe that differ in A by a normal deviation of sd .01. The recipes of a pair start from one checkpoint
(one R0); ``first`` has a curve drawn at random and beside it stand

- ``equal``: the same A, B drawn anew, C_mid within a factor of three;
- ``gap``: as ``equal`` with A higher by .05;
- ``gap_same``: the curve of ``first`` with A higher by .05;
- ``apart``: as ``equal`` with A + U(-.1, .1).

Each run ends at k times its own C_mid. The last three are made for the first `FEW` pairs only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.families import SIGMOID, Array
from analysis.posterior import posterior
from benchmarks.simulate import ar1_noise, draw_params

KINDS = ("first", "equal", "gap", "gap_same", "apart")
FEW = 1000
SEEDS, POINTS, SEED_SD, RHO, GAP = 5, 60, 0.01, 0.5, 0.05
DRAWS, KEPT = 2000, 200
CHUNK = 25


def recipes(k: float, i: int, seed: int = 0) -> dict[str, Array]:
    """R0, A, B and C_mid of each recipe of pair `i`, (4,) each."""
    rng = np.random.default_rng([seed, round(10 * k), i])
    first, other = draw_params(rng), draw_params(rng)
    near = first[3] * np.exp(rng.uniform(-np.log(3.0), np.log(3.0)))
    equal = np.array([first[0], first[1], other[2], near])
    up = np.array([0.0, GAP, 0.0, 0.0])
    apart = equal + np.array([0.0, rng.uniform(-0.1, 0.1), 0.0, 0.0])
    return dict(zip(KINDS, (first, equal, equal + up, first + up, apart), strict=True))


def seed_run(k: float, i: int, kind: str, s: int, *, params: Array, seed: int = 0) -> tuple[Array, Array, float]:
    """Compute and pass rates of one seed, and its own A."""
    rng = np.random.default_rng([seed, round(10 * k), i, KINDS.index(kind), s])
    own = params + np.array([0.0, SEED_SD * rng.standard_normal(), 0.0, 0.0])
    compute = own[3] * np.linspace(0.1, k, POINTS)
    return compute, np.asarray(SIGMOID.value(compute, own)) + ar1_noise(rng, POINTS, RHO), float(own[1])


def pair(k: float, i: int) -> dict[str, Array]:
    """Draws (KEPT, 4) of R0, A, ln B, ln C_mid of each seed, their means, medians and variances, and the truth."""
    made: dict[str, Array] = {}
    for kind, params in recipes(k, i).items():
        if kind not in KINDS[:2] and i >= FEW:
            continue
        drawn = np.empty((SEEDS, KEPT, 4), dtype=np.float32)
        told = np.empty((SEEDS, 3, 4))
        for s in range(SEEDS):
            compute, rate, _ = seed_run(k, i, kind, s, params=params)
            d = posterior(compute, rate, draws=DRAWS, seed=s)
            table = np.stack([d.R0, d.A, np.log(d.B), np.log(d.C_mid)], axis=1)
            mean = d.weight @ table
            told[s] = mean, d.quantile(table, [0.5])[0], d.weight @ (table - mean) ** 2
            # systematic resampling: equally weighted draws with the least noise
            at = (np.arange(KEPT) + 0.5) / KEPT
            chosen = np.minimum(np.searchsorted(np.cumsum(d.weight), at), len(table) - 1)
            drawn[s] = np.random.default_rng([7, i, s]).permutation(table[chosen])
        made |= {f"{kind}_draws": drawn, f"{kind}_told": told, f"{kind}_params": params}
    return made


def chunk(k: float, first: int, work: Path) -> Path:
    """File of `CHUNK` pairs, made if it is not there."""
    path = work / f"k{k:g}-{first}.npz"
    if not path.exists():
        rows = [pair(k, i) for i in range(first, first + CHUNK)]
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
        part.replace(path)
    return path


def load(k: float, work: Path, kinds: Sequence[str], most: int | None = None) -> dict[str, Array]:
    """All pairs that are there and hold `kinds`, stacked: ``<kind>_draws`` (N, seeds, KEPT, 4) and so on."""
    found: dict[str, list[Array]] = {}
    for first in range(0, 10**6, CHUNK):
        path = work / f"k{k:g}-{first}.npz"
        if not path.exists() or (most is not None and first >= most):
            break
        with np.load(path) as file:
            if f"{kinds[-1]}_draws" not in file:
                break
            for kind in kinds:
                for what in ("draws", "told", "params"):
                    found.setdefault(f"{kind}_{what}", []).append(file[f"{kind}_{what}"])
    return {name: np.concatenate(rows) for name, rows in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--k", type=float, nargs="+", default=[5.0, 2.0, 1.0, 3.0])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--work", type=Path, default=Path("build/compare"))
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    for k in options.k:
        for first in range(0, options.pairs, CHUNK):
            started = time.time()
            chunk(k, first, options.work)
            print(f"k {k:g} pairs {first} to {first + CHUNK}: {time.time() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
