"""What a program sees that nobody has read, and what it may ask the kernel for. Linux 5.12, x86-64 or ARM64.

A root of its own, in memory and read-only: Python and its packages, the system's programs and libraries, four devices,
an empty `/tmp`. No `/proc`, no `/run`, no folder of this user: so no sockets, pipes and data of others either. No
privileges, no way to new ones (no capabilities, no set-user-id, no user namespaces), and no calls that reach what
namespaces do not cover (sockets out of a virtual machine) or that hold memory which no limit counts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from scalerl.rewards import system

NOBODY = 65534
FOLDER = "/tmp"  # noqa: S108 - in the root of the program
FOLDER_BYTES, FOLDER_FILES = 64 << 20, 4096
PARTS = ("bin", "lib", "lib32", "lib64", "pyvenv.cfg")  # of each prefix; what else lies there may be anything
ALSO = ("/etc/ld.so.cache", "/etc/alternatives", "/usr/share/zoneinfo", "/nix/store")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

# mount.h, fcntl.h, prctl.h; the first two calls have one number on all machines that are younger than they are.
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 4096, 16384, 1 << 18, 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CAPABILITIES = 22, 2, 24, 38, 64

# Numbers of calls that are refused: sockets (a pair is no way out), memory that belongs to no process, namespaces, and
# wide doors into the kernel that no such program needs.
CALLS = {
    "x86_64": {
        "socket": 41, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_create": 319,
        "memfd_secret": 447, "unshare": 272, "setns": 308, "ptrace": 101, "add_key": 248, "request_key": 249,
        "keyctl": 250, "perf_event_open": 298, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    },
    "aarch64": {
        "socket": 198, "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180, "memfd_create": 279,
        "memfd_secret": 447, "unshare": 97, "setns": 268, "ptrace": 117, "add_key": 217, "request_key": 218,
        "keyctl": 219, "perf_event_open": 241, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425,
    },
}  # fmt: skip
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # audit.h
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3, PIVOT_ROOT = 435, {"x86_64": 155, "aarch64": 41}
X32 = 0x40000000  # the same calls on x86-64 under other numbers begin here
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # seccomp.h
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # bpf_common.h
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # where they stand in seccomp_data


def machine() -> str:
    """Return the kind of machine.

    Raises
    ------
    OSError
        If numbers of calls are not known for it.
    """
    name = platform.machine()
    if name not in CALLS or sys.maxsize < 1 << 32:
        raise OSError(f"programs are not shut in on {name}")
    return name


def visible() -> list[str]:
    """Return the files and folders that a program sees, read-only; no one is below another."""
    roots = ["/", "/usr", "/usr/local"]
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        roots += [prefix, os.path.realpath(prefix)]
    roots.append(str(Path(os.path.realpath(sys.executable)).parents[1]))
    wanted = [str(Path(root) / part) for root in roots for part in PARTS] + list(ALSO)
    found: list[str] = []
    for path in sorted({path for path in wanted if Path(path).exists()}):  # a folder comes before what is in it
        if not any(path.startswith(above + "/") for above in found):
            found.append(path)
    return found


def enter(at: str) -> None:
    """Take a root of its own, and leave the old one behind; needs a mount namespace.

    Parameters
    ----------
    at : str
        An empty folder.

    Raises
    ------
    OSError
        If the kernel does not allow it, or a part cannot be seen.
    """
    pivot_root = PIVOT_ROOT[machine()]
    os.umask(0o022)
    as_root = os.getuid() == 0
    owner = (NOBODY, NOBODY) if as_root else (os.getuid(), os.getgid())
    _mount(None, "/", None, MS_PRIVATE | MS_REC)
    _mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    Path(at + FOLDER).mkdir()
    limits = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=700,uid={owner[0]},gid={owner[1]}"
    _mount("tmpfs", at + FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, limits)
    for path in visible():  # now, for Python may lie below it
        _show(path, at, READ_ONLY | NO_SUID | NO_DEVICES)
    for path in DEVICES:
        _show(path, at, READ_ONLY | NO_SUID)
    _set(at, READ_ONLY, 0)
    os.chdir(at)
    c = system.libc()
    _check(c.syscall(ctypes.c_long(pivot_root), b".", b"."), "pivot_root")  # the old one now lies on the new one
    _check(c.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def give_up() -> None:
    """Give up all privileges, for good: nobody's user id for root's, no capabilities, and the calls in `CALLS`.

    Raises
    ------
    OSError
        If the kernel does not allow it.
    """
    for capability in range(CAPABILITIES):
        system.prctl(PR_CAPBSET_DROP, capability)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    c = system.libc()
    _check(c.prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))), "no new privileges")
    code = b"".join(struct.pack("=HBBI", *step) for step in _filter(machine()))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    _check(c.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), program), "seccomp")


def _filter(name: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield the steps (code, jump if so, jump if not, value) that judge a call."""
    refuse = (RETURN, 0, 0, REFUSE | errno.EPERM)
    yield (LOAD, 0, 0, ARCHITECTURE)
    yield (EQUAL, 1, 0, ARCHITECTURES[name])
    yield (RETURN, 0, 0, KILL)
    yield (LOAD, 0, 0, NUMBER)
    yield (AT_LEAST, 0, 1, X32)
    yield refuse
    for number in CALLS[name].values():
        yield (EQUAL, 0, 1, number)
        yield refuse
    yield (EQUAL, 0, 1, CLONE3)  # its flags cannot be seen here; the C library then takes clone
    yield (RETURN, 0, 0, REFUSE | errno.ENOSYS)
    yield (EQUAL, 1, 0, CLONE[name])
    yield (RETURN, 0, 0, ALLOW)
    yield (LOAD, 0, 0, FIRST_ARGUMENT)
    yield (ANY_BIT, 0, 1, system.CLONE_NEWUSER)
    yield refuse
    yield (RETURN, 0, 0, ALLOW)


def _show(path: str, at: str, attributes: int) -> None:
    """Let a path be seen below another root."""
    target = Path(at + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(path, str(target), None, MS_BIND | MS_REC)
    _set(str(target), attributes, AT_RECURSIVE)


def _set(path: str, attributes: int, flags: int) -> None:
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    number, where, how = ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_long(AT_FDCWD), ctypes.c_long(flags)
    _check(system.libc().syscall(number, where, os.fsencode(path), how, ctypes.byref(wanted), size), path)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(system.libc().mount(*arguments, ctypes.c_ulong(flags), data.encode()), target)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
