"""A grid over the two dimensions of shape that follows the mass of the posterior and checks itself.

A quadtree splits the heaviest cells, and those that touch them, until none holds more than `HEAVY` of the mass. The way
to the least squares optimum is split first, so that a narrow peak inside a large cell is not lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.curves.solver import Array, Index, Mask
from analysis.posteriors.conditional import Problem
from analysis.posteriors.draws import Draws

HEAVY = 0.008  # no cell of the final grid holds more of the mass; .0005 moves no limit by more than draws do
LEVELS = 16  # halvings of a cell at most
ROOT = (12, 16)  # first cells along ln B and ln C_mid
NEGLIGIBLE = 1e-3  # nodes of the noise with less of the mass are dropped once the peak is found
CELLS = 6000


@dataclass(frozen=True, eq=False, repr=False)
class Posterior(Draws):
    """Weighted draws, and how well the quadrature went.

    Attributes
    ----------
    R0, A, B, C_mid, rho, sigma, weight : (M,) arrays
        See `Draws`; `sigma` is the standard deviation of all noise.
    white : (M,) array
        Share of the noise's variance that is evaluation noise.
    checks : mapping
        Self-check: ``edge_B`` and ``edge_C_mid`` (mass in cells at an edge of the grid), ``cells``, ``heaviest`` (share
        of the heaviest cell), ``missed`` (how far, in log density, the least squares optimum lies above the best cell).
    """

    white: Array
    checks: Mapping[str, float]


class Grid:
    """A quadtree over (ln B, ln C_mid); a cell is a level and two whole numbers."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sides = (problem.high - problem.low) / np.array(ROOT)
        self.level = np.empty(0, dtype=np.int64)
        self.place = np.empty((0, 2), dtype=np.int64)
        self.density = np.empty((len(problem.nodes.rho), 0))

    def centers(self, level: Index, place: Index) -> Array:
        return np.asarray(self.problem.low + (place + 0.5) * self.sides / 2.0 ** level[:, None])

    def refine(self) -> None:
        """Split the heaviest cells, and those that touch them, until none is too heavy."""
        i, j = np.meshgrid(np.arange(ROOT[0]), np.arange(ROOT[1]), indexing="ij")
        place = np.stack([i.ravel(), j.ravel()], axis=1)
        self._add(np.zeros(len(place), dtype=np.int64), place)
        self.peak = float(_log_sum(self.problem.density(self.problem.optimum[None]))[0])
        pruned = False
        for _ in range(2 * LEVELS):
            split = self.mass() > HEAVY
            here = self._around_optimum()
            found = float(_log_sum(self.density[:, here])[0]) > self.peak - 1.0
            if found and not pruned:
                self._prune()
                pruned = True
            if not found:  # the peak is still lost inside a cell: the way to it is known
                split |= here
            split &= self.level < LEVELS
            if not split.any() or len(self.level) > CELLS:
                return
            split = _with_neighbours(self.level, self.place, split)
            level, parents = self.level[split], self.place[split]
            self.level, self.place = self.level[~split], self.place[~split]
            self.density = self.density[:, ~split]
            children = (2 * parents[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
            self._add(np.repeat(level + 1, 4), children)

    def _add(self, level: Index, place: Index) -> None:
        density = self.problem.density(self.centers(level, place))
        self.level, self.place = np.concatenate([self.level, level]), np.concatenate([self.place, place])
        self.density = np.concatenate([self.density, density], axis=1)

    def _around_optimum(self) -> Mask:
        at = (self.problem.optimum - self.problem.low) / self.sides * 2.0 ** self.level[:, None]
        return np.asarray((np.floor(at).astype(np.int64) == self.place).all(axis=1))

    def _prune(self) -> None:
        """Drop the nodes of the noise that hold next to nothing."""
        by_node = _log_sum((self.density + self.log_areas()).T)
        keep = np.flatnonzero(by_node > by_node.max() + math.log(NEGLIGIBLE))
        self.problem.keep(keep)
        self.density = self.density[keep]

    def log_areas(self) -> Array:
        return np.asarray(-2.0 * math.log(2.0) * self.level + math.log(float(self.sides.prod())))

    def mass(self) -> Array:
        """Share of each cell."""
        log_mass = _log_sum(self.density) + self.log_areas()
        mass = np.exp(log_mass - log_mass.max())
        return np.asarray(mass / mass.sum())

    def sample(self, draws: int, rng: np.random.Generator) -> Posterior:
        """Draw shapes from the cells, the rest given the shape, and weight by the density at the draw."""
        log_mass = self.density + self.log_areas()
        mass = np.exp(log_mass - log_mass.max()).ravel()
        total = np.cumsum(mass)
        picks = np.searchsorted(total, (np.arange(draws) + rng.random()) / draws * total[-1])
        picks = rng.permutation(np.minimum(picks, len(total) - 1))  # so that rows of two runs are not alike
        node, cell = np.divmod(picks, len(self.level))
        jitter = rng.random((draws, 2)) - 0.5
        sides = self.sides / 2.0 ** self.level[cell][:, None]
        shapes = self.centers(self.level[cell], self.place[cell]) + jitter * sides
        log_density, drawn = self.problem.draw(shapes, node, rng)
        weight = np.exp(np.minimum(log_density - self.density[node, cell], 50.0))
        weight[(drawn["R0"] < 0.0) | (drawn["R0"] > 1.0)] = 0.0
        if not weight.sum() > 0.0:
            weight[0] = 1.0  # no draw is possible: an effective size of 1 says so, equal weights would hide it
        weight = weight / weight.sum()
        share = self.mass()
        last = np.array(ROOT) * 2 ** self.level[:, None] - 1
        edge = (self.place == 0) | (self.place == last)
        best = float((_log_sum(self.density)).max())
        checks = {
            "edge_B": float(share[edge[:, 0]].sum()),
            "edge_C_mid": float(share[edge[:, 1]].sum()),
            "cells": float(len(share)),
            "heaviest": float(share.max()),
            "missed": max(self.peak - best, 0.0),
        }
        return Posterior(
            B=np.exp(shapes[:, 0]),
            C_mid=np.exp(shapes[:, 1] + self.problem.unit),
            weight=weight,
            checks=checks,
            **drawn,
        )


def _log_sum(log_values: Array) -> Array:
    """log of the sum over the first axis."""
    top = log_values.max(axis=0)
    return np.asarray(top + np.log(np.exp(log_values - top).sum(axis=0)))


def _with_neighbours(level: Index, place: Index, chosen: Mask) -> Mask:
    """The chosen cells and those of their level or one level coarser that touch them."""
    around = (place[chosen][:, None] + np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)])).reshape(-1, 2)
    levels = np.repeat(level[chosen], 9)
    wanted = np.concatenate([_key(levels, around), _key(levels - 1, around // 2)])
    return np.asarray(np.isin(_key(level, place), wanted))


def _key(level: Index, place: Index) -> Index:
    return np.asarray(((level + 1) << 56) + ((place[:, 0] + 1) << 28) + place[:, 1] + 1)
