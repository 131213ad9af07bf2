"""Which rows are of one run, and which of its attempts survived.

The rule, for every format with a training step: steps of a run only rise. Where one falls back,

- to the first step of the file or before it, another run begins (files joined end to end);
- to a later step, the run went on from a checkpoint: what had been logged from that step on was taken back. It leaves
  the curve and stays in the bill (`Found.lost`).

A row behind its turn is another attempt only if it fills what nearly every step fills (`DOMINANT`): an evaluation that
comes late does not. Rows of one step that fill different columns are one row, at the compute of the first; of rows that
fill the same column the last one counts, and that is said. Rows without a step keep their place and belong to the
attempt around them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.axes import CLOCKS, DERIVED, SECONDS_SO_FAR, STEP_SECONDS, TOKENS_OF_STEP, TOKENS_SO_FAR
from analysis.readers.cleaning import RESTARTS, Table, figures, known_figures, number
from analysis.readers.columns import Texts, some_rows
from analysis.readers.found import STEPS, Found
from analysis.readers.labels import Label
from scalerl.runlog import COMPUTE_AXES

# Columns that stand in every row, whatever it logs: they tell nothing about whether two rows are the same.
BOOKKEEPING = frozenset(
    {
        *("epoch", "run", "seed", "recipe", "learning_rate", "lr", "timestamp", "runtime", "total_steps", "max_steps"),
        *(name.rsplit("/", maxsplit=1)[-1] for name in (*STEPS, *SECONDS_SO_FAR, *CLOCKS, *TOKENS_SO_FAR)),
        *(name.rsplit("/", maxsplit=1)[-1] for name in (*STEP_SECONDS, *TOKENS_OF_STEP, *COMPUTE_AXES, *DERIVED)),
    }
)
SPLITS = frozenset({"split", "phase", "mode", "stage"})  # columns that may say which rows are of an evaluation
EVALUATIONS = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "dev"})
DOMINANT = 0.9  # share of the steps of the commonest column from which on a column is one that every step fills
DISORDER = 0.34  # share of rows whose step falls from which on a file is out of order: one in two of a shuffled one


@dataclass(frozen=True)
class _Attempt:
    """Rows (positions in the table) of one attempt, as they were logged, and their steps."""

    rows: list[int]
    steps: list[float]

    @property
    def first(self) -> float:
        return min((s for s in self.steps if not math.isnan(s)), default=math.nan)


def lineages(found: Found) -> list[Found]:
    """Return the runs of what was found, each as the branch that survived.

    Parameters
    ----------
    found : Found
        With `step`; without it the rows are one run as they are.

    Returns
    -------
    list of Found
        `table` holds one row a step in order, `starts` the rows at which a later attempt goes on, `lost` the rest.

    Examples
    --------
    >>> from pathlib import Path
    >>> table = Table("a.csv", {"step": [1, 2, 3, 2, 3], "acc": [0.1, 0.2, 0.3, 0.25, 0.35]}, range(2, 7))
    >>> (run,) = lineages(Found(Label("a"), table, Path("a.csv"), "", "table", step="step"))
    >>> run.table.columns["acc"], run.starts, [list(lost.columns["acc"]) for lost in run.lost]
    ([0.1, 0.25, 0.35], (1,), [[0.2, 0.3]])
    """
    if found.step is None or found.step not in found.table.columns:
        return [found]  # our own logs among them: their rows of a kind are one curve, whatever fields they hold
    step = found.step
    found = _by_split(found)
    known = known_figures(found.table.columns[step])
    if not found.starts and all(a < b for a, b in pairwise(known)):
        return [found]  # one attempt and one row a step, as nearly all are
    found = _counted(found, step)
    steps = figures(found.table.columns[found.step or ""])
    known = [s for s in steps if not math.isnan(s)]
    falls = sum(b < a for a, b in pairwise(known))
    if falls > max(DISORDER * len(known), RESTARTS, len(found.starts)):
        return [_sorted(found, steps, falls)]
    runs = _runs(_attempts(found, steps))
    made = [_branch(found, run) for run in runs]
    if len(made) == 1:
        return made
    what = f"{found.step} starts again {len(made) - 1} time{'s' if len(made) > 2 else ''}: {len(made)} runs in one file"
    return [
        replace(
            one,
            label=_numbered(one.label, i),
            findings=(*one.findings, finding("runs-split", f"{what}; this is number {i}", float(len(made)))),
        )
        for i, one in enumerate(made, start=1)
    ]


def _by_split(found: Found) -> Found:
    """Where a column says which rows are of an evaluation, the figures of each kind get its name before theirs."""
    columns = found.table.columns
    for split in (name for name in columns if name.strip().lower() in SPLITS):
        kinds = {cell for cell in columns[split] if isinstance(cell, str) and cell.strip()}
        several = len(kinds) > 1 or any(map(_empty, columns[split]))
        if several and any(kind.strip().lower() in EVALUATIONS for kind in kinds) and len(kinds) <= 8:
            break
    else:
        return found
    apart: dict[str, list[Any]] = {}
    for name, cells in columns.items():
        if name == split or not _tells(name, found):
            apart[name] = list(cells)
            continue
        for kind in sorted({k for k, c in zip(columns[split], cells, strict=True) if not _empty(c)}, key=str):
            kept = [c if k == kind else None for k, c in zip(columns[split], cells, strict=True)]
            apart[f"{kind.strip()}/{name}" if isinstance(kind, str) and kind.strip() else name] = kept
    del apart[split]
    what = f"{split} tells {', '.join(sorted(kinds))} apart: the figures of each have it before their names"
    table = replace(found.table, columns=apart)
    return replace(found, table=table, rates=(), findings=(*found.findings, finding("split-apart", what)))


def _counted(found: Found, here: str) -> Found:
    """Take another count of steps where the one that was found falls and the other does not: a step of each epoch."""
    columns = found.table.columns
    if not _drops(columns[here]):
        return found
    known = {name.strip().lower(): name for name in columns}
    for other in (known[name] for name in STEPS[:-1] if name in known and known[name] != here):  # `_step` never falls
        pairs = zip(columns[here], columns[other], strict=True)
        if all(_empty(a) or not _empty(b) for a, b in pairs) and not _drops(columns[other]):
            what = f"{here} starts again while {other} goes on: {other} is the training step"
            return replace(found, step=other, findings=(*found.findings, finding("step-chosen", what)))
    return found


def _drops(cells: Sequence[Any]) -> bool:
    return any(b < a for a, b in pairwise(known_figures(cells)))


def _numbered(label: Label, i: int) -> Label:
    return Label(f"{label.name} #{i}", None if label.recipe is None else f"{label.recipe} #{i}", label.seed)


def _sorted(found: Found, steps: Sequence[float], falls: int) -> Found:
    order = sorted(range(len(steps)), key=lambda i: (math.isnan(steps[i]), steps[i]))
    table, doubled = _merged(found, order, [steps[i] for i in order])
    what = f"{found.step} falls in {falls} places: the rows are out of order and are sorted by it"
    said = (finding("compute-unordered", what, float(falls)), *_doubled(doubled, len(table.lines)))
    return replace(found, table=table, starts=(), findings=(*found.findings, *said))


def _attempts(found: Found, steps: Sequence[float]) -> list[_Attempt]:
    """Cut the rows where a step is logged again, or where the file says that another attempt begins."""
    starts = set(found.starts)
    known = [(i, s) for i, s in enumerate(steps) if not math.isnan(s)]
    if not starts and all(a <= b for (_, a), (_, b) in pairwise(known)):
        return [_Attempt(list(range(len(steps))), list(steps))]
    following = {i: s for (i, _), (_, s) in pairwise(known)}
    columns = [(name, cells) for name, cells in found.table.columns.items() if _tells(name, found)]
    attempts = [_Attempt([], [])]
    filled: dict[float, set[str]] = {}
    counts: Counter[str] = Counter()
    last = -math.inf
    for i, step in enumerate(steps):
        content = {name for name, cells in columns if not _empty(cells[i])}
        new = i in starts
        if not new and step < last:  # what is late fills other columns, or stands alone between rows that go on
            most = DOMINANT * max(counts.values(), default=0)
            again = {name for name in content if counts[name] >= most}
            new = bool(again & filled[step]) if step in filled else bool(again) and following.get(i, -math.inf) <= last
        if new and attempts[-1].rows:
            attempts.append(_Attempt([], []))
            filled, counts, last = {}, Counter(), -math.inf
        attempts[-1].rows.append(i)
        attempts[-1].steps.append(step)
        if not math.isnan(step):
            here = filled.setdefault(step, set())
            counts.update(content - here)
            here.update(content)
            last = max(last, step)
    return attempts


def _tells(name: str, found: Found) -> bool:
    return name != found.step and name.rsplit("/", maxsplit=1)[-1].lower() not in BOOKKEEPING


def _empty(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _runs(attempts: Sequence[_Attempt]) -> list[list[_Attempt]]:
    """Group attempts into runs: one that begins where the run itself began is another run."""
    runs = [[attempts[0]]]
    for attempt in attempts[1:]:
        if attempt.first <= runs[-1][0].first:
            runs.append([attempt])
        else:
            runs[-1].append(attempt)
    return runs


def _branch(found: Found, attempts: Sequence[_Attempt]) -> Found:
    """The rows of a run that no later attempt took back, one a step, and what was taken back."""
    rows: list[int] = []
    steps: list[float] = []
    lost: list[Table] = []
    begins: list[float] = []
    for n, attempt in enumerate(attempts):
        until = min((s for later in attempts[n + 1 :] if not math.isnan(s := later.first)), default=math.inf)
        order = sorted(zip(attempt.rows, attempt.steps, strict=True), key=lambda pair: _place(pair[1]))
        if any(math.isnan(s) for s in attempt.steps):
            order = list(zip(attempt.rows, attempt.steps, strict=True))
        kept = [(i, s) for i, s in order if not s >= until]
        gone = [i for i, s in order if s >= until]
        if n and kept:
            begins.append(kept[0][1])
        rows += [i for i, _ in kept]
        steps += [s for _, s in kept]
        if gone:
            lost.append(some_rows(found.table, gone))
    table, doubled = _merged(found, rows, steps)
    merged_steps = [number(cell) for cell in table.columns[found.step or ""]]
    starts = tuple(merged_steps.index(s) for s in begins if s in merged_steps)
    said: list[Finding] = _doubled(doubled, len(table.lines))
    if len(attempts) > 1:
        count = sum(len(one.lines) for one in lost)
        what = f"{len(attempts)} attempts; the branch that the last one went on from is the curve"
        what += f", {count} rows of given-up work are not in it" if count else ""
        said.append(finding("attempts", what, float(len(attempts))))
    return replace(found, table=table, starts=starts, lost=tuple(lost), findings=(*found.findings, *said))


def _place(step: float) -> float:
    return math.inf if math.isnan(step) else step


def _merged(found: Found, rows: Sequence[int], steps: Sequence[float]) -> tuple[Table, int]:
    """Rows of one step as one row, and in how many cells a later one replaced another."""
    repeated = any(a == b for a, b in pairwise(steps))
    if not repeated:
        whole = len(rows) == len(found.table.lines) and all(i == j for i, j in enumerate(rows))
        return (found.table if whole else some_rows(found.table, rows)), 0
    groups: list[list[int]] = []
    for at, (i, step) in enumerate(zip(rows, steps, strict=True)):
        if at and step == steps[at - 1]:
            groups[-1].append(i)
        else:
            groups.append([i])
    replaced: set[int] = set()
    columns: dict[str, Sequence[Any]] = {}
    for name, cells in found.table.columns.items():
        column: list[Any] = []
        tells, at_hand = _tells(name, found), list(cells)
        for at, group in enumerate(groups):
            values = [at_hand[i] for i in group if not _empty(at_hand[i])]
            column.append((values[-1] if tells else values[0]) if values else at_hand[group[-1]])
            if tells and len(values) > 1:
                replaced.add(at)
        columns[name] = Texts(column) if isinstance(cells, Texts) else column
    return Table(found.table.where, columns, [found.table.lines[group[0]] for group in groups]), len(replaced)


def _doubled(count: int, steps: int) -> list[Finding]:
    if not count:
        return []
    what = f"{count} of {steps} steps were logged more than once; the last value counts"
    if 2 * count < steps:
        return [finding("steps-repeated", what, float(count))]
    what += "; if the rows of a step are of several data sets, models or ranks, give the rows of one"
    return [finding("steps-repeated", what, float(count), severity="warning")]
