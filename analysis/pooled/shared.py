"""Do several runs share a parameter? What the tests of `analysis.pooled.joint` hand on. Frozen; nothing here estimates.

Promises: a test that could not be made is None; doubts stand before numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.findings import Finding
from analysis.fits.results import Param
from analysis.fits.tables import figures, in_percent

WORDS = {"R0": "starts", "A": "ceilings", "B": "exponents", "C_mid": "midpoints"}


@dataclass(frozen=True)
class SharedFit:
    """Runs fitted together, and the test of what they share against each run with a curve of its own.

    Attributes
    ----------
    runs : tuple of str
    x : str
        Compute axis.
    share : tuple of str
        Parameters with one value for all runs.
    params : mapping of str to Param
        The shared parameters; limits from the F profile, standard errors from J'J.
    own : mapping of run to mapping of str to Param
        The parameters that are a run's own, with standard errors.
    free : mapping of run to mapping of str to float
        R0, A, B and C_mid where nothing is shared.
    S, S_free : float
        Sums of squares, each run's whitened by its rho and divided by its sigma^2 if `correlated`.
    dof, dof_free : int
        Points less parameters.
    F, p : float or None
        Test of `share` on (dof - dof_free, dof_free) degrees of freedom; None where nothing is shared or the points lie
        on their curves exactly.
    rho, sigma : mapping of run to float
    """

    runs: tuple[str, ...]
    x: str
    share: tuple[str, ...]
    params: Mapping[str, Param]
    own: Mapping[str, Mapping[str, Param]]
    free: Mapping[str, Mapping[str, float]]
    S: float
    S_free: float
    dof: int
    dof_free: int
    F: float | None
    p: float | None
    rho: Mapping[str, float]
    sigma: Mapping[str, float]
    correlated: bool
    level: float
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """What is shared."""
        return ", ".join(self.share) or "nothing"

    @property
    def differ(self) -> bool | None:
        """Whether the test rejects the shared model at 1 - `level`; None where there is no test."""
        return None if self.p is None else self.p < 1.0 - self.level

    def __repr__(self) -> str:
        doubts = [f"  {f.severity:<8} {f.message}" for f in self.findings]
        return "\n".join([_headline(self), *doubts, *_rows(self)])


@dataclass(frozen=True)
class Nested:
    """Tests of several models of the same runs, least shared first."""

    models: tuple[SharedFit, ...]

    def __getitem__(self, share: str | Sequence[str]) -> SharedFit:
        """The model that shares these parameters."""
        wanted = {share} if isinstance(share, str) else set(share)
        for model in self.models:
            if set(model.share) == wanted:
                return model
        raise KeyError(f"{share!r}; the models share {'; '.join(m.name for m in self.models)}")

    def __repr__(self) -> str:
        first = self.models[0]
        lines = [f"{len(first.runs)} runs ({', '.join(first.runs)}), against a curve of its own for each"]
        lines += [f"  {f.severity:<8} {f.message}" for f in first.findings]
        lines.append(f"  {'shared':<16}{'S':>12}{'parameters':>12}{'F':>10}  p")
        for m in self.models:
            F, p = ("", "") if m.F is None or m.p is None else (f"{m.F:.3g}", probability(m.p)[2:].lstrip("= "))
            count = 4 * len(m.runs) - (m.dof - m.dof_free)
            lines.append(f"  {m.name:<16}{m.S:>12.6g}{count:>12}{F:>10}  {p}".rstrip())
        return "\n".join(lines)


def _headline(fitted: SharedFit) -> str:
    count = len(fitted.runs)
    if not fitted.share:
        return f"{count} runs, each with a curve of its own"
    same = " and ".join(fitted.share)
    if fitted.F is None or fitted.p is None:
        return f"same {same} in {count} runs? not tested"
    words = " and ".join(WORDS[name] for name in fitted.share)
    verdict = f"the {words} differ" if fitted.differ else f"the data do not tell their {words} apart"
    q = fitted.dof - fitted.dof_free
    return (
        f"same {same} in {count} runs? F({q}, {fitted.dof_free}) = {fitted.F:.2f}, {probability(fitted.p)}: {verdict}"
    )


def _rows(fitted: SharedFit) -> list[str]:
    """The shared values where the runs can share them, otherwise each run's own, and what is not shared."""
    rows = []
    for name in fitted.share:
        value, limits = figures(fitted.params[name])
        rows.append(
            f"  {name:<6} {value:<9} {limits}".rstrip() + f"  shared, {in_percent(fitted.level)} limits of the profile"
        )
        if fitted.differ:
            each = ", ".join(f"{run} {values[name]:.3g}" for run, values in fitted.free.items())
            rows.append(f"  {name:<6} {each}  (each run alone, by least squares)")
    for run, params in fitted.own.items():
        each = ", ".join(f"{name} {_with_error(p)}" for name, p in params.items())
        if each:
            rows.append(f"  {run}: {each}")
    return rows


def _with_error(p: Param) -> str:
    if p.value is None or p.se is None:
        return figures(replace(p, lo=None, hi=None))[0]
    return f"{p.value:.3g} (se {p.se:.2g})"


def probability(p: float) -> str:
    """Return a p-value as text: two digits, never 0.

    Examples
    --------
    >>> probability(0.672), probability(0.0123), probability(1e-9)
    ('p = .67', 'p = .012', 'p < .001')
    """
    if p < 0.001:
        return "p < .001"
    shown = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"p = {shown.removeprefix('0')}"
