"""Mutations of stores and binary logs for `benchmarks.fuzz_readers`: of bytes, and of values inside sound frames.

A sum or a magic number that is wrong ends a file before a reader looks at what is in it. So half of the inputs are
sound to the format: records of an event file or an offline run get their sums anew, databases and Parquet tables are
written by their own libraries; what is odd in them is types, values and names.
"""

from __future__ import annotations

import functools
import gzip
import math
import sqlite3
from contextlib import closing
from random import Random
from typing import Any

from benchmarks import fuzz_samples as samples
from benchmarks.fuzz_samples import Files, framed, pieces

JSON = (
    *('{"a": 1e999}', '{"a": NaN, "b": {"c": 1, "d": {"e": -Infinity}}}', "[1, 2]", "{", "", "null", '"word"', "7"),
    *('{"a": %s}' % ("9" * 400), '{"seed": 1e400}', '{"seed": [1]}', '{"step": "x", "_step": -1, "wall_time": {}}'),
    *('{"\\ud800": 1, "a\\u0000b": 2, "": 3}', '{"_type": "table", "a": 1}', '{"a": "NaN", "b": "Infinity"}'),
    *('{"a":' * 2000, "[" * 5000, '{"<script>": 1, "../x": 2, "=1+1": 3}', '{"a": true, "b": "%s"}' % ("x" * 2000)),
)
VALUES: tuple[Any, ...] = (
    *(None, b"", b"\xff\0\xfe", "", "word", "NaN", "1e999", "9" * 400, 0, -1, 1, 3, 2**63 - 1, -(2**63), 2**53 + 1),
    *(0.5, -0.0, 1e308, math.inf, -math.inf, "a\nb\x1b[31m\0c", "\u202egpj.exe", "<script>", "../../etc/passwd"),
    *("'; DROP TABLE metrics; --", "x" * 5000, "2026-13-45T99:99", "-999999-01-01", "deleted", "system/x", "step"),
    *JSON,
)
TEXTS = tuple(value for value in VALUES if isinstance(value, str))
_WORDS = (b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0\0\0\x80", b"\x80" * 10, b"PAR1", b":W&B")
_BLOCKS = (16, 64, 512, 1024, 4096)  # bytes; the third and later are pages of databases


def mutated(data: bytes, draw: Random) -> bytes:
    """Return bytes with one to six mutations: flips, odd words, deletions, insertions, a cut, swapped blocks."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        at = draw.randrange(len(made) + 1)
        what = draw.randrange(9)
        if what < 3 and made:
            made[at % len(made)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
        elif what == 3 and made:
            made[at % len(made)] ^= 1 << draw.randrange(8)
        elif what == 4:
            word = draw.choice(_WORDS)
            made[at : at + len(word)] = word
        elif what == 5:
            del made[at : at + draw.choice((1, 2, 8, 100))]
        elif what == 6:
            made[at:at] = draw.randbytes(draw.choice((1, 2, 8, 100)))
        elif what == 7:
            size = draw.choice(_BLOCKS)
            count = max(1, len(made) // size)
            a, b = size * draw.randrange(count), size * draw.randrange(count)
            made[a : a + size], made[b : b + size] = made[b : b + size], made[a : a + size]
        elif draw.random() < 0.5:
            del made[at:]
    return bytes(made)


def odd_events(files: Files, draw: Random) -> Files:
    """Return event files whose records are mutated messages, or messages of odd values."""
    from tensorboard.compat.proto import event_pb2

    from analysis.readers.tfrecord import records

    made = {}
    for name, data in files.items():
        if "tfevents" not in name:
            made[name] = data
            continue
        at, size, _ = records(data)
        parts = [data[a : a + s] for a, s in zip(at.tolist(), size.tolist(), strict=True)]
        for i in range(1, len(parts)):
            if draw.random() < 0.2:
                parts[i] = mutated(parts[i], draw)
            elif draw.random() < 0.3:
                event = event_pb2.Event.FromString(parts[i])
                event.step = draw.choice((0, -1, 2**63 - 1, -(2**63), 5))
                event.wall_time = draw.choice((0.0, -1.0, math.nan, math.inf, 1e300, 1.7e9))
                for value in event.summary.value:
                    _odd_value(value, draw)
                parts[i] = event.SerializeToString()
        made[name] = framed(parts)
    return made


def _odd_value(value: Any, draw: Random) -> None:
    """Change the tag, the plugin, the type or the shape of a scalar."""
    what = draw.randrange(6)
    if what == 0:
        value.tag = draw.choice([text for text in TEXTS if len(text) < 1000])
    elif what == 1:
        value.simple_value = draw.choice((math.nan, math.inf, 1e38, 0.0))
    elif what == 2:
        value.metadata.plugin_data.plugin_name = draw.choice(("scalars", "text", "", "images"))
    else:
        value.metadata.plugin_data.plugin_name = draw.choice(("scalars", "text"))
        tensor = value.tensor
        if what == 3:
            tensor.Clear()
        tensor.dtype = draw.choice((*range(24), 101, 114, 999))
        tensor.tensor_content = draw.choice((b"", b"1", b"\0" * 4, b"\xff" * 8, b"\0" * 16, b"\0" * 99))
        tensor.string_val.extend(draw.choice(([], [b"0.5"], [b"\xff"], [b"a"] * 9)))
        getattr(tensor, draw.choice(("float_val", "double_val"))).extend(draw.choice(([], [0.5], [math.nan] * 3)))
        getattr(tensor, draw.choice(("int_val", "half_val", "int64_val"))).extend(
            draw.choice(([], [7], [2**31 - 1] * 2))
        )
        for size in draw.choice(((), (1,), (-1,), (0,), (2**40, 2**40), (1,) * 40)):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_shape.unknown_rank = draw.random() < 0.1


def odd_offline(files: Files, draw: Random) -> Files:
    """Return offline files of W&B whose records are mutated messages, or histories of odd values."""
    from wandb.proto import wandb_internal_pb2

    from analysis.readers.wandb_offline import _records

    messages: Any = wandb_internal_pb2
    made = {}
    for name, data in files.items():
        parts = []
        for part, _ in _records(data):
            record = part
            if draw.random() < 0.2:
                record = mutated(record, draw)
            elif draw.random() < 0.3:
                said = messages.Record.FromString(record)
                kind = said.WhichOneof("record_type")
                items = {"history": said.history.item, "run": said.run.config.update}.get(str(kind), ())
                for item in items:
                    item.value_json = draw.choice((*JSON, item.value_json))
                    if draw.random() < 0.2:
                        item.key = draw.choice(TEXTS)
                    if draw.random() < 0.2:
                        item.nested_key.extend(draw.choice((["a"], ["_step"], ["a", "b\n"], ["x._type"], [""] * 99)))
                if kind == "history":
                    said.history.step.num = draw.choice((0, -1, 2**63 - 1, 5))
                elif kind == "run":
                    said.run.start_time.seconds = draw.choice((0, -(2**63), 2**63 - 1))
                    said.run.display_name = draw.choice(TEXTS)
                record = said.SerializeToString()
            parts.append(record)
        made[name] = data[:7] + pieces(parts)
    return made


def odd_database(files: Files, draw: Random) -> Files:
    """Return sound databases with values of any type in any column, rows twice or none, and other tables."""
    return {name: _odd_database(data, draw) if name.endswith(".db") else data for name, data in files.items()}


def _odd_database(data: bytes, draw: Random) -> bytes:
    if data[18:19] != b"\x01":  # with a write-ahead log: it cannot be opened in memory
        return data
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as base:
        base.deserialize(_loose(data))
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for _ in range(draw.choice((1, 1, 2, 4))):
            name = draw.choice(tables)
            try:
                columns = [row[1] for row in base.execute(f'PRAGMA table_info("{name}")')]
                column = draw.choice(columns)
                _change(base, name, column, draw)
            except (sqlite3.Error, IndexError, UnicodeEncodeError):
                pass
        return base.serialize()


def _change(base: sqlite3.Connection, table: str, column: str, draw: Random) -> None:
    what = draw.randrange(12)
    if what < 7:
        set_it = f'UPDATE "{table}" SET "{column}" = ? WHERE rowid % ? = 0'  # noqa: S608
        base.execute(set_it, (draw.choice(VALUES), draw.choice((1, 2, 7))))
    elif what == 7:
        base.execute(f'UPDATE "{table}" SET "{column}" = CAST(x\'EDA0806130\' AS TEXT)')  # noqa: S608, no UTF-8
    elif what == 8:
        base.execute(f'INSERT INTO "{table}" SELECT * FROM "{table}" LIMIT {draw.choice((1, 5, 50))}')  # noqa: S608
    elif what == 9:
        base.execute(f'DELETE FROM "{table}" WHERE rowid % {draw.choice((1, 2))} = 0')  # noqa: S608
    elif what == 10:
        base.execute(f'ALTER TABLE "{table}" {draw.choice(("DROP COLUMN", "RENAME COLUMN"))} "{column}"')
    else:  # what is read is no table, or one without its own columns
        other = f'CREATE {draw.choice(("VIEW", "TABLE"))} "{table}" AS SELECT * FROM kept'  # noqa: S608
        base.executescript(f'ALTER TABLE "{table}" RENAME TO kept; {other}')


@functools.lru_cache(maxsize=8)
def _loose(data: bytes) -> bytes:
    """The database without constraints, so that any value may stand anywhere."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as base:
        base.deserialize(data)
        made = base.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        for name, _ in made.fetchall():
            columns = base.execute(f'PRAGMA table_info("{name}")').fetchall()
            kinds = ", ".join(f'"{column[1]}" {column[2]}' for column in columns)
            base.execute(f'ALTER TABLE "{name}" RENAME TO old_one')
            base.execute(f'CREATE TABLE "{name}" ({kinds})')
            base.execute(f'INSERT INTO "{name}" SELECT * FROM old_one')  # noqa: S608
            base.execute("DROP TABLE old_one")
        base.execute("VACUUM")
        return base.serialize()


def odd_parquet(files: Files, draw: Random) -> Files:
    """Return sound tables of columns of any type and name."""
    return {name: _odd_parquet(draw) if name.endswith(".parquet") else data for name, data in files.items()}


def _odd_parquet(draw: Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = draw.choice((0, 1, 2, 12))
    names = ("step", "acc", "recipe", "seed", "run", "_step", "_timestamp", "a\nb", "", "a.b", "\u202e", "step ")

    columns, schema = [], []
    for _ in range(draw.choice((1, 2, 3, 5))):
        kind = draw.randrange(14)
        if kind < 3:
            made = pa.array([draw.choice((None, 0.5, math.nan, math.inf, 1e308)) for _ in range(rows)], pa.float64())
        elif kind < 5:
            whole = draw.choice((pa.int64(), pa.int8(), pa.uint64(), pa.int32()))
            made = pa.array([draw.choice((None, 0, 1, 7, 127)) for _ in range(rows)], whole)
        elif kind < 7:
            made = pa.array(
                [draw.choice((None, *TEXTS)) for _ in range(rows)], draw.choice((pa.string(), pa.large_string()))
            )
        elif kind == 7:
            made = pa.array([draw.choice(("a", None, "")) for _ in range(rows)], pa.string()).dictionary_encode()
        else:
            cell, of = draw.choice(
                (
                    *((None, pa.null()), (True, pa.bool_()), ([1], pa.list_(pa.int64())), (b"\xff", pa.binary())),
                    *(({"a": 1}, pa.struct({"a": pa.int64()})), (1, pa.timestamp("ns")), (1, pa.decimal128(20, 2))),
                    *((1.0, pa.float32()), ([("a", 1)], pa.map_(pa.string(), pa.int64())), (7, pa.date32())),
                    *((0.5, pa.float16()), ("a", pa.string_view()), (2**63, pa.uint64()), (1, pa.duration("s"))),
                )
            )
            made = pa.array([cell] * rows, of)
        columns.append(made)
        schema.append(draw.choice(names))
    sink = pa.BufferOutputStream()
    options = {
        "compression": draw.choice(("snappy", "none", "zstd", "gzip")),
        "row_group_size": draw.choice((1, 5, 100)),
    }
    try:
        pq.write_table(pa.Table.from_arrays(columns, schema), sink, version=draw.choice(("1.0", "2.6")), **options)
    except (pa.ArrowException, NotImplementedError):
        return samples.parquet_of({"step": [1], "acc": [0.5]})
    return bytes(sink.getvalue())


def odd_folder(files: Files, draw: Random) -> Files:
    """Return a folder in which some files are renamed, gone or twice."""
    made = dict(files)
    for name in list(files):
        folder, _, last = name.rpartition("/")
        what = draw.random()
        if what < 0.1:
            del made[name]
        elif what < 0.3:
            new = draw.choice(("a b", "\u202ex", "x\ny", "'; --", "step", "seed", "d\u00e9", "x" * 200, last + ".csv"))
            made[f"{folder}/{new}"] = made.pop(name) if draw.random() < 0.5 else files[name]
    return made


def packed(files: Files, draw: Random) -> Files:
    """Return files of which the packed ones are sound, and mutated before they were packed."""
    return {
        name: gzip.compress(mutated(gzip.decompress(data), draw), 1, mtime=0) if name.endswith(".gz") else data
        for name, data in files.items()
    }
