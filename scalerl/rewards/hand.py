"""One worker process as its pool sees it: started, asked with a time limit, replaced when anything is odd about it."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import scalerl
from scalerl.rewards import system
from scalerl.rewards.scores import LONGEST_MESSAGE, Score
from scalerl.runlog import UserError

START_S = 120.0  # to import whatever a judge needs
END_S = 5.0
LOOK_S = 0.1
LONGEST_ANSWER = 1 << 16  # bytes
TOO_LARGE = 92  # as in scalerl.rewards.worker
MARK = "SCALERL_REWARD_WORKER"


class Spec(NamedTuple):
    """What a worker judges by, and its limits."""

    reward: str | None
    """Name of the reward; None: the task's own score."""
    task: str
    path: str
    """Folder in which the reward's module is looked for first."""
    end_of_thinking: str
    time_limit_s: float
    memory_gb: float | None
    allow_network: bool


class BrokenError(Exception):
    """The worker cannot be asked further; the message says what it did."""


class LateError(BrokenError):
    """It did not answer in time."""


class Hand:
    """A worker process; `ask` never raises and never waits longer than the limits.

    Parameters
    ----------
    spec : Spec
    given_up : callable
        Whether nobody wants an answer any more.
    """

    def __init__(self, spec: Spec, given_up: Callable[[], bool]) -> None:
        self._spec, self._given_up = spec, given_up
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = ""
        self._isolated = False
        self._threads_left = False
        self._count = self._asked = 0
        self._rest = b""

    def start(self) -> dict[str, Any]:
        """Start the process unless it runs; return what it says of its judge.

        Raises
        ------
        UserError
            If it cannot be started, or finds no such judge.
        """
        if self._process is not None:
            return {}
        root = str(Path(scalerl.__file__).parent.parent)
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths), name: value}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scalerl.rewards.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
                bufsize=0,
            )
        except OSError as error:
            raise UserError(f"reward: no process can be started: {error.strerror}") from error
        self._rest, self._isolated, self._threads_left, self._asked = b"", False, False, 0
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(stream.fileno(), False)  # type: ignore[union-attr]
        try:
            said = self._exchange(self._spec._asdict(), START_S)
        except BrokenError as error:
            self.end()
            name = self._spec.reward or self._spec.task
            raise UserError(f"reward: {name}: its process {error} at its start") from None
        if "refused" in said or said.get("ready") is not True:
            self.end()
            raise UserError(str(said.get("refused", "reward: the worker does not speak as it should")))
        self._isolated = said.get("isolated") is True
        return said

    def ask(self, item: dict[str, Any], text: str) -> Score:
        """Return the score of a completion; whatever goes wrong is the score's error."""
        try:
            return self._ask(item, text)
        except BrokenError as broken:
            late, suspect = isinstance(broken, LateError), self._threads_left
            used, self._asked = self._asked > 1, 0
            self.end()
            # What an earlier completion left running can be at fault: it must not cost this one its score.
            if used and (suspect or not late):
                return self.ask(item, text)
            return Score(0.0, str(broken))
        except UserError as error:
            return Score(0.0, str(error)[:LONGEST_MESSAGE])

    def _ask(self, item: dict[str, Any], text: str) -> Score:
        self.start()
        self._count += 1
        self._asked += 1
        said = self._exchange({"id": self._count, "item": item, "text": text}, self._spec.time_limit_s)
        value, wrong = said.get("value"), said.get("error")
        if said.get("id") == self._count and isinstance(wrong, str) and wrong:
            score = Score(0.0, wrong[:LONGEST_MESSAGE])
        elif said.get("id") == self._count and isinstance(value, float) and 0 <= value <= 1:
            score = Score(value)
        else:
            raise BrokenError("wrote what was no answer")
        self._threads_left = said.get("threads_left") is not False
        if said.get("last") or self._rest:  # a line that nobody asked for
            self.end()
        return score

    def end(self) -> None:
        """End the process and all that it left behind."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)  # the keeper ends the judge, and with it a whole namespace
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if not self._isolated and sys.platform == "linux":
            for _ in range(10):
                strays = system.marked(self._mark)
                for pid in strays:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
                if not strays:
                    break
        process.wait()

    def _exchange(self, message: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Send a line and return the next one."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None  # noqa: S101
        inbox, outbox = process.stdin.fileno(), process.stdout.fileno()
        data = json.dumps(message).encode() + b"\n"
        until = time.monotonic() + limit_s
        both = select.poll()
        both.register(outbox, select.POLLIN)
        both.register(inbox, select.POLLOUT)
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0:
                raise LateError(f"took longer than {limit_s:g} s")
            if self._given_up():
                raise BrokenError("was not waited for")
            for fd, event in both.poll(min(left, LOOK_S) * 1000):
                if fd == inbox and event & select.POLLOUT and data:
                    with suppress(OSError):
                        data = data[os.write(inbox, data) :]
                if fd == inbox and (not data or not event & select.POLLOUT):
                    both.unregister(inbox)
                if fd == outbox:
                    self._read(outbox, process)
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise BrokenError("wrote what was no answer")
        return said

    def _read(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        try:
            got = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        self._rest += got
        if len(self._rest) > LONGEST_ANSWER:
            raise BrokenError("wrote what was no answer")
        if not got:
            raise BrokenError(_how(process))


def _how(process: subprocess.Popen[bytes]) -> str:
    """Return how a process ended."""
    try:
        code = process.wait(END_S)
    except subprocess.TimeoutExpired:
        return "closed its pipe"
    if code == TOO_LARGE:
        return "was ended: its processes together took more than reward_memory_gb"
    if code > 128 or code < 0:
        number = code - 128 if code > 0 else -code
        with suppress(ValueError):
            return f"died ({signal.Signals(number).name})"
    return f"ended itself (exit code {code})"
