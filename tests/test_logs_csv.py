"""Tables: known columns, units, delimiters, damage; every one is read or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis as an
from scalerl.runlog import RunLog, UserError
from tests.made_logs import DATA, codes, one_line, write_csv, write_run

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
    "values",
    [[0.5, 40.0], [-1.0, 0.546], [0.0, 1.5], [1.2, 1.9], [10.0, 101.0], [-0.1, 0.5], [-1.0, 50.0], [1.0, 50.0]],
)
def test_an_ambiguous_unit_is_refused_and_what_would_settle_it_is_named(tmp_path, values):
    text = "gpu_hours,accuracy" + "".join(f"\n{i},{v}" for i, v in enumerate(values))
    path = write_csv(tmp_path / "a.csv", text)
    with pytest.raises(UserError) as error:
        an.read(path)
    option = "--y-range" if min(values) < 0.0 else "--scale"  # no factor makes a fraction of what is below 0
    assert option in one_line(error) and str(path) in one_line(error)


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
