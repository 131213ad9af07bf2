"""Back-tests: what one costs, and how often its bands hold what came.

Run ``python -m benchmarks.backtest [--runs 100] [--repetitions 5]`` from the repository's root. Time: process CPU time
of one run of 60 evaluations over 20 origins, all families and methods, after imports; the bar is 1.5 s and the median
over several kinds of run counts. Coverage: simulated runs of 60 evaluations to k C_mid (`benchmarks.simulate`), the
share of evaluations 1.5x, 2x and 4x ahead inside the bands, own and calibrated; no bar, for the law is true there.
Its intervals count every forecast; those of one run go together, so they are too narrow.
Runs that were simulated before are read from ``--work`` and not back-tested again. Leave the machine one free core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from analysis.predict.ahead import METHODS
from analysis.predict.backtesting import HORIZONS, backtest
from analysis.schema import Run
from benchmarks.simulate import Cell, simulate, wilson

BAR = 1.5
N, K = 60, (0.5, 1.0, 2.0, 5.0)
CELLS = tuple(Cell(k, N, rho) for k in (2.0, 5.0) for rho in (0.0, 0.7))


def run_of(cell: Cell, i: int) -> Run:
    """A simulated run of a cell."""
    curve = simulate(cell, i)
    data = {"gpu_hours": curve.compute, "pass_rate": np.clip(curve.pass_rate, 0.0, 1.0)}
    return Run(f"{cell.name}/{i}", cell.name, None, data, ("gpu_hours",), (), Path("none"), "")


def seconds(repetitions: int) -> list[tuple[float, float]]:
    """CPU seconds of each repetition, a new run every time, by k; the first call of all is not counted."""
    backtest(run_of(Cell(2.0, N, 0.3), 999))
    found = []
    for i in range(repetitions):
        for k in K:
            run = run_of(Cell(k, N, 0.3), i)
            before = time.process_time()
            backtest(run)
            found.append((k, time.process_time() - before))
    return found


def record(cell: Cell, i: int) -> list[dict[str, Any]]:
    """What counts of each forecast with bands."""
    test = backtest(run_of(cell, i))
    return [
        {
            "horizon": row.horizon,
            "method": row.method,
            "error": abs(row.error),
            "own": row.own_lo <= row.observed <= row.own_hi,
            "held": row.lo <= row.observed <= row.hi,
            "width": row.hi - row.lo,
            "own_width": row.own_hi - row.own_lo,
            "calibrated": row.calibrated,
        }
        for row in test.rows
        if row.lo is not None and row.hi is not None and row.own_lo is not None and row.own_hi is not None
    ]


def coverage(cell: Cell, runs: int, work: Path) -> list[dict[str, Any]]:
    """Forecasts of the first `runs` of a cell; those that `work` holds are not made again."""
    work.mkdir(parents=True, exist_ok=True)
    store = work / f"{cell.name}.jsonl"
    lines = store.read_text().splitlines() if store.exists() else []
    with store.open("a") as out:
        for i in range(len(lines), runs):
            lines.append(json.dumps(record(cell, i)))
            out.write(lines[-1] + "\n")
            out.flush()
    return [row for line in lines[:runs] for row in json.loads(line)]


def report(cell: Cell, rows: list[dict[str, Any]]) -> None:
    """Print coverage and width by horizon and method."""
    for horizon in HORIZONS:
        for method in METHODS:
            mine = [row for row in rows if (row["horizon"], row["method"]) == (horizon, method)]
            known = [row for row in mine if row["calibrated"]]
            if not known:
                continue
            own, held = (wilson(sum(row[key] for row in of), len(of)) for key, of in (("own", mine), ("held", known)))
            widths = [np.median([row[key] for row in of]) for key, of in (("own_width", mine), ("width", known))]
            print(
                f"  {cell.name:<16} {horizon:g}x {method:<8} own band {own} width {widths[0]:.3f} ({len(mine)})   "
                f"calibrated {held} width {widths[1]:.3f} ({len(known)})"
            )


def main(argv: list[str] | None = None) -> int:
    """Time back-tests, then see what their bands hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--runs", type=int, default=100, help="simulated runs of each cell; 0 leaves coverage out")
    parser.add_argument("--work", type=Path, default=Path("outputs/backtest"))
    args = parser.parse_args(argv)
    found = seconds(args.repetitions)
    for k in K:
        mine = [taken for at, taken in found if at == k]
        print(f"to {k:g} C_mid: median {np.median(mine):.2f} s, slowest {max(mine):.2f} s of {len(mine)}")
    middle = float(np.median([taken for _, taken in found]))
    print(f"median {middle:.2f} s, bar {BAR} s: {'met' if middle <= BAR else 'MISSED'}")
    for cell in CELLS if args.runs else ():
        report(cell, coverage(cell, args.runs, args.work))
    return 0 if middle <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
