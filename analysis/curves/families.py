"""The registry of families, each with the starts and bounds of its shape.

Promises: starts and bounds move with the unit of compute; a bound is where the data cannot tell a shape from its limit.
The interface is `analysis.curves.family`, the equations and their sources are in `analysis.curves.rises`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.curves import rises
from analysis.curves.family import Array, Family, Inverse, Rise
from scalerl.runlog import UserError

__all__ = ["B_RANGE", "C_MID_MARGIN", "FAMILIES", "SIGMOID", "Array", "Family", "Inverse", "Rise", "get_family"]

B_RANGE = (0.05, 50.0)
C_MID_MARGIN = 1000.0
G_RANGE = (0.05, 20.0)
BREAK_MARGIN = 10.0  # a break this far from the data does not show in them
WIDTH_RANGE = (0.05, 5.0)  # of the break, in e-folds
LOW_B = 0.001  # of a power law: one that is indistinguishable from a straight line in ln C
MIDPOINTS = 30
_LOG_B = np.log([0.2, 0.4, 0.7, 1.0, 1.5, 2.2, 3.3, 5.0, 8.0, 15.0, 40.0])
_LOG_EXPONENT = np.log([0.1, 0.2, 0.4, 0.65, 1.0, 1.6, 2.5])  # every second one is a grid too, here and below
_LOG_G = np.log([0.1, 0.3, 1.0, 3.0])
_LOG_POWER = np.log(np.geomspace(0.005, 20.0, 25))

Range = Callable[[Array], tuple[float, float]]
Values = Callable[[Array], Array]


def _inside(low: float, high: float) -> Range:
    return lambda _: (np.log(low), np.log(high))


def _computes(margin: float) -> Range:
    return lambda log_c: (log_c[0] - np.log(margin), min(log_c[-1] + np.log(margin), 700.0))


def _bounds(*ranges: Range) -> Callable[[Array], tuple[Array, Array]]:
    def bounds(log_c: Array) -> tuple[Array, Array]:
        low, high = zip(*(pair(log_c) for pair in ranges), strict=True) if ranges else ((), ())
        return np.array(low), np.array(high)

    return bounds


def _grid(*values: Array | Values) -> Callable[[Array], list[Array]]:
    return lambda log_c: [value(log_c) if callable(value) else value for value in values]


def _mids(log_c: Array) -> Array:
    between = 0.5 * (log_c[1:] + log_c[:-1])
    if len(between) > MIDPOINTS:
        between = between[np.linspace(0, len(between) - 1, MIDPOINTS).astype(int)]
    return np.unique(np.concatenate([np.linspace(log_c[0] - 2.0, log_c[-1] + 3.0, MIDPOINTS), between]))


def _breaks(log_c: Array) -> Array:
    return np.unique(np.linspace(log_c[0], log_c[-1], 17)[1:-1])


def _first(log_c: Array) -> Array:
    return log_c[:1]


def _last(log_c: Array) -> Array:
    """The last ln C; one e-fold further where there is one compute only, or no line could be drawn."""
    return log_c[-1:] if len(log_c) > 1 else log_c + 1.0


def _pinned(value: Values) -> Range:
    return lambda log_c: (float(value(log_c)[0]), float(value(log_c)[0]))


_B, _MARGIN = _inside(*B_RANGE), _computes(C_MID_MARGIN)

SIGMOID = Family(
    "sigmoid",
    ("B", "C_mid"),
    rises.sigmoid,
    _grid(_LOG_B, _mids),
    _bounds(_B, _MARGIN),
    rises.to_sigmoid,
    "R = R0 + (A - R0) / (1 + (C_mid / C)^B)",
)

_ALL = (
    SIGMOID,
    Family(
        "power_law",
        ("B", "C_first"),
        rises.power_law,
        _grid(_LOG_POWER, _first),
        _bounds(_inside(LOW_B, B_RANGE[1]), _pinned(_first)),
        rises.to_power_law,
        "R = A - (A - R_first) (C / C_first)^-B",
        linear=("R_first", "A"),
        fixed=("C_first",),
        at_zero=False,
    ),
    Family(
        "shifted_power_law",
        ("B", "C_s"),
        rises.shifted_power_law,
        _grid(_LOG_B, _mids),
        _bounds(_B, _MARGIN),
        rises.to_shifted_power_law,
        "R = A - (A - R0) (1 + C / C_s)^-B",
    ),
    Family(
        "gompertz",
        ("B", "C_mid"),
        rises.gompertz,
        _grid(_LOG_B, _mids),
        _bounds(_B, _MARGIN),
        rises.to_gompertz,
        "R = R0 + (A - R0) 2^-((C_mid / C)^B)",
    ),
    Family(
        "ll5",
        ("B", "C_s", "g"),
        rises.ll5,
        _grid(_LOG_B, _mids, _LOG_G),
        _bounds(_B, _MARGIN, _inside(*G_RANGE)),
        rises.to_ll5,
        "R = R0 + (A - R0) (1 + (C_s / C)^B)^-g",
    ),
    Family(
        "stretched_exponential",
        ("B", "C_s"),
        rises.stretched_exponential,
        _grid(_LOG_B, _mids),
        _bounds(_B, _MARGIN),
        rises.to_stretched_exponential,
        "R = A - (A - R0) exp(-(C / C_s)^B)",
    ),
    Family(
        "saturating_exponential",
        ("C_s",),
        rises.saturating_exponential,
        _grid(_mids),
        _bounds(_MARGIN),
        rises.to_saturating_exponential,
        "R = A - (A - R0) exp(-C / C_s)",
    ),
    Family(
        "broken_power_law",
        ("B1", "B2", "C_break", "f", "C_first"),
        rises.broken_power_law,
        _grid(_LOG_EXPONENT, _LOG_EXPONENT, _breaks, np.log([0.2, 0.45, 1.0]), _first),
        _bounds(
            _inside(LOW_B, B_RANGE[1]),
            _inside(LOW_B, B_RANGE[1]),
            _computes(BREAK_MARGIN),
            _inside(*WIDTH_RANGE),
            _pinned(_first),
        ),
        rises.to_broken_power_law,
        "R = A - (A - R_first) (C / C_first)^-B1 ((1 + (C / C_break)^(1/f)) / (1 + (C_first / C_break)^(1/f)))"
        "^(-(B2 - B1) f)",
        linear=("R_first", "A"),
        fixed=("C_first",),
        at_zero=False,
    ),
    Family(
        "log_linear",
        ("C_first", "C_last"),
        rises.log_linear,
        _grid(_first, _last),
        _bounds(_pinned(_first), _pinned(_last)),
        rises.to_log_linear,
        "R = R_first + (R_last - R_first) ln(C / C_first) / ln(C_last / C_first)",
        linear=("R_first", "R_last"),
        bounded=(False, False),
        fixed=("C_first", "C_last"),
        asymptote=False,
        at_zero=False,
    ),
    Family(
        "last_value",
        (),
        rises.last_value,
        _grid(),
        _bounds(),
        None,
        "R = R_last",
        linear=("R0", "R_last"),
        fixed=("R0",),
        asymptote=False,
        last_only=True,
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def get_family(name: str) -> Family:
    """Return a family by its name.

    Raises
    ------
    UserError
        There is none of that name; the message lists those there are.

    Examples
    --------
    >>> get_family("power_law").equation
    'R = A - (A - R_first) (C / C_first)^-B'
    """
    if name not in FAMILIES:
        raise UserError(f"no family {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]
