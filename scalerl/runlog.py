"""The log of a run: the one contract between training and analysis. Standard library only.

A run is a folder::

    run.json        what was run, written once before the first row (schema, recipe, seed, configuration, devices)
    log.jsonl       append-only; one JSON object a line, flushed to disk row by row; kinds: step, eval, event,
                    and downstream, which is written after the fact
    samples.jsonl   a few prompts, completions and rewards of every evaluation, to read
    model/          the final policy, where the trainer leaves one
    best/           the policy with the highest evaluation pass rate, where it is kept
    checkpoints/    where a run that was cut off can go on
    lost/           rows that a resume cut off, with their bill

Promises: a row is on disk before the call that wrote it returns; an existing log is never written over; the
compute axes (`COMPUTE_AXES`) are cumulative over the whole run and stand in every step and eval row; no row holds
NaN or infinity. `docs/log-format.md` describes every field and a test holds it against the tables below, which make
this file long: writer, reader and schema stand together because they must change together.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalerl.meter import Meter

SCHEMA_VERSION = 1
HEADER_FILE, LOG_FILE, SAMPLES_FILE = "run.json", "log.jsonl", "samples.jsonl"
MODEL_FOLDER, BEST_FOLDER, CHECKPOINT_FOLDER, LOST_FOLDER = "model", "best", "checkpoints", "lost"

# Cumulative over the run, in every step and eval row: each can be the x of a curve.
COMPUTE_AXES: dict[str, str] = {
    "gpu_hours": "metered wall time x devices held, in hours; idle time included, evaluation and checkpoints not",
    "cpu_s": "CPU-seconds over the same interval, of a generator in a process of its own, too",
    "tokens_generated": "completion tokens sampled for training, those of a forced phrase included",
    "tokens_trained": "completion tokens that entered the loss",
    "flops": "2 N a token run forward, 6 N a token also run backward, N = weights that multiply it; attention left out"
    "; with adapters (LoRA) 4 N and 2 for every weight of an adapted matrix, and the products that merge them",
    "step": "updates tried so far, skipped ones included",
}
STEP_FIELDS: dict[str, str] = {
    "attempt": "1 for the first process that worked on this run, one more after each resume",
    "epoch": "passes over the train prompts so far",
    "skipped": "true if no update was made: no prompt was left after the filter, or an FP16 gradient overflowed",
    "generate_s": "wall seconds generating, or waiting for a generator in a process of its own",
    "generator_busy_s": "wall seconds that a generator in a process of its own worked; only where there is one",
    "score_s": "wall seconds scoring",
    "train_s": "wall seconds in loss, gradient and update",
    "reward_sum": "sum of the rewards of all completions",
    "reward_count": "number of completions",
    "reward_var": "population variance of their rewards",
    "reward_errors": "completions whose score failed (an error, a limit, no number); they count as wrong",
    "prompts": "prompts drawn for this update",
    "zero_variance_share": "share of those prompts whose completions all got one reward",
    "filtered_share": "share of those prompts that the filter left out of the update",
    "retired": "prompts that are never drawn again",
    "lag_min": "smallest lag of a token of these completions: updates made when it trains - when it was sampled",
    "lag_mean": "mean lag of their tokens",
    "lag_max": "largest lag",
    "versions_mean": "mean number of policy versions that a completion was sampled from",
    "versions_max": "largest number of versions in one completion",
    "mixed_share": "share of the completions sampled from two versions or more",
    "in_flight": "completions begun and not finished when the update was made",
    "interrupted_share": "share of the completions whose thinking was ended by force",
    "forced_tokens": "tokens of these completions that were forced; they carry no gradient",
    "penalty_mean": "mean over the completions of the length penalty in their rewards, 0 to -1",
    "length_mean": "mean completion length, in tokens, end token included",
    "truncation_rate": "share of completions cut at the length limit",
    "entropy": "mean entropy, in nats, of the distributions at the completions' tokens, forced ones included",
    "ratio_mean": "mean importance ratio pi_train / pi_generate over the tokens in the loss",
    "ratio_max": "largest importance ratio",
    "clipped_share": "share of tokens in the loss whose importance ratio was clipped",
    "logprob_diff_mean": "mean |log pi_train - log pi_generate| over the tokens in the loss",
    "logprob_diff_max": "largest |log pi_train - log pi_generate|",
    "loss": "value of the loss",
    "grad_norm": "norm of the gradient before clipping",
    "learning_rate": "learning rate of this update",
}
EVAL_FIELDS: dict[str, str] = {
    "attempt": "as in step rows",
    "pass_rate": "mean over prompts and samples of correct (mean@k), a fraction",
    "n_prompts": "held-out prompts",
    "k": "completions a prompt",
    "correct": "correct completions of each prompt, in the order of the prompt set",
    "prompt_set": "hash of the evaluation prompts and answers",
    "temperature": "sampling temperature",
    "max_new_tokens": "length limit of a completion, in tokens",
    "sampling_seed": "seed of the sampling noise",
    "length_mean": "mean completion length, in tokens",
    "truncation_rate": "share of completions cut at the length limit",
    "reward_errors": "completions whose score failed; they count as wrong",
    "evaluate_s": "wall seconds of this evaluation, not part of gpu_hours",
}
# Scores of a saved policy on any data set: a kind of its own, so that no reader takes one for a point of the run's
# curve. They have the compute axes of the policy and the fields of eval rows, too, but for `attempt`.
DOWNSTREAM_FIELDS: dict[str, str] = {
    "data_set": "name of the data set, the same for every policy that was asked it",
    "model": "what was evaluated, as it was named",
    "model_sha256": "its hash; null where it has none",
    "time": "when it was evaluated, UTC",
}
# What differs between two runs of one configuration and seed; every other field is equal. A run that was resumed
# differs from one that was not in `attempt`, too, and has an event that says so.
TIME_FIELDS = frozenset(
    {"gpu_hours", "cpu_s", "generate_s", "generator_busy_s", "score_s", "train_s", "evaluate_s", "time"}
)


class UserError(Exception):
    """Something the user can mend: what happened, where, what to do next. The command line prints it as one line."""


class RunLogError(UserError):
    """A run folder or log that cannot be read or written."""


class Resume(NamedTuple):
    """Where a run goes on."""

    step: int
    mark: Mapping[str, Any] | None
    """Where its log ended then (`scalerl.lost.mark`); None to begin anew."""
    fields: Mapping[str, Any]
    """More for the event that is written."""
    stamp: tuple[int, ...] | None = None
    """Of the log when it was read; one that another process wrote to since is refused."""


class RunLog:
    """Write a run folder. One process at a time: a second one on the same folder is refused.

    Parameters
    ----------
    folder : path
        Made if missing. A folder that already holds a log is refused.
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
        Go on with the run that the folder holds, from there; what is behind it moves to ``lost/``.

    Raises
    ------
    RunLogError
        If the folder holds a log already or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "mine"
    >>> with RunLog(folder, recipe="mine", devices=8) as log:
    ...     log.evaluate(step=0, correct=[1, 0, 3], k=4)
    ...     with log.meter.phase("generate"):
    ...         pass
    ...     log.step(step=1, reward_sum=-3.0, reward_count=12)
    >>> [row["kind"] for row in read_log(folder / "log.jsonl").rows]
    ['event', 'eval', 'step', 'event']
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        recipe: str,
        seed: int | None = None,
        devices: int = 1,
        device_kind: str = "unknown",
        header: Mapping[str, Any] | None = None,
        start_meter: bool = True,
        resume: Resume | None = None,
    ) -> None:
        self.folder, self._resume = Path(folder), resume
        self._start_meter = start_meter
        self.meter = Meter(devices)
        self.attempt = 1
        self._fd: int | None = None
        self._header = {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe,
            "seed": seed,
            "devices": {"kind": device_kind, "count": devices},
            **(header or {}),
            "start_time": now(),
        }

    def __enter__(self) -> RunLog:
        """Make the folder and write the header, or cut back a run to go on with; begin to meter unless told not to."""
        if self._resume is None:
            self.refuse_if_taken()
        path = self.folder / LOG_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._resume is None:
                write_json(self.folder / HEADER_FILE, self._header)
            fresh = os.O_EXCL if self._resume is None else 0
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | fresh, 0o644)
            lock(self._fd, self.folder)
            if self._resume is not None and self._resume.stamp not in (None, stamp(self._fd)):
                raise RunLogError(f"{self.folder}: another process went on with this run meanwhile; try again")
            if self._resume is None:
                self.event("start")
            else:
                self._cut_back(self._fd, self._resume)
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise RunLogError(f"{self.folder}: cannot be written: {error.strerror}") from error
            raise
        if self._start_meter:
            self.meter.start()
        return self

    def _cut_back(self, fd: int, resume: Resume) -> None:
        from scalerl.lost import cut_back

        cut = cut_back(self.folder, fd, resume.mark)
        self.attempt = cut.attempt
        lost = {"gpu_hours_lost": cut.gpu_hours_lost, "rows_lost": cut.rows}
        self.event("resume", step=resume.step, **lost, **resume.fields)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close the log with an event that says how the run ended."""
        self.meter.stop()
        try:
            if kind is None:
                self.event("end")
            elif issubclass(kind, KeyboardInterrupt):
                self.event("interrupted", gpu_hours=self.meter.gpu_hours)
            else:
                self.event("failed", gpu_hours=self.meter.gpu_hours, error=f"{kind.__name__}: {error}")
        except RunLogError:
            if error is None:
                raise  # otherwise the log is closed already by what went wrong before, and that is what to report
        finally:
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def refuse_if_taken(self) -> None:
        """Raise `RunLogError` if the folder holds a file of a run."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RunLogError(f"{self.folder}: is a file; a run needs a folder of its own")
        for name in (LOG_FILE, HEADER_FILE, SAMPLES_FILE, MODEL_FOLDER, BEST_FOLDER, CHECKPOINT_FOLDER, LOST_FOLDER):
            if os.path.lexists(self.folder / name):
                raise RunLogError(
                    f"{self.folder}: holds a run already ({name}); go on with it by --resume, choose another folder, "
                    "or move it away"
                )

    def step(self, *, step: int, **fields: Any) -> None:
        """Append a step row; compute and phase seconds are filled in from the meter unless given."""
        phases = {f"{name}_s": seconds for name, seconds in self.meter.take_phases().items()}
        self._append("step", step, {**phases, **fields})

    def evaluate(self, *, step: int, correct: Sequence[int], k: int, **fields: Any) -> None:
        """Append an eval row from the number of correct completions of each prompt, of `k` each.

        Raises
        ------
        ValueError
            If a count is not between 0 and `k`, or there is no prompt.
        """
        counts = [int(c) for c in correct]
        if not counts or k < 1 or min(counts) < 0 or max(counts) > k:
            raise ValueError(f"correct must hold at least one count between 0 and k={k}")
        rate = sum(counts) / (k * len(counts))
        row = {"pass_rate": rate, "n_prompts": len(counts), "k": k, "correct": counts, **fields}
        self._append("eval", step, row)

    def event(self, event: str, **fields: Any) -> None:
        """Append an event row with the time of day."""
        self._write({"kind": "event", "event": event, "attempt": self.attempt, "time": now(), **fields})

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append to ``samples.jsonl``; meant to be read by people, so it is not flushed row by row."""
        with (self.folder / SAMPLES_FILE).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _append(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        meters = {"gpu_hours": self.meter.gpu_hours, "cpu_s": self.meter.cpu_s}
        self._write({"kind": kind, "step": step, "attempt": self.attempt, **meters, **fields})

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._fd is None:
            raise RunLogError(f"{self.folder}: the log is not open; write inside `with RunLog(...) as log:`")
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RunLogError(f"{self.folder}: {name} is {value}; a log holds finite numbers or null")
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = self.folder / LOG_FILE
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(self._fd)):
            raise RunLogError(
                f"{path}: was replaced or removed while the run wrote to it, as some editors do; the run ends with the "
                "rows that were there; go on by --resume"
            )
        _append_whole(self._fd, path, line)


def append_downstream(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append scores of a saved policy to the log of a run that no process works on, all of them or none.

    Parameters
    ----------
    folder : path
    rows : sequence of mapping
        The compute axes of the policy, and the fields of `DOWNSTREAM_FIELDS` and of eval rows.

    Raises
    ------
    RunLogError
        If the run is held, its log is damaged, or it cannot be written.
    """
    path = folder / LOG_FILE
    whole = [{"kind": "downstream", **row, "time": now()} for row in rows]
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
    except OSError as error:
        raise RunLogError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        lock(fd, folder)
        if read_log(path).cut:
            raise RunLogError(f"{path}: its last line is cut; go on with the run by --resume first, which mends it")
        ends = read_regular(path).endswith(b"\n")
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in whole)
        _append_whole(fd, path, (lines if ends else "\n" + lines).encode())
    finally:
        os.close(fd)


def _append_whole(fd: int, path: Path, data: bytes) -> None:
    """Append to an open log and bring it to the disk, or leave it as it was."""
    before = os.fstat(fd).st_size
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    except OSError as error:
        os.ftruncate(fd, before)  # half a row would make a damaged line of the next one
        raise RunLogError(f"{path}: cannot be written: {error.strerror}") from error


def refuse_if_held(folder: Path) -> tuple[int, ...] | None:
    """Raise `RunLogError` if a process works on the run in a folder; return what shows whether its log changes."""
    try:
        fd = os.open(folder / LOG_FILE, os.O_RDONLY)
    except OSError:
        return None  # there is no log that a process could hold, or it cannot be read, which is said where it is read
    try:
        lock(fd, folder)
        return stamp(fd)
    finally:
        os.close(fd)


def stamp(fd: int) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced."""
    found = os.fstat(fd)
    return found.st_ino, found.st_size, found.st_mtime_ns


def lock(fd: int, folder: Path) -> None:
    """Hold the run folder until the file is closed, which the system does for a process that dies.

    Raises
    ------
    RunLogError
        If another process holds it.
    """
    import fcntl  # not on Windows, where logs can still be read

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunLogError(f"{folder}: another process works on this run; wait for it or end it") from error


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    RunLogError
        If it cannot be read, or is a pipe or a device, which could block or never end.
    """
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise RunLogError(f"{path}: cannot be read: it is {kind}")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise RunLogError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


class LogContent(NamedTuple):
    """Rows of a log, and whether its last line was cut (the cut line is not among the rows)."""

    rows: list[dict[str, Any]]
    cut: bool


def read_log(path: str | os.PathLike[str]) -> LogContent:
    """Read a ``log.jsonl``.

    A process that dies can leave half a last line: that one is left out and reported in `cut`. Damage anywhere
    else is an error.

    Raises
    ------
    RunLogError
        With path and line, if the file cannot be read, is empty, or a line is not a JSON object.
    """
    data = read_regular(path)
    if not data.strip():
        raise RunLogError(f"{path}: the log is empty")
    lines = data.split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and rows:  # no newline behind it: the write was cut
                return LogContent(rows, cut=True)
            raise RunLogError(f"{path}:{number}: not a JSON object; the log is damaged here") from error
        if not isinstance(row, dict):
            raise RunLogError(f"{path}:{number}: not a JSON object; the log is damaged here")
        rows.append(row)
    return LogContent(rows, cut=False)


def read_header(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the ``run.json`` of a run folder.

    Raises
    ------
    RunLogError
        If it is missing, not a JSON object, or of a schema this version does not know.
    """
    path = Path(folder) / HEADER_FILE
    try:
        header = json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise RunLogError(f"{path}: not JSON: {error}") from error
    version = header.get("schema_version") if isinstance(header, dict) else None
    if not isinstance(header, dict) or type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise RunLogError(f"{path}: schema_version is {version!r}; this version reads 1 to {SCHEMA_VERSION}")
    return dict(header)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside `path` and rename it into place, so that a reader sees all of it or nothing."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def now() -> str:
    """Return the time of day in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
