"""Do several runs share a parameter? Nested least squares: "does the recipe move the ceiling or only the speed?"

Promises: the model with shared parameters never fits better than the one without; each run's correlation and size of
noise are its own. Does not promise a verdict on recipes: the test knows the noise inside the runs alone, and two seeds
of one recipe differ by more than that. How often it is wrong, from ``python -m benchmarks.seeds``: see `fit_shared`.
The search itself is `analysis.pooled.stacked`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from scipy.special import fdtrc

from analysis.curves import leastsquares
from analysis.curves.leastsquares import NAMES, Problem
from analysis.findings import Finding, finding
from analysis.fits import profiles
from analysis.fits.estimates import natural
from analysis.fits.evaluations import Window, evaluations_of, inside
from analysis.fits.fitting import fit
from analysis.fits.results import Fit, Param
from analysis.pooled.shared import Nested, SharedFit
from analysis.pooled.stacked import Joint, Member, shared_limits, solve
from analysis.posteriors.conditional import relative_log
from analysis.schema import Run, one_of_each
from scalerl.runlog import UserError

MODELS = ((), ("R0",), ("A",), ("R0", "A"), ("B",), ("C_mid",), ("B", "C_mid"), NAMES)
REFITS = 5
SAME = 1e-9  # share of a sum of squares by which two of them may differ and be the same


def fit_shared(
    runs: Iterable[Run],
    share: str | Sequence[str] = ("A",),
    *,
    x: str | None = None,
    window: Window = (None, None),
    correlated: bool = True,
    level: float = 0.95,
) -> SharedFit:
    """Fit runs with some parameters in common, and test that against a curve of its own for each run.

    Parameters
    ----------
    runs : iterable of Run
        At least two.
    share : name or names of {"R0", "A", "B", "C_mid"}
        Parameters with one value for all runs; none at all is the model that the others are tested against.
    x : str, optional
        Compute axis; by default the first of the first run.
    window : (from, to)
        Use the points with from <= C <= to.
    correlated : bool
        Take the noise of each run as AR(1) with a rho and sigma of its own, both from its own fit. Otherwise all
        evaluations count as independent and equally exact.
    level : float
        Of the limits of what is shared; 1 - level is the level of the verdict.

    Returns
    -------
    SharedFit

    Raises
    ------
    UserError
        If there are fewer than two runs, two of one name, one has too few points, or a name is no parameter.

    Notes
    -----
    F = ((S - S_free) / (p_free - p)) / (S_free / (n - p_free)).

    Two runs of 60 points with one A, share of p < .05 in 100 repetitions (``python -m benchmarks.seeds --only size``,
    seed 3): 3 % where noise is independent and the runs end at 5 C_mid, 3 % at correlation .5, 3 % there at 2 C_mid.
    Without `correlated` it is 4, 23 and 17 %. Where A differs by .03 the test finds that in 65, 50 and 16 %.

    Examples
    --------
    >>> from analysis.readers.logs import read
    >>> runs = read("data/runs")
    >>> fit_shared(runs, "A").differ, fit_shared(runs, "C_mid").differ
    (False, True)
    """
    chosen = _checked(share)
    setup = _setup(runs, x, window, correlated, level)
    free = solve(setup.members, ())
    for _ in range(REFITS):
        joint = solve(free.members, chosen)
        if not _below(joint, free):
            break
        free = _freed(free, [joint], correlated)
    return _result(joint, free, setup)


def nested(
    runs: Iterable[Run],
    *,
    models: Iterable[Sequence[str]] = MODELS,
    x: str | None = None,
    window: Window = (None, None),
    correlated: bool = True,
    level: float = 0.95,
) -> Nested:
    """Test several ways to share parameters: which of start, ceiling, exponent and midpoint differ between the runs?

    Parameters
    ----------
    models : iterable of names
        What each model shares; see `fit_shared`, also for the rest.

    Returns
    -------
    Nested
        Each model tested against the one that shares nothing. The tests are not corrected for their number.

    Examples
    --------
    >>> from analysis.readers.logs import read
    >>> table = nested(read("data/runs"), models=["A", ("B", "C_mid")])
    >>> [(model.name, model.differ) for model in table.models]
    [('nothing', None), ('A', False), ('B, C_mid', True)]
    """
    wanted = sorted({_checked(model) for model in models} | {()}, key=len)
    setup = _setup(runs, x, window, correlated, level)
    free = solve(setup.members, ())
    for _ in range(REFITS):
        solved = {model: solve(free.members, model) for model in wanted}
        for model in reversed(wanted):  # a model may not fit worse than one that shares more
            more = [solved[m].each() for m in wanted if set(m) > set(model) and solved[m].sse < solved[model].sse]
            if model and more:
                solved[model] = solve(free.members, model, more)
        better = [joint for joint in solved.values() if _below(joint, free)]
        if not better:
            break
        free = _freed(free, better, correlated)
    return Nested(tuple(_result(solved[model], free, setup) for model in sorted(wanted, key=_order)))


def _order(share: tuple[str, ...]) -> tuple[int, tuple[int, ...]]:
    return len(share), tuple(NAMES.index(name) for name in share)


@dataclass(frozen=True)
class _Setup:
    """Every run with its own fit, the doubts that come with them, and what was asked for."""

    members: tuple[Member, ...]
    findings: tuple[Finding, ...]
    x: str
    unit: float
    correlated: bool
    level: float


def _setup(runs: Iterable[Run], x: str | None, window: Window, correlated: bool, level: float) -> _Setup:
    given = list(runs)
    if len(given) < 2:
        raise UserError(f"sharing a parameter takes at least two runs; {len(given)} given")
    one_of_each(run.name for run in given)
    if not 0.0 < level < 1.0:
        raise UserError(f"level: {level:g} does not lie between 0 and 1")
    x = given[0].axes[0] if x is None else x
    own = [fit(run, x=x, window=window, level=None) for run in given]
    short = [f"{f.name} has {f.n}" for f in own if f.n <= len(NAMES) or f.params["B"].value is None]
    if short:
        raise UserError(f"each run needs more than {len(NAMES)} points on a curve that is not flat: {', '.join(short)}")
    unit = max(float(f.compute[-1]) for f in own)
    members = tuple(_member(f, window, unit, correlated) for f in own)
    what = "the test knows the noise inside the runs only: two seeds of one recipe differ by more"
    findings = [finding("run-noise", what)]
    if not correlated:
        what = "the test takes evaluations as independent; successive ones of a run usually are not"
        findings.append(finding("independent-noise", what))
    if len({frozenset(map(str, run.data["prompt_set"])) for run in given if "prompt_set" in run.data}) > 1:
        what = "the runs were evaluated on different prompts, which alone moves R0 and A"
        findings.append(finding("prompt-sets-differ", what))
    for f in own:
        doubts = [d for d in f.findings if d.severity != "note"]
        findings += [finding(d.code, f"{f.name}: {d.message}", d.figure, d.severity) for d in doubts]
    return _Setup(members, tuple(findings), x, unit, correlated, level)


def _member(own: Fit, window: Window, unit: float, correlated: bool) -> Member:
    data = evaluations_of(own.run, own.x)
    data = data.some(inside(data.compute, window))
    log_c = relative_log(np.append(data.compute, unit))[0][:-1]
    problem = Problem(log_c, data.pass_rate)
    box = leastsquares.default_box(np.exp(log_c))
    rho = 0.0
    if correlated:
        problem, rho = profiles.correlated(problem, box, data.time)
    member = Member(own.name, problem, box, problem.fit(box), 1.0, rho)
    return replace(member, scale=member.sigma) if correlated and not member.exact else member


def _checked(share: str | Iterable[str]) -> tuple[str, ...]:
    names = {share} if isinstance(share, str) else set(share)
    unknown = names - set(NAMES)
    if unknown:
        raise UserError(f"share: {', '.join(sorted(map(repr, unknown)))} is none of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)


def _below(joint: Joint, free: Joint) -> bool:
    return joint.sse < free.sse * (1.0 - SAME)


def _freed(free: Joint, better: Iterable[Joint], correlated: bool) -> Joint:
    """The free model searched again from where shared ones came upon something better."""
    members = list(free.members)
    for joint in better:
        shapes = joint.each()[:, 2:]
        members = [m.refitted(shape, rescale=correlated) for m, shape in zip(members, shapes, strict=True)]
    return solve(members, ())


def _result(joint: Joint, free: Joint, setup: _Setup) -> SharedFit:
    members, findings = free.members, list(setup.findings)
    exact = any(m.exact for m in members)
    q, F, p = free.p - joint.p, None, None
    if exact:
        what = "the points of a run lie on its curve to rounding: nothing can be tested"
        findings.insert(0, finding("exact-data", what))
    elif q:
        F = max(joint.sse - free.sse, 0.0) / q / (free.sse / free.dof)
        p = float(fdtrc(q, free.dof, F))
    limits = {} if exact else shared_limits(joint, setup.level)
    errors = np.full(joint.p, np.nan) if exact else joint.errors()
    own = {}
    params: dict[str, Param] = {}
    for member, columns in zip(members, joint.columns, strict=True):
        made = {
            name: _param(name, float(joint.theta[k]), float(errors[k]), limits.get(name, (None, None)), setup.unit)
            for name, k in zip(NAMES, columns, strict=True)
        }
        params |= {name: made[name] for name in joint.share}
        own[member.name] = MappingProxyType({name: made[name] for name in NAMES if name not in joint.share})
    shift = np.array([0.0, 0.0, 0.0, math.log(setup.unit)])
    each = zip(members, free.each() + shift, strict=True)
    return SharedFit(
        runs=tuple(m.name for m in members),
        x=setup.x,
        share=joint.share,
        params=MappingProxyType(params),
        own=MappingProxyType(own),
        free=MappingProxyType({m.name: MappingProxyType(natural(theta)) for m, theta in each}),
        S=joint.sse,
        S_free=free.sse,
        dof=joint.dof,
        dof_free=free.dof,
        F=F,
        p=p,
        rho=MappingProxyType({m.name: m.rho for m in members}),
        sigma=MappingProxyType({m.name: m.sigma for m in members}),
        correlated=setup.correlated,
        level=setup.level,
        findings=tuple(findings),
    )


def _param(name: str, value: float, se: float, limits: tuple[float | None, float | None], unit: float) -> Param:
    """A parameter in natural units from its worked value, standard error and limits."""
    factor = {"B": 1.0, "C_mid": unit}.get(name)
    lo, hi = limits
    if factor is not None:
        value = factor * math.exp(value)
        se *= value
        lo, hi = (None if v is None else factor * math.exp(v) for v in limits)
    known = lo is not None and hi is not None
    return Param(value, lo, hi, identified=known, se=se if math.isfinite(se) else None)
