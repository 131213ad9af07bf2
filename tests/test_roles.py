"""Compute by role, written out: GPU-hours add up, idle shares are of the time since the last row, and resumes go on."""

from __future__ import annotations

import pytest
import torch

from scalerl.config import load_config
from scalerl.meter import JointMeter
from scalerl.worker import devices_held


class Beside:
    """Generators that are told what they did."""

    cpu_s = 0.0

    def __init__(self) -> None:
        self.busy_s, self.calls = 0.0, []

    def begin(self) -> None:
        self.calls.append("begin")

    def pause(self) -> None:
        self.calls.append("pause")

    def go_on(self) -> None:
        self.calls.append("go_on")

    def take_seconds(self) -> dict[str, float]:
        busy, self.busy_s = self.busy_s, 0.0
        return {"generator_busy": busy, "generator_sync": 0.25, "weight_sync": 0.5}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def metered(devices: int, hold: float) -> tuple[JointMeter, Beside, Clock]:
    beside, clock = Beside(), Clock()
    return JointMeter(beside, devices, hold, wall=clock), beside, clock


def test_hours_by_role_add_up_and_idle_is_what_was_waited_since_the_last_row():
    meter, beside, clock = metered(5, 4.0)
    meter.start()
    clock.now += 3000.0  # one trainer and four generators
    with meter.phase("generate"):
        clock.now += 600.0
    beside.busy_s = 2700.0
    row = meter.take_fields()
    assert row == pytest.approx({
        "generate_s": 600.0, "generator_busy_s": 2700.0, "generator_sync_s": 0.25, "weight_sync_s": 0.5,
        "generator_gpu_hours": 4.0, "learner_gpu_hours": 1.0, "generator_idle_share": 0.25, "learner_idle_share": 1 / 6,
    })  # fmt: skip
    with meter.apart("evaluate"):  # all stand still, and nothing is billed
        clock.now += 9000.0
    clock.now += 100.0
    beside.busy_s = 120.0  # some of it was told a moment late
    row = meter.take_fields()
    assert row["generator_idle_share"] == 0.0 and row["learner_idle_share"] == 0.0
    assert row["generator_gpu_hours"] + row["learner_gpu_hours"] == pytest.approx(meter.gpu_hours)
    assert meter.gpu_hours == pytest.approx(5 * 3700 / 3600)
    assert beside.calls == ["pause", "begin", "go_on", "pause", "begin", "go_on"]


def test_a_run_that_goes_on_with_other_generators_keeps_the_hours_it_had():
    before, _, clock = metered(5, 4.0)
    before.start()
    clock.now += 3600.0
    before.stop()
    state = before.state()
    meter, beside, clock = metered(3, 2.0)
    meter.restore(**state)
    assert meter.gpu_hours == pytest.approx(5.0) and meter.generator_gpu_hours == pytest.approx(4.0)
    meter.start()
    clock.now += 360.0
    beside.busy_s = 360.0
    row = meter.take_fields()
    assert (row["generator_gpu_hours"], row["learner_gpu_hours"]) == pytest.approx((4.2, 1.1))
    assert row["generator_idle_share"] == pytest.approx(0.0), "of the time since it went on"
    again, *_ = metered(3, 2.0)
    again.restore(**meter.state())
    assert again.gpu_hours == pytest.approx(5.3) and again.generator_gpu_hours == pytest.approx(4.2)
    older, *_ = metered(3, 2.0)
    older.restore(wall_s=3600.0, cpu_s=1.0, apart_s={})  # a checkpoint from before roles were counted
    assert older.gpu_hours == pytest.approx(3.0) and older.generator_gpu_hours == pytest.approx(2.0)


def test_who_holds_devices():
    def held(**fields) -> tuple[int, float]:
        return devices_held(load_config([], [f"{key}={value}" for key, value in fields.items()]), torch.device("cpu"))

    assert held() == (1, 0.0) and held(generator="process") == (2, 1.0)
    assert held(generator="ray") == (2, 1.0) and held(generator="ray", generators=64) == (65, 64.0)
