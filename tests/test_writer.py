"""Any loop can write a run: the axis outlives kills, the lost work is billed, bad values are one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis as an
from analysis.curves.curve import R
from scalerl.cli import main
from scalerl.runlog import RunLog, RunLogError, read_header, read_log


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(folder, clock: Clock | None = None, **more) -> RunLog:
    log = RunLog(folder, **{"recipe": "mine", "seed": 0, "devices": 8, **more})
    if clock is not None:
        log.meter._wall = log.meter._cpu = clock
    return log.__enter__()


def rows_of(folder, kind: str) -> list[dict]:
    return [row for row in read_log(Path(folder) / "log.jsonl").rows if row["kind"] == kind]


def last_event(folder) -> dict:
    return rows_of(folder, "event")[-1]


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


STEP_S, DEVICES = 36.0, 8  # a step is .08 GPU-hours


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


def finished(folder, steps: int = 6, **more) -> Path:
    clock = Clock()
    log = opened(folder, clock, **more)
    for step in range(1, steps + 1):
        clock.now += STEP_S
        log.step(step)
    log.__exit__(None, None, None)
    return folder


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


class Odd:
    def item(self):
        raise RuntimeError("more than one element")


BAD_STEPS = [
    ({"step": 0}, "step is 0 after 3; steps only go up"),
    ({"step": 3}, "step is 3 after 3"),
    ({"step": -1}, "step is -1"),
    ({"step": 4.5}, r"step is 4\.5"),
    ({"step": True}, "step is True"),
    ({"step": "4"}, "step is '4'"),
    ({"step": 4, "loss": {1, 2}}, "loss is a set; a row holds numbers, text"),
    ({"step": 4, "loss": b"x"}, "loss is a bytes"),
    ({"step": 4, "loss": 1j}, "loss is a complex"),
    ({"step": 4, "loss": Odd()}, "loss is a Odd that gives no number: more than one element"),
    ({"step": 4, "more": {1: 2}}, "more has a key 1, which is no text"),
    ({"step": 4, "more": {"deep": object()}}, r"more\.deep is a object"),
    ({"step": 4, "n": 10**5000}, "a row cannot be written as JSON"),
    ({"step": 4, "kind": "eval"}, "kind is a field of the log's own"),
    ({"step": 4, "attempt": 9}, "attempt is a field of the log's own"),
    (
        {"step": 4, "tokens_generated": 99},
        r"tokens_generated is 99 after 100; .* log\.count\(tokens_generated=\.\.\.\)",
    ),
    ({"step": 4, "gpu_hours": float("nan")}, "gpu_hours is nan"),
    ({"step": 4, "rewards": []}, "rewards must hold at least one number"),
    ({"step": 4, "rewards": [1.0, float("nan")]}, "rewards must hold .* only finite ones"),
    ({"step": 4, "rewards": ["good"]}, "rewards must hold at least one number"),
]


@pytest.mark.parametrize(("given_", "message"), BAD_STEPS)
def test_a_bad_value_of_a_step_is_one_line_and_no_row(tmp_path, given_, message):
    with RunLog(tmp_path, recipe="mine") as log:
        log.step(3, tokens_generated=100)
        before = (tmp_path / "log.jsonl").read_bytes()
        with pytest.raises(RunLogError, match=message) as error:
            log.step(**given_)
        assert "\n" not in str(error.value)
        assert (tmp_path / "log.jsonl").read_bytes() == before
        log.step(4)  # and the log is as it was


BAD_EVALUATIONS = [
    ({"pass_rate": 41.0}, "pass_rate is 41.0; it must be a fraction from 0 to 1; divide percent by 100"),
    ({"pass_rate": -0.1}, "pass_rate is -0.1"),
    ({"pass_rate": float("nan")}, "pass_rate is nan"),
    ({"pass_rate": "0.4"}, "pass_rate is '0.4'"),
    ({"pass_rate": True}, "pass_rate is True"),
    ({}, "needs correct=.* or pass_rate="),
    ({"correct": [1]}, "correct needs k"),
    ({"correct": [], "k": 4}, "at least one count"),
    ({"correct": [5], "k": 4}, "between 0 and k=4"),
    ({"correct": [-1], "k": 4}, "correct is -1"),
    ({"correct": [0.5], "k": 4}, "correct is 0.5"),
    ({"correct": [True], "k": 4}, "correct is True"),
    ({"correct": 3, "k": 4}, "correct is 3; it must be a list of numbers"),
    ({"correct": "123", "k": 4}, "correct is '123'; it must be a list of numbers"),
    ({"correct": [1], "k": 0}, "k is 0"),
    ({"correct": [1, 2], "k": 4, "n_prompts": 3}, "n_prompts is 3, and correct holds 2 counts"),
    ({"correct": [1, 2], "k": 4, "pass_rate": 0.5}, "pass_rate is 0.5, and correct gives 0.375"),
    ({"pass_rate": 0.4, "n_prompts": 0}, "n_prompts is 0"),
    ({"pass_rate": 0.4, "step": 1}, "step is 1 after 3"),
]


@pytest.mark.parametrize(("given_", "message"), BAD_EVALUATIONS)
def test_a_bad_evaluation_is_one_line_and_no_row(tmp_path, given_, message):
    with RunLog(tmp_path, recipe="mine") as log:
        log.step(3)
        before = (tmp_path / "log.jsonl").read_bytes()
        with pytest.raises(RunLogError, match=message):
            log.evaluate(**given_)
        assert (tmp_path / "log.jsonl").read_bytes() == before


def test_numbers_of_numpy_torch_and_others_are_numbers(tmp_path):
    import torch

    with RunLog(tmp_path, recipe="mine") as log:
        log.step(
            np.int64(1),
            loss=torch.tensor(0.25, requires_grad=True),
            norms=np.array([1.0, 2.0], dtype=np.float32),
            share=Fraction(1, 2),
            grad_norm=np.float64(0.5),
            skipped=np.bool_(False),
            half=torch.tensor(1.5, dtype=torch.bfloat16),
            text="lone \ud800 surrogate",
            nothing=None,
        )
        log.evaluate(correct=torch.tensor([1, 2, 4]), k=np.int32(4))
    (row,) = rows_of(tmp_path, "step")
    assert (row["step"], row["loss"], row["norms"], row["share"]) == (1, 0.25, [1.0, 2.0], 0.5)
    assert (row["grad_norm"], row["skipped"], row["half"], row["nothing"]) == (0.5, False, 1.5, None)
    assert row["skipped"] is False and row["text"] == "lone \ud800 surrogate"
    assert rows_of(tmp_path, "eval")[0]["correct"] == [1, 2, 4]


@pytest.mark.parametrize("bad", [{"recipe": ""}, {"recipe": None}, {"devices": 0}, {"devices": 2.5}, {"seed": "x"}])
def test_a_bad_header_is_refused_before_anything_is_written(tmp_path, bad):
    with pytest.raises(RunLogError, match=next(iter(bad))):
        RunLog(tmp_path / "run", **{"recipe": "mine", **bad})
    with pytest.raises(RunLogError, match=r"header\.config is a object"):
        RunLog(tmp_path / "run", recipe="mine", header={"config": object()})
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """Two runs as a loop of one's own writes them: a mean reward, a loss, no field that only the trainer has."""
    place = tmp_path_factory.mktemp("loops")
    rng = np.random.default_rng(0)
    for recipe, ceiling in (("mine", 0.7), ("other", 0.5)):
        clock = Clock()
        log = opened(place / recipe, clock, recipe=recipe)
        log.count(tokens_generated=0)  # so that the evaluation before the first update has the axis, too
        for step in range(41):
            if step:
                clock.now += 90
                log.count(tokens_generated=4000)
                log.step(step, reward=0.1 * step, loss=0.5, grad_norm=1.0, rewards=rng.choice([-1.0, 1.0], 64))
            if step % 2 == 0:
                rate = R(log.meter.gpu_hours, 0.1, ceiling, 1.8, 2.0)
                log.evaluate(correct=rng.binomial(8, rate, size=100), k=8, prompt_set="held-out")
        log.__exit__(None, None, None)
    return place


@pytest.mark.parametrize(
    "command",
    ["fit {0}", "check {0}/mine", "compare {0} --seed-sd .02", "forecast {0}/mine", "watch {0} --once --ascii"],
)
def test_every_command_reads_what_a_loop_wrote(loops, command, capsys):
    assert main(command.format(loops).split()) == 0
    assert "mine/seed0" in capsys.readouterr().out


def test_the_report_and_the_other_axes_work_too(loops, tmp_path):
    assert main(["report", str(loops / "mine"), "-o", str(tmp_path / "report.html")]) == 0
    assert "mine/seed0" in (tmp_path / "report.html").read_text()
    (run,) = an.read(loops / "mine", x="tokens_generated")
    assert run.data["tokens_generated"].tolist() == [8000.0 * i for i in range(21)]
    (run,) = an.read(loops / "mine")
    assert run.data["gpu_hours"][-1] == pytest.approx(40 * 90 * 8 / 3600) and not run.findings


@pytest.mark.parametrize("at", [5, 3, 8])
def test_a_log_without_its_last_newline_goes_on_whole(tmp_path, at):
    log = opened(tmp_path)
    for step in range(1, 6):
        log.step(step)
    log.close()
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    log = opened(tmp_path, resume_step=at)
    log.step(at + 1)
    log.close()
    assert [row["step"] for row in rows_of(tmp_path, "step")] == [*range(1, min(at, 5) + 1), at + 1]
    assert b"\0" not in path.read_bytes() and b"\n\n" not in path.read_bytes()


def test_compute_that_the_loop_gave_stands_until_it_gives_more(tmp_path):
    """Never back to the meter's figure, in no row and no event; a resume goes on from it."""
    clock = Clock()
    log = opened(tmp_path, clock)
    log.step(1, gpu_hours=5.0)
    log.evaluate(pass_rate=0.1)
    clock.now += 3600  # 8 GPU-hours by the meter
    log.saved(1)
    log.step(2, gpu_hours=None)
    with pytest.raises(RunLogError, match=r"gpu_hours is 4 after 5\.0; it is a sum over the run, which never falls"):
        log.step(3, gpu_hours=4)
    log.step(3, gpu_hours=6)
    log.saved(3, gpu_hours=6.5)
    log.__exit__(ValueError, ValueError("x"), None)
    rows = read_log(tmp_path / "log.jsonl").rows
    assert [row["gpu_hours"] for row in rows if "gpu_hours" in row] == [5.0, 5.0, 5.0, 5.0, 6, 6.5, 6.5]
    assert [row["cpu_s"] for row in rows_of(tmp_path, "step")] == [0, 3600, 3600]  # that one was not given
    log = opened(tmp_path, clock, resume_step=3)
    clock.now += 360
    log.step(4)
    log.close()
    assert rows_of(tmp_path, "step")[-1]["gpu_hours"] == pytest.approx(6.5 + 0.8)


def test_no_rounding_of_a_resume_lets_an_axis_fall(tmp_path):
    hours, devices = next(
        (i / 10, n) for n in range(1, 9) for i in range(1, 100) if i / 10 * 3600 / n * n / 3600 < i / 10
    )
    log = opened(tmp_path, devices=devices)
    log.step(1, gpu_hours=hours)
    log.close()
    log = opened(tmp_path, devices=devices, resume_step=1, start_meter=False)
    log.step(2)
    log.close()
    assert [row["gpu_hours"] for row in rows_of(tmp_path, "step")] == [hours, hours]


def in_a_thread(call) -> list[Exception]:
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def test_another_thread_is_refused_and_the_clock_goes_on(tmp_path):
    clock = Clock()
    log = opened(tmp_path, clock)
    log.step(1)
    before = (tmp_path / "log.jsonl").read_bytes()

    def pause() -> None:
        with log.pause("evaluate"):
            clock.now += 3600

    calls = {
        "pause": pause,
        "phase": lambda: log.phase("generate"),
        "count": lambda: log.count(flops=1),
        "step": lambda: log.step(2),
        "evaluate": lambda: log.evaluate(pass_rate=0.5),
        "saved": lambda: log.saved(1),
        "event": lambda: log.event("mine"),
        "samples": lambda: log.samples([{"step": 1}]),
        "__exit__": lambda: log.__exit__(None, None, None),
        "close": log.close,
    }
    for name, call in calls.items():
        (error,) = in_a_thread(call)
        assert isinstance(error, RunLogError) and f"log.{name} was called in another thread" in str(error)
    assert (tmp_path / "log.jsonl").read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {
        "log.jsonl",
        "run.json",
    }
    clock.now += 3600
    log.step(2)
    log.close()
    assert rows_of(tmp_path, "step")[-1]["gpu_hours"] == 8 and "flops" not in rows_of(tmp_path, "step")[-1]


def test_a_log_whose_thread_died_can_be_let_go_of(tmp_path):
    logs: list[RunLog] = []
    assert in_a_thread(lambda: logs.append(opened(tmp_path))) == []
    logs[0].close()
    opened(tmp_path, resume_step=0).close()


def test_a_step_behind_a_checkpoint_that_was_told_is_refused(tmp_path):
    """Rows may be rarer than checkpoints; a resume would move a row of an earlier step away."""
    log = opened(tmp_path)
    log.step(5)
    log.saved(8)
    log.step(10)
    log.saved(50)
    for call in (lambda: log.step(11), lambda: log.evaluate(pass_rate=0.5, step=11)):
        with pytest.raises(RunLogError, match=r"step is 11 after 50; steps only go up \(log\.saved\(50\) said so\)"):
            call()
    log.step(50)
    log.evaluate(pass_rate=0.5)
    log.close()
    log = opened(tmp_path, resume_step=50)
    assert [row["step"] for row in rows_of(tmp_path, "step")] == [5, 10, 50] and last_event(tmp_path)["rows_lost"] == 0
    log.close()


def test_a_resume_beyond_the_last_row_says_that_there_is_none(tmp_path):
    finished(tmp_path, steps=11)
    opened(tmp_path, resume_step=50).close()
    estimated = last_event(tmp_path)["estimated"]
    assert "no row of step 50" in estimated and "is that of the last row, at step 11" in estimated
    assert "around" not in estimated
