"""Write the rows of a run, from the trainer or from any other loop: see docs/your-own-loop.md."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from scalerl.runlog.files import RunLogError
from scalerl.runlog.folder import OpenFolder
from scalerl.runlog.resuming import AXES, COUNTED, Reached
from scalerl.runlog.values import measured, plain, summed, whole

EVALUATE = "evaluate"


class RunLog(OpenFolder):
    """Write a run folder. One process at a time, and in it the thread that opened the log: a second one is refused.

    Parameters
    ----------
    folder : path
        Made if missing. A folder that already holds a log is refused unless the run goes on.
    recipe : str
        Name under which runs are compared.
    seed : int, optional
    devices : int
        Devices held, for `gpu_hours`. On a CPU one process counts as one device.
    device_kind : str
        What they are, for the header.
    header : mapping, optional
        More to keep in ``run.json`` (configuration, versions, hashes).
    start_meter : bool
        Begin the metered interval on entering; otherwise it begins with ``log.meter.start()``.
    resume : Resume, optional
        Go on with the run that the folder holds, from a mark; what is behind it moves to ``lost/``.
    resume_step : int, optional
        The same by step, for a loop with checkpoints of its own: the updates in the checkpoint that it begins with, 0
        without one. A folder without a log begins; one with a log goes on from there. Recipe and seed must be those of
        the run, `devices` may change.
    report_to : sequence of str
        Tools that rows are mirrored to: ``tensorboard``, ``wandb``, ``trackio``, ``mlflow`` (see `scalerl.mirrors`).

    Raises
    ------
    RunLogError
        If the folder holds a log already, another process writes to it, it cannot be written or gone on with, a value
        cannot stand in a log, or another thread calls.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from scalerl.runlog import read_log
    >>> folder = Path(tempfile.mkdtemp()) / "mine"
    >>> with RunLog(folder, recipe="mine", devices=8) as log:
    ...     log.evaluate(correct=[1, 0, 3], k=4)
    ...     with log.phase("generate"):
    ...         rewards = [1.0, -1.0, -1.0, -1.0]
    ...     log.count(tokens_generated=512)
    ...     log.step(1, rewards=rewards, loss=0.25)
    >>> [row["kind"] for row in read_log(folder / "log.jsonl").rows]
    ['event', 'eval', 'step', 'event']
    """

    _evaluating: float | None = None
    _evaluate_s: float | None = None
    _saved: int | None = None

    @property
    def last_step(self) -> int:
        """Step of the last step row; 0 before the first."""
        return max(self._reached.step, 0)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count the wall seconds of the block as ``NAME_s`` of the next step row; they stay in `gpu_hours`."""
        self._one_thread("phase")
        self._untouched = False
        return self.meter.phase(name)

    @contextmanager
    def pause(self, name: str = "pause") -> Iterator[None]:
        """Leave the block out of `gpu_hours` and `cpu_s`: an evaluation (``"evaluate"``), a checkpoint, a wait."""
        self._one_thread("pause")
        if name == EVALUATE:
            self._evaluating = time.perf_counter()
        else:
            self._untouched = False
        try:
            with self.meter.apart(name):
                yield
        finally:
            if name == EVALUATE:
                self._evaluate_s, self._evaluating = self._seconds_of_evaluation(), None

    def count(self, **more: float) -> None:
        """Add to `tokens_generated`, `tokens_trained` or `flops`; the sums over the run stand in every row from here.

        Raises
        ------
        RunLogError
            If a name is none of these, or a number is below 0 or not finite.
        """
        self._one_thread("count")
        for name, value in more.items():
            if name not in COUNTED:
                raise RunLogError(f"{name} is not counted; what is: {', '.join(COUNTED)}")
            added = plain(value, name, {})
            if type(added) not in (int, float) or added < 0:
                raise RunLogError(f"{name} is {value!r:.60}; it must be a number, 0 or more")
            self._axes[name] = self._axes.get(name, 0) + added

    def step(self, step: int, *, rewards: Iterable[Any] | None = None, **fields: Any) -> None:
        """Append a step row; compute and phase seconds are filled in from the meter unless given.

        Parameters
        ----------
        step : int
            Updates so far, this one included; more than in the row before.
        rewards : numbers, optional
            Rewards of all completions of the update, kept as sum, count and variance.
        fields
            Figures by name (docs/log-format.md has those that `scalerl check` knows); NaN and infinity become null. The
            compute axes are sums over the run; `count` keeps them. One that is given here is the loop's own from then
            on: rows without it have the figure given last.
        """
        self._one_thread("step")
        given = fields if rewards is None else {**summed(rewards), **fields}
        number = whole(step, "step")
        if number <= self._reached.step or number < self._reached.point:
            was = max(self._reached.step, self._reached.point)
            raise RunLogError(f"{self.folder}: step is {number} after {was}; steps only go up{self._hint(was)}")
        self._untouched = False
        self._append("step", number, given, phases=True)

    def evaluate(
        self,
        *,
        correct: Iterable[Any] | None = None,
        k: int | None = None,
        pass_rate: float | None = None,
        n_prompts: int | None = None,
        step: int | None = None,
        **fields: Any,
    ) -> None:
        """Append an eval row: the number of correct completions of each prompt, of `k` each, or the pass rate alone.

        The counts say more: with them the noise of the prompts is known. The time goes into `gpu_hours` unless the
        evaluation ran inside ``with log.pause("evaluate")``, as it should. One before all else is at compute 0.

        Parameters
        ----------
        correct : counts, shape (n_prompts,), optional
        k : int, optional
            Completions a prompt.
        pass_rate : float, optional
            Fraction of correct completions.
        n_prompts : int, optional
        step : int, optional
            Updates of the policy that was asked; those of the last row if not given.
        fields
            More by name, such as `prompt_set` and `temperature`.

        Raises
        ------
        RunLogError
            If a count is not between 0 and `k`, there is no prompt, or the pass rate is no fraction.
        """
        self._one_thread("evaluate")
        row = measured(correct, k, pass_rate, n_prompts)
        number = max(self._reached.point, 0) if step is None else whole(step, "step")
        if number < self._reached.point:
            was = self._reached.point
            raise RunLogError(f"{self.folder}: step is {number} after {was}; steps only go up{self._hint(was)}")
        seconds = self._seconds_of_evaluation()
        timed = {} if seconds is None else {"evaluate_s": seconds}
        first, self._untouched = self._untouched and number == 0, False
        with self.meter.apart(EVALUATE) if first else nullcontext():
            if first:
                self.meter.reset()
            self._append("eval", number, {**row, **timed, **fields})
        self._evaluate_s = self._evaluating = None

    def _seconds_of_evaluation(self) -> float | None:
        return self._evaluate_s if self._evaluating is None else time.perf_counter() - self._evaluating

    def _hint(self, was: int) -> str:
        if self._saved == was and self._reached.step < was:
            return f" (log.saved({was}) said so)"
        return "" if self._resume_step is None else f" (it goes on from resume_step={self._resume_step})"

    def saved(self, step: int, **fields: Any) -> None:
        """Append an event that a checkpoint of a step is whole, so that a resume finds what was spent by then.

        A loop that logs every step needs it for the seconds between that row and the checkpoint alone. Where rows are
        rarer the step may be ahead of them; rows of earlier steps are refused from then on.
        """
        self._one_thread("saved")
        number = whole(step, "step")
        given = self._given(fields)
        self.event("saved", step=number, **{**self._spent(), **fields, **given})
        self._axes |= given
        self._saved = number
        self._reached = self._reached._replace(point=max(self._reached.point, number))

    def _append(self, kind: str, step: int, fields: Mapping[str, Any], *, phases: bool = False) -> None:
        given = self._given(fields)
        axes = {**self._spent(), **given}
        seconds = self.meter.take_fields() if phases else {}
        row: dict[str, Any] = {"kind": kind, "step": step, "attempt": self.attempt, **axes, **seconds}
        self._write(row, {name: value for name, value in fields.items() if name not in axes})
        self._axes |= given
        self._reached = Reached(step if kind == "step" else self._reached.step, step, {**self._reached.axes, **axes})
        if self._mirrors is not None:
            self._mirrors.row(row)

    def _given(self, fields: Mapping[str, Any]) -> dict[str, float]:
        return {axis: self._cumulative(axis, fields[axis]) for axis in AXES if fields.get(axis) is not None}

    def _cumulative(self, axis: str, value: Any) -> float:
        number = plain(value, axis, {})
        before = max(self._reached.axes.get(axis, 0), self._axes.get(axis, 0))
        if type(number) not in (int, float) or number < before:
            raise RunLogError(
                f"{axis} is {value!r:.60} after {before!r}; it is a sum over the run, which never falls"
                + (f"; log.count({axis}=...) adds what a step used" if axis in COUNTED else "")
            )
        return float(number) if type(number) is float else number
