"""Do the posterior's 95 % intervals hold the truth? Simulated curves in 36 cells, with other methods beside it.

Run ``python -m benchmarks.coverage`` from the repository's root. Simulated: `benchmarks.simulate`, k in {.5, 1, 2, 5},
n in {20, 60, 200}, rho in {0, .3, .7}; 2,000 curves a cell, seed 0; the other methods on the first 300 of each. About
an hour on two cores. Chunks of 50 curves are kept in ``--work`` and not computed again; remove the folder after a
change of the method. A cell fails a bar only if its 99.9 % interval (Wilson's for a share, order statistics for a
median) lies wholly outside.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.curves.families import Array
from analysis.posteriors.posterior import EDGE_MASS, LEAST_SIZE, posterior
from benchmarks.peer_intervals import METHODS
from benchmarks.simulate import CELLS, Cell, Simulated, median, simulate, wilson

AHEAD = (2.0, 4.0)
DRAWS = 2000
CHUNK = 50
SHARES = np.array([0.025, 0.975])
CHECKS = ("edge_B", "edge_C_mid", "missed", "heaviest", "cells")
MOST_MISSED = 1.0  # in log density
COLUMNS = (
    *("i", "A", "R0", "B", "C_mid", "lower", "upper", "cr_width"),
    *(f"{what}_{h:g}x" for h in AHEAD for what in ("truth", "lower", "upper")),
    *("effective", *CHECKS, "seconds"),
)


def record(curve: Simulated, i: int) -> list[float]:
    """What the posterior says of one curve: the columns before the other methods'."""
    started = time.process_time()
    found = posterior(curve.compute, curve.pass_rate, draws=DRAWS, seed=i)
    lower, upper = found.quantile(found.A, SHARES)
    R0, A, B, C_mid = curve.params
    row = [i, A, R0, B, C_mid, lower, upper, curve.least_width()]
    for h in AHEAD:
        at = h * curve.compute[-1]
        s = 1.0 / (1.0 + (found.C_mid / at) ** found.B)
        row += [float(curve.mean(at)), *found.quantile(found.R0 + (found.A - found.R0) * s, SHARES)]
    checks = [found.checks[name] for name in CHECKS]
    return [*row, found.effective, *checks, time.process_time() - started]


def ours(cell: Cell, first: int, stop: int) -> Array:
    """Rows of `COLUMNS` for curves first to stop - 1."""
    return np.array([record(simulate(cell, i), i) for i in range(first, stop)])


def theirs(cell: Cell, first: int, stop: int) -> Array:
    """Whether each of `METHODS` holds the truth, a row a curve."""
    curves = [simulate(cell, i) for i in range(first, stop)]
    return np.stack([np.asarray(method(curves), dtype=float) for method in METHODS.values()], axis=1)


class Verdict(NamedTuple):
    """A figure of a cell beside its bar."""

    name: str
    text: str
    ok: bool | None  # None: printed, no bar


def _share(name: str, hits: Array, low: float | None = None, high: float | None = None) -> Verdict:
    found = wilson(int(hits.sum()), len(hits))
    if low is None and high is None:
        return Verdict(name, str(found), None)
    return Verdict(
        name, str(found), not ((low is not None and found.high < low) or (high is not None and found.low > high))
    )


def _at_most(name: str, values: Array, bar: float | None) -> Verdict:
    found = median(values)
    return Verdict(name, f"{found.value:.3f}", None if bar is None else found.low <= bar)


def _bar_of_A(cell: Cell) -> tuple[float, float | None]:
    if cell.k >= 2:
        return (0.93, 0.99) if cell.n >= 60 else (0.90 if cell.rho == 0.7 else 0.93, None)
    return (0.94 if cell.k == 1 else 0.90), None


def _bar_of_width(cell: Cell) -> float | None:
    if cell.k != 5 or cell.n == 20:
        return None
    return 1.2 if cell.n == 200 else 1.5 if cell.rho <= 0.3 else 1.65


def verdicts(cell: Cell, rows: Array, beside: Array) -> list[Verdict]:
    """All figures of a cell, the ones with a bar judged; `beside` are the rows of the other methods, maybe none."""
    d = dict(zip(COLUMNS, rows.T, strict=True))
    below, above, width = d["A"] < d["lower"], d["A"] > d["upper"], d["upper"] - d["lower"]
    held = ~below & ~above
    settled = cell.k >= 2 and cell.n >= 60
    out = [
        _share("A held", held, *_bar_of_A(cell)),
        _share("A below", below, high=0.055 if settled else None),
        _share("A above", above, high=0.055 if settled else None),
    ]
    terciles = np.array_split(np.argsort(d["B"]), 3)
    out += [_share(f"B tercile {t + 1}", held[rows], 0.90 if settled else None) for t, rows in enumerate(terciles)]
    for h in AHEAD:
        inside = (d[f"truth_{h:g}x"] >= d[f"lower_{h:g}x"]) & (d[f"truth_{h:g}x"] <= d[f"upper_{h:g}x"])
        out.append(_share(f"at {h:g}x", inside, 0.93 if cell.k >= 1 else None))
    out += [
        _at_most("width", width, 0.57 if cell.k == 1 else None),
        _at_most("width / CR", width / d["cr_width"], _bar_of_width(cell)),
    ]
    at_edge = np.maximum(d["edge_B"], d["edge_C_mid"]) > EDGE_MASS
    doubtful = (d["effective"] < LEAST_SIZE) | (d["missed"] > MOST_MISSED) | at_edge
    out.append(Verdict("doubted", f"{100 * doubtful.mean():.1f}", None))
    if len(beside):
        out += [_share(name, held == 1.0) for name, held in zip(METHODS, beside.T, strict=True)]
    return out


def _kept(path: Path, columns: Sequence[str], make: Callable[[], Array]) -> Array:
    """What the file holds, made and written first if there is none."""
    if not path.exists():
        part = path.with_suffix(".part")
        np.savetxt(part, make(), delimiter=",", header=",".join(columns), comments="", fmt="%.10g")
        part.replace(path)
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def _compute(work: Path, cell: Cell, first: int, stop: int, peers: int) -> tuple[Array, Array]:
    rows = _kept(work / f"{cell.name}-{first}-{stop}.csv", COLUMNS, lambda: ours(cell, first, stop))
    last = min(stop, peers)
    if first >= last:
        return rows, np.empty((0, len(METHODS)))
    return rows, _kept(
        work / f"{cell.name}-{first}-{last}-peers.csv", tuple(METHODS), lambda: theirs(cell, first, last)
    )


Rows = dict[Cell, tuple[Array, Array]]


def simulate_all(cells: Sequence[Cell], curves: int, peers: int, work: Path, processes: int) -> Rows:
    """Rows of each cell and those of the other methods, from the folder `work` where they are there already."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # read by the processes, which load numpy anew
    work.mkdir(parents=True, exist_ok=True)
    tasks = [(cell, first, min(first + CHUNK, curves)) for cell in cells for first in range(0, curves, CHUNK)]
    found: dict[tuple[Cell, int], tuple[Array, Array]] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(_compute, work, cell, first, stop, peers): (cell, first) for cell, first, stop in tasks}
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            if len(found) % 20 == 0:
                print(f"{len(found)} of {len(tasks)} chunks", file=sys.stderr, flush=True)
    return {
        cell: (
            np.concatenate([found[c, first][0] for c, first, _ in tasks if c == cell]),
            np.concatenate([found[c, first][1] for c, first, _ in tasks if c == cell]),
        )
        for cell in cells
    }


def report(rows: Rows) -> tuple[list[str], list[str]]:
    """The table as lines, CSV with a header, and what failed."""
    lines, failed = ["k,n,rho,curves,figure,value,ok"], []
    for cell, (of_cell, beside) in rows.items():
        for verdict in verdicts(cell, of_cell, beside):
            ok = "" if verdict.ok is None else "yes" if verdict.ok else "no"
            value = verdict.text.replace(",", " to").replace("  ", " ").strip()
            curves = len(beside) if verdict.name in METHODS else len(of_cell)
            lines.append(f"{cell.k:g},{cell.n},{cell.rho:g},{curves},{verdict.name},{value},{ok}")
            if verdict.ok is False:
                failed.append(f"{cell.name} {verdict.name}: {verdict.text}")
    return lines, failed


def show(rows: Rows) -> None:
    """Print one line a cell: shares in percent, * where a bar is missed."""
    heads: list[str] = []
    for cell, (of_cell, beside) in rows.items():
        found = verdicts(cell, of_cell, beside)
        if [v.name for v in found] != heads:
            heads = [v.name for v in found]
            print(f"{'cell':<15}{'curves':>7}" + "".join(f"{name:>12}" for name in heads) + f"{'ms':>6}")
        figures = [v.text.split("[")[0].strip() + ("*" if v.ok is False else "") for v in found]
        spent = 1e3 * float(np.median(of_cell[:, COLUMNS.index("seconds")]))
        print(f"{cell.name:<15}{len(of_cell):>7}" + "".join(f"{figure:>12}" for figure in figures) + f"{spent:>6.0f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table, write it; the exit status says whether every bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--curves", type=int, default=2000, help="curves a cell")
    parser.add_argument("--peers", type=int, default=300, help="curves a cell for the other methods")
    parser.add_argument("--cells", nargs="*", help="names such as k2-n60-rho0.3; all by default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/coverage"), help="where finished chunks are kept")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/coverage.csv"))
    options = parser.parse_args(arguments)
    by_name = {cell.name: cell for cell in CELLS}
    unknown = [name for name in options.cells or () if name not in by_name]
    if unknown:
        parser.error(f"no cell {', '.join(unknown)}; there are {', '.join(by_name)}")
    cells = [by_name[name] for name in options.cells] if options.cells else list(CELLS)
    rows = simulate_all(cells, options.curves, options.peers, options.work, options.processes)
    show(rows)
    lines, failed = report(rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(f"missed: {what}" for what in failed) or "every bar holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
