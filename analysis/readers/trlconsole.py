"""Read what TRL and Hugging Face's Trainer print: one Python dict for each time that they log, among progress bars.

Promises: nothing is evaluated (`analysis.readers.pythondict`); the step is not in these lines, and is taken from the
progress bar beside each only where it agrees with the epochs of all, which a finding says. The console shows four
digits: ``trainer_state.json`` has them all.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.findings import finding
from analysis.readers.columns import Columns, Dropped
from analysis.readers.found import Found
from analysis.readers.huggingface import RATES
from analysis.readers.printed import Alike, console_text, found_on_console, plain
from analysis.readers.pythondict import parse
from analysis.readers.textfile import TextFile

_MARKS = frozenset({"loss", "reward", "eval_loss", "eval_reward", "learning_rate", "grad_norm", "epoch", "kl"})
_BEGIN = re.compile(r"\{['\"][\w/. @-]{1,200}['\"]:")
_BAR = re.compile(r"\d{1,3}%\|[^|]{0,400}\|\s{0,20}(\d{1,12})/\d{1,12} \[")
_LOOKED_AT = 1 << 22
_BESIDE = 4  # counts that are kept of one row, beside the last before it
_NEAR = 0.006  # how far epochs, printed with as few as two decimals, may lie from the steps


def recognise(path: Path, head: bytes) -> bool:
    """Whether dicts with names of Hugging Face's Trainer are printed in the first megabytes of a file."""
    text = console_text(path, head, _LOOKED_AT)
    begins = (_dict(_from_dict(plain(line))) for line in re.split(r"[\r\n]", text) if "{" in line)
    return any(_MARKS & row.keys() and "epoch" in row for row in begins if row)


def read(path: Path) -> list[Found]:
    """Read the run of a console log of TRL or of Hugging Face's Trainer."""
    file, dropped = TextFile(path), Dropped()
    columns, bars, rows, summary = Columns(file.size), _Bars(), Alike(_dict), {}
    for line, text in file:
        if not text.strip():
            continue
        bar = "%|" in text and bars.look(text)
        printed = _from_dict(plain(text)) if "{" in text else ""
        if alike := rows.match(printed):
            columns.add_figures(line, *alike)
            bars.row()
        elif (row := _dict(printed)) is None:
            dropped.add("progress bar" if bar else "prose")
        elif "train_runtime" in row:
            summary = row
            dropped.add("summary of a training")
        elif not _MARKS & row.keys() and not any(name.startswith("eval_") for name in row):
            dropped.add("a dict that is no row of a log")
        else:
            columns.add(line, row)
            bars.row()
            rows.learn(printed, row)
    like = "{'loss': 0.1, 'epoch': 0.5} in it"
    found = found_on_console(file, columns, dropped, known_as="trl-console", rates=RATES, like=like)
    if summary:
        found = replace(found, header={"summary": summary})
    if found.step is None and (steps := bars.steps(found.table.columns.get("epoch", ()))) is not None:
        what = "the console shows no steps: they are read from the progress bar beside each row, and agree with epoch"
        table = replace(found.table, columns={"step": steps, **found.table.columns})
        found = replace(found, table=table, step="step", findings=(*found.findings, finding("step-derived", what)))
    return [found]


def _from_dict(text: str) -> str:
    """What is left of a line from its first dict on; a progress bar may stand before it."""
    found = _BEGIN.search(text)
    return text[found.start() :] if found else ""


def _dict(text: str) -> dict[str, Any] | None:
    """The dict that a text is."""
    parsed = parse(text)
    return None if parsed is None or text[parsed[1] :].strip() else parsed[0]


class _Bars:
    """Counts of the progress bars beside the rows: tqdm draws its bars again right behind what it lets through."""

    def __init__(self) -> None:
        self._beside = array("q")  # of each row the last before it, and then those behind; -1 where there are fewer
        self._here: list[int] = []  # of the last row
        self._last = -1

    def look(self, text: str) -> bool:
        """Whether a piece is a progress bar, whose count is kept."""
        found = _BAR.search(text)
        if found is not None:
            self._last = int(found[1])
            if len(self._here) <= _BESIDE and self._last not in self._here:
                self._here.append(self._last)
        return True

    def row(self) -> None:
        """Keep what was seen before a row."""
        self._beside.extend(self._padded())
        self._here = [self._last] if self._last >= 0 else []

    def steps(self, epochs: Sequence[object]) -> list[int] | None:
        """The step of each row; None where bars and epochs do not agree."""
        epoch = np.array([e if isinstance(e, (int, float)) else math.nan for e in epochs], dtype=float)
        if len(epoch) < 2 or bool(np.isnan(epoch).any()):
            return None
        beside = np.append(np.frombuffer(self._beside, dtype=np.int64), self._padded()).reshape(-1, _BESIDE + 1)
        counts = np.roll(beside[1:], -1, axis=1)  # what was seen before the first row is of none
        for last in counts[-1][counts[-1] > 0].tolist():
            with np.errstate(over="ignore", invalid="ignore"):
                off = np.abs(epoch[:, None] - counts * (float(epoch[-1]) / last))
                near = (counts >= 0) & (off <= (_NEAR + 0.001 * epoch)[:, None])
            steps = counts[np.arange(len(epoch)), near.argmax(axis=1)]
            moved = (np.diff(steps) != 0) | (np.diff(epoch) == 0.0)
            if near.any(axis=1).all() and moved.all() and steps.min() < steps.max():
                return [int(step) for step in steps]
        return None

    def _padded(self) -> list[int]:
        return (self._here + [-1] * (_BESIDE + 1))[: _BESIDE + 1]
