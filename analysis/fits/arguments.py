"""What `fit` is given, checked: one sentence where something makes no sense or would be ignored.

Promises: an option that the method does not read is refused, never ignored. Importing this loads nothing heavy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from analysis.schema import Run
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from analysis.fits.results import Fit

Window = tuple[float | None, float | None]

# Five draws or more, of 4,000 and of 1,000 refits, lie outside each limit.
HIGHEST_LEVEL = {"posterior": 0.997, "bootstrap": 0.99}
FARTHEST_COMPUTE = 1e300
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


def check_as_fitted(fitted: Fit, *, x: str | None = None, window: Window = (None, None)) -> None:
    """Refuse an axis or a window that a fit was not made with: its run would have to be fitted again."""
    if x is not None and x != fitted.x:
        raise UserError(f"x: {fitted.name} was fitted over {fitted.x}; give its run, or fit it over {x}")
    if window not in {(None, None), fitted.window}:
        said = (f"from {_end(low)} to {_end(high)}" for low, high in (fitted.window, window))
        raise UserError("window: {} was fitted {}, not {}; give its run, or fit it so".format(fitted.name, *said))


def _end(end: float | None) -> str:
    return "open" if end is None else f"{end:g}"


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


def checked_number(name: str, value: Any) -> float:
    """Return a number of Python or numpy."""
    if not _is_number(value):
        raise UserError(f"{name}: {_shown(value)} is not a number")
    return float(value)


def checked_share(name: str, value: Any) -> float:
    """Return a number between 0 and 1, without the ends."""
    share = checked_number(name, value)
    if not 0.0 < share < 1.0:
        raise UserError(f"{name}: {share:g} does not lie between 0 and 1")
    return share


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


def several(name: str, given: Any) -> list[Any]:
    """Return what was given as a list: one value is a list of one, None an empty one.

    Examples
    --------
    >>> several("at", "2x"), several("at", [1.0, 2.0]), several("at", None)
    (['2x'], [1.0, 2.0], [])
    """
    if given is None:
        return []
    if isinstance(given, (str, Real)):
        return [given]
    if isinstance(given, Iterable):
        return list(given)
    raise UserError(f"{name}: {_shown(given)} is neither one value nor a list of such")


def parsed(at: Any, name: str = "at") -> tuple[float, bool]:
    """Return a compute above 0, and whether it is a multiple of the last one.

    Examples
    --------
    >>> parsed("2X"), parsed(1e5), parsed("1e5")
    ((2.0, True), (100000.0, False), (100000.0, False))
    """
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([xX]?)\s*", at) if isinstance(at, str) else None
    try:
        value = float(found.group(1)) if found else float(at) if _is_number(at) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise UserError(f"{name}: {_shown(at)} is neither a multiple such as 2x nor a compute above 0 (--{name})")
    return value, bool(found and found.group(2))


def compute_at(at: Any, last: float, name: str = "at") -> float:
    """Return the compute that `at` stands for, a multiple being one of `last`.

    Examples
    --------
    >>> compute_at("2x", 30.0), compute_at(100, 30.0)
    (60.0, 100.0)
    """
    value, times = parsed(at, name)
    found = value * last if times else value
    if not math.isfinite(found) or found > FARTHEST_COMPUTE:
        raise UserError(f"{name}: {at} is farther than can be computed with (--{name})")
    return found


def checked_count(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{name}: {_shown(value)} is not a whole number of at least {least} (--{name})")
    return int(value)


def checked_jobs(jobs: Any) -> int | None:
    """Return a number of processes, -1 for one a core; None for none."""
    if jobs is None:
        return None
    if isinstance(jobs, bool) or not isinstance(jobs, Integral) or (int(jobs) < 1 and int(jobs) != -1):
        raise UserError(f"jobs: {_shown(jobs)} is neither a number of processes from 1 nor -1, one a core (--jobs)")
    return int(jobs)


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
