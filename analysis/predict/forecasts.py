"""What a forecast hands on: rows at the computes that were asked for, the path between them, and the reach. Frozen.

Promises: an unknown is `None`; a row says whether earlier forecasts of its own run stand behind its band. Nothing here
estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.amounts import short
from analysis.findings import Finding
from analysis.fits.results import Fit
from analysis.fits.tables import findings_html, in_percent, unit
from analysis.schema import Named

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = (
    *("run", "at", "multiple", "x", "pass_rate", "lo", "hi", "mean_lo", "mean_hi", "level", "method"),
    *("calibrated", "origins"),
)


@dataclass(frozen=True)
class Row:
    """A forecast at one compute by one method.

    Attributes
    ----------
    at : float
        Compute, in the unit of `x`; `multiple` is that over the last compute of the run, None where that is 0.
    pass_rate : float or None
        Middle; None where nothing can be said.
    lo, hi : float or None
        Band of a new evaluation.
    mean_lo, mean_hi : float or None
        Band of the mean curve.
    method : {"average", "sigmoid"}
    calibrated : bool
        Whether three or more origins of this run lie that factor back.
    origins : int
        How many do.
    """

    run: str
    at: float
    multiple: float | None
    x: str
    pass_rate: float | None
    lo: float | None
    hi: float | None
    mean_lo: float | None
    mean_hi: float | None
    level: float
    method: str
    calibrated: bool
    origins: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that the JSON output holds."""
        return {name: getattr(self, name) for name in COLUMNS}


@dataclass(frozen=True, eq=False)
class Path:
    """One method from the last compute on: everything (k,).

    `multiples` of the last compute begin at 1; `half` and `half_new` are the half-widths of the bands of the mean
    curve and of a new evaluation; `origins` says how many lie that factor back.
    """

    multiples: NDArray[Any]
    mid: NDArray[Any]
    half: NDArray[Any]
    half_new: NDArray[Any]
    origins: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Forecast:
    """Forecasts of one run.

    Attributes
    ----------
    fit : Fit
        With the posterior of the sigmoid that they start from.
    rows : tuple of Row
    paths : mapping of method to Path
        Empty where nothing can be said.
    weights : mapping of family to float
        Of the average.
    reach : float or None
        Largest multiple of the last compute, at most 100, up to which the band of the mean curve by the first method is
        at most `tolerance` to either side; 1 where it is wider right behind the data (there is none), None where there
        is no band. Of few evaluations at most 2.
    reach_origins : int
        Origins that lie as far back as the reach reaches ahead.
    inflation : float
        What was assumed beforehand of past errors.
    """

    fit: Fit
    rows: tuple[Row, ...]
    paths: Mapping[str, Path]
    weights: Mapping[str, float]
    reach: float | None
    reach_origins: int
    tolerance: float
    inflation: float
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """Label of the run."""
        return self.fit.name

    @property
    def method(self) -> str:
        """The method that the reach is read from."""
        return self.rows[0].method

    @property
    def level(self) -> float:
        """Level of the bands."""
        return self.rows[0].level

    @property
    def last(self) -> float:
        """The last compute of the run that was fitted."""
        return float(self.fit.compute[-1]) if self.fit.n else 0.0

    def reach_dict(self) -> dict[str, Any]:
        """Return what the JSON output says of the reach."""
        return {
            "value": self.reach,
            "tolerance": self.tolerance,
            "level": self.level,
            "method": self.method,
            "calibrated": self.reach_origins >= 3,
            "origins": self.reach_origins,
        }

    def __repr__(self) -> str:
        return forecast_text(self)

    def _repr_html_(self) -> str:
        return forecasts_html([self])


class Forecasts(Named[Forecast]):
    """Forecasts of several runs, by position or by name."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row a run, compute and method; unknown is missing."""
        import pandas as pd

        rows = [row.to_dict() for forecast in self for row in forecast.rows]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        numbers = ["multiple", "pass_rate", "lo", "hi", "mean_lo", "mean_hi"]
        return table.astype(dict.fromkeys(numbers, "Float64"))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape: schema, forecasts, reach, weights, findings."""
        return {
            "schema": "forecast/1",
            "forecasts": [row.to_dict() for forecast in self for row in forecast.rows],
            "reach": {forecast.name: forecast.reach_dict() for forecast in self},
            "weights": {forecast.name: dict(forecast.weights) for forecast in self},
            "findings": {forecast.name: [f.to_dict() for f in forecast.findings] for forecast in self},
        }

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        return forecasts_html(self)


_HEADS = ("at", "compute", "method", "pass rate", "mean curve", "new evaluation", "calibrated")


def forecast_text(forecast: Forecast) -> str:
    """Return the forecasts of a run as text, findings first."""
    x = unit(forecast.fit.x)
    lines = [f"{forecast.name}   {forecast.fit.n} evaluations to {short(forecast.last, 4)} {x}"]
    lines += [f"  {f.severity:<8} {f.message}" for f in forecast.findings]
    cells = [_HEADS, *(_cells(row) for row in forecast.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*lines, f"  {reach_text(forecast)}", *(f"  {text}" for text in [weights_text(forecast)] if text)])


def forecasts_html(forecasts: Sequence[Forecast] | Forecasts) -> str:
    """Return forecasts as HTML, one table a run; every text is escaped."""
    parts = []
    for forecast in forecasts:
        head = "".join(f"<th>{escape(h)}</th>" for h in _HEADS)
        body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in _cells(row))}</tr>" for row in forecast.rows)
        doubts = findings_html(forecast.findings) if forecast.findings else ""
        said = "".join(f"<p>{escape(text)}</p>" for text in (reach_text(forecast), weights_text(forecast)) if text)
        title = f"{forecast.name}: {forecast.fit.n} evaluations to {short(forecast.last, 4)} {unit(forecast.fit.x)}"
        parts.append(
            f'<p><b>{escape(title)}</b></p>{doubts}<table class="forecast"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>{said}"
        )
    return "".join(parts)


def reach_text(forecast: Forecast) -> str:
    """Return the reach in one sentence."""
    what = f"to within {forecast.tolerance:g} at {in_percent(forecast.level)}"
    if forecast.reach is None:
        return "reach unknown"
    if forecast.reach <= 1.0:
        return f"reach none: past the last evaluation the curve is not known {what}"
    held = f"{forecast.reach_origins} earlier forecasts that far ahead"
    known = f"{held} stand behind it" if forecast.reach_origins >= 3 else f"not calibrated, {held}"
    return (
        f"reach {forecast.reach:.3g}x by the {forecast.method}: up to {short(forecast.reach * forecast.last)} "
        f"{unit(forecast.fit.x)} {what}; {known}"
    )


def weights_text(forecast: Forecast) -> str:
    """Return which families the average holds; nothing where it is not used."""
    if not any(row.method == "average" for row in forecast.rows) or not forecast.weights:
        return ""
    each = ", ".join(f"{name.replace('_', ' ')} {w:.2f}" for name, w in forecast.weights.items() if w >= 0.005)
    return f"average of {each}"


def _cells(row: Row) -> tuple[str, ...]:
    known = f"{'yes' if row.calibrated else 'no'}, {row.origins} origins"
    return (
        "unknown" if row.multiple is None else f"{short(row.multiple)}x",
        short(row.at, 4),
        row.method,
        "unknown" if row.pass_rate is None else f"{row.pass_rate:.3f}",
        _limits(row.mean_lo, row.mean_hi),
        _limits(row.lo, row.hi),
        known if row.pass_rate is not None else "",
    )


def _limits(lo: float | None, hi: float | None) -> str:
    return "" if lo is None or hi is None else f"{lo:.3f} to {hi:.3f}"
