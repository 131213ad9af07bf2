"""Watch: a log that grows for real, frames that fit a terminal, nothing that ends it but the user."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import analysis as an
from analysis.reports.watching import Watch, frame, hours_left, picture
from scalerl.cli import main
from scalerl.runlog import RunLog

ROOT = Path(__file__).parent.parent
RATE = [f"{c},{an.R(c, 0.1, 0.7, 1.5, 3.0) + 0.004 * np.sin(9.0 * c):.6f}" for c in np.arange(0.0, 15.0)]


def write(file, rows, tail=""):
    file.write_text("\n".join(["gpu_hours,accuracy", *rows]) + "\n" + tail)


def test_it_fits_only_what_grew_and_shows_how_the_band_narrows(tmp_path):
    file = tmp_path / "mine.csv"
    watch = Watch([str(file)], until=30.0)
    assert watch.look() == []
    assert "mine.csv" in frame(watch).replace("\n", "")
    widths = []
    for n in (8, 11, 15):
        write(file, RATE[:n])
        (one,) = watch.look()
        row = one.row
        widths.append(0.5 * (row.mean_hi - row.mean_lo))
        assert watch.look() == []
        expected = an.forecast(an.read(file)[0], 30.0).rows[0]
        assert (row.pass_rate, row.mean_lo) == (expected.pass_rate, expected.mean_lo)
    assert watch.seen["mine"].widths == widths
    assert f"{widths[0]:.3f} → {widths[1]:.3f} → {widths[2]:.3f}" in frame(watch)
    write(file, RATE[:7])  # another run under the same name
    assert len(watch.look()[0].widths) == 1


def test_a_frame_fits_a_terminal_and_marks_every_evaluation(tmp_path):
    file = tmp_path / "mine.csv"
    write(file, RATE)
    watch = Watch([str(file)], until=30.0)
    watch.look()
    for plain in (False, True):
        lines = frame(watch, plain=plain).splitlines()
        assert len(lines) <= 22
        assert max(map(len, lines)) <= 78
    assert frame(watch, plain=True).isascii()
    drawn = picture(watch.seen["mine"], plain=True, height=12, width=78)
    columns = {j for line in drawn[:-1] for j, c in enumerate(line) if c == "o"}
    ends = [7 + round(c / 30.0 * 70) for c in np.arange(0.0, 15.0)]
    assert columns == set(ends)
    assert all(":" not in line[7 : 7 + ends[-1] - 7] for line in drawn[:-1])


@pytest.mark.parametrize("content", ["", "gpu_hours,accuracy\n", "gpu_hours,accuracy\n0,0.1\n", "nothing\nat all\n"])
def test_a_log_without_evaluations_is_waited_for(tmp_path, content):
    file = tmp_path / "mine.csv"
    file.write_text(content)
    watch = Watch([str(file)])
    watch.look()
    assert frame(watch)
    write(file, RATE)
    assert len(watch.look()) == 1


@pytest.mark.parametrize("option", ["--x", "--y"])
def test_a_column_that_no_row_can_have_is_refused_and_not_waited_for(tmp_path, capsys, option):
    file = tmp_path / "mine.csv"
    file.write_text("gpu_hours,accuracy\n")  # no row yet: it may be written anew
    assert main(["watch", str(file), option, "nope", "--once"]) == 1
    assert "waiting" in capsys.readouterr().out
    write(file, RATE)
    for path in (file, ROOT / "data" / "runs" / "grpo"):
        assert main(["watch", str(path), option, "nope", "--json"]) == 2  # for ever, if it waited
        said = capsys.readouterr().err
        assert "no column 'nope'; it has" in said and said.count("\n") == 1
    both = Watch([str(file), str(ROOT / "data" / "runs" / "grpo")], x="cpu_s", until=1e4)
    assert [one.run.recipe for one in both.look()] == ["grpo"]  # what can be followed is, the other is told
    assert "no column 'cpu_s'" in both.waiting


def test_a_half_written_row_does_not_disturb(tmp_path):
    file = tmp_path / "log.csv"
    write(file, RATE, tail="15,")
    watch = Watch([str(file)], until=30.0)
    assert len(watch.look()[0].run) == 15


def test_time_left_is_on_the_run_s_devices():
    run = an.read("data/runs/grpo")[0]
    hours = float(run.data["gpu_hours"].max())
    assert hours_left(run, "gpu_hours", 3 * hours) == pytest.approx(2 * hours)
    assert hours_left(run, "gpu_hours", 0.5 * hours) == 0.0


def test_the_command_follows_a_log_that_another_process_grows(tmp_path):
    file = tmp_path / "mine.csv"
    grow = (
        "import sys, time\nf = open(sys.argv[1], 'a')\n"
        "for row in sys.stdin:\n    f.write(row); f.flush(); time.sleep(.05)"
    )
    # A suite that runs in the background of a shell ignores Ctrl-C, and so would what it starts.
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{heard}; from scalerl.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "watch", str(file), "--every", "0.2", "--until", "30", "--json"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching,
        subprocess.Popen([sys.executable, "-c", grow, str(file)], stdin=subprocess.PIPE, text=True) as growing,
    ):
        growing.communicate("\n".join(["gpu_hours,accuracy", *RATE]) + "\n", timeout=30)
        told = [json.loads(watching.stdout.readline())]
        end = time.monotonic() + 60
        while told[-1]["evaluations"] < 15 and time.monotonic() < end:
            told.append(json.loads(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    assert told[-1]["evaluations"] == 15
    assert told[-1]["schema"] == "watch/1"
    counts = [t["evaluations"] for t in told]
    assert counts == sorted(counts)


def test_once_prints_one_frame_and_says_by_its_code_whether_there_was_a_run(tmp_path, capsys):
    file = tmp_path / "mine.csv"
    assert main(["watch", str(file), "--once"]) == 1
    assert "waiting" in capsys.readouterr().out
    write(file, RATE)
    assert main(["watch", str(file), "--once", "--ascii", "--until", "30"]) == 0
    assert "at 30 gpu_hours" in capsys.readouterr().out
    assert main(["watch", str(file), "--every", "0"]) == 2
    assert "--every" in capsys.readouterr().err


def test_the_end_of_a_run_is_news(tmp_path):
    with RunLog(tmp_path / "run", recipe="mine", seed=0, device_kind="cpu", devices=1, header={}) as log:
        for i, c in enumerate(np.linspace(0.0, 8.0, 12)):
            log.evaluate(step=i, correct=[i % 3] * 50, k=4, gpu_hours=float(c), cpu_s=float(c), prompt_set="p")
        watch = Watch([str(tmp_path / "run")])
        assert len(watch.look()) == 1 and watch.look() == []
    (one,) = watch.look()
    assert one.run.end_time and f"the run ended {one.run.end_time}" in frame(watch)
    assert watch.look() == [] and len(one.widths) <= 1


def test_a_narrow_terminal_cuts_no_warning(tmp_path):
    file = tmp_path / "mine.csv"
    write(file, [f"{c},{0.1 + 0.06 * c if c < 9 else 0.6 - 0.05 * (c - 9):.3f}" for c in range(18)])
    watch = Watch([str(file)])
    watch.look()
    warning = next(f.message for f in watch.seen["mine"].told.findings if f.severity == "warning")
    text = frame(watch, width=44)
    assert max(map(len, text.splitlines())) <= 44
    assert "".join(warning.split()) in "".join(text.split())


def test_the_column_and_the_factor_can_be_chosen(tmp_path, capsys):
    file = tmp_path / "mine.csv"
    file.write_text(
        "\n".join(["gpu_hours,score", *(f"{line.split(',')[0]},{100 * float(line.split(',')[1])}" for line in RATE)])
    )
    assert main(["watch", str(file), "--once", "--y", "score", "--scale", "0.01", "--until", "30"]) == 0
    assert "at 30 gpu_hours" in capsys.readouterr().out


def test_one_path_that_cannot_be_read_holds_no_other_up(tmp_path):
    good, later = tmp_path / "good.csv", tmp_path / "later.csv"
    write(good, RATE[:10])
    watch = Watch([str(good), str(later), str(tmp_path / "none.csv")], until=30.0)
    assert [one.run.name for one in watch.look()] == ["good"] and "csv" in watch.waiting
    write(good, RATE[:11])
    later.write_text("gpu_hours,loss\n0,1\n")
    assert [len(one.run) for one in watch.look()] == [11] and "no pass-rate column" in watch.waiting
    write(later, RATE[:9])
    assert [one.run.name for one in watch.look()] == ["later"] and set(watch.seen) == {"good", "later"}


def test_a_log_that_was_replaced_or_renamed_is_another_run(tmp_path):
    file, other = tmp_path / "mine.csv", tmp_path / "other.csv"
    write(file, RATE[:10])
    watch = Watch([str(tmp_path / "*.csv")], until=30.0)
    watch.look()
    write(file, [*(f"{c},{0.3 + c / 100}" for c in range(9)), RATE[9]])  # as long, and with the same last rate
    (one,) = watch.look()
    assert len(one.widths) <= 1 and one.run.data["pass_rate"][0] == 0.3
    file.rename(other)
    assert [one.run.name for one in watch.look()] == ["other"] and list(watch.seen) == ["other"]


def test_what_is_forecast_moves_on_with_the_run(tmp_path):
    file = tmp_path / "mine.csv"
    write(file, RATE[:1])
    watch = Watch([str(file)])
    assert [one.until for one in watch.look()] == [1.0]  # at compute 0 twice is nothing
    untils = []
    for n in (4, 6, 8, 15):
        write(file, RATE[:n])
        untils += [one.until for one in watch.look()]
    assert untils == [6.0, 6.0, 14.0, 28.0]


def test_who_reads_lines_is_told_what_is_waited_for(tmp_path, capsys):
    write(tmp_path / "mine.csv", [])
    assert main(["watch", str(tmp_path / "mine.csv"), "--json", "--once"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and "waiting: " in told.err and "a header and no rows" in told.err
