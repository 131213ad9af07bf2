"""Runs at equal compute: the pass rate of each curve at the largest compute that all runs with a curve reached.

Promises: no extrapolation; a run that has no curve there is left out and named. Does not promise significance: with
one seed a recipe nothing can be tested, and with several only means are given here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.comparisons.standings import Comparison, RecipeMean, Standing
from analysis.curves.curve import R
from analysis.findings import Finding, finding
from analysis.fits.fitting import fit
from analysis.fits.refits import fitted_run
from analysis.fits.results import Fit
from analysis.schema import Run
from scalerl.runlog import UserError

AXES = ("gpu_hours", "cpu_s")


def compare_at_equal_compute(runs: Iterable[Run | Fit], axes: Sequence[str] | None = None) -> Comparison:
    """Compare runs on each compute axis.

    Parameters
    ----------
    runs : iterable of Run or Fit
        A Fit is used as it is on its own axis; on the others the evaluations of its window are fitted anew.
    axes : sequence of str, optional
        Compute axes; one that fewer than two runs have is left out. By default GPU-hours and CPU-seconds, or the axis
        of the fits, or of the first run, where that is another one.

    Returns
    -------
    Comparison

    Raises
    ------
    UserError
        If there are fewer than two runs.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from analysis.readers.logs import read
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, gain in (("slow", 0.1), ("fast", 0.2)):
    ...     rows = [f"{c},{0.1 + gain * c / (c + 2)}" for c in range(9)]
    ...     _ = (folder / f"{name}.csv").write_text("\\n".join(["gpu_hours,accuracy", *rows]))
    >>> result = compare_at_equal_compute(read(folder / "*.csv"), axes=["gpu_hours"])
    >>> result.ahead["gpu_hours"], round(result.recipes[0].pass_rate["gpu_hours"], 6)
    ('fast', 0.26)
    """
    given = list(runs)
    if len(given) < 2:
        raise UserError(f"a comparison needs at least two runs; {len(given)} given")
    members = [g if isinstance(g, Run) else g.run for g in given]
    if axes is None:
        own = next((g.x for g in given if isinstance(g, Fit)), members[0].axes[0])
        axes = AXES if own in AXES else (own,)
    findings = _prompt_sets(members)
    common: dict[str, float] = {}
    by: dict[str, str] = {}
    rates: dict[str, dict[str, float | None]] = {run.name: {} for run in members}
    for axis in axes:
        findings += _on_axis(axis, given, common, rates, by)
    standings = tuple(Standing(run.name, run.recipe, run.seed, rates[run.name]) for run in members)
    recipes = _recipes(standings, tuple(common))
    if len(recipes) > 1:
        findings.append(_tested(recipes))
    return Comparison(
        common=common,
        runs=standings,
        recipes=recipes,
        ahead={axis: _ahead(recipes, axis) for axis in common},
        findings=tuple(findings),
        by=by,
    )


def _on_axis(
    axis: str,
    given: Sequence[Run | Fit],
    common: dict[str, float],
    rates: dict[str, dict[str, float | None]],
    by: dict[str, str],
) -> list[Finding]:
    """Fill in the common compute, the pass rates and how the curves were fitted, of one axis."""
    findings = []
    there: list[Run | Fit] = []
    for g in given:
        run = g if isinstance(g, Run) else g.run
        if axis in run.axes:
            there.append(g)
        else:
            rates[run.name][axis] = None
            findings.append(finding("axis-missing", f"{run.name} does not log {axis} and is left out there"))
    if len(there) < 2:
        for g in there:
            rates[g.name][axis] = None
        who = f"only {there[0].name} logs" if there else "no run logs"
        return [finding("axis-missing", f"{who} {axis}; it is left out")]
    fits = [g if isinstance(g, Fit) and g.x == axis else _curve(g, axis) for g in there]
    by[axis] = "posterior" if all(f.trusted_draws is not None for f in fits if f.fitted) else "least squares"
    fitted = [f for f in fits if f.fitted] or fits  # a run without a curve must not hold back those that have one
    common[axis] = min(float(f.compute[-1] if len(f.compute) else f.run.data[axis].max()) for f in fitted)
    for f in fits:
        covered = f.fitted and f.compute[0] <= common[axis] <= f.compute[-1]
        rates[f.name][axis] = _read(f, common[axis]) if covered else None
        if not covered:
            what = "has no curve" if not f.fitted else "has no fitted point on both sides of it"
            findings.append(
                finding("not-covered", f"{f.name} {what} at {common[axis]:.3g} {axis} and is left out there")
            )
    return findings


def _read(f: Fit, C: float) -> float:
    """The median of the posterior's curves, as every table of `compare` has it; without draws the fitted curve."""
    d = f.trusted_draws
    if d is None:
        return float(f.predict(C))
    return float(d.quantile(R(C, d.R0, d.A, d.B, d.C_mid), [0.5])[0])


def _curve(g: Run | Fit, axis: str) -> Fit:
    """Fit without limits, to the evaluations that a fit had: only the curve inside the data is read off."""
    return fit(g if isinstance(g, Run) else fitted_run(g), x=axis, level=None)


def _recipes(standings: Sequence[Standing], axes: Sequence[str]) -> tuple[RecipeMean, ...]:
    """Means over seeds, best on the first axis first, recipes without a figure last."""
    means = []
    for recipe in dict.fromkeys(s.recipe for s in standings):
        values = {a: [r for s in standings if s.recipe == recipe and (r := s.pass_rate[a]) is not None] for a in axes}
        means.append(
            RecipeMean(
                recipe,
                {a: sum(v) / len(v) if v else None for a, v in values.items()},
                {a: len(v) for a, v in values.items()},
            )
        )
    first = axes[0] if axes else None

    def rank(mean: RecipeMean) -> float:
        value = mean.pass_rate[first] if first is not None else None
        return -1.0 if value is None else value

    return tuple(sorted(means, key=rank, reverse=True))


def _ahead(recipes: Sequence[RecipeMean], axis: str) -> str | None:
    rated = sorted(((rate, m.recipe) for m in recipes if (rate := m.pass_rate[axis]) is not None), reverse=True)
    if len(rated) < 2 or rated[0][0] == rated[1][0]:
        return None
    return rated[0][1]


def _tested(recipes: Sequence[RecipeMean]) -> Finding:
    counts = [n for m in recipes for n in m.n.values()]
    if max(counts, default=0) <= 1:
        return finding("not-tested", "one seed a recipe: differences between recipes are not tested")
    return finding("not-tested", "means over seeds; the differences between recipes are not tested here")


def _prompt_sets(runs: Sequence[Run]) -> list[Finding]:
    """Pass rates on different prompts are not comparable; unknown prompts (CSV) cannot be checked."""
    sets = {run.name: {str(p) for p in run.data["prompt_set"]} for run in runs if "prompt_set" in run.data}
    if len({frozenset(s) for s in sets.values()}) <= 1:
        return []
    what = f"{', '.join(sets)} were evaluated on different prompts: their pass rates cannot be compared"
    return [finding("prompt-sets-differ", what)]
