"""Small files of stores and exports for `benchmarks.fuzz_readers`, written by the packages of their formats.

A package runs in a process of its own, so that its memory is not counted as a reader's. What is too large to be
mutated in the right places is cut down: of MLflow's database the six tables that are read stay, with their own SQL.
trackio's tables are written here where its package is missing.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Files = dict[str, bytes]

_TENSORBOARD = """
import sys
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

def new(tag, array, plugin):
    about = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": plugin})
    return summary_pb2.Summary.Value(tag=tag, tensor=make_tensor_proto(array), metadata=about)

for attempt, steps in enumerate((range(8), range(5, 12))):
    log = EventFileWriter(sys.argv[1], filename_suffix=f".{attempt}")
    values = [new("args/text_summary", ['{"seed": 7}'], "text")]
    log.add_event(event_pb2.Event(wall_time=1.7e9, step=0, summary={"value": values}))
    for step in steps:
        old = summary_pb2.Summary.Value(tag="train/reward", simple_value=step / 12)
        time = 1.7e9 + 100 * attempt + step
        values = [old, new("eval/acc", 0.5, "scalars")]
        log.add_event(event_pb2.Event(wall_time=time, step=step, summary={"value": values}))
    log.close()
"""

_WANDB = """
import sys, wandb
quiet = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
about = dict(mode="offline", project="p", id="abc", name="grpo_seed4", config={"seed": 4}, dir=sys.argv[1])
with wandb.init(**about, settings=quiet) as run:
    for step in range(12):
        run.log({"train/reward": step / 12, "nested": {"x": step}, "eval/acc": float("nan") if step == 5 else 0.5})
    run.log({"picture": wandb.Histogram([1, 2, 3])})
"""

_MLFLOW = """
import sys, warnings
warnings.simplefilter("ignore")
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.create_experiment("math")
for seed in (1, 2):
    run = client.create_run(experiment, run_name=f"grpo_seed{seed}").info.run_id
    client.log_batch(run, params=[Param("seed", str(seed)), Param("lr", "1e-5")])
    points = [(name, i / 12, i) for i in range(12) for name in ("train/reward", "eval/acc", "system/gpu")]
    points += [("odd", float("nan"), 0), ("odd", float("inf"), 1)]
    client.log_batch(run, metrics=[Metric(name, value, 1_700_000_000_000 + 1000 * i, i) for name, value, i in points])
    client.set_terminated(run)
"""

_TRACKIO = """
import sys
from pathlib import Path
from trackio import sqlite_storage
sqlite_storage.TRACKIO_DIR = Path(sys.argv[1])
for seed in (1, 2):
    rows = [{"reward": i / 12, "odd": (float("nan"), 1.0)[i % 2], "eval": {"acc": 0.5}} for i in range(12)]
    log = sqlite_storage.SQLiteStorage.bulk_log
    log("p", f"grpo_seed{seed}", rows, steps=list(range(12)), config={"seed": seed})
"""
_TRACKIO_TABLES = """
CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, timestamp TEXT NOT NULL,
    run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL);
CREATE TABLE configs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, run_name TEXT, config TEXT, created_at TEXT);
INSERT INTO configs (run_id, run_name, config) VALUES ('r', 'grpo_seed1', '{"seed": 1}');
"""


def written_by(code: str, where: str, folder: Path) -> None:
    """Run a package's own writer in another process, with nothing sent anywhere."""
    own = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "MLFLOW_ALLOW_FILE_STORE": "true"}
    own |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    own |= {"TRACKIO_DIR": str(folder), "WANDB_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", code, where], check=True, cwd=folder, env={**os.environ, **own}, timeout=180)


def files_in(folder: Path) -> Files:
    """The files below a folder, by their paths from there."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensorboard() -> Files:
    """Return event files of two attempts, with the arguments that Hugging Face's Trainer writes beside its scalars."""
    with tempfile.TemporaryDirectory() as made:
        written_by(_TENSORBOARD, made, Path(made))
        return {f"grpo/events.out.tfevents.{i}": data for i, data in enumerate(files_in(Path(made)).values())}


def tensorboard_page() -> Files:
    """Return the CSV that TensorBoard's page downloads."""
    rows = "".join(f"{1.7e9 + i},{i},{i / 12}\n" for i in range(12))
    return {"run-grpo_seed2-tag-eval_acc.csv": f"Wall time,Step,Value\n{rows}".encode()}


def wandb() -> Files:
    """Return the offline file of a run."""
    with tempfile.TemporaryDirectory() as made:
        written_by(_WANDB, made, Path(made))
        (file,) = Path(made).glob("wandb/offline-run-*/*.wandb")
        return {"offline-run-a/run-abc.wandb": file.read_bytes()}


def wandb_page() -> Files:
    """Return the CSV that W&B's page exports, of two runs."""
    names = ["Step"] + [f"{run} - acc{end}" for run in ("a_seed1", "a_seed2") for end in ("", "__MIN", "__MAX")]
    lines = [",".join(f'"{name}"' for name in names)]
    lines += [f'"{i}","{i / 12}","{i / 12}","{i / 12}","","",""' for i in range(6)]
    lines += [f'"{i}","","","","{i / 12}","{i / 13}","{i / 12}"' for i in range(6)]
    return {"export.csv": "\n".join(lines).encode() + b"\n"}


def wandb_history() -> Files:
    """Return what ``run.scan_history()`` gives, as CSV and as Parquet."""
    time = [1.7e9 + i + 7200.0 * (i > 30) for i in range(40)]
    columns = {"_step": list(range(40)), "_timestamp": time, "eval/acc": [i / 40 for i in range(40)]}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return {"grpo_seed1.csv": "\n".join(lines).encode() + b"\n", "grpo_seed1.parquet": parquet_of(columns)}


def mlflow() -> Files:
    """Return MLflow's database of two runs, of the tables that are read."""
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "mlflow.db"
        written_by(_MLFLOW, f"sqlite:///{file}", Path(made))
        with closing(sqlite3.connect(file, isolation_level=None)) as base:
            _cut_down(base, ("experiments", "runs", "metrics", "latest_metrics", "params", "tags"))
        return {"mlflow.db": file.read_bytes()}


def _cut_down(base: sqlite3.Connection, tables: Sequence[str]) -> None:
    base.execute("PRAGMA foreign_keys = OFF")
    for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if name not in tables and not name.startswith("sqlite_"):
            base.execute(f'DROP TABLE "{name}"')
    base.execute("PRAGMA page_size = 1024")
    base.execute("VACUUM")


def mlflow_folder() -> Files:
    """Return MLflow's older store, a folder of small files."""
    with tempfile.TemporaryDirectory() as made:
        written_by(_MLFLOW, f"{made}/mlruns", Path(made))
        return files_in(Path(made))


def trackio() -> Files:
    """Return trackio's database, and another with rows that are still in its write-ahead log."""
    with tempfile.TemporaryDirectory() as made:
        try:
            written_by(_TRACKIO, made, Path(made))
            (file,) = Path(made).glob("*.db")
        except (subprocess.CalledProcessError, ValueError):
            print("trackio is not installed: its tables are written here", file=sys.stderr)
            file = Path(made) / "p.db"
            with closing(sqlite3.connect(file)) as base:
                base.executescript(_TRACKIO_TABLES)
        add = "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES ('r', ?, 'grpo_seed1', ?, ?)"
        rows = [("2026-01-01T00:00:00+00:00", i, json.dumps({"reward": i / 12, "v": {"x": "NaN"}})) for i in range(12)]
        with closing(sqlite3.connect(file, isolation_level=None)) as base:
            base.execute("PRAGMA journal_mode = DELETE")
            _cut_down(base, ("metrics", "configs"))
            base.executemany(add, rows)
            whole = file.read_bytes()
            base.execute("PRAGMA journal_mode = WAL")
            base.executemany(add, rows)
            beside = Path(f"{file}-wal").read_bytes()
            return {"p.db": whole, "q.db": file.read_bytes(), "q.db-wal": beside}


def parquet() -> Files:
    """Return a table of two runs."""
    columns = {"step": list(range(40)), "acc": [i / 40 for i in range(40)], "recipe": ["a", "b"] * 20}
    return {"log.parquet": parquet_of(columns)}


def parquet_of(columns: dict[str, Any]) -> bytes:
    """Return columns as pyarrow writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def table() -> Files:
    """Return tables of one run and of several, and one that another spreadsheet saved."""
    one = "step,gpu_hours,accuracy,note\n" + "".join(f'{i},{i / 8},{i / 12},"a, b"\n' for i in range(12))
    runs = "recipe;seed;step;pass_rate\n" + "".join(f"grpo;{i % 2};{i // 2};{i / 12}\n" for i in range(12))
    tabs = "step\tacc %\ttime\r\n" + "".join(f"{i}\t{8 * i}\t{i}\r\n" for i in range(12))
    return {"one.csv": one.encode(), "runs.csv": runs.encode(), "tabs.tsv": tabs.encode("utf-16")}


def own() -> Files:
    """Return run folders as `RunLog` writes them, one of them packed."""
    from scalerl.runlog import RunLog

    with tempfile.TemporaryDirectory() as made:
        for name in ("a", "b"):
            with RunLog(Path(made) / name, recipe="mine", seed=3, devices=8) as log:
                for step in range(1, 9):
                    log.step(step, loss=math.cos(step), learning_rate=1e-5 if step < 4 else 1e-6)
                    log.evaluate(correct=[step % 4, 2], k=4)
                log.event("guard", guard="kl", raised=True)
        files = files_in(Path(made))
    files = {name: data for name, data in files.items() if name.endswith(("log.jsonl", "run.json"))}
    return {**files, "b/log.jsonl.gz": gzip.compress(files.pop("b/log.jsonl"), mtime=0)}


def trl_folder() -> Files:
    """Return the output folder of a TRL run: two checkpoints, event files, and what else lies there."""
    history = [{"step": i, "epoch": i / 12, "reward": 0.5, "step_time": 1.5, "num_tokens": 99 * i} for i in range(12)]
    history += [{"step": 12, "eval_rewards/right/mean": 0.25, "eval_loss": 0.1}]
    made = {"training_args.bin": b"\x80\x04\x95no pickle is opened", "README.md": b"# grpo\n", "config.json": b"{}"}
    for count in (8, 13):
        state = {"global_step": count, "log_history": history[:count], "max_steps": 12}
        made[f"checkpoint-{count}/trainer_state.json"] = json.dumps(state, indent=2).encode()
        made[f"checkpoint-{count}/rng_state.pth"] = b"PK\x03\x04"
    events = next(iter(tensorboard().values()))
    made["runs/Nov28_host/events.out.tfevents.1"] = events
    return {f"grpo_seed3/{name}": data for name, data in made.items()}


@functools.lru_cache(maxsize=10_000)
def masked_sum(data: bytes) -> int:
    """Return the sum that stands behind a record of an event file."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return int(masked_crc32c(data))


def framed(records: Sequence[bytes]) -> bytes:
    """Return records as an event file holds them, with their sums."""
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        sums = [struct.pack("<I", masked_sum(part)) for part in (length, record)]
        parts.append(length + sums[0] + record + sums[1])
    return b"".join(parts)


def pieces(records: Sequence[bytes]) -> bytes:
    """Return records as pieces of a log of LevelDB, behind a head of seven bytes."""
    made, position = bytearray(), 7
    for record in records:
        rest, first = record, True
        while first or rest:
            left = 32768 - position % 32768
            if left < 7:
                made += b"\0" * left
                position += left
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = 1 + (0 if first and not rest else 1 if first else 2 if rest else 3)
            made += struct.pack("<IHB", zlib.crc32(piece, zlib.crc32(bytes([kind]))), len(piece), kind) + piece
            position += 7 + len(piece)
            first = False
    return bytes(made)
