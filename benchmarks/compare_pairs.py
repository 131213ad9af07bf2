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

from analysis.curves.families import SIGMOID, Array
from analysis.posteriors.posterior import posterior
from analysis.posteriors.priors import Priors
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
            drawn[s] = kept(table, d.weight, i, s)
        made |= {f"{kind}_draws": drawn, f"{kind}_told": told, f"{kind}_params": params}
    return made


def shared_pair(k: float, i: int, told: dict[str, Array]) -> dict[str, Array]:
    """As `pair`, of two recipes each with the R0 that all runs of both share: `analysis.share_R0` on their posteriors.

    ``<kind>-<seeds>_draws`` holds the second recipe and ``<kind>-<seeds>-first_draws`` the first.
    """
    made: dict[str, Array] = {}
    all_params = recipes(k, i)
    for kind in ("equal", "gap", "gap_same"):
        for seeds in (3, 5):
            runs = [(of, s) for of in ("first", kind) for s in range(seeds)]
            means = np.array([told[f"{of}_told"][s, 0, 0] for of, s in runs])
            precisions = np.array([1.0 / told[f"{of}_told"][s, 2, 0] for of, s in runs])
            drawn = np.empty((len(runs), KEPT, 4), dtype=np.float32)
            for j, (of, s) in enumerate(runs):
                others = np.arange(len(runs)) != j
                total = precisions[others].sum()
                R0 = float(means[others] @ precisions[others] / total), float(total**-0.5)
                compute, rate, _ = seed_run(k, i, of, s, params=all_params[of])
                d = posterior(compute, rate, draws=DRAWS, seed=s, priors=Priors(R0=R0))
                drawn[j] = kept(np.stack([d.R0, d.A, np.log(d.B), np.log(d.C_mid)], axis=1), d.weight, i, s)
            made |= {f"{kind}-{seeds}-first_draws": drawn[:seeds], f"{kind}-{seeds}_draws": drawn[seeds:]}
    return made


def kept(table: Array, weight: Array, i: int, s: int) -> Array:
    """`KEPT` equally weighted draws in random order: systematic resampling has the least noise."""
    at = (np.arange(KEPT) + 0.5) / KEPT
    chosen = np.minimum(np.searchsorted(np.cumsum(weight), at), len(table) - 1)
    return np.random.default_rng([7, i, s]).permutation(table[chosen])


def shared_chunk(k: float, first: int, work: Path) -> Path:
    """File of `CHUNK` pairs with a shared R0, made if it is not there from those without."""
    path = work / f"k{k:g}-shared-{first}.npz"
    if not path.exists():
        with np.load(chunk(k, first, work)) as file:
            told = {name: file[name] for name in file if name.endswith("_told")}
        rows = [shared_pair(k, first + j, {n: v[j] for n, v in told.items()}) for j in range(CHUNK)]
        _write(path, rows)
    return path


def chunk(k: float, first: int, work: Path) -> Path:
    """File of `CHUNK` pairs, made if it is not there."""
    path = work / f"k{k:g}-{first}.npz"
    if not path.exists():
        _write(path, [pair(k, i) for i in range(first, first + CHUNK)])
    return path


def _write(path: Path, rows: Sequence[dict[str, Array]]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
    part.replace(path)


def load_shared(k: float, work: Path) -> dict[str, Array]:
    """What `shared_chunk` made, stacked."""
    found: dict[str, list[Array]] = {}
    for path in sorted(work.glob(f"k{k:g}-shared-*.npz"), key=lambda p: int(p.stem.split("-")[-1])):
        with np.load(path) as file:
            for name in file:
                found.setdefault(name, []).append(file[name])
    return {name: np.concatenate(rows) for name, rows in found.items()}


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
    parser.add_argument("--shared", action="store_true", help="power with the R0 of all runs of a pair shared")
    parser.add_argument("--work", type=Path, default=Path("build/compare"))
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    make = shared_chunk if options.shared else chunk
    for k in options.k:
        for first in range(0, min(options.pairs, FEW) if options.shared else options.pairs, CHUNK):
            started = time.time()
            make(k, first, options.work)
            print(f"k {k:g} pairs {first} to {first + CHUNK}: {time.time() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
