"""Several curves of one experiment: data sets or difficulty buckets of one run, or runs of growing size.

Each group has a curve of its own; a nested test says whether they share parameters, and where the groups are numbers
(model size, batch, completions per prompt) a second-stage line predicts the next one.

Promises: a prompt's bucket is chosen on one half of its completions and its curve drawn from the other, so that luck
in the choice cannot bend a curve.
Does not promise that groups of one run are independent: their policy is the same, so their noise is shared in part,
which makes the nested test say "differ" less often than its level (``python -m benchmarks.groups --only test``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.findings import Finding, finding
from analysis.fits.evaluations import Window, evaluations_of
from analysis.fits.fitting import fit
from analysis.fits.results import Fit, Fits
from analysis.pooled.grouped import GroupFits, Line, Predicted
from analysis.pooled.joint import fit_shared
from analysis.pooled.secondstage import fit_line
from analysis.pooled.shared import SharedFit
from analysis.readers.cleaning import number
from analysis.readers.datasets import data_sets
from analysis.readers.frames import read_frame
from analysis.schema import Run
from scalerl.runlog import UserError

BUCKETS = ("hard", "middle", "easy")
SHARED = ("B", "C_mid")
DIFFICULTY = "difficulty"
DATA_SET = "data_set"


def fit_groups(
    given: Any,
    *,
    by: str | Mapping[str, float],
    share: str | Sequence[str] = SHARED,
    following: float | None = None,
    x: str | None = None,
    window: Window = (None, None),
    level: float = 0.95,
) -> GroupFits:
    """Fit each group with a curve of its own, test what they share, and predict the next size.

    Parameters
    ----------
    given : DataFrame, Run, or iterable of Run
        A table with a column that names each row's group; one run for ``by="difficulty"``; or runs.
    by : str or mapping of run to number
        Column of the table; ``"difficulty"`` for thirds of the prompts by how often they were solved; ``"data_set"``
        for the data sets that policies of one run were evaluated on afterwards, beside its own evaluations; for runs a
        field of their configuration, such as ``batch_size``, or a number for each run by name.
    share : names of {"R0", "A", "B", "C_mid"}
        What is tested to be one value for all groups.
    following : float, optional
        Size to predict; by default the next in the sequence of sizes.
    x, window, level
        See `analysis.fit`.

    Returns
    -------
    GroupFits

    Raises
    ------
    UserError
        If there are fewer than two groups, or what tells them apart is not there.

    Examples
    --------
    >>> import pandas as pd
    >>> from analysis.curves.curve import R
    >>> rng, C = np.random.default_rng(0), np.arange(25.0) / 3
    >>> frames = [
    ...     pd.DataFrame({"gpu_hours": C, "accuracy": R(C, 0.1, A, 1.5, 1) + rng.normal(0, 0.005, 25), "dataset": name})
    ...     for name, A in (("math", 0.7), ("code", 0.5))
    ... ]
    >>> told = fit_groups(pd.concat(frames), by="dataset")
    >>> [f.name for f in told.fits], told.shared.differ
    (['math', 'code'], False)
    """
    runs, sizes, findings = _groups(given, by, x)
    if following is not None and not sizes:
        raise UserError(f"next: the groups by {_said(by)} are no sizes, so there is no next one (--next)")
    if len(runs) < 2:
        raise UserError(f"by: {len(runs)} group by {_said(by)}; two or more are needed")
    fits = fit(runs, x=x, window=window, level=level)
    shared, why = _shared(fits, share, window, level)
    if why:
        findings.append(finding("not-tested", f"what the groups share is not tested: {why}"))
    if isinstance(by, str) and not sizes:
        what = "the groups are of one run: they share noise, and the test finds a difference less often than it should"
        findings.append(finding("shared-noise", what))
    line = None
    if sizes:
        line, doubts = _second_stage(fits, sizes, following, level)
        findings += doubts
    label = by if isinstance(by, str) else "size"
    return GroupFits(label, fits, shared, sizes or None, line, level, tuple(findings))


def _said(by: str | Mapping[str, float]) -> str:
    return repr(by) if isinstance(by, str) else "the mapping"


def _groups(
    given: Any, by: str | Mapping[str, float], x: str | None
) -> tuple[list[Run], dict[str, float], list[Finding]]:
    """Runs of the groups, their sizes where they are numbers, and what is to be said of them."""
    if hasattr(given, "columns"):
        return _of_table(given, by, x)
    runs = [given] if isinstance(given, Run) else list(given)
    if any(not isinstance(r, Run) for r in runs):
        raise UserError("fit(by=...) takes a table, a run, or runs; read files with analysis.read(path)")
    if by in (DIFFICULTY, DATA_SET):
        if len(runs) != 1:
            raise UserError(f"by: {by!r} takes one run; {len(runs)} given")
        return (difficulty_buckets if by == DIFFICULTY else data_sets)(runs[0]), {}, []
    sizes = {run.name: _size(run, by) for run in runs}
    return sorted(runs, key=lambda r: sizes[r.name]), dict(sorted(sizes.items(), key=lambda item: item[1])), []


def _of_table(
    table: Any, by: str | Mapping[str, float], x: str | None
) -> tuple[list[Run], dict[str, float], list[Finding]]:
    if not isinstance(by, str) or by not in table.columns:
        raise UserError(f"by: no column {_said(by)} in the table; it has {', '.join(map(str, table.columns))}")
    cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in table[by].tolist()]
    if empty := [i for i, cell in enumerate(cells, 1) if _is_empty(cell)]:
        rows = f"row {', '.join(map(str, empty[:3]))}{', ...' if len(empty) > 3 else ''}"
        raise UserError(f"by: column {by!r} is empty in {len(empty)} rows ({rows}); fill them in or leave them out")
    read = [number(cell) for cell in cells]
    sizes = [v for v in read if v is not None]
    numbers = len(sizes) == len(read)
    keys: list[Any] = sizes if numbers else [str(cell).strip() for cell in cells]
    values = sorted(set(keys)) if numbers else list(dict.fromkeys(keys))
    if numbers and not values[0] > 0.0:
        raise UserError(f"by: the sizes in column {by!r} must be above 0")
    names = [f"{by}={v:g}" if numbers else v for v in values]
    if len(set(names)) < len(names):  # alike in the digits that are usually shown
        names = [f"{by}={v!r}" for v in values]
    rest = table.drop(columns=by)
    # The unit of the pass rate is one for the whole table: a weak group in percent may stay below 1.
    percent = next((f for f in read_frame(rest, "table", x=x).findings if f.code == "percent"), None)
    runs = []
    for value, name in zip(values, names, strict=True):
        rows_of = np.array([key == value for key in keys])
        run = read_frame(rest[rows_of], name, x=x, scale=None if percent is None else 0.01)
        said = tuple(percent if percent is not None and f.code == "scaled" else f for f in run.findings)
        runs.append(replace(run, findings=said))
    return runs, dict(zip(names, values, strict=True)) if numbers else {}, []


def _is_empty(cell: Any) -> bool:
    found = number(cell)
    return (found is not None and math.isnan(found)) or (isinstance(cell, float) and math.isnan(cell))


def _size(run: Run, by: str | Mapping[str, float]) -> float:
    if isinstance(by, str):
        config = run.header.get("config")
        value = config.get(by) if isinstance(config, dict) else None
        where = f"its configuration has no number called {by!r}"
    else:
        value, where = by.get(run.name), "the mapping does not name it"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0.0):
        raise UserError(f"by: {run.name}: {where}, above 0; give by={{run: number}}")
    return float(value)


def difficulty_buckets(run: Run) -> list[Run]:
    """Split a run into thirds of its prompts, by how often each was solved over all evaluations.

    Half of each prompt's completions, drawn without replacement, choose its bucket; its pass rates are those of the
    other half. Chosen and shown on the same completions, a bucket's luck would be in its curve: by p (1 - p), which
    is small at the start and large in the middle, so that it bends the curve.

    Parameters
    ----------
    run : Run
        With the correct completions of each prompt, two completions or more.

    Returns
    -------
    list of Run
        Hard, middle, easy; ``k`` and ``correct`` are those of the half that is shown.

    Raises
    ------
    UserError
        If the log does not hold the counts of each prompt, the same prompts at every evaluation.

    Examples
    --------
    >>> import analysis as an
    >>> [bucket.name.split()[0] for bucket in difficulty_buckets(an.read("data/runs/grpo")[0])]
    ['hard', 'middle', 'easy']
    """
    axis = run.axes[0]
    counts = evaluations_of(run, axis).correct
    if not counts or len({len(correct) for correct, _ in counts}) > 1:
        raise UserError(f"{run.name}: the log does not hold the counts of the same prompts at every evaluation")
    if len(sets := {str(p) for p in run.data.get("prompt_set", ())}) > 1:
        raise UserError(f"{run.name}: evaluated on {len(sets)} sets of prompts; buckets need one")
    prompts = len(counts[0][0])
    if prompts < 2 * len(BUCKETS):
        raise UserError(f"{run.name}: {prompts} prompts are too few for {len(BUCKETS)} buckets")
    rng = np.random.default_rng(0)  # the same halves at every call
    each = [np.asarray(c, dtype=int) for c in run.data["correct"]]
    shown_k = [k - k // 2 for k in run.data["k"]]
    chosen = [rng.hypergeometric(c, k - c, k // 2) for c, k in zip(each, run.data["k"], strict=True)]
    solved = np.mean([c / (k // 2) for c, k in zip(chosen, run.data["k"], strict=True)], axis=0)
    order = np.argsort(solved, kind="stable")
    made = []
    for name, members in zip(BUCKETS, np.array_split(order, len(BUCKETS)), strict=True):
        rows = [(c - own)[members] for c, own in zip(each, chosen, strict=True)]
        correct, completions = np.empty(len(rows), dtype=object), np.empty(len(rows), dtype=object)
        correct[:], completions[:] = [r.tolist() for r in rows], shown_k
        rate = np.array([r.mean() / k for r, k in zip(rows, shown_k, strict=True)])
        data = {**run.data, "correct": correct, "k": completions, "pass_rate": rate}
        label = f"{name} ({solved[members].min():.2f} to {solved[members].max():.2f})"
        made.append(replace(run, name=label, recipe=label, data=data))
    return made


def _shared(fits: Fits, share: str | Sequence[str], window: Window, level: float) -> tuple[SharedFit | None, str]:
    """The nested test; None with the reason where it cannot be made."""
    if not share:
        return None, "nothing was asked for"
    usable = [f for f in fits if f.fitted and f.params["B"].value is not None and f.n > 4]
    if len(usable) < 2:
        return None, "fewer than two groups have a curve"
    return fit_shared([f.run for f in usable], share, x=usable[0].x, window=window, level=level), ""


def _second_stage(
    fits: Iterable[Fit], sizes: Mapping[str, float], following: float | None, level: float
) -> tuple[Line | None, list[Finding]]:
    usable = [f for f in fits if f.trusted_draws is not None and f.fitted]
    known = np.array([sizes[f.name] for f in usable])
    if len(np.unique(known)) < 3:
        what = f"{len(np.unique(known))} sizes with a curve: a line to the next size takes three or more"
        return None, [finding("second-stage", what)]
    sizes_known = np.unique(known)
    step = (sizes_known[-1] / sizes_known[0]) ** (1.0 / (len(sizes_known) - 1))
    at = float(sizes_known[-1] * step) if following is None else following
    if not (math.isfinite(at) and at > 0.0):
        raise UserError(f"next: {at:g} is no size above 0 (--next)")
    predicted: dict[str, Predicted] = {
        name: fit_line(name, known, [f.trusted_draws for f in usable], at, level) for name in ("A", "B", "C_mid")
    }
    early = [f.name for f in usable if not f.params["A"].identified]
    what = (
        f"the prediction at {at:g} extrapolates twice: every ceiling beyond its data, and the line beyond its sizes; "
        f"it rests on {len(sizes_known)} sizes"
    )
    doubts = [finding("second-stage", what, severity="warning")]
    if early:
        doubts.append(finding("grade", f"A is not identified in {', '.join(early)}: the line leans on guesses"))
    return Line(tuple(float(v) for v in known), tuple(f.name for f in usable), at, predicted), doubts
