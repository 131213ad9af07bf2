"""How much faster than lmfit, scipy and the paper's grid, on one core and in one process?

Run ``python -m benchmarks.speed`` from the repository's root. Curves of `benchmarks.simulate`: 60 evaluations, k in
{.5, 1, 2, 5} in equal parts, independent noise, seed 0; the curves of one k share their compute axis, in units of
C_mid, as the refits of a bootstrap do. Every tool solves the same problem, all four parameters free within the same
bounds; lmfit and scipy start from the lowest and highest pass rate, B = 1.5 and the middle of the axis. A repetition
times every tool one after the other; ratios are medians over repetitions, in CPU time of the process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.curves.families import Array
from analysis.curves.leastsquares import Problem, default_box
from analysis.curves.projection import fit_many
from analysis.fits.bootstrap import bootstrap
from analysis.fits.papergrid import Grid, fit_grid
from analysis.schema import Run
from benchmarks.simulate import KS, Cell, simulate

POINTS = 60
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
BARS = {"cold": 40.0, "warm": 150.0, "bootstrap": 50.0, "paper's grid": 1000.0}
REPORT_BAR = 0.150  # seconds


def law(C: Array, R0: float, A: float, B: float, C_mid: float) -> Array:
    """The curve, as a user of lmfit or scipy would write it."""
    return R0 + (A - R0) / (1.0 + (C_mid / C) ** B)


class Batch(NamedTuple):
    """Curves that share a compute axis (n,): pass rates (N, n)."""

    compute: Array
    pass_rate: Array


def batches(curves: int) -> list[Batch]:
    """`curves` curves of each k."""
    out = []
    for k in KS:
        made = [simulate(Cell(k, POINTS, 0.0), i) for i in range(curves)]
        out.append(Batch(made[0].compute / made[0].params[3], np.stack([c.pass_rate for c in made])))
    return out


def seconds(task: Callable[[], Any]) -> float:
    """CPU time of a call."""
    started = time.process_time()
    task()
    return time.process_time() - started


def _starts(compute: Array, y: Array) -> list[float]:
    low, high = float(np.clip(y.min(), 1e-3, 0.99)), float(np.clip(y.max(), 2e-3, 0.999))
    return [low, high, 1.5, float(compute[len(compute) // 2])]


def with_lmfit(compute: Array, rows: Array, values: Sequence[float] | None = None) -> None:
    """Fit each row by lmfit, from `values` if given."""
    import lmfit

    model = lmfit.Model(law)
    for y in rows:
        R0, A, B, C_mid = _starts(compute, y) if values is None else values
        params = model.make_params()
        params["R0"].set(value=R0, min=0.0, max=1.0)
        params["A"].set(value=A, min=0.0, max=1.0)
        params["B"].set(value=B, min=0.05, max=50.0)
        params["C_mid"].set(value=C_mid, min=1e-4, max=5e3)
        model.fit(y, params, C=compute)


def with_scipy(compute: Array, rows: Array) -> None:
    """Fit each row by scipy.optimize.curve_fit without bounds, its fastest way; a failure counts as a fit."""
    from scipy.optimize import OptimizeWarning, curve_fit

    for y in rows:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", OptimizeWarning)
                curve_fit(law, compute, y, p0=_starts(compute, y))
        except RuntimeError:
            continue


class Line(NamedTuple):
    """One comparison: seconds a unit of work for us and for the peer, repetition by repetition."""

    name: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return float(np.median(np.array(self.theirs) / np.array(self.ours)))

    @property
    def bar(self) -> float | None:
        return BARS.get(self.name) if self.peer != "scipy" else None

    @property
    def ok(self) -> bool:
        return self.bar is None or self.ratio >= self.bar

    def __str__(self) -> str:
        ours, theirs = float(np.median(self.ours)), float(np.median(self.theirs))
        bar = "" if self.bar is None else f"at least {self.bar:g}" + ("" if self.ok else "  missed")
        return f"{self.name:<14}{1 / ours:>12,.0f} /s {self.peer:<22}{1 / theirs:>10,.1f} /s {self.ratio:>9.0f}x  {bar}"


def fits(repetitions: int = 5, curves: int = 2000, peers: int = 8) -> list[Line]:
    """Cold and warm fits of `curves` curves of each k, against lmfit and scipy on the first `peers` of each."""
    data = batches(curves)
    best = [fit_many(np.log(b.compute), b.pass_rate).shape for b in data]
    rng = np.random.default_rng(0)
    near = [shape + rng.normal(0.0, 0.1, shape.shape) for shape in best]

    def cold() -> None:
        for b in data:
            fit_many(np.log(b.compute), b.pass_rate)

    def warm() -> None:
        for b, start in zip(data, near, strict=True):
            fit_many(np.log(b.compute), b.pass_rate, start=start, starts=0)

    def each(tool: Callable[[Array, Array], None]) -> None:
        for b in data:
            tool(b.compute, b.pass_rate[:peers])

    each(with_lmfit)  # imports
    many, few = len(KS) * curves, len(KS) * peers
    times = [
        (
            seconds(cold) / many,
            seconds(warm) / many,
            seconds(lambda: each(with_lmfit)) / few,
            seconds(lambda: each(with_scipy)) / few,
        )
        for _ in range(repetitions)
    ]
    c, w, lm, sp = zip(*times, strict=True)
    return [
        Line("cold", "lmfit", c, lm),
        Line("warm", "lmfit", w, lm),
        Line("cold", "scipy", c, sp),
        Line("warm", "scipy", w, sp),
    ]


def bootstraps(repetitions: int = 3, refits: int = 1000) -> Line:
    """Bootstraps of one curve (k = 2) by resampled residuals, against lmfit's refits from the optimum."""
    curve = simulate(Cell(2.0, POINTS, 0.0), 0)
    compute = curve.compute / curve.params[3]
    problem, box = Problem(np.log(compute), curve.pass_rate), default_box(compute)
    best = problem.fit(box)
    values = [*best.theta[:2], *np.exp(best.theta[2:])]
    fitted, residual = law(compute, *values), curve.pass_rate - law(compute, *values)
    rows = fitted + np.random.default_rng(0).choice(residual, (refits, POINTS))
    times = [
        (
            seconds(lambda: bootstrap(problem, box, best, kind="residual", refits=1000)) / 1000,
            seconds(lambda: with_lmfit(compute, rows, values)) / refits,
        )
        for _ in range(repetitions)
    ]
    ours, theirs = zip(*times, strict=True)
    return Line("bootstrap", "lmfit refits", ours, theirs)


def brute_grid(compute: Array, y: Array, grid: Grid) -> tuple[float, Array]:
    """The paper's grid by scipy: the least SSE, and its (A, C_mid)."""
    with warnings.catch_warnings():
        return _brute_grid(compute, y, grid)


def _brute_grid(compute: Array, y: Array, grid: Grid) -> tuple[float, Array]:
    from scipy.optimize import OptimizeWarning, curve_fit

    r0, least, best = float(y[0]), np.inf, np.zeros(2)
    warnings.simplefilter("ignore", OptimizeWarning)  # no covariance where B has no effect; none is wanted
    for cell in grid.cells(float(compute[-1])):
        A, C_mid = cell

        def only_b(C: Array, B: float, A: float = A, C_mid: float = C_mid) -> Array:
            return r0 + (A - r0) / (1.0 + (C_mid / C) ** B)

        try:
            with np.errstate(all="ignore"):
                (B,), _ = curve_fit(only_b, compute, y, p0=[1.5])
        except RuntimeError:
            continue
        sse = float(((only_b(compute, B) - y) ** 2).sum())
        if sse < least:
            least, best = sse, cell
    return least, best


class GridResult(NamedTuple):
    """The paper's grid on a few curves: speed, how often our fit's SSE is larger, how often our grid's cell differs."""

    line: Line
    worse: int
    other_cell: int
    alone: float
    ours: float


def paper_grid(curves: int = 3, grid: Grid | None = None) -> GridResult:
    """One least squares fit in a batch of 1,000, against 7,100 cells by scipy; k = 5."""
    grid = Grid() if grid is None else grid
    made = [simulate(Cell(5.0, POINTS, 0.0), i) for i in range(1000)]
    compute = made[0].compute / made[0].params[3]
    y = np.stack([c.pass_rate for c in made])
    log_c = np.log(compute)
    sse = fit_many(log_c, y).sse
    ours, theirs, worse, other = [], [], 0, 0
    for i in range(curves):
        started = time.process_time()
        least, cell = brute_grid(compute, y[i], grid)
        theirs.append(time.process_time() - started)
        ours.append(seconds(lambda: fit_many(log_c, y)) / len(y))
        worse += bool(sse[i] > least * (1.0 + 1e-9))
        theta = fit_grid(compute, y[i], float(y[i, 0]), grid).theta
        other += not np.allclose([theta[1], np.exp(theta[3])], cell, rtol=1e-6)
    alone = float(np.median([seconds(lambda: fit_many(log_c, y[:1])) for _ in range(20)]))
    method = float(np.median([seconds(lambda: fit_grid(compute, y[0], float(y[0, 0]), grid)) for _ in range(3)]))
    return GridResult(
        Line("paper's grid", "scipy, 7,100 cells", tuple(ours), tuple(theirs)), worse, other, alone, method
    )


def full_report(repetitions: int = 7) -> float:
    """Median CPU seconds of `analysis.fit` on a run of 60 evaluations, with its text."""
    import analysis

    times = []
    for i in range(repetitions + 1):
        curve = simulate(Cell(KS[i % 4], POINTS, 0.3), i)
        columns = {"gpu_hours": curve.compute, "pass_rate": curve.pass_rate}
        run = Run("run", "", None, columns, ("gpu_hours",), (), Path("run.csv"), "")
        times.append(seconds(lambda run=run: repr(analysis.fit(run))))  # type: ignore[misc]
    return float(np.median(times[1:]))  # the first call imports


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all figures; the exit status says whether every bar holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args(arguments)
    if any(os.environ.get(name) != "1" for name in THREADS):  # read when numpy loads, so a process of its own
        command = [sys.executable, "-m", "benchmarks.speed", f"--repetitions={options.repetitions}"]
        return subprocess.run(command, env={**os.environ, **dict.fromkeys(THREADS, "1")}, check=False).returncode
    lines = [*fits(options.repetitions), bootstraps()]
    grid = paper_grid()
    for line in [*lines, grid.line]:
        print(line, flush=True)
    print(f"one curve in a call of its own: {1e3 * grid.alone:.1f} ms; SSE above the grid's: {grid.worse}")
    print(f"the paper's grid by our solver: {1e3 * grid.ours:.0f} ms; another cell than by scipy: {grid.other_cell}")
    report = full_report()
    print(f"full default report of a run: {1e3 * report:.0f} ms, at most {1e3 * REPORT_BAR:.0f}")
    ok = (
        all(line.ok for line in [*lines, grid.line]) and not grid.worse and not grid.other_cell and report <= REPORT_BAR
    )
    print("every bar holds" if ok else "a bar is missed")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
