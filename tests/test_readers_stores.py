"""Stores of other programs: every pair of step and value that their own packages wrote, and nothing touched."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.readers import mlflow_store, parquet_table, scalars, tensorboard, trackio_store, wandb_files
from analysis.readers.formats import FORMATS, read_as, recognise
from analysis.readers.found import Found
from scalerl.runlog import UserError

DATA = Path(__file__).parent / "data" / "logs"
EVENTS_A_TAG = 3000


def pairs(found: Found, name: str) -> Counter[tuple[int, str]]:
    """Steps and values of a column, NaN equal to itself."""
    steps = found.table.columns[found.step]
    return wanted((s, v) for s, v in zip(steps, found.table.columns[name], strict=True) if v is not None)


def wanted(values) -> Counter[tuple[int, str]]:
    return Counter((step, repr(float(value))) for step, value in values)


def codes(found: Found) -> list[str]:
    return [one.code for one in found.findings]


# TensorBoard


def writer(folder, **options):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), **options)


def oracle(folder: Path) -> dict[str, list]:
    """What TensorBoard itself reads, without sampling and without leaving out what a restart repeats."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    return {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}


@pytest.fixture(scope="module")
def restarted(tmp_path_factory) -> Path:
    """Four tags, 12,000 scalars: an attempt of 1,800 steps, and another from step 1,200 on."""
    folder = tmp_path_factory.mktemp("tb") / "grpo_seed3"
    rng = np.random.default_rng(0)
    for steps, ending in ((range(1800), ".first"), (range(1200, 2400), ".second")):
        with writer(folder, filename_suffix=ending) as log:
            for step in steps:
                time = 1.7e9 + step + 5000 * (ending == ".second")
                for tag in ("reward", "loss", "kl", "eval/acc"):
                    log.add_scalar(tag, float(rng.normal()), step, walltime=time)
    return folder


def test_tensorboard_no_scalar_is_sampled_away_and_a_restart_is_a_start(restarted):
    (found,) = tensorboard.read(restarted)
    expected = oracle(restarted)
    assert sum(map(len, expected.values())) == 4 * EVENTS_A_TAG == 12_000
    for tag, events in expected.items():
        assert pairs(found, tag) == wanted((e.step, e.value) for e in events)
    assert found.starts == (1800,)
    assert found.table.columns["wall_time"][1800] == 1.7e9 + 1200 + 5000
    assert (found.label.recipe, found.label.seed, found.findings) == ("grpo", 3, ())
    assert recognise(restarted) == "tensorboard"


def test_tensorboard_attempts_are_in_the_order_of_their_times_not_of_their_names(tmp_path):
    for name, begin in (("y", 200.0), ("z", 100.0)):
        with writer(tmp_path, filename_suffix=name) as log:
            for step in range(3):
                log.add_scalar("acc", begin, step, walltime=begin + step)
    (found,) = tensorboard.read(tmp_path)
    assert found.table.columns["acc"] == [100.0] * 3 + [200.0] * 3


def test_tensorboard_new_summaries_doubles_and_the_arguments_of_a_trainer(tmp_path):
    with writer(tmp_path) as log:
        log.add_text("args", json.dumps({"seed": 7, "learning_rate": 1e-5}))
        for step in range(5):
            log.add_scalar("new", step / 7, step, new_style=True)
            log.add_scalar("old", step / 7, step)
            log.add_scalar("double", step / 7, step, new_style=True, double_precision=True)
            log.add_histogram("weights", np.arange(3.0), step)
        log.add_scalar("old", math.nan, 5)
        log.add_scalar("old", math.inf, 6)
    (found,) = tensorboard.read(tmp_path)
    expected = oracle(tmp_path)
    assert pairs(found, "old") == wanted((e.step, e.value) for e in expected["old"])
    assert pairs(found, "double") == wanted((step, step / 7) for step in range(5))  # the package rounds to 32 bits
    assert pairs(found, "new") == wanted((step, float(np.float32(step / 7))) for step in range(5))
    assert "weights" not in found.table.columns
    assert found.label.seed == 7


def test_tensorboard_train_and_validation_are_one_run_and_other_folders_are_runs(tmp_path):
    for inside, tag in (("a/train", "loss"), ("a/validation", "loss"), ("b", "loss"), ("b/losses_pg", "loss")):
        with writer(tmp_path / inside) as log:
            for step in range(3):
                log.add_scalar(tag, 0.5, step)
    with writer(tmp_path / "b" / "1690.1") as log:  # hyperparameters, as Hugging Face's Trainer writes them
        log.add_text("hparams", "x")
    (tmp_path / "b" / "back").symlink_to(tmp_path, target_is_directory=True)
    one, *others = tensorboard.read(tmp_path)
    assert one.label.name == "a"
    assert set(one.table.columns) == {"step", "wall_time", "train/loss", "validation/loss"}
    assert len(one.table.lines) == 3  # both parts fill the row of a step
    assert codes(one) == ["files-merged"]
    assert [found.label.name for found in others] == ["b", "losses_pg"]
    assert recognise(tmp_path / "a") == "tensorboard"


def test_tensorboard_damage_is_read_up_to_the_fault_as_the_package_does(restarted, tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    whole = next(restarted.glob("*.first")).read_bytes()[:20_000]
    rng = random.Random(1)  # noqa: S311
    for i in range(60):
        data = bytearray(whole)
        if i % 2:
            data[rng.randrange(60, len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(200, len(data)) :]
        file = tmp_path / f"events.out.tfevents.{i}"
        file.write_bytes(data)
        (found,) = tensorboard.read(file)
        try:
            sound = sum(len(event.summary.value) for event in LegacyEventFileLoader(str(file)).Load())
        except Exception:  # the package trusts a length that its sum belies
            sound = None
        values = sum(v is not None for tag in ("reward", "loss", "kl", "eval/acc") for v in found.table.columns[tag])
        assert sound in {None, values}
        assert codes(found) in ([], ["log-cut"], ["log-damaged"])
        assert bool(codes(found)) or not i % 2  # a cut between two records leaves no trace


def test_tensorboard_a_length_of_an_exabyte_is_no_memory(tmp_path):
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with writer(tmp_path) as log:
        log.add_scalar("acc", 0.5, 1)
    (file,) = tmp_path.iterdir()
    length = (1 << 62).to_bytes(8, "little")
    file.write_bytes(file.read_bytes() + length + masked_crc32c(length).to_bytes(4, "little") + b"x" * 9)
    (found,) = tensorboard.read(file)
    assert found.table.columns["acc"] == [0.5]
    assert codes(found) == ["log-cut"]


def test_tensorboard_the_csv_of_its_page(tmp_path):
    file = tmp_path / "run-grpo_seed2-tag-eval_acc.csv"
    rows = "".join(f"{1.7e9 + i},{i},{i / 1000}\n" for i in range(1000))
    file.write_text("Wall time,Step,Value\n" + rows)
    (found,) = read_as(recognise(file), file)
    assert (found.label.name, found.label.seed, found.step) == ("grpo_seed2", 2, "step")
    assert found.table.columns["eval_acc"][7] == "0.007"
    assert codes(found) == ["sampled"]


# Weights & Biases

WANDB = """
import math, os, wandb
quiet = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off", silent=True)
about = dict(mode="offline", project="p", id="abc", name="grpo_seed4", config={"seed": 4})
for first, last in ((0, 80), (50, 100)):
    with wandb.init(**about, settings=quiet) as run:
        for step in range(first, last):
            run.log({"train/reward": step / 7, "nested": {"x": step}}, step=step)
            if step % 10 == 0:
                run.log({"eval/acc": math.nan if step == 60 else step / 100}, step=step)
        table = wandb.Table(columns=["a"], data=[[1]])
        run.log({"picture": wandb.Histogram([1, 2, 3]), "table": table, "train/reward": 0.0}, step=last)
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Path:
    """A run that died at step 80 and went on from step 50, logged without a network."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb")
    env = {**os.environ, "WANDB_DIR": str(folder), "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    subprocess.run([sys.executable, "-c", WANDB], env=env, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder / "wandb"


def test_wandb_offline_every_row_of_both_attempts(offline):
    (found,) = read_as(recognise(offline), offline)
    steps = [*range(80), *range(50, 100)]
    assert pairs(found, "train/reward") == wanted([(s, s / 7) for s in steps] + [(80, 0), (100, 0)])
    assert pairs(found, "nested.x") == wanted((s, s) for s in steps)
    every_tenth = [s for s in steps if s % 10 == 0]
    assert pairs(found, "eval/acc") == wanted((s, math.nan if s == 60 else s / 100 if s else 0) for s in every_tenth)
    assert found.starts == (81,)
    assert (found.label.name, found.label.seed, found.header["config"]["seed"]) == ("grpo_seed4", 4, 4)
    assert set(found.table.columns) == {"_step", "_runtime", "_timestamp", "train/reward", "nested.x", "eval/acc"}
    assert {"_timestamp", "_runtime"} <= set(found.table.columns)


def test_wandb_offline_a_cut_or_damaged_file_is_read_up_to_there(offline, tmp_path):
    file = min(offline.glob("offline-run-*/*.wandb"))
    data = bytearray(file.read_bytes())
    assert recognise(file) == "wandb"
    (whole,) = wandb_files.read(file)
    cut = tmp_path / "run-cut.wandb"
    cut.write_bytes(data[: len(data) // 2])
    (found,) = wandb_files.read(cut)
    assert 0 < len(found.table.lines) < len(whole.table.lines)
    assert codes(found) == ["log-cut"]
    data[len(data) // 2] ^= 4
    cut.write_bytes(data)
    (found,) = wandb_files.read(cut)
    assert 0 < len(found.table.lines) < len(whole.table.lines)
    assert codes(found) == ["log-damaged"]


def test_wandb_the_export_of_its_page():
    file = DATA / "wandb_ui_export.csv"
    frame = pd.read_csv(file)
    (found,) = read_as(recognise(file), file)
    assert found.label.name == "17/04/2025_22:06:37_elie-48n-1704-part1_tp_group_0"
    assert list(found.table.columns) == ["Step", "lm_loss"]
    assert [int(s) for s in found.table.columns["Step"]] == frame["Step"].tolist()
    assert [float(v) for v in found.table.columns["lm_loss"]] == frame.iloc[:, 1].tolist()
    assert [(one.code, one.severity) for one in found.findings] == [("sampled", "note")]


def test_wandb_runs_side_by_side_become_runs_and_averages_are_flagged(tmp_path):
    header = ["Step"] + [f"{run} - acc{e}" for run in ("a - b_seed1", "../<script>\t") for e in ("", "__MIN", "__MAX")]
    rows = [["0", ".1", ".1", ".1", "", "", ""], ["5", ".2", ".1", ".3", ".6", ".6", ".6"]]
    file = tmp_path / "export.csv"
    file.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in [header, *rows]) + "\n")
    one, other = read_as(recognise(file), file)
    assert (one.label.name, one.label.seed, one.table.columns["acc"]) == ("a - b_seed1", 1, [".1", ".2"])
    assert (other.label.name, other.table.columns["Step"], other.table.columns["acc"]) == (
        "../<script>?",
        ["5"],
        [".6"],
    )
    assert [one.findings[0].severity, other.findings[0].severity] == ["warning", "note"]
    assert "1 of them are averages" in one.findings[0].message


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_wandb_history_says_where_refused_rows_may_be(tmp_path, ending):
    time = 1.7e9 + np.arange(60.0) + np.where(np.arange(60) >= 40, 7200.0, 0.0)
    frame = pd.DataFrame(
        {"_step": range(60), "_runtime": time - 1.7e9, "_timestamp": time, "eval/acc": np.arange(60) / 60}
    )
    file = tmp_path / f"grpo_seed1.{ending}"
    frame.to_csv(file, index=False) if ending == "csv" else frame.to_parquet(file)
    (found,) = read_as(recognise(file), file)
    assert (found.format, found.step, found.label.seed) == ("wandb", "_step", 1)
    assert [float(v) for v in found.table.columns["eval/acc"]] == frame["eval/acc"].tolist()
    (said,) = found.findings
    assert said.code == "refused-rows"
    assert "2 h before step 40" in said.message


# MLflow


def logged(seed: int) -> dict[str, list[tuple[int, float]]]:
    """Metrics of a run: dense, with what is no number, and sparse."""
    dense = [(i, math.nan if i == 3 else math.inf if i == 4 else i / 7 + seed) for i in range(120)]
    return {"train/reward": dense, "eval/acc": [(i, i / 120) for i in range(0, 120, 20)]}


@pytest.fixture(params=["sqlite:///{}/mlflow.db", "{}/mlruns"])
def mlflow_written(request, tmp_path, monkeypatch):
    """A store that MLflow wrote (two runs and a deleted one, steps logged again), and the client that reads it."""
    for package in ("mlflow", *(["sqlalchemy", "alembic"] if "sqlite" in request.param else [])):
        pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=request.param.format(tmp_path))
        experiment = client.create_experiment("math")
        for seed in (1, 2, 3):
            run = client.create_run(experiment, run_name=f"grpo_seed{seed}").info.run_id
            client.log_batch(run, params=[Param("lr", "1e-5")])
            for begin, times in ((0, 1_700_000_000_000), (80, 1_700_000_900_000)):
                points = [
                    Metric(name, value, times + step * 1000, step)
                    for name, values in logged(seed).items()
                    for step, value in values
                    if step >= begin and (begin or step < 100)
                ]
                client.log_batch(run, metrics=points)
            client.log_batch(run, metrics=[Metric("system/gpu", 1.0, 1_700_000_000_000, 0)])
            client.set_terminated(run)
        client.delete_run(run)
        yield next(p for p in tmp_path.iterdir() if p.name.startswith("ml")), client, experiment


def test_mlflow_every_point_of_its_own_client(mlflow_written):
    path, client, experiment = mlflow_written
    found = read_as(recognise(path), path)
    runs = {run.info.run_id: run for run in client.search_runs([experiment])}
    assert sorted(one.label.name for one in found) == ["grpo_seed1", "grpo_seed2"]
    for one in found:
        run = runs[one.header["run_id"]]
        for name in ("train/reward", "eval/acc"):
            history = client.get_metric_history(run.info.run_id, name)
            infinite = 1.7976931348623157e308  # what the database keeps for it
            values = [(m.step, math.inf if m.value == infinite else m.value) for m in history]
            assert pairs(one, name) == wanted(values)
            at = {(s, t) for s, t in zip(one.table.columns["step"], one.table.columns["wall_time"], strict=True)}
            assert {(m.step, m.timestamp / 1000) for m in history} <= at
        steps = one.table.columns["step"]
        assert steps == [*range(100), *range(80, 120)]
        assert (one.header["experiment"], one.header["params"]) == ("math", {"lr": "1e-5"})
        assert one.dropped["metrics of the machine"] == 1
        assert one.start_time[:4].isdigit() and one.end_time[:4].isdigit()
    assert found[0].dropped["deleted runs"] == 1


MLFLOW_TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT, status TEXT, start_time BIGINT, end_time BIGINT,
    lifecycle_stage TEXT, experiment_id INTEGER);
CREATE TABLE metrics (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT, step BIGINT, is_nan BOOLEAN);
CREATE TABLE latest_metrics (key TEXT); CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);
INSERT INTO experiments VALUES (1, 'math');
"""


def mlflow_database(path: Path, runs: dict[str, list[tuple]]) -> Path:
    """A database with the tables of MLflow that are read; rows are key, value, milliseconds, step, is_nan."""
    with closing(sqlite3.connect(path)) as base:
        base.executescript(MLFLOW_TABLES)
        for run, rows in runs.items():
            base.execute("INSERT INTO runs VALUES (?, ?, 'FINISHED', 1, 2, 'active', 1)", (run, run))
            base.executemany(
                "INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", [(k, v, t, run, s, n) for k, v, t, s, n in rows]
            )
        base.commit()
    return path


def test_mlflow_metrics_written_one_after_the_other_share_the_rows_of_their_steps(tmp_path):
    rows = [("a", i / 10, 1000 + i, i, 0) for i in range(0, 10, 2)] + [
        ("b", 0.0, 2000 + i, i, i == 3) for i in range(10)
    ]
    (found,) = mlflow_store.read(mlflow_database(tmp_path / "mlflow.db", {"r": rows}))
    assert found.table.columns["step"] == list(range(10))
    assert pairs(found, "a") == wanted((i, i / 10) for i in range(0, 10, 2))
    assert math.isnan(found.table.columns["b"][3])


def test_mlflow_without_steps_rows_are_in_the_order_of_their_times(tmp_path):
    rows = [("acc", t / 10, 1_700_000_000_000 + 1000 * t, 0, 0) for t in (3, 1, 2)]
    (found,) = mlflow_store.read(mlflow_database(tmp_path / "mlflow.db", {"r": rows}))
    assert found.table.columns["acc"] == [0.1, 0.2, 0.3]
    assert (found.step, "step" in found.table.columns, codes(found)) == (None, False, ["no-steps"])


def test_names_that_are_sql_code_or_paths_are_names(tmp_path):
    names = ["'; DROP TABLE metrics; --", "<script>alert(1)</script>", "../../etc/passwd", "a\nb", '"']
    file = mlflow_database(
        tmp_path / "mlflow.db", {name: [(name, 1.0, 1, 1, 0), (name, 2.0, 2, 2, 0)] for name in names}
    )
    found = mlflow_store.read(file)
    assert {one.label.name for one in found} == {*names[:3], "a?b", '"'}
    assert all(one.table.columns[one.label.name] == [1.0, 2.0] for one in found)


# trackio


TRACKIO_TABLES = """
CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, timestamp TEXT NOT NULL,
    run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL);
CREATE TABLE configs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT, run_name TEXT, config TEXT, created_at TEXT);
"""
TRACKIO_ROW = (
    "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES (?, '2026-01-01T00:00:00+00:00', ?, ?, ?)"
)


def state(folder: Path) -> dict[str, tuple]:
    return {p.name: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in folder.iterdir()}


def test_trackio_rows_in_the_write_ahead_log_are_seen_and_nothing_is_touched(tmp_path):
    file = tmp_path / "project.db"
    with closing(sqlite3.connect(file)) as base:
        base.execute("PRAGMA journal_mode = WAL")
        base.executescript(TRACKIO_TABLES)
        base.execute("INSERT INTO configs (run_id, run_name, config) VALUES ('r1', 'one', '{\"seed\": 5}')")
        for step in range(50):
            base.execute(TRACKIO_ROW, ("r1", "one", step, json.dumps({"acc": step / 7, "v": {"x": 1}})))
        base.execute(TRACKIO_ROW, ("r2", "two", 0, b'{"acc": "NaN", "text": "word"}'))
        base.commit()
        assert (tmp_path / "project.db-wal").stat().st_size > file.stat().st_size
        base.execute("BEGIN EXCLUSIVE")  # as a program does that writes just now
        base.execute(TRACKIO_ROW, ("r1", "one", 99, "{}"))
        before = state(tmp_path)
        one, two = read_as(recognise(file), file)
        assert state(tmp_path) == before
        base.rollback()
    assert pairs(one, "acc") == wanted((step, step / 7) for step in range(50))
    assert (one.label.name, one.label.seed, one.table.columns["v/x"][0]) == ("one", 5, 1)
    assert one.table.columns["wall_time"][0] == 1767225600.0
    assert math.isnan(two.table.columns["acc"][0])


def test_trackio_steps_that_fall_back_keep_their_order_for_the_lineage(tmp_path):
    file = tmp_path / "project.db"
    with closing(sqlite3.connect(file)) as base:
        base.executescript(TRACKIO_TABLES)
        base.executemany(TRACKIO_ROW, [("r", "r", s, '{"a": 1}') for s in (0, 1, 2, 1, 2)] + [("r", "r", 3, "[1")])
        base.commit()
    (found,) = trackio_store.read(file)
    assert found.table.columns["step"] == [0, 1, 2, 1, 2]
    assert found.dropped == {"not a JSON object": 1}


def test_trackio_every_pair_that_its_own_package_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path)
    rows = [{"reward": s / 7, "odd": (math.nan, math.inf, -math.inf, 1.0)[s % 4]} for s in range(500)]
    sqlite_storage.SQLiteStorage.bulk_log("p", "grpo_seed6", rows, steps=list(range(500)), config={"seed": 6})
    (file,) = tmp_path.glob("*.db")
    (found,) = read_as(recognise(file), file)
    theirs = sqlite_storage.SQLiteStorage.get_logs("p", "grpo_seed6", max_points=None)
    assert len(theirs) == 500
    for name in ("reward", "odd"):
        assert pairs(found, name) == wanted((row["step"], row[name]) for row in theirs)
    assert (found.label.recipe, found.label.seed) == ("grpo", 6)


# Parquet


def test_parquet_the_cells_of_pandas(tmp_path):
    frame = pd.DataFrame(
        {
            "step": range(6),
            "acc": [0.1, None, math.inf, 0.4, 0.5, 0.6],
            "recipe": ["a"] * 3 + ["b"] * 3,
            "run.name": ["x"] * 6,
            "run": pd.Categorical(["p", "p", "p", "q", "q", "q"]),
            "when": pd.date_range("2026-01-01", periods=6),
            "ids": [[1]] * 6,
        }
    )
    file = tmp_path / "log.parquet"
    frame.to_parquet(file)
    one, two = read_as(recognise(file), file)
    assert (one.label.name, two.label.name, one.step) == ("p", "q", "step")
    assert [*one.table.columns["acc"], *two.table.columns["acc"]] == [0.1, None, math.inf, 0.4, 0.5, 0.6]
    assert "when, ids" in one.findings[0].message


def test_parquet_that_unfolds_to_a_billion_cells_is_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "bomb.parquet"
    table = pa.table({"acc": pa.nulls(1_000_000, pa.float64())})
    with pq.ParquetWriter(file, table.schema) as log:
        for _ in range(60):
            log.write_table(table)
    assert file.stat().st_size < 200_000
    with pytest.raises(UserError, match="60000000 rows of 1 columns are more than fit in memory"):
        parquet_table.read(file)


# All of them


@pytest.mark.parametrize("again", [[("acc", 4), ("loss", 4)], [("loss", 4), ("acc", 4)]])
def test_a_step_that_is_logged_again_behind_others_begins_a_stretch(again):
    """Whichever of its names comes first: none may slip into the rows that were taken back."""
    several = scalars.Scalars("mine")
    for name, step in [("loss", 0), ("acc", 0), ("loss", 4), ("acc", 4), ("loss", 5), ("loss", 6), *again, ("loss", 5)]:
        several.add(name, step, 0.5, 0.0)
    assert several.table()[0].columns["step"] == [0, 4, 5, 6, 4, 5]


def test_one_name_a_row_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(scalars, "MOST_CELLS", 100_000)
    hostile = scalars.Scalars("hostile")
    with pytest.raises(UserError, match="are more than fit in memory"):
        for i in range(100_000):
            hostile.add(f"m{i}", i, 0.0, 0.0)


@pytest.fixture(scope="module")
def samples(restarted, offline, tmp_path_factory) -> dict[str, Path]:
    """A small file of each format."""
    folder = tmp_path_factory.mktemp("samples")
    events = folder / "events.out.tfevents.1"
    events.write_bytes(next(restarted.glob("*.first")).read_bytes()[:6000])
    base = folder / "trackio.db"
    with closing(sqlite3.connect(base)) as connection:
        connection.executescript(TRACKIO_TABLES)
        connection.executemany(TRACKIO_ROW, [("r", "r", s, '{"a": 1}') for s in range(40)])
        connection.commit()
    table = folder / "a.parquet"
    pd.DataFrame({"step": range(40), "acc": np.arange(40) / 40, "recipe": ["a", "b"] * 20}).to_parquet(table)
    return {
        "tensorboard": events,
        "wandb": min(offline.glob("offline-run-*/*.wandb")),
        "mlflow": mlflow_database(folder / "mlflow.db", {"r": [("a", 0.1, i, i, 0) for i in range(40)]}),
        "trackio": base,
        "parquet": table,
    }


def test_each_is_known_by_its_content_and_not_by_its_name(samples, tmp_path):
    for name, path in samples.items():
        plain = tmp_path / name
        plain.write_bytes(path.read_bytes())
        assert recognise(plain) == name
        assert read_as(name, plain)[0].format == name
        assert read_as(name, plain)[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio", "parquet"])
def test_damaged_files_are_one_line_or_what_is_sound_of_them(samples, tmp_path, name):
    whole, file = samples[name].read_bytes(), tmp_path / "a"
    rng = random.Random(name)  # noqa: S311
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        file.write_bytes(data)
        recognise(file)
        try:
            for found in read_as(name, file):
                assert found.table.lines
                assert {len(cells) for cells in found.table.columns.values()} == {len(found.table.lines)}
        except UserError as error:
            assert str(file) in str(error)
            assert len(str(error).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio", "parquet"])
def test_what_is_none_is_refused_in_one_line(tmp_path, name):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as base:
        base.executescript("CREATE TABLE metrics (a); CREATE VIEW runs AS SELECT 1; CREATE TABLE tags (key)")
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for entry in sorted(tmp_path.iterdir()):
        assert recognise(entry) != name
        with pytest.raises(UserError) as said:
            read_as(name, entry)
        assert entry.name in str(said.value)
        assert len(str(said.value).splitlines()) == 1


def test_a_view_in_the_place_of_a_table_is_not_run(tmp_path):
    file = tmp_path / "endless.db"
    with closing(sqlite3.connect(file)) as base:
        base.executescript(TRACKIO_TABLES.replace("CREATE TABLE metrics", "CREATE TABLE kept"))
        base.executescript(
            """CREATE VIEW metrics AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)
            SELECT id, 'r' AS run_id, '' AS timestamp, 'r' AS run_name, id AS step, '{}' AS metrics FROM n"""
        )
    assert recognise(file) != "trackio"
    with pytest.raises(UserError, match="has no metrics"):
        trackio_store.read(file)


def test_a_missing_package_is_named_with_what_installs_it(samples, monkeypatch):
    for name, module in (("tensorboard", "tensorboard.compat.proto"), ("wandb", "wandb.proto")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"needs the package .*pip install 'scalerl\[{FORMATS[name].extra}\]'"):
            read_as(name, samples[name])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow: pip install 'scalerl\[data\]'"):
        read_as("parquet", samples["parquet"])
