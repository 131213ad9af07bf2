"""Files of a run folder: read regular files only, write whole or not at all, one process at a time."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from scalerl.runlog.schema import LOG_FILE

MOST_UNPACKED = 1 << 30


class UserError(Exception):
    """Something the user can mend: what happened, where, what to do next. The command line prints it as one line."""

    __module__ = "scalerl.runlog"  # where users import it from; tracebacks and pickles name it so


class RunLogError(UserError):
    """A run folder or log that cannot be read or written."""

    __module__ = "scalerl.runlog"


def append_whole(fd: int, path: Path, data: bytes) -> None:
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
        raise RunLogError(
            f"{folder}: another process works on this run; wait for it or end it (in a notebook this one may: close "
            "the log that is open)"
        ) from error


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
    except MemoryError as error:
        raise RunLogError(f"{path}: cannot be read: it is larger than the memory that is left") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise RunLogError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def unpacked(path: str | os.PathLike[str], data: bytes) -> bytes:
    """Return the content of a gzip file of at most `MOST_UNPACKED` bytes.

    Raises
    ------
    RunLogError
        If it is damaged, cut or larger.
    """
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = reader.decompress(data, MOST_UNPACKED)
    except zlib.error as error:
        raise RunLogError(f"{path}: cannot be unpacked: {error}") from error
    if reader.unconsumed_tail:
        raise RunLogError(f"{path}: unpacks to more than {MOST_UNPACKED >> 20} MiB; unpack it by hand")
    if not reader.eof:
        raise RunLogError(f"{path}: cannot be unpacked: the file is cut")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside `path` and rename it into place, so that a reader sees all of it or nothing."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def sync_folder(folder: Path) -> None:
    """Bring the names of the files in a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def now() -> str:
    """Return the time of day in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
