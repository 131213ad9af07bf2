"""Fit the law to runs by least squares, with limits from the F profile and every doubt as a finding.

Promises: the input is not changed; the answer does not depend on the order of the rows or on the unit of compute;
a limit that the data do not give is None, with a finding. Does not promise that the limits hold the truth at their
level when evaluations are correlated: the profile assumes independent noise, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from analysis import doubts, leastsquares, profiles
from analysis.findings import Finding, finding
from analysis.leastsquares import NAMES, Array, Box, Optimum, Problem
from analysis.results import PARAMETERS, Fit, Fits, Param
from analysis.schema import Run
from scalerl.runlog import UserError

EXACT_RMS = 1e-11  # residuals below this are rounding, not noise
REFITS = 5
# Findings that leave no parameter identified, and the reason given; of several the first here. A collapse can make the
# fitted curve fall, and a curve that is no better than a constant can do either by chance.
SPOILT = {"flat-curve": "the curve is flat", "decay": "the run decays", "falling-curve": "the curve falls"}

Window = tuple[float | None, float | None]
Mask = NDArray[np.bool_]
Limits = dict[str, tuple[float | None, float | None]]


@overload
def fit(
    runs: Run, *, x: str | None = ..., r0: str | float = ..., window: Window = ..., level: float | None = ...
) -> Fit: ...
@overload
def fit(
    runs: Iterable[Run], *, x: str | None = ..., r0: str | float = ..., window: Window = ..., level: float | None = ...
) -> Fits: ...
def fit(
    runs: Run | Iterable[Run],
    *,
    x: str | None = None,
    r0: str | float = "free",
    window: Window = (None, None),
    level: float | None = 0.95,
) -> Fit | Fits:
    """Fit R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B) to each run.

    Parameters
    ----------
    runs : Run or iterable of Run
        As `analysis.read` returns them.
    x : str, optional
        Compute axis; by default the first that the run has, ``gpu_hours`` for a run folder.
    r0 : {"free", "first"} or float
        Fit R0, pin it to the run's first evaluation (which then leaves the fit), or to a fraction.
    window : (from, to)
        Use the points with from <= C <= to, in the unit of `x`; None is open.
    level : float or None
        Level of the limits; None fits without limits, which is faster.

    Returns
    -------
    Fit or Fits
        A Fit for a Run, otherwise Fits. A run that cannot be fitted has parameters without values and an error
        among its findings.

    Raises
    ------
    UserError
        If the axis is not there or an option makes no sense.

    Notes
    -----
    Law: arXiv 2510.13786, equation 1. Limits: `analysis.profiles`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from analysis.curve import R
    >>> from analysis.logs import read
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
    >>> rows = [f"{c},{R(c, R0=0.1, A=0.7, B=1.5, C_mid=2.0):.17f}" for c in range(9)]
    >>> _ = file.write_text("\\n".join(["gpu_hours,accuracy", *rows]))
    >>> fitted = fit(read(file)["mine"])
    >>> round(fitted.params["A"].value, 9), [f.code for f in fitted.findings]
    (0.7, ['exact-data'])
    """
    r0, window = _checked(r0, window, level)
    if isinstance(runs, Run):
        return _fit_run(runs, x, r0, window, level)
    return Fits([_fit_run(run, x, r0, window, level) for run in runs])


def _fit_run(run: Run, x: str | None, r0: str | float, window: Window, level: float | None) -> Fit:
    x = run.axes[0] if x is None else x
    if x not in run.axes:
        raise UserError(f"{run.name}: no compute axis {x!r}; it has {', '.join(run.axes)}")
    compute, pass_rate = _sorted(run.data[x], run.data["pass_rate"])
    use = _inside(compute, window)
    # Wall time on a busy machine is a doubt about gpu_hours alone.
    findings = [f for f in run.findings if f.code != "busy-machine" or x == "gpu_hours"]
    if not use.all():
        findings.append(
            finding("window", f"{int((~use).sum())} of {len(use)} points lie outside the window", float((~use).sum()))
        )
    pinned, findings_r0, use = _pin(compute, pass_rate, use, r0)
    findings += findings_r0
    c, y = compute[use], pass_rate[use]
    left_out = np.stack([compute[~use], pass_rate[~use]], axis=1)

    free = 4 if pinned is None else 3
    of_points = doubts.of_points(len(c), len(np.unique(c)), free)
    findings += of_points
    if any(f.severity == "error" for f in of_points):
        params = {name: Param(None, None, None, identified=False, why="nothing fitted") for name in PARAMETERS}
    else:
        params, more = _estimate(c, y, pinned, x, level)
        findings += more
    return Fit(
        run=run,
        x=x,
        method="lsq",
        level=level,
        params=MappingProxyType({name: params[name] for name in PARAMETERS}),
        compute=c,
        pass_rate=y,
        left_out=left_out,
        window=window,
        findings=tuple(findings),
    )


def _estimate(
    c: Array, y: Array, pinned: float | None, x: str, level: float | None
) -> tuple[dict[str, Param], list[Finding]]:
    """Parameters and findings of one set of points."""
    if np.ptp(y) <= 1e-12:
        return _flat_level(float(y[0]), pinned)
    problem = Problem(c, y)
    box = leastsquares.default_box(c)
    if pinned is not None:
        box = box.fix(0, pinned)
    free = int(box.free.sum())
    dof = problem.n - free
    best = leastsquares.minimise(problem, box)
    flat = doubts.flat(y, best.sse, free)
    exact = math.sqrt(best.sse / problem.n) <= EXACT_RMS
    limits: Limits = dict.fromkeys(NAMES, (None, None))
    if level is not None and dof > 0 and not exact and not flat:
        best, limits = _limits(problem, box, best, dof, level)
    values = dict(zip(NAMES, _natural(best.theta), strict=True))
    params = {
        name: Param(values[name], *limits[name], identified=False, fixed=not box.free[i])
        for i, name in enumerate(NAMES)
    }

    findings = [*doubts.decay(c, y, values), *flat]
    if not flat:
        findings += [*doubts.falling(values), *doubts.of_optimum(best, box, values, float(c.max()), x)]
    if exact and dof > 0:
        findings.append(finding("exact-data", "the points lie on the curve to rounding: no noise, so no interval"))
    elif level is not None and dof > 0 and not flat:
        findings += [*doubts.of_intervals(params), *doubts.of_residuals(problem.residual(best.theta))]
    raised = {f.code for f in findings}
    spoilt = next((why for code, why in SPOILT.items() if code in raised), "")
    return _judged(params, float(c.max()), x, spoilt), findings


def _limits(problem: Problem, box: Box, best: Optimum, dof: int, level: float) -> tuple[Optimum, Limits]:
    """Limits by name in natural units, and the optimum, which a profile may have improved."""
    for _ in range(REFITS):
        try:
            found: Limits = dict.fromkeys(NAMES, (None, None))
            for i in np.flatnonzero(box.free):
                found[NAMES[i]] = profiles.limits(problem, box, best, index=int(i), dof=dof, level=level)
        except profiles.BetterOptimumError as better:
            best = leastsquares.minimise(problem, box, more_starts=(better.theta,))
            continue
        for name in ("B", "C_mid"):
            lo, hi = found[name]
            found[name] = (None if lo is None else math.exp(lo), None if hi is None else math.exp(hi))
        return best, found
    return best, dict.fromkeys(NAMES, (None, None))


def _judged(params: dict[str, Param], last: float, x: str, spoilt: str) -> dict[str, Param]:
    """Set `identified`, and in a few words why not."""
    C_mid = params["C_mid"]
    judged = {}
    for name, p in params.items():
        if p.fixed:
            why = "given, not fitted"
        elif spoilt:
            why = spoilt
        elif p.lo is None or p.hi is None:
            side = " and ".join(s for s, limit in (("lower", p.lo), ("upper", p.hi)) if limit is None)
            why = "no upper limit below 1" if name == "A" and p.lo is not None else f"no {side} limit"
        elif name == "A" and (C_mid.hi is None or C_mid.hi > last):
            why = "C_mid may lie past the end of the run"
        else:
            why = ""
        if why and name == "A" and C_mid.hi is not None and not spoilt:
            why += f": train to about {2.0 * C_mid.hi:.2g} {x}"
        judged[name] = replace(p, identified=not why, why=why)
    return judged


def _flat_level(level: float, pinned: float | None) -> tuple[dict[str, Param], list[Finding]]:
    """All points equal: there is a level and no shape, so B and C_mid have no value at all."""
    why = "the curve is flat"
    known, unknown = (
        Param(level, None, None, identified=False, why=why),
        Param(None, None, None, identified=False, why=why),
    )
    params = {
        "R0": known if pinned is None else replace(known, value=pinned, fixed=True),
        "A": known,
        "B": unknown,
        "C_mid": unknown,
    }
    return params, [finding("flat-curve", f"every pass rate is {level:g}: there is no curve to fit", 1.0)]


def _pin(compute: Array, pass_rate: Array, use: Mask, r0: str | float) -> tuple[float | None, list[Finding], Mask]:
    """The value R0 is held at, if any, and which points are left to fit."""
    if r0 == "free":
        return None, [], use
    if r0 != "first":
        value = float(r0)
        return (
            value,
            [finding("r0-pinned", f"R0 is held at {value:g}; the intervals do not hold its error", value)],
            use,
        )
    first = compute == compute[0]
    value = float(pass_rate[first].mean())
    what = f"R0 is held at the first evaluation ({value:.4g} at {compute[0]:g}); the intervals do not hold its error"
    # That evaluation says nothing more about the curve; counted as a point it would narrow the intervals.
    return value, [finding("r0-pinned", what, value)], use & ~first


def _sorted(compute: Array, pass_rate: Array) -> tuple[Array, Array]:
    compute, pass_rate = np.asarray(compute, dtype=float), np.asarray(pass_rate, dtype=float)
    order = np.lexsort((pass_rate, compute))
    return compute[order], pass_rate[order]


def _inside(compute: Array, window: Window) -> Mask:
    low, high = window
    inside: Mask = np.ones(len(compute), dtype=bool)
    if low is not None:
        inside &= compute >= low
    if high is not None:
        inside &= compute <= high
    return inside


def _natural(theta: Array) -> tuple[float, float, float, float]:
    return float(theta[0]), float(theta[1]), math.exp(theta[2]), math.exp(theta[3])


def _checked(r0: str | float, window: Window, level: float | None) -> tuple[str | float, Window]:
    if isinstance(r0, str) and r0 not in {"free", "first"}:
        try:
            r0 = float(r0)
        except ValueError:
            raise UserError(f"r0: {r0!r} is none of free, first or a pass rate between 0 and 1 (--r0)") from None
    if not isinstance(r0, str) and not 0.0 <= r0 <= 1.0:
        raise UserError(f"r0: {r0:g} is not a pass rate between 0 and 1 (--r0)")
    low, high = window
    if any(end is not None and not math.isfinite(end) for end in window):
        raise UserError("window: an end that is not a finite compute (--from, --to)")
    if low is not None and high is not None and not low < high:
        raise UserError(f"window: from {low:g} to {high:g} holds nothing; --from must lie below --to")
    if level is not None and not 0.0 < level < 1.0:
        raise UserError(f"level: {level:g} does not lie between 0 and 1")
    return r0, window
