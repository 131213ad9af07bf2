"""Hold a run folder: begin a run in it or go on with one, append rows, and let go of it.

Promises: a row is one write and one fsync, and on disk before the call that wrote it returns, so that a kill at any
moment loses no row that was told; a full disk takes half a row back. One process at a time writes, and the system frees
the folder when that process dies. In it one thread writes, the one that opened the log: another is refused, so that
rows keep their order. A run that goes on has its axes where they were; what is cut off is billed.

Does not promise: that ``samples.jsonl`` or a mirror (`scalerl.mirrors`) outlive a power cut.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scalerl.meter import Meter
from scalerl.runlog.files import RunLogError, append_whole, lock, now, stamp, sync_folder, write_json
from scalerl.runlog.lost import cut_back, rows_of
from scalerl.runlog.reading import read_header
from scalerl.runlog.resuming import COUNTED, Reached, Resume, find, reached
from scalerl.runlog.schema import (
    BEST_FOLDER,
    CHECKPOINT_FOLDER,
    HEADER_FILE,
    LOG_FILE,
    LOST_FOLDER,
    MODEL_FOLDER,
    SAMPLES_FILE,
    SCHEMA_VERSION,
)
from scalerl.runlog.values import plain, whole

if TYPE_CHECKING:
    from scalerl.mirrors import Mirrors

RESERVED = frozenset({"kind", "event", "attempt", "time", "not_finite"})

_say = logging.getLogger("scalerl.runlog")
_open: weakref.WeakSet[OpenFolder] = weakref.WeakSet()


class OpenFolder:
    """A run folder while one process writes to it; `scalerl.runlog.RunLog` says what the parameters are."""

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
        resume_step: int | None = None,
        report_to: Sequence[str] = (),
    ) -> None:
        self.folder, self._resume = Path(folder), resume
        self._resume_step = None if resume_step is None else whole(resume_step, "resume_step")
        self._start_meter = start_meter
        if not isinstance(recipe, str) or not recipe.strip():
            raise RunLogError(f"recipe is {recipe!r:.60}; it must be a name")
        self.meter = Meter(whole(devices, "devices", 1))
        self.attempt = 1
        self._fd: int | None = None
        self._thread = threading.current_thread()
        self._reached = Reached()
        self._axes: dict[str, float] = {}  # counted, or given by the loop; others are metered
        self._told: set[str] = set()
        self._untouched = True  # nothing was metered but set-up
        self._mirrors: Mirrors | None = None
        self._report_to = tuple(report_to)
        if self._report_to:
            from scalerl.mirrors import check_names

            check_names(report_to)
        self._header = {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe,
            "seed": None if seed is None else whole(seed, "seed"),
            "devices": {"kind": device_kind, "count": self.meter.devices},
            **plain(header or {}, "header", {}),
            "start_time": now(),
        }

    def __enter__(self) -> Self:
        """Make the folder and write the header, or cut back a run to go on with; begin to meter unless told not to."""
        self._thread = threading.current_thread()
        anew = self._resume is None and self._resume_step is None
        if anew:
            self.refuse_if_taken()
        path = self.folder / LOG_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | (os.O_EXCL if anew else 0)
            self._fd = os.open(path, flags, 0o644)
            lock(self._fd, self.folder)
            if self._resume is None and os.fstat(self._fd).st_size == 0:
                self._begin(path)
            else:
                self._go_on(self._fd)
        except BaseException as error:
            self._close()
            if isinstance(error, FileExistsError) and anew:
                raise RunLogError(f"{self.folder}: another process began a run here meanwhile") from error
            if isinstance(error, OSError):
                raise RunLogError(f"{self.folder}: cannot be written: {error.strerror}") from error
            raise
        _open.add(self)
        if self._report_to:
            from scalerl.mirrors import Mirrors

            self._mirrors = Mirrors(self._report_to, self.folder, self._header, self.attempt)
        if self._start_meter:
            self.meter.start()
        return self

    def _begin(self, path: Path) -> None:
        """Write the header and the first row; the log is held already, so no other process does the same."""
        try:
            if self._resume_step:
                raise RunLogError(
                    f"{self.folder}: holds no log that could go on from step {self._resume_step}; resume_step=0 begins "
                    "one, its compute counted from here"
                )
            write_json(self.folder / HEADER_FILE, self._header)
        except BaseException:
            path.unlink()
            raise
        self.event("start")
        sync_folder(self.folder)

    def _go_on(self, fd: int) -> None:
        at, where = self._resume, Reached()
        if at is None:
            self._refuse_another_run()
            at, where = find(self.folder, self._resume_step or 0)
        elif at.stamp not in (None, stamp(fd)):
            raise RunLogError(f"{self.folder}: another process went on with this run meanwhile; try again")
        more = self._more(at)
        cut = cut_back(self.folder, fd, at.mark)
        self.attempt = cut.attempt
        if self._resume_step is None:
            where = reached(rows_of(self.folder))
        else:
            wall_s = where.axes.get("gpu_hours", 0.0) * 3600 / self.meter.devices
            self.meter.restore(wall_s, where.axes.get("cpu_s", 0.0), {})
            if cut.rows and at.mark is None:
                _say.warning(
                    "%s: begins anew; updates and evaluations moved to %s/: %d", self.folder, LOST_FOLDER, cut.rows
                )
        self._untouched = at.mark is None
        self._reached, self._axes = where, {a: v for a, v in where.axes.items() if a in COUNTED}
        lost = {"gpu_hours_lost": cut.gpu_hours_lost, "rows_lost": cut.rows}
        self.event("resume", step=at.step, **lost, **more)

    def _refuse_another_run(self) -> None:
        run = read_header(self.folder)
        for name in ("recipe", "seed"):
            if run.get(name) != self._header[name]:
                raise RunLogError(
                    f"{self.folder}: is a run of {name} {run.get(name)!r:.60}, not {self._header[name]!r:.60}; choose "
                    "another folder"
                )

    def _more(self, at: Resume) -> dict[str, Any]:
        """Return what else a resume says: devices may change when a run goes on, and `changed` has them."""
        before, now = read_header(self.folder).get("devices"), self._header["devices"]
        if before == now:
            return dict(at.fields)
        kinds = [held.get("kind") if isinstance(held, dict) else None for held in (before, now)]
        if kinds[0] != kinds[1] and all(isinstance(kind, str) and kind != "unknown" for kind in kinds):
            _say.warning(
                "%s: began on %s and goes on with %s; gpu_hours adds the hours of both, and a curve over it mixes them",
                self.folder,
                *kinds,
            )
        return {**at.fields, "changed": {**at.fields.get("changed", {}), "devices": [before, now]}}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close the log with an event that says how the run ended."""
        self._one_thread("__exit__")
        self.meter.stop()
        try:
            if kind is None:
                self.event("end")
            elif issubclass(kind, KeyboardInterrupt):
                self.event("interrupted", gpu_hours=self._spent()["gpu_hours"])
            else:
                said = f"{kind.__name__}: {error}"
                self.event("failed", gpu_hours=self._spent()["gpu_hours"], error=said)
        except RunLogError:
            if error is None:
                raise  # otherwise the log is closed already by what went wrong before, and that is what to report
        finally:
            self._close()

    def close(self) -> None:
        """Leave the folder as it is, without an event, as a kill would; the run can go on. Once is enough."""
        if self._thread.is_alive():  # another thread may tidy up behind one that died
            self._one_thread("close")
        self.meter.stop()
        self._close()

    def _close(self) -> None:
        _open.discard(self)
        if self._mirrors is not None:
            self._mirrors.close()
            self._mirrors = None
        self._let_go()

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _one_thread(self, method: str) -> None:
        if threading.current_thread() is not self._thread:
            raise RunLogError(
                f"{self.folder}: log.{method} was called in another thread than the one that opened the log; hand the "
                "figures over to that one"
            )

    def _spent(self) -> dict[str, float]:
        """Return the compute so far on every axis; a meter set back by a rounding at a resume does not show."""
        metered = {"gpu_hours": self.meter.gpu_hours, "cpu_s": self.meter.cpu_s}
        return {**{a: max(v, self._reached.axes.get(a, 0.0)) for a, v in metered.items()}, **self._axes}

    def refuse_if_taken(self) -> None:
        """Raise `RunLogError` if the folder holds a file of a run."""
        if self.folder.exists() and not self.folder.is_dir():
            raise RunLogError(f"{self.folder}: is a file; a run needs a folder of its own")
        for name in (LOG_FILE, HEADER_FILE, SAMPLES_FILE, MODEL_FOLDER, BEST_FOLDER, CHECKPOINT_FOLDER, LOST_FOLDER):
            if os.path.lexists(self.folder / name):
                raise RunLogError(
                    f"{self.folder}: holds a run already ({name}); go on with it by --resume (RunLog: resume_step=N), "
                    "choose another folder, or move it away"
                )

    def event(self, event: str, **fields: Any) -> None:
        """Append an event row with the time of day."""
        self._one_thread("event")
        row = {"kind": "event", "event": event, "attempt": self.attempt, "time": now()}
        self._write(row, fields)

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append to ``samples.jsonl``; meant to be read by people, so it is not flushed row by row."""
        self._one_thread("samples")
        path = self.folder / SAMPLES_FILE
        lines = [json.dumps(plain(row, "samples", {}), ensure_ascii=False) + "\n" for row in rows]
        try:
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
        except OSError as error:
            raise RunLogError(f"{path}: cannot be written: {error.strerror}") from error

    def _write(self, row: dict[str, Any], fields: Mapping[str, Any]) -> None:
        if self._fd is None:
            raise RunLogError(f"{self.folder}: the log is not open; write inside `with RunLog(...) as log:`")
        if taken := RESERVED & fields.keys():
            raise RunLogError(f"{self.folder}: {min(taken)} is a field of the log's own; take another name")
        not_finite: dict[str, str] = {}
        try:
            row |= {name: plain(value, name, not_finite) for name, value in fields.items()}
            if not_finite:
                row["not_finite"] = not_finite
                self._say_once(not_finite)
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise RunLogError(f"{self.folder}: a row cannot be written as JSON: {error}") from error
        line = (text + "\n").encode("utf-8", "backslashreplace")  # half a surrogate pair stays JSON, as \udXXX
        path = self.folder / LOG_FILE
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(self._fd)):
            raise RunLogError(
                f"{path}: was replaced or removed while the run wrote to it, as some editors do; the run ends with the "
                "rows that were there; go on by --resume"
            )
        append_whole(self._fd, path, line)

    def _say_once(self, not_finite: Mapping[str, str]) -> None:
        for name, value in not_finite.items():
            if name not in self._told:
                self._told.add(name)
                _say.warning("%s: %s is %s; the log has null for it (said once)", self.folder, name, value)


def _let_go_in_child() -> None:
    """A forked process holds no log: a data loader that outlives its parent would keep it locked."""
    for log in list(_open):
        log._let_go()
        log._mirrors = None


if hasattr(os, "register_at_fork"):  # not on Windows, where logs can still be read
    os.register_at_fork(after_in_child=_let_go_in_child)
