"""Which of several fits count as runs of their own: one file read twice is not two, one without a curve is none yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.findings import Finding, finding
from analysis.fits.results import Fit
from analysis.schema import Run


def copies(runs: Iterable[Run]) -> dict[str, str]:
    """Return the name of each run whose evaluations an earlier one has, and the name of that one.

    They are the same where each compute on the first axis and each pass rate is. The hash of a file would tell copies
    apart that were saved anew, and take the runs of one file for one.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import analysis as an
    >>> grpo, scalerl = an.read("data/runs")
    >>> copies([grpo, scalerl, replace(grpo, name="again", recipe="other", seed=7)])
    {'again': 'grpo/seed0'}
    """
    first: dict[tuple[str, bytes, bytes], str] = {}
    found = {}
    for run in runs:
        axis = run.axes[0]
        compute, rate = (np.asarray(run.data[column], dtype=float) for column in (axis, "pass_rate"))
        order = np.lexsort((rate, compute))
        here = axis, compute[order].tobytes(), rate[order].tobytes()
        if here in first:
            found[run.name] = first[here]
        else:
            first[here] = run.name
    return found


def each_once(fits: Sequence[Fit]) -> tuple[list[Fit], list[Finding]]:
    """Return the fits without copies of a run, and what is to be said of these."""
    again = copies(f.run for f in fits)
    said = [
        finding("seed-repeated", f"{name} holds the evaluations of {one}: it is no run of its own and is left out")
        for name, one in again.items()
    ]
    return [f for f in fits if f.name not in again], said


def with_a_curve(fits: Sequence[Fit]) -> tuple[list[Fit], list[Finding]]:
    """Return the fits that have a curve, and what is to be said of the others."""
    without = {f.name: f.params["A"].why or "not fitted" for f in fits if f.params["A"].value is None}
    said = [
        finding("no-fit", f"{name}: {why}; the run is left out", severity="warning") for name, why in without.items()
    ]
    return [f for f in fits if f.name not in without], said
