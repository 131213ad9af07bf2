"""Least squares of the law for one run: points, bounds, optimum. The search itself is `analysis.curves.projection`.

Promises: the smallest sum of squares among all starts; every parameter inside its `Box`; the same answer for compute in
any unit (C_mid scales with it). The shape is worked in logarithms: theta = (R0, A, ln B, ln C_mid).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.curves.curve import gradient, logistic
from analysis.curves.families import SIGMOID
from analysis.curves.projection import Curves, fit_many
from analysis.curves.solver import Array
from analysis.curves.whitening import Whitener

NAMES = ("R0", "A", "B", "C_mid")  # order of theta
STARTS = 8  # valleys of the start grid that are followed: few, noisy points have several
PRECISE = 1e-13  # share of the sum of squares below which a step is not worth taking


def default_box(compute: Array) -> Box:
    """Return the bounds: R0 and A in [0, 1], and those of the shape that the family gives for the compute."""
    positive = np.unique(compute[compute > 0.0])
    low, high = SIGMOID.bounds(np.log(positive) if len(positive) else np.zeros(1))
    return Box(np.concatenate([[0.0, 0.0], low]), np.concatenate([[1.0, 1.0], high]))


@dataclass(frozen=True)
class Box:
    """Bounds of R0, A, ln B and ln C_mid, (4,) each; equal bounds hold a parameter."""

    low: Array
    high: Array

    def fix(self, index: int, value: float) -> Box:
        """Return the box with one parameter held."""
        low, high = self.low.copy(), self.high.copy()
        low[index] = high[index] = value
        return Box(low, high)

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which parameters may move."""
        return self.high > self.low


@dataclass(frozen=True)
class Optimum:
    """A fitted curve: theta = (R0, A, ln B, ln C_mid), its sum of squares, and the start (ln B, ln C_mid)."""

    theta: Array
    sse: float
    start: Array


@dataclass(frozen=True)
class Problem:
    """Points to fit, (n,) each, in order of compute; `log_compute` is -inf at compute 0."""

    log_compute: Array
    pass_rate: Array
    whitener: Whitener | None = None

    @property
    def n(self) -> int:
        return len(self.pass_rate)

    def fit(self, box: Box, start: Array | None = None) -> Optimum:
        """Least squares inside the box."""
        found = self.fit_rows(box.low[None], box.high[None], None if start is None else start[None])
        return Optimum(np.concatenate([found.linear[0], found.shape[0]]), float(found.sse[0]), found.start[0])

    def fit_rows(self, low: Array, high: Array, start: Array | None = None, *, starts: int = STARTS) -> Curves:
        """The same points fitted inside several boxes, (k, 4) each; `starts` as in `fit_many`."""
        return fit_many(
            self.log_compute,
            np.broadcast_to(self.pass_rate, (len(low), self.n)),
            whitener=self.whitener,
            linear_low=low[:, :2],
            linear_high=high[:, :2],
            shape_low=low[:, 2:],
            shape_high=high[:, 2:],
            start=start,
            starts=starts,
            thorough=True,
            precision=PRECISE,
        )

    def residual(self, theta: Array) -> Array:
        """Fitted minus observed, (n,), not whitened."""
        z = np.exp(theta[2]) * (self.log_compute - theta[3])
        s = logistic(z)
        return np.asarray(theta[0] * (1.0 - s) + theta[1] * s - self.pass_rate)

    def jacobian(self, theta: Array) -> Array:
        """Whitened derivatives with respect to theta, (n, 4)."""
        natural = (theta[0], theta[1], math.exp(theta[2]), math.exp(theta[3]))
        columns = gradient(np.exp(self.log_compute), *natural) * np.array([1.0, 1.0, natural[2], natural[3]])
        return columns if self.whitener is None else self.whitener(columns.T).T
