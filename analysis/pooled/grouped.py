"""What groups hand on: a fit each, the test of what they share, the second-stage line. Frozen; nothing is estimated.

Promises: an unknown is `None`; doubts stand before numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.amounts import short
from analysis.findings import Finding
from analysis.fits.results import Fits
from analysis.fits.tables import findings_html, in_percent
from analysis.pooled.shared import SharedFit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Predicted:
    """A parameter at another size.

    Attributes
    ----------
    value, lo, hi : float
        In natural units.
    slope, intercept : float
        Of the worked parameter (logit of A, logarithms of B and C_mid) over the natural logarithm of the size.
    scatter : float
        Standard deviation of the worked values around the line.
    half : float
        Half-width of the interval of the worked value.
    """

    value: float
    lo: float
    hi: float
    slope: float
    intercept: float
    scatter: float
    half: float


@dataclass(frozen=True)
class Line:
    """The second-stage line: sizes and runs it rests on, the size that is predicted, and what is predicted there."""

    sizes: tuple[float, ...]
    runs: tuple[str, ...]
    at: float
    predicted: Mapping[str, Predicted]


@dataclass(frozen=True, eq=False)
class GroupFits:
    """Groups with a curve each.

    Attributes
    ----------
    by : str
        What tells the groups apart.
    fits : Fits
        One a group, smallest size first.
    shared : SharedFit or None
        Test of what they share.
    sizes : mapping of group to float, or None
        Where groups are numbers.
    line : Line or None
        From three sizes on.
    """

    by: str
    fits: Fits
    shared: SharedFit | None
    sizes: Mapping[str, float] | None
    line: Line | None
    level: float
    findings: tuple[Finding, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a group: size, A, B, C_mid, R0 with limits; unknown is missing."""
        import pandas as pd

        rows = []
        for f in self.fits:
            row: dict[str, Any] = {"group": f.name, "size": None if self.sizes is None else self.sizes[f.name]}
            for name, p in f.params.items():
                row |= {name: p.value, f"{name}_lo": p.lo, f"{name}_hi": p.hi}
            rows.append(row)
        table = pd.DataFrame(rows).set_index("group")
        return table.astype("Float64")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        shared, line = self.shared, self.line
        return {
            "schema": "groups/1",
            "by": self.by,
            "groups": [{"size": None if self.sizes is None else self.sizes[f.name], **f.to_dict()} for f in self.fits],
            "shared": None
            if shared is None
            else {
                "share": list(shared.share),
                "params": {name: p.to_dict() for name, p in shared.params.items()},
                "F": shared.F,
                "p": shared.p,
                "differ": shared.differ,
                "level": shared.level,
            },
            "next": None if line is None else {"size": line.at, **{n: vars(p) for n, p in line.predicted.items()}},
            "level": self.level,
            "findings": [f.to_dict() for f in self.findings],
        }

    def __repr__(self) -> str:
        lines = [f"{len(self.fits)} groups by {self.by}"]
        lines += [f"  {f.severity:<8} {f.message}" for f in self.findings]
        lines += [repr(f) for f in self.fits]
        if self.shared is not None:
            lines.append(repr(self.shared))
        return "\n".join([*lines, *_line_text(self)])

    def _repr_html_(self) -> str:
        doubts = findings_html(self.findings) if self.findings else ""
        said = "".join(f"<p>{escape(text.strip())}</p>" for text in _line_text(self))
        test = f"<pre>{escape(repr(self.shared))}</pre>" if self.shared is not None else ""
        return (
            f"<p><b>{len(self.fits)} groups by {escape(self.by)}</b></p>{doubts}{self.fits._repr_html_()}{test}{said}"
        )


def _line_text(groups: GroupFits) -> list[str]:
    if groups.line is None:
        return []
    line = groups.line
    each = [f"{n} {short(p.value)} ({short(p.lo)} to {short(p.hi)})" for n, p in line.predicted.items()]
    return [
        f"at {groups.by} {short(line.at)}, two extrapolations away: {', '.join(each)} at {in_percent(groups.level)}"
    ]
