"""Text logs of other programs, the rest of them: other consoles, prime-rl, JSON lines, tables, hostile input."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.readers import formats
from analysis.readers.cleaning import number
from analysis.readers.lineage import lineages
from analysis.readers.textfile import LONGEST
from benchmarks.fuzz_readers import fuzz
from benchmarks.fuzz_text import SAMPLES
from scalerl.runlog import UserError
from tests.made_text_logs import RAY, TEXT, names, numbers, read, rows, write

# Other consoles

OPENRLHF = """
(PPOTrainer pid=7) INFO 11-05 06:36:16 ppo_trainer.py:123] \u2728 Global step 1: {'policy_loss': 0.5, 'reward': np.float64(0.25), 'timing/step_total': 30.5}
(PPOTrainer pid=7) Episode [1/2]: 10%|# | 1/10 [00:03<00:30, 3.1s/it, loss=0.2]
(PPOTrainer pid=7) INFO 11-05 06:37:16 ppo_trainer.py:150] \u2728 Evaluation completed in 0:00:10, global_step 1, eval_metrics: {'eval_math_pass1': 0.125, 'eval_math_pass4': 0.5}
(PPOTrainer pid=7) INFO 11-05 06:38:16 ppo_trainer.py:123] \u2728 Global step 2: {'policy_loss': 0.25, 'reward': 0.5}
"""  # noqa: E501
SKYRL = """
(skyrl_entrypoint pid=5) 2026-01-01 10:00:00.123 | INFO     | skyrl_train.utils.tracking:log:101 - Step 0:\x20
(skyrl_entrypoint pid=5) {'eval/all/avg_score': '0.2500',
(skyrl_entrypoint pid=6) loading weights
(skyrl_entrypoint pid=5)  'eval/all/pass_at_1': '0.1250'}
(skyrl_entrypoint pid=5) 2026-01-01 10:01:00.123 | INFO     | skyrl_train.utils.tracking:log:101 - Step 1:\x20
(skyrl_entrypoint pid=5) {'reward/avg_raw_reward': '0.5000', 'timing/step': '33.2500', 'trainer/global_step': 1}
"""


def test_openrlhf_prints_dicts_behind_global_steps(tmp_path):
    found = read(write(tmp_path / "a.log", OPENRLHF), "console")
    assert rows(found) == [
        {"step": 1, "policy_loss": 0.5, "reward": 0.25, "timing/step_total": 30.5},
        {"step": 1, "eval_math_pass1": 0.125, "eval_math_pass4": 0.5},
        {"step": 2, "policy_loss": 0.25, "reward": 0.5},
    ]
    assert found.rates == ("eval_math_pass1",)


def test_skyrl_prints_dicts_over_several_lines(tmp_path):
    found = read(write(tmp_path / "a.log", SKYRL), "console")
    assert rows(found) == [
        {"step": 0, "eval/all/avg_score": 0.25, "eval/all/pass_at_1": 0.125},
        {"step": 1, "reward/avg_raw_reward": 0.5, "timing/step": 33.25, "trainer/global_step": 1},
    ]
    assert found.rates == ("eval/all/avg_score", "eval/all/pass_at_1")


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("step: 3, loss: 0.5, lr: 1e-6", {"step": 3, "loss": 0.5, "lr": 1e-6}),
        ("Step 3 | loss=0.5 | reward=.25", {"step": 3, "loss": 0.5, "reward": 0.25}),
        ("[iter 3/10] loss=nan reward=0.5", {"step": 3, "total_steps": 10, "loss": math.nan, "reward": 0.5}),
        ("step=3,loss=0.5,acc=65%", {"step": 3, "loss": 0.5, "acc": 0.65}),
        ("2026-01-01 10:00:00 INFO train step 3: loss: 0.5 - acc: 0.25", {"step": 3, "loss": 0.5, "acc": 0.25}),
        ("update 3: loss: 0.5, took: 40ms, kl: 0.1", {"step": 3, "loss": 0.5, "took": "40ms", "kl": 0.1}),
    ],
)
def test_lines_of_own_loops(tmp_path, line, row):
    found = read(write(tmp_path / "a.txt", f"hello\n{line}\n{line}\n"), "console")
    assert [str(told) for told in rows(found)] == [str(row)] * 2
    assert found.dropped == {"prose": 1}


PROSE = [
    "Step 1: we look at 3 examples.\nStep 2: 5 minutes later the loss: 0.3 is fine, we said.\n",
    "Next step: 4\nstep by step, 12 - 3 of 4\nthe step: 3 - a hard one - took 4.5 hours\n",
    "{'a': 1}\n{'b': 2}\n",
    "Step 3: loss: 0.3, reward: 0.5, note: it rises\nStep 4: loss: 0.3, reward: 0.5, note: it falls\n",
    "in step 3 loss=0.5 reward=0.5\nin step 4 loss=0.5 reward=0.5\n",
    "",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_no_log(tmp_path, text):
    assert formats.recognise(write(tmp_path / "a.txt", text)) not in TEXT


def test_the_documents_of_this_project_are_no_logs():
    root = Path(__file__).parent.parent
    files = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("scalerl/*.py"), *root.glob("data/**/*.csv")]
    assert len(files) > 40
    assert {str(path): name for path in files if (name := formats.recognise(path)) in TEXT} == {}


# prime-rl


def prime(step, time_s, **cells):
    return {"step": step, "time": 1.7e9 + time_s, **{name.replace("__", "/"): v for name, v in cells.items()}}


def jsonl(path, told):
    return write(path, "".join(json.dumps(row) + "\n" for row in told))


def test_prime_rl_writes_several_rows_a_step(tmp_path):
    told = [
        prime(0, 1, loss__mean=0.5),
        prime(0, 2, time__step=30.0),
        prime(1, 3, loss__mean=0.25),
        prime(1, 4, time__step=31.0),
    ]
    found = read(jsonl(tmp_path / "mine_seed2" / "metrics.jsonl", told), "prime-rl")
    assert rows(found) == [
        {"step": 0, "time": 1.7e9 + 2, "loss/mean": 0.5, "time/step": 30.0},
        {"step": 1, "time": 1.7e9 + 4, "loss/mean": 0.25, "time/step": 31.0},
    ]
    assert (found.label.recipe, found.label.seed) == ("mine", 2)


def test_prime_rls_trainer_and_orchestrator_are_one_run(tmp_path):
    """The orchestrator is a step ahead; its second attempt begins at step 2, and only one row has no partner."""
    orchestrator = [(0, 0), (1, 10), (2, 20), (3, 30), (2, 100), (3, 110)]
    trainer = [(0, 9), (1, 19), (2, 29), (2, 109), (3, 119)]
    jsonl(
        tmp_path / "run_default" / "metrics.jsonl",
        [prime(s, t, reward__all__mean=t, time__step=1) for s, t in orchestrator],
    )
    jsonl(tmp_path / "metrics.jsonl", [prime(s, t, loss__mean=t, time__step=2) for s, t in trainer])
    found = read(tmp_path, "prime-rl")
    told = [(row["step"], row.get("loss/mean"), row.get("reward/all/mean")) for row in rows(found)]
    assert told == [(0, 9, 0), (1, 19, 10), (2, 29, 20), (3, None, 30), (2, 109, 100), (3, 119, 110)]
    assert found.table.columns["time/step"] == [2, 2, 2, None, 2, 2]
    assert found.table.columns["orchestrator/time/step"] == [1, 1, 1, 1, 1, 1]
    assert found.header["files"] == ["metrics.jsonl", "run_default/metrics.jsonl"]
    both = (tmp_path / "metrics.jsonl").read_bytes() + (tmp_path / "run_default" / "metrics.jsonl").read_bytes()
    assert found.sha256 == hashlib.sha256(both).hexdigest()


def test_runs_side_by_side_are_not_one_run(tmp_path):
    for name in ("a", "b"):
        jsonl(tmp_path / name / "metrics.jsonl", [prime(0, 1, loss__mean=0.5)])
    assert formats.recognise(tmp_path) not in TEXT


# JSON lines

BAD = [
    ('{"step": 2, "a": 0.5', "not JSON"),
    ("[1, 2]", "not an object"),
    ('{"step": 3, "a": 1, "a": 2}', "a name stands twice"),
    ('{"step": 4, "a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
    ('{"step": 5} {"step": 6}', "not JSON"),
    ("loading ...", "not JSON"),
]


def test_every_line_is_a_row_or_is_counted(tmp_path):
    good = '{"step": 1, "a": 0.25}'
    lines = [good] * 30 + [*(part for text, _ in BAD for part in (text, good)), "", good, '{"step": 9, "a": 0.']
    found = read(write(tmp_path / "a.jsonl", "\n".join(lines)), "jsonl")
    assert rows(found) == [{"step": 1, "a": 0.25}] * 37
    assert found.dropped == {
        "not JSON": 3,
        "not an object": 1,
        "a name stands twice": 1,
        "nested too deep": 1,
        "half a last line": 1,
    }
    assert found.table.cut
    told = {f.code: f.message for f in found.findings}
    assert "not JSON (line 31, 39, 41)" in told["rows-dropped"]
    assert "a name stands twice (line 35)" in told["rows-dropped"]
    assert "the 37 rows before it are used" in told["log-cut"]


def test_numbers_that_are_none_stay_what_they_are(tmp_path):
    text = '{"step": 1, "a": 1e999, "b": NaN, "c": -Infinity, "d": ' + "9" * 5000 + ', "e": 123456789012345678901}\n'
    (row,) = rows(read(write(tmp_path / "a.jsonl", text * 1), "jsonl"))
    assert [number(row[name]) for name in "abcd"] == [None] * 4  # left out later, with a finding
    assert row["e"] == 123456789012345678901.0


def test_nested_objects_become_names_and_runs_are_told_apart(tmp_path):
    told = [{"step": i, "seed": i % 2, "eval": {"math": {"acc": i / 8}}} for i in range(6)]
    found = formats.read_as("jsonl", jsonl(tmp_path / "mine.jsonl", told))
    assert [(one.label.name, one.table.columns["eval/math/acc"]) for one in found] == [
        ("mine/seed0", [0.0, 0.25, 0.5]),
        ("mine/seed1", [0.125, 0.375, 0.625]),
    ]
    assert found[0].rates == ("eval/math/acc",)


@given(st.lists(st.dictionaries(names, numbers | st.text(max_size=5), min_size=1), min_size=1, max_size=8))
def test_json_lines_are_read_as_they_were_written(tmp_path_factory, cells):
    told = [{"step": i, "loss": 0.5, **row} for i, row in enumerate(cells)]
    path = jsonl(tmp_path_factory.mktemp("lines") / "a.jsonl", told)
    (found,) = formats.read_as("jsonl", path)
    assert rows(found) == [{name: v for name, v in row.items() if v is not None} for row in told]
    # and each of the formats that are the same cells in other words
    path = jsonl(path.with_name("b.jsonl"), [{"step": i, "data": row} for i, row in enumerate(cells)])
    (found,) = formats.read_as("verl-file", path)
    assert rows(found) == [
        {"step": i, **{k: v for k, v in row.items() if v is not None}} for i, row in enumerate(cells)
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("reader", TEXT)
def test_marks_and_line_ends_change_nothing(tmp_path, encoding, end, reader):
    sample = SAMPLES[reader]()
    tables = []
    for folder, code, mark in ((tmp_path / "a", "utf-8", "\n"), (tmp_path / "b", encoding, end)):
        for name, data in sample.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data.decode().replace("\n", mark).encode(code))
        found = read(folder if len(sample) > 1 else folder / next(iter(sample)), reader)
        tables.append((rows(found), list(found.table.lines)))
    assert tables[0] == tables[1]


def test_samples_of_people_are_no_log(tmp_path):
    """Prompts and completions with a step, as this trainer keeps some to read."""
    told = [{"step": i, "prompt": "1+1=", "completion": "2", "reward": 1.0} for i in range(3)]
    assert formats.recognise(jsonl(tmp_path / "samples.jsonl", told)) not in TEXT


def test_the_bar_behind_a_row_counts_before_the_one_in_front_of_it(tmp_path):
    text = "{'loss': 1, 'epoch': 0}\n"
    text += "\r 8%|# | 0/12 [0\n\r 8%|# | 1/12 [0{'loss': 2, 'epoch': '0.1667'}\n\r 8%|# | 2/12 [0\n\r 8%|# | 4/12 [0\n"
    found = read(write(tmp_path / "a.log", text), "trl-console")
    assert found.table.columns["step"] == [0, 2]  # a step is 1/12 of an epoch, not 1/6


# Lines that are alike


@pytest.mark.parametrize("reader", ["verl-console", "trl-console", "console"])
def test_lines_that_are_alike_are_read_as_each_alone(tmp_path, reader, monkeypatch):
    """Two lines of one kind show what stands between their numbers; what is else is read by itself."""
    draw = random.Random(reader)  # noqa: S311
    figures = ("0.5", "3", "-2", "1e-06", "nan", "NaN", "007", "5.", "1_0", "None", "np.float64(0.5)", "1" * 17, "1-2")

    def line(i):
        values = [draw.choice(figures[:5] if draw.random() < 0.9 else figures) for _ in range(3)]
        names = ("loss", "a/b@4", draw.choice(("kl", "kl", "kl", "n")))
        if reader == "console":
            return f"12:0{i % 10} INFO [Step {i}/90] " + " ".join(
                f"{n}={v}" for n, v in zip(names, values, strict=True)
            )
        if reader == "verl-console":
            return f"{RAY}step:{i} - " + " - ".join(f"{n}:{v}" for n, v in zip(names, values, strict=True))
        quote = draw.choice(("", "'"))
        return "{" + ", ".join(f"'{n}': {quote}{v}{quote}" for n, v in zip(names, values, strict=True)) + "}"

    path = write(tmp_path / "a.log", "".join(line(i) + "\n" for i in range(1500)))
    (quick,) = formats.read_as(reader, path)
    monkeypatch.setattr("analysis.readers.printed.Alike.learn", lambda *_: None)
    (careful,) = formats.read_as(reader, path)
    assert str(quick.table.columns) == str(careful.table.columns)
    assert list(quick.table.lines) == list(careful.table.lines)
    assert quick.dropped == careful.dropped
    assert len(quick.table.lines) > 1000


def test_a_number_in_a_name_is_no_value(tmp_path):
    lines = (
        "".join(f"step:{i} - x/5:np.float64(5) - y 7 z:7\n" for i in range(3))
        + "step:3 - x/6:np.float64(5) - y 7 z:8\n"
    )
    found = read(write(tmp_path / "a.log", lines), "verl-console")
    assert rows(found) == [*({"step": i, "x/5": 5, "y 7 z": 7} for i in range(3)), {"step": 3, "x/6": 5, "y 7 z": 8}]


# Tables


@pytest.mark.parametrize("count", [4095, 4096, 4097, 8192, 8193])
def test_a_long_table_is_what_the_csv_module_reads(tmp_path, count):
    draw = random.Random(count)  # noqa: S311
    cells = ["0.5", "", " 3 ", "a,b", 'q"q', "x\ny", "\u00b5"]
    told = [["step", "a", "b"], *([str(i), draw.choice(cells), draw.choice(cells)] for i in range(count))]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(told)
    (found,) = formats.read_as("table", tmp_path / "a.csv")
    for name, column in found.table.columns.items():
        other = [row[told[0].index(name)] for row in told[1:]]
        assert list(column) == other
        assert [column[i] for i in (0, count // 2, -1, -count)] == [other[i] for i in (0, count // 2, -1, -count)]
        with pytest.raises(IndexError):
            column[count]
    (run,) = lineages(found)
    assert run.table is found.table
    path = write(tmp_path / "b.csv", "step,seed,a\n" + "".join(f"{count - i},{i % 2},{i}\n" for i in range(count)))
    for seed, part in enumerate(formats.read_as("table", path)):
        assert list(part.table.columns["a"]) == [str(i) for i in range(seed, count, 2)]
        (run,) = lineages(part)  # out of order: sorted by the step
        assert list(run.table.columns["a"]) == [str(i) for i in range(seed, count, 2)][::-1]


# Hostile input


@pytest.mark.parametrize("reader", TEXT)
def test_nearly_right_files_are_read_or_refused_in_one_line(tmp_path, reader):
    told = fuzz(reader, 2000 // len(TEXT) + 1, 20261128, tmp_path)
    assert told["read"] > 50  # most mutations leave something to read
    assert sum(told.values()) == 2000 // len(TEXT) + 1


@pytest.mark.parametrize("reader", TEXT)
def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path, reader):
    fifo, loop = tmp_path / "fifo", tmp_path / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "trainer_state.json").symlink_to(tmp_path / "inside" / "trainer_state.json")
    os.mkfifo(tmp_path / "inside" / "metrics.jsonl")
    for path in (fifo, loop, tmp_path / "inside", tmp_path / "none", Path("/dev/zero"), Path("a\0b")):
        assert not formats._module(formats.FORMATS[reader]).recognise(path, formats.head_of(path))
        with pytest.raises(UserError, match=r"cannot be read|no trainer_state|no metrics"):
            formats.read_as(reader, path)


@pytest.mark.parametrize("reader", TEXT)
def test_an_empty_file_is_one_error(tmp_path, reader):
    path = write(tmp_path / "a", "")
    assert formats.recognise(path) not in TEXT
    with pytest.raises(UserError, match=r"^.*/a:1: "):
        formats.read_as(reader, path)


def test_names_are_only_text(tmp_path):
    names = ["<script>alert(1)</script>", "=cmd|' /C calc'!A0", "\x1b[31mred", "a\nb", "\ud800"]
    told = [{"step": 0, "run": "../../etc/passwd", **dict.fromkeys(names, 0.5)}, {"step": 1, "run": "../x\x1b[2J"}]
    found = formats.read_as("jsonl", jsonl(tmp_path / "a.jsonl", [told[0], told[0], told[1], told[1]]))
    assert [one.label.name for one in found] == ["../../etc/passwd", "../x?[2J"]
    assert list(found[0].table.columns)[2:] == [*names[:2], "?[31mred", "a?b", "?"]
    assert found[0].table.columns[names[0]] == [0.5, 0.5]


def test_a_line_without_end_costs_no_more_than_its_bytes(tmp_path):
    bars = "\r 1%|#| 1/100 [00:50<14:12, 9.1s/it]" * (2 * LONGEST // 36)  # hours of a progress bar
    text = f"{{'loss': 0.5, 'epoch': 0.1}}\n{bars}\r{{'loss': 0.25, 'epoch': 0.2}}\n"
    text += f"{'x' * (3 * LONGEST)}\n{{'loss': 1, 'epoch': 1}}\n"
    found = formats.read_as("trl-console", write(tmp_path / "a.log", text))[0]
    assert found.table.columns["loss"] == [0.5, 0.25, 1]
    assert list(found.table.lines) == [1, 2, 4]
    assert found.dropped["too long"] == 1


def test_memory_stays_below_ten_times_the_file(tmp_path):
    draw = random.Random(1)  # noqa: S311
    wide = "".join(json.dumps({"step": i, f"a{draw.random()}": 1, f"b{i}": [1, 2]}) + "\n" for i in range(50_000))
    path = write(tmp_path / "a.jsonl", wide)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        (found,) = formats.read_as("jsonl", path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * size
    assert found.table.columns["step"] == list(range(50_000))  # no row is lost with the columns
    assert "columns that hold few cells are left out" in found.findings[0].message
