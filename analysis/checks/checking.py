"""`check`: the health of runs before anyone fits them.

    import analysis as an
    health = an.check(an.read("runs"))
    an.plot_health(health[0])

Promises: every run gets the same checks in the same order; what its log does not hold is ``unknown`` with the reason,
and a finding past its limit names the figure, the place and the field to change. Does not promise that a run without
findings is a good one: a limit tells what was seen to go wrong, nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable

from analysis.checks.evalchecks import hours_by_phase, of_run
from analysis.checks.health import Health, RunHealth
from analysis.checks.stepchecks import of_steps
from analysis.checks.steps import read_steps
from analysis.fits.arguments import checked_number
from analysis.fits.refits import runs_or_fits
from analysis.fits.results import Fit
from analysis.readers.own import train_prompts
from analysis.schema import Run
from scalerl.runlog import UserError


def check(runs: Run | Fit | Iterable[Run | Fit], *, x: str | None = None, effect: float | None = None) -> Health:
    """Look at the health of runs: updates, evaluations, events and clock.

    Parameters
    ----------
    runs : Run, Fit, or iterable of these
        From `analysis.read`, or fits of such runs; their logs are read once more for the updates.
    x : str, optional
        Compute axis of the places; the run's first by default.
    effect : float, optional
        Difference of pass rates (fraction) that the evaluations are to tell; half of each run's own gain by default.

    Returns
    -------
    Health

    Raises
    ------
    UserError
        If there is no run, an axis is not there, or `effect` is no difference of pass rates.

    Examples
    --------
    >>> import analysis as an
    >>> health = check(an.read("data/runs"))
    >>> [(run.name, run.status) for run in health]
    [('grpo/seed0', 'ok'), ('scalerl/seed0', 'ok')]
    >>> truncation = health["scalerl/seed0"]["truncation"]
    >>> truncation.status, round(truncation.figure, 3), truncation.limit
    ('ok', 0.003, 0.1)
    """
    every = [one.run if isinstance(one, Fit) else one for one in runs_or_fits(runs, "check")]
    if not every:
        raise UserError("check: there is no run to look at")
    if effect is not None and not 0.0 < (effect := checked_number("effect", effect)) <= 1.0:
        raise UserError(f"check: effect is {effect!r}; give a difference of pass rates over 0 and up to 1")
    return Health([_one(run, x, effect) for run in every])


def _one(run: Run, x: str | None, effect: float | None) -> RunHealth:
    axis = run.axes[0] if x is None else x
    if axis not in run.axes:
        raise UserError(f"{run.name}: no compute axis {axis!r}; it has {', '.join(run.axes)}")
    steps = read_steps(run)
    config = run.header.get("config")
    hours = hours_by_phase(run, steps)
    checks = (
        *of_steps(steps, config if isinstance(config, dict) else {}, train_prompts(run.header), axis),
        *of_run(run, steps, hours, axis, effect),
    )
    reading = tuple(f for f in run.findings if f.severity != "note" and f.code != "busy-machine")
    return RunHealth(run.name, axis, checks, hours, steps, reading)
