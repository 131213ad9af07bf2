"""What a loop gives the writer: bad values are one line and no row, commands read the rest; threads and cuts."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest

import analysis as an
from analysis.curves.curve import R
from scalerl.cli import main
from scalerl.runlog import RunLog, RunLogError, read_log
from tests.made_writer import Clock, finished, last_event, opened, rows_of


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
