"""Read what TRL and Hugging Face's Trainer print: one Python dict for each time that they log, among progress bars.

Promises: nothing is evaluated (`analysis.readers.pythondict`); the step is not in these lines, and is taken from the
progress bar beside each only where it agrees with the epochs of all, which a finding says. The console shows four
digits: ``trainer_state.json`` has them all.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.findings import finding
from analysis.readers.cleaning import Table
from analysis.readers.columns import Columns, Dropped, rates_of
from analysis.readers.found import Found
from analysis.readers.huggingface import RATES
from analysis.readers.labels import label_of_path
from analysis.readers.pythondict import parse
from analysis.readers.textfile import TextFile, console_text, plain
from scalerl.runlog import UserError

_MARKS = frozenset({"loss", "reward", "eval_loss", "eval_reward", "learning_rate", "grad_norm", "epoch", "kl"})
_BEGIN = re.compile(r"\{['\"][\w/. @-]{1,200}['\"]:")
_BAR = re.compile(r"\d{1,3}%\|[^|]{0,400}\|\s{0,20}(\d{1,12})/\d{1,12} \[")
_LOOKED_AT = 1 << 22
_BESIDE = 4  # counts that are kept of one row
_NEAR = 0.006  # how far epochs, printed with as few as two decimals, may lie from the steps


def recognise(path: Path, head: bytes) -> bool:
    """Whether dicts with names of Hugging Face's Trainer are printed in the first megabytes of a file."""
    text = console_text(path, head, _LOOKED_AT)
    begins = (found for line in re.split(r"[\r\n]", text) if "{" in line and (found := _dict_at(plain(line))))
    return any(_MARKS & row.keys() and "epoch" in row for row in begins)


def read(path: Path) -> list[Found]:
    """Read the run of a console log of TRL or of Hugging Face's Trainer."""
    file, dropped = TextFile(path), Dropped()
    columns, bars, summary = Columns(file.size), _Bars(), {}
    for line, text in file:
        if not text.strip():
            continue
        row = _dict_at(plain(text)) if "{" in text else None
        bar = "%|" in text and bars.look(text)
        if row is None:
            dropped.add("progress bar" if bar else "prose")
        elif "train_runtime" in row:
            summary = row
            dropped.add("summary of a training")
        elif not _MARKS & row.keys() and not any(name.startswith("eval_") for name in row):
            dropped.add("a dict that is no row of a log")
        else:
            columns.add(line, row)
            bars.row(row)
    if file.too_long:
        dropped.count["too long"] += file.too_long
    table = columns.table(str(path))
    if not table.lines:
        raise UserError(f"{path}:1: no line such as {{'loss': 0.1, 'epoch': 0.5}} in it")
    said = [*columns.findings()]
    steps = bars.steps()
    step = "step" if "step" in table.columns else None
    if step is None and steps is not None:
        table = Table(table.where, {"step": steps, **table.columns}, table.lines)
        step = "step"
        what = "the console shows no steps: they are read from the progress bar beside each row, and agree with epoch"
        said.append(finding("step-derived", what))
    return [
        Found(
            label=label_of_path(path),
            table=table,
            path=path,
            sha256=file.sha256,
            format="trl-console",
            step=step,
            rates=rates_of(table.columns, RATES),
            header={"summary": summary} if summary else {},
            findings=tuple(said),
            dropped=dict(dropped.count),
        )
    ]


def _dict_at(text: str) -> dict[str, Any] | None:
    """The dict that a line ends in; a progress bar may stand before it."""
    found = _BEGIN.search(text)
    parsed = parse(text, found.start()) if found else None
    if parsed is None or text[parsed[1] :].strip():
        return None
    return parsed[0]


class _Bars:
    """Counts of the progress bars beside the rows: tqdm draws its bars again right behind what it lets through."""

    def __init__(self) -> None:
        self._epochs: list[float | None] = []
        self._beside: list[list[int]] = []  # those behind a row, and then the last before it
        self._last: int | None = None

    def look(self, text: str) -> bool:
        """Whether a piece is a progress bar, whose count is kept."""
        found = _BAR.search(text)
        if found is not None:
            self._last = int(found[1])
            if self._beside and len(self._beside[-1]) <= _BESIDE and self._last not in self._beside[-1]:
                self._beside[-1].append(self._last)
        return True

    def row(self, row: dict[str, Any]) -> None:
        """Keep what was seen before a row."""
        epoch = row.get("epoch")
        self._epochs.append(float(epoch) if isinstance(epoch, (int, float)) else None)
        self._beside.append([] if self._last is None else [self._last])

    def steps(self) -> list[int] | None:
        """The step of each row; None where bars and epochs do not agree."""
        epochs = [epoch for epoch in self._epochs if epoch is not None]
        if len(epochs) < 2 or len(epochs) < len(self._epochs):
            return None
        beside = [[*bars[1:], *bars[:1]] for bars in self._beside]
        for each in [epochs[-1] / last for last in beside[-1] if last]:
            steps = [
                next((n for n in bars if abs(epoch - n * each) <= _NEAR + 0.001 * epoch), None)
                for epoch, bars in zip(epochs, beside, strict=True)
            ]
            known = [n for n in steps if n is not None]
            moved = all(a[1] != b[1] for a, b in pairwise(zip(epochs, known, strict=False)) if a[0] != b[0])
            if len(known) == len(epochs) and moved and len(set(known)) > 1:
                return known
        return None
