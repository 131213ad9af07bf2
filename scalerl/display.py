"""Show how a run is doing: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from scalerl.train import Progress


class Display:
    """Print step, pass rate, GPU-hours and time left; use as a context and call with each `Progress`.

    On a terminal a bar is redrawn in place. Elsewhere one line is printed for every evaluation. What the run decides
    (an early stop, a lower learning rate, a new best policy) is a line on both.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._began: tuple[float, float] | None = None  # seconds and fraction when it was called first
        self._bar: Any = None
        self.told = False  # whether the run has begun

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from tqdm import tqdm

            form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
            size = shutil.get_terminal_size()  # never 0 x 0, as tqdm's own guess can be; then it would show nothing
            self._bar = tqdm(total=1.0, bar_format=form, file=self._stream, ncols=size.columns, nrows=size.lines)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show the state of the run."""
        self.told = True
        if self._began is None:  # a run that goes on has done a part of its work before
            self._began = time.monotonic(), progress.fraction
            if self._bar is not None:
                self._bar.initial = progress.fraction
        if progress.note:
            if self._bar is None:
                print(progress.note, file=self._stream, flush=True)
            else:
                self._bar.write(progress.note, file=self._stream)
            return
        text = f"step {progress.step}  pass rate {progress.pass_rate:.3f}  {progress.gpu_hours:.4f} GPU-hours"
        if self._bar is not None:
            self._bar.n = progress.fraction
            self._bar.set_description_str(text)
        elif progress.evaluated:
            print(f"{text}  {self._left(progress.fraction)}", file=self._stream, flush=True)

    def _left(self, fraction: float) -> str:
        if fraction >= 1:
            return "done"
        began, first = self._began or (0.0, fraction)
        if fraction <= first:
            return "started"
        seconds = (time.monotonic() - began) * (1 - fraction) / (fraction - first)
        return f"{seconds / 60:.1f} min left"
