"""Limits of a parameter from the F profile: where fixing it raises the sum of squares too far.

A value v of a parameter lies inside the limits at `level` if, with the parameter fixed at v and the others fitted
again, (S(v) / S_min - 1) * dof < F(level; 1, dof). This is the definition of `lmfit.conf_interval`, and the tests hold
the two against each other; it is computed here because lmfit takes two seconds to import and its search fails on
some curves. It assumes independent noise of one size. A limit that is not reached inside the box is `None`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import fdtri

from analysis.leastsquares import Array, Box, Optimum, Problem, descend

WIDTH = 1e-6  # a limit is found to this share of its distance from the best value
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


class _Side:
    """Walk along the profile of one parameter; every fit starts from the one before."""

    def __init__(self, problem: Problem, box: Box, best: Optimum, index: int, allowed: float) -> None:
        self.problem, self.box, self.best, self.index, self.allowed = problem, box, best, index, allowed
        self.theta = best.theta

    def limit(self, sign: float) -> float | None:
        value = float(self.best.theta[self.index])
        end = float(self.box.high[self.index] if sign > 0.0 else self.box.low[self.index])
        step = self._first_step()
        inside, outside = value, value
        at_inside = -self._distance_allowed()
        while True:
            outside = inside + sign * step
            if (end - outside) * sign <= 0.0:
                outside = end
            at_outside = self._excess(outside)
            if at_outside > 0.0:
                return self._root(inside, at_inside, outside, at_outside)
            if outside == end:
                return None
            inside, at_inside, step = outside, at_outside, 2.0 * step

    def _root(self, inside: float, at_inside: float, outside: float, at_outside: float) -> float:
        """Illinois false position: the excess is nearly straight in the parameter, so few fits are needed."""
        tolerance = WIDTH * abs(outside - float(self.best.theta[self.index]))
        for _ in range(60):
            if abs(outside - inside) <= tolerance:
                break
            middle = (inside * at_outside - outside * at_inside) / (at_outside - at_inside)
            at_middle = self._excess(middle)
            if abs(at_middle) <= WIDTH * self._distance_allowed():
                return middle
            if at_middle > 0.0:
                outside, at_outside, at_inside = middle, at_middle, at_inside / 2.0
            else:
                inside, at_inside, at_outside = middle, at_middle, at_outside / 2.0
        return 0.5 * (inside + outside)

    def _excess(self, value: float) -> float:
        """How far the profile at `value` lies beyond what is allowed, as a root so that it is nearly straight."""
        theta, sse = descend(self.problem, self.box.fix(self.index, value), self._start(value), precision=PRECISION)
        if sse < self.best.sse * (1.0 - 1e-7):
            raise BetterOptimumError(theta)
        self.theta = theta
        return float(np.sqrt(max(sse - self.best.sse, 0.0))) - self._distance_allowed()

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
