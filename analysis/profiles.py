"""Limits of a parameter from the F profile: where fixing it raises the sum of squares too far.

A value v of a parameter lies inside the limits at `level` if, with the parameter fixed at v and the others fitted
again, (S(v) / S_min - 1) * dof < F(level; 1, dof). This is the definition of `lmfit.conf_interval`, and the tests hold
the two against each other; it is computed here because lmfit takes two seconds to import and its search fails on
some curves. It assumes independent noise of one size. A limit that is not reached inside the box is `None`.

Where the curve is not past its midpoint the sum of squares has several valleys, and a descent from the point before
can end in the wrong one: the value then looks excluded and is not. So nothing counts as beyond a limit, and no limit
is returned, before a search over all valleys has said the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import fdtri

from analysis.leastsquares import Array, Box, Optimum, Problem, descend, minimise

WIDTH = 1e-6  # a limit is found to this share of its distance from the best value
AGREEMENT = 1e-4  # to this share the search over all valleys must give the same excess at a limit
PRECISION = 1e-9  # of the sums of squares along the way; what is allowed differs from the best by parts in a hundred


class BetterOptimumError(Exception):
    """The profile came upon a smaller sum of squares than the fit: the fit starts again from `theta`."""

    def __init__(self, theta: Array) -> None:
        super().__init__()
        self.theta = theta


def limits(
    problem: Problem, box: Box, best: Optimum, *, index: int, dof: int, level: float
) -> tuple[float | None, float | None]:
    """Return the lower and upper limit of ``theta[index]``, `None` where the box ends before the profile closes.

    Raises
    ------
    BetterOptimumError
        If the optimum turns out not to be one.
    """
    allowed = best.sse * (1.0 + float(fdtri(1.0, dof, level)) / dof)
    lo, hi = (_Side(problem, box, best, index, allowed).limit(sign) for sign in (-1.0, 1.0))
    return lo, hi


class _Point(NamedTuple):
    """A value, and how far the profile there lies beyond what is allowed, as a root so that it is nearly straight."""

    value: float
    excess: float


class _Side:
    """Walk along the profile of one parameter; every fit starts from the one before."""

    def __init__(self, problem: Problem, box: Box, best: Optimum, index: int, allowed: float) -> None:
        self.problem, self.box, self.best, self.index, self.allowed = problem, box, best, index, allowed
        self.theta = best.theta

    def limit(self, sign: float) -> float | None:
        value = float(self.best.theta[self.index])
        end = float(self.box.high[self.index] if sign > 0.0 else self.box.low[self.index])
        step = self._first_step()
        inside = _Point(value, -self._distance_allowed())
        while True:
            at = inside.value + sign * step
            if (end - at) * sign <= 0.0:
                at = end
            there = self._near(at)
            if there.excess > 0.0:
                there = self._anywhere(at)
            if there.excess > 0.0:
                return self._confirmed_root(inside, there)
            if at == end:
                return None
            inside, step = there, 2.0 * step

    def _confirmed_root(self, inside: _Point, outside: _Point) -> float:
        """The root found by descents from neighbours where all valleys agree on it, otherwise by the slow search."""
        root = self._root(inside, outside, self._near)
        there = self._anywhere(root)
        if abs(there.excess) <= AGREEMENT * self._distance_allowed():
            return root
        inside, outside = (inside, there) if there.excess > 0.0 else (there, outside)
        return self._root(inside, outside, self._anywhere)

    def _root(self, inside: _Point, outside: _Point, excess: Callable[[float], _Point]) -> float:
        """Illinois false position: the excess is nearly straight in the parameter, so few fits are needed."""
        tolerance = WIDTH * abs(outside.value - float(self.best.theta[self.index]))
        at_inside, at_outside = inside.excess, outside.excess
        for _ in range(60):
            if abs(outside.value - inside.value) <= tolerance:
                break
            middle = excess((inside.value * at_outside - outside.value * at_inside) / (at_outside - at_inside))
            if abs(middle.excess) <= WIDTH * self._distance_allowed():
                return middle.value
            if middle.excess > 0.0:
                outside, at_outside, at_inside = middle, middle.excess, at_inside / 2.0
            else:
                inside, at_inside, at_outside = middle, middle.excess, at_outside / 2.0
        return 0.5 * (inside.value + outside.value)

    def _near(self, value: float) -> _Point:
        """The profile at `value` by one descent from the last point: quick, and an upper bound."""
        box = self.box.fix(self.index, value)
        return self._point(value, *descend(self.problem, box, self._start(value), precision=PRECISION))

    def _anywhere(self, value: float) -> _Point:
        """The profile at `value` by a search over all valleys."""
        box = self.box.fix(self.index, value)
        found = minimise(self.problem, box, more_starts=(self._start(value),), precision=PRECISION)
        return self._point(value, found.theta, found.sse)

    def _point(self, value: float, theta: Array, sse: float) -> _Point:
        if sse < self.best.sse * (1.0 - 1e-7):
            raise BetterOptimumError(theta)
        self.theta = theta
        return _Point(value, float(np.sqrt(max(sse - self.best.sse, 0.0))) - self._distance_allowed())

    def _start(self, value: float) -> Array:
        start = self.theta.copy()
        start[self.index] = value
        return start

    def _distance_allowed(self) -> float:
        return float(np.sqrt(self.allowed - self.best.sse))

    def _first_step(self) -> float:
        """Twice the standard error from J'J, where that is a number; the walk doubles it as needed."""
        free = self.box.free
        jacobian = self.problem.jacobian(self.best.theta)[:, free]
        with np.errstate(all="ignore"):
            covariance = np.linalg.pinv(jacobian.T @ jacobian)
        k = int(np.flatnonzero(free).tolist().index(self.index))
        step = float(np.sqrt(max(covariance[k, k], 0.0) * (self.allowed - self.best.sse)))
        span = float(self.box.high[self.index] - self.box.low[self.index])
        return float(np.clip(step if np.isfinite(step) else 0.0, 1e-9 * span, 0.1 * span))
