"""What a fit hands on: parameters with limits, the curve, and the doubts. Frozen; nothing here estimates anything.

Promises: an unknown is `None`, never 0 and never NaN; a result shows its findings before its numbers; importing
this module loads neither numpy, pandas nor scipy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.findings import Finding
from analysis.schema import Named, Run
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PARAMETERS = ("A", "B", "C_mid", "R0")  # the order of every table


@dataclass(frozen=True)
class Param:
    """One parameter: value, limits, and whether the data identify it. `None` is unknown.

    `fixed` marks a value that was given, not fitted; `why` says in a few words why it is not identified.
    """

    value: float | None
    lo: float | None
    hi: float | None
    identified: bool
    fixed: bool = False
    why: str = ""

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

    @property
    def name(self) -> str:
        """Label of the run."""
        return self.run.name

    @property
    def n(self) -> int:
        """Number of points fitted."""
        return len(self.compute)

    @property
    def fitted(self) -> bool:
        """Whether there is a curve at all."""
        return self.params["A"].value is not None

    def predict(self, C: ArrayLike) -> NDArray[Any]:
        """Return the fitted pass rate at compute `C` (unit of `x`), same shape as `C`.

        Raises
        ------
        UserError
            If nothing could be fitted.
        """
        import numpy as np

        from analysis.curve import R

        R0, A, B, C_mid = (self.params[name].value for name in ("R0", "A", "B", "C_mid"))
        if R0 is None or A is None:
            raise UserError(f"{self.name}: there is no curve to predict from; {self.findings[-1].message}")
        if B is None or C_mid is None:  # an exactly flat run has a level and no shape
            return np.full(np.shape(C), A)
        return np.asarray(R(C, R0, A, B, C_mid))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape: run, n, x, method, params, findings."""
        return {
            "run": self.name,
            "n": self.n,
            "x": self.x,
            "method": self.method,
            "params": {name: self.params[name].to_dict() for name in PARAMETERS},
            "findings": [f.to_dict() for f in self.findings],
        }

    def __repr__(self) -> str:
        from analysis.tables import fit_text

        return fit_text(self, findings_first=True)

    def _repr_html_(self) -> str:
        from analysis.tables import fits_html

        return fits_html([self])


class Fits(Named[Fit]):
    """Fits of several runs, by position or by name."""

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"runs": [...]}`` with one entry a fit."""
        return {"runs": [fit.to_dict() for fit in self]}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        from analysis.tables import fits_html

        return fits_html(self)
