"""The results of `analysis.check`: one row a check, one health a run.

Promises: what could not be looked at is ``unknown`` and says why, never ``ok``; findings stand before numbers; every
text of a log is escaped in HTML. Does not say when a check fires: that stands in `analysis.checks.stepchecks` and
`analysis.checks.evalchecks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.amounts import short
from analysis.checks.steps import Steps
from analysis.findings import Finding, finding
from analysis.fits.tables import findings_html, unit
from analysis.schema import Named

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "check/1"
STATUSES = ("ok", "warning", "error", "unknown")


@dataclass(frozen=True)
class Check:
    """One look at one run.

    Attributes
    ----------
    name : str
    status : str
        ``ok``, ``warning``, ``error`` or ``unknown``.
    message : str
        One sentence: the figure, its limit, and what to do where the limit is passed.
    figure, limit : float or None
        What was measured, and the value from which on it is a warning.
    where : mapping of compute axis to float, or None
        Update and compute of the figure.
    field : str or None
        Fields of the configuration to change, with commas between them.
    """

    name: str
    status: str
    message: str
    figure: float | None = None
    limit: float | None = None
    where: Mapping[str, float] | None = None
    field: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {
            "name": self.name,
            "status": self.status,
            "figure": self.figure,
            "limit": self.limit,
            "where": None if self.where is None else dict(self.where),
            "field": self.field,
            "message": self.message,
        }


@dataclass(frozen=True, eq=False)
class RunHealth:
    """The checks of one run.

    Attributes
    ----------
    name : str
    x : str
        Compute axis of the places.
    checks : tuple of Check
        In the same order for every run.
    gpu_hours_by_phase : mapping of phase to float or None
        ``generate``, ``score``, ``train`` and ``other`` make up the run's GPU-hours; ``evaluate`` and ``lost`` (rows
        that a resume cut off) come on top. None is unknown.
    steps : Steps
        The updates that were looked at.
    reading : tuple of Finding
        Warnings from reading the run, such as rows that were left out; `findings` holds them, `status` does not.
    """

    name: str
    x: str
    checks: tuple[Check, ...]
    gpu_hours_by_phase: Mapping[str, float | None]
    steps: Steps
    reading: tuple[Finding, ...] = ()

    @property
    def status(self) -> str:
        """``error`` or ``warning`` if a check is one, ``unknown`` if none could be made, otherwise ``ok``."""
        found = {check.status for check in self.checks}
        return next((s for s in ("error", "warning", "ok") if s in found), "unknown")

    @property
    def headline(self) -> str:
        """The status, and how many of the checks it rests on where some could not be made."""
        made = sum(check.status != "unknown" for check in self.checks)
        if made == len(self.checks):
            return self.status
        return f"{self.status}, {made} of {len(self.checks)} checks made" if made else "nothing could be checked"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Errors, warnings, those from reading the run, and one note of what could not be looked at."""
        said = [
            finding("unhealthy", f"{c.name}: {c.message}", c.figure, severity=c.status)
            for status in ("error", "warning")
            for c in self.checks
            if c.status == status
        ]
        said += self.reading
        reasons: dict[str, list[str]] = {}
        for c in self.checks:
            if c.status == "unknown":
                reasons.setdefault(c.message, []).append(c.name)
        if reasons:
            told = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
            said.append(finding("not-checked", f"not looked at: {told}"))
        return tuple(said)

    def __getitem__(self, name: str) -> Check:
        for c in self.checks:
            if c.name == name:
                return c
        raise KeyError(f"{name!r}; the checks are {', '.join(c.name for c in self.checks)}")

    @property
    def frame(self) -> pd.DataFrame:
        """One row a check: name, status, figure, limit, step, compute, field, message; unknown is missing."""
        import pandas as pd

        places = [c.where or {} for c in self.checks]
        numbers: dict[str, list[float | None]] = {
            "figure": [c.figure for c in self.checks],
            "limit": [c.limit for c in self.checks],
            "step": [place.get("step") for place in places],
            "compute": [place.get(self.x) for place in places],
        }
        table = pd.DataFrame({"name": [c.name for c in self.checks], "status": [c.status for c in self.checks]})
        for name, values in numbers.items():
            table[name] = pd.array(values, dtype="Float64")
        table["field"] = [c.field for c in self.checks]
        table["message"] = [c.message for c in self.checks]
        return table

    def __repr__(self) -> str:
        return self.text()

    def text(self, said: Sequence[Finding] = ()) -> str:
        """Return the run as text, without the findings that are `said` elsewhere."""
        head = f"{self.name}   {self.headline}"
        doubts = [f"  {f.severity:<8} {f.message}" for f in self.findings if f not in said]
        cells = [_HEADS, *(_cells(c, self.x) for c in self.checks if c.status != "unknown")]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        phases = [f"  GPU-hours: {phases_text(self.gpu_hours_by_phase)}"] if _some(self.gpu_hours_by_phase) else []
        return "\n".join([head, *doubts, *(table if len(cells) > 1 else ()), *phases])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{h}</th>" for h in (*_HEADS, "what"))
        body = "".join(
            f'<tr class="{escape(c.status)}">'
            + "".join(f"<td>{escape(text)}</td>" for text in (*_cells(c, self.x), c.message))
            + "</tr>"
            for c in self.checks
        )
        name = f"<p>{escape(self.name)}: {escape(self.headline)}</p>{findings_html(self.findings)}"
        table = f'<table class="health"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        return f"{name}{table}<p>GPU-hours: {escape(phases_text(self.gpu_hours_by_phase))}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Return the run's entry of the JSON output."""
        return {
            "run": self.name,
            "status": self.status,
            "x": self.x,
            "checks": [c.to_dict() for c in self.checks],
            "gpu_hours_by_phase": dict(self.gpu_hours_by_phase),
            "findings": [f.to_dict() for f in self.findings],
        }


class Health(Named[RunHealth]):
    """The health of runs that were checked together, by position or by name."""

    @property
    def frame(self) -> pd.DataFrame:
        """The frames of all runs under one another, with the name of the run first."""
        import pandas as pd

        frames = [run.frame.assign(run=run.name) for run in self]
        table = pd.concat(frames, ignore_index=True)
        return table[["run", *(c for c in table.columns if c != "run")]]

    @property
    def exit_code(self) -> int:
        """1 if a check of a run is an error, otherwise 0."""
        return int(any(run.status == "error" for run in self))

    def __repr__(self) -> str:
        said = [f for f in self[0].findings if len(self) > 1 and all(f in run.findings for run in self)]
        every = ["every run", *(f"  {f.severity:<8} {f.message}" for f in said)] if said else []
        return "\n".join([*every, *(run.text(said) for run in self)])

    def _repr_html_(self) -> str:
        return "".join(run._repr_html_() for run in self)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``scalerl check --json`` prints."""
        return {"schema": SCHEMA, "runs": [run.to_dict() for run in self]}


_HEADS = ("check", "status", "figure", "limit", "where", "field to change")


def _cells(c: Check, x: str) -> tuple[str, ...]:
    return c.name, c.status, _shown(c.figure), _shown(c.limit), place_text(c.where, x), c.field or ""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def place_text(where: Mapping[str, float] | None, x: str) -> str:
    """Return a place as text.

    Examples
    --------
    >>> place_text({"step": 40.0, "gpu_hours": 0.0123}, "gpu_hours")
    'step 40, 0.0123 gpu_hours'
    """
    if not where:
        return ""
    said = [f"step {where['step']:g}"] if "step" in where else []
    said += [f"{short(where[x])} {unit(x)}"] if x in where and x != "step" else []
    return ", ".join(said)


def phases_text(phases: Mapping[str, float | None]) -> str:
    """Return hours by phase as one line, each with its share of the metered hours where it is part of them."""
    inside = [v for name, v in phases.items() if name not in BESIDE and v is not None]
    total = sum(inside)
    said = []
    for name, hours in phases.items():
        if hours is None:
            said.append(f"{name} unknown")
        elif name in BESIDE or total <= 0.0:
            said.append(f"{name} {hours:.3g}")
        else:
            said.append(f"{name} {hours:.3g} ({hours / total:.0%})")
    return ", ".join(said)


BESIDE: Sequence[str] = ("evaluate", "lost")  # phases that a run's GPU-hours do not hold


def _some(phases: Mapping[str, float | None]) -> bool:
    return any(hours is not None for hours in phases.values())
