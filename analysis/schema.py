"""What the stages hand on: runs, fits and the doubts they carry. Frozen; nothing here reads files or computes.

Promises: an unknown is `None`, never 0 and never NaN; a result shows its findings before its numbers; importing
this module loads neither numpy, pandas nor scipy. Longer than most, because the one table of doubts (`CODES`) stands
beside the results that carry them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from scalerl.runlog import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

SEVERITIES = ("note", "warning", "error")
PARAMETERS = ("A", "B", "C_mid", "R0")  # the order of every table

# Every doubt that a run, a fit or a comparison can carry: code -> (severity, what it means).
CODES: dict[str, tuple[str, str]] = {
    # reading
    "log-cut": ("warning", "the last line of the log is cut; the whole rows before it are used"),
    "no-header": ("note", "a log without run.json: recipe and seed are unknown"),
    "rows-empty": ("note", "rows without a pass rate are left out, as logs of sparse evaluations have them"),
    "rows-dropped": ("warning", "rows with text, NaN, infinity or a negative compute are left out"),
    "percent": ("note", "the pass rate was in percent and is divided by 100"),
    "scaled": ("note", "the pass rate is multiplied by the factor that was asked for"),
    "compute-restarts": ("warning", "compute falls back inside the file: runs joined end to end, or a restart"),
    "compute-unordered": ("note", "rows are not in order of compute; they are sorted"),
    "compute-repeated": ("note", "several evaluations stand at one compute; each counts as a point"),
    "resumed": ("note", "the run was interrupted and resumed; every evaluation is kept"),
    "busy-machine": ("warning", "wall time is far above CPU time on a CPU: the machine was busy with other work"),
    "prompt-set-changed": ("warning", "the evaluation prompts change inside the run"),
    # fitting
    "no-fit": ("error", "fewer points than free parameters: nothing can be fitted"),
    "no-interval": ("warning", "as many points as free parameters: no interval exists"),
    "few-points": ("warning", "too few points for an interval to mean much"),
    "exact-data": ("note", "residuals are at the level of rounding: no interval can come from them"),
    "flat-curve": ("warning", "the pass rate does not change measurably: A, B and C_mid mean nothing"),
    "falling-curve": ("warning", "the pass rate falls: A is a floor that the curve falls to, not a ceiling"),
    "decay": ("warning", "the pass rate peaks and then falls: a curve that only rises is the wrong law here"),
    "at-bound": ("warning", "the best value of a parameter lies on the edge of its allowed range"),
    "open-interval": ("warning", "the data do not close an interval inside the allowed range"),
    "not-past-midpoint": ("warning", "the run ends before twice C_mid: the ceiling is a guess"),
    "independent-noise": ("note", "the interval assumes independent noise; successive evaluations are not"),
    "correlated-residuals": ("warning", "residuals are correlated: the interval is too narrow"),
    "r0-pinned": ("note", "R0 is not fitted; the intervals do not hold its error"),
    "window": ("note", "points outside the window are left out of the fit"),
    # comparing
    "not-tested": ("note", "one seed a recipe: differences are not tested"),
    "axis-missing": ("note", "a run does not log this compute axis and is left out there"),
    "not-covered": ("warning", "a run has no curve at the common compute and is left out there"),
    "prompt-sets-differ": ("warning", "the runs were evaluated on different prompts"),
}


@dataclass(frozen=True)
class Finding:
    """One doubt: a code of `CODES`, how severe it is, one sentence, and the figure behind it if there is one."""

    code: str
    severity: str
    message: str
    figure: float | None = None

    def to_dict(self) -> dict[str, str]:
        """Return the three fields that the JSON output holds."""
        return {"code": self.code, "severity": self.severity, "message": self.message}


def finding(code: str, message: str, figure: float | None = None) -> Finding:
    """Make the finding `code`; its severity stands in `CODES`.

    Examples
    --------
    >>> finding("percent", "eval_acc is in percent").severity
    'note'
    """
    return Finding(code, CODES[code][0], message, figure)


@dataclass(frozen=True, eq=False)
class Run:
    """The evaluations of one run, in the order they were logged.

    Attributes
    ----------
    name : str
        Label, unique among the runs that were read together, such as ``scalerl/seed0``.
    recipe : str
    seed : int or None
    data : mapping of column to array, shape (evaluations,)
        ``pass_rate`` (fraction), every compute axis that was logged, and what else describes an evaluation.
    axes : tuple of str
        Compute columns in `data`; the first is the default x.
    header : mapping
        What ``run.json`` says; empty for a CSV file.
    source : Path
        The file that was read; `sha256` is its hash.
    """

    name: str
    recipe: str
    seed: int | None
    data: Mapping[str, NDArray[Any]]
    axes: tuple[str, ...]
    findings: tuple[Finding, ...]
    source: Path
    sha256: str
    header: Mapping[str, Any] = field(default_factory=dict)
    start_time: str | None = None
    end_time: str | None = None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The evaluations as a pandas frame, one row each."""
        import pandas as pd

        return pd.DataFrame({name: list(values) for name, values in self.data.items()})

    def __len__(self) -> int:
        return len(self.data["pass_rate"])

    def __repr__(self) -> str:
        doubts = "".join(f"\n  {f.severity:8}{f.message}" for f in self.findings)
        return f"Run {self.name}: {len(self)} evaluations, {self.axes[0]}{doubts}"


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


T = TypeVar("T", Run, Fit)


class _Named(Sequence[T]):
    """An immutable sequence whose items can also be had by their name."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items: tuple[T, ...] = tuple(items)
        self._by_name: dict[str, T] = {item.name: item for item in self._items}

    @overload
    def __getitem__(self, key: int | str) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[T]: ...
    def __getitem__(self, key: int | str | slice) -> T | Sequence[T]:
        if not isinstance(key, str):
            return self._items[key]
        if key not in self._by_name:
            raise KeyError(f"{key!r}; the names are {', '.join(self._by_name)}")
        return self._by_name[key]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(self._by_name)


class Runs(_Named[Run]):
    """Runs that were read together, by position or by name; `skipped` are the paths beside them that held none."""

    def __init__(self, items: Sequence[Run], skipped: Sequence[Path] = ()) -> None:
        super().__init__(items)
        self.skipped = tuple(skipped)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))


class Fits(_Named[Fit]):
    """Fits of several runs, by position or by name."""

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"runs": [...]}`` with one entry a fit."""
        return {"runs": [fit.to_dict() for fit in self]}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        from analysis.tables import fits_html

        return fits_html(self)


@dataclass(frozen=True)
class Standing:
    """One run at equal compute: pass rate of its curve at the common compute of each axis; `None` where it has none."""

    run: str
    recipe: str
    seed: int | None
    pass_rate: Mapping[str, float | None]


@dataclass(frozen=True)
class RecipeMean:
    """Mean over the runs of a recipe, and how many of them (`n`) stand behind it on each axis."""

    recipe: str
    pass_rate: Mapping[str, float | None]
    n: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """Runs at equal compute.

    Attributes
    ----------
    common : mapping of axis to float
        The largest compute that every run with a curve on the axis has reached.
    runs : tuple of Standing
    recipes : tuple of RecipeMean
    ahead : mapping of axis to str or None
        Recipe with the highest mean pass rate; None where fewer than two have one, or at a tie.
    findings : tuple of Finding
    """

    common: Mapping[str, float]
    runs: tuple[Standing, ...]
    recipes: tuple[RecipeMean, ...]
    ahead: Mapping[str, str | None]
    findings: tuple[Finding, ...]

    @property
    def tested(self) -> bool:
        """Whether `ahead` rests on a test of the difference, not on the means alone."""
        return all(f.code != "not-tested" for f in self.findings)

    def __repr__(self) -> str:
        from analysis.tables import comparison_text

        return comparison_text(self)

    def _repr_html_(self) -> str:
        from analysis.tables import comparison_html

        return comparison_html(self)
