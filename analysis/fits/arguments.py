"""What `fit` is given, checked: one sentence where something makes no sense or would be ignored.

Promises: an option that the method does not read is refused, never ignored. Importing this loads nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from analysis.schema import Run
from scalerl.runlog import UserError

Window = tuple[float | None, float | None]

# Five draws or more, of 4,000 and of 1,000 refits, lie outside each limit.
HIGHEST_LEVEL = {"posterior": 0.997, "bootstrap": 0.99}
READ_BY = {"priors": "posterior", "resample": "bootstrap", "correlated": "profile"}


def check_read(method: str, **options: Any) -> None:
    """Refuse options (None is not given) that `method` does not read.

    Examples
    --------
    >>> check_read("bootstrap", resample="block", correlated=None)
    """
    for name, value in options.items():
        if value is not None and method != READ_BY[name]:
            raise UserError(f"{name}: read by method {READ_BY[name]!r} alone; the method is {method!r}")


def runs_of(given: Any) -> Run | list[Run]:
    """Return the run, or the runs as a list.

    Raises
    ------
    UserError
        If it is something else, with how to read it.
    """
    if isinstance(given, Run):
        return given
    if hasattr(given, "columns") or isinstance(given, dict):
        raise UserError("fit takes runs, not a table; make one of it with analysis.read_frame(table)")
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise UserError(f"fit takes runs, not {_shown(given)}; read a file or folder with analysis.read(path)")
    runs = list(given)
    for run in runs:
        if not isinstance(run, Run):
            raise UserError(f"fit takes runs, and {_shown(run)} is none; read files with analysis.read(paths)")
    return runs


def checked_r0(r0: Any) -> str | float:
    """Return ``free``, ``first`` or a pass rate."""
    if isinstance(r0, str) and r0 in {"free", "first"}:
        return r0
    try:
        value = float(r0)
    except (TypeError, ValueError):
        raise UserError(f"r0: {r0!r} is none of free, first, shared or a pass rate between 0 and 1 (--r0)") from None
    if not 0.0 <= value <= 1.0:
        raise UserError(f"r0: {value:g} is not a pass rate between 0 and 1 (--r0)")
    return value


def checked_window(window: Any) -> Window:
    """Return (from, to), each None if open."""
    ends = tuple(window) if isinstance(window, (tuple, list)) else ()
    if len(ends) != 2 or not all(end is None or _is_number(end) for end in ends):
        raise UserError(f"window: {_shown(window)} is not (from, to), two computes or None (--from, --to)")
    low, high = (None if end is None else float(end) for end in ends)
    if any(end is not None and not math.isfinite(end) for end in (low, high)):
        raise UserError("window: an end that is not a finite compute (--from, --to)")
    if low is not None and high is not None and not low < high:
        raise UserError(f"window: from {low:g} to {high:g} holds nothing; --from must lie below --to")
    return low, high


def checked_share(name: str, value: Any) -> float:
    """Return a number between 0 and 1, without the ends."""
    if not _is_number(value):
        raise UserError(f"{name}: {_shown(value)} is not a number")
    if not 0.0 < value < 1.0:
        raise UserError(f"{name}: {value:g} does not lie between 0 and 1")
    return float(value)


def checked_level(level: Any, method: str) -> float | None:
    """Return the level of the limits; None for no limits.

    Raises
    ------
    UserError
        If it is no level, or leaves so little outside that the method's draws cannot show it.
    """
    if level is None:
        return None
    share = checked_share("level", level)
    if share > HIGHEST_LEVEL.get(method, share):
        what = f"beyond what the draws of {method} can show; at most {HIGHEST_LEVEL[method]:g}"
        raise UserError(f"level: {share:.10g} is {what}")
    return share


def checked_limits(level: Any) -> float:
    """Return the level of limits that rest on the draws of the posterior; there have to be some.

    Examples
    --------
    >>> checked_limits(0.9)
    0.9
    """
    found = checked_level(level, "posterior")
    if found is None:
        raise UserError("level: None is not a number; every figure here has limits")
    return found


def checked_seed(seed: Any) -> int:
    """Return a whole number of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise UserError(f"seed: {_shown(seed)} is not a whole number of at least 0")
    return int(seed)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 and "\n" not in shown else f"a {type(value).__name__}"
