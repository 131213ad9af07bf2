"""What lies at a path: every run with its format, rows, axes, likely pass rates, attempts and what was dropped.

Promises: nothing is chosen or scaled; a file that cannot be read is a line with the reason, beside those that can.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.findings import Finding
from analysis.readers.axes import derive
from analysis.readers.cleaning import Table, number, printable
from analysis.readers.found import STEPS, Found
from analysis.readers.logs import AXES, found_at, several
from analysis.readers.metrics import PASS_RATE_COLUMNS, Candidate, candidates
from analysis.readers.places import PathLike, places
from analysis.schema import READER
from scalerl.runlog import UserError, read_log

MOST = 8  # candidates that are listed


@dataclass(frozen=True)
class Listed:
    """One run as `list_logs` found it; `rates` are the columns that may be pass rates, the likeliest first."""

    found: Found
    table: Table
    axes: tuple[str, ...]
    rates: tuple[Candidate, ...]
    findings: tuple[Finding, ...]

    @property
    def attempts(self) -> int:
        """Attempts that the log holds, the first included."""
        own = {str(cell) for cell in self.table.columns.get("attempt", ())} if self.found.format == "scalerl" else set()
        said = next((f.figure for f in self.findings if f.code == "attempts"), None)
        return max(int(said or 1), len(own), 1)

    @property
    def lost_rows(self) -> int:
        """Rows of work that later attempts took back."""
        if self.found.format == "scalerl":
            told = [row.get("rows_lost") for row in read_log(self.found.path).rows if row.get("event") == "resume"]
            return sum(rows for rows in told if isinstance(rows, int))
        return sum(len(table.lines) for table in self.found.lost)

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of ``runs`` in the schema ``logs/1``."""
        label = self.found.label
        return {
            "name": label.name,
            "recipe": label.recipe,
            "seed": label.seed,
            "path": printable(str(self.found.path)),
            "format": self.found.format,
            "sha256": self.found.sha256,
            "rows": len(self.table.lines),
            "axes": list(self.axes),
            "rates": [{"column": r.column, "rows": r.rows, "low": r.low, "high": r.high} for r in self.rates],
            "attempts": self.attempts,
            "lost_rows": self.lost_rows,
            "dropped": dict(self.found.dropped),
            "findings": [f.to_dict() for f in self.findings],
        }


@dataclass(frozen=True)
class Listing:
    """What `list_logs` found: runs, files that cannot be read with the reason, and what was passed over."""

    runs: tuple[Listed, ...]
    refused: tuple[str, ...]
    skipped: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the schema ``logs/1``."""
        return {
            "schema": "logs/1",
            "reader": READER,
            "runs": [run.to_dict() for run in self.runs],
            "refused": list(self.refused),
            "skipped": [printable(str(path)) for path in self.skipped],
        }

    def __repr__(self) -> str:
        lines = []
        for run in self.runs:
            found, seed = run.found, run.found.label.seed
            where = printable(str(found.path))
            lines.append(f"{found.label.name}: {found.format}, {len(run.table.lines)} rows, {where}")
            recipe = "" if found.label.recipe is None else f"recipe {found.label.recipe}"
            seeded = "" if seed is None else f"seed {seed}"
            tried = "" if run.attempts == 1 else f"{run.attempts} attempts, {run.lost_rows} rows of lost work"
            gone = ", ".join(f"{count} lines of {reason}" for reason, count in found.dropped.items())
            told = "; ".join(part for part in (recipe, seeded, tried, gone and f"not rows: {gone}") if part)
            lines += [f"  {told}"] if told else []
            lines.append(f"  compute    {', '.join(run.axes) or 'none; name a column with --x'}")
            rates = [f"{printable(r.column)} ({r.low:.3g} to {r.high:.3g}, {r.rows} rows)" for r in run.rates[:MOST]]
            more = f", and {len(run.rates) - MOST} more" if len(run.rates) > MOST else ""
            lines.append(f"  pass rate  {', '.join(rates) or 'none by its name; name a column with --y'}{more}")
            lines += [f"  {f.severity:8} {f.message}" for f in run.findings]
        lines += [f"cannot be read: {reason}" for reason in self.refused]
        return "\n".join(lines)


def list_logs(
    paths: PathLike | Iterable[PathLike],
    *,
    format: str | None = None,  # noqa: A002, as the option --format
    devices: float | None = None,
) -> Listing:
    """Return what lies at `paths`, before anything is chosen.

    Parameters
    ----------
    paths, format, devices
        As in `analysis.readers.logs.read`.

    Raises
    ------
    UserError
        If a path does not exist or holds nothing that could be a run.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
    >>> _ = file.write_text("step,eval_acc\\n0,10\\n1,25\\n")
    >>> (run,) = list_logs(file).runs
    >>> run.axes, run.rates[0].column
    (('step',), 'eval_acc')
    """
    refused: list[str] = []
    skipped: list[Path] = []
    runs: list[Listed] = []
    for place in places(several(paths), skipped, format):
        try:
            runs += [_listed(run, devices) for run in found_at(place)]
        except UserError as error:
            refused.append(str(error))
    return Listing(tuple(runs), tuple(refused), tuple(skipped))


def _listed(found: Found, devices: float | None) -> Listed:
    if found.format == "scalerl":
        table, said = found.table, {}
    else:
        derived = derive(found, devices)
        table, said = derived.table, derived.said
    axes = tuple(a for a in AXES if a in table.columns and any(number(c) is not None for c in table.columns[a]))
    names = [n for n in (*PASS_RATE_COLUMNS, *found.rates) if n in table.columns]
    likely = candidates(table, ignored=(*axes, *(n for n in table.columns if n.strip().lower() in STEPS)))
    first = {c.column: c for c in likely}
    rates = [first.pop(name) for name in names if name in first] + [c for c in likely if c.column not in names]
    findings = (*found.findings, *(f for axis in axes[:1] for f in said.get(axis, ())))
    return Listed(found, table, axes, tuple(rates), findings)
