"""Run a Python program that nobody has read: cut off from network and files, with limits on all that it can take.

Where the kernel allows it (user namespaces, Linux 5.12) the program gets namespaces of its own and what
`scalerl.rewards.jail` says: no network, no other processes, no files but Python's and the system's libraries, and an
empty temporary folder in memory. Limits: wall time, CPU time, address space of a process, number of processes and open
files, size of a file and so of the output. The environment is empty.

What it does not stop: faults of the kernel itself, and what can be learnt from clocks and load.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from scalerl.rewards import jail, system

OUTPUT_BYTES = 16 << 20
PROCESSES = 64
FILES = 64  # with the processes this bounds what pipes and pairs of sockets hold, which no other limit counts


class Ran(NamedTuple):
    """How a program went."""

    finished: bool
    """Whether it ended by itself with exit code 0 and within its limits."""
    output: bytes
    refused: str | None = None
    """Why it was not run at all."""


def run(program: str, given: bytes, *, wall_s: float, isolate: bool = True) -> Ran:
    """Run a program on an input.

    Parameters
    ----------
    program : str
        Python source.
    given : bytes
        Its standard input.
    wall_s : float
        Wall seconds, also the limit on CPU seconds.
    isolate : bool
        Refuse to run it without namespaces.
    """
    with tempfile.TemporaryDirectory(prefix="scalerl-code-") as folder, tempfile.TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        with tempfile.TemporaryFile() as stdout:
            inbox, outbox = os.pipe()
            watcher = os.fork()
            if watcher == 0:
                code = 1
                try:
                    os.close(inbox)
                    code = _watch(program, (stdin.fileno(), stdout.fileno(), outbox), folder, wall_s, isolate)
                except BaseException as error:
                    with suppress(OSError):
                        os.write(outbox, f"{error}".encode()[:1000])
                finally:
                    os._exit(code)
            os.close(outbox)
            with os.fdopen(inbox, "rb") as pipe:
                refused = pipe.read().decode(errors="replace")  # ends when the program itself begins
            _, status = os.waitpid(watcher, 0)
            stdout.seek(0)
            return Ran(status == 0 and not refused, stdout.read(OUTPUT_BYTES), refused or None)


def _watch(program: str, fds: tuple[int, int, int], folder: str, wall_s: float, isolate: bool) -> int:
    """Start the program below this process, end it in time and with all that it started; return its exit code."""
    os.setsid()
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    if isolate:
        jail.machine()
        flags = system.CLONE_NEWPID | system.CLONE_NEWNET | system.CLONE_NEWNS | system.CLONE_NEWIPC
        unshare = system.unshare_as_root if os.getuid() == 0 else system.unshare_user
        unshare(flags | system.CLONE_NEWUTS)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become(program, fds, folder, wall_s, isolate)
        except BaseException as error:
            for outbox in (fds[2], 3):  # where it is before and behind the moving of descriptors
                with suppress(OSError):
                    os.write(outbox, f"{error}".encode()[:1000])
                    break
        finally:
            os._exit(code)
    os.close(fds[2])
    until = time.monotonic() + wall_s
    status = 1
    while (left := until - time.monotonic()) > 0:
        pid, found = os.waitpid(child, os.WNOHANG)
        if pid:
            status = found
            break
        signal.sigtimedwait({signal.SIGCHLD}, left)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # and with it all that is in its namespace
    if not isolate:  # no namespace ends what it left behind
        for _ in range(100):
            for pid in system.family(os.getpid(), 1.0)[1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                continue
            break
    return 0 if status == 0 else 1


def _become(program: str, fds: tuple[int, int, int], folder: str, wall_s: float, isolate: bool) -> None:
    """Turn this process into the program."""
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    if isolate:
        jail.enter(folder)
        folder = jail.FOLDER
    source = Path(folder) / "program.py"
    source.write_text(program, encoding="utf-8", errors="surrogateescape")
    os.chdir(folder)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(wall_s) + 1,
        resource.RLIMIT_FSIZE: OUTPUT_BYTES,
        resource.RLIMIT_NOFILE: FILES,
    }
    if isolate:
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))
    os.dup2(fds[0], 0)
    os.dup2(fds[1], 1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.dup2(fds[2], 3, inheritable=False)  # closed when the program begins
    os.closerange(4, 1 << 16)
    if isolate:
        jail.give_up()
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)  # another user id has undone it
    arguments = [sys.executable, "-I", "-B", "-X", "utf8", str(source)]
    os.execve(os.path.realpath(sys.executable), arguments, {})  # noqa: S606 - the first argument tells where packages are
