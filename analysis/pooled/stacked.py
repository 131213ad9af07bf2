"""Least squares of several runs in one problem: each of R0, A, ln B and ln C_mid is one value a run or one for all.

Promises: the smallest sum of squares among descents from every run's own values of the shared parameters and from their
mean, each after the other parameters were searched over all valleys. Does not promise the limits of a shared
parameter where a run ends before 2 C_mid: they are walked by descents from the value before, which can end in another
valley than the best.

Shapes: r runs, n points in all, p parameters of the joint problem, m problems looked at together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

from analysis.curves.families import SIGMOID, Array
from analysis.curves.leastsquares import NAMES, Box, Optimum, Problem
from analysis.curves.projection import STARTS
from analysis.curves.solver import Dense, Index, Solution, minimise
from analysis.fits.estimating import EXACT_RMS

DOUBLINGS, ROOTS = 30, 40
WIDTH = 1e-6  # a limit is found where the excess is this share of what is allowed
EDGE = 1e-9  # of a bound, in worked units


@dataclass(frozen=True)
class Member:
    """One run, ready to be fitted with others.

    Attributes
    ----------
    problem : Problem
        Whitened by the run's own correlation; compute is relative to a unit that all runs share.
    best : Optimum
        Its own least squares fit.
    scale : float
        What its residuals are divided by.
    rho : float
    """

    name: str
    problem: Problem
    box: Box
    best: Optimum
    scale: float
    rho: float

    @property
    def sse(self) -> float:
        """The own fit's sum of squares, scaled."""
        return self.best.sse / self.scale**2

    @property
    def sigma(self) -> float:
        """Standard deviation of its noise, from its own fit."""
        return math.sqrt(self.best.sse / (self.problem.n - int(self.box.free.sum())))

    @property
    def exact(self) -> bool:
        """Whether its points lie on its curve to rounding."""
        return math.sqrt(self.best.sse / self.problem.n) <= EXACT_RMS

    def refitted(self, shape: Array, *, rescale: bool) -> Member:
        """The same after a search from one more start."""
        best = self.problem.fit(self.box, shape)
        again = replace(self, best=best if best.sse < self.best.sse else self.best)
        return replace(again, scale=again.sigma) if rescale and not again.exact else again


@dataclass(frozen=True)
class Joint:
    """A solved joint problem.

    Attributes
    ----------
    columns : (r, 4) array
        Which parameter of the joint problem each run takes as R0, A, ln B and ln C_mid.
    theta : (p,) array
    sse : float
    """

    members: tuple[Member, ...]
    share: tuple[str, ...]
    columns: NDArray[np.intp]
    theta: Array
    sse: float

    @property
    def n(self) -> int:
        return sum(m.problem.n for m in self.members)

    @property
    def p(self) -> int:
        return len(self.theta)

    @property
    def dof(self) -> int:
        return self.n - self.p

    def each(self) -> Array:
        """R0, A, ln B and ln C_mid of every run, (r, 4)."""
        return np.asarray(self.theta[self.columns])

    def bounds(self) -> tuple[Array, Array]:
        """Bounds (p,) of the joint parameters; a shared one may go wherever some run's may."""
        low, high = np.full(self.p, np.inf), np.full(self.p, -np.inf)
        for m, columns in zip(self.members, self.columns, strict=True):
            low[columns] = np.minimum(low[columns], m.box.low)
            high[columns] = np.maximum(high[columns], m.box.high)
        return low, high

    def errors(self) -> Array:
        """Standard errors (p,) from J'J; NaN for a parameter on a bound, and for all if J'J is singular."""
        low, high = self.bounds()
        inside = (self.theta > low + EDGE) & (self.theta < high - EDGE)
        jacobian = self.model(self.theta[None], np.zeros(1, dtype=np.intp)).jacobian[0][:, inside]
        out = np.full(self.p, np.nan)
        _, s, vt = np.linalg.svd(jacobian, full_matrices=False)
        if len(s) and s[-1] > 1e-12 * s[0] and self.dof > 0:
            out[inside] = np.sqrt((((vt / s[:, None]) ** 2).sum(axis=0)) * self.sse / self.dof)
        return out

    def model(self, theta: Array, _: Index) -> Dense:
        """Residuals (m, n) and Jacobians (m, n, p) at theta (m, p)."""
        residual = np.empty((len(theta), self.n))
        jacobian = np.zeros((len(theta), self.n, self.p))
        first = 0
        for member, columns in zip(self.members, self.columns, strict=True):
            own, problem = theta[:, columns], member.problem
            s, slopes = SIGMOID.rise(problem.log_compute, own[:, 2:])
            gain = (own[:, 1] - own[:, 0])[:, None]
            off = own[:, :1] + gain * s - problem.pass_rate
            stack = np.stack([1.0 - s, s, gain * slopes[:, 0], gain * slopes[:, 1]], axis=1)
            if problem.whitener is not None:
                off, stack = problem.whitener(off), problem.whitener(stack)
            part = slice(first, first + problem.n)
            residual[:, part] = off / member.scale
            for k, column in enumerate(columns):
                jacobian[:, part, column] = stack[:, k] / member.scale
            first += problem.n
        return Dense(residual, jacobian)


def solve(members: Sequence[Member], share: Iterable[str], starts: Iterable[Array] = ()) -> Joint:
    """Fit the runs with the parameters `share` (names of `NAMES`) held in common.

    Parameters
    ----------
    starts : iterable of (r, 4) arrays
        More starts: R0, A, ln B and ln C_mid of every run, equal where they are shared.
    """
    share = tuple(name for name in NAMES if name in set(share))
    columns, width = _columns(len(members), share)
    own = np.stack([m.best.theta for m in members])
    free = Joint(tuple(members), share, columns, _packed(own, columns, width), sum(m.sse for m in members))
    if not share:
        return free
    candidates = np.stack([_packed(each, columns, width) for each in (*_candidates(members, share), *starts)])
    low, high = free.bounds()
    found = minimise(free.model, candidates, low, high)
    best = int(np.argmin(found.sse))
    return replace(free, theta=found.theta[best], sse=float(found.sse[best]))


def _columns(runs: int, share: tuple[str, ...]) -> tuple[NDArray[np.intp], int]:
    columns = np.empty((runs, 4), dtype=np.intp)
    width = 0
    for k, name in enumerate(NAMES):
        size = 1 if name in share else runs
        columns[:, k] = width + (0 if size == 1 else np.arange(runs))
        width += size
    return columns, width


def _packed(each: Array, columns: NDArray[np.intp], width: int) -> Array:
    theta = np.empty(width)
    theta[columns] = each
    return theta


def _candidates(members: Sequence[Member], share: tuple[str, ...]) -> list[Array]:
    """The shared parameters at each run's values and at their mean, the others fitted to that, (r, 4) each."""
    at = [NAMES.index(name) for name in share]
    own = np.stack([m.best.theta for m in members])[:, at]
    levels = np.unique(np.concatenate([own, own.mean(axis=0, keepdims=True)]), axis=0)
    each = np.empty((len(levels), len(members), 4))
    for i, member in enumerate(members):
        low, high = (np.tile(side, (len(levels), 1)) for side in (member.box.low, member.box.high))
        low[:, at] = high[:, at] = levels
        start = np.clip(np.tile(member.best.theta[2:], (len(levels), 1)), low[:, 2:], high[:, 2:])
        found = member.problem.fit_rows(low, high, start, starts=STARTS)
        each[:, i] = np.concatenate([found.linear, found.shape], axis=1)
    return list(each)


def shared_limits(joint: Joint, level: float) -> dict[str, tuple[float | None, float | None]]:
    """Limits of the shared parameters, in worked units: where holding one raises the sum of squares too far.

    A value is inside if (S(value) / S - 1) * dof < F(level; 1, dof). None where that does not happen inside the bounds.
    """
    if not joint.share or joint.dof < 1:
        return {}
    allowed = math.sqrt(joint.sse * float(fdtri(1.0, joint.dof, level)) / joint.dof)
    low, high = joint.bounds()
    column = np.repeat([joint.columns[0, NAMES.index(name)] for name in joint.share], 2)
    sign = np.tile([-1.0, 1.0], len(joint.share))
    rows = np.arange(len(column))
    warm = np.tile(joint.theta, (len(column), 1))

    def excess(at: Array) -> Array:
        """How far beyond what is allowed, as a root so that it is nearly straight."""
        lows, highs, start = np.tile(low, (len(rows), 1)), np.tile(high, (len(rows), 1)), warm.copy()
        lows[rows, column] = highs[rows, column] = start[rows, column] = at
        found: Solution = minimise(joint.model, start, lows, highs, tolerance=1e-9, damping=1e-3, polish=0)
        warm[:] = found.theta
        return np.asarray(np.sqrt(np.maximum(found.sse - joint.sse, 0.0)) - allowed)

    end = np.where(sign > 0, high[column], low[column])
    guess = joint.errors()[column]
    step = np.where(np.isfinite(guess), 2.0 * guess, 0.1 * (high - low)[column])
    inside, at_inside = joint.theta[column].copy(), np.full(len(rows), -allowed)
    outside, at_outside = end.copy(), np.full(len(rows), np.nan)
    looking = np.ones(len(rows), dtype=bool)
    for _ in range(DOUBLINGS):
        at = np.where(looking, np.clip(inside + sign * step, low[column], high[column]), outside)
        beyond = excess(at)
        found, near = looking & (beyond > 0.0), looking & (beyond <= 0.0)
        outside[found], at_outside[found] = at[found], beyond[found]
        inside[near], at_inside[near] = at[near], beyond[near]
        looking = near & (at != end)
        step *= 2.0
        if not looking.any():
            break
    closed = np.isfinite(at_outside)
    root = np.where(closed, 0.5 * (inside + outside), end)
    for _ in range(ROOTS):  # false position; halving the side that stays keeps it from creeping (Illinois)
        root = np.where(closed, (inside * at_outside - outside * at_inside) / (at_outside - at_inside), end)
        beyond = excess(root)
        if (np.abs(beyond[closed]) <= WIDTH * allowed).all():
            break
        out = closed & (beyond > 0.0)
        inner = closed & ~out
        outside[out], at_outside[out], at_inside[out] = root[out], beyond[out], 0.5 * at_inside[out]
        inside[inner], at_inside[inner], at_outside[inner] = root[inner], beyond[inner], 0.5 * at_outside[inner]
    limits = [float(v) if known else None for v, known in zip(root, closed, strict=True)]
    return {name: (limits[2 * k], limits[2 * k + 1]) for k, name in enumerate(joint.share)}
