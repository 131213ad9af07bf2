"""A table says of which recipe and seed its rows are: by columns, by its name, or by the reader's own word."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import analysis as an
from scalerl.cli import main
from scalerl.runlog import RunLog, UserError

CELLS = [(c, float(an.R(c, 0.1, 0.7, 1.5, 3.0))) for c in np.arange(0.0, 15.0)]


def rows(*labels, percent=1.0, scale=1.0):
    return [
        ",".join([*labels, f"{c}", f"{percent * scale * r + 0.001 * (i % 3):.4f}"]) for i, (c, r) in enumerate(CELLS)
    ]


def write(file, header, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def told(runs):
    return [(run.name, run.recipe, run.seed, len(run)) for run in runs]


def test_runs_of_one_name_in_two_folders_are_told_apart_by_a_pattern_on_their_path(tmp_path):
    for folder in ("b256", "b512"):
        for seed in (0, 1):
            with RunLog(tmp_path / folder / f"s{seed}", recipe="grpo", seed=seed) as log:
                for step in range(6):
                    log.evaluate(step=step, correct=[step], k=8, gpu_hours=float(step))
    folders = [tmp_path / "b256", tmp_path / "b512"]
    runs = an.read(folders, recipes={"small": "*/b256/*", "large": "*/b512/*"})
    assert [(run.name, run.recipe) for run in runs] == [
        ("small/seed0", "small"), ("small/seed1", "small"), ("large/seed0", "large"), ("large/seed1", "large")
    ]  # fmt: skip
    with RunLog(tmp_path / "b512" / "s2", recipe="grpo", seed=2) as log:  # its name is no other's
        for step in range(6):
            log.evaluate(step=step, correct=[step], k=8, gpu_hours=float(step))
    assert an.read(folders, recipes={"large": "*/b512/*"})["large/seed2"].seed == 2
    one = an.read(folders, recipes={"both": "*"})  # a name must be one run's
    assert {run.recipe for run in one} == {"both"} and len({run.name for run in one}) == 5
    assert [run.name for run in an.read(folders[0], recipes={"mine": "grpo/*"})] == ["mine/seed0", "mine/seed1"]


def test_columns_of_recipe_and_seed_cut_a_table_into_runs(tmp_path):
    lines = [line for name in ("b", "a") for seed in "01" for line in rows(name, seed, scale=1 + 0.01 * int(seed))]
    file = write(tmp_path / "long.csv", "recipe,seed,gpu_hours,accuracy", lines)
    runs = an.read(file)
    assert told(runs) == [
        ("b/seed0", "b", 0, 15),
        ("b/seed1", "b", 1, 15),
        ("a/seed0", "a", 0, 15),
        ("a/seed1", "a", 1, 15),
    ]
    assert all(run.findings == () for run in runs)  # compute does not fall back inside a run
    assert an.compare(an.fit(runs)).tested


@pytest.mark.parametrize(
    ("header", "labels", "expected"),
    [
        ("Recipe", [["x"], ["y"]], [("x", "x", None), ("y", "y", None)]),
        ("seed", [["0"], ["1.0"]], [("t/seed0", "t", 0), ("t/seed1", "t", 1)]),
        ("run", [["x_s0"], ["x_s1"]], [("x_s0", "x", 0), ("x_s1", "x", 1)]),
        ("run", [["x"], ["y"]], [("x", "x", None), ("y", "y", None)]),
        ("run,recipe", [["i", "x"], ["j", "x"]], [("i", "x", None), ("j", "x", None)]),
        ("run,recipe", [["i", "x"], ["i", "y"]], [("x/i", "x", None), ("y/i", "y", None)]),
        ("seed", [["7"]], [("t", "t", 7)]),
    ],
)
def test_one_column_is_enough(tmp_path, header, labels, expected):
    lines = [line for label in labels for line in rows(*label)]
    runs = an.read(write(tmp_path / "t.csv", f"{header},gpu_hours,accuracy", lines))
    assert [(run.name, run.recipe, run.seed) for run in runs] == expected


def test_columns_that_tell_no_runs_apart_are_left_alone(tmp_path):
    every = [f"{i},{line}" for i, line in enumerate(rows())]
    assert told(an.read(write(tmp_path / "ids.csv", "run,gpu_hours,accuracy", every))) == [("ids", "ids", None, 15)]
    empty = rows("")
    assert told(an.read(write(tmp_path / "none.csv", "seed,gpu_hours,accuracy", empty))) == [("none", "none", None, 15)]


@pytest.mark.parametrize(("labels", "says"), [(["", "x"], "line 2"), (["x", "1.5"], "whole number")])
def test_a_row_that_does_not_say_its_run_is_one_clear_line(tmp_path, labels, says):
    lines = [line for label in labels for line in rows(label)]
    with pytest.raises(UserError, match=says):
        an.read(write(tmp_path / "t.csv", "seed,gpu_hours,accuracy", lines))


def test_the_unit_is_one_for_the_whole_table(tmp_path):
    lines = rows("weak", percent=100.0, scale=0.01) + rows("strong", percent=100.0)
    lines = [line.replace(",0.0010", ",0.0") for line in lines if not line.startswith("weak,0.")]
    weak = [f"weak,{c},0" for c in range(5)]
    runs = an.read(write(tmp_path / "t.csv", "run,gpu_hours,accuracy", [*weak, *rows("strong", percent=100.0)]))
    assert runs["strong"].data["pass_rate"].max() < 1.0
    assert [f.code for run in runs for f in run.findings].count("percent") == 2


@pytest.mark.parametrize(
    ("path", "name", "recipe", "seed"),
    [
        ("grpo_seed3.csv", "grpo_seed3", "grpo", 3),
        ("grpo-s12.csv", "grpo-s12", "grpo", 12),
        ("new-loss_s0.csv", "new-loss_s0", "new-loss", 0),
        ("grpo/seed1.csv", "grpo/seed1", "grpo", 1),
        ("qwen3-math.csv", "qwen3-math", "qwen3-math", None),
        ("epochs3.csv", "epochs3", "epochs3", None),
    ],
)
def test_a_file_name_says_recipe_and_seed(tmp_path, path, name, recipe, seed):
    (run,) = an.read(write(tmp_path / path, "gpu_hours,accuracy", rows()))
    assert (run.name, run.recipe, run.seed) == (name, recipe, seed)


def test_folders_of_tables_are_read_flat_and_nested(tmp_path):
    for recipe in "ab":
        for seed in range(2):
            write(tmp_path / f"flat/{recipe}_s{seed}.csv", "gpu_hours,accuracy", rows())
            write(tmp_path / f"nested/{recipe}/seed{seed}.csv", "gpu_hours,accuracy", rows())
    (tmp_path / "flat" / "notes.csv").write_text("who,what\nme,nothing\n")
    flat, nested = an.read(tmp_path / "flat"), an.read(tmp_path / "nested")
    assert [(r.recipe, r.seed) for r in flat] == [(r.recipe, r.seed) for r in nested]
    assert [(r.recipe, r.seed) for r in flat] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert [path.name for path in flat.skipped] == ["notes.csv"]
    with pytest.raises(UserError, match=r"notes\.csv"):  # a table that is named is meant
        an.read([tmp_path / "flat" / "notes.csv"])


def test_recipes_can_be_said_for_every_verb(tmp_path, capsys):
    for name in ("a1", "a2", "b1", "b2"):
        write(tmp_path / f"{name}.csv", "gpu_hours,accuracy", rows())
    runs = an.read(tmp_path, recipes={"first": "a*", "second": ["b1", "b2"]})
    assert [run.recipe for run in runs] == ["first", "first", "second", "second"]
    paths = [str(tmp_path / "*.csv"), "--recipe", "first=a*", "--recipe", "second=b*"]
    assert main(["plan", *paths, "--futures", "4", "--budget", "2"]) == 0
    out = capsys.readouterr().out
    assert "first" in out and "second" in out
    for verb in ("fit", "forecast", "backtest", "compare", "plan"):
        assert main([verb, str(tmp_path / "*.csv"), "--recipe", "first=c*"]) == 2
        assert "no run matches c*" in capsys.readouterr().err
    with pytest.raises(UserError, match="do not overlap"):
        an.read(tmp_path, recipes={"first": "a*", "second": "*"})


def test_the_axis_that_was_chosen_is_said_where_others_could_be(tmp_path):
    lines = [f"{10 * i},{c},{0.1 * (i % 3)},{r}" for i, (c, r) in enumerate(CELLS)]
    file = write(tmp_path / "t.csv", "step,hours,tokens_per_s,accuracy", lines)
    (run,) = an.read(file)
    assert [f.message for f in run.findings] == ["compute is step; hours could be it too (--x hours)"]
    assert an.read(file, x="hours")[0].findings == ()
    assert [f.code for f in an.read_frame(pd.read_csv(file)).findings] == ["axis-chosen"]


def test_a_frame_of_several_runs_is_not_taken_for_one():
    frame = pd.DataFrame(CELLS * 2, columns=["gpu_hours", "accuracy"]).assign(seed=[0] * 15 + [1] * 15)
    with pytest.raises(UserError, match="holds 2 runs"):
        an.read_frame(frame)
    runs = [an.read_frame(part, f"mine/seed{key}") for key, part in frame.groupby("seed")]
    assert [run.seed for run in runs] == [0, 1]


def test_groups_are_not_made_of_seeds(tmp_path, capsys):
    lines = [line for name in "ab" for seed in "01" for line in rows(name, seed, {"a": "8", "b": "16"}[name])]
    file = str(write(tmp_path / "t.csv", "recipe,seed,batch,gpu_hours,accuracy", lines))
    for by in ("recipe", "seed"):
        assert main(["fit", file, "--by", by]) == 2
        assert "scalerl compare" in capsys.readouterr().err
    assert main(["fit", file, "--by", "batch"]) == 0
    assert "a/seed0" in capsys.readouterr().out


def test_groups_read_the_column_and_the_factor_that_were_asked_for(tmp_path, capsys):
    lines = [line for name in "ab" for line in rows(name, "0.5", percent=50.0)]
    file = str(write(tmp_path / "t.csv", "dataset,accuracy,gpu_hours,score", lines))
    assert main(["fit", file, "--by", "dataset", "--y", "score", "--scale", "0.01", "--json"]) == 0
    assert 0.3 < json.loads(capsys.readouterr().out)["groups"][0]["params"]["A"]["value"] < 0.4
    assert main(["fit", file, "--by", "dataset", "--y", "scores"]) == 2
    assert "did you mean --y score?" in capsys.readouterr().err


def test_json_stays_json_where_nothing_can_be_compared(tmp_path, capsys):
    for name in "ab":
        write(tmp_path / f"{name}.csv", "gpu_hours,accuracy", ["0,0.1", "1,0.2"])
    assert main(["compare", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "compare/1" and told["rows"] == [] and told["tested"] is False
    assert any(f["message"].startswith("a: nothing fitted") for f in told["findings"])


def test_a_figure_at_one_ceiling_says_that_there_is_none(tmp_path, capsys):
    figure = ["compare", "docs/six", "--x", "hours", "--figure", "line", "-o", str(tmp_path / "f.png")]
    assert main(figure) == 2
    said = capsys.readouterr().err
    assert "share none" in said and "--ceiling" in said and said.count("\n") == 1
    assert main([*figure, "--ceiling", "0.66"]) == 0
