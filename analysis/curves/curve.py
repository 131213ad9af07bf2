"""The law R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B): value, gradient, inverse and slope.

Promises: exact at C = 0 and finite, without a warning, for C up to 1e30 and any B > 0; arrays in, arrays of the same
shape out. The curve is a logistic in ln C, and is computed as one: (C_mid / C)^B itself would overflow.
Source: arXiv 2510.13786, equation 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rise(C: ArrayLike, B: ArrayLike, C_mid: ArrayLike) -> Any:
    """Return the share of the gain that compute `C` has bought: 1 / (1 + (C_mid / C)^B), in [0, 1].

    Parameters
    ----------
    C : array-like
        Compute, at least 0.
    B, C_mid : array-like
        Exponent and midpoint, above 0; they broadcast against `C`.
    """
    return logistic(_log_odds(C, B, C_mid))


def R(C: ArrayLike, R0: ArrayLike, A: ArrayLike, B: ArrayLike, C_mid: ArrayLike) -> Any:
    """Return the pass rate at compute `C`.

    Parameters
    ----------
    C : array-like
        Compute, at least 0; any unit.
    R0, A : array-like
        Pass rate at C = 0 and in the limit, as fractions.
    B : array-like
        Scaling exponent, above 0.
    C_mid : array-like
        Compute at which half of the gain is reached, in the unit of `C`.

    Returns
    -------
    array or float
        Pass rate, in the broadcast shape.

    Examples
    --------
    >>> R([0.0, 2.0, 1e30], R0=0.1, A=0.7, B=1.5, C_mid=2.0).round(12).tolist()
    [0.1, 0.4, 0.7]
    """
    R0, A = np.asarray(R0, dtype=float), np.asarray(A, dtype=float)
    s = rise(C, B, C_mid)
    return (R0 * (1.0 - s) + A * s)[()]  # exact at both ends, unlike R0 + (A - R0) * s


def gradient(C: ArrayLike, R0: float, A: float, B: float, C_mid: float) -> Array:
    """Return dR/d(R0, A, B, C_mid) at each `C`, shape ``C.shape + (4,)``.

    Examples
    --------
    >>> gradient(2.0, R0=0.1, A=0.7, B=2.0, C_mid=2.0).tolist()  # halfway up, where B does not matter
    [0.5, 0.5, 0.0, -0.15]
    """
    odds = _log_odds(C, B, C_mid)
    s = logistic(odds)
    bend = (A - R0) * s * logistic(-odds)
    # At C = 0 the odds are -inf while the bend is 0; their product is 0 in the limit.
    log_ratio = np.where(np.isfinite(odds), odds, 0.0) / B
    return np.stack([logistic(-odds), s, bend * log_ratio, -bend * B / C_mid], axis=-1)


def slope(C: ArrayLike, R0: float, A: float, B: float, C_mid: float) -> Any:
    """Return dR / d ln C, the pass rate gained for an e-fold of compute; 0 at C = 0.

    Examples
    --------
    >>> float(slope(2.0, R0=0.1, A=0.7, B=2.0, C_mid=2.0))   # (A - R0) B / 4 at C_mid
    0.3
    """
    odds = _log_odds(C, B, C_mid)
    return ((A - R0) * B * logistic(odds) * logistic(-odds))[()]


def compute_to(target: ArrayLike, R0: float, A: float, B: float, C_mid: float) -> Any:
    """Return the compute at which the curve reaches `target`; infinity means never, NaN that a number is missing.

    0 where the curve starts there or beyond; a target, R0 or A of NaN gives NaN, as in `R`. A falling curve (A < R0) is
    read downwards.

    Examples
    --------
    >>> compute_to([0.05, 0.4, 0.7], R0=0.1, A=0.7, B=1.5, C_mid=2.0).tolist()
    [0.0, 2.0, inf]
    """
    target = np.asarray(target, dtype=float)
    gained, missing = target - R0, A - target
    if A < R0:
        gained, missing = -gained, -missing
    compute = np.where(gained <= 0.0, 0.0, math.inf)
    compute[np.isnan(gained) | np.isnan(missing)] = math.nan
    between = (gained > 0.0) & (missing > 0.0)
    # exp, not a power of the ratio: C_mid * e^(log odds / B) overflows to infinity, which is the right answer
    with np.errstate(over="ignore"):
        odds = np.log(gained[between]) - np.log(missing[between])
        compute[between] = np.exp(math.log(C_mid) + odds / B)
    return compute[()]


def _log_odds(C: ArrayLike, B: ArrayLike, C_mid: ArrayLike) -> Array:
    """B ln(C / C_mid), shape of the broadcast; -inf at C = 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.asarray(B, dtype=float) * (np.log(np.asarray(C, dtype=float)) - np.log(C_mid)))


def logistic(z: Array) -> Array:
    """Return 1 / (1 + e^-z), shape of `z`, without overflow: only e^-|z| is ever taken."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0.0, 1.0, e) / (1.0 + e)
