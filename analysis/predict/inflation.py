"""What past forecasts of runs got wrong, as one number: assumed beforehand, or measured on runs of your own.

Promises: it is measured on errors that were divided by what each forecast allowed for itself. Does not promise that
other runs err alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from analysis.fits.arguments import checked_number
from analysis.fits.evaluations import evaluations_of
from analysis.fits.refits import held_R0, points_of, priors_of
from analysis.fits.results import Fit
from analysis.predict.ahead import INFLATION, calibrate
from analysis.schema import Run
from scalerl.runlog import UserError


def measure_inflation(runs: Iterable[Run | Fit], *, x: str | None = None, factor: float = 2.0) -> float:
    """Root mean square of the standardised errors that past forecasts of these runs made `factor` ahead.

    Parameters
    ----------
    runs : iterable of Run or Fit
        Five or more, others than those that will be forecast with it; a Fit with its axis, window, R0 and priors.
    factor : float
        How far ahead the forecasts are, as a multiple of the compute that each was made from; above 1.

    Raises
    ------
    UserError
        If `factor` is none, or fewer than five runs have an evaluation that far ahead of an origin.

    Examples
    --------
    >>> import analysis as an
    >>> measure_inflation(an.read("data/paper/scalerl_8b_bs2048_100k.csv"))
    Traceback (most recent call last):
    ...
    scalerl.runlog.UserError: inflation: 1 of 1 runs have a forecast 2x ahead to learn from; five are needed
    """
    if not (checked_number("factor", factor) > 1.0 and math.isfinite(factor)):
        raise UserError(f"factor: {factor:g} is not above 1; a forecast 2x ahead has factor 2")
    squares = []
    given = list(runs)
    for g in given:
        if isinstance(g, Fit):
            past = calibrate(points_of(g), priors=priors_of(g), r0=held_R0(g))
        else:
            past = calibrate(evaluations_of(g, x or g.axes[0]))
        errors = past.errors(factor, "average")
        if len(errors):
            squares.append(float((errors**2).mean()))
    if len(squares) < 5:
        what = f"{len(squares)} of {len(given)} runs have a forecast {factor:g}x ahead to learn from; five are needed"
        raise UserError(f"inflation: {what}")
    return math.sqrt(float(np.mean(squares)))


def checked_inflation(inflation: Any) -> float:
    """Return the inflation that a name or a number stands for."""
    if isinstance(inflation, str) and inflation in INFLATION:
        return INFLATION[inflation]
    try:
        value = float(inflation)
    except (TypeError, ValueError):
        raise UserError(f"inflation: {inflation!r} is none of {', '.join(INFLATION)} or a number above 0") from None
    if not 0.0 < value < 100.0:
        raise UserError(f"inflation: {value:g} is not a factor between 0 and 100")
    return value
