"""One family fitted to a run as it stood at each of several evaluations, all of them at once.

Promises: an answer rests on the evaluations up to its own place alone, whatever comes later; it is what
`analysis.predict.ahead.fit_family` finds there, from the same starts. Twenty places cost a few times what one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.curves.families import FAMILIES, Family
from analysis.curves.projection import PRECISE, descend, grid_starts
from analysis.curves.reduced import Bounds, Model
from analysis.curves.solver import Array
from analysis.curves.whitening import Whitener
from analysis.fits.evaluations import Evaluations

Fitted = dict[str, tuple[Array, float]]
"""Of a family its parameters, (2 + p,), and the sum of squares."""

STARTS = 2  # valleys of the start grid that are followed at each place
FAR = 50.0  # bound of a linear parameter that is no pass rate


def fit_places(family: Family, log_c: Array, y: Array, counts: Sequence[int]) -> tuple[Array, Array]:
    """Fit the first `counts[k]` evaluations, for every k.

    Parameters
    ----------
    family : Family
        One with a shape.
    log_c, y : (n,) array
        ln C, ascending and finite, and pass rates.
    counts : sequence of int, (N,)
        At least 1 each.

    Returns
    -------
    parameters : (N, 2 + p) array
        In natural units.
    sse : (N,) array
        Sums of squares.

    Examples
    --------
    >>> from analysis.curves.families import SIGMOID
    >>> log_c = np.log(np.linspace(0.1, 5, 30))
    >>> y = 0.1 + 0.6 / (1 + np.exp(-1.5 * log_c))
    >>> fit_places(SIGMOID, log_c, y, [20, 30])[0].round(6).tolist()
    [[0.1, 0.7, 1.5, 1.0], [0.1, 0.7, 1.5, 1.0]]
    """
    low, high = (np.array([edge if b else far for b in family.bounded]) for edge, far in ((0.0, -FAR), (1.0, FAR)))
    owners, starts, edges = [], [], []
    for k, n in enumerate(counts):
        ends = family.bounds(np.unique(log_c[:n]))
        bounds = Bounds(low[None], high[None], ends[0][None], ends[1][None])
        _, own = grid_starts(Model(family, log_c[:n], y[None, :n], None, bounds), STARTS, False)
        owners.append(np.full(len(own), k))
        starts.append(own)
        edges.append(ends)
    N = len(counts)
    shape_low, shape_high = (np.array([ends[side] for ends in edges]) for side in (0, 1))
    bounds = Bounds(np.tile(low, (N, 1)), np.tile(high, (N, 1)), shape_low, shape_high)
    # An evaluation after its place has no weight: 0 times whatever it says.
    seen = Whitener((np.arange(len(y)) < np.asarray(counts)[:, None]).astype(float))
    model = Model(family, log_c, np.tile(y, (N, 1)), seen, bounds)
    found = descend(model, np.concatenate(owners), np.concatenate(starts), False, PRECISE, damping=1e-3)
    return found.natural(), found.sse


def fit_cuts(data: Evaluations, places: Sequence[int], families: Iterable[str]) -> list[Fitted]:
    """Fit families to the first evaluations of a run, those after compute 0, at each of some places.

    Parameters
    ----------
    data : Evaluations
    places : sequence of int, (N,)
        Numbers of evaluations.
    families : iterable of str

    Returns
    -------
    list of mapping of family to (parameters, sum of squares), (N,)
        Without a family that has as many free parameters as there are different computes, or more.
    """
    positive = data.compute > 0.0
    log_c, y = np.log(data.compute[positive]), data.pass_rate[positive]
    counts = [int(positive[:n].sum()) for n in places]
    computes = [len(np.unique(log_c[:n])) for n in counts]
    made: list[Fitted] = [{} for _ in places]
    for name in families:
        family = FAMILIES[name]
        enough = [k for k, n in enumerate(computes) if n > len(family.free)]
        if not enough:
            continue
        if family.last_only:  # nothing to search
            vectors = [np.full(2, y[counts[k] - 1]) for k in enough]
            sums = [float(((y[: counts[k]] - v[1]) ** 2).sum()) for k, v in zip(enough, vectors, strict=True)]
        else:
            found, sse = fit_places(family, log_c, y, [counts[k] for k in enough])
            vectors, sums = list(found), [float(v) for v in sse]
        for k, vector, total in zip(enough, vectors, sums, strict=True):
            made[k][name] = vector, total
    return made
