"""What the seeds of a recipe say together, as `analysis.pooled.seeds` hands it on. Frozen; nothing here estimates.

Promises: an unknown is `None`; doubts stand before numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.findings import Finding
from analysis.fits.results import Param
from analysis.fits.tables import figures, standing
from analysis.schema import Named


@dataclass(frozen=True)
class RecipeFit:
    """What the seeds of one recipe say together.

    Attributes
    ----------
    recipe : str
    runs : tuple of str
        Those that the values come from.
    x : str
        Compute axis; C_mid is in its unit.
    params : mapping of A, B, C_mid to Param
    A_population : Param or None
        A on another sample of prompts; None where the log has no counts of each prompt.
    between : mapping of A, B, C_mid to float or None
        Standard deviation of the seeds' values, of ln B and ln C_mid for these two; None for one seed.
    within : mapping of A, B, C_mid to float or None
        Root mean square of the seeds' own standard deviations.
    seed_sd : float or None
        Standard deviation of A between seeds that was stated.
    left_out : tuple of str
        Runs that were given and have no value here: copies, without a curve yet, flat, or with limits withheld.
    """

    recipe: str
    runs: tuple[str, ...]
    x: str
    params: Mapping[str, Param]
    A_population: Param | None
    between: Mapping[str, float | None]
    within: Mapping[str, float | None]
    seed_sd: float | None
    level: float
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe."""
        return self.recipe

    def __repr__(self) -> str:
        seeds = f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)}"
        lines = [f"{self.recipe}   {seeds} ({', '.join(self.runs)}), {self.x}"]
        lines += [f"  {f.severity:<8} {f.message}" for f in self.findings]
        for name, p in self.params.items():
            value, limits = figures(p)
            lines.append(f"  {name:<6} {f'{value:<9} {limits}':<36} {standing(p)}")
        if self.A_population is not None:
            lines.append(f"  A on new prompts  {'   '.join(figures(self.A_population))}".rstrip())
        between, within = self.between["A"], self.within["A"]
        if between is not None:
            own = "" if within is None else f"; the fits' own {within:.2g}"
            lines.append(f"  A of the seeds: standard deviation {between:.2g}{own}")
        return "\n".join(lines)


class RecipeFits(Named[RecipeFit]):
    """Recipes, by position or by name."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))
