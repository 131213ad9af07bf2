"""How runs and recipes look in a figure: colour by recipe, marker and line thickness by run.

Promises: the same runs look the same in whichever order they are given, and, within `one_map`, in every figure of a
page; runs stay apart in grey by marker and thickness. Draws nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from analysis.fits.results import Fit

# Okabe and Ito's colours, told apart by colour-blind readers; ordered so that neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class _Map(NamedTuple):
    """Rank of each run, and of each recipe, which colours go by."""

    runs: dict[str, tuple[int, int]]  # name to (rank, rank of its colour)
    recipes: dict[str, int]


_MAP: ContextVar[_Map | None] = ContextVar("looks", default=None)


class Look(NamedTuple):
    """How one run is drawn; its artists carry ids such as ``points-0``, so that they can be found again."""

    place: int
    style: dict[str, Any]
    marker: str
    width: float

    @staticmethod
    def of(place: int, i: int, colour: int | None = None) -> Look:
        style = {"color": colour_of(i if colour is None else colour), "zorder": 3.0 + 0.01 * place}
        return Look(place, style, marker_of(i), (1.8, 1.1, 2.6)[(i + i // len(COLOURS)) % 3])

    def gid(self, what: str) -> str:
        return f"{what}-{self.place}"


def colour_of(rank: int) -> str:
    """Return the colour of a rank."""
    return COLOURS[rank % len(COLOURS)]


def marker_of(rank: int) -> str:
    """Return the marker of a rank; ranks of one colour have different ones."""
    return MARKERS[(rank + rank // len(COLOURS)) % len(MARKERS)]


def looks_of(fits: Sequence[Fit]) -> list[Look]:
    """Return how each run is drawn; seeds of one recipe share its colour."""
    mapped = _MAP.get() or _map(fits)
    return [Look.of(i, *mapped.runs.get(fit.name, (i, i))) for i, fit in enumerate(fits)]


def looks_of_names(names: Sequence[str]) -> list[Look]:
    """Return how runs are drawn of which a figure knows the names alone: as on the rest of the page, or in order."""
    mapped = _MAP.get()
    return [Look.of(i, *(mapped.runs.get(name, (i, i)) if mapped else (i, i))) for i, name in enumerate(names)]


def recipe_ranks(recipes: Iterable[str]) -> dict[str, int]:
    """Return the rank of each recipe's colour: as on the rest of the page, or by name."""
    mapped = _MAP.get()
    names = sorted(set(recipes))
    return {name: mapped.recipes.get(name, i) if mapped else i for i, name in enumerate(names)}


@contextmanager
def one_map(fits: Sequence[Fit]) -> Iterator[None]:
    """Hold the looks of these runs in every figure that is drawn inside, also where a figure shows only some."""
    token = _MAP.set(_map(fits))
    try:
        yield
    finally:
        _MAP.reset(token)


def _map(fits: Sequence[Fit]) -> _Map:
    order = sorted((fit.run.recipe, fit.name) for fit in fits)
    count = Counter(recipe for recipe, _ in order)
    recipes = {recipe: i for i, recipe in enumerate(sorted(count))}
    # One run a recipe, or one recipe: every run has a colour of its own.
    by_recipe = 1 < len(count) < len(order)
    return _Map({name: (i, recipes[r] if by_recipe else i) for i, (r, name) in enumerate(order)}, recipes)
