"""Thousands of awkward runs: nothing may fail, and nothing may look sure without a word.

Run ``python -m benchmarks.awkward`` from the repository's root (``--through fit`` for the whole report of a run, the
default is the posterior alone). 26 kinds of run, 100 of each, seed 2: few points, ties, repeated compute, flat, steps,
falling, exact, outliers, units from 1e-30 to 1e30, single precision and so on. Reported is every exception, every
warning, a draw that is no number, an interval of A that is outside [0, 1] or narrower than `FLOOR` without a doubt,
and an answer that moves with the unit of compute.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.curves.families import Array
from analysis.fits.fitting import fit
from analysis.posteriors.posterior import EDGE_MASS, LEAST_SIZE, posterior
from analysis.posteriors.quadrature import Posterior
from analysis.schema import Run

FLOOR = 1e-9  # narrower than this is no interval
EXACT = 1e-11  # residuals below this are rounding
SEED = 2
MOST_MISSED = 1.0
Generator = np.random.Generator


class Data(NamedTuple):
    """Compute, ascending, and pass rates, (n,) each."""

    compute: Array
    pass_rate: Array


def _curve(rng: Generator, n: int | None = None, noise: float = 0.01, k: float | None = None) -> Data:
    n = int(rng.integers(10, 80)) if n is None else n
    k = float(np.exp(rng.uniform(np.log(0.3), np.log(8.0)))) if k is None else k
    R0, A, B = rng.uniform(0.05, 0.35), rng.uniform(0.4, 0.8), rng.uniform(0.5, 4.0)
    compute = np.linspace(0.1 * k, k, n)
    rate = R0 + (A - R0) / (1.0 + compute**-B) + rng.normal(0.0, noise, n)
    return Data(compute, np.clip(rate, 0.0, 1.0))


def _with_zero(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    times = int(rng.integers(1, 5))
    return Data(
        np.concatenate([np.zeros(times), compute]),
        np.concatenate([rate[:1] + rng.normal(0, 0.01, times), rate]).clip(0, 1),
    )


def _repeated(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    times = rng.integers(1, 4, len(compute))
    compute = np.repeat(compute, times)
    return Data(compute, np.clip(np.repeat(rate, times) + rng.normal(0, 0.005, len(compute)), 0, 1))


def _two_computes(rng: Generator) -> Data:
    n = int(rng.integers(6, 20))
    return Data(
        np.where(np.arange(n) < n // 2, 1.0, 3.0),
        np.clip(0.3 + 0.2 * (np.arange(n) >= n // 2) + rng.normal(0, 0.01, n), 0, 1),
    )


def _step(rng: Generator) -> Data:
    n = int(rng.integers(6, 60))
    return Data(
        np.linspace(1.0, 5.0, n),
        np.where(np.arange(n) < rng.integers(1, n), 0.2, 0.6) + rng.normal(0, rng.choice([0.0, 1e-6, 0.01]), n),
    )


def _decay(rng: Generator) -> Data:
    compute, rate = _curve(rng, n=40, k=3.0)
    return Data(compute, np.where(np.arange(40) > 25, rate * np.linspace(1.6, 0.3, 40).clip(max=1.0), rate))


def _gaps(rng: Generator) -> Data:
    n = int(rng.integers(5, 40))
    compute = np.sort(np.exp(rng.uniform(-15, 15, n)))
    return Data(compute, np.clip(0.1 + 0.6 / (1.0 + compute**-1.5) + rng.normal(0, 0.01, n), 0, 1))


def _outliers(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    hit = rng.random(len(rate)) < 0.1
    return Data(compute, np.where(hit, rng.random(len(rate)), rate))


def _single(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    return Data(compute.astype(np.float32), rate.astype(np.float32))


def _rounded(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    return Data(compute, np.round(rate * rng.choice([4, 8, 16])) / 16)


def _scaled(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    return Data(compute * 10.0 ** rng.uniform(-30, 30), rate)


def _level(rng: Generator, noise: float) -> Data:
    n = int(rng.integers(4, 60))
    return Data(
        np.linspace(0.0 if rng.random() < 0.5 else 1.0, 5.0, n),
        rng.choice([0.0, 0.02, 0.5, 1.0]) + np.zeros(n) + rng.normal(0, noise, n),
    )


def _extreme(rng: Generator) -> Data:
    n = int(rng.integers(4, 40))
    return Data(np.arange(1.0, n + 1.0), (np.arange(n) >= rng.integers(0, n + 1)).astype(float))


def _straight(rng: Generator) -> Data:
    n = int(rng.integers(5, 60))
    compute = np.linspace(0.1, 1.0, n) if rng.random() < 0.5 else np.geomspace(0.01, 100.0, n)
    rise = np.linspace(0.2, 0.6, n)
    return Data(compute, rise + rng.normal(0, rng.choice([0.0, 0.01]), n))


def _falling(rng: Generator) -> Data:
    compute, rate = _curve(rng)
    return Data(compute, rate[::-1].copy())


def _saturated(rng: Generator) -> Data:
    n = int(rng.integers(5, 60))
    compute = np.linspace(50.0, 500.0, n)
    return Data(compute, np.clip(0.1 + rng.choice([0.6, 0.9]) / (1.0 + compute**-3.0) + rng.normal(0, 0.005, n), 0, 1))


def _late(rng: Generator) -> Data:
    compute, rate = _curve(rng, k=5.0, n=50)
    return Data(compute + 10.0 ** rng.uniform(1, 6), rate)


def _many(rng: Generator) -> Data:
    return _curve(rng, n=int(rng.integers(1000, 2500)))


KINDS: dict[str, Callable[[Generator], Data]] = {
    "plain": _curve,
    "4 to 8 points": lambda rng: _curve(rng, n=int(rng.integers(4, 9))),
    "4 to 8 points, exact": lambda rng: _curve(rng, n=int(rng.integers(4, 9)), noise=0.0),
    "exact": lambda rng: _curve(rng, noise=0.0),
    "nearly exact": lambda rng: _curve(rng, noise=float(10.0 ** rng.uniform(-14, -4))),
    "constant": lambda rng: _level(rng, 0.0),
    "nearly constant": lambda rng: _level(rng, float(10.0 ** rng.uniform(-16, -3))),
    "level and noise": lambda rng: _level(rng, 0.05),
    "noise above the gain": lambda rng: _curve(rng, noise=0.3),
    "from C = 0": _with_zero,
    "repeated compute": _repeated,
    "two computes": _two_computes,
    "step": _step,
    "decay": _decay,
    "falling": _falling,
    "huge gaps": _gaps,
    "outliers": _outliers,
    "single precision": _single,
    "rounded": _rounded,
    "units": _scaled,
    "0 and 1": _extreme,
    "straight": _straight,
    "saturated": _saturated,
    "far from 0": _late,
    "1,000 points and more": _many,
    "before C_mid": lambda rng: _curve(rng, k=0.05),
}


def make(kind: str, i: int, seed: int = SEED) -> Data:
    """Run `i` of a kind."""
    return KINDS[kind](np.random.default_rng([seed, list(KINDS).index(kind), i]))


def of_posterior(data: Data, seed: int = 0) -> list[str]:
    """What is wrong with the posterior of a run, in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = posterior(*data, seed=seed, draws=2000)
            moved = posterior(data.compute * np.float64(2.0**7), data.pass_rate, seed=seed, draws=2000)
        except Exception as error:
            return [_where(error)]
    problems = []
    arrays = {name: getattr(found, name) for name in ("R0", "A", "B", "C_mid", "rho", "sigma", "white", "weight")}
    problems += [f"{name} is not finite" for name, values in arrays.items() if not np.isfinite(values).all()]
    if problems:
        return problems
    lower, upper = found.quantile(found.A, np.array([0.025, 0.975]))
    if not 0.0 <= lower <= upper <= 1.0:
        problems.append("A is outside [0, 1]")
    if upper - lower < FLOOR and not _doubted(found):
        problems.append(f"interval of A narrower than {FLOOR:g} without a doubt")
    shares = np.array([0.025, 0.5, 0.975])
    shift = float(np.abs(found.quantile(found.A, shares) - moved.quantile(moved.A, shares)).max())
    if shift > 1e-3 * max(upper - lower, 1e-6) and not _doubted(found):
        problems.append("A moves with the unit of compute")
    return problems


def _doubted(found: Posterior) -> bool:
    checks = found.checks
    at_edge = max(checks["edge_B"], checks["edge_C_mid"]) > EDGE_MASS
    return found.effective < LEAST_SIZE or checks["missed"] > MOST_MISSED or at_edge


def of_fit(data: Data) -> list[str]:
    """What is wrong with the whole fit of a run, in words."""
    columns = {"gpu_hours": data.compute, "pass_rate": data.pass_rate}
    run = Run("awkward", "", None, columns, ("gpu_hours",), (), Path("awkward.csv"), "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = fit(run)
            text = repr(found) + found._repr_html_()
        except Exception as error:
            return [_where(error)]
    problems = []
    if re.search(r"\bnan\b", text, re.IGNORECASE):
        problems.append("nan in the report")
    doubts = [f for f in found.findings if f.severity != "note" or f.code == "exact-data"]
    if found.draws is not None and found.draws.effective < LEAST_SIZE and not doubts:
        problems.append(f"fewer than {LEAST_SIZE} effective draws without a finding")
    for name, p in found.params.items():
        known = [v for v in (p.value, p.lo, p.hi) if v is not None]
        if not np.isfinite(known).all():
            problems.append(f"{name} is not finite")
        elif p.lo is not None and p.hi is not None and p.hi - p.lo < FLOOR * max(abs(p.hi), 1e-300) and not doubts:
            problems.append(f"interval of {name} narrower than {FLOOR:g} without a finding")
    return problems


def _where(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "analysis" in f.filename]
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:80]}{at}"


THROUGH: dict[str, Callable[[Data], list[str]]] = {"posterior": of_posterior, "fit": of_fit}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all kinds and print what went wrong; the exit status says whether nothing did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=100, help="runs of each kind")
    parser.add_argument("--through", choices=list(THROUGH), default="posterior")
    parser.add_argument("--kinds", nargs="*", help="all by default")
    options = parser.parse_args(arguments)
    judge = THROUGH[options.through]
    total = 0
    for kind in options.kinds or KINDS:
        started, problems, first = time.perf_counter(), Counter[str](), dict[str, int]()
        for i in range(options.runs):
            for problem in judge(make(kind, i)):
                problems[problem] += 1
                first.setdefault(problem, i)
        spent = 1e3 * (time.perf_counter() - started) / options.runs
        print(
            f"{kind:<24}{spent:>6.0f} ms  " + ("ok" if not problems else f"{sum(problems.values())} problems"),
            flush=True,
        )
        for problem, count in problems.most_common():
            print(f"    {count:>4} x {problem} (first: {first[problem]})", flush=True)
        total += sum(problems.values())
    print(f"{total} problems")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
