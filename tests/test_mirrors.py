"""Rows are mirrored through each tool's own package and read back with it; a mirror that fails stops nothing."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from scalerl import mirrors
from scalerl.config import ConfigError, load_config
from scalerl.runlog import RunLog, UserError, read_log

STEPS = 4


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """Stores of the tools lie in the test's folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, *names: str) -> list[tuple[int, str, float]]:
    """A run that is cut off and goes on; return what every attempt should have sent: (attempt, step, name, value)."""
    sent = []
    for attempt, (first, last) in enumerate([(0, STEPS), (2, STEPS)], start=1):
        log = RunLog(folder, recipe="mine", seed=0, devices=8, resume_step=first, report_to=names).__enter__()
        if first == 0:
            log.evaluate(correct=[1, 2], k=4)
        for step in range(first + 1, last + 1):
            log.step(step, loss=1 / step / attempt, skipped=False, **{"rewards/a b@1": 0.25, "norms": [1.0, 2.0]})
            log.evaluate(pass_rate=0.1 * step, n_prompts=2, k=4)
        rows = [r for r in read_log(folder / "log.jsonl").rows if r.get("attempt") == attempt and "step" in r]
        for row in rows:
            if row["kind"] in ("step", "eval"):
                sent += [(attempt, row["step"], n, v) for n, v in mirrors.figures(row).items()]
        log.close()
    return sent


def write_elsewhere(folder: Path, name: str) -> list[tuple[int, str, float]]:
    """The same in a process of its own: wandb writes its file whole only when its process ends, and threads that its
    telemetry starts in every later fork would break the sandbox of other tests."""
    code = "import json, sys; from pathlib import Path; from tests.test_mirrors import write; "
    code += "print('sent', json.dumps(write(Path(sys.argv[1]), sys.argv[2])))"
    done = subprocess.run([sys.executable, "-c", code, str(folder), name], capture_output=True, text=True, check=True)
    said = next(line for line in done.stdout.splitlines() if line.startswith("sent "))
    return [tuple(one) for one in json.loads(said.removeprefix("sent "))]


def test_tensorboard_has_every_value_of_every_attempt(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent = write(tmp_path / "run", "tensorboard")
    found = []
    for attempt in (1, 2):
        events = EventAccumulator(str(tmp_path / "run/tensorboard" / f"attempt-{attempt}"), {"scalars": 0}).Reload()
        found += [(attempt, e.step, tag, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    assert len(found) == len(sent) > 30
    for (*there, value), (*here, written) in zip(sorted(found), sorted(sent), strict=True):
        assert there == here and value == pytest.approx(written, rel=1e-6)  # its floats are of 32 bits
    assert {tag for _, _, tag, _ in found} >= {"gpu_hours", "attempt", "train/loss", "eval/pass_rate", "train/skipped"}


def test_mlflow_has_every_value_of_every_attempt(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        sent = write(tmp_path / "run", "mlflow")
        client = MlflowClient()
        runs = client.search_runs([client.get_experiment_by_name("scalerl").experiment_id])
        found = []
        for run in runs:
            assert run.data.tags["group"] == "mine-run" and run.info.status == "FINISHED"
            attempt = int(run.data.tags["attempt"])
            assert run.info.run_name == ("mine-run" if attempt == 1 else "mine-run-attempt2")
            for name in run.data.metrics:
                found += [(attempt, m.step, name, m.value) for m in client.get_metric_history(run.info.run_id, name)]
    assert sorted(found) == sorted((a, s, n.replace("@", "_"), v) for a, s, n, v in sent)


def records_of(file: Path) -> list[bytes]:
    """Records of a W&B file: a header of 7 bytes, then LevelDB's log of blocks of 32 KiB; the package has no reader."""
    data, place, parts, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        if kind == 0:
            break
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(parts)
            parts = b""
    return found


def test_wandb_offline_has_every_value_of_every_attempt(tmp_path):
    from wandb.proto import wandb_internal_pb2

    sent = write_elsewhere(tmp_path / "run", "wandb")
    found = {}
    files = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for file in files:
        rows, attempt = [], 0
        for data in records_of(file):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                config = {item.key: item.value_json for item in record.run.config.update}
                attempt = int(config["attempt"])
                assert record.run.run_group == "mine-run" and record.run.project == "scalerl"
            if record.WhichOneof("record_type") == "history":
                items = {
                    (i.key or "/".join(i.nested_key)): float(i.value_json) for i in record.history.item if i.value_json
                }
                rows.append(items)
        for row in rows:
            found |= {(attempt, int(row["_step"]), n): v for n, v in row.items() if not n.startswith("_")}
    assert found == {(a, s, n): v for a, s, n, v in sent}


def test_trackio_has_every_value_of_every_attempt(tmp_path, monkeypatch):
    import sqlite3

    from trackio.utils import TRACKIO_DIR  # where it was when the package was imported, perhaps by another test

    monkeypatch.setenv("TRACKIO_PROJECT", "mirrors")
    sent = write(tmp_path / "run", "trackio")
    with sqlite3.connect(TRACKIO_DIR / "mirrors.db") as store:
        rows = store.execute("select run_name, step, metrics from metrics").fetchall()
    found = [
        (2 if name.endswith("-attempt2") else 1, step, n, v)
        for name, step, text in rows
        for n, v in json.loads(text).items()
    ]
    assert sorted(found) == sorted(sent)


def test_a_mirror_that_cannot_write_is_said_once_and_the_log_has_everything(tmp_path, caplog):
    with RunLog(tmp_path / "run", recipe="mine", resume_step=0, report_to=["tensorboard", "mlflow"]) as log:
        log.step(1)
        shutil.rmtree(tmp_path / "run" / "tensorboard")
        log._mirrors._open["tensorboard"]._writer.close()  # as a disk that is gone
        (tmp_path / "mlflow.db").write_bytes(b"no database")
        for step in (2, 3, 4):
            log.step(step, loss=0.5)
    said = [record.getMessage() for record in caplog.records if record.name == "scalerl.mirrors"]
    assert len(said) == 2 and all("failed and is left out from here; the log has everything" in line for line in said)
    assert all("\n" not in line for line in said)
    rows = read_log(tmp_path / "run" / "log.jsonl").rows
    assert [row.get("event", row.get("step")) for row in rows] == ["start", 1, 2, 3, 4, "end"]


def test_a_mirror_that_cannot_begin_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    with RunLog(tmp_path / "run", recipe="mine", report_to=["tensorboard"]) as log:
        log.step(1)
    assert "tensorboard failed and is left out" in caplog.text
    assert read_log(tmp_path / "run" / "log.jsonl").rows[-1]["event"] == "end"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorbord"], "there is no 'tensorbord'; there are tensorboard, wandb, trackio, mlflow"),
        (["wandb", "wandb"], "wandb stands there twice"),
        ("wandb", "is no list of names"),
        (["absent"], r"absent is not installed; pip install 'scalerl\[absent\]'"),
    ],
)
def test_a_name_that_cannot_be_is_one_line_before_anything_is_written(tmp_path, monkeypatch, names, message):
    (tmp_path / "a_package_that_nobody_has").mkdir()  # a folder such as wandb/ is no package
    monkeypatch.syspath_prepend(str(tmp_path))
    if names == ["absent"]:
        monkeypatch.setitem(mirrors.PACKAGES, "absent", "a_package_that_nobody_has")
    with pytest.raises(UserError, match=message):
        RunLog(tmp_path / "run", recipe="mine", report_to=names)
    assert not (tmp_path / "run").exists()


def test_the_trainer_mirrors_what_it_logs(tmp_path, quick, prompts):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from scalerl.start import train

    with pytest.raises(ConfigError, match="report_to"):
        load_config(["demo"], ["report_to=[tensorbord]"])
    config = quick(report_to="[tensorboard]", max_steps=2, eval_prompts=4)
    folder = train(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(tmp_path / "run"))
    events = EventAccumulator(str(folder / "tensorboard" / "attempt-1"), {"scalars": 0}).Reload()
    for row in read_log(folder / "log.jsonl").rows:
        if row["kind"] in ("step", "eval"):
            for name, value in mirrors.figures(row).items():
                near = [e.value for e in events.Scalars(name) if e.step == row["step"]]
                assert any(math.isclose(v, value, rel_tol=1e-6, abs_tol=1e-30) for v in near), name
