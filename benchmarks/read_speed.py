"""Seconds and memory to read a long log of each format: the bars are 15 s, 1 GB and 10 x the file for a million rows.

Run ``python -m benchmarks.read_speed --reader jsonl [--rows 1000000]`` from the repository's root, one process a
reader, so that the peak of memory is its own: another one writes the file, and a file of three rows is read first, so
that importing a package is not counted. Rows hold a step and eight numbers of full length; those of formats that keep
one number a record (`LONG`) hold one of the eight, so that a million of them are 125,000 steps; those of
``table-short`` a step and four of few digits, most cells of one column empty. Databases have the tables and indexes of
their own packages. ``--whole`` goes on to the run that is fitted (`analysis.read`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from analysis import read
from analysis.readers import formats
from benchmarks import fuzz_samples
from benchmarks.fuzz_samples import framed, pieces

NAMES = ("loss", "grad_norm", "learning_rate", "reward", "reward_std", "kl", "entropy", "completions/mean_length")
READERS = (
    *("jsonl", "verl-file", "prime-rl", "trainer-state", "verl-console", "trl-console", "console"),
    *("table", "table-short"),
)
LONG = ("tensorboard", "mlflow", "mlflow-folder")
STORES = (*LONG, "wandb", "trackio", "parquet", "scalerl")


def written(reader: str, rows: int) -> Iterator[str]:
    """Yield the text of a log; prime-rl's has two rows a step."""
    draw = random.Random(0)  # noqa: S311
    if reader == "trainer-state":
        yield f'{{"global_step": {rows}, "log_history": ['
    elif reader == "table":
        yield f"step,{','.join(NAMES)}\n"
    elif reader == "table-short":
        yield "step,gpu_hours,reward,accuracy,loss\n"
    for i in range(rows):
        cells = {name: draw.random() for name in NAMES}
        if reader == "jsonl":
            yield json.dumps({"step": i, **cells}) + "\n"
        elif reader == "verl-file":
            yield json.dumps({"step": i, "data": cells}) + "\n"
        elif reader == "table":
            yield f"{i},{','.join(map(str, cells.values()))}\n"
        elif reader == "table-short":
            accuracy = "" if i % 10 else f"{cells['reward']:.4f}"
            yield f"{i},{i / 1000:.3f},{cells['reward']:.4f},{accuracy},{cells['loss']:.6f}\n"
        elif reader == "prime-rl":
            part = "time" if i % 2 else "reward"
            told = {f"{part}/{name}": value for name, value in cells.items()}
            yield json.dumps({"step": i // 2, "time": 1.7e9 + i, **told}) + "\n"
        elif reader == "trainer-state":
            yield json.dumps({"step": i + 1, **cells}, indent=2) + (",\n" if i + 1 < rows else "]}")
        elif reader == "verl-console":
            fields = " - ".join(f"{name}:{value:.6f}" for name, value in cells.items())
            yield f"\x1b[36m(TaskRunner pid=12)\x1b[0m step:{i} - {fields}\n"
        elif reader == "trl-console":
            printed = {name: f"{value:.4g}" for name, value in cells.items()}
            bar = f"\r {100 * i // rows:3d}%|##  | {i}/{rows} [00:01<00:02, 1.0it/s]"
            yield f"{ {**printed, 'epoch': f'{i / rows:.4g}'} }\n{bar}"
        else:
            fields = " ".join(f"{name}={value:.6f}" for name, value in cells.items())
            yield f"[Step {i}/{rows}] {fields}\n"


def write_store(reader: str, rows: int, folder: Path) -> Path:
    """Write a store or a binary file, and return what is read of it."""
    draw = random.Random(0)  # noqa: S311
    path = folder / {"mlflow": "mlflow.db", "trackio": "p.db", "wandb": "run-a.wandb", "scalerl": "log.jsonl"}.get(
        reader, f"{reader}.tfevents"
    )
    if reader == "tensorboard":
        path.write_bytes(framed(list(_events(rows, draw))))
    elif reader == "wandb":
        path.write_bytes(b":W&B\x19\x0d\0" + pieces(list(_histories(rows, draw))))
    elif reader == "parquet":
        path.write_bytes(
            fuzz_samples.parquet_of(
                {"step": range(rows)} | {name: [draw.random() for _ in range(rows)] for name in NAMES}
            )
        )
    elif reader == "scalerl":
        with path.open("w") as file:
            file.writelines(
                json.dumps({"kind": "eval", "step": i, **{name: draw.random() for name in NAMES}}) + "\n"
                for i in range(rows)
            )
    elif reader == "mlflow-folder":
        (folder / "r" / "metrics" / "completions").mkdir(parents=True)
        (folder / "r" / "meta.yaml").write_text("run_name: grpo_seed1\n")
        for name in NAMES:
            lines = (f"{1_700_000_000_000 + i} {draw.random()} {i}\n" for i in range(rows // len(NAMES)))
            (folder / "r" / "metrics" / name).write_text("".join(lines))
        return folder / "r"
    else:
        _write_database(reader, rows, path, draw)
    return path


def _events(rows: int, draw: random.Random) -> Iterator[bytes]:
    """One event a scalar, as SummaryWriter writes them."""
    from tensorboard.compat.proto import event_pb2

    yield event_pb2.Event(wall_time=1.7e9, file_version="brain.Event:2").SerializeToString()
    for i in range(rows):
        step, value = i // len(NAMES), {"tag": NAMES[i % len(NAMES)], "simple_value": draw.random()}
        yield event_pb2.Event(wall_time=1.7e9 + step, step=step, summary={"value": [value]}).SerializeToString()


def _histories(rows: int, draw: random.Random) -> Iterator[bytes]:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    yield messages.Record(run={"run_id": "a", "display_name": "grpo_seed1"}).SerializeToString()
    for i in range(rows):
        record = messages.Record(history={"step": {"num": i}})
        for name in NAMES:
            record.history.item.add(nested_key=[name], value_json=repr(draw.random()))
        yield record.SerializeToString()


def _write_database(reader: str, rows: int, path: Path, draw: random.Random) -> None:
    sample = fuzz_samples.mlflow()["mlflow.db"] if reader == "mlflow" else fuzz_samples.trackio()["p.db"]
    path.write_bytes(sample)
    with closing(sqlite3.connect(path)) as base:
        base.execute("DELETE FROM metrics")
        if reader == "mlflow":
            ((run,),) = base.execute("SELECT run_uuid FROM runs LIMIT 1").fetchall()
            add = "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)"
            points = (
                (NAMES[i % len(NAMES)], draw.random(), 1_700_000_000_000 + i, run, i // len(NAMES)) for i in range(rows)
            )
            base.executemany(add, points)
        else:
            add = "INSERT INTO metrics (run_id, run_name, timestamp, step, metrics) VALUES ('r', 'grpo_seed1', ?, ?, ?)"
            told = (
                ("2026-01-01T00:00:00+00:00", i, json.dumps({name: draw.random() for name in NAMES}))
                for i in range(rows)
            )
            base.executemany(add, told)
        base.commit()
        base.execute("PRAGMA page_size = 4096")  # as the packages leave it
        base.execute("VACUUM")


def write(reader: str, rows: int, folder: Path) -> Path:
    """Write a log in a process of its own, and return what is read of it."""
    folder.mkdir()
    child = os.fork()
    if not child:
        try:
            if reader in STORES:
                path = write_store(reader, rows, folder)
            else:
                path = folder / ("log.csv" if "table" in reader else "trainer_state.json")
                with path.open("w") as file:
                    file.writelines(written(reader, rows))
            (folder.parent / f"{folder.name}.path").write_text(str(path))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return Path((folder.parent / f"{folder.name}.path").read_text())


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=(*READERS, *STORES), required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    name = args.reader.removesuffix("-folder").removesuffix("-short")
    with tempfile.TemporaryDirectory() as made:
        formats.read_as(name, write(args.reader, 24 if args.reader in LONG else 3, Path(made) / "few"))
        path = write(args.reader, args.rows, Path(made) / "many")
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        before = _peak_mb()
        began, began_cpu = time.perf_counter(), time.process_time()
        if args.whole:
            read(path, y="reward", format=name)
        else:
            formats.read_as(name, path)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    grown = _peak_mb() - before
    steps = f" ({args.rows // len(NAMES)} steps)" if args.reader in LONG else ""
    what = f"{args.rows} rows{steps} of {size / 1e6:.0f} MB in {seconds:.1f} s ({cpu_s:.1f} CPU-s)"
    print(f"{args.reader:<14} {what}, {grown:.0f} MB of memory, {grown * 2**20 / size:.1f} x the file")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
