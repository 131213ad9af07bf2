"""What later verbs need of a fit: its points, what it held R0 at, its priors, and itself by the posterior.

Promises: every verb that looks ahead takes a fit through `posterior_fit` and its evaluations through `points_of`, so
that window, priors and a held R0 mean the same to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from analysis.findings import Finding, finding
from analysis.fits.estimating import SPOILT
from analysis.fits.evaluations import Evaluations, evaluations_of, inside
from analysis.fits.results import Fit
from analysis.posteriors.priors import Priors
from analysis.schema import Run
from scalerl.runlog import UserError


def runs_or_fits(given: Any, verb: str) -> list[Run | Fit]:
    """Return the runs and fits that a verb is given as a list: one is a list of one.

    Raises
    ------
    UserError
        If it is something else, with how to read it.
    """
    if isinstance(given, (Run, Fit)):
        return [given]
    if hasattr(given, "columns") or isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        what = "a table" if hasattr(given, "columns") else repr(given)[:40]
        how = "make one of it with analysis.read_frame(table)" if what == "a table" else "read files with analysis.read"
        raise UserError(f"{verb} takes runs or fits, not {what}; {how}")
    items = list(given)
    for one in items:
        if not isinstance(one, (Run, Fit)):
            raise UserError(f"{verb} takes runs or fits, and {repr(one)[:40]} is none; read files with analysis.read")
    return items


def posterior_fit(fit: Fit, priors: Priors | None = None) -> Fit:
    """Return the fit if it is by the posterior, else its run fitted so, with its axis, window, R0, priors and prompts.

    Parameters
    ----------
    fit : Fit
    priors : Priors, optional
        Others than those of the fit: then it is fitted again, too.

    Returns
    -------
    Fit
        With the finding ``refitted`` if it is another one.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> again = posterior_fit(an.fit(run, method="lsq", window=(None, 30e3), r0=0.2))
    >>> again.method, again.window, again.params["R0"].value, again.findings[-1].code
    ('posterior', (None, 30000.0), 0.2, 'refitted')
    """
    wanted = priors_of(fit) if priors is None else priors
    if fit.method == "posterior" and fit.level is not None and wanted == priors_of(fit):
        return fit
    from analysis.fits.fitting import fit as fit_runs  # it makes what this module reads

    made = fit_runs(
        fit.run, x=fit.x, window=fit.window, r0=fit.r0, priors=wanted, tolerance=fit.tolerance, prompts=fit.prompts
    )
    for asked in (f for f in fit.findings if f.code in {"peak-fit", "spent-fit"}):
        cut = asked.code == "peak-fit"
        made = only_to_peak(made, asked) if cut else replace(made, findings=(*made.findings, asked))
    if fit.method == "posterior" and fit.level is not None:
        return made
    what = f"fitted by {fit.method}; what stands here rests on its run fitted again by the posterior"
    return replace(made, findings=(*made.findings, finding("refitted", what)))


def points_of(fit: Fit) -> Evaluations:
    """Return the evaluations that were fitted, in order of compute."""
    data = evaluations_of(fit.run, fit.x)
    use = inside(data.compute, fit.window)
    if fit.r0 == "first":  # R0 is held at these: as points they would be counted twice
        use &= data.compute != data.compute[0]
    return data.some(use)


def fitted_run(fit: Fit) -> Run:
    """Return the run with the evaluations of the fit's window alone, for what is fitted anew on another axis."""
    use = inside(fit.run.data[fit.x], fit.window)
    return fit.run if use.all() else replace(fit.run, data={name: of[use] for name, of in fit.run.data.items()})


def held_R0(fit: Fit) -> float | None:
    """Return the value that R0 is held at; None where it is fitted."""
    R0 = fit.params["R0"]
    return R0.value if R0.fixed else None


def priors_of(fit: Fit) -> Priors:
    """Return the priors of a fit; those of a method without any are the usual ones."""
    return Priors() if fit.priors is None else fit.priors


def only_to_peak(fit: Fit, said: Finding) -> Fit:
    """Return a fit up to a peak with everything withheld that it would claim past it."""
    why = SPOILT["peak-fit"]
    params = {name: replace(p, identified=False, why=why) for name, p in fit.params.items()}
    population = None if fit.A_population is None else replace(fit.A_population, identified=False, why=why)
    return replace(
        fit,
        findings=(*fit.findings, said),
        params=MappingProxyType(params),
        A_population=population,
        reach=None if fit.reach is None else min(fit.reach, 1.0),
    )
