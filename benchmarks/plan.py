"""Does a plan come true? Widths after the next doubling, the stop rule as a rule, the power that is promised.

Run ``python -m benchmarks.plan [--only widths|stop|power] [--curves 200]`` from the repository's root. Curves are
drawn as `benchmarks.simulate` says, noise sd .01. widths: 60 evaluations to k C_mid, as many more to 2 k; what the
longer run says over what was predicted at k. stop: 60 evaluations to k C_mid are planned, the rule looks after every
fourth from the eighth on and at the end of the plan as its horizon; a stop is wrong where the curve still gains more
than .01. power: how often `analysis.comparisons.contrasts` tells two recipes .05 apart in A, from the posterior of one
pilot run of each, their B and C_mid their own; to be set beside what ``python -m benchmarks.compare`` counts. Seed 5.
Rows are kept in ``--work`` and not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.budgets.budget import after
from analysis.budgets.planning import gain, verdict_of
from analysis.comparisons import contrasts
from analysis.curves.families import SIGMOID, Array
from analysis.fits.evaluations import Evaluations
from analysis.predict.ahead import INFLATION, Calibration, calibrate, cut_at
from benchmarks.simulate import ar1_noise, draw_params, wilson

SEED, N = 5, 60
FACTORS = (0.8, 1.25)
WIDTHS = [(k, rho) for k in (1.5, 2.0, 3.0) for rho in (0.0, 0.5)]
STOPS = [(k, rho) for k in (2.0, 5.0, 10.0) for rho in (0.0, 0.6)]
POWERS = [(k, 0.5) for k in (2.0, 3.0, 5.0)]
LEAST_GAIN, SEED_SD, GAP = 0.01, 0.01, 0.05


def _points(compute: Array, rate: Array) -> Evaluations:
    return Evaluations(compute, rate, compute, None, ())


def _curve(kind: int, k: float, rho: float, i: int, doubled: bool) -> tuple[Array, Array, Array]:
    """Compute, mean and evaluations; of a doubled run the second half has the cadence of the first."""
    rng = np.random.default_rng([SEED, kind, round(10 * k), round(10 * rho), i])
    params = draw_params(rng)
    compute = params[3] * np.linspace(0.1 if kind != 1 else k / N, k, N)
    if doubled:
        gap = compute[1] - compute[0]
        compute = np.r_[compute, compute[-1] + gap * np.arange(1, round(compute[-1] / gap) + 1)]
    mean = np.asarray(SIGMOID.value(compute, params))
    return compute, mean, mean + ar1_noise(rng, len(compute), rho)


def widths(k: float, rho: float, i: int, futures: int = 12) -> list[float]:
    """Width of A and half-width of the band at 2x: realised, predicted, realised, predicted."""
    compute, _, rate = _curve(0, k, rho, i, doubled=True)
    data = _points(compute[:N], rate[:N])
    cut = cut_at(data, averaged=("sigmoid",))
    later = cut_at(_points(compute, rate), averaged=("sigmoid",))
    if cut is None or later is None:
        raise RuntimeError("a simulated curve without a fit")
    past = calibrate(data, averaged=("sigmoid",), origins=5)
    told = after(data, cut, past, 2.0, tolerance=0.02, level=0.95, futures=futures, seed=i)
    lo, hi = later.draws.quantile(later.draws.A, [0.025, 0.975])
    half = past.widening(2.0, "sigmoid").times * float(later.ahead(np.array([2.0 * later.last]), "sigmoid").sd[0])
    return [float(hi - lo), told.A_width, half, told.half]


class Stopped(NamedTuple):
    """Whether the rule stopped a run, whether wrongly, which share of the plan that saved, and the most it could."""

    stopped: bool
    wrong: bool
    saved: float
    could: float


def stopped_wrongly(k: float, rho: float, i: int) -> Stopped:
    """Look at a run after every fourth evaluation until the rule stops it."""
    compute, mean, rate = _curve(1, k, rho, i, doubled=False)
    data = _points(compute, rate)
    left = mean[-1] - mean
    looks = range(8, N, 4)
    could = next((1.0 - n / N for n in looks if left[n - 1] <= LEAST_GAIN), 0.0)
    cuts = []
    for n in looks:
        cut = cut_at(data, n)
        if cut is None:
            continue
        past = Calibration(data.some(np.arange(N) < n), tuple(cuts[-9:]), INFLATION["accuracy curves"])
        if verdict_of(gain(cut, past, float(compute[-1])), LEAST_GAIN) == "stop":
            return Stopped(True, bool(left[n - 1] > LEAST_GAIN), 1.0 - n / N, could)
        cuts.append(cut)
    return Stopped(False, False, 0.0, could)


def promised(k: float, rho: float, i: int) -> list[float]:
    """Power promised from one pilot run of each of two recipes, for 3 and for 5 seeds."""
    own = []
    for j in (2 * i, 2 * i + 1):
        compute, _, rate = _curve(2, k, rho, j, doubled=False)
        cut = cut_at(_points(compute, rate), averaged=("sigmoid",))
        if cut is None:
            raise RuntimeError("a simulated curve without a fit")
        d = cut.draws
        own.append(float(d.weight @ (d.A - d.weight @ d.A) ** 2))
    return [contrasts.power(GAP, *own, n, SEED_SD, repetitions=500, seed=i) for n in (3, 5)]


def _rows(work: Path, what: str, k: float, rho: float, curves: int) -> Array:
    """Compute what is missing of a cell."""
    made = {"widths": widths, "stop": stopped_wrongly, "power": promised}[what]
    file = work / f"{what}-{k:g}-{rho:g}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    with file.open("a") as out:
        for i in range(len(rows), curves):
            rows.append([float(v) for v in made(k, rho, i)])
            out.write(json.dumps(rows[-1]) + "\n")
            out.flush()
    return np.array(rows[:curves])


def main() -> None:
    """Print each part beside its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("widths", "stop", "power"))
    parser.add_argument("--curves", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path("outputs/plan"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    fine = True
    for k, rho in WIDTHS if args.only in {None, "widths"} else ():
        table = _rows(args.work, "widths", k, rho, args.curves)
        A, half = np.median(table[:, 0]) / np.median(table[:, 1]), np.median(table[:, 2]) / np.median(table[:, 3])
        each = np.median(table[:, 0] / table[:, 1]), np.median(table[:, 2] / table[:, 3])
        fine &= all(FACTORS[0] <= v <= FACTORS[1] for v in each)
        print(
            f"widths k {k:g} rho {rho:g}, {len(table)} curves, realised over predicted: ratios A {each[0]:.2f}, "
            f"band {each[1]:.2f}; ratio of medians: A {A:.2f}, band {half:.2f}",
            flush=True,
        )
    for k, rho in STOPS if args.only in {None, "stop"} else ():
        table = _rows(args.work, "stop", k, rho, args.curves)
        wrong, ended = wilson(int(table[:, 1].sum()), len(table)), wilson(int(table[:, 0].sum()), len(table))
        fine &= wrong.low <= 0.05
        print(
            f"stop k {k:g} rho {rho:g}, {len(table)} runs: wrongly stopped {wrong}, stopped {ended}; saved "
            f"{table[:, 2].mean():.2f} of the plan on average, at most {table[:, 3].mean():.2f}",
            flush=True,
        )
    for k, rho in POWERS if args.only in {None, "power"} else ():
        table = _rows(args.work, "power", k, rho, args.curves)
        print(
            f"power k {k:g} rho {rho:g}: 3 seeds {table[:, 0].mean():.2f}, 5 seeds {table[:, 1].mean():.2f}", flush=True
        )
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
