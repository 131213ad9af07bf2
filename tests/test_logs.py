"""Every log is read as fractions over compute, or refused in one line; what was left out is said."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path

import pytest

import analysis as an
from scalerl.meter import Meter
from scalerl.runlog import RunLog, UserError
from tests.made_logs import codes, one_line, write_csv, write_run

# ---- run folders


def test_a_run_folder_gives_every_axis_and_what_describes_an_evaluation(tmp_path):
    folder = write_run(tmp_path / "mine")
    run = an.read(folder)[0]
    assert (run.name, run.recipe, run.seed) == ("scalerl/seed0", "scalerl", 0)
    assert run.axes == ("gpu_hours", "cpu_s", "step")
    assert run.data["gpu_hours"].tolist() == [0.0, 1.0, 2.0]
    assert run.data["cpu_s"].tolist() == [0.0, 3600.0, 7200.0]
    assert run.data["pass_rate"].tolist() == [0.25, 0.5, 0.75]
    assert run.data["correct"].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert run.data["n_prompts"].tolist() == [2, 2, 2]
    assert run.sha256 == hashlib.sha256((folder / "log.jsonl").read_bytes()).hexdigest()
    assert run.findings == ()
    assert run.start_time is not None and run.end_time is not None and run.end_time >= run.start_time


def test_the_frame_has_one_row_an_evaluation(tmp_path):
    frame = an.read(write_run(tmp_path / "mine"))[0].frame
    assert frame["pass_rate"].tolist() == [0.25, 0.5, 0.75]
    assert frame["correct"].iloc[1] == [2, 2]


@pytest.mark.parametrize("shape", ["folder", "log", "parent", "pattern"])
def test_a_run_is_found_by_its_folder_its_log_a_folder_above_and_a_pattern(tmp_path, shape):
    folder = write_run(tmp_path / "deep" / "mine")
    (tmp_path / "deep" / "notes.txt").write_text("not a run")
    path = {"folder": folder, "log": folder / "log.jsonl", "parent": tmp_path, "pattern": f"{tmp_path}/deep/*"}[shape]
    assert an.read(path).names == ("scalerl/seed0",)


def test_runs_below_a_folder_come_sorted_and_one_given_twice_is_read_once(tmp_path):
    for name in ("b", "a"):
        write_run(tmp_path / name, recipe=name)
    assert an.read([tmp_path, tmp_path / "a"]).names == ("a/seed0", "b/seed0")


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("x/one", "x/two", "y/one"):
        write_run(tmp_path / name)
    names = an.read(tmp_path).names
    assert len(set(names)) == 3
    assert "scalerl/seed0 (two)" in names
    assert all(name.startswith("scalerl/seed0 (") for name in names)


def test_two_tables_of_one_name_are_two_recipes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "log.csv", "gpu_hours,accuracy\n0,.1\n1,.2\n")
    runs = an.read(f"{tmp_path}/*/log.csv")
    assert [run.recipe for run in runs] == ["log (a)", "log (b)"]


def test_a_cut_last_line_is_left_out_with_a_finding(tmp_path):
    log = write_run(tmp_path / "mine") / "log.jsonl"
    rows = log.read_bytes().splitlines(keepends=True)
    evals = [i for i, row in enumerate(rows) if b'"kind": "eval"' in row]
    log.write_bytes(b"".join(rows[: evals[-1]]) + rows[evals[-1]][:40])
    run = an.read(log)[0]
    assert run.data["pass_rate"].tolist() == [0.25, 0.5]
    assert codes(run) == ["log-cut"]
    assert run.end_time is None


def test_damage_in_the_middle_is_an_error_with_path_and_line(tmp_path):
    log = write_run(tmp_path / "mine") / "log.jsonl"
    rows = log.read_text().splitlines(keepends=True)
    rows[2] = rows[2][:20] + "\n"
    log.write_text("".join(rows))
    with pytest.raises(UserError, match=rf"{log}:3: "):
        an.read(log)


def test_a_log_without_header_is_read_and_says_so(tmp_path):
    folder = write_run(tmp_path / "mine")
    (folder / "run.json").unlink()
    run = an.read(folder)[0]
    assert (run.name, run.seed, codes(run)) == ("mine", None, ["no-header"])


def test_a_resumed_run_and_a_changed_prompt_set_are_said(tmp_path):
    with RunLog(tmp_path / "mine", recipe="r") as log:
        for i in range(3):
            log.attempt = 1 + i // 2
            log.evaluate(step=i, correct=[1], k=2, gpu_hours=float(i), cpu_s=0.0, prompt_set=str(i))
    run = an.read(tmp_path / "mine")[0]
    assert {"resumed", "prompt-set-changed"} <= set(codes(run))
    said = next(f for f in run.findings if f.code == "resumed")
    assert said.severity == "note" and "resumed (2 attempts)" in said.message and "step" not in said.message


@pytest.mark.parametrize("event", ["interrupted", "end"])
def test_an_end_that_later_rows_follow_is_no_end(tmp_path, event):
    log = write_run(tmp_path / "mine") / "log.jsonl"
    rows = log.read_text().splitlines(keepends=True)
    assert '"event": "end"' in rows[-1]
    more = '{"kind": "event", "event": "resume"}\n'
    log.write_text("".join([*rows[:-1], rows[-1].replace('"end"', f'"{event}"'), more]))
    assert an.read(log)[0].end_time is None


@pytest.mark.parametrize(
    ("kind", "devices", "wall_s", "busy"),
    [
        ("cpu", 1, 2.0, True),
        ("cpu", 1, 1.25, False),
        ("x86 CPU", 2, 2.6, True),
        ("cpu", 4, 0.5, False),
        ("NVIDIA H100", 1, 50.0, False),
    ],
)
def test_a_run_that_shared_its_machine_is_warned_of_on_a_cpu_alone(tmp_path, kind, devices, wall_s, busy):
    """Clocks that tick one CPU-second and `wall_s` wall seconds at every look."""
    walls, cpus = itertools.count(0, wall_s), itertools.count(0)
    meter = Meter(devices, wall=lambda: next(walls), cpu=lambda: next(cpus))
    made = RunLog(tmp_path / "a", recipe="r", devices=devices, device_kind=kind)
    made.meter = meter
    with made as log:
        for i in range(6):
            log.evaluate(step=i, correct=[i], k=8)
    run = an.read(tmp_path / "a")[0]
    assert (codes(run) == ["busy-machine"]) == busy and (codes(run) == []) == (not busy)
    if busy:
        said = run.findings[0]
        assert said.severity == "warning" and "--x cpu_s" in said.message
        assert said.figure == pytest.approx(wall_s)
        assert "busy-machine" in [f.code for f in an.fit(run).findings]
        assert "busy-machine" not in [f.code for f in an.fit(run, x="cpu_s").findings]


def test_a_header_of_other_programs_raises_no_warning_and_no_error(tmp_path):
    for i, devices in enumerate(["cpu", {"kind": "cpu", "count": 0}, {"kind": None}, {"kind": "cpu", "count": "2"}]):
        folder = write_run(tmp_path / str(i))
        header = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**header, "devices": devices}))
        assert codes(an.read(folder)[0]) == []


def test_two_logs_in_one_file_are_said(tmp_path):
    log = write_run(tmp_path / "mine") / "log.jsonl"
    log.write_bytes(log.read_bytes() * 2)
    assert "compute-restarts" in codes(an.read(log)[0])


def test_rows_that_are_no_numbers_are_dropped_and_counted(tmp_path):
    log = write_run(tmp_path / "mine") / "log.jsonl"
    bad = [
        {"kind": "eval", "gpu_hours": 3.0, "cpu_s": 6.0, "step": 30, "pass_rate": "high"},
        {"kind": "eval", "gpu_hours": None, "cpu_s": 6.0, "step": 30, "pass_rate": 0.5},
        {"kind": "eval", "gpu_hours": -1.0, "cpu_s": 6.0, "step": 30, "pass_rate": 0.5},
        {"kind": "eval", "gpu_hours": 10**400, "cpu_s": 6.0, "step": 30, "pass_rate": 0.5},
        {"kind": "eval", "gpu_hours": True, "cpu_s": 6.0, "step": 30, "pass_rate": 0.5},
    ]
    with log.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in bad)
    run = an.read(log)[0]
    assert len(run) == 3
    dropped = next(f for f in run.findings if f.code == "rows-dropped")
    assert dropped.figure == 5.0
    assert "lines 9, 10, 11, ..." in dropped.message  # start, 3 x (eval, step), end, then these


def test_a_name_cannot_carry_control_characters(tmp_path):
    run = an.read(write_run(tmp_path / "mine", recipe="a\x1b[31mb"))[0]
    assert run.name == "a?[31mb/seed0"


# ---- several paths, as a shell makes them of a pattern


def test_bystanders_among_several_paths_are_skipped_and_named(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "prompts").mkdir()
    for name in ("README.md", "curves.png", "samples.jsonl"):
        (tmp_path / name).write_bytes(b"\x89 not a log")
    write_csv(tmp_path / "t.csv", "gpu_hours,accuracy\n0,.1\n1,.2\n")
    runs = an.read(sorted(tmp_path.iterdir()))
    assert runs.names == ("scalerl/seed0", "t")
    assert runs.skipped == tuple(tmp_path / n for n in ("README.md", "curves.png", "prompts", "samples.jsonl"))
    assert an.read(tmp_path / "a").skipped == ()


def test_a_path_that_is_meant_is_never_skipped(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "note.md").write_text("a note")
    (begun := write_run(tmp_path / "begun")).joinpath("log.jsonl").unlink()
    for paths, says in [
        ([tmp_path / "note.md"], "no rows"),
        ([tmp_path / "prompts"], "no run in it"),
        ([tmp_path / "prompts", tmp_path / "note.md"], "no run in it"),
        ([tmp_path / "a", tmp_path / "no.csv"], "no such file"),
        ([tmp_path / "a", begun], "has not logged anything"),
        ([write_csv(tmp_path / "bad.csv", "a,b\n"), tmp_path / "a"], "no rows"),
        ([tmp_path / "a", ""], "a path is empty"),
    ]:
        with pytest.raises(UserError) as error:
            an.read(paths)
        assert says in one_line(error)


def test_a_closed_folder_is_named_and_hides_no_run(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "closed").mkdir()
    (tmp_path / "alone" / "closed").mkdir(parents=True)
    real = Path.exists

    def exists(path):
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    runs = an.read(tmp_path / "runs")
    assert runs.names == ("scalerl/seed0",) and runs.skipped == (tmp_path / "runs" / "closed",)
    with pytest.raises(UserError, match="alone/closed: cannot be opened"):
        an.read(tmp_path / "alone")


@pytest.mark.parametrize("name", ["log.jsonl", "run.json", "t.csv"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, name, what):
    folder = write_run(tmp_path / "a")
    path = folder / name
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=rf"{name}: cannot be read: it is no regular file"):
        an.read(path if name == "t.csv" else folder)
