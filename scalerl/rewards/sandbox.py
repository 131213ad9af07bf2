"""Run a Python program that nobody has read: cut off from network and files, with limits on all that it can take.

Where the kernel allows it (user namespaces, Linux 5.12) the program gets namespaces of its own: no network, no view of
other processes, every file read-only but for an empty temporary folder in memory. Limits: wall time, CPU time, address
space of a process, number of processes, size of a file and so of the output. The environment is empty. It can read what
this user can read; it has nowhere to send it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from scalerl.rewards import system

OUTPUT_BYTES = 16 << 20
FOLDER_BYTES = 64 << 20
PROCESSES = 64
FILES = 256
NOBODY = 65534  # a real user id on which the kernel counts processes also for root
PR_CAPBSET_DROP, CAPABILITIES = 24, 64
MS_PRIVATE_ALL = (1 << 18) | (1 << 14)  # MS_PRIVATE | MS_REC, mount.h
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1


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
        if os.getuid() == 0:
            os.setresuid(NOBODY, 0, 0)
        flags = system.CLONE_NEWPID | system.CLONE_NEWNET | system.CLONE_NEWNS | system.CLONE_NEWIPC
        system.unshare_user(flags)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become(program, fds, folder, wall_s, isolate)
        except BaseException as error:
            with suppress(OSError):
                os.write(fds[2], f"{error}".encode()[:1000])
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
        _shut_in(folder)
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
    os.execve(sys.executable, [sys.executable, "-I", "-B", "-X", "utf8", str(source)], {})  # noqa: S606


def _shut_in(folder: str) -> None:
    """Make all files read-only but for an empty folder in memory, and give up every capability.

    Raises
    ------
    OSError
        If the kernel does not allow it.
    """
    c = system.libc()
    _check(c.mount(None, b"/", None, ctypes.c_ulong(MS_PRIVATE_ALL), None))
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    syscall = c.syscall
    syscall.restype = ctypes.c_long
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _check(syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size))
    _check(c.mount(b"tmpfs", folder.encode(), b"tmpfs", ctypes.c_ulong(0), f"size={FOLDER_BYTES},mode=700".encode()))
    c.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)  # hides the others' processes; not allowed everywhere
    for capability in range(CAPABILITIES):
        system.prctl(PR_CAPBSET_DROP, capability)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
