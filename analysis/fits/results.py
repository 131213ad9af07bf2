"""What a fit hands on: parameters with limits, draws, the curve, and the doubts. Frozen; nothing here estimates.

Promises: an unknown is `None`, never 0 and never NaN; a result shows its findings before its numbers; every interval
of a prediction is read off draws that passed their checks; importing this module loads neither numpy, pandas nor
scipy. Does not promise that a fit has draws: plain least squares has none, and a band is then refused.

Text and HTML are made in `analysis.fits.tables`, files in `analysis.fits.saved`, results of lmfit in
`analysis.fits.peers`. A little over the usual length: one docstring stands for every field and every method that
people call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

from analysis.findings import Finding
from analysis.posteriors.draws import Band, Draws, Reached, tail
from analysis.schema import Named, Run
from scalerl.runlog import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from analysis.posteriors.priors import Priors

PARAMETERS = ("A", "B", "C_mid", "R0")  # the order of every table
LEVEL = 0.95  # of an interval where neither the caller nor the fit says which
WITHHELD = frozenset({"posterior-grid", "pooled-thin"})  # findings of draws that no limit may be read off
# Findings under which nothing is claimed past the data, by any verb or figure.
NOTHING_AHEAD = frozenset({"no-fit", "flat-curve", "decay", "falling-curve", "peak-fit", *WITHHELD})
FARTHEST = 100.0  # largest multiple of the compute that a reach is looked for at


@dataclass(frozen=True)
class Param:
    """One parameter: value, limits, and whether the data identify it. `None` is unknown.

    `fixed` marks a value that was given, not fitted; `why` says in a few words why it is not identified. `se` and
    `se_observed` are standard errors from J'J and from the observed Hessian: for a check against other tools, not
    for an interval.
    """

    value: float | None
    lo: float | None
    hi: float | None
    identified: bool
    fixed: bool = False
    why: str = ""
    se: float | None = None
    se_observed: float | None = None

    def to_dict(self) -> dict[str, float | bool | None]:
        """Return the four fields that the JSON output holds."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi, "identified": self.identified}


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted curve with everything needed to draw and to doubt it.

    Attributes
    ----------
    run : Run
    x : str
        Compute axis; `compute` and C_mid are in its unit.
    method : str
    level : float or None
        Level of the limits in `params`; None if none were asked for.
    params : mapping of A, B, C_mid, R0 to Param
    compute, pass_rate : array, shape (n,)
        Points that were fitted, sorted by compute.
    left_out : array, shape (points left out, 2)
        Compute and pass rate of those that were not.
    window : (from, to), each None if open
    findings : tuple of Finding
        Those of the run first.
    family : str
        Family of curves; the law of the paper is ``sigmoid``.
    reach : float or None
        Largest multiple of the last compute, up to `FARTHEST`, at which the band of the mean curve is at most
        `tolerance` to either side, by the draws of the law alone; 1 where there is none, None if there is no band.
    grade : float or None
        P(C_max > 2 C_mid), a probability.
    draws : Draws or None
    noise : mapping of str to float or None
        What is known of the noise: rho, sigma and what else the method estimates.
    evaluation_sd : array, shape (n,), or None
        Standard deviation of each evaluation from its sampling alone, where the log holds the counts.
    A_population : Param or None
        A with the prompts taken as a sample of all such prompts.
    report : mapping
        The checklist of a fit report, as plain values; `checklist` prints it.
    priors : Priors or None
        What the posterior assumed; None is the usual ones.
    r0 : "free", "first" or float
        How R0 was taken, as `analysis.fit` was asked.
    """

    run: Run
    x: str
    method: str
    level: float | None
    params: Mapping[str, Param]
    compute: NDArray[Any]
    pass_rate: NDArray[Any]
    left_out: NDArray[Any]
    window: tuple[float | None, float | None]
    findings: tuple[Finding, ...]
    y: str = "pass_rate"
    family: str = "sigmoid"
    reach: float | None = None
    grade: float | None = None
    tolerance: float = 0.02
    draws: Draws | None = None
    noise: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    evaluation_sd: NDArray[Any] | None = None
    A_population: Param | None = None
    report: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    priors: Priors | None = None
    r0: str | float = "free"

    @property
    def name(self) -> str:
        """Label of the run."""
        return self.run.name

    @property
    def prompts(self) -> str:
        """``sample`` where the limits of A hold for other prompts, too, else ``fixed``: see `analysis.fit`."""
        widened = self.A_population is not None and all(f.code != "prompts-fixed" for f in self.findings)
        return "sample" if widened else "fixed"

    @property
    def n(self) -> int:
        """Number of points fitted."""
        return len(self.compute)

    @property
    def fitted(self) -> bool:
        """Whether there is a curve at all."""
        return self.params["A"].value is not None

    @property
    def trusted_draws(self) -> Draws | None:
        """The draws; None where there are none, or where they failed a check and limits are withheld."""
        return None if WITHHELD & {f.code for f in self.findings} else self.draws

    @property
    def nothing_ahead(self) -> Finding | None:
        """The finding under which nothing is claimed past the data; None where there is none."""
        return next((f for f in self.findings if f.code in NOTHING_AHEAD), None)

    @overload
    def predict(self, C: ArrayLike, level: None = None) -> NDArray[Any]: ...
    @overload
    def predict(self, C: ArrayLike, level: float) -> Band: ...
    def predict(self, C: ArrayLike, level: float | None = None) -> NDArray[Any] | Band:
        """Return the fitted pass rate at compute `C` (unit of `x`), same shape as `C`.

        Parameters
        ----------
        C : array-like
            Compute, at least 0.
        level : float, optional
            Return limits of the mean curve at this level instead; a single evaluation scatters more widely.

        Returns
        -------
        array or Band
            The curve; with `level` the named tuple (lo, mid, hi) of weighted quantiles of the draws.

        Raises
        ------
        UserError
            If nothing could be fitted, a compute is below 0, or limits are asked for and the fit has no draws or
            withholds its limits.
        """
        import numpy as np

        from analysis.curves.curve import R

        C = np.asarray(C, dtype=float)
        if (C < 0.0).any():
            raise UserError(f"predict: {C.min():g} is no compute; it is at least 0")
        R0, A, B, C_mid = self._values()
        if level is None:
            if B is None or C_mid is None:  # an exactly flat run has a level and no shape
                return np.full(np.shape(C), A)
            return np.asarray(R(C, R0, A, B, C_mid))
        d, low = self._trusted(), tail(level)
        known = np.where(np.isnan(C), 0.0, C).reshape(1, -1)
        curves = R(known, *(v[:, None] for v in (d.R0, d.A, d.B, d.C_mid)))
        found = np.where(np.isnan(C), np.nan, d.quantile(curves, [low, 0.5, 1.0 - low]).reshape(3, *C.shape))
        return Band(*found)

    def compute_to(self, R: float, level: float | None = None) -> Reached:
        """Return the compute at which the curve reaches pass rate `R`, with limits where there are `trusted_draws`.

        Parameters
        ----------
        R : float
            Pass rate, a fraction.
        level : float, optional
            Of the limits; by default that of the fit.

        Returns
        -------
        Reached
            The first compute at which the curve is at least `R`; infinity means never.

        Raises
        ------
        UserError
            If nothing could be fitted or an argument makes no sense.
        """
        import numpy as np

        from analysis.curves.curve import compute_to

        if not 0.0 <= R <= 1.0:
            raise UserError(f"compute_to: {R:g} is not a pass rate between 0 and 1")
        level = (LEVEL if self.level is None else self.level) if level is None else level
        low = tail(level)
        R0, A, B, C_mid = self._values()
        if B is None or C_mid is None:
            return Reached(R, 0.0 if A >= R else math.inf, None, None, level, self.x)
        d = self.trusted_draws
        if A < R0:  # a curve that falls has its largest rate at the start
            return Reached(R, 0.0 if R0 >= R else math.inf, None, None, level, self.x)
        value = float(compute_to(R, R0, A, B, C_mid))
        if d is None:
            return Reached(R, value, None, None, level, self.x)
        gained, missing = R - d.R0, d.A - R
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            between = np.exp(np.log(d.C_mid) + (np.log(gained) - np.log(missing)) / d.B)
        reached = np.where(gained <= 0.0, 0.0, np.where(missing > 0.0, between, np.inf))
        lo, hi = d.quantile(reached, [low, 1.0 - low])
        return Reached(R, value, float(lo), float(hi), level, self.x)

    def summary(self) -> pd.DataFrame:
        """Return one row a parameter: value, lo, hi, se, identified, why; unknown is missing, never NaN."""
        import pandas as pd

        rows = [(name, self.params[name]) for name in self.params]
        if self.A_population is not None:
            rows.append(("A on new prompts", self.A_population))
        numbers = {
            column: pd.array([getattr(p, column) for _, p in rows], dtype="Float64")
            for column in ("value", "lo", "hi", "se")
        }
        told = {"identified": [p.identified for _, p in rows], "why": [p.why for _, p in rows]}
        return pd.DataFrame({**numbers, **told}, index=pd.Index([name for name, _ in rows], name="parameter"))

    def checklist(self) -> str:
        """Return what a fit report should carry, one line an item."""
        from analysis.fits.tables import checklist_text

        return checklist_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape: run, n, x, method, reach, grade, params, findings."""
        return {
            "run": self.name,
            "n": self.n,
            "x": self.x,
            "method": self.method,
            "reach": self.reach,
            "grade": self.grade,
            "params": {name: self.params[name].to_dict() for name in PARAMETERS},
            "findings": [f.to_dict() for f in self.findings],
        }

    def to_json(self) -> str:
        """Return the whole fit as JSON; `Fit.from_json` gives the same fit back, to the last bit."""
        from analysis.fits.saved import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Fit:
        """Read what `to_json` wrote; nothing in it is executed.

        Raises
        ------
        UserError
            If the text is damaged or something else.
        """
        from analysis.fits.saved import fit_from_json

        return fit_from_json(text)

    def to_lmfit(self) -> Any:
        """Return an ``lmfit.model.ModelResult`` that stands at this curve, without fitting again.

        Raises
        ------
        UserError
            If there is no curve of this law.
        """
        from analysis.fits.peers import to_lmfit

        return to_lmfit(self)

    def _values(self) -> tuple[float, float, float | None, float | None]:
        if self.family != "sigmoid":
            raise UserError(f"{self.name}: a curve of the family {self.family} is read with analysis.curves.families")
        if not self.fitted:
            raise UserError(f"{self.name}: there is no curve to predict from; {self.findings[-1].message}")
        R0, A, B, C_mid = (self.params[name].value for name in ("R0", "A", "B", "C_mid"))
        if R0 is None or A is None:
            raise UserError(f"{self.name}: R0 or A has no value, so there is no curve")
        return R0, A, B, C_mid

    def _trusted(self) -> Draws:
        if (found := self.trusted_draws) is not None:
            return found
        failed = next((f.message for f in self.findings if f.code in WITHHELD), f"method {self.method} has no draws")
        raise UserError(f"{self.name}: {failed}, so there is no band; leave out level")

    def __repr__(self) -> str:
        from analysis.fits.tables import fit_text

        return fit_text(self, findings_first=True)

    def _repr_html_(self) -> str:
        from analysis.fits.tables import fits_html

        return fits_html([self])


class Fits(Named[Fit]):
    """Fits of several runs, by position or by name."""

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"runs": [...]}`` with one entry a fit."""
        return {"runs": [fit.to_dict() for fit in self]}

    def summary(self) -> pd.DataFrame:
        """Return the rows of every fit, indexed by run and parameter."""
        import pandas as pd

        if not len(self):
            raise UserError("there is no fit to summarise")
        return pd.concat({fit.name: fit.summary() for fit in self}, names=["run"])

    def to_json(self) -> str:
        """Return all fits as JSON; `Fits.from_json` gives the same fits back, to the last bit."""
        from analysis.fits.saved import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Fits:
        """Read what `to_json` wrote, as `Fit.from_json` does."""
        from analysis.fits.saved import fits_from_json

        return fits_from_json(text)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        from analysis.fits.tables import fits_html

        return fits_html(self)
