"""From the files of other programs to curves: units, devices, clocks and tables, on the command line, too."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

import analysis as an
from analysis.readers.cleaning import Table
from analysis.readers.found import table_of_rows
from scalerl.cli import main
from scalerl.runlog import UserError


def column(run, name):
    return list(run.table.columns[name])


# ---- from a file to a curve


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_devices_on_the_command_line_make_gpu_hours_of_seconds(tmp_path, capsys):
    rows = [(i, 1800, round(0.1 + 0.05 * i, 2)) for i in range(1, 9)]
    file = write_csv(tmp_path / "a.csv", "step,step_time,accuracy", rows)
    assert main(["logs", str(file), "--devices", "4", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert listed["axes"][:2] == ["gpu_hours", "step"] and listed["rates"][0]["column"] == "accuracy"
    assert an.read(file, devices=4)[0].data["gpu_hours"].tolist() == [2.0 * i for i in range(1, 9)]
    assert main(["fit", str(file), "--devices", "0"]) == 2
    assert "no number of devices" in capsys.readouterr().err


def test_the_step_of_w_and_b_is_that_of_the_trainer_and_not_the_count_of_log_calls(tmp_path):
    rows = [(i, 10 * (i + 1), 36.0, 0.1 * (i + 1), 1.7e9 + i) for i in range(5)]
    file = write_csv(tmp_path / "a.csv", "_step,train/global_step,train/step_time,eval/accuracy,_timestamp", rows)
    run = an.read(file, devices=1)[0]
    assert run.data["gpu_hours"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_range_says_what_none_and_all_are(tmp_path):
    file = write_csv(tmp_path / "a.csv", "step,reward", [(0, -1), (1, 0), (2, 1)])
    assert an.read(file, y="reward", y_range=(-1, 1))[0].data["pass_rate"].tolist() == [0.0, 0.5, 1.0]
    for bad in ({"scale": 0.5, "y_range": (-1, 1)}, {"y_range": (1, -1)}, {"y_range": (0, math.inf)}):
        with pytest.raises(UserError, match="--y-range"):
            an.read(file, y="reward", **bad)


def test_a_sum_of_rewards_names_the_likely_column(tmp_path):
    file = tmp_path / "a.csv"
    write_csv(file, "step,reward,rewards/correctness", [(0, 0.5, 0.1), (1, 3.5, 0.2)])
    with pytest.raises(UserError, match=r"--y rewards/correctness"):
        an.read(file, y="reward")


def test_logs_lists_what_can_be_read_beside_what_cannot(tmp_path, capsys):
    write_csv(tmp_path / "good.csv", "gpu_hours,accuracy", [(0, 0.1), (1, 0.2)])
    (tmp_path / "bad.csv").write_text("")
    assert main(["logs", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "good: table, 2 rows" in out and "cannot be read" in out and "bad.csv" in out


@pytest.mark.parametrize("to", ["csv", "jsonl", "parquet"])
def test_what_is_converted_reads_back_as_the_same_runs(tmp_path, to):
    rows = [(s, 60, 0.01 * i, "=1+1") for i, s in enumerate((1, 2, 3, 4, 3, 4, 5))]
    file = write_csv(tmp_path / "a_seed3.csv", "step,step_time,accuracy,note", rows)
    out = tmp_path / f"out.{to}"
    assert main(["logs", str(file), "--to", to, "-o", str(out), "--devices", "60"]) == 0
    before = an.read(file, devices=60)[0]
    if to == "parquet":
        pd = pytest.importorskip("pandas")
        frame = pd.read_parquet(out)
        assert frame["gpu_hours"].tolist() == before.data["gpu_hours"].tolist()
        assert frame["seed"].tolist() == [3] * 5
    elif to == "jsonl":
        told = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["gpu_hours"] for row in told] == before.data["gpu_hours"].tolist()
        assert {row["run"] for row in told} == {"a_seed3"} and told[0]["note"] == "=1+1"
    else:
        after = an.read(out)[0]
        assert after.data["gpu_hours"].tolist() == before.data["gpu_hours"].tolist()
        assert (after.recipe, after.seed) == (before.recipe, before.seed) == ("a", 3)
        assert ",'=1+1" in out.read_text()
    assert main(["logs", str(file), "--to", to, "-o", str(out)]) == 2


def test_every_table_tells_rows_apart_by_its_lines():
    table = table_of_rows("log", [{"a": 1}, {"b": 2}, {"a": 3, "b": 4}], lines=[10, 12, 13])
    assert table == Table("log", {"a": [1, None, 3], "b": [None, 2, 4]}, [10, 12, 13])


def test_a_run_of_ours_is_converted_whole_and_reads_back_as_itself(tmp_path):
    from scalerl.runlog import read_log

    ours = Path("data/runs")
    out = tmp_path / "all.jsonl"
    assert main(["logs", str(ours), "--to", "jsonl", "-o", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    logged = [r for run in ("grpo", "scalerl") for r in read_log(ours / run / "log.jsonl").rows]
    assert len(rows) == sum(r["kind"] in ("step", "eval") for r in logged)
    again = an.read(out)
    assert [(r.name, r.recipe, r.seed) for r in again] == [("grpo/seed0", "grpo", 0), ("scalerl/seed0", "scalerl", 0)]
    for before, after in zip(an.read(ours), again, strict=True):
        assert after.data["pass_rate"].tolist() == before.data["pass_rate"].tolist()
        # a step and its evaluation are one row there, at the compute of the step
        assert after.data["gpu_hours"].tolist() == pytest.approx(before.data["gpu_hours"].tolist(), rel=0.01)


def test_numbers_that_are_none_and_names_of_digits_are_converted_as_they_are(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"step": 1, "gpu_hours": 1, "pass_rate": 0.5, "id": "007", "l": [NaN, 1]}\n{"step": 2}\n')
    out = tmp_path / "b.jsonl"
    assert main(["logs", str(file), "--to", "jsonl", "-o", str(out)]) == 0
    assert json.loads(out.read_text().splitlines()[0])["id"] == "007"


def test_a_run_that_died_before_its_first_evaluation_hides_no_other_in_its_file(tmp_path):
    rows = [(1, 0.1, "", 9), (2, 0.2, "", 9), *((i, 0.1 * i, 0.1 * i, 9) for i in range(1, 8))]
    (run,) = an.read(write_csv(tmp_path / "a.csv", "step,gpu_hours,accuracy,loss", rows))
    assert len(run) == 7 and any("have no evaluation and are left out" in f.message for f in run.findings)


def test_an_evaluation_beside_a_column_called_accuracy_is_named(tmp_path):
    file = write_csv(tmp_path / "a.csv", "gpu_hours,accuracy,eval/accuracy", [(0, 0.8, 0.1), (1, 0.8, 0.2)])
    found_it = next(f for f in an.read(file)[0].findings if f.code == "metric-chosen")
    assert found_it.severity == "warning" and "--y eval/accuracy" in found_it.message


def test_a_table_with_both_names_of_a_pass_rate_says_which_was_taken(tmp_path):
    rows = [(i, 0.1 * i, 0.1 * i + 0.05) for i in range(6)]
    (run,) = an.read(write_csv(tmp_path / "a.csv", "gpu_hours,accuracy,pass_rate", rows))
    assert run.data["pass_rate"].tolist() == [rate for *_, rate in rows]
    (said,) = [f for f in run.findings if f.code == "metric-chosen"]
    assert said.severity == "warning" and "--y accuracy" in said.message
    same = write_csv(tmp_path / "b.csv", "gpu_hours,accuracy,pass_rate", [(x, y, y) for x, y, _ in rows])
    assert "metric-chosen" not in {f.code for f in an.read(same)[0].findings}


def test_three_programs_are_compared_on_the_command_line(capsys):
    names = ["val-core/math/acc/mean@4", "eval_rewards/accuracy/mean", "eval/pass_rate"]
    asked = [part for name in names for part in ("--y", name)]
    assert main(["compare", "data/logs", "--devices", "8", *asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found_there = {(row["recipe"], row["seeds"]) for row in told["rows"]}
    assert found_there == {("trl-grpo", 3), ("verl-dapo", 3), ("wandb-cispo", 3)}


def test_a_table_beside_run_folders_is_named_as_left_out(tmp_path, capsys):
    import shutil

    shutil.copytree("data/runs/grpo", tmp_path / "grpo")
    write_csv(tmp_path / "other.csv", "gpu_hours,accuracy", [(0, 0.1), (1, 0.2)])
    assert main(["logs", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "other.csv" in shown.err and "grpo/seed0" in shown.out


def test_nested_json_lines_are_known_by_their_content(tmp_path):
    rows = [{"step": i, "eval": {"math": {"avg@8": 0.1 * i}}} for i in range(1, 6)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = an.read(file, y="eval/math/avg@8")[0]
    assert run.format == "jsonl" and run.data["pass_rate"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_step_of_each_epoch_is_no_training_step(tmp_path):
    rows = [(e, s, 10 * e + s, 10 * e + s, 0.01 * (10 * e + s)) for e in range(3) for s in range(10)]
    file = write_csv(tmp_path / "a.csv", "epoch,step,global_step,tokens,accuracy", rows)
    (run,) = an.read(file)
    assert run.data["pass_rate"].tolist() == pytest.approx([row[-1] for row in rows])
    assert run.data["step"].tolist() == [row[2] for row in rows]
    assert [f.message for f in run.findings if f.code == "step-chosen"] == [
        "step starts again while global_step goes on: global_step is the training step"
    ]


def test_a_count_of_calls_or_one_with_holes_is_not_taken_for_the_step(tmp_path):
    steps = [1, 2, 3, 2, 3, 4]
    rows = [(s, i, "" if i == 2 else i, 0.1 * i) for i, s in enumerate(steps)]
    (run,) = an.read(write_csv(tmp_path / "a.csv", "step,_step,iteration,accuracy", rows))
    assert run.data["step"].tolist() == [1, 2, 3, 4] and "attempts" in [f.code for f in run.findings]


def test_the_evaluation_that_a_trainer_is_known_by_is_taken_from_a_table_too(tmp_path):
    name = "val-core/math/acc/mean@4"
    rows = [{"step": i, "data": {name: 0.1 * i, "actor/loss": 1.0}} for i in range(1, 7)]
    log = tmp_path / "a.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for to in ("csv", "jsonl"):
        out = tmp_path / f"b.{to}"
        assert main(["logs", str(log), "--to", to, "-o", str(out)]) == 0
        assert an.read(out)[0].data["pass_rate"].tolist() == pytest.approx(an.read(log)[0].data["pass_rate"].tolist())


def test_a_run_says_what_read_it_and_keeps_that_when_its_fit_is_saved():
    import scalerl

    (run,) = an.read("data/logs/verl-dapo_s0.log", y="val-core/math/acc/mean@4")
    kept = an.Fit.from_json(an.fit(run).to_json()).run
    assert kept.format == run.format == "verl-console" and len(kept.sha256) == 64
    assert kept.reader == run.reader == f"scalerl {scalerl.__version__}"


@pytest.mark.parametrize("form", ["jsonl", "csv", "console"])
def test_rows_of_training_and_of_evaluations_are_told_apart(tmp_path, form):
    """Both call it accuracy; an evaluation every ten steps must not be a dip of the training's curve."""
    rows = []
    for i in range(1, 31):
        rows.append({"step": i, "split": "train", "accuracy": 0.5 + 0.01 * i, "loss": 1.0 / i})
        if i % 10 == 0:
            rows.append({"step": i, "split": "val", "accuracy": 0.01 * i, "loss": 1.5})
    file = tmp_path / f"a.{'log' if form == 'console' else form}"
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "csv":
        write_csv(file, "step,split,accuracy,loss", [tuple(row.values()) for row in rows])
    else:
        line = "[{split}] step {step} | loss={loss:.4f} | accuracy={accuracy:.3f}\n"
        file.write_text("".join(line.format(**row) for row in rows))
    with pytest.raises(UserError, match="val/accuracy"):
        an.read(file)
    (run,) = an.read(file, y="val/accuracy")
    assert run.data["pass_rate"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert an.read(file, y="train/accuracy")[0].data["pass_rate"][:2].tolist() == pytest.approx([0.51, 0.52])
    assert "split-apart" in [f.code for f in run.findings]


@pytest.mark.parametrize(
    ("per_second", "word"), [(1.0, ""), (1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanosec")]
)
def test_a_clock_may_tick_faster_than_seconds(tmp_path, per_second, word):
    rows = [{"step": i, "time": (1.7e9 + 60.0 * i) * per_second, "pass_rate": 0.1 * i} for i in range(1, 9)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = an.read(file)
    assert run.data["wall_hours"].tolist() == pytest.approx([i / 60.0 for i in range(1, 9)])
    assert word in " ".join(f.message for f in run.findings if f.code == "axis-derived")


def test_tokens_of_each_step_are_added_up_and_a_running_total_is_taken_as_it_is(tmp_path):
    each = [4200 + 100 * (-1) ** i for i in range(1, 21)]
    for name, tokens in (("each", each), ("total", list(itertools.accumulate(each)))):
        rows = [{"step": i, "tokens": t, "pass_rate": 0.04 * i} for i, t in enumerate(tokens, start=1)]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run,) = an.read(file)
        assert run.axes[0] == "tokens"
        assert run.data["tokens"].tolist() == pytest.approx(list(itertools.accumulate(each)))
        assert ("falls from row to row" in " ".join(f.message for f in run.findings)) == (name == "each")


def test_more_cells_than_columns_are_an_error_with_their_line(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("gpu_hours,accuracy\n0,0,10\n1,0,11\n")
    with pytest.raises(UserError, match=r"a\.csv:2: 3 cells under 2 columns"):
        an.read(file)
    file.write_text("gpu_hours,accuracy\n0,0.1,\n1,0.2,,\n")
    assert an.read(file)[0].data["pass_rate"].tolist() == [0.1, 0.2]


def test_columns_of_one_name_are_told(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("gpu_hours,pass_rate,loss,loss\n0,0.1,1,2\n1,0.2,1,2\n")
    assert "more than one column is called loss: none of them is read" in [f.message for f in an.read(file)[0].findings]
    names = [f"{run} - eval/acc{end}" for run in ("a", "a", "b") for end in ("", "__MIN", "__MAX")]
    file.write_text(
        ",".join(["Step", *names]) + "\n" + "\n".join(",".join(["1", *["0.5"] * 9]) for _ in range(3)) + "\n"
    )
    with pytest.raises(UserError, match="more than one run is called a: rename them in W&B"):
        an.read(file)


def test_where_digits_may_be_of_the_next_thing_printed_there_is_no_number(tmp_path):
    ends = ["0.12", "0.13\x1b[36m", "0.1555%|#####| 5/9", "0.172025-01-02 INFO x", "0.16 saved", "0.15Training", "0.14"]
    file = tmp_path / "a.log"
    lines = [f"step:{i} - actor/loss:0.5 - val-core/m/acc/mean@1:{end}\n" for i, end in enumerate(ends, start=1)]
    file.write_text("".join(lines))
    (run,) = an.read(file)
    assert run.data["pass_rate"].tolist() == [0.12, 0.13, 0.16, 0.15, 0.14]
    assert "2 rows left out" in " ".join(f.message for f in run.findings)


def test_a_field_called_split_in_a_log_of_ours_changes_no_curve(tmp_path):
    from scalerl.runlog import RunLog

    with RunLog(tmp_path / "run", recipe="mine", seed=0, devices=1) as log:
        for step in range(1, 7):
            log.step(step)
            log.evaluate(pass_rate=0.1 * step, n_prompts=4, k=2, split="val" if step % 2 else "test")
    assert an.read(tmp_path / "run")[0].data["pass_rate"].tolist() == pytest.approx([0.1 * i for i in range(1, 7)])
