"""Runs from one checkpoint share an R0: estimated from all of them, not pinned to one noisy evaluation.

Promises: each run's prior of R0 is what the other runs say of it and nothing that its own evaluations said already; a
first evaluation that is literally the same measurement in several runs counts once. Does not promise anything where the
law is wrong near the start: the R0 of the law is then no longer the pass rate of the checkpoint, and runs that need
different ones are said to disagree. Measured with ``python -m benchmarks.seeds`` (see `share_R0`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.findings import finding
from analysis.fits.fitting import fit
from analysis.fits.parallel import fit_each
from analysis.fits.results import Fit, Fits
from analysis.posteriors.priors import R0_SD, Priors
from analysis.schema import Run
from scalerl.runlog import UserError

DISAGREE = 3.0  # standard deviations between what a run and the others say of R0


@dataclass(frozen=True)
class _Message:
    """What evaluations say of R0, as a normal density: mean and 1 / variance."""

    mean: float
    precision: float

    @property
    def sd(self) -> float:
        return 1.0 / math.sqrt(self.precision)


def share_R0(runs: Iterable[Run | Fit], *, same_start: bool = False, **options: Any) -> Fits:
    """Fit runs with an R0 that all runs from their checkpoint inform.

    Every run is fitted alone, and again with a normal prior of R0: the product of the other runs' posteriors of R0,
    their own prior of it divided out. Runs share where ``run.json`` has one hash of the starting checkpoint and the
    evaluations one hash of the prompts; a run that shares with none keeps its own R0, with a finding.

    Parameters
    ----------
    runs : iterable of Run or Fit
        Of a Fit its run, to be fitted with `options`.
    same_start : bool
        Says that all runs start from one checkpoint and are evaluated on the same prompts, for logs that do not say so.
    **options
        Of `fit`; the method is the posterior and R0 is free.

    Returns
    -------
    Fits

    Raises
    ------
    UserError
        If a log does not say its checkpoint or prompts, or an option leaves no R0 to share.

    Notes
    -----
    Three recipes from one checkpoint, correlation .3, 80 repetitions (``python -m benchmarks.seeds --only starts``,
    seed 3), alone and shared. 20 points to 2 C_mid: limits of R0 hold it in 98 and 96 %, median width .051 and .028;
    those of A in 96 and 96 %, width .279 and .267. 60 points to 5 C_mid: R0 96 and 98 %, .031 and .017; A 98 and 98 %,
    .025 and .024. So R0 gains a lot and A little.

    Examples
    --------
    >>> from analysis.readers.logs import read
    >>> runs = read("data/runs")
    >>> own, shared = fit(runs), share_R0(runs)
    >>> widths = [(p.hi - p.lo) for p in (fits["grpo/seed0"].params["R0"] for fits in (own, shared))]
    >>> bool(widths[1] < 0.9 * widths[0])
    True
    """
    given = [r.run if isinstance(r, Fit) else r for r in runs]
    wrong = {"r0": "free", "method": "posterior"}
    for name, value in wrong.items():
        if options.get(name, value) != value:
            raise UserError(f"{name}: {options[name]!r} leaves no R0 to share; it takes {value!r}")
    if options.get("level", 0.95) is None:
        raise UserError("level: None leaves no posterior of R0 to share")
    groups: dict[object, list[int]] = {}
    for i, run in enumerate(given):
        groups.setdefault(None if same_start else _start(run), []).append(i)
    done: dict[int, Fit] = {}
    for members in groups.values():
        done |= dict(zip(members, _share([given[i] for i in members], options), strict=True))
    return Fits([done[i] for i in range(len(given))])


def _start(run: Run) -> tuple[str, frozenset[str]]:
    """Checkpoint and prompts of a run."""
    checkpoint = run.header.get("checkpoint")
    sha256 = checkpoint.get("sha256") if isinstance(checkpoint, dict) else None
    prompts = frozenset(map(str, run.data.get("prompt_set", ())))
    if not isinstance(sha256, str) or not prompts or "None" in prompts:
        what = "its starting checkpoint" if not isinstance(sha256, str) else "its evaluation prompts"
        raise UserError(
            f"{run.name}: the log does not say {what}; if all runs share them, analysis.share_R0(runs, same_start=True)"
        )
    return sha256, prompts


def _share(runs: Sequence[Run], options: dict[str, Any]) -> list[Fit]:
    """Fit the runs of one checkpoint."""
    priors, jobs = options.get("priors") or Priors(), options.get("jobs")
    options = {**options, "jobs": None}
    alone = fit_each(_fit, runs, [(run, options) for run in runs], jobs)
    firsts = [_first_evaluations(run, own) for run, own in zip(runs, alone, strict=True)]
    asked = [_asked(i, firsts) for i in range(len(runs))]
    # What run j says of R0 without these of its rows.
    messages = {(j, frozenset[int]()): _said(own, priors) for j, own in enumerate(alone)}
    keys = list(dict.fromkeys(key for each in asked for key in each if key not in messages))
    rest = [_without(runs[j], rows) for j, rows in keys]
    parts = fit_each(_fit, rest, [(run, options) for run in rest], jobs)
    messages |= {key: _said(own, priors) for key, own in zip(keys, parts, strict=True)}

    heard = [[found for key in each if (found := messages[key]) is not None] for each in asked]
    same = [sum(bool(rows) for _, rows in each) for each in asked]
    told = [i for i, own in enumerate(alone) if heard[i] and own.draws is not None]
    arguments = [(alone[i], heard[i], same[i], priors, options) for i in told]
    informed = dict(zip(told, fit_each(_informed, [runs[i] for i in told], arguments, jobs), strict=True))
    fits = []
    for i, own in enumerate(alone):
        what = "no other run says anything of this R0: it is the run's own"
        said = () if own.draws is None else (finding("r0-shared", what),)
        fits.append(informed[i] if i in informed else replace(own, findings=(*own.findings, *said)))
    return fits


def _fit(run: Run, options: dict[str, Any]) -> Fit:
    made: Fit = fit(run, **options)
    return made


def _asked(i: int, firsts: Sequence[dict[object, list[int]]]) -> list[tuple[int, frozenset[int]]]:
    """The other runs that run i hears of R0 from, each with the rows that were counted already."""
    seen, found = set(firsts[i]), []
    for j, own in enumerate(firsts):
        if j != i:
            found.append((j, frozenset(row for key, rows in own.items() if key in seen for row in rows)))
            seen |= set(own)
    return found


def _informed(alone: Fit, heard: Sequence[_Message], same: int, priors: Priors, options: dict[str, Any]) -> Fit:
    """Fit a run with what the others say of R0 as its prior."""
    stated = [] if priors.R0 is None else [_Message(priors.R0[0], priors.R0[1] ** -2)]
    others = _product([*heard, *stated])
    made: Fit = fit(alone.run, **{**options, "priors": replace(priors, R0=(others.mean, others.sd))})
    count = f"{len(heard)} other run{'s' * (len(heard) > 1)}"
    what = f"R0 rests on {count} from this checkpoint too: {others.mean:.4f} (sd {others.sd:.2g})"
    if same:
        what += f"; the first evaluation is the same measurement in {same} of them and counts once"
    said = [finding("r0-shared", what, others.mean)]
    own = _said(alone, priors)
    if own is not None:
        apart = (own.mean - others.mean) / math.hypot(own.sd, others.sd)
        if abs(apart) > DISAGREE:
            what = (
                f"the run's own R0, {own.mean:.4f}, lies {abs(apart):.1f} standard deviations from that of the others"
            )
            said.append(finding("r0-disagrees", what, apart))
    return replace(made, findings=(*made.findings, *said))


def _said(own: Fit, priors: Priors) -> _Message | None:
    """The posterior of R0 with its prior divided out; None where the run added nothing."""
    if own.draws is None or any(f.code == "posterior-grid" for f in own.findings):
        return None
    mean, variance = own.draws.moments(own.draws.R0)
    first = float(own.pass_rate[own.compute == own.compute[0]].mean())
    prior = (first, R0_SD) if priors.R0 is None else priors.R0
    if not 0.0 < variance < prior[1] ** 2:
        return None
    precision = 1.0 / variance - prior[1] ** -2
    return _Message((mean / variance - prior[0] * prior[1] ** -2) / precision, precision)


def _product(messages: Sequence[_Message]) -> _Message:
    precision = sum(m.precision for m in messages)
    return _Message(sum(m.mean * m.precision for m in messages) / precision, precision)


def _first_evaluations(run: Run, own: Fit) -> dict[object, list[int]]:
    """What was measured at compute 0, inside the window: the counts, or without counts the pass rate, and the rows."""
    low = own.window[0]
    found: dict[object, list[int]] = {}
    if low is not None and low > 0.0:
        return found
    for row in np.flatnonzero(np.asarray(run.data[own.x], dtype=float) == 0.0):
        correct = run.data["correct"][row] if "correct" in run.data else None
        counts = tuple(correct) if isinstance(correct, (list, tuple)) else None
        key = float(run.data["pass_rate"][row]) if counts is None else counts
        found.setdefault(key, []).append(int(row))
    return found


def _without(run: Run, rows: frozenset[int]) -> Run:
    keep = np.array([i not in rows for i in range(len(run))])
    return replace(run, data={name: values[keep] for name, values in run.data.items()})
