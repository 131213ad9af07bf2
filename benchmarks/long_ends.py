"""The study's long runs: what did the first quarter and the first half of their compute say of the end?

Run ``python -m benchmarks.long_ends [RUN ...]`` from the repository's root; by default ``data/study/long``. A run is
cut at a share of its FLOPs and read as if it had ended there. Asked are A, with 95 % limits, and the pass rate
at the end, with the 95 % band of the curve and that of one evaluation, as `analysis.forecast` gives them by default.
Held against A of the whole run (its median), the mean of its last eight evaluations, and each of these eight. The
forecast of two methods is there for the end: the mean of the families, and the sigmoid alone.

What a run becomes was not looked at when constants were chosen. Seven runs are few, and each is cut twice: a share of
fourteen cases has an interval of its own, which is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import analysis as an
from benchmarks.simulate import wilson

SHARES = {"a quarter": 0.25, "a half": 0.5}
LAST = 8
AXIS = "flops"
BAR = 0.9


class Case(NamedTuple):
    """A run, cut: what was said, and what came."""

    run: str
    cut: str
    reached: float
    """C / C_mid at the cut, by the fit of the whole run."""
    A: tuple[float, float | None]
    """Limits of A at the cut; None above where nothing bounds it but 1."""
    usable: bool
    """Whether the fit calls this A identified."""
    A_whole: float
    band: tuple[float, float]
    band_new: tuple[float, float]
    calibrated: bool
    last: tuple[float, ...]

    @property
    def end(self) -> float:
        """Mean of the last evaluations."""
        return float(np.mean(self.last))

    @property
    def A_holds(self) -> bool:
        return self.A[0] <= self.A_whole <= (1.0 if self.A[1] is None else self.A[1])

    @property
    def holds(self) -> bool:
        return self.band[0] <= self.end <= self.band[1]

    @property
    def new_held(self) -> int:
        return sum(self.band_new[0] <= rate <= self.band_new[1] for rate in self.last)


def cases(run: an.Run) -> list[Case]:
    """Cut a run and ask."""
    table = run.frame
    end = float(table[AXIS].max())
    whole = an.fit(run, x=AXIS)
    C_mid, A = whole.params["C_mid"].value, whole.params["A"].value
    assert C_mid is not None and A is not None
    found = []
    for name, share in SHARES.items():
        told = an.fit(run, x=AXIS, window=(None, share * end))
        p = told.params["A"]
        row = an.forecast(told, at=end).rows[0]
        assert None not in (row.mean_lo, row.mean_hi, row.lo, row.hi)
        found.append(
            Case(
                run=run.name,
                cut=name,
                reached=share * end / C_mid,
                A=(float(p.lo or 0.0), p.hi),
                usable=p.identified,
                A_whole=A,
                band=(float(row.mean_lo or 0), float(row.mean_hi or 0)),
                band_new=(float(row.lo or 0), float(row.hi or 0)),
                calibrated=row.calibrated,
                last=tuple(table["pass_rate"].to_numpy()[-LAST:]),
            )
        )
    return found


def table(found: Sequence[Case]) -> str:
    """Return the cases as a table in Markdown."""
    lines = [
        "| run | first | C/C_mid | A, 95 % | A of all | end, 95 % band | came | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in found:
        misses = [name for name, held in (("A missed", case.A_holds), ("end missed", case.holds)) if not held]
        above = "1" if case.A[1] is None else f"{case.A[1]:.3f}"
        above += "" if case.usable else " (lower limit only)"
        checked = "" if case.calibrated else " (not calibrated)"
        lines.append(
            f"| {case.run} | {case.cut} | {case.reached:.1f} | {case.A[0]:.3f} - {above} | {case.A_whole:.3f} "
            f"| {case.band[0]:.3f} - {case.band[1]:.3f}{checked} | {case.end:.3f} | {', '.join(misses)} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and what was held; 1 if less than the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("paths", nargs="*", default=["data/study/long"])
    options = parser.parse_args(arguments)
    found = [case for run in an.read([Path(path) for path in options.paths]) for case in cases(run)]
    print(table(found))
    shares = []
    for what, held, of in (
        ("A of the whole run inside the limits of A", sum(case.A_holds for case in found), len(found)),
        ("mean of the last evaluations inside the band of the curve", sum(case.holds for case in found), len(found)),
        ("single last evaluations inside their band", sum(case.new_held for case in found), LAST * len(found)),
    ):
        lo, hi = wilson(held, of)[-2:]
        shares.append(held / of)
        print(f"{what}: {held} of {of} ({100 * held / of:.0f} %, interval {100 * lo:.0f} to {100 * hi:.0f})")
    return int(min(shares) < BAR)


if __name__ == "__main__":
    sys.exit(main())
