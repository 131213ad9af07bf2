"""Any loop can write a run: the axis outlives kills, the lost work is billed, bad values are one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis as an
from scalerl.runlog import RunLog, RunLogError, read_header, read_log
from tests.made_writer import DEVICES, STEP_S, Clock, finished, last_event, opened, rows_of


def test_wall_seconds_count_and_pauses_do_not(tmp_path):
    clock = Clock()
    log = opened(tmp_path, clock)
    clock.now += 90
    with log.phase("generate"):
        clock.now += 270
    with log.pause("evaluate"):
        clock.now += 1000
    log.evaluate(correct=[2, 4], k=4)
    with log.pause():
        clock.now += 500
    log.step(1, loss=0.5)
    log.step(2)
    log.evaluate(pass_rate=0.75, n_prompts=3, k=16)
    log.__exit__(None, None, None)
    one, two = rows_of(tmp_path, "step")
    assert one["gpu_hours"] == two["gpu_hours"] == 360 * 8 / 3600 and one["cpu_s"] == 360
    assert one["generate_s"] == 270 and "generate_s" not in two
    first, second = rows_of(tmp_path, "eval")
    assert (first["step"], first["pass_rate"], first["n_prompts"]) == (0, 0.75, 2) and first["evaluate_s"] >= 0
    assert (second["step"], second["pass_rate"], second["k"]) == (2, 0.75, 16)
    assert "evaluate_s" not in second and "correct" not in second


@pytest.mark.parametrize("paused", [True, False])
def test_an_evaluation_before_all_else_is_at_compute_0(tmp_path, paused):
    clock = Clock()
    log = opened(tmp_path, clock)
    clock.now += 5  # set-up
    log.count(tokens_generated=0)
    with log.pause("evaluate") if paused else nullcontext():
        clock.now += 600
        log.evaluate(pass_rate=0.1)
    clock.now += 3600
    log.step(1)
    log.close()
    (row,) = rows_of(tmp_path, "eval")
    assert row["gpu_hours"] == row["cpu_s"] == row["tokens_generated"] == row["step"] == 0
    assert rows_of(tmp_path, "step")[0]["gpu_hours"] == 8


def test_only_the_first_of_evaluations_without_updates_is_at_compute_0(tmp_path):
    with RunLog(tmp_path, recipe="mine") as log:
        for _ in range(3):
            log.evaluate(pass_rate=0.1)
            time.sleep(0.001)
    first, *others = [row["gpu_hours"] for row in rows_of(tmp_path, "eval")]
    assert first == 0 and all(hours >= 0.001 / 3600 for hours in others)


@pytest.mark.parametrize("inside", [True, False])
def test_the_seconds_of_an_evaluation_are_its_own(tmp_path, inside):
    with RunLog(tmp_path, recipe="mine") as log:
        for step in (0, 1):
            with log.pause("evaluate"):
                time.sleep(0.02 if step == 0 else 0.0)
                if inside:
                    log.evaluate(pass_rate=0.5, step=step)
            if not inside:
                log.evaluate(pass_rate=0.5, step=step)
        log.evaluate(pass_rate=0.5)
    first, second, third = rows_of(tmp_path, "eval")
    assert first["evaluate_s"] >= 0.02 > second["evaluate_s"] and "evaluate_s" not in third


def test_tokens_are_sums_over_the_run_in_every_row_behind_them_and_after_a_resume(tmp_path):
    log = opened(tmp_path)
    log.evaluate(pass_rate=0.1)
    for step in (1, 2, 3):
        log.count(tokens_generated=100, flops=1e12)
        log.step(step)
    log.evaluate(pass_rate=0.2)
    log.close()
    with RunLog(tmp_path, recipe="mine", seed=0, devices=8, resume_step=2) as log:
        log.count(tokens_generated=np.int64(50))
        log.step(3)
        log.step(4, tokens_generated=1000, tokens_trained=7)
        log.evaluate(pass_rate=0.3)
    assert [row.get("tokens_generated") for row in rows_of(tmp_path, "step")] == [100, 200, 250, 1000]
    assert [row.get("flops") for row in rows_of(tmp_path, "step")] == [1e12, 2e12, 2e12, 2e12]
    evals = rows_of(tmp_path, "eval")
    assert "tokens_generated" not in evals[0] and (evals[1]["tokens_generated"], evals[1]["tokens_trained"]) == (
        1000,
        7,
    )


def test_rewards_are_kept_as_sum_count_and_variance(tmp_path):
    rewards = np.random.default_rng(0).normal(size=(4, 16))
    with RunLog(tmp_path, recipe="mine") as log:
        log.step(1, rewards=rewards)
    (row,) = rows_of(tmp_path, "step")
    assert row["reward_count"] == 64
    assert row["reward_sum"] == pytest.approx(rewards.sum()) and row["reward_var"] == pytest.approx(rewards.var())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.floats(0, 30), st.booleans()), max_size=4),
    st.integers(1, 4),
)
def test_the_axis_goes_on_where_it_was_and_what_is_lost_is_billed(tmp_path_factory, kills, every):
    """Killed at any moment, resumed from any checkpoint: each row has the compute of a run that was never killed."""
    folder = tmp_path_factory.mktemp("run")
    clock, lost, saved = Clock(), 0.0, 0
    for steps, _, into, tear in [*kills, (3, 0, 0.0, False)]:
        log = opened(folder, clock, resume_step=saved)
        if saved == 0:
            log.evaluate(pass_rate=0.0, step=0)
        start = saved
        for step in range(start + 1, start + steps + 1):
            clock.now += STEP_S
            log.step(step)
            with log.pause("evaluate"):
                clock.now += 100
            log.evaluate(pass_rate=0.5)
            if step % every == 0:
                with log.pause("checkpoint"):
                    clock.now += 7
                log.saved(step)
                saved = step
        clock.now += into  # in a step that no row tells of
        if (steps, into, tear) != (3, 0.0, False):
            lost += (start + steps - saved) * STEP_S
        log.close()
        if tear:
            with (folder / "log.jsonl").open("ab") as file:
                file.write(b'{"kind": "step", "step": 9')
    rows = [row for row in read_log(folder / "log.jsonl").rows if row["kind"] in ("step", "eval")]
    for row in rows:
        assert row["gpu_hours"] == pytest.approx(row["step"] * STEP_S * DEVICES / 3600, abs=1e-9)
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, *steps]
    resumed = [row for row in rows_of(folder, "event") if row["event"] == "resume"]
    if kills and resumed:
        killed_last = lost  # the last attempt ends as it is: nothing of it is lost yet
        assert resumed[-1]["gpu_hours_lost"] == pytest.approx(killed_last * DEVICES / 3600, abs=1e-9)
        assert resumed[-1]["attempt"] == len(kills) + 1


LOOP = """
import sys
from scalerl.runlog import RunLog
folder, start = sys.argv[1], int(sys.argv[2])
with RunLog(folder, recipe="mine", seed=0, devices=8, resume_step=start) as log:
    for step in range(start + 1, 10**6):
        sum(range(2000))
        log.step(step, loss=1 / step)
        log.evaluate(correct=[1, 2], k=4)
        print(step, flush=True)
"""


def test_a_loop_that_is_killed_goes_on_with_the_axis_where_it_was(tmp_path):
    reached = 0
    for attempt in (1, 2, 3):
        command = [sys.executable, "-c", LOOP, str(tmp_path), str(reached)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(12):
                told = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        rows = read_log(tmp_path / "log.jsonl").rows
        spent = [row["gpu_hours"] for row in rows if row["kind"] in ("step", "eval")]
        assert spent == sorted(spent) and spent[-1] > 0
        assert [row["step"] for row in rows if row["kind"] == "step"][:told] == list(range(1, told + 1))
        assert rows[-1]["attempt"] == attempt
        reached = told - 5
    lost = json.loads((tmp_path / "lost" / "attempt-2.jsonl").read_text().splitlines()[0])
    assert lost["gpu_hours_lost"] > 0
    run = an.read(tmp_path)[0]
    assert run.header["devices"]["count"] == 8 and "resumed" in {f.code for f in run.findings}


def test_rows_written_now_and_then_give_an_estimate_that_says_so(tmp_path):
    clock = Clock()
    log = opened(tmp_path, clock)
    for step in range(1, 21):
        clock.now += STEP_S
        if step % 10 == 0:
            log.step(step)
    log.close()
    log = opened(tmp_path, clock, resume_step=15)
    assert log.meter.gpu_hours == pytest.approx(15 * STEP_S * DEVICES / 3600)
    log.close()
    assert "no row of step 15" in last_event(tmp_path)["estimated"]
    assert last_event(tmp_path)["gpu_hours_lost"] == pytest.approx(5 * STEP_S * DEVICES / 3600)
    log = opened(tmp_path, clock, resume_step=10)
    assert log.meter.gpu_hours == pytest.approx(10 * STEP_S * DEVICES / 3600)
    log.close()
    assert "estimated" not in last_event(tmp_path)


def test_an_evaluation_behind_its_checkpoint_is_not_lost(tmp_path):
    log = opened(tmp_path)
    log.step(1)
    log.saved(1)
    log.evaluate(pass_rate=0.5)
    log.step(2)
    log.close()
    opened(tmp_path, resume_step=1).close()
    assert [row["step"] for row in rows_of(tmp_path, "eval")] == [1]
    assert [row["step"] for row in rows_of(tmp_path, "step")] == [1]


def test_a_run_that_ended_goes_on_further_but_never_anew(tmp_path):
    finished(tmp_path)
    with pytest.raises(RunLogError, match="a run that has ended; choose another folder"):
        opened(tmp_path, resume_step=0)
    log = opened(tmp_path, resume_step=6)
    log.step(7)
    log.__exit__(None, None, None)
    assert [row["event"] for row in rows_of(tmp_path, "event")] == ["start", "resume", "end"]
    assert rows_of(tmp_path, "step")[-1]["attempt"] == 2


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so(tmp_path, caplog):
    log = opened(tmp_path)
    log.step(1)
    log.close()
    log = opened(tmp_path, resume_step=0)
    log.step(1)
    log.close()
    assert "begins anew; updates and evaluations moved to lost/: 1" in caplog.text
    assert [row.get("event", row.get("step")) for row in read_log(tmp_path / "log.jsonl").rows] == ["resume", 1]
    assert len(list((tmp_path / "lost").iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"recipe": "other"}, "is a run of recipe 'mine', not 'other'"),
        ({"seed": 1}, "is a run of seed 0, not 1"),
        ({"resume_step": -1}, "resume_step is -1"),
        ({"resume_step": 1.5}, "resume_step is 1.5"),
        ({"resume_step": None}, "holds a run already"),
    ],
)
def test_what_cannot_go_on_is_refused_and_nothing_changes(tmp_path, more, message):
    finished(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunLogError, match=message):
        opened(tmp_path, **{"resume_step": 3, **more})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_step_that_no_log_has_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(RunLogError, match="holds no log that could go on from step 5"):
        opened(tmp_path / "run", resume_step=5)
    assert list((tmp_path / "run").iterdir()) == []
    opened(tmp_path / "run", resume_step=0).close()
    with pytest.raises(RunLogError, match="no row of step 5 or before"):
        opened(tmp_path / "run", resume_step=5)


def test_other_devices_from_a_resume_on_count_as_what_they_are(tmp_path):
    finished(tmp_path)
    clock = Clock()
    log = opened(tmp_path, clock, resume_step=6, devices=2)
    clock.now += 3600
    log.step(7)
    log.close()
    assert rows_of(tmp_path, "step")[-1]["gpu_hours"] == pytest.approx(6 * STEP_S * DEVICES / 3600 + 2)
    changed = last_event(tmp_path)["changed"]["devices"]
    assert [each["count"] for each in changed] == [8, 2] and read_header(tmp_path)["devices"]["count"] == 8


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ({"device_kind": "H200"}, ["H100 and goes on with H200"]),
        ({"device_kind": "H100", "devices": 2}, []),
        ({"device_kind": "unknown"}, []),
        ({"header": {"devices": 3}}, []),
    ],
)
def test_another_kind_of_device_from_a_resume_on_is_one_warning(tmp_path, caplog, devices, told):
    opened(tmp_path, device_kind="H100", resume_step=0).close()
    opened(tmp_path, **{"resume_step": 0, **devices}).close()
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" began on ")[1].split(";")[0] for line in said] == told
    assert len(last_event(tmp_path)["changed"]["devices"]) == 2


def test_damage_before_the_cut_is_named_and_behind_it_is_moved_away(tmp_path):
    finished(tmp_path)
    path = tmp_path / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"oops\n", *lines[4:]]))
    with pytest.raises(RunLogError, match=r"log\.jsonl:5: not a JSON object"):
        opened(tmp_path, resume_step=5)
    opened(tmp_path, resume_step=3).close()
    assert [row["step"] for row in rows_of(tmp_path, "step")] == [1, 2, 3]
    assert b"oops" in (tmp_path / "lost" / "attempt-1.jsonl").read_bytes()


def test_a_second_writer_is_told_and_writes_nothing(tmp_path):
    with RunLog(tmp_path, recipe="mine") as log:
        log.step(1)
        before = (tmp_path / "log.jsonl").read_bytes(), (tmp_path / "run.json").read_bytes()
        for more in ({"resume_step": 0}, {"resume_step": 1}):
            with pytest.raises(RunLogError, match="another process works on this run"):
                opened(tmp_path, seed=None, **more)
        assert ((tmp_path / "log.jsonl").read_bytes(), (tmp_path / "run.json").read_bytes()) == before
        log.step(2)


def test_a_child_that_outlives_its_parent_does_not_keep_the_folder(tmp_path):
    """A data loader forked inside the loop; only the writer's own process holds the run."""
    log = opened(tmp_path)
    (come, go), (hear, say) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.write(say, b"!")
        os.read(come, 1)
        os._exit(0)
    try:
        assert os.read(hear, 1) == b"!"  # it is there, and waits
        log.step(1)
        log.close()
        opened(tmp_path, resume_step=1).close()
    finally:
        os.close(go)
        os.waitpid(child, 0)
        for end in (come, hear, say):
            os.close(end)
