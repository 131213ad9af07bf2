"""Several runs at once: size of the nested test, coverage of a recipe's A over seeds, shared R0, pooled shapes.

Run ``python -m benchmarks.seeds`` from the repository's root; ``--only`` picks one of the four tables. Curves and noise
are those of `benchmarks.simulate`; repetition i of a cell has a generator of its own, seeded with [seed, table, cell,
i]. About half an hour on two cores with the default repetitions.

Promises: every method of a table sees the same runs. A bar is missed only if the 99.9 % Wilson interval of a share lies
wholly beyond it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from analysis.curves.curve import R
from analysis.curves.families import Array
from analysis.fits.fitting import fit
from analysis.fits.results import Param
from analysis.fits.starts import share_R0
from analysis.pooled.joint import fit_shared
from analysis.pooled.pooling import pool_shapes
from analysis.pooled.seeds import pool_seeds
from analysis.schema import Run
from benchmarks.simulate import ar1_noise, draw_params, wilson

SEED = 3
SEEDS, SEED_SD = 3, 0.01
LEVEL = 0.05


class Row(NamedTuple):
    """One figure of one repetition: whether it came out as it should, and the width of the interval behind it."""

    name: str
    hit: bool
    width: float


class Bar(NamedTuple):
    """What the share of a figure must not lie beyond."""

    low: float = 0.0
    high: float = 1.0


def run_of(name: str, compute: Array, pass_rate: Array) -> Run:
    """Two columns as a run."""
    data = {"gpu_hours": compute, "pass_rate": pass_rate}
    return Run(name, name, None, data, ("gpu_hours",), (), Path(name), "")


def noisy(
    rng: np.random.Generator, name: str, params: Array, *, k: float, n: int, rho: float, first: float = 0.1
) -> Run:
    """A run of the law (R0, A, B, C_mid) from `first` to `k` C_mid."""
    compute = params[3] * np.linspace(first, k, n)
    return run_of(name, compute, np.asarray(R(compute, *params)) + ar1_noise(rng, n, rho))


def of_interval(name: str, p: Param, truth: float) -> Row:
    """Whether limits hold the truth; an open side holds everything."""
    lo, hi = 0.0 if p.lo is None else p.lo, 1.0 if p.hi is None else p.hi
    return Row(name, lo <= truth <= hi, hi - lo)


# ---- the tables: one repetition each


def size(rng: np.random.Generator, k: float, rho: float, n: int) -> list[Row]:
    """Two runs with one A, the rest their own: how often is that rejected? And how often where A differs by .03?"""
    params = [draw_params(rng) for _ in range(2)]
    params[1][1] = params[0][1]
    params[1][3] = params[0][3] * np.exp(rng.uniform(-1.5, 1.5))
    runs = [noisy(rng, f"run{i}", p, k=k, n=n, rho=rho) for i, p in enumerate(params)]
    higher = params[1] + np.array([0.0, 0.03, 0.0, 0.0])
    other = [runs[0], noisy(rng, "run1", higher, k=k, n=n, rho=rho)]
    rows = []
    for name, pair, correlated in (
        ("AR(1)", runs, True),
        ("independent", runs, False),
        ("AR(1), A + .03", other, True),
    ):
        p = fit_shared(pair, "A", correlated=correlated, level=1.0 - LEVEL).p
        rows.append(Row(name, p is not None and p < LEVEL, np.nan))
    return rows


def seeds(rng: np.random.Generator, k: float, rho: float, n: int) -> list[Row]:
    """Three seeds whose A differ by `SEED_SD`: does an interval hold the recipe's A?"""
    params = draw_params(rng)
    each = [params + np.array([0.0, SEED_SD * rng.standard_normal(), 0.0, 0.0]) for _ in range(SEEDS)]
    runs = [noisy(rng, f"seed{i}", p, k=k, n=n, rho=rho) for i, p in enumerate(each)]
    fits = fit(runs)
    compute = np.concatenate([r.data["gpu_hours"] for r in runs])
    order = np.argsort(compute, kind="stable")
    together = run_of("all points", compute[order], np.concatenate([r.data["pass_rate"] for r in runs])[order])
    one = pool_seeds([fits[0]], seed_sd=SEED_SD)[0]
    stated = pool_seeds(fits, seed_sd=SEED_SD, recipe="mine")[0]
    A = params[1]
    values = np.array([f.params["A"].value for f in fits])
    half = float(stdtrit(SEEDS - 1, 0.975)) * values.std(ddof=1) / np.sqrt(SEEDS)
    plain = Param(None, values.mean() - half, values.mean() + half, identified=False)
    return [
        of_interval("plain t", plain, A),
        of_interval("over seeds", pool_seeds(fits, recipe="mine")[0].params["A"], A),
        of_interval("stated seed sd", stated.params["A"], A),
        of_interval("one seed, stated sd", one.params["A"], A),
        of_interval("one seed as is", fits[0].params["A"], A),
        of_interval("all points together", fit(together).params["A"], A),
    ]


def starts(rng: np.random.Generator, k: float, rho: float, n: int) -> list[Row]:
    """Three recipes from one checkpoint, evaluated there too: limits of R0 and A with an R0 of their own and shared."""
    params = [draw_params(rng) for _ in range(3)]
    for p in params:
        p[0] = params[0][0]
    runs = [noisy(rng, f"run{i}", p, k=k, n=n, rho=rho, first=0.0) for i, p in enumerate(params)]
    rows = []
    for name, fits in (("own", fit(runs)), ("shared", share_R0(runs, same_start=True))):
        for f, p in zip(fits, params, strict=True):
            rows += [of_interval(f"R0, {name}", f.params["R0"], p[0]), of_interval(f"A, {name}", f.params["A"], p[1])]
    return rows


def shapes(rng: np.random.Generator, spread: float, k: float, n: int) -> list[Row]:
    """One seed that ends at k C_mid beside two at 4 C_mid; ln B and ln C_mid differ between seeds by `spread`."""
    params = draw_params(rng)
    runs = []
    for i, last in enumerate((k, 4.0, 4.0)):
        own = params * np.exp(np.array([0.0, 0.0, *(spread * rng.standard_normal(2))]))
        own[1] += SEED_SD * rng.standard_normal()
        made = noisy(rng, f"seed{i}", own, k=last, n=n, rho=0.3)
        runs.append(made)
        if i == 0:
            early = own
    fits = fit(runs)
    pooled = pool_shapes(fits, recipe="mine")
    rows = []
    for name, f in (("own", fits[0]), ("pooled", pooled[0])):
        rows.append(of_interval(f"A, {name}", f.params["A"], early[1]))
        at = 4.0 * float(runs[0].data["gpu_hours"][-1])
        lo, hi = (0.0, 1.0) if f.trusted_draws is None else (float(v) for v in f.predict(at, level=0.95)[::2])
        rows.append(of_interval(f"at 4x, {name}", Param(None, lo, hi, identified=False), float(R(at, *early))))
    withheld = any(d.code == "pooled-thin" for d in pooled[0].findings)
    return [*rows, Row("limits withheld", withheld, np.nan)]


class Table(NamedTuple):
    """A simulation: its cells, repetitions by default, and the bars of its figures."""

    one: Callable[..., list[Row]]
    head: str
    cells: tuple[tuple[float, ...], ...]
    repetitions: int
    bars: Callable[[tuple[float, ...], str], Bar]


def _no_bar(*_: object) -> Bar:
    return Bar()


def _size_bar(cell: tuple[float, ...], name: str) -> Bar:
    """The nominal level with room for what estimated rho and sigma cost; none for the plain test of correlated runs."""
    if name == "AR(1)":
        return Bar(high=0.08 if cell[1] == 0.0 else 0.12)
    return Bar(high=0.08) if name == "independent" and cell[1] == 0.0 else Bar()


def _seed_bar(_: tuple[float, ...], name: str) -> Bar:
    return Bar(low=0.93) if name == "over seeds" else Bar()


def _start_bar(_: tuple[float, ...], name: str) -> Bar:
    return Bar(low=0.93) if "shared" in name else Bar()


def _shape_bar(cell: tuple[float, ...], name: str) -> Bar:
    return Bar(low=0.90) if "pooled" in name and cell[0] <= 0.2 else Bar()


TABLES = {
    "size": Table(
        size, "same A in two runs: share of p < .05 (k, rho, n)",
        ((5.0, 0.0, 60), (5.0, 0.5, 60), (2.0, 0.0, 60), (2.0, 0.5, 60)), 200, _size_bar,
    ),
    "seeds": Table(
        seeds, "A of a recipe from 3 seeds, seed sd .01: share held (k, rho, n)",
        ((5.0, 0.0, 60), (5.0, 0.5, 60), (2.0, 0.0, 60), (2.0, 0.5, 60)), 200, _seed_bar,
    ),
    "starts": Table(
        starts, "three recipes from one checkpoint: share held (k, rho, n)",
        ((5.0, 0.3, 60), (2.0, 0.3, 20), (1.0, 0.3, 20)), 150, _start_bar,
    ),
    "shapes": Table(
        shapes, "a seed that ends at k C_mid beside two at 4: share held (spread of ln B and ln C_mid, k, n)",
        ((0.1, 0.7, 60), (0.2, 0.7, 60), (0.5, 0.7, 60)), 150, _shape_bar,
    ),
}  # fmt: skip


class Result(NamedTuple):
    """Share of a figure in a cell, median width, and its bar."""

    cell: tuple[float, ...]
    name: str
    hits: int
    total: int
    width: float
    bar: Bar

    @property
    def ok(self) -> bool:
        share = wilson(self.hits, self.total)
        return share.high >= self.bar.low and share.low <= self.bar.high

    def __str__(self) -> str:
        cell = ", ".join(f"{value:g}" for value in self.cell)
        width = "" if np.isnan(self.width) else f"{self.width:.4f}"
        bar = "" if self.bar == Bar() else f"{100 * self.bar.low:.0f}-{100 * self.bar.high:.0f}"
        share = str(wilson(self.hits, self.total))
        return f"{cell:<14}{self.name:<22}{share:<22}{width:>8}{bar:>9}{'' if self.ok else '  missed'}"


def repetition(table: str, cell: int, i: int, seed: int = SEED) -> list[Row]:
    """Repetition `i` of a cell."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, list(TABLES).index(table), cell, i]))
    chosen = TABLES[table]
    values = chosen.cells[cell]
    return chosen.one(rng, *values[:-1], int(values[-1]))


def results(table: str, cell: int, found: Sequence[Sequence[Row]]) -> list[Result]:
    """Summarise the repetitions of a cell."""
    chosen, rows = TABLES[table], [row for rows in found for row in rows]
    out = []
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        values = chosen.cells[cell]
        hits, width = sum(row.hit for row in own), float(np.median([row.width for row in own]))
        out.append(Result(values, name, hits, len(own), width, chosen.bars(values, name)))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and print the tables; the exit status says whether every bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", choices=list(TABLES), nargs="*", default=list(TABLES))
    parser.add_argument("--cells", type=int, nargs="*", help="only these cells of each table, counted from 0")
    parser.add_argument("--repetitions", type=int, help="of every cell, instead of the defaults")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # read by the processes, which load numpy anew
    ok = True
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for name in options.only:
            table = TABLES[name]
            count = options.repetitions or table.repetitions
            print(f"\n{name}: {table.head}; {count} repetitions, seed {SEED}")
            print(f"{'cell':<14}{'figure':<22}{'%, 99.9 %':<22}{'width':>8}{'bar':>9}")
            for cell in range(len(table.cells)) if options.cells is None else options.cells:
                found = list(pool.map(partial(repetition, name, cell), range(count), chunksize=5))
                for result in results(name, cell, found):
                    print(result, flush=True)
                    ok &= result.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
