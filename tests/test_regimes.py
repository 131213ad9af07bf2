"""A change inside a fit is a doubt; what happens in every run is none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import analysis as an
from analysis.readers.regimes import BATCH, EMPTY_WINDOW, JUMP, PLATEAU, STEADY, of_window, read_events
from scalerl.runlog import RunLog

ROOT = Path(__file__).parent.parent
STEPS = 60


def steps(**columns):
    """Step rows with these columns, each a list over the steps."""
    length = max([STEPS, *map(len, columns.values())])
    return [
        {
            "kind": "step",
            "step": i + 1,
            "gpu_hours": (i + 1) / 10,
            **{k: v[i] for k, v in columns.items() if i < len(v)},
        }
        for i in range(length)
    ]


def kinds(rows):
    return [event.kind for event in read_events(rows)]


def warm_up(n=10, peak=1e-5):
    return [peak * (i + 1) / n for i in range(n)]


# ---- learning rates


@pytest.mark.parametrize(
    "rates",
    [
        [1e-5] * STEPS,
        warm_up() + [1e-5] * 50,
        warm_up(2) + [1e-5] * 58,
        [1e-5 * (1 - i / STEPS) for i in range(STEPS)],
        warm_up() + [1e-5 * (1 - i / 50) for i in range(50)],
        warm_up() + [5e-6 * (1 + math.cos(math.pi * i / 50)) + 1e-9 for i in range(50)],
        warm_up() + [5e-6 * (1 + math.cos(math.pi * i / 30)) + 1e-7 for i in range(31)] + [1e-7] * 19,
        [1e-5 * 0.95**i for i in range(STEPS)],
        warm_up() + [1e-5 / math.sqrt(1 + i / 5) for i in range(50)],
        [None] * STEPS,
    ],
    ids=[
        "constant",
        "warm-up",
        "short warm-up",
        "linear",
        "linear after warm-up",
        "cosine",
        "cosine to a floor",
        "geometric",
        "root",
        "none",
    ],
)
def test_ordinary_schedules_raise_nothing(rates):
    assert kinds(steps(learning_rate=rates)) == []


@pytest.mark.parametrize(
    ("rates", "at"),
    [
        ([1e-5] * 30 + [1e-6] * 30, 3.0),
        ([1e-5] * 30 + [1e-5 * JUMP * 1.001] * 30, 3.0),
        (warm_up() + [1e-5] * 20 + [2e-5] * 30, 3.0),
        (warm_up() + [5e-6 * (1 + math.cos(math.pi * (i % 25) / 25)) + 1e-8 for i in range(50)], 3.5),
        (warm_up() + [1e-5] * 20 + [1e-5 * (1 - i / 30) for i in range(1, 30)], 3.0),
    ],
    ids=["step down", "just a jump", "step up", "warm restart", "decay after a plateau"],
)
def test_changes_of_the_rate_are_found_where_they_are(rates, at):
    events = read_events(steps(learning_rate=rates))
    assert [event.kind for event in events] == ["learning_rate"]
    assert events[0].at == {"gpu_hours": pytest.approx(at), "step": 10 * at}


def test_a_change_smaller_than_a_jump_after_a_short_level_is_a_schedule():
    short = [1e-5] * (PLATEAU - 2) + [1e-5 / JUMP * 1.001] * 50
    assert kinds(steps(learning_rate=short)) == []
    long = [1e-5] * (PLATEAU + 2) + [1e-5 / JUMP * 1.001] * 48
    assert kinds(steps(learning_rate=long)) == ["learning_rate"]


# ---- batches, data, devices, evaluation


def test_a_lasting_change_of_batch_is_one_event():
    rows = steps(prompts=[32] * 30 + [64] * 30, reward_count=[512] * 30 + [1024] * 30)
    events = read_events(rows)
    assert [(e.kind, e.what) for e in events] == [("batch", "prompts an update from 32 to 64")]
    assert events[0].at["gpu_hours"] == pytest.approx(3.0)
    assert kinds(steps(reward_count=[512] * 30 + [1024] * 30)) == ["batch"]


@pytest.mark.parametrize(
    "prompts",
    [
        [32, 32, 32, 32, 32, 32, 17] * 9,
        [100 + i % 7 for i in range(STEPS)],
        [100] * 30 + [100 * BATCH * 0.99] * 30,
        [32] * 30 + [64] * (STEADY - 1) + [32] * 26,
    ],
    ids=["small last batches", "a filter that draws on", "too small a change", "a few odd ones"],
)
def test_ordinary_batches_raise_nothing(prompts):
    assert kinds(steps(prompts=prompts)) == []


def test_data_devices_and_evaluation_that_change_are_events():
    assert kinds(steps(train_set=["a"] * 30 + ["b"] * 30)) == ["data"]
    assert kinds(steps(devices=[8] * 30 + [16] * 30)) == ["devices"]
    assert kinds(steps(epoch=[i / 20 for i in range(STEPS)])) == []
    evals = [{"kind": "eval", "gpu_hours": i, "temperature": 1.0 if i < 5 else 0.6, "k": 4} for i in range(10)]
    events = read_events(evals)
    assert [(e.kind, e.what, e.at["gpu_hours"]) for e in events] == [("evaluation", "temperature from 1.0 to 0.6", 4.0)]


def test_events_that_the_log_marks_are_kept_and_ordinary_ones_are_not():
    rows = [
        {"kind": "event", "event": "start"},
        *steps(),
        {"kind": "event", "event": "data", "file": "b.json", "time": "t"},
    ]
    rows += [{"kind": "event", "event": "end"}, {"kind": "event", "event": 3}, {"kind": "event"}]
    events = read_events(rows)
    assert [(e.kind, e.what) for e in events] == [("data", "data (file b.json)")]
    hostile = read_events([{"kind": "event", "event": "x\n\x1b[31m" + "y" * 200}])
    assert hostile[0].what.isprintable() and len(hostile[0].what) <= 80


# ---- the finding


def test_a_change_inside_the_window_is_a_doubt_and_outside_is_none():
    events = read_events(steps(learning_rate=[1e-5] * 30 + [1e-6] * 30))
    found = of_window(events, "gpu_hours", 0.0, 6.0)
    assert [f.code for f in found] == ["regime"] and found[0].severity == "warning"
    assert found[0].figure == pytest.approx(3.0) and "at 3 gpu_hours" in found[0].message
    assert of_window(events, "gpu_hours", 0.0, 3.0) == [] == of_window(events, "gpu_hours", 3.1, 6.0)
    assert of_window(events, "gpu_hours", 0.0, 3.01) and of_window(events, "gpu_hours", 3.0, 6.0)
    assert of_window(events, "cpu_s", 0.0, 6.0) == []


def test_guards_and_resumes_are_observations_and_are_counted_not_taken_for_changes():
    rows = steps(learning_rate=[1e-5] * STEPS)
    for at, guard, raised in (
        (10, "truncation", True),
        (20, "truncation", False),
        (30, "entropy", True),
        (40, "truncation", True),
    ):
        rows.insert(
            at, {"kind": "event", "event": "guard", "step": at, "guard": guard, "raised": raised, "figure": 0.2}
        )
    rows.insert(35, {"kind": "event", "event": "resume", "step": 34, "rows_lost": 2})
    rows.insert(36, {"kind": "event", "event": "reward_errors", "step": 34, "errors": 2})
    found = of_window(read_events(rows), "gpu_hours", 0.0, 6.0)
    assert [(f.code, f.severity, f.figure) for f in found] == [("guards", "note", 3.0)]
    assert "truncation 2 times, entropy once" in found[0].message
    rows.insert(50, {"kind": "event", "event": "batch_size", "old": 32, "new": 64})
    found = of_window(read_events(rows), "gpu_hours", 0.0, 6.0)
    assert [f.code for f in found] == ["regime", "guards"] and "guard" not in found[0].message


def test_prompts_that_run_out_are_a_doubt_of_every_fit_that_reaches_so_far():
    rows = steps(retired=[10 * i for i in range(STEPS)])  # of 500: half from the row at 2.6 on
    found = of_window(read_events(rows, 500), "gpu_hours", 0.0, 6.0)
    assert [(f.code, f.severity) for f in found] == [("prompts-spent", "warning")]
    assert found[0].figure == pytest.approx(2.5) and "half of 500 train prompts" in found[0].message
    assert [f.code for f in of_window(read_events(rows, 500), "gpu_hours", 3.0, 6.0)] == ["prompts-spent"]
    assert of_window(read_events(rows, 500), "gpu_hours", 0.0, 2.5) == []
    assert read_events(rows) == read_events(rows, 1200) == ()  # how many there are is unknown, or not half of them


@pytest.mark.parametrize(("empty", "told"), [(6, True), (5, False)])
def test_updates_without_anything_to_learn_from_are_a_doubt_where_they_are_most_of_the_last(empty, told):
    same = [0.7] * 30 + [1.0] * empty + [0.7] * (EMPTY_WINDOW - empty) + [0.7] * 20
    found = of_window(read_events(steps(zero_variance_share=same)), "gpu_hours", 0.0, 6.0)
    assert [f.code for f in found] == (["prompts-spent"] if told else [])
    if told:
        assert found[0].figure == pytest.approx(3.5) and "most updates are empty" in found[0].message
    assert not read_events(steps(zero_variance_share=[1.0] * 5))  # fewer updates than the window


def test_many_changes_are_named_in_part():
    events = read_events(steps(train_set=[str(i // 10) for i in range(STEPS)]))
    assert of_window(events, "step", 0, 60)[0].message.count("train_set") == 3
    assert "and 2 more" in of_window(events, "step", 0, 60)[0].message


def test_a_resume_is_an_event_and_no_doubt():
    events = read_events(steps(attempt=[1] * 30 + [2] * 30))
    assert [e.kind for e in events] == ["attempt"] and of_window(events, "gpu_hours", 0.0, 6.0) == []


@pytest.mark.parametrize("run", sorted((ROOT / "data" / "runs").iterdir()), ids=lambda p: p.name)
def test_the_shipped_runs_are_ordinary(run):
    assert an.read(run)[0].events == ()


def test_a_log_is_read_with_its_events(tmp_path):
    with RunLog(tmp_path / "run", recipe="r", seed=0) as log:
        for i, c in enumerate(np.linspace(0.0, 8.0, 12)):
            log.evaluate(step=i, correct=[1, 2], k=4, gpu_hours=float(c), temperature=1.0 if i < 6 else 0.5)
    run = an.read(tmp_path / "run")[0]
    assert [e.kind for e in run.events] == ["evaluation"] and run.events[0].at["step"] == 5


def test_a_recipe_whose_runs_run_out_says_so_once_and_so_does_a_comparison_with_it():
    runs = an.read([f"data/study/base/{recipe}_s{seed}" for recipe in ("scalerl", "grpo") for seed in (0, 1)])
    fits = an.fit(runs, x="flops")
    compared = an.compare(fits)
    (found,) = [f for f in compared.findings if f.code == "prompts-spent"]
    assert found.message.startswith("runs of scalerl run out of prompts") and found.message in str(compared)
    (found,) = [f for f in an.pool_seeds(fits)["scalerl"].findings if f.code == "prompts-spent"]
    assert found.message.startswith("scalerl: 2 of 2 runs run out of prompts") and found.figure == 2.0
