"""The log: whole after a cut anywhere, damage named by line, nothing written over, every field described."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalerl.meter import Meter
from scalerl.runlog import (
    BEST_FOLDER,
    CHECKPOINT_FOLDER,
    COMPUTE_AXES,
    DOWNSTREAM_FIELDS,
    EVAL_FIELDS,
    HEADER_FILE,
    LOG_FILE,
    LOST_FOLDER,
    MODEL_FOLDER,
    SAMPLES_FILE,
    STEP_FIELDS,
    TIME_FIELDS,
    Resume,
    RunLog,
    RunLogError,
    read_header,
    read_log,
    refuse_if_held,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    with RunLog(tmp_path / "run", recipe="mine", seed=3, devices=8, device_kind="a kind") as log:
        log.evaluate(step=0, correct=[1, 0, 4], k=4)
        log.step(step=1, reward_sum=-2.0, reward_count=12)
        log.event("note", text="naïve — ünïcode")
        log.evaluate(step=1, correct=[4, 4, 4], k=4)
    return tmp_path / "run"


def test_what_was_written_is_read(folder):
    rows, cut = read_log(folder / "log.jsonl")
    assert not cut
    assert [(row["kind"], row.get("event")) for row in rows] == [
        ("event", "start"), ("eval", None), ("step", None), ("event", "note"), ("eval", None), ("event", "end"),
    ]  # fmt: skip
    assert rows[1]["pass_rate"] == 5 / 12 and rows[1]["n_prompts"] == 3 and rows[1]["correct"] == [1, 0, 4]
    assert rows[4]["pass_rate"] == 1 and rows[4]["gpu_hours"] >= rows[2]["gpu_hours"] >= rows[1]["gpu_hours"] >= 0
    header = read_header(folder)
    assert header["recipe"] == "mine" and header["seed"] == 3 and header["devices"] == {"kind": "a kind", "count": 8}


def test_a_log_cut_at_every_byte_gives_its_whole_rows(folder, tmp_path):
    data = (folder / "log.jsonl").read_bytes()
    lines = data.splitlines()
    path = tmp_path / "cut.jsonl"
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        whole = data[:end].count(b"\n")
        partial = data[:end].split(b"\n")[-1]
        if whole == 0 and partial != lines[0]:
            with pytest.raises(RunLogError, match=r"cut\.jsonl"):
                read_log(path)
            continue
        rows, cut = read_log(path)
        complete = whole < len(lines) and partial == lines[whole]
        assert rows == [json.loads(line) for line in lines[: whole + complete]]
        assert cut == (bool(partial) and not complete)


@pytest.mark.parametrize("junk", [b"{oops}", b"[1]", b"\xff\xfe", b"NaN", b'{"a": NaN}', b"1" * 5000 + b"x"])
def test_damage_in_the_middle_is_an_error_with_its_line(folder, junk):
    path = folder / "log.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], junk, *lines[2:], b""]))
    with pytest.raises(RunLogError, match=r"log\.jsonl:3: not a JSON object; the log is damaged here"):
        read_log(path)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), (b"", "empty"), (b" \n\n", "empty")])
def test_missing_and_empty_logs(tmp_path, content, message):
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunLogError, match=message):
        read_log(path)


def test_a_folder_with_a_run_is_refused_and_left_alone(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(RunLogError, match="holds a run already"), RunLog(folder, recipe="other"):
        pass
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["checkpoints", "lost", "model", "samples.jsonl"])
def test_a_folder_with_any_part_of_a_run_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(RunLogError, match=rf"holds a run already \({name}\)"), RunLog(tmp_path / "run", recipe="x"):
        pass
    assert [p.name for p in (tmp_path / "run").iterdir()] == [name]


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLogError, match="cannot be written"), RunLog(tmp_path / "file" / "run", recipe="x"):
        pass


def test_nothing_that_is_not_finite_gets_into_a_log(tmp_path, caplog):
    with RunLog(tmp_path / "run", recipe="x") as log:
        log.step(step=1, loss=float("nan"), norms=[1.0, -float("inf")])
        log.step(step=2, loss=float("nan"))
    text = (tmp_path / "run" / "log.jsonl").read_text()
    one, two = (row for row in map(json.loads, text.splitlines()) if row["kind"] == "step")
    assert one["loss"] is None and one["norms"] == [1.0, None] and one["not_finite"] == {"loss": "nan", "norms": "-inf"}
    assert two["not_finite"] == {"loss": "nan"} and "NaN" not in text and "Infinity" not in text
    assert [record.getMessage().count("loss is nan") for record in caplog.records] == [1, 0]  # said once


@pytest.mark.parametrize(("correct", "k"), [([], 4), ([5], 4), ([-1], 4), ([1], 0)])
def test_impossible_counts_are_refused(tmp_path, correct, k):
    with RunLog(tmp_path / "run", recipe="x") as log, pytest.raises(RunLogError, match=r"correct|^k is 0"):
        log.evaluate(step=0, correct=correct, k=k)


def test_rows_outlive_a_kill(tmp_path):
    """A process killed outright leaves every row that it was told of."""
    code = """
import sys
from scalerl.runlog import RunLog
with RunLog(sys.argv[1], recipe="killed") as log:
    for step in range(1, 10**6):
        log.step(step=step)
        print(step, flush=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    steps = [row["step"] for row in read_log(tmp_path / "run" / "log.jsonl").rows if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= told >= 20


def test_the_header_of_another_schema_is_refused(folder):
    path = folder / "run.json"
    header = json.loads(path.read_text())
    for text in ("", "[]", json.dumps({**header, "schema_version": 99}), json.dumps({**header, "schema_version": "1"})):
        path.write_text(text)
        with pytest.raises(RunLogError, match=r"run\.json"):
            read_header(folder)


def test_gpu_hours_count_idle_time_and_devices_but_not_evaluations():
    clock = iter([0.0, 100.0, 100.0, 700.0, 700.0, 1000.0, 1000.0, 1000.0])
    cpu = iter([0.0, 60.0, 200.0, 260.0])
    meter = Meter(4, wall=lambda: next(clock), cpu=lambda: next(cpu))
    meter.start()
    with meter.apart("evaluate"):
        pass
    assert meter.apart_s == {"evaluate": 600.0}
    assert meter.gpu_hours == pytest.approx((100 + 300) * 4 / 3600)
    assert meter.cpu_s == pytest.approx(60 + 60)


def test_a_step_rows_phases_are_its_own(tmp_path):
    with RunLog(tmp_path / "run", recipe="x") as log:
        with log.meter.phase("generate"):
            time.sleep(0.02)
        log.step(step=1)
        log.step(step=2)
    one, two = (row for row in read_log(tmp_path / "run" / "log.jsonl").rows if row["kind"] == "step")
    assert one["generate_s"] >= 0.02 and "generate_s" not in two


@pytest.mark.parametrize("name", ["log.jsonl", "run.json"])
def test_pipes_and_devices_are_not_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunLogError, match="no regular file"):
        read_log(tmp_path / name) if name == "log.jsonl" else read_header(tmp_path)
    with pytest.raises(RunLogError, match="no regular file"):
        read_log("/dev/zero")


def test_a_row_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path, monkeypatch):
    """os.write that writes half, as on a full disk: the half is taken back and the file stays readable."""
    real = os.write
    with pytest.raises(RunLogError, match="No space left"), RunLog(tmp_path / "run", recipe="x") as log:
        log.step(step=1)
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        log.step(step=2)
    monkeypatch.undo()
    rows, cut = read_log(tmp_path / "run" / "log.jsonl")
    assert not cut and [row.get("step", row.get("event")) for row in rows] == ["start", 1]


DOCS = Path("docs/log-format.md")


def table(head: str) -> dict[str, str]:
    """Rows of the first table behind a heading of the docs, the name without its backticks."""
    part = DOCS.read_text().split(f"\n## {head}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|", 1) for line in part.splitlines() if line.startswith("| `")]
    return {name.strip().strip("`"): meaning.strip() for name, meaning in rows}


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ("Compute axes", COMPUTE_AXES),
        ("Rows of kind `step`", STEP_FIELDS),
        ("Rows of kind `eval`", EVAL_FIELDS),
        ("Rows of kind `downstream`", DOWNSTREAM_FIELDS),
    ],
)
def test_every_field_is_described_in_the_docs_and_no_other(head, fields):
    assert table(head) == fields


def calls(name: str) -> set[str]:
    """First arguments of the calls of a method of that name anywhere in the trainer."""
    nodes = [n for path in Path("scalerl").rglob("*.py") for n in ast.walk(ast.parse(path.read_text()))]
    made = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == name]
    return {n.args[0].value for n in made if n.args and isinstance(n.args[0], ast.Constant)}


def test_every_kind_of_event_is_described_in_the_docs_and_no_other():
    assert set(table("Rows of kind `event`")) == calls("event")
    assert len(calls("event")) == 17


def test_time_fields_files_and_folders_are_named_in_the_docs():
    text = DOCS.read_text()
    part = text.split("\n## What is the same in two runs\n")[1].split("\n## ")[0].split(". Everything else")[0]
    assert set(re.findall(r"`(\w+)`", part)) == TIME_FIELDS
    for name in (
        HEADER_FILE,
        LOG_FILE,
        SAMPLES_FILE,
        *(f"{f}/" for f in (MODEL_FOLDER, BEST_FOLDER, CHECKPOINT_FOLDER, LOST_FOLDER)),
    ):
        assert re.search(rf"^    {re.escape(name)} +\w", text, re.MULTILINE), name


def test_the_log_is_on_disk_before_the_call_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (real(fd), synced.append(fd)))
    with RunLog(tmp_path / "run", recipe="x") as log:
        before = len(synced)
        log.step(step=1)
        log.evaluate(step=1, correct=[1], k=1)
        assert len(synced) == before + 2


@pytest.mark.parametrize("replaced", [True, False])
def test_a_log_replaced_or_removed_under_a_run_stops_it_and_nothing_is_hidden(tmp_path, replaced):
    folder, held = tmp_path / "run", b""

    def run() -> None:
        nonlocal held
        with RunLog(folder, recipe="mine") as log:
            log.step(step=1)
            held = (folder / "log.jsonl").read_bytes()
            (folder / "log.jsonl").rename(tmp_path / "old")
            if replaced:
                (folder / "log.jsonl").write_bytes(held)
            log.step(step=2)

    with pytest.raises(RunLogError, match="was replaced or removed while the run wrote"):
        run()
    assert (tmp_path / "old").read_bytes() == held
    assert (folder / "log.jsonl").exists() == replaced


def test_a_run_in_a_place_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunLogError, match="is a file; a run needs a folder"):
        RunLog(tmp_path / "file", recipe="mine").refuse_if_taken()


def test_a_log_that_another_process_went_on_with_meanwhile_is_refused(tmp_path):
    with RunLog(tmp_path, recipe="mine") as log:
        log.step(step=1)
    at = Resume(step=0, mark=None, fields={}, stamp=refuse_if_held(tmp_path))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("{}\n")
    held = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(RunLogError, match="meanwhile"):
        RunLog(tmp_path, recipe="mine", resume=at).__enter__()
    assert (tmp_path / "log.jsonl").read_bytes() == held
