"""What a method of fitting is given and what it returns, with the standard errors that every method can state.

Promises: values and limits in natural units; a limit that a method does not give is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.curves.errors import hessian_covariance, jacobian_covariance
from analysis.curves.families import SIGMOID
from analysis.curves.leastsquares import NAMES, Box, Optimum, Problem
from analysis.curves.solver import Array
from analysis.findings import Finding
from analysis.fits.doubts import EDGE
from analysis.posteriors.draws import Draws
from analysis.posteriors.priors import Priors

LARGEST_LOG = 709.7  # e to this is finite
# What a fit report says of a method beside its name and bounds.
LEAST_SQUARES = {
    "loss": "sum of squared residuals, every evaluation with weight 1",
    "starts": "valleys of a grid over ln B and ln C_mid, R0 and A solved for",
}

Values = dict[str, float]
Limits = dict[str, tuple[float | None, float | None]]
Errors = dict[str, float]


@dataclass(frozen=True)
class Points:
    """What a method is given.

    Attributes
    ----------
    problem : Problem
        Points in order of compute, not whitened.
    compute, time : (n,) array
        `time` is what the correlation of the noise decays over.
    variance : (n,) array or None
        Of each evaluation, from its counts.
    box : Box
        Bounds; R0's are equal where it is held.
    best : Optimum
        Least squares.
    """

    problem: Problem
    compute: Array
    time: Array
    variance: Array | None
    box: Box
    best: Optimum
    level: float
    seed: int
    priors: Priors
    kind: str
    correlated: bool

    @property
    def dof(self) -> int:
        return self.problem.n - int(self.box.free.sum())

    @property
    def last(self) -> float:
        return float(self.compute[-1])


@dataclass(frozen=True)
class Estimate:
    """What a method returns: values and limits by name in natural units, and what it knows beside them.

    `optimum` and `box` are where it stands and the bounds it searched, None where they are those of least squares;
    `report` is what a fit report says of it beside `how`, in the place of `LEAST_SQUARES`; `has_limits` says whether
    the method gives limits at all.
    """

    values: Values
    limits: Limits
    findings: tuple[Finding, ...] = ()
    draws: Draws | None = None
    grade: float | None = None
    noise: Mapping[str, float | None] = field(default_factory=dict)
    how: str = ""
    optimum: Optimum | None = None
    box: Box | None = None
    report: Mapping[str, str] = field(default_factory=lambda: LEAST_SQUARES)
    has_limits: bool = True

    def in_unit(self, unit: float) -> Estimate:
        """The same with C_mid multiplied by `unit`."""
        lo, hi = (None if v is None else v * unit for v in self.limits["C_mid"])
        return replace(
            self,
            values={**self.values, "C_mid": self.values["C_mid"] * unit},
            limits={**self.limits, "C_mid": (lo, hi)},
            draws=None if self.draws is None else replace(self.draws, C_mid=self.draws.C_mid * unit),
        )


def standard_errors(points: Points, unit: float = 1.0) -> tuple[Errors, Errors]:
    """Standard errors of the free parameters from J'J and from the observed Hessian; empty where there are none.

    One that lies on a bound has none: the sum of squares has no minimum in it there. `unit` multiplies those of C_mid.
    """
    values = natural(points.best.theta)
    free = [name for i, name in enumerate(NAMES) if points.box.free[i]]
    params = [values[name] for name in NAMES]
    room = np.minimum(points.best.theta - points.box.low, points.box.high - points.best.theta)
    inside = [name for i, name in enumerate(NAMES) if room[i] >= EDGE]
    out: list[Errors] = []
    for covariance in (jacobian_covariance, hessian_covariance):
        with np.errstate(all="ignore"):  # compute over hundreds of orders of magnitude
            found = covariance(SIGMOID, points.compute, points.problem.pass_rate, params, free=free)
        if found is not None and not (np.diag(found) > 0.0).all():
            found = None
        errors = {} if found is None else dict(zip(free, np.sqrt(np.diag(found)).tolist(), strict=True))
        out.append({n: value * (unit if n == "C_mid" else 1.0) for n, value in errors.items() if n in inside})
    return out[0], out[1]


def natural(theta: Array) -> Values:
    """Name (R0, A, ln B, ln C_mid) and undo the logarithms."""
    return dict(zip(NAMES, (float(theta[0]), float(theta[1]), exp_of(theta[2]), exp_of(theta[3])), strict=True))


def exp_of(value: float) -> float:
    """The largest float, not an error, where a compute would be larger."""
    return math.exp(min(float(value), LARGEST_LOG))
