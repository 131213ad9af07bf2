"""Read text of other programs line by line: consoles with colours and carriage returns, JSON lines, any encoding.

Promises: only regular files are opened, and opening never blocks; a line is bounded, so that a file without line ends
costs no more memory than it has bytes; lines are counted by their line feeds, as editors do; the hash is that of the
bytes on disk. What is not text in the file's encoding arrives as lone surrogates, and nothing is evaluated.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from scalerl.runlog import UserError

LONGEST = 1 << 22  # characters of a line; a longer one is no row of a log
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(head: bytes) -> str:
    """Return the encoding that the mark at the beginning of a file names; UTF-8 without one."""
    return next((name for mark, name in MARKS if head.startswith(mark)), "utf-8-sig")


def text_of(head: bytes) -> str:
    """Return the beginning of a file as text, to look at; what does not decode is replaced."""
    return head.decode(encoding_of(head), errors="replace")


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that may be looked at."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


class TextFile:
    """The lines of a file, read once; `sha256`, `size` and `cut` hold after the last one.

    Iterating yields ``(line, text)``. Text between carriage returns counts as lines of its own under the number of the
    line that it stands in; a piece longer than twice `LONGEST` is left out and counted in `too_long`.

    Raises
    ------
    UserError
        If it cannot be read, is empty, or is no regular file.
    """

    def __init__(self, path: Path, hasher: hashlib._Hash | None = None) -> None:
        self.path = path
        self.too_long = 0
        self.cut = False
        self._hasher = hashlib.sha256() if hasher is None else hasher
        try:
            # A pipe would block until someone writes: not with this flag, and then it is told from a file.
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                os.close(fd)
                kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
                raise UserError(f"{path}: cannot be read: it is {kind}")
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        self.size = found.st_size
        self._raw = _Hashing(fd, self._hasher)

    def _open(self, raw: _Hashing) -> io.TextIOWrapper | io.BufferedReader:
        """The file as text, or as bytes where it is UTF-8: those are quicker to cut into lines."""
        buffered = io.BufferedReader(raw, 1 << 18)
        encoding = encoding_of(buffered.peek(4)[:4])
        if encoding != "utf-8-sig":
            return io.TextIOWrapper(buffered, encoding=encoding, errors="replace", newline="")
        if buffered.peek(3)[:3] == codecs.BOM_UTF8:
            buffered.read(3)
        return cast(io.BufferedReader, buffered)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        with self._raw as raw:
            file = self._open(raw)
            if isinstance(file, io.TextIOWrapper):
                pieces = iter(lambda: file.readline(LONGEST), "")
            else:
                pieces = (
                    piece.decode("utf-8", "surrogateescape") for piece in iter(lambda: file.readline(LONGEST), b"")
                )
            line, kept = 1, ""
            for piece in pieces:
                if "\r" in piece and not piece.endswith("\r\n", 0, piece.index("\r") + 2):
                    first, *between, last = piece.split("\r")
                    for part in (kept + first, *between) if len(kept) <= LONGEST else between:
                        if part:
                            yield line, part
                    kept, piece = "", last  # noqa: PLW2901
                if piece.endswith("\n"):
                    if len(kept) <= LONGEST:
                        yield line, kept + piece
                    line, kept = line + 1, ""
                elif len(kept) <= LONGEST:
                    kept += piece
                    self.too_long += len(kept) > LONGEST
            self.cut = bool(kept)
            if 0 < len(kept) <= LONGEST:
                yield line, kept

    def blocks(self) -> Iterator[str]:
        """Yield the text in pieces of some length, wherever its lines end."""
        with self._raw as raw:
            file = self._open(raw)
            if isinstance(file, io.BufferedReader):
                file = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
            while block := file.read(1 << 16):
                yield block

    @property
    def sha256(self) -> str:
        """Of the bytes that were read."""
        return self._hasher.hexdigest()


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, fd: int, hasher: hashlib._Hash) -> None:
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115, closed with this object
        self._hasher = hasher

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        self._hasher.update(buffer[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
