"""How much A depends on where the fit begins: the same run fitted from later and later starts, as a table.

Promises: every row is `analysis.fit` with that window and nothing else; the windows share points, and the doubt takes
that into account. Does not promise that a steady A is right: windows that all end too early agree on a wrong one.
Source: arXiv 2510.13786, appendix A.7, which fits its long run from 0, 1.5k and 5k GPU-hours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.findings import Finding, finding
from analysis.fits.results import Fit, Param
from analysis.fits.tables import figures, findings_html, unit
from analysis.schema import Run
from scalerl.runlog import UserError

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)  # of the points that the default starts leave out
LEAST_POINTS = 8  # left in a window of the default starts
# A later window holds part of the same points, so its estimate differs from the first one by as much as its own extra
# variance allows: half-widths add as w^2 - w_first^2. In such half-widths, of 95 %:
MOVED, LEAST_MOVE = 1.5, 0.01  # A moves by this many, and at least by this fraction
LEAST_EXTRA = 0.6  # of its own half-width is granted to a window that is no wider than the first
# Called falsely on simulated runs that end at 2 / 5 C_mid (R0 .12, A .74, B 1.8, 40 points, AR(1) noise of sd .01;
# seeds 0 to 199 of `tests.made.noisy`): posterior .5 / .5 % without correlation and 4 / .5 % at rho .6; standard errors
# 28 / 2 % and 47 / 10 %, being too narrow themselves. Profile, seeds 0 to 49 at 2 C_mid only: 4 % and 10 %.


@dataclass(frozen=True)
class Window:
    """A fit from one start: where it begins (None is the first evaluation), its points and its parameters."""

    start: float | None
    n: int
    A: Param
    B: float | None
    C_mid: float | None


@dataclass(frozen=True, eq=False)
class WindowStudy:
    """Fits of one run from growing starts; `level` is that of A's limits."""

    run: str
    x: str
    method: str
    level: float | None
    rows: tuple[Window, ...]
    findings: tuple[Finding, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a start: from, n, A, lo, hi, B, C_mid; unknown is missing."""
        import pandas as pd

        columns: dict[str, list[float | None]] = {
            "from": [0.0 if row.start is None else row.start for row in self.rows],
            "A": [row.A.value for row in self.rows],
            "lo": [row.A.lo for row in self.rows],
            "hi": [row.A.hi for row in self.rows],
            "B": [row.B for row in self.rows],
            "C_mid": [row.C_mid for row in self.rows],
        }
        table = pd.DataFrame({name: pd.array(values, dtype="Float64") for name, values in columns.items()})
        table.insert(1, "n", [row.n for row in self.rows])
        return table

    def __repr__(self) -> str:
        head = f"{self.run}   A by the start of the window, {self.method}"
        doubts = [f"  {f.severity:<8} {f.message}" for f in self.findings]
        cells = [_HEADS, *(_cells(row, self.x) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([head, *doubts, *table])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{h}</th>" for h in _HEADS)
        body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in _cells(row, self.x))}</tr>" for row in self.rows)
        doubts = findings_html(self.findings) if self.findings else ""
        name = f"<p>{escape(self.run)}: A by the start of the window, {escape(self.method)}</p>"
        return f'{name}{doubts}<table class="windows"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


_HEADS = ("from", "points", "A", "limits", "B", "C_mid")


def window_study(
    run: Run, starts: Iterable[float] | None = None, *, stop: float | None = None, **options: Any
) -> WindowStudy:
    """Fit a run from growing starts of the window.

    Parameters
    ----------
    run : Run
    starts : iterable of float, optional
        Smallest compute of each window, in the unit of the axis; by default the first evaluation and the points behind
        `SHARES` of them, as long as `LEAST_POINTS` are left.
    stop : float, optional
        Largest compute of every window.
    **options
        Of `analysis.fit`, such as ``x``, ``method``, ``r0`` and ``level``.

    Returns
    -------
    WindowStudy

    Raises
    ------
    UserError
        If the axis is not there or an option makes no sense.

    Examples
    --------
    >>> import analysis as an
    >>> run = an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0]
    >>> study = window_study(run, [0, 1500, 5000], stop=50000, method="lsq")
    >>> [row.n for row in study.rows], study.findings
    ([25, 24, 22], ())
    """
    from analysis.fits.fitting import fit

    if "window" in options:
        raise UserError("window_study: the window is what is studied; give starts and stop")
    x = options.get("x") or run.axes[0]
    if x not in run.axes:
        raise UserError(f"{run.name}: no compute axis {x!r}; it has {', '.join(run.axes)}")
    given = _starts(run, x, stop) if starts is None else [float(s) for s in starts]
    if not given or any(not math.isfinite(s) or s < 0.0 for s in given):
        raise UserError("window_study: starts must be finite computes of at least 0, one or more")
    places = [s if s > 0.0 else None for s in sorted(dict.fromkeys(given))]
    fits: list[Fit] = [fit(run, window=(start, stop), **options) for start in places]
    rows = tuple(_row(start, one) for start, one in zip(places, fits, strict=True))
    return WindowStudy(run.name, x, fits[0].method, fits[0].level, rows, tuple(of_windows(rows, x)))


def of_windows(rows: Sequence[Window], x: str) -> list[Finding]:
    """Find an A that moves with the start of the window by more than its own intervals allow.

    Parameters
    ----------
    rows : sequence of Window
        Sorted by start; those without both limits of A are not tested, nor those that begin behind the first one's
        C_mid: they have lost the bend, and standard errors mean nothing there.
    x : str
        Compute axis, for the sentence.
    """
    known = [(row, *row_limits) for row in rows if (row_limits := _limits(row.A)) is not None]
    if len(known) < 2:
        return []
    (first, A0, lo0, hi0), *later = known
    bend = math.inf if first.C_mid is None else first.C_mid
    later = [entry for entry in later if (entry[0].start or 0.0) <= bend]
    worst, figure = None, 0.0
    for row, A, lo, hi in later:
        moved = A - A0
        # Towards each other: the upper side of the lower estimate and the lower side of the upper one.
        own, before = (A - lo, hi0 - A0) if moved > 0.0 else (hi - A, A0 - lo0)
        allowed = math.sqrt(max(own**2 - before**2, (LEAST_EXTRA * own) ** 2))
        if abs(moved) >= max(LEAST_MOVE, MOVED * allowed) and abs(moved) > figure:
            worst, figure = row, abs(moved)
    if worst is None or worst.A.value is None:
        return []
    from_ = "the first evaluation" if first.start is None else f"{first.start:.4g} {x}"
    what = (
        f"A is {A0:.3f} fitted from {from_} and {worst.A.value:.3f} from {worst.start:.4g} {x}: it depends on where "
        "the fit begins by more than its limits allow"
    )
    return [finding("window-sensitive", what, worst.A.value - A0)]


def _starts(run: Run, x: str, stop: float | None) -> list[float]:
    compute = np.sort(np.asarray(run.data[x], dtype=float))
    if stop is not None:
        compute = compute[compute <= stop]
    n = len(compute)
    places = [round(share * n) for share in SHARES]
    return [0.0, *(float(compute[i]) for i in places if 0 < i <= n - LEAST_POINTS)]


def _row(start: float | None, fit: Fit) -> Window:
    return Window(start, fit.n, fit.params["A"], fit.params["B"].value, fit.params["C_mid"].value)


def _limits(A: Param) -> tuple[float, float, float] | None:
    return None if A.value is None or A.lo is None or A.hi is None else (A.value, A.lo, A.hi)


def _cells(row: Window, x: str) -> tuple[str, ...]:
    value, limits = figures(row.A)
    B, C_mid = ("unknown" if v is None else f"{v:.3g}" for v in (row.B, row.C_mid))
    start = "first" if row.start is None else f"{row.start:.4g} {unit(x)}"
    return start, str(row.n), value, limits or "none", B, C_mid
