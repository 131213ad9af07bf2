"""A process that judges completions: ``python -m scalerl.rewards.worker``, JSON lines in and out.

Two processes: a *keeper* that runs nothing of the user's, and below it the *judge*. Where the kernel allows it the
judge is the first process of a process namespace, so that whatever it starts dies with it. The keeper ends the judge
when the trainer closes the pipe or dies, and when its processes are too large together.

The first line in says what to judge by, the first line out that it is ready (or why not). From then on each line
``{"id", "item", "text"}`` is answered by ``{"id", "value"}`` or ``{"id", "error"}``; ``last`` there asks for another
process. What the judge itself prints goes nowhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from scalerl.rewards import system
from scalerl.rewards.names import Judge, as_judge, find_judge
from scalerl.rewards.scores import after_thinking, as_score, message_of
from scalerl.runlog import UserError

TOO_LARGE = 92  # exit code of the keeper
MOST_PROCESSES = 256
LOOK_S = 0.1
GRACE_S = 0.1  # for processes that are just about to end when a score is there


def main() -> int:
    """Run the keeper."""
    isolated = system.own_processes()
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    first = json.loads(_line(0))
    judge = os.fork()
    if judge == 0:
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        code = 1
        try:
            _judge(first, isolated)
            code = 0
        finally:
            os._exit(code)
    os.close(1)  # the judge's alone: its end is the end of the answers
    memory = first["memory_gb"] and int(first["memory_gb"] * 1e9)
    pipe = select.poll()
    pipe.register(0, 0)  # a hang-up is told unasked
    while True:
        done, status = os.waitpid(judge, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pipe.poll(LOOK_S * 1000):
            return _end(judge, 0)
        family = system.family(judge, LOOK_S) if memory else []
        if memory and len(family) > 1 and system.resident_bytes(family) > memory:
            return _end(judge, TOO_LARGE)


def _end(judge: int, code: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(judge, signal.SIGKILL)
    os.waitpid(judge, 0)
    return code


def _line(fd: int) -> bytes:
    """Return one line, read byte by byte: what follows belongs to the judge."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return line


def _judge(spec: dict[str, Any], isolated: bool) -> None:
    """Answer until there are no more questions."""
    inbox, outbox = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (0, 1))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if isolated:
        system.limit_processes(MOST_PROCESSES)
    if spec["memory_gb"]:
        most = int(spec["memory_gb"] * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        judge = _find(spec)
    except UserError as error:
        _say(outbox, {"refused": str(error)})
        return
    except BaseException as error:
        _say(outbox, {"refused": f"reward: {message_of(error)}"})
        return
    had_children, had_threads, me = _children_live(), _threads(), os.getpid()
    _say(outbox, {"ready": True, "end_of_thinking": judge.end_of_thinking, "isolated": isolated})
    with os.fdopen(inbox, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            answer: dict[str, Any] = {"id": request["id"]}
            text = request["text"]
            if judge.end_of_thinking is None and spec["reward"] is not None:
                text = after_thinking(text, spec["end_of_thinking"])
            try:
                score = as_score(judge.score(request["item"], text))
                answer |= {"error": score.error} if score.error else {"value": score.value}
            except BaseException as error:
                answer["error"] = message_of(error)
                answer["last"] = isinstance(error, MemoryError)
            if os.getpid() != me:
                os._exit(0)  # the score forked, and this is what it forked
            answer["threads_left"] = _threads() > had_threads
            if not had_children and _children_live(GRACE_S):
                answer |= {"error": "left processes behind", "last": True}
            _say(outbox, answer)
            if answer.get("last"):
                return


def _find(spec: dict[str, Any]) -> Judge:
    if spec["reward"] is not None:
        limits = {"allow_network": spec["allow_network"], "time_limit_s": spec["time_limit_s"]}
        return find_judge(spec["reward"], spec["path"], **limits)
    from scalerl.tasks import get_task

    return as_judge(get_task(spec["task"]), spec["task"])


def _threads() -> int:
    """Return how many threads this process has, those of C libraries included where the system tells."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - called for every score
    return threading.active_count()


def _children_live(grace_s: float = 0.0) -> bool:
    """Return whether processes are left below this one, after reaping those that ended."""
    until = time.monotonic() + grace_s
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        if time.monotonic() >= until:
            return True
        time.sleep(0.005)


def _say(fd: int, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.exit(main())
