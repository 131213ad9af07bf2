"""What a back-test hands on: every forecast beside what came, scores by horizon and method, and A by origin. Frozen.

Promises: an unknown is `None`; errors are predicted less observed; a skill compares two methods on the same forecasts.
Nothing here fits. Does not promise independent forecasts: those of one run share evaluations, so there is less behind
a score than its number of forecasts says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.amounts import short
from analysis.findings import Finding
from analysis.fits.tables import findings_html, unit

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """One forecast and what was evaluated.

    Attributes
    ----------
    run : str
    origin : float
        Compute of the last evaluation that was used, the `n`th; unit of `x`.
    horizon : float
        What was asked for; `multiple` is how far ahead the evaluation at compute `at` lies.
    method : str
    predicted, observed : float
    error : float
        Predicted less observed.
    own_lo, own_hi : float or None
        Band of a new evaluation as the method itself has it; None for least squares, which has none.
    lo, hi : float or None
        The same, widened by the errors of earlier origins.
    calibrated : bool
        Whether three or more earlier origins lie that factor back; `origins` says how many do.
    """

    run: str
    n: int
    origin: float
    horizon: float
    at: float
    multiple: float
    x: str
    method: str
    predicted: float
    observed: float
    error: float
    own_lo: float | None
    own_hi: float | None
    lo: float | None
    hi: float | None
    calibrated: bool
    origins: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that the JSON output holds."""
        return _fields(self)


@dataclass(frozen=True)
class Score:
    """One method at one horizon.

    Attributes
    ----------
    forecasts, runs : int
        How many were tested, and of how many runs.
    mean_error, median_error : float
        Of the absolute errors.
    bias : float
        Mean error; above 0 where forecasts came out too high.
    skill_last_value, skill_log_linear : float or None
        1 - error / error of the baseline, on the forecasts that both made; None where the baseline never erred.
    own_coverage, own_width : float or None
        Share of evaluations inside the method's own band, and its median width, upper less lower limit.
    coverage, width : float or None
        The same of the widened band.
    calibrated : int
        Forecasts that count as calibrated; `calibrated_coverage` and `calibrated_width` are of these alone.
    """

    horizon: float
    method: str
    forecasts: int
    runs: int
    mean_error: float
    median_error: float
    bias: float
    skill_last_value: float | None
    skill_log_linear: float | None
    own_coverage: float | None
    own_width: float | None
    coverage: float | None
    width: float | None
    calibrated: int
    calibrated_coverage: float | None
    calibrated_width: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that the JSON output holds."""
        return _fields(self)


@dataclass(frozen=True)
class Drift:
    """What the evaluations up to one origin say of A: median and limits of the posterior, and P(C_max > 2 C_mid)."""

    run: str
    n: int
    origin: float
    A: float
    lo: float
    hi: float
    grade: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that the JSON output holds."""
        return _fields(self)


@dataclass(frozen=True, eq=False)
class Backtest:
    """Forecasts of runs from earlier evaluations, beside what came.

    Attributes
    ----------
    rows : tuple of Outcome
    scores : tuple of Score
        By horizon, the smallest mean error first; methods that made fewer forecasts than others stand below.
    drift : tuple of Drift
    points : mapping of run to array, shape (n, 2)
        Compute and pass rate of its evaluations.
    axes : mapping of run to str
        Compute axis of each run.
    horizons : tuple of float
    level : float
        Of all bands and limits.
    inflation : float
        What was assumed of errors before any was seen.
    findings : mapping of run to tuple of Finding
    """

    rows: tuple[Outcome, ...]
    scores: tuple[Score, ...]
    drift: tuple[Drift, ...]
    points: Mapping[str, NDArray[Any]]
    axes: Mapping[str, str]
    horizons: tuple[float, ...]
    level: float
    inflation: float
    findings: Mapping[str, tuple[Finding, ...]]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a forecast; unknown is missing."""
        return _frame(Outcome, self.rows, ("own_lo", "own_hi", "lo", "hi"))

    @property
    def score_frame(self) -> pd.DataFrame:
        """One row a horizon and method; unknown is missing."""
        return _frame(Score, self.scores, tuple(f.name for f in fields_of(Score) if "None" in str(f.type)))

    @property
    def drift_frame(self) -> pd.DataFrame:
        """One row a run and origin."""
        return _frame(Drift, self.drift, ())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape: schema, level, inflation, horizons, forecasts, scores, drift, findings."""
        return {
            "schema": "backtest/1",
            "level": self.level,
            "inflation": self.inflation,
            "horizons": list(self.horizons),
            "forecasts": [row.to_dict() for row in self.rows],
            "scores": [score.to_dict() for score in self.scores],
            "drift": [one.to_dict() for one in self.drift],
            "findings": {run: [f.to_dict() for f in found] for run, found in self.findings.items()},
        }

    def __repr__(self) -> str:
        return backtest_text(self)

    def _repr_html_(self) -> str:
        return backtest_html(self)


HEADS = (
    *("method", "forecasts", "mean error", "median", "bias", "skill over last value", "over log-linear"),
    *("own band holds", "width", "calibrated holds", "width"),
)


def backtest_text(test: Backtest, methods: Sequence[str] | None = None) -> str:
    """Return scores, of these `methods` alone where some are named, and the drift of A as text, findings first."""
    lines = [_title(test)]
    lines += [f"  {f.severity:<8} {f.message}" for found in test.findings.values() for f in found]
    for horizon in test.horizons:
        shown = [s for s in test.scores if s.horizon == horizon and (methods is None or s.method in methods)]
        rows = [_cells(s) for s in shown]
        lines.append(_headline(test, horizon))
        if rows:
            widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
            lines += ["  " + _aligned(row, widths) for row in (HEADS, *rows)]
    lines += [f"  {said}" for run in test.points if (said := drift_text(test, run))]
    return "\n".join(lines)


def backtest_html(test: Backtest) -> str:
    """Return the same as HTML; every text is escaped."""
    found = [f for each in test.findings.values() for f in each]
    parts = [f"<p><b>{escape(_title(test))}</b></p>", findings_html(found) if found else ""]
    head = "".join(f"<th>{escape(h)}</th>" for h in HEADS)
    for horizon in test.horizons:
        rows = [_cells(s) for s in test.scores if s.horizon == horizon]
        body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
        table = f'<table class="backtest"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>' if rows else ""
        parts.append(f"<p>{escape(_headline(test, horizon))}</p>{table}")
    parts += [f"<p>{escape(said)}</p>" for run in test.points if (said := drift_text(test, run))]
    return "".join(parts)


def drift_text(test: Backtest, run: str) -> str:
    """Return how A moved over the origins of a run in one sentence; nothing where it has none."""
    mine = [one for one in test.drift if one.run == run]
    if not mine:
        return ""
    last, earlier = mine[-1], mine[:-1]
    x = unit(test.axes[run])
    ends = f"A of {run} at {short(last.origin, 4)} {x}: {last.A:.3f} ({last.lo:.3f} to {last.hi:.3f})"
    if not earlier:
        return ends
    held = sum(one.lo <= last.A <= one.hi for one in earlier)
    span = f"{min(one.A for one in earlier):.3f} to {max(one.A for one in earlier):.3f}"
    return f"{ends}; at {len(earlier)} earlier origins {span}, and {held} of their intervals hold it"


def _title(test: Backtest) -> str:
    origins = len({(row.run, row.n) for row in test.rows})
    runs = len({row.run for row in test.rows})
    return f"back-test of {runs} {'run' if runs == 1 else 'runs'} from {origins} origins, bands at {test.level:.3g}"


def _headline(test: Backtest, horizon: float) -> str:
    mine = {(row.run, row.n) for row in test.rows if row.horizon == horizon}
    if not mine:
        return f"{horizon:g}x ahead: no origin has an evaluation there"
    return f"{horizon:g}x ahead, {len(mine)} origins"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
    return "  ".join(cells).rstrip()


def _cells(score: Score) -> tuple[str, ...]:
    return (
        score.method.replace("_", " "),
        str(score.forecasts),
        f"{score.mean_error:.4f}",
        f"{score.median_error:.4f}",
        f"{score.bias:+.4f}",
        _signed(score.skill_last_value),
        _signed(score.skill_log_linear),
        _share(score.own_coverage, score.forecasts),
        _width(score.own_width),
        _share(score.calibrated_coverage, score.calibrated),
        _width(score.calibrated_width),
    )


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _share(value: float | None, of: int) -> str:
    return "" if value is None else f"{round(value * of)} of {of}"


def _width(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _fields(row: Any) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields_of(row)}


def _frame(kind: Any, rows: Sequence[Any], unknown: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([_fields(row) for row in rows], columns=[f.name for f in fields_of(kind)])
    return table.astype(dict.fromkeys(unknown, "Float64"))
