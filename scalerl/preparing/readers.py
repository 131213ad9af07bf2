"""Raw rows from JSON, JSONL, Parquet and Arrow files, one at a time, each with the place where it stands.

A row that cannot be read is handed on with a reason and costs nothing but itself. A file that cannot be read any
further (a JSON list that breaks off, a damaged Parquet page) is a `DataError`: what follows in it is unknown.
Nothing is executed: no pickle, no loading script of a data set.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from scalerl.runlog import UserError, read_regular

MOST_ROW_BYTES = 8 * 2**20
SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
_BATCH_ROWS = 1000
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is no UTF-8


class DataError(UserError):
    """A data file that cannot be used."""


class Source(NamedTuple):
    """One file of rows; `kind` is json, jsonl, parquet or arrow."""

    path: Path
    kind: str


class Row(NamedTuple):
    """A row, or the reason why there is none; `number` is its line in a JSONL file and its rank from 1 in others."""

    number: int
    value: Any
    problem: str = ""


UNREADABLE = object()
"""Stands for the cell of a table whose text is no UTF-8."""


def find_sources(paths: Sequence[str], split: str | None = None) -> tuple[list[Source], list[str]]:
    """Return the files of rows under `paths` in a fixed order, and what in folders was left out.

    Parameters
    ----------
    paths : sequence of str
        Files, folders of files (at any depth), and folders that ``datasets.save_to_disk`` wrote.
    split : str, optional
        Which split of a saved ``DatasetDict`` to read; train, or the only one, if not given.

    Raises
    ------
    DataError
        If there is no file of a known kind, or no such split.
    """
    found: list[Source] = []
    left_out: list[str] = []
    for name in paths:
        path = Path(name)
        if (path / "dataset_dict.json").is_file():
            path, others = _split_folder(path, split)
            left_out += others
        if path.is_dir():
            _walk(path, found, left_out)
        elif path.suffix.lower() in SUFFIXES or not path.exists():
            found.append(Source(path, SUFFIXES.get(path.suffix.lower(), "json")))
        else:
            raise DataError(f"{path}: of no known kind; there are {', '.join(SUFFIXES)} and folders of these")
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no file that ends in {', '.join(SUFFIXES)}")
    try:
        places = [source.path.resolve() for source in found]
    except (OSError, RuntimeError) as error:  # links in a circle
        raise DataError(f"{', '.join(map(str, paths))}: cannot be read: {error}") from error
    if twice := sorted({str(s.path) for s, place in zip(found, places, strict=True) if places.count(place) > 1}):
        raise DataError(f"{', '.join(twice)}: named twice")
    return found, left_out


def read_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises
    ------
    DataError
        If the file cannot be read, or not to its end.
    """
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        "json": _read_json,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
        "arrow": _read_arrow,
    }
    return readers[source.kind](source.path)


def _walk(folder: Path, found: list[Source], left_out: list[str]) -> None:
    if (folder / "state.json").is_file():
        found += [Source(file, "arrow") for file in _saved_files(folder)]
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            _walk(entry, found, left_out)
        elif entry.suffix.lower() in SUFFIXES and entry.is_file():
            found.append(Source(entry, SUFFIXES[entry.suffix.lower()]))
        else:
            left_out.append(str(entry))


def _split_folder(folder: Path, split: str | None) -> tuple[Path, list[str]]:
    names = _small_json(folder / "dataset_dict.json").get("splits")
    if not isinstance(names, list) or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise DataError(f"{folder / 'dataset_dict.json'}: names no splits")
    wanted = split or ("train" if "train" in names else names[0] if len(names) == 1 else None)
    if wanted is None or wanted not in names:
        what = "no split is named train" if split is None else f"there is no split {split!r}"
        raise DataError(f"{folder}: {what}; --split takes one of {', '.join(sorted(names))}")
    return folder / wanted, [str(folder / name) for name in sorted(names) if name != wanted]


def _saved_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder that ``datasets.save_to_disk`` wrote."""
    state = _small_json(folder / "state.json")
    files = state.get("_data_files")
    files = files if isinstance(files, list) else []
    names = [file.get("filename") if isinstance(file, dict) else None for file in files]
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise DataError(f"{folder / 'state.json'}: names no Arrow files beside it")
    if state.get("_indices_data_files"):
        raise DataError(f"{folder}: rows are chosen by an index; call flatten_indices() and save it again")
    return [folder / str(name) for name in names]


def _small_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _whole(text: str) -> float:
    """Read a whole number; one of more than 300 digits, which Python may refuse to read, becomes an infinity."""
    return int(text) if len(text) < 300 else float(text)


class Twice(dict[str, Any]):
    """An object with a name twice, which makes its row unusable but not the ones behind it."""


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object of a JSON text: a `Twice` where it, or an object inside, has a name twice."""
    found = dict(pairs)
    inside = any(isinstance(part, Twice) for value in found.values() for part in _parts(value))
    return found if len(found) == len(pairs) and not inside else Twice(found)


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value and what lists hold; objects have told on what they hold."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, list):
            waiting += part


_DECODER = json.JSONDecoder(parse_int=_whole, object_pairs_hook=as_object)


def _open(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: cannot be read: it is no regular file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_jsonl(path: Path) -> Iterator[Row]:
    number = 0
    with _open(path) as file:
        while line := file.readline(MOST_ROW_BYTES):
            number += 1
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{path}: is UTF-16; write it as UTF-8")
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) >= MOST_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MOST_ROW_BYTES)
                yield Row(number, None, "too_long")
            elif line.strip():
                yield _parse_line(number, line)


def _parse_line(number: int, line: bytes) -> Row:
    try:
        text = line.decode().strip()
        value, end = _DECODER.raw_decode(text)
    except UnicodeDecodeError:
        return Row(number, None, "encoding")
    except (ValueError, RecursionError):
        return Row(number, None, "not_json")
    if isinstance(value, Twice):
        return Row(number, None, "name_twice")
    return Row(number, value) if end == len(text) else Row(number, None, "not_json")


def _read_json(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        head = file.readline(MOST_ROW_BYTES).removeprefix(b"\xef\xbb\xbf")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16; write it as UTF-8")
    if head.lstrip().startswith(b"{") and not _parse_line(1, head).problem:
        yield from _read_jsonl(path)  # one object a line, under another name
        return
    content = read_regular(path)
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text, escaped = content.decode(), False
    except UnicodeDecodeError:
        text, escaped = content.decode(errors="surrogateescape"), True
    del content
    at = WHITESPACE.match(text, 0).end()
    if text[at : at + 1] != "[":
        raise DataError(f"{path}: not JSON with a list of rows, nor one row a line; it begins with {text[at:][:20]!r}")
    yield from _walk_list(path, text, at + 1, escaped)


def _walk_list(path: Path, text: str, at: int, escaped: bool) -> Iterator[Row]:
    """Yield the items of a JSON list one by one, so that never more than one is in memory."""
    number = 0
    at = WHITESPACE.match(text, at).end()
    if text[at : at + 1] != "]":
        while True:
            number += 1
            try:
                value, end = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise _breaks_off(path, text, getattr(error, "pos", at), number, what) from error
            if end - at > MOST_ROW_BYTES:
                yield Row(number, None, "too_long")
            elif escaped and _ESCAPED_BYTE.search(text, at, end):
                yield Row(number, None, "encoding")
            elif isinstance(value, Twice):
                yield Row(number, None, "name_twice")
            else:
                yield Row(number, value)
            at = WHITESPACE.match(text, end).end()
            if text[at : at + 1] != ",":
                break
            at = WHITESPACE.match(text, at + 1).end()
    if text[at : at + 1] != "]" or WHITESPACE.match(text, at + 1).end() != len(text):
        raise _breaks_off(path, text, at, number, "the list does not end here as it should")


def _breaks_off(path: Path, text: str, at: int, number: int, what: str) -> DataError:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return DataError(
        f"{path}:{line}:{column}: not JSON, near row {number}: {what}; what follows cannot be read. "
        "Repair it, or write one row a line (JSONL): there a broken row costs nothing but itself"
    )


@contextmanager
def _arrow(path: Path) -> Iterator[Any]:
    """Give pyarrow; turn what it raises over a file into a `DataError`."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path}: Parquet and Arrow are read by pyarrow, which is missing: pip install 'scalerl[data]'"
        ) from error
    _open(path).close()  # says what is wrong with the name in our words
    try:
        yield pyarrow
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, SystemError, MemoryError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: cannot be read (any further): {reason[0][:200]}") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    with _arrow(path):
        import pyarrow.parquet as pq

        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                yield from _batch_rows(path, batch, number)
                number += batch.num_rows


def _read_arrow(path: Path) -> Iterator[Row]:
    with _arrow(path) as pa, pa.memory_map(str(path)) as file:
        import pyarrow.ipc

        try:
            batches: Any = pyarrow.ipc.open_stream(file)
        except pa.ArrowInvalid:
            reader = pyarrow.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        number = 0
        for batch in batches:
            _validate(batch)  # before a cell is read: what a damaged file points at may lie outside of it
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield from _batch_rows(path, batch.slice(start, _BATCH_ROWS), number + start)
            number += batch.num_rows


def _validate(batch: Any) -> None:
    """Raise `pyarrow.ArrowInvalid` if offsets or lengths of a batch lead out of it; text may be no UTF-8."""
    import pyarrow as pa

    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    for column in batch.columns:
        column.validate()
        (column.view(as_bytes[column.type]) if column.type in as_bytes else column).validate(full=True)


def _batch_rows(path: Path, batch: Any, before: int) -> Iterator[Row]:
    names = batch.schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: two columns of one name: {', '.join(twice)}")
    columns = [_cells(column) for column in batch.columns]
    for index, cells in enumerate(zip(*columns, strict=True)):
        bad = any(cell is UNREADABLE for cell in cells)
        value = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
        yield Row(before + index + 1, None if bad else value, "encoding" if bad else "")


_NO_CELL = (UnicodeDecodeError, ValueError, OverflowError, KeyError)  # but for the first: times Python cannot hold


def _cells(column: Any) -> list[Any]:
    """Return the values of a column; a cell whose text is no UTF-8 spoils only its own row."""
    try:
        return list(column.to_pylist())
    except _NO_CELL:
        return [_cell(scalar) for scalar in column]


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except _NO_CELL:
        return UNREADABLE
