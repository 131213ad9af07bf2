"""Does the reach mean something? Simulated curves: it grows with the data and with independent noise, and it holds.

Run ``python -m benchmarks.reach [--curves 150]`` from the repository's root. Curves as `benchmarks.simulate` draws them
(noise sd .01), 60 evaluations from .1 to k C_mid, k in {1, 2, 5}, rho in {0, .6}, seed 9. `held`: the mean curve at the
reach lies within .02 of its forecast. `covers`: the 95 % band of the mean curve at 2x. Rows are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from analysis.curves.families import SIGMOID
from analysis.fits.evaluations import Evaluations
from analysis.fits.reach import TOLERANCE
from analysis.predict.ahead import METHODS, calibrate, cut_at
from analysis.predict.reaches import path_of, reach_of
from benchmarks.simulate import ar1_noise, draw_params, wilson

KS, RHOS, N, SEED = (1.0, 2.0, 5.0), (0.0, 0.6), 60, 9


def record(k: float, rho: float, i: int) -> list[float]:
    """Of each method: reach, error of the mean curve at the reach, error at 2x, half-width there."""
    rng = np.random.default_rng([SEED, round(10 * k), round(10 * rho), i])
    params = draw_params(rng)
    compute = params[3] * np.linspace(0.1, k, N)
    rate = np.asarray(SIGMOID.value(compute, params)) + ar1_noise(rng, N, rho)
    data = Evaluations(compute, rate, compute, None, ())
    cut, past = cut_at(data), calibrate(data)
    if cut is None:
        raise RuntimeError("a simulated curve without a fit")
    row: list[float] = []
    for method in METHODS:
        reach = reach_of(path_of(cut, past, 0.95, method), past, TOLERANCE, method).value
        at = np.array([reach, 2.0]) * cut.last
        mid, sd = cut.ahead(at, method)
        truth = np.asarray(SIGMOID.value(at, params))
        row += [reach, *np.abs(mid - truth).tolist(), past.widening(2.0, method).times * float(sd[1])]
    return row


def main() -> None:
    """Print every cell, and whether the quartiles grow as they should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=150)
    parser.add_argument("--work", type=Path, default=Path("outputs/reach"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    quartiles = {}
    for rho in RHOS:
        for k in KS:
            file = args.work / f"{k:g}-{rho:g}.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            with file.open("a") as out:
                for i in range(len(rows), args.curves):
                    rows.append(record(k, rho, i))
                    out.write(json.dumps(rows[-1]) + "\n")
                    out.flush()
            for j, method in enumerate(METHODS):
                reach, at_reach, at_2x, half = np.array(rows[: args.curves])[:, 4 * j : 4 * j + 4].T
                quartiles[rho, k, method] = np.round(np.percentile(reach, [25, 50, 75]), 2)
                held = wilson(int((at_reach <= TOLERANCE).sum()), len(reach))
                covers = wilson(int((at_2x <= half).sum()), len(reach))
                shown = ", ".join(f"{q:.2f}" for q in quartiles[rho, k, method])
                print(
                    f"rho {rho:g} k {k:g} {method:<8} reach quartiles {shown}; held {held}; at 2x covers {covers}, "
                    f"median half-width {np.median(half):.3f}",
                    flush=True,
                )
    fine = all(
        (quartiles[rho, a, m] <= quartiles[rho, b, m]).all() and quartiles[rho, a, m].sum() < quartiles[rho, b, m].sum()
        for m in METHODS
        for rho in RHOS
        for a, b in ((1.0, 2.0), (2.0, 5.0))
    ) and all((quartiles[0.6, k, m] <= quartiles[0.0, k, m]).all() for m in METHODS for k in KS)
    print("quartiles grow with k and with falling rho" if fine else "MISSED: quartiles do not grow as they should")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
