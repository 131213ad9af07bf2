"""How much faster are many runs fitted on two cores than on one?

Run ``python -m benchmarks.fit_many`` from the repository's root: 2,000 runs of 60 evaluations (`benchmarks.simulate`, k
in {.5, 1, 2, 5} in equal parts, correlation .3) fitted with their posteriors, reach and findings, as
``analysis.fit(runs)`` and as ``analysis.fit(runs, jobs=2)``, wall time, one thread of BLAS a process. Both paths take
turns, chunk by chunk, so that what else the machine does falls on both; the workers are started before. ``--runs 100``
is a quick look.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from analysis.fits.fitting import fit
from analysis.schema import Run
from benchmarks.simulate import KS, Cell, simulate
from benchmarks.speed import POINTS, THREADS

BAR = 1.7
CHUNKS = 5


def made(runs: int) -> list[Run]:
    """So many simulated runs."""
    found = []
    for i in range(runs):
        curve = simulate(Cell(KS[i % len(KS)], POINTS, 0.3), i)
        columns = {"gpu_hours": curve.compute, "pass_rate": curve.pass_rate}
        found.append(Run(f"run{i}", "", None, columns, ("gpu_hours",), (), Path("made"), ""))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print seconds and their ratio; the exit status says whether it reaches the bar and the fits are the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    if any(os.environ.get(name) != "1" for name in THREADS):  # read when numpy loads, so a process of its own
        command = [sys.executable, "-m", "benchmarks.fit_many", f"--runs={options.runs}", f"--jobs={options.jobs}"]
        return subprocess.run(command, env={**os.environ, **dict.fromkeys(THREADS, "1")}, check=False).returncode
    runs, alone_s, both_s, same = made(options.runs), 0.0, 0.0, True
    size = -(-len(runs) // CHUNKS)
    fit(runs[:1])  # imports
    fit(runs[: 4 * options.jobs], jobs=options.jobs)
    for first in range(0, len(runs), size):
        chunk = runs[first : first + size]
        started = time.perf_counter()
        alone = fit(chunk)
        between = time.perf_counter()
        both = fit(chunk, jobs=options.jobs)
        alone_s, both_s = alone_s + between - started, both_s + time.perf_counter() - between
        same = same and alone.to_json() == both.to_json()
        print(f"{first + len(chunk)} runs: one core {alone_s:.1f} s, {options.jobs} cores {both_s:.1f} s", flush=True)
    ratio = alone_s / both_s
    verdict = "the same fits" if same else "the fits DIFFER"
    print(f"{len(runs)} runs of {POINTS} points: {ratio:.2f} times as fast, at least {BAR:g}; {verdict}")
    return 0 if same and ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
