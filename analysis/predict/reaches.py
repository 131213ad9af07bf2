"""How far ahead a run is known: the calibrated band over multiples of its compute, and where it gets too wide.

Promises: forecast, compare and plan read a reach off one path by one rule, up to `FARTHEST`; a run of few evaluations
has none past `FEW_REACH`; a reach says how many earlier forecasts stand behind it. That of a fit alone, by the draws of
the law, is `analysis.fits.reach.reach`; it ends by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from analysis.curves.solver import Array
from analysis.fits.reach import TOLERANCE, crossing
from analysis.fits.refits import held_R0, points_of, priors_of
from analysis.fits.results import FARTHEST, Fit
from analysis.predict.ahead import ORIGINS, Calibration, Cut, calibrate, cut_at
from analysis.predict.forecasts import Path

GRID = np.concatenate([[1.0, 1.05, 1.1, 1.25], np.geomspace(1.5, FARTHEST, 20)])
NEXT = 1.05  # right behind the data: no calibration is asked nearer than this
FEW, FEW_REACH = 6, 2.0  # fewer evaluations than this carry no forecast further than that


def carried(evaluations: int, multiple: float) -> bool:
    """Return whether that many evaluations carry a forecast at a multiple of their last compute.

    Examples
    --------
    >>> carried(5, 2.0), carried(5, 4.0), carried(6, 4.0)
    (True, False, True)
    """
    return evaluations >= FEW or multiple <= FEW_REACH * (1.0 + 1e-12)


def nothing_because(fitted: Fit) -> str:
    """Return why nothing is claimed past the data of a fit that has no forecast."""
    found = fitted.nothing_ahead
    found = found or next((f for f in fitted.findings if f.code in {"exact-data", "no-interval"}), None)
    if found is not None:
        return found.message
    return "its compute never leaves 0" if fitted.n and not fitted.compute[-1] > 0.0 else "too little of a curve"


class Reach(NamedTuple):
    """A multiple of the last compute, 1 where there is none, and the origins that lie as far back."""

    value: float
    origins: int


def times_of(past: Calibration, multiples: Array, method: str, level: float) -> Array:
    """Return the standard deviations that a band reaches to either side, at multiples (k,) of the last compute."""
    return np.array([past.widening(max(float(h), NEXT), method, level).times for h in multiples])


def path_of(cut: Cut, past: Calibration, level: float, method: str) -> Path:
    """Return the calibrated bands from the last compute on, as far as the run carries them."""
    multiples = GRID if cut.n >= FEW else np.append(GRID[GRID < FEW_REACH], FEW_REACH)
    mid, sd = cut.ahead(multiples * cut.last, method)
    times = times_of(past, multiples, method, level)
    origins = np.array([past.widening(max(float(h), NEXT), method, level).origins for h in multiples])
    return Path(multiples, mid, times * sd, times * np.hypot(sd, cut.sigma), origins)


def reach_of(path: Path, past: Calibration, tolerance: float, method: str) -> Reach:
    """Return where the band of the mean curve gets wider than `tolerance`, and the origins that lie that far back."""
    value = crossing(path.multiples, path.half, tolerance)
    return Reach(value, past.widening(max(value, NEXT), method).origins)


def recipe_reach(fits: Sequence[Fit], tolerance: float = TOLERANCE, level: float = 0.95) -> Reach | None:
    """Smallest reach of a recipe's seeds by the sigmoid, calibrated on earlier cuts of all of them together.

    Seeds of one recipe are taken to err alike: each is cut `ORIGINS` / seeds times, twice at least. None where a seed
    has no band.
    """
    each = max(2, round(ORIGINS / max(len(fits), 1)))
    alone = ("sigmoid",)
    cuts, pasts = [], []
    for fitted in fits:
        if fitted.trusted_draws is None or fitted.nothing_ahead is not None:
            return None
        data = points_of(fitted)
        cut = cut_at(data, draws=fitted.trusted_draws, averaged=alone)
        if cut is None or not cut.last > 0.0:
            return None
        cuts.append(cut)
        pasts.append(calibrate(data, origins=each, averaged=alone, priors=priors_of(fitted), r0=held_R0(fitted)))
    together = [replace(past, others=tuple(o for o in pasts if o is not past)) for past in pasts]
    found = (
        reach_of(path_of(cut, past, level, "sigmoid"), past, tolerance, "sigmoid")
        for cut, past in zip(cuts, together, strict=True)
    )
    return min(found, default=None)
