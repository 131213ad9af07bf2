"""The paper's 100k-GPU-hour run: does the ceiling from part of the data hold the one from all of it?

Run ``python -m benchmarks.long_run`` from the repository's root. Data: the 33 evaluations in data/paper, as digitised
(no evaluation at C = 0), cut at 12k, 16k, 20k, 30k, 50k GPU-hours and not at all; posterior with the default priors,
4,000 draws, seed 0. Grade is P(C_max > 2 C_mid | data), usable from .9. Nothing here is fitted to what comes after a
cut, but the run is one, and known: this is a check, not a test.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.curves.families import SIGMOID, Array
from analysis.curves.projection import fit_many
from analysis.posteriors.posterior import posterior

FILE = Path(__file__).parent.parent / "data" / "paper" / "scalerl_8b_bs2048_100k.csv"
CUTS = (12e3, 16e3, 20e3, 30e3, 50e3, math.inf)
USABLE = 0.9
WIDTHS = {30e3: 0.15, 50e3: 0.06}
PROTOTYPE = {
    12e3: (0.628, 0.992, 0.00),
    16e3: (0.594, 0.975, 0.03),
    20e3: (0.600, 0.933, 0.35),
    30e3: (0.610, 0.724, 0.96),
    50e3: (0.630, 0.676, 1.00),
    math.inf: (0.641, 0.654, 1.00),
}


class Row(NamedTuple):
    """What the data up to a cut say of A; the forecast is of the pass rate at 100k GPU-hours."""

    cut: float
    points: int
    lower: float
    upper: float
    grade: float
    forecast: tuple[float, float]
    effective: float

    @property
    def name(self) -> str:
        return "all" if math.isinf(self.cut) else f"{self.cut / 1e3:g}k"


def load() -> tuple[Array, Array]:
    """GPU-hours and pass rates, (33,) each, ascending."""
    table = np.loadtxt(FILE, delimiter=",", skiprows=1, usecols=(0, 1))
    table = table[np.argsort(table[:, 0])]
    return table[:, 0], table[:, 1]


def fitted() -> Array:
    """R0, A, B and C_mid of least squares on all points."""
    compute, pass_rate = load()
    return np.asarray(fit_many(np.log(compute), pass_rate[None]).natural()[0])


def rows(seed: int = 0) -> list[Row]:
    """One row a cut."""
    compute, pass_rate = load()
    out = []
    for cut in CUTS:
        c, y = compute[compute <= cut], pass_rate[compute <= cut]
        p = posterior(c, y, seed=seed)
        lower, upper = p.quantile(p.A, np.array([0.025, 0.975]))
        later = p.R0 + (p.A - p.R0) / (1.0 + (p.C_mid / 1e5) ** p.B)
        low, high = p.quantile(later, np.array([0.025, 0.975]))
        grade = float(p.weight[c[-1] > 2.0 * p.C_mid].sum())
        out.append(Row(cut, len(c), float(lower), float(upper), grade, (float(low), float(high)), p.effective))
    return out


def misses(found: list[Row], A: float) -> list[str]:
    """What does not hold, in words."""
    out = [f"{row.name}: the interval does not hold {A:.3f}" for row in found if not row.lower <= A <= row.upper]
    out += [
        f"{row.name}: width {row.upper - row.lower:.3f}, at most {WIDTHS[row.cut]:g} wanted"
        for row in found
        if row.upper - row.lower > WIDTHS.get(row.cut, 1.0)
    ]
    return out + [f"{row.name}: grade {row.grade:.2f}" for row in found if (row.grade >= USABLE) != (row.cut >= 30e3)]


def main() -> int:
    """Print the table; the exit status says whether all holds."""
    params = fitted()
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(SIGMOID.parameters, params, strict=True))
    print(f"least squares on all points: {values}")
    print(f"{'up to':<7}{'points':>7}{'A':>14}{'width':>8}{'grade':>7}{'at 100k':>14}{'draws':>7}   prototype")
    found = rows()
    for row in found:
        lower, upper, grade = PROTOTYPE[row.cut]
        print(
            f"{row.name:<7}{row.points:>7}{f'{row.lower:.3f}-{row.upper:.3f}':>14}{row.upper - row.lower:>8.3f}"
            f"{row.grade:>7.2f}{'{:.3f}-{:.3f}'.format(*row.forecast):>14}{row.effective:>7.0f}"
            f"   {lower:.3f}-{upper:.3f} {grade:.2f}"
        )
    missed = misses(found, float(params[1]))
    print("\n".join(f"missed: {what}" for what in missed) or "every bar holds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
