"""Read what Hugging Face's Trainer and TRL keep of a run: ``trainer_state.json``, alone or of several checkpoints.

Promises: rows and columns are those of ``log_history``; the row that sums a training up is in the header and not on
the curve; of several checkpoints the one with the most steps is the run, and what others hold beside it stands where
the run left it, as an attempt. The history is read row by row, so that a long one needs no copy of its file;
``training_args.bin``, which is a pickle, is never opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.findings import finding
from analysis.readers.cleaning import Table
from analysis.readers.columns import Columns, Dropped, rates_of
from analysis.readers.found import Found
from analysis.readers.jsonstream import Pieces, member, members
from analysis.readers.labels import Label, label_of_path
from analysis.readers.textfile import TextFile, is_folder, text_of
from scalerl.runlog import UserError

NAME = "trainer_state.json"
RATES = (
    re.compile(r"^eval_(?!.*(?:std|loss|runtime|per_second|length)).*(?:pass_?rate|accuracy|acc$|pass@1$)", re.I),
    re.compile(r"^eval_(?!.*(?:std|loss|runtime|per_second|length)).*(?:correct|solve|success|exact)", re.I),
    # TRL names a reward after its function: one that is right or wrong gives a pass rate, one of a format does not.
    re.compile(r"^eval_rewards/(?!.*(?:format|length|tag|xml|lang|int_|penalty|count|cosine))[^/]+(?:/mean)?$", re.I),
)
_CHECKPOINT = re.compile(r"checkpoint-\d{1,12}")
_MOST = 1000  # checkpoints of a run


@dataclass
class _State:
    path: Path
    columns: Columns
    rest: dict[str, Any]


def recognise(path: Path, head: bytes) -> bool:
    """Whether a file is a ``trainer_state.json``, or a folder holds one or checkpoints with one."""
    if head:
        start = text_of(head).lstrip("\ufeff \t\r\n")
        return start.startswith("{") and '"log_history"' in start and '"global_step"' in start
    try:
        return is_folder(path) and bool(_states_in(path))
    except UserError:
        return False


def read(path: Path) -> list[Found]:
    """Read the run that a ``trainer_state.json`` or an output folder with checkpoints holds."""
    paths = _states_in(path) if is_folder(path) else [path]
    if not paths:
        raise UserError(f"{path}: no {NAME} in it and no checkpoint-* folder with one")
    hasher, dropped = hashlib.sha256(), Dropped()
    states, refused = [], []
    for one in paths:
        try:
            states.append(_read_state(one, hasher, dropped))
        except UserError as error:  # a checkpoint that was being written when its run was killed
            refused.append(error)
    if not states:
        raise refused[-1]
    # The history grows from checkpoint to checkpoint: the longest is the run, and of equals the last.
    main = max(reversed(states), key=lambda state: (_global_step(state.rest), len(state.columns)))
    if not len(main.columns):
        raise UserError(f"{main.path}: its log_history is empty; the run has not logged anything (logging_steps)")
    run = main.columns.table(str(main.path))
    tables = [state.columns.table(str(state.path)) for state in states if state is not main]
    branches = _branches(run, tables)
    table, starts = _joined(run, branches)
    header = {name: value for name, value in main.rest.items() if name != "stateful_callbacks"}
    if is_folder(path) and len(states) > 1:
        agree = sum(_agreed(other, run) == len(other.lines) for other in tables)
        header["checkpoints"] = {"read": len(states), "agree": agree + 1, "branches": len(branches)}
    return [
        Found(
            label=_label(path),
            table=table,
            path=path,
            sha256=hasher.hexdigest(),
            format="trainer-state",
            step="step" if "step" in table.columns else None,
            starts=starts,
            rates=rates_of(table.columns, RATES),
            header=header,
            findings=(
                *(finding("rows-dropped", f"left out: {error}") for error in refused),
                *main.columns.findings(),
                *dropped.findings(),
            ),
            dropped={**dropped.count, **({"unreadable checkpoint": len(refused)} if refused else {})},
        )
    ]


def _states_in(folder: Path) -> list[Path]:
    """The states of a run's checkpoints by step, and the one beside them that it left at its end."""
    found = []
    try:
        for below in folder.iterdir():
            if _CHECKPOINT.fullmatch(below.name) and (below / NAME).is_file():
                found.append((int(below.name.rpartition("-")[2]), below / NAME))
            if len(found) == _MOST:
                break
        own = [folder / NAME] if (folder / NAME).is_file() else []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return [path for _, path in sorted(found)] + own


def _read_state(path: Path, hasher: hashlib._Hash, dropped: Dropped) -> _State:
    file = TextFile(path, hasher)
    columns, rest = Columns(file.size), {}
    summary: Mapping[str, Any] = {}
    pieces = Pieces(file)
    for name in members(pieces):
        if name != "log_history":
            rest[name] = member(pieces)
            continue
        for line, row in _history(pieces, path):
            if "train_runtime" in row:
                summary = row
                dropped.add("summary of a training")
            elif row:
                columns.add(line, row)
    return _State(path, columns, {**rest, **({"summary": dict(summary)} if summary else {})})


def _history(pieces: Pieces, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in pieces.items():
        if not isinstance(row, dict):
            raise UserError(f"{path}:{line}: log_history holds something that is no row (an object)")
        yield line, row


def _global_step(rest: Mapping[str, Any]) -> float:
    step = rest.get("global_step")
    return float(step) if isinstance(step, (int, float)) and step == step else -1.0  # noqa: PLR0124


def _cells(table: Table, i: int) -> dict[str, Any]:
    return {name: cells[i] for name, cells in table.columns.items() if cells[i] is not None}


def _agreed(other: Table, run: Table) -> int:
    """How many rows of a checkpoint's history the run begins with too."""
    both = min(len(other.lines), len(run.lines))
    return next((i for i in range(both) if _cells(other, i) != _cells(run, i)), both)


def _branches(run: Table, others: list[Table]) -> list[tuple[Table, int]]:
    """Histories that leave the run, with the row where they do; one that is the beginning of another is not told."""
    left = [(other, at) for other in others if (at := _agreed(other, run)) < len(other.lines)]
    left.sort(key=lambda pair: -len(pair[0].lines))
    kept: list[tuple[Table, int]] = []
    for other, at in left:
        if not any(_agreed(other, longer) == len(other.lines) for longer, _ in kept):
            kept.append((other, at))
    return kept[::-1]


def _joined(run: Table, branches: list[tuple[Table, int]]) -> tuple[Table, tuple[int, ...]]:
    """The rows as they would stand in one log that was written through: a branch goes on until the run leaves it.

    Returns the rows, and those at which the second and later attempts begin.
    """
    if not branches:
        return run, ()
    parts: list[tuple[Table, int, int]] = []
    begins: list[int] = []
    at = count = 0
    for other, leaves in sorted(branches, key=lambda pair: pair[1]):
        parts += [(run, at, leaves), (other, leaves, len(other.lines))]
        count += len(other.lines) - at
        begins.append(count)
        at = leaves
    parts.append((run, at, len(run.lines)))
    count += len(run.lines) - at
    starts = [begin for begin in begins if 0 < begin < count]
    names = dict.fromkeys(name for table, *_ in parts for name in table.columns)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    lines: list[int] = []
    for table, first, end in parts:
        lines.extend(table.lines[first:end])
        for name, column in columns.items():
            column.extend(table.columns[name][first:end] if name in table.columns else [None] * (end - first))
    return Table(run.where, columns, lines), tuple(starts)


def _label(path: Path) -> Label:
    """Called after the output folder: its checkpoints and the file have the same names in every run."""
    whole = path.resolve()
    if whole.name != NAME and not is_folder(path):
        return label_of_path(whole.with_name(whole.name.removesuffix(".json").removesuffix(".trainer_state") + ".json"))
    folder = whole.parent if whole.name == NAME else whole
    folder = folder.parent if _CHECKPOINT.fullmatch(folder.name) else folder
    return label_of_path(folder.with_name(f"{folder.name}.run")) if folder.name else Label("trainer_state")
