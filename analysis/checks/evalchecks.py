"""Checks of the evaluations, the events and the clock of a run; they need no figure of the updates but the phases.

Promises: the noise of the evaluations comes from the completions of each prompt where the log has them, and from
nothing else; hours that the log does not tell apart are None. Does not repeat what a fit finds, decay apart, which
nobody should fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis.checks.health import Check
from analysis.checks.steps import Steps, read_number
from analysis.fits.evaluations import evaluations_of
from analysis.readers.own import BUSY
from analysis.schema import Run

# Two evaluations whose difference is tested at 5 % two-sided show it with 80 % power if it is (1.96 + .84) errors.
POWER = 1.959964 + 0.841621
HALF = 0.5  # of the gain lies between R0 and C_mid: evaluations that cannot tell it apart do not place C_mid (ours)
MOST = 100.0  # times the completions that are asked for at most: beyond, the run is flat
LEAST = 10  # evaluations from which on decay is looked for, as in `analysis.fits.decays`
LOST_HALF = 0.5  # share of the gain that a decay has lost when there is nothing left to fit
LOST = 0.10  # GPU-hours cut off by resumes, as a share of all that were spent (ours)
IDLE = 0.20  # share of the metered time in none of the phases (ours)
SCORING = 0.20  # share of it in scoring, where a slow checker holds up the devices (ours)
EVALUATING = 1.0  # evaluation hours over training hours (ours): more is spent on looking than on training
WAITING = 0.5  # share of the metered time that a generator of its own idles, or the trainer waits for it (ours)
# Changes that a fit should not run across; resumes and guards are told by other checks.
REGIMES = frozenset({"learning_rate", "batch", "data", "devices", "evaluation"})
PHASES = ("generate", "score", "train")


def hours_by_phase(run: Run, steps: Steps) -> dict[str, float | None]:
    """Return GPU-hours by phase; ``evaluate`` and ``lost`` are not part of the run's GPU-hours.

    Parameters
    ----------
    run : Run
    steps : Steps
        Of that run.

    Returns
    -------
    dict of phase to float or None
        Wall seconds x devices / 3600. Seconds of phases that run at once overlap, so that ``other`` is at least 0 and
        not always the rest.
    """
    devices = _devices(run)
    hours: dict[str, float | None] = {}
    for phase in PHASES:
        seconds = steps.column(f"{phase}_s")
        hours[phase] = None if seconds is None or devices is None else float(np.nansum(seconds)) * devices / 3600.0
    total = _total(steps)
    parts = [hours[phase] for phase in PHASES]
    known = [h for h in parts if h is not None]
    hours["other"] = max(total - sum(known), 0.0) if total is not None and len(known) == len(parts) else None
    looked = steps.evaluate_s
    hours["evaluate"] = None if looked is None or devices is None else looked * devices / 3600.0
    hours["lost"] = None if steps.missing and not steps.events else _lost(steps)
    return hours


def of_run(run: Run, steps: Steps, hours: Mapping[str, float | None], x: str, effect: float | None) -> list[Check]:
    """Return the checks of evaluations, events and clock, in a fixed order."""
    return [
        decay(run, x),
        noise(run, x, effect),
        regimes(run, steps, x),
        utilisation(run, steps, hours, x),
        lost(steps, hours),
    ]


def decay(run: Run, x: str) -> Check:
    """Pass rate that peaks and falls, by the fit's own rules (`analysis.fits.decays`)."""
    from analysis.fits.decays import dip_of, peak
    from analysis.fits.fitting import fit

    e = evaluations_of(run, x)
    n = len(e.pass_rate)
    if n < LEAST:
        return Check("decay", "unknown", f"{n} evaluations are too few to tell a decay from noise")
    if not len(np.unique(e.compute)) > 1:
        what = f"all {n} evaluations stand at {x} {e.compute[0]:g}: there is no curve; name another axis (x, --x)"
        return Check("decay", "unknown", what)
    found = fit(run, x=x, method="lsq").findings
    codes = {f.code for f in found}
    place = peak(e.pass_rate)
    best, last = float(e.pass_rate[place]), float(e.pass_rate[-2:].mean())
    figure = best - last
    at = _at(run, x, float(e.compute[place]))
    if "falling-curve" in codes:
        what = f"the pass rate falls, from {best:.3f} to {last:.3f}: the run unlearns; lower the learning rate"
        return Check("decay", "error", what, figure, None, at, "learning_rate")
    if "decay" not in codes and "dip" in codes:
        low = next(f for f in found if f.code == "dip")
        where = _at(run, x, float(low.figure or 0.0))
        return Check("decay", "warning", low.message, dip_of(e.pass_rate, e.variance), None, where, "learning_rate")
    if "decay" not in codes:
        return Check("decay", "ok", f"no fall behind the peak of {best:.3f}", figure, None, at)
    gain = best - float(e.pass_rate[0])
    what = (
        f"the pass rate falls from {best:.3f} to {last:.3f} after its peak: fit up to the peak only, and go on from a "
        "checkpoint before it with a lower learning rate"
    )
    status = "error" if figure > LOST_HALF * gain else "warning"
    return Check("decay", status, what, figure, None, at, "learning_rate, max_steps")


def noise(run: Run, x: str, effect: float | None = None) -> Check:
    """Smallest difference that two evaluations tell, against half of what the run moved by, or the effect asked for."""
    e = evaluations_of(run, x)
    if e.variance is None:
        why = "the evaluations do not say how many completions of each prompt were correct, with k of 2 or more"
        return Check("evaluation-noise", "unknown", why)
    sd = math.sqrt(float(e.variance.mean()))
    told = POWER * math.sqrt(2.0) * sd
    n = len(e.pass_rate)
    tail = max(1, n // 5)
    gain = float(e.pass_rate[-tail:].mean() - e.pass_rate[0])
    limit = HALF * abs(gain) if effect is None else effect
    moved = "half of the run's gain" if gain >= 0.0 else "half of what the run fell by"
    wanted = f"{moved}, {limit:.3f}" if effect is None else f"the effect looked for, {limit:.3g}"
    where = _at(run, x, float(e.compute[-1]))
    prompts, k = len(e.correct[-1][0]), e.correct[-1][1]
    what = f"two evaluations of {prompts} prompts x {k} tell differences from {told:.3f} on (5 %, power 80 %)"
    if told <= limit:
        return Check("evaluation-noise", "ok", f"{what}; {wanted}, is more", told, limit, where)
    more = (told / limit) ** 2 if limit > 0.0 else math.inf
    if more <= MOST:
        advice = f"take {math.ceil(k * more)} completions a prompt, or {more:.3g} x the prompts"
    elif gain >= 0.0 or effect is not None:
        advice = "train longer before it is asked what the run gained"
    else:
        advice = "that is too small a fall for evaluations to tell"
    return Check(
        "evaluation-noise",
        "warning",
        f"{what}, and {wanted}, is less; {advice}",
        told,
        limit,
        where,
        "eval_generations, eval_prompts",
    )


def regimes(run: Run, steps: Steps, x: str) -> Check:
    """What changed while the run went on."""
    if steps.missing and not run.events:
        return Check("regimes", "unknown", steps.missing)
    found = [event for event in run.events if event.kind in REGIMES and event.at.get(x, 0.0) > 0.0]
    if not found:
        return Check("regimes", "ok", "nothing changed while the run went on", 0.0, 0.0)
    told = "; ".join(event.what for event in found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    at = {axis: value for axis, value in found[0].at.items() if axis in ("step", x)}
    fields = {"learning_rate": "learning_rate", "batch": "batch_size", "evaluation": "eval_generations, temperature"}
    what = f"the run changes: {told}; fit each part by itself"
    named = ", ".join(dict.fromkeys(fields[e.kind] for e in found if e.kind in fields)) or None
    return Check("regimes", "warning", what, float(len(found)), 0.0, at, named)


def utilisation(run: Run, steps: Steps, hours: Mapping[str, float | None], x: str) -> Check:
    """Share of the metered time in no phase; a slow checker, waiting, a busy machine, and much evaluating beside it."""
    total = _total(steps)
    other, score = hours["other"], hours["score"]
    if not total or other is None or score is None:
        return Check(
            "utilisation", "unknown", steps.missing or "the log has no generate_s, score_s, train_s, gpu_hours"
        )
    idle = other / total
    where = steps.at(len(steps) - 1, x)
    said: list[_Said] = []
    if idle > IDLE:
        what = f"{idle:.0%} of the GPU-hours lie in no phase, as between ticks and in writing the log"
        remedy = "raise slots, so that fewer ticks make a batch, or write the run to a faster disk"
        said.append(_Said(what, remedy, "slots", idle, IDLE))
    if score / total > SCORING:
        what = f"{score / total:.0%} of the GPU-hours go into scoring"
        remedy = "raise reward_workers, or name a quicker checker by reward"
        said.append(_Said(what, remedy, "reward_workers, reward", score / total, SCORING))
    busy = steps.column("generator_busy_s")
    if busy is not None:
        wall = total * 3600.0 / (_devices(run) or 1.0)
        working, waiting = float(np.nansum(busy)) / wall, (hours["generate"] or 0.0) / total
        if working < 1.0 - WAITING:
            what = f"the generator works {working:.0%} of the time and waits"
            remedy = (
                "raise off_policy_steps, so that it may go ahead, or micro_batch_tokens, so that updates are quicker"
            )
            said.append(_Said(what, remedy, "off_policy_steps, micro_batch_tokens", 1.0 - working, WAITING))
        if waiting > WAITING:
            what = f"the trainer waits {waiting:.0%} of the time for the generator"
            remedy = "raise slots, so that more is decoded at once"
            said.append(_Said(what, remedy, "slots", waiting, WAITING))
    looked = hours["evaluate"]
    if looked is not None and looked > EVALUATING * total:
        what = f"evaluating takes {looked / total:.2g} x the GPU-hours of training"
        remedy = "raise eval_every, or lower eval_generations"
        said.append(_Said(what, remedy, "eval_every, eval_generations", looked / total, EVALUATING))
    slow = next((f for f in run.findings if f.code == "busy-machine"), None)
    if slow is not None:
        remedy = "run alone next time, or lower threads until every run has its cores"
        said.append(_Said(slow.message, remedy, "threads", slow.figure, BUSY))
    if not said:
        return Check("utilisation", "ok", f"{1.0 - idle:.0%} of the GPU-hours lie in a phase", idle, IDLE, where)
    fields = ", ".join(dict.fromkeys(name for one in said for name in one.field.split(", ")))
    what, first = "; ".join(f"{one.what}: {one.remedy}" for one in said), said[0]
    return Check("utilisation", "warning", what, first.figure, first.limit, where, fields)


class _Said(NamedTuple):
    """One thing that is wrong: what, the remedy, the fields it names, its own figure and the limit that it passed."""

    what: str
    remedy: str
    field: str
    figure: float | None
    limit: float


def lost(steps: Steps, hours: Mapping[str, float | None]) -> Check:
    """GPU-hours on rows that resumes cut off."""
    total, gone = _total(steps), hours["lost"]
    if total is None or gone is None:
        return Check("lost-compute", "unknown", steps.missing or "the log has no gpu_hours")
    share = gone / (gone + total) if gone > 0.0 else 0.0
    resumes = sum(row.get("event") == "resume" for row in steps.events)
    if share <= LOST:
        return Check("lost-compute", "ok", f"{share:.1%} of the GPU-hours were lost by {resumes} resumes", share, LOST)
    what = f"{share:.0%} of the GPU-hours ({gone:.3g}) were lost by {resumes} resumes; write checkpoints more often"
    last = max(
        (read_number(row.get("step")) or 0.0 for row in steps.events if row.get("event") == "resume"), default=0.0
    )
    return Check("lost-compute", "warning", what, share, LOST, {"step": last}, "checkpoint_every")


def _lost(steps: Steps) -> float:
    return max((read_number(row.get("gpu_hours_lost")) or 0.0 for row in steps.events), default=0.0)


def _total(steps: Steps) -> float | None:
    hours = steps.column("gpu_hours")
    return None if hours is None else float(np.nanmax(hours))


def _devices(run: Run) -> float | None:
    about = run.header.get("devices")
    count: Any = about.get("count", 1) if isinstance(about, Mapping) else None
    return float(count) if type(count) is int and count > 0 else None


def _at(run: Run, x: str, compute: float) -> dict[str, float]:
    """Compute of an evaluation, and its update where the log says it."""
    place = int(np.argmin(np.abs(np.asarray(run.data[x], dtype=float) - compute)))
    step = read_number(run.data["step"][place]) if "step" in run.data else None
    return {x: compute} | ({} if step is None else {"step": step})
