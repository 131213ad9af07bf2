"""Groups: does the line's interval hold the next size, and how often does the shared test say "differ" falsely?

Run ``python -m benchmarks.groups [--only line|test] [--curves 400]`` from the repository's root. line: G sizes 1, 2, 4,
..., logit A = -.2 + .25 ln size and ln C_mid = .2 ln size, each with scatter of sd .05, R0 .1, B 1.5, 40 evaluations to
6 C_mid with noise sd .01; the interval of A at the next size against its true A (with a scatter of its own). test: two
data sets of one run with the same B and C_mid, run noise (sd .01, rho .5) in common to a share of its variance and 60
evaluations to 5 C_mid; share of p < .05 where A is .7 and .5. Seed 21.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from scipy.special import expit

from analysis.curves.curve import R
from analysis.fits.evaluations import Evaluations
from analysis.pooled.joint import fit_shared
from analysis.pooled.secondstage import fit_line
from analysis.predict.ahead import cut_at
from analysis.readers.frames import read_frame
from benchmarks.simulate import ar1_noise, wilson

SEED, SCATTER = 21, 0.05


def held_by_line(groups: int, i: int) -> bool:
    """Whether the interval of A at the next size holds its truth."""
    rng = np.random.default_rng([SEED, groups, i])
    sizes = 2.0 ** np.arange(groups + 1)
    A = expit(-0.2 + 0.25 * np.log(sizes) + rng.normal(0.0, SCATTER, groups + 1))
    C_mid = np.exp(0.2 * np.log(sizes) + rng.normal(0.0, SCATTER, groups + 1))
    draws = []
    for a, mid in zip(A[:-1], C_mid[:-1], strict=True):
        compute = np.linspace(0.15, 6.0, 40) * mid
        rate = R(compute, 0.1, a, 1.5, mid) + rng.normal(0.0, 0.01, 40)
        cut = cut_at(Evaluations(compute, rate, compute, None, ()), averaged=("sigmoid",), seed=i)
        draws.append(None if cut is None else cut.draws)
    told = fit_line("A", sizes[:-1], draws, float(sizes[-1]), 0.95)
    return bool(told.lo <= A[-1] <= told.hi)


def p_of_test(common: float, i: int) -> float:
    """P of the test of shared B and C_mid, of two groups that do share them."""
    rng = np.random.default_rng([SEED, 99, round(100 * common), i])
    compute = np.linspace(0.1, 5.0, 60)
    together = ar1_noise(rng, 60, 0.5)
    runs = []
    for name, A in (("one", 0.7), ("other", 0.5)):
        noise = np.sqrt(common) * together + np.sqrt(1.0 - common) * ar1_noise(rng, 60, 0.5)
        runs.append(read_frame({"gpu_hours": compute, "pass_rate": R(compute, 0.1, A, 1.5, 1.0) + noise}, name))
    p = fit_shared(runs, ("B", "C_mid")).p
    return 1.0 if p is None else p


def main() -> None:
    """Print each share with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("line", "test"))
    parser.add_argument("--curves", type=int, default=400)
    args = parser.parse_args()
    fine = True
    for groups in (3, 4, 6) if args.only != "test" else ():
        share = wilson(sum(held_by_line(groups, i) for i in range(args.curves)), args.curves)
        fine &= share.high >= 0.95
        print(f"line through {groups} sizes: the next is held in {share}", flush=True)
    for common in (0.0, 0.8) if args.only != "line" else ():
        share = wilson(sum(p_of_test(common, i) < 0.05 for i in range(args.curves)), args.curves)
        fine &= share.low <= 0.05
        print(f"test of shared B and C_mid, {common:.0%} of the noise in common: p < .05 in {share}", flush=True)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
