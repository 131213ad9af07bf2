"""Does the fit find the curve where there is no noise, and the deepest valley where there is?

Run ``python -m benchmarks.recovery`` from the repository's root. 1,000 curves without noise: k in [1.5, 6], B in
[.5, 4], A in [.4, 1], R0 in [.01, .35], C_mid log-uniform on [1e-9, 1e9], 20 to 60 evaluations, evenly spaced or by a
constant factor, every other run with one before training. Reported is the largest relative error, that of R0 relative
to A - R0. Beside it 1,000 curves of `benchmarks.simulate` with noise. On all of them a search from 200 starts, drawn
evenly over the bounds of (ln B, ln C_mid), looks for a smaller sum of squares; scipy's `least_squares` repeats it from
10 starts in all four parameters on the first 20 noisy ones. Seed 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.curves.curve import R
from analysis.curves.families import Array
from analysis.curves.leastsquares import Problem, default_box
from analysis.curves.projection import EXACT, fit_many
from benchmarks.simulate import CELLS, simulate

SEED = 3
STARTS, SCIPY_STARTS, SCIPY_CURVES = 200, 10, 20
BAR = 1e-8
LESS = 1e-7  # share by which another sum of squares must be smaller to be called a miss
ROUNDING = 1e-28  # sum of squares per point that rounding alone leaves


class Exact(NamedTuple):
    """A curve without noise: parameters (R0, A, B, C_mid), compute (n,), ascending."""

    params: Array
    compute: Array


def exact(i: int) -> Exact:
    """Curve `i`."""
    rng = np.random.default_rng(np.random.SeedSequence([SEED, i]))
    k, n, C_mid = rng.uniform(1.5, 6.0), int(rng.integers(20, 61)), 10.0 ** rng.uniform(-9.0, 9.0)
    params = np.array([rng.uniform(0.01, 0.35), rng.uniform(0.4, 1.0), rng.uniform(0.5, 4.0), C_mid])
    compute = C_mid * (np.linspace(0.1, k, n) if rng.random() < 0.5 else np.geomspace(0.05, k, n))
    return Exact(params, np.r_[0.0, compute] if i % 2 else compute)


def error(curve: Exact) -> float:
    """Largest relative error of a parameter."""
    found = _problem(curve.compute, R(curve.compute, *curve.params)).fit(default_box(curve.compute))
    got = np.array([*found.theta[:2], *np.exp(found.theta[2:])])
    size = np.abs(curve.params)
    size[0] = curve.params[1] - curve.params[0]
    return float((np.abs(got - curve.params) / size).max())


def _problem(compute: Array, pass_rate: Array) -> Problem:
    with np.errstate(divide="ignore"):
        return Problem(np.log(compute), pass_rate)


def is_missed(compute: Array, y: Array, rng: np.random.Generator, starts: int = STARTS) -> bool:
    """Does a search from many starts find a smaller sum of squares?"""
    problem, box = _problem(compute, y), default_box(compute)
    start = rng.uniform(box.low[2:], box.high[2:], (starts, 2))
    tried = fit_many(problem.log_compute, np.tile(y, (starts, 1)), start=start, starts=0, precision=EXACT)
    return bool(problem.fit(box).sse > tried.sse.min() * (1.0 + LESS) + ROUNDING * len(y))


def is_missed_by_scipy(compute: Array, y: Array, rng: np.random.Generator, starts: int = SCIPY_STARTS) -> bool:
    """The same by another solver, in all four parameters and from compute and pass rate alone."""
    from scipy.optimize import least_squares

    box = default_box(compute)

    def residual(theta: Array) -> Array:
        return np.asarray(R(compute, theta[0], theta[1], np.exp(theta[2]), np.exp(theta[3])) - y)

    least = np.inf
    for _ in range(starts):
        start = rng.uniform(box.low, box.high)
        start[2:] = rng.uniform([-1.0, np.log(compute[-1]) - 3.0], [2.0, np.log(compute[-1]) + 2.0])
        found = least_squares(residual, start, bounds=(box.low, box.high), xtol=1e-12, ftol=1e-12, gtol=1e-12)
        least = min(least, 2.0 * float(found.cost))
    return _problem(compute, y).fit(box).sse > least * (1.0 + LESS)


class Result(NamedTuple):
    """Largest error without noise, and how many curves each search found a deeper valley on."""

    curves: int
    largest: float
    missed_exact: int
    missed_noisy: int
    missed_by_scipy: int

    @property
    def ok(self) -> bool:
        return self.largest <= BAR and not (self.missed_exact or self.missed_noisy or self.missed_by_scipy)


def measure(curves: int = 1000, scipy_curves: int = SCIPY_CURVES, starts: int = STARTS) -> Result:
    """Run everything on `curves` curves of both kinds."""
    rng = np.random.default_rng(SEED)
    without = [exact(i) for i in range(curves)]
    noisy = [simulate(CELLS[i % len(CELLS)], i, SEED) for i in range(curves)]
    return Result(
        curves,
        max(error(curve) for curve in without),
        sum(is_missed(c.compute, R(c.compute, *c.params), rng, starts) for c in without),
        sum(is_missed(c.compute, c.pass_rate, rng, starts) for c in noisy),
        sum(is_missed_by_scipy(c.compute, c.pass_rate, rng) for c in noisy[:scipy_curves]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the exit status says whether the bars hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--curves", type=int, default=1000)
    options = parser.parse_args(arguments)
    found = measure(options.curves)
    print(f"{found.curves} curves without noise: largest relative error {found.largest:.1e}, at most {BAR:g}")
    print(f"a deeper valley found from {STARTS} starts: {found.missed_exact} of them, {found.missed_noisy} with noise")
    print(f"by scipy from {SCIPY_STARTS} starts: {found.missed_by_scipy} of the first {SCIPY_CURVES} with noise")
    print("every bar holds" if found.ok else "a bar is missed")
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
