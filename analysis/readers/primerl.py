"""Read what prime-rl's file monitor writes: ``metrics.jsonl``, several rows a step, of trainer and orchestrator.

Promises: as of `analysis.readers.jsonlines`; the rows of one step that one process wrote after each other become one
row where they hold no name with two values; the orchestrator's files are joined to the trainer's step by step, a name
that both use called ``orchestrator/...`` there. ``time`` is the time of day of a row, in seconds.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.readers.columns import Columns, Dropped, flat, rates_of
from analysis.readers.formats import head_of
from analysis.readers.found import Found
from analysis.readers.jsonlines import label_of_log, objects, rows_of_head, said_of_cut
from analysis.readers.textfile import TextFile, is_folder
from scalerl.runlog import UserError

NAME = "metrics.jsonl"
FOLDERS = ("trainer", "orchestrator", "run_default")  # beside or inside which a run keeps its files
RATES = (
    re.compile(r"^eval/.*/pass@1$"),
    re.compile(r"^eval/.*/avg@\d+$"),
    re.compile(r"^eval/.*/(?:reward|avg)(?:/mean)?$"),
)
_PARTS = ("progress/", "time/", "perf/", "optim/", "loss/", "reward/", "eval/", "batch/", "seq_len/", "scheduler/")
_ATTEMPTS = 50  # rows of one step that are looked at for the nearest
_EPOCH = 1e9  # seconds since 1970 of any time of day that such a file can hold

Rows = list[tuple[int, dict[str, Any]]]


def recognise(path: Path, head: bytes) -> bool:
    """Whether a file, or the files of a folder, hold rows that begin with step and time and prime-rl's names."""
    if head:
        return _is_prime(head)
    return is_folder(path) and any(_is_prime(head_of(file)) for file in _files_in(path))


def read(path: Path) -> list[Found]:
    """Read the run of a ``metrics.jsonl``, or of a folder with those of trainer and orchestrator."""
    paths = _files_in(path) if is_folder(path) else [path]
    if not paths:
        raise UserError(f"{path}: no {NAME} in it, nor in {', '.join(FOLDERS)}")
    hasher, dropped = hashlib.sha256(), Dropped()
    files = [TextFile(one, hasher) for one in paths]
    columns = Columns(sum(file.size for file in files))
    parts = [_of_one_process(file, dropped) for file in files]
    for line, row in parts[0] if len(parts) == 1 else _joined([list(part) for part in parts]):
        columns.add(line, row)
    cut = bool(dropped.count["half a last line"])
    table = columns.table(str(paths[0] if len(paths) == 1 else path), cut=cut)
    if not table.lines:
        raise UserError(f"{paths[0]}:1: no row with step and time in it")
    return [
        Found(
            label=label_of_log((path / NAME) if is_folder(path) else path),
            table=table,
            path=path,
            sha256=hasher.hexdigest(),
            format="prime-rl",
            step="step",
            rates=rates_of(table.columns, RATES),
            header={"files": [str(one.relative_to(path)) for one in paths]} if len(paths) > 1 else {},
            findings=(*dropped.findings(), *columns.findings(), *said_of_cut(cut, len(table.lines))),
            dropped=dict(dropped.count),
        )
    ]


def _is_prime(head: bytes) -> bool:
    rows = rows_of_head(head)
    times = [row.get("time") for row in rows]
    named = any(name.startswith(_PARTS) for row in rows for name in row)
    return named and all(list(row)[:2] == ["step", "time"] for row in rows) and all(map(_is_time, times))


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and _EPOCH < value < 10 * _EPOCH


def _files_in(folder: Path) -> list[Path]:
    try:
        return [one for below in ("", *FOLDERS) if (one := folder / below / NAME).is_file()]
    except OSError:  # one that may not be opened
        return []


def _of_one_process(file: TextFile, dropped: Dropped) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of one file, those of one step that stand after each other as one."""
    last: tuple[int, dict[str, Any]] | None = None
    for line, cells in objects(file, dropped):
        row = flat(cells)
        if not isinstance(row.get("step"), (int, float)) or not _is_time(row.get("time")):
            dropped.add("without step or time", line)
            continue
        if last is not None and all(
            last[1][name] == value for name, value in row.items() if name in last[1] and name != "time"
        ):
            last[1].update(row)
        else:
            if last is not None:
                yield last
            last = line, row
    if last is not None:
        yield last


def _joined(parts: list[Rows]) -> Rows:
    """The rows of all files: each joins the row of its step in the first that is nearest in time."""
    main, *others = [rows for rows in parts if rows] or [[]]
    for rows in others:
        main = _join(main, rows)
    return main


def _join(main: Rows, rows: Rows) -> Rows:
    shared = {name for _, row in main for name in row} & {name for _, row in rows for name in row} - {"step", "time"}
    there: dict[float, list[int]] = defaultdict(list)
    for i, (_, row) in enumerate(main):
        there[row["step"]].append(i)
    here: dict[float, list[int]] = defaultdict(list)
    for j, (_, row) in enumerate(rows):
        here[row["step"]].append(j)
    partner: dict[int, int] = {}
    for step, mine in here.items():  # of several attempts at a step those nearest in time belong together
        both = [(i, j) for i in there[step][:_ATTEMPTS] for j in mine[:_ATTEMPTS]]
        taken: set[int] = set()
        for i, j in sorted(both, key=lambda pair: abs(main[pair[0]][1]["time"] - rows[pair[1]][1]["time"])):
            if i not in taken and j not in partner:
                taken.add(i)
                partner[j] = i
    alone: Rows = []
    for j, (line, row) in enumerate(rows):
        named = {f"orchestrator/{name}" if name in shared else name: value for name, value in row.items()}
        if (at := partner.get(j)) is None:
            alone.append((line, named))
        else:
            main[at] = (main[at][0], {**named, **main[at][1]})
    return _placed(main, alone)


def _placed(main: Rows, alone: Rows) -> Rows:
    """Rows without a partner go where their step belongs, in the attempt that ran at their time."""
    if not alone:
        return main
    begins = [i for i in range(len(main)) if i == 0 or main[i][1]["step"] <= main[i - 1][1]["step"]]
    starts = [main[i][1]["time"] for i in begins]
    ends = [*begins[1:], len(main)]
    steps = [row["step"] for _, row in main]
    behind: dict[int, Rows] = defaultdict(list)
    for line, row in alone:
        attempt = max(bisect_right(starts, row["time"]) - 1, 0)
        behind[bisect_left(steps, row["step"], begins[attempt], ends[attempt])].append((line, row))
    placed: Rows = []
    for i in range(len(main) + 1):
        placed += behind.get(i, [])
        placed += main[i : i + 1]
    return placed
