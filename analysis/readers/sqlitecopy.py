"""Read an SQLite file that another program may be writing, without touching it.

Promises: the file and what lies beside it are copied and only the copy is opened: nothing is locked, created or written
where the file lies, and rows that are still in its write-ahead log or are taken back by its journal are seen as the
program that wrote them sees them. A copy during which the file changed is made again. Views, triggers and virtual
tables are never read, so that a file brings data and no code. The work is bounded by the size of the file: the pages of
a hostile one may lead in circles, so that 40 kB hold more rows than can ever be read.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from analysis.readers.cleaning import printable
from analysis.readers.formats import head_of
from scalerl.runlog import UserError, read_regular

MAGIC = b"SQLite format 3\0"
_TRIES = 20
_PAUSE_S = 0.1
_WAL_HEADER = 32  # bytes; its salts change when the log begins anew
_MOST_TEXT = 64 << 20  # bytes of one cell


class Copy(NamedTuple):
    """A connection to the copy, and the hash of the file and its write-ahead log as they were."""

    connection: sqlite3.Connection
    sha256: str


@contextmanager
def opened(path: Path, tables: Mapping[str, tuple[str, ...]], what: str) -> Iterator[Copy]:
    """Open a copy of `path`, whose errors become one line.

    Parameters
    ----------
    path : Path
    tables : mapping of table to columns
        What must be there.
    what : str
        How a message names the store, as ``"an MLflow database"``.

    Raises
    ------
    UserError
        If it is no database, lacks a table or column, is damaged, or changes faster than it can be copied.
    """
    with tempfile.TemporaryDirectory(prefix="scalerl-") as folder:
        copy = Path(folder) / "copy.db"
        sha256 = _copied(path, copy)
        try:
            with closing(sqlite3.connect(copy)) as connection:
                connection.text_factory = _text
                _bound(connection, sum(part.stat().st_size for part in Path(folder).iterdir()))
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_TEXT)
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute("PRAGMA ignore_check_constraints = ON")  # those of the file would be computed
                _check(connection, path, tables, what)
                yield Copy(connection, sha256)
        # A message that quotes damage may be no text; of some damage SQLite says that the memory is not enough.
        except (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError) as error:
            said = printable(str(error))[:200] or "it is damaged, or larger than the memory that is left"
            said = (
                "its pages lead in circles, or many runs share tables without an index"
                if said == "interrupted"
                else said
            )
            raise UserError(f"{path}: cannot be read as {what}: {said}") from error


def names_table(path: Path, head: bytes, *names: str) -> bool:
    """Return whether the file is a database with these tables, without a lock and without a copy."""
    if not head.startswith(MAGIC):
        return False
    there: set[str] = set()
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.text_factory = _text
            _bound(connection, path.stat().st_size)
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (sqlite3.Error, OSError, ValueError, MemoryError):  # the last: what SQLite says of some damage
        pass  # it is being written, or is none
    if not there.issuperset(names):  # tables that are new stand in the write-ahead log alone
        beside = head_of(Path(f"{os.fspath(path)}-wal"))
        there |= {name for name in names if f"CREATE TABLE {name} (".encode() in beside}
    return there.issuperset(names)


def _bound(connection: sqlite3.Connection, size: int) -> None:
    """End what takes more than ten million steps and a hundred for each byte."""
    left = iter(range(10 + size // 10_000))
    connection.set_progress_handler(lambda: next(left, None) is None, 1_000_000)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _check(connection: sqlite3.Connection, path: Path, tables: Mapping[str, tuple[str, ...]], what: str) -> None:
    sql = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
    plain = {name for name, made in connection.execute(sql) if not str(made).upper().startswith("CREATE VIRTUAL")}
    missing = [name for name in tables if name not in plain]
    for name, columns in tables.items():
        if name in plain:
            there = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))}
            missing += [f"{name}.{column}" for column in columns if column not in there]
    if missing:
        raise UserError(f"{path}: not {what} of a version that is known: it has no {', '.join(missing)}")
    for name in tables:  # the first thing that is said of a table is of its pages, if anything is wrong with them
        (said,) = connection.execute(f"PRAGMA quick_check({name})").fetchone()
        if str(said).startswith("***"):
            raise sqlite3.DatabaseError(f"{name}: {str(said).splitlines()[-1]}")


def _copied(path: Path, copy: Path) -> str:
    """Copy a database with what belongs to it, and return the hash of what was copied."""
    beside = {ending: Path(f"{os.fspath(path)}{ending}") for ending in ("-wal", "-journal")}
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        before = _state(path, beside)
        # The log first: what is appended to it later is no part of this state, and a torn end is left out by its sums.
        contents = {ending: _beside(file) for ending, file in beside.items()}
        data = read_regular(path)
        if _state(path, beside) == before:
            break
    else:
        raise UserError(f"{path}: changes faster than it can be copied; read it when the program that writes it rests")
    if not data.startswith(MAGIC):
        raise UserError(f"{path}: {'the file is empty' if not data else 'not an SQLite file'}")
    copy.write_bytes(data)
    digest = hashlib.sha256(data)
    for ending, content in contents.items():
        if content:
            Path(f"{copy}{ending}").write_bytes(content)
            digest.update(content)
    return digest.hexdigest()


def _state(path: Path, beside: Mapping[str, Path]) -> tuple[object, ...]:
    """What differs when the database changed: its own size and time, and where its log or journal begins."""
    state: list[object] = []
    try:
        about = path.stat()
        state += [about.st_ino, about.st_size, about.st_mtime_ns]
        state += [_beside(file, _WAL_HEADER) for file in beside.values()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return tuple(state)


def _beside(path: Path, most: int = -1) -> bytes:
    """The beginning of a log or journal, which may come and go at any time; nothing where there is none."""
    try:
        if not path.is_file():  # and no pipe, which would block
            return b""
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
