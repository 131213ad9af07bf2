"""Stores, exports and tables that are nearly right: what `benchmarks.fuzz_readers` found, and its short form."""

from __future__ import annotations

import csv
import json
import sqlite3
import struct
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from analysis.readers import (
    csvfile,
    mlflow_store,
    own,
    parquet_table,
    tensorboard,
    trackio_store,
    wandb_files,
)
from analysis.readers.formats import read_as, recognise
from analysis.readers.listing import list_logs
from analysis.readers.logs import read
from benchmarks.fuzz_readers import STORES, check_error, fuzz
from benchmarks.fuzz_samples import framed, pieces
from scalerl.runlog import UserError
from tests.test_readers_stores import MLFLOW_TABLES, TRACKIO_ROW, TRACKIO_TABLES, mlflow_database

INPUTS = dict.fromkeys(STORES, 2000 // len(STORES)) | {"tensorboard": 60, "trl-folder": 60}  # these are slow


def refused(reader: str, path: Path) -> str:
    with pytest.raises(UserError) as said:
        read_as(reader, path)
    check_error(str(said.value), path)
    return str(said.value)


# The short form


def offline_run() -> dict[str, bytes]:
    """What W&B writes offline, of its own messages: its package takes seconds to write them."""
    from wandb.proto import wandb_internal_pb2

    run = wandb_internal_pb2.Record(run={"run_id": "abc", "display_name": "grpo_seed4"})
    run.run.config.update.add(key="seed", value_json="4")
    records = [run]
    for step in range(12):
        record = wandb_internal_pb2.Record(history={"step": {"num": step}})
        record.history.item.add(nested_key=["eval/acc"], value_json=json.dumps(step / 12))
        record.history.item.add(key="loss", value_json="NaN")
        records.append(record)
    return {"offline-run-a/run-abc.wandb": b":W&B\x19\x0d\0" + pieces([one.SerializeToString() for one in records])}


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Samples in the place of those that a package writes slowly."""
    folder = tmp_path_factory.mktemp("odd")
    points = [(name, i / 12, 10**12 + i, i, 0) for i in range(12) for name in ("eval/acc", "system/gpu")]
    base = mlflow_database(folder / "mlflow.db", {"grpo_seed1": points, "grpo_seed2": points})
    run = {"meta.yaml": "name: math\n", "r/meta.yaml": "run_name: grpo_seed1\nlifecycle_stage: active\n"}
    run |= {f"r/metrics/{name}": "".join(f"{10**12 + i} {i / 12} {i}\n" for i in range(12)) for name in ("acc", "a/b")}
    run |= {"r/params/seed": "1", "r/tags/mlflow.runName": "grpo_seed1"}
    trackio = folder / "p.db"
    with closing(sqlite3.connect(trackio)) as connection:
        connection.executescript(TRACKIO_TABLES)
        connection.executemany(TRACKIO_ROW, [("r", "r", step, '{"acc": 0.5}') for step in range(12)])
        connection.commit()
    return {
        "mlflow": {"mlflow.db": base.read_bytes()},
        "mlflow-folder": {f"mlruns/0/{name}": text.encode() for name, text in run.items()},
        "trackio": {name: trackio.read_bytes() for name in ("p.db", "q.db")},
    }


@pytest.mark.parametrize("name", STORES)
def test_nearly_right_files_are_read_or_refused_in_one_line(tmp_path, name, quick):
    if name == "wandb":
        pytest.importorskip("wandb")
        quick = {"wandb": offline_run()}
    told = fuzz(name, INPUTS[name], 20261128, tmp_path, quick.get(name))
    assert sum(told.values()) == INPUTS[name]
    assert told["read"] > INPUTS[name] // 6  # most mutations leave something to read


# What it found


def test_names_of_columns_are_printable_in_every_format(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('step,"a\tc\x1b[2Jc"\n1,.5\n2,.5\n')
    (found,) = csvfile.read(file)
    assert list(found.table.columns) == ["step", "a?c?[2Jc"]
    log = tmp_path / "log.jsonl"
    log.write_text('{"kind": "eval", "step": 1, "a\\u001bc": 1}\n')
    (found,) = own.read(log)
    assert list(found.table.columns) == ["kind", "step", "a?c"]


def test_an_error_that_quotes_a_cell_or_a_name_is_short(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(f"seed,step\n1{'c' * 5000},1\n2,2\n2,3\n")
    assert "is no whole number" in refused("table", file)
    file.write_text(f"step,acc{'[' * 100_000}\n1,.5\n2,.5\n")
    began = time.process_time()
    for way in (lambda: read(file), lambda: read(file, y="acc")):
        with pytest.raises(UserError) as said:
            way()
        check_error(str(said.value), tmp_path)
    assert time.process_time() - began < 2.0  # likeness of names takes the square of their lengths


def test_rows_of_few_cells_under_thousands_of_columns_fill_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csvfile, "_MOST_ABSENT", 100_000)
    file = tmp_path / "a.csv"
    file.write_text(",".join(f"c{i}" for i in range(5000)) + "\n" + "1\n" * 5000)
    assert "most of the 5000 columns are empty" in refused("table", file)


def test_evaluations_of_ever_other_fields_fill_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "MOST_CELLS", 10_000)
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"kind": "eval", f"a{i}": 1}) + "\n" for i in range(200)))
    assert "more than fit in memory" in refused("scalerl", log)


@pytest.mark.parametrize(("dtype", "cells"), [(7, {"string_val": [b"0.5"]}), (6, {"int_val": [2**31 - 1]})])
def test_tensorboard_a_tensor_that_is_no_number_is_no_scalar(tmp_path, dtype, cells):
    from tensorboard.compat.proto import event_pb2

    about = {"plugin_data": {"plugin_name": "scalars"}}
    odd = {"tag": "odd", "tensor": {"dtype": dtype, "tensor_shape": {"dim": [{"size": 1}]}, **cells}, "metadata": about}
    values = [{"tag": "acc", "simple_value": 0.5}, odd]
    events = [event_pb2.Event(file_version="brain.Event:2"), event_pb2.Event(step=1, summary={"value": values})]
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(framed([event.SerializeToString() for event in events]))
    (found,) = tensorboard.read(file)
    assert set(found.table.columns) == {"step", "wall_time", "acc"}


def page_export(path: Path, names: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def test_wandb_an_export_without_one_of_its_limits_is_read(tmp_path):
    names = ["Step", *(f"a - acc{end}" for end in ("", "__MIN", "__MAX")), "b - acc", "b - acc__MIN"]
    file = page_export(tmp_path / "a.csv", names, [["1", ".5", ".5", ".5", ".6", ".6"]])
    assert recognise(file) == "wandb"
    assert [one.table.columns["acc"] for one in wandb_files.read(file)] == [[".5"], [".6"]]


def test_wandb_an_export_without_a_value_is_refused(tmp_path):
    names = ["Step", *(f"a - acc{end}" for end in ("", "__MIN", "__MAX"))]
    file = page_export(tmp_path / "a.csv", names, [["1", "", "", ""], ["2", "", "", ""]])
    assert "no row of it holds a value" in refused("wandb", file)


@pytest.mark.parametrize("line", ["9" * 400 + " 0.5 1", "1000 0.5 " + "9" * 400])
def test_mlflow_a_time_or_step_that_no_clock_has_is_refused_with_its_line(tmp_path, line):
    run = tmp_path / "r"
    (run / "metrics").mkdir(parents=True)
    (run / "meta.yaml").write_text("run_name: a\n")
    (run / "metrics" / "acc").write_text(f"1000 0.5 1\n{line}\n1001 0.5 2\n")
    with pytest.raises(UserError, match=r"metrics/acc:2: no line of the form"):
        mlflow_store.read(run)


def test_runs_of_one_name_in_a_store_are_numbered(tmp_path):
    points = [("accuracy", i / 12, 10**12 + 1000 * i, i, 0) for i in range(12)]
    file = mlflow_database(tmp_path / "mlflow.db", {"r1": points, "r2": points, "other": points})
    with closing(sqlite3.connect(file)) as base:
        base.execute("UPDATE runs SET name = 'grpo' WHERE name <> 'other'")
        base.commit()
    assert sorted(run.name for run in read(file)) == ["grpo #1", "grpo #2", "other"]


def test_parquet_a_place_outside_its_dictionary_is_damage(tmp_path):
    """Parquet's own reader hands on any place: a negative one would even be another text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, outcomes = tmp_path / "a.parquet", set()
    pq.write_table(pa.table({"step": range(8), "recipe": ["a", "b", "c", "d"] * 2}), file, compression="none")
    whole = file.read_bytes()
    for at in range(4, len(whole) - 8):
        file.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        try:
            outcomes |= {len(one.table.lines) for one in parquet_table.read(file)}
        except UserError as error:
            check_error(str(error), file)
            outcomes.add("dictionary" if "ndex" in str(error) else "other")
    assert "dictionary" in outcomes


def test_parquet_that_holds_fewer_rows_than_it_names_is_damage(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, outcomes = tmp_path / "a.parquet", set()
    pq.write_table(pa.table({"step": range(40), "accuracy": [i / 40 for i in range(40)]}), file, compression="none")
    whole = file.read_bytes()
    for at in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole) - 8):
        file.write_bytes(whole[:at] + b"\0" + whole[at + 1 :])
        try:
            outcomes.add(len(parquet_table.read(file)))
        except UserError as error:
            check_error(str(error), file)
            outcomes.add("fewer" if "do not hold the 40 rows" in str(error) else "other")
    assert outcomes == {1, "fewer", "other"}


def circular(path: Path, tables: str, table: str) -> Path:
    """A database in which each page of a table leads to the next one 60 times, twelve pages deep."""
    size, depth, fan = 1024, 12, 60
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"PRAGMA page_size = {size}")
        base.executescript(tables)
        (root,) = base.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone() or (1,)
        (count,) = base.execute("PRAGMA page_count").fetchone()
    data = bytearray(path.read_bytes())
    pages = [root, *range(count + 1, count + 1 + depth)]
    start = 100 if root == 1 else 0  # the first page begins with the head of the file
    leaf = bytes(data[(root - 1) * size + start : root * size])
    data += bytes(size * depth)
    for page, below in pairwise(pages):
        cells = b"".join(struct.pack(">IB", below, key) for key in range(1, fan + 1))
        begin = start if page == root else 0
        places = struct.pack(f">{fan}H", *range(size - len(cells), size, 5))
        head = struct.pack(">BHHHBI", 5, 0, fan, size - len(cells), 0, below) + places
        data[(page - 1) * size + begin : page * size] = head + bytes(size - begin - len(head) - len(cells)) + cells
    data[(pages[-1] - 1) * size :] = leaf[:8] + bytes(size - 8) if root == 1 else leaf
    struct.pack_into(">I", data, 28, count + depth)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("table", ["metrics", "sqlite_schema"])
@pytest.mark.parametrize(("reader", "tables"), [("mlflow", MLFLOW_TABLES), ("trackio", TRACKIO_TABLES)])
def test_a_database_whose_pages_lead_in_circles_ends(tmp_path, reader, tables, table):
    """More rows than can ever be counted in 40 kB."""
    row = "INSERT INTO metrics VALUES ('a', 1, 1, 'r', 1, 0); INSERT INTO runs VALUES ('r', 'r', '', 1, 2, '', 1)"
    row = row if reader == "mlflow" else TRACKIO_ROW.replace("?", "'1'")
    file = circular(tmp_path / "a.db", tables + row, table)
    assert file.stat().st_size < 50_000
    began = time.process_time()
    recognise(file)
    refused(reader, file)
    assert time.process_time() - began < 5.0


def test_damage_that_sqlite_takes_for_a_lack_of_memory_is_damage(tmp_path):
    file = tmp_path / "a.db"
    with closing(sqlite3.connect(file)) as base:
        base.execute("PRAGMA page_size = 1024")
        base.executescript(TRACKIO_TABLES)
        for i in range(3):
            base.execute(f"CREATE TABLE t{i} ({', '.join(f'column{k}' for k in range(30))})")
    data, lacks = file.read_bytes(), 0
    at = data.index(b"tablet1t1")
    for place in range(at - 12, at):
        file.write_bytes(data[:place] + b"\x7f" + b"\xff" * 7 + data[place + 8 :])
        try:
            with closing(sqlite3.connect(file)) as base:
                base.execute("SELECT name FROM sqlite_master").fetchall()
        except MemoryError:
            lacks += 1
        except (sqlite3.Error, UnicodeDecodeError):
            pass
        recognise(file)
        refused("trackio", file)
    assert lacks > 0


def test_trackio_rows_that_are_none_and_runs_without_an_id_are_told(tmp_path):
    file = tmp_path / "p.db"
    with closing(sqlite3.connect(file)) as base:
        base.executescript(TRACKIO_TABLES.replace(" NOT NULL", "").replace("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT"))
        add = "INSERT INTO metrics VALUES (?, NULL, '2026-01-01T00:00:00+00:00', 'a', ?, ?)"
        base.executemany(add, [("1", 1, '{"acc": 1}'), ("\u202e2", 2, "[]"), ("3", 3, '{"acc": 2}')])
        base.commit()
    (found,) = trackio_store.read(file)
    assert found.table.columns["acc"] == [1, 2]
    assert found.findings[0].message.endswith("(id ?2)")
    json.dumps(list_logs(file).to_dict())


def test_constraints_of_a_database_are_not_computed(tmp_path):
    """SQLite's own check of a table would do so, whatever it costs."""
    tables = TRACKIO_TABLES.replace(
        "metrics TEXT NOT NULL", "metrics TEXT CHECK (length(hex(zeroblob(30000000 + step))) > 0)"
    )
    file = tmp_path / "a.db"
    with closing(sqlite3.connect(file)) as base:
        base.execute("PRAGMA ignore_check_constraints = ON")
        base.executescript(tables)
        base.executemany(TRACKIO_ROW, [("r", "r", step, '{"acc": 1}') for step in range(100)])
        base.commit()
    began = time.process_time()
    (found,) = trackio_store.read(file)
    assert len(found.table.lines) == 100
    assert time.process_time() - began < 2.0
