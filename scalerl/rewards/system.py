"""What the kernel is asked for: namespaces, and who is a child of whom. Linux; elsewhere nothing is promised."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS = (
    0x00020000, 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x04000000,
)  # fmt: skip  # sched.h
LEAST_PID_MAX = 301  # pid.h: RESERVED_PIDS + 1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl.h


def libc() -> ctypes.CDLL:
    """Return the C library."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Ask for something for this process; where there is no prctl nothing happens."""
    if sys.platform == "linux":
        libc().prctl(option, value, 0, 0, 0)


def unshare(flags: int) -> None:
    """Leave the namespaces of the parent.

    Raises
    ------
    OSError
        If the kernel does not allow it.
    """
    if sys.platform != "linux":
        raise OSError(f"no namespaces on {sys.platform}")
    if libc().unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare_user(flags: int) -> None:
    """Leave the namespaces of the parent, through a user namespace in which this user keeps its number.

    Raises
    ------
    OSError
        If the kernel does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    with suppress(OSError):  # older kernels have no such file
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def unshare_as_root(flags: int) -> None:
    """Leave the namespaces of the parent, through a user namespace in which all users keep their numbers.

    One outside must write that down, a process that lives until then.

    Raises
    ------
    OSError
        If the kernel does not allow it.
    """
    this = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    left, leaves = os.pipe()
    writer = os.fork()
    if writer == 0:
        code = 1
        try:
            os.close(leaves)
            if os.read(left, 1):
                for name in ("uid_map", "gid_map"):
                    ranges = [line.split() for line in Path("/proc/self", name).read_text().splitlines()]
                    same = "".join(f"{first} {first} {count}\n" for first, _, count in ranges)
                    os.write(os.open(name, os.O_WRONLY, dir_fd=this), same.encode())
                code = 0
        finally:
            os._exit(code)
    try:
        unshare(flags | CLONE_NEWUSER)
        os.write(leaves, b"x")
    finally:
        os.close(leaves)
        _, status = os.waitpid(writer, 0)
        os.close(left)
        os.close(this)
    if status != 0:
        raise OSError("root may not map users into a namespace")


def own_processes() -> bool:
    """Give the next child a process namespace, so that all it starts dies with it; return whether that worked."""
    for ask in (unshare, unshare_user):
        with suppress(OSError):
            ask(CLONE_NEWPID)
            return True
    return False


def limit_processes(most: int) -> None:
    """Limit the processes of this process namespace, where that can be done: root needs Linux 6.14."""
    if os.getuid() != 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    elif tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 14):  # before, it was the machine's
        with suppress(OSError):
            Path("/proc/sys/kernel/pid_max").write_text(str(max(most, LEAST_PID_MAX)))


def family(pid: int, within_s: float) -> list[int]:
    """Return a process and those below it, as many as are found in time (it takes long in a fork bomb)."""
    found, until = [pid], time.monotonic() + within_s
    for parent in found:
        if time.monotonic() > until:
            break
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def resident_bytes(pids: list[int]) -> int:
    """Return the memory that processes hold together, shared pages counted once a process."""
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def marked(mark: str) -> list[int]:
    """Return the processes of this user whose environment holds a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
