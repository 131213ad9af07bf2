"""Every log is read as fractions over compute, or refused in one line; what was left out is said."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis as an
from scalerl.meter import Meter
from scalerl.runlog import RunLog, UserError

DATA = Path(__file__).parent / "data"


def write_run(folder, *, recipe="scalerl", seed=0, compute=(0.0, 1.0, 2.0), correct=(1, 2, 3), **fields):
    with RunLog(folder, recipe=recipe, seed=seed, device_kind="cpu") as log:
        for i, (c, right) in enumerate(zip(compute, correct, strict=True)):
            log.evaluate(
                step=10 * i, correct=[right, right], k=4, gpu_hours=c, cpu_s=3600.0 * c, prompt_set="p", **fields
            )
            log.step(step=10 * i + 1, gpu_hours=c, reward_sum=0.0, reward_count=1)
    return folder


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def codes(run):
    return [f.code for f in run.findings]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


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


# ---- CSV files


@pytest.mark.parametrize(
    "header", ["gpu_hours,accuracy", "gpu_hours,pass_rate", "step,pass_rate", "loss,cpu_s,accuracy"]
)
def test_known_columns_are_found(tmp_path, header):
    n = header.count(",")
    rows = "".join(f"\n{','.join([str(i)] * n)},{0.1 * i}" for i in range(3))
    run = an.read(write_csv(tmp_path / "a.csv", header + rows))[0]
    assert run.data["pass_rate"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert run.axes[0] == header.split(",")[-2]
    assert run.header == {} and run.seed is None


def test_other_columns_are_chosen_by_name(tmp_path):
    path = write_csv(tmp_path / "a.csv", "hours,gpu_hours,score,accuracy\n1,10,.5,.1\n2,20,.6,.2\n")
    run = an.read(path, x="hours", y="score")[0]
    assert run.axes == ("hours", "gpu_hours")
    assert run.data["pass_rate"].tolist() == [0.5, 0.6]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_delimiters_and_encodings_of_spreadsheets_are_read(tmp_path, delimiter, encoding):
    text = "gpu_hours,accuracy\r\n0,0.1\r\n1,0.2\r\n".replace(",", delimiter)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert an.read(tmp_path / "a.csv")[0].data["pass_rate"].tolist() == [0.1, 0.2]


def test_text_nan_and_short_rows_are_dropped_with_their_lines(tmp_path):
    text = "gpu_hours,accuracy\n0,0.1\n1,n/a\n2,nan\n3,inf\n4\n,0.3\n5,0.2\n"
    run = an.read(write_csv(tmp_path / "a.csv", text))[0]
    assert run.data["gpu_hours"].tolist() == [0.0, 5.0]
    found = {f.code: f for f in run.findings}
    assert found["rows-dropped"].figure == 4.0 and "lines 3, 4, 5, ..." in found["rows-dropped"].message
    assert found["rows-empty"].figure == 1.0  # the short row has no accuracy at all


def test_a_cell_is_only_data(tmp_path):
    spy = tmp_path / "executed"
    call = f"__import__('pathlib').Path('{spy}').touch()"
    an.read(write_csv(tmp_path / "a.csv", f'gpu_hours,accuracy\n0,0.1\n1,"{call}"\n"=cmd({call})",0.2\n'))
    assert not spy.exists()


def test_disorder_restarts_and_repeats_are_told_apart(tmp_path):
    def found(compute):
        rows = "".join(f"\n{c},0.{i}" for i, c in enumerate(compute))
        return codes(an.read(write_csv(tmp_path / "a.csv", "gpu_hours,accuracy" + rows))[0])

    assert found([0, 1, 2, 3, 4]) == []
    assert found([0, 1, 2, 1.5, 2.5]) == ["compute-restarts"]
    assert found([9, 8, 7, 6, 5, 4]) == ["compute-unordered"]
    assert found([0, 1, 1, 2]) == ["compute-repeated"]


# ---- percent


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_fractions_pass_through(values):
    from analysis.readers.cleaning import as_fraction

    fraction, said = as_fraction(np.array(values), "f", "y", None)
    assert fraction.tolist() == values and said == []


@given(st.lists(st.one_of(st.just(0.0), st.floats(1.001, 100.0)), min_size=1, max_size=20), st.floats(2.0, 100.0))
def test_percent_is_divided_and_said(values, largest):
    from analysis.readers.cleaning import as_fraction

    percent = np.array([*values, largest])
    fraction, said = as_fraction(percent, "f", "y", None)
    assert fraction.tolist() == (percent / 100.0).tolist()
    assert [f.code for f in said] == ["percent"]


@pytest.mark.parametrize(
    "values", [[0.5, 40.0], [0.0, 1.5], [1.2, 1.9], [10.0, 101.0], [-0.1, 0.5], [-1.0, 50.0], [1.0, 50.0]]
)
def test_an_ambiguous_unit_is_refused_and_scale_is_named(tmp_path, values):
    text = "gpu_hours,accuracy" + "".join(f"\n{i},{v}" for i, v in enumerate(values))
    path = write_csv(tmp_path / "a.csv", text)
    with pytest.raises(UserError) as error:
        an.read(path)
    assert "--scale" in one_line(error) and str(path) in one_line(error)


def test_scale_settles_the_unit(tmp_path):
    path = write_csv(tmp_path / "a.csv", "gpu_hours,accuracy\n0,0.5\n1,40\n")
    run = an.read(path, scale=0.01)[0]
    assert run.data["pass_rate"].tolist() == [0.005, 0.4]
    assert codes(run) == ["scaled"]
    with pytest.raises(UserError, match="between 0 and 1"):
        an.read(path, scale=1.0)


# ---- what cannot be read: one line that says where and what to do


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"gpu_hours,accuracy\n", "no rows"),
        (b"\x00\x01\x02\xff\xfe\x80", "not a text file"),
        (b"gpu_hours,accuracy\n0,\x00\n", "null bytes"),
        ("gpu_hours,accuracy,größe\n0,.1,2\n".encode("latin-1"), "UTF-8"),
        (b"gpu_hours,loss\n0,1\n", "no pass-rate column (pass_rate, accuracy); it has gpu_hours, loss"),
        (b"hours,accuracy\n0,1\n", "did you mean --x hours?"),
        (b"gpu_hours,eval_acc\n0,1\n", "did you mean --y eval_acc?"),
        (b"gpu_hours,accuracy\na,b\nc,d\n", "none of the 2 rows"),
        (b"gpu_hours,accuracy,accuracy\n0,.1,.2\n", "no pass-rate column"),
        (b'gpu_hours,accuracy\n0,"' + b"x" * 200_000, ":2: not CSV"),
        (b'gpu_hours,accuracy\n0,.1\n1,".2\n2,.3\n3,.4\n', ":3: not CSV: a quote opens and does not close"),
        (b'gpu_hours,accuracy\n0,.1\n1,".2"x\n', ":3: not CSV"),
        ("gpu_hours,accuracy\n0,.1\n".encode("utf-16-le"), "like UTF-16"),
        ("gpu_hours,accuracy\n0,.1\n".encode("utf-32-be"), "like UTF-16 or UTF-32"),
        (b"\xff\xfea", "UTF-16"),
        (b"gpu_hours,accuracy\n0,65.0%\n1,66.0%\n", "write 65.0 and not 65.0%"),
        (b"gpu_hours;accuracy\n0;0,65\n1;0,66\n", "with a point, not a comma"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path, content, says):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        an.read(path)
    assert says in one_line(error)
    assert one_line(error).startswith(str(path))


def test_missing_and_unreadable_paths_are_one_clear_line(tmp_path):
    (tmp_path / "empty").mkdir()
    header_only = write_run(tmp_path / "begun")
    (header_only / "log.jsonl").unlink()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("who,what\nme,nothing\n")
    for path, says in [
        (tmp_path / "no", "no such file"),
        (tmp_path / "empty", "no run in it"),
        (header_only, "no log.jsonl"),
        (tmp_path / "tables", "a.csv: no compute column"),
        (f"{tmp_path}/none/*", "matches no"),
        ("a\0b", "a?b: there is no such file"),
    ]:
        with pytest.raises(UserError) as error:
            an.read(path)
        assert says in one_line(error)
    with pytest.raises(UserError, match="no path"):
        an.read([])


def test_a_log_without_evaluations_says_so(tmp_path):
    with RunLog(tmp_path / "mine", recipe="r") as log:
        log.step(step=1)
    with pytest.raises(UserError, match="no evaluation"):
        an.read(tmp_path / "mine")


def test_an_unknown_axis_lists_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"no column 'gpu_hour'.*did you mean --x gpu_hours"):
        an.read(write_run(tmp_path / "mine"), x="gpu_hour")


# ---- logs that other programs wrote


def test_a_foreign_percent_log_is_read_with_everything_said():
    run = an.read(DATA / "qwen3_math_decay.csv", y="eval_acc")[0]
    assert run.axes == ("step",)
    assert run.data["step"].tolist() == [1, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500]
    assert run.data["pass_rate"][[0, 2, -1]].tolist() == pytest.approx([0.156, 0.456, 0.416])
    assert codes(run) == ["rows-empty", "percent", "axis-steps"]


def test_a_foreign_log_of_two_runs_is_two_runs():
    first, second = an.read(DATA / "qwen3_math_two_runs_in_one.csv", y="eval_acc")
    assert (first.name, second.name) == ("qwen3_math_two_runs_in_one #1", "qwen3_math_two_runs_in_one #2")
    split = next(f for f in second.findings if f.code == "runs-split")
    assert "2 runs in one file" in split.message and split.severity == "note"
    assert first.data["step"].tolist() == [1.0]
    assert second.data["step"].tolist()[:2] == [50.0, 100.0]


def test_a_row_of_an_odd_kind_is_passed_over(tmp_path):
    log = write_run(tmp_path / "run") / "log.jsonl"
    log.write_text(log.read_text() + '{"kind": [1]}\n{"kind": {"a": 1}}\n')
    assert len(an.read(tmp_path / "run")[0].data["pass_rate"]) == 3


@pytest.mark.parametrize(
    ("tail", "cut"),
    [
        ("4,0.612", False),  # whole, if without a line end
        ("4,0.612\n", False),
        ("4,0.6\n", False),
        ("4,0.6", True),  # shorter than every other
        ("4,", True),
        ("4", True),
        ("4,0.61,", False),  # no file that is cut has more cells than the others
    ],
)
def test_half_a_last_line_of_a_table_is_no_evaluation(tmp_path, tail, cut):
    text = "gpu_hours,accuracy\n0,0.112\n1,0.345\n2,0.456\n3,0.567\n"
    (run,) = an.read(write_csv(tmp_path / "t.csv", text + tail))
    assert len(run) == (4 if cut else 5)
    assert ("log-cut" in [f.code for f in run.findings]) is cut


def test_a_packed_log_is_the_log(tmp_path):
    import gzip

    folder = write_run(tmp_path / "mine")
    before = an.read(folder)[0]
    (folder / "log.jsonl.gz").write_bytes(gzip.compress((folder / "log.jsonl").read_bytes()))
    (folder / "log.jsonl").unlink()
    for path in (folder, tmp_path, folder / "log.jsonl.gz"):
        after = an.read(path)[0]
        assert after.name == before.name and after.data["pass_rate"].tolist() == before.data["pass_rate"].tolist()
    whole = (folder / "log.jsonl.gz").read_bytes()
    for bad, why in ((whole[:-9], "cut"), (b"\x1f\x8b" + whole[3:], "unpacked"), (gzip.compress(b""), "empty")):
        (folder / "log.jsonl.gz").write_bytes(bad)
        with pytest.raises(UserError, match=why):
            an.read(folder)


def test_a_packed_log_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    import gzip

    from scalerl.runlog import files

    monkeypatch.setattr(files, "MOST_UNPACKED", 1000)
    folder = write_run(tmp_path / "mine")
    (folder / "log.jsonl.gz").write_bytes(gzip.compress((folder / "log.jsonl").read_bytes() * 9))
    (folder / "log.jsonl").unlink()
    with pytest.raises(UserError, match="unpacks to more"):
        an.read(folder)
