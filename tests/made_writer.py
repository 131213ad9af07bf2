"""A run log with a clock that tests set."""

from __future__ import annotations

from pathlib import Path

from scalerl.runlog import RunLog, read_log


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


STEP_S, DEVICES = 36.0, 8  # a step is .08 GPU-hours


def finished(folder, steps: int = 6, **more) -> Path:
    clock = Clock()
    log = opened(folder, clock, **more)
    for step in range(1, steps + 1):
        clock.now += STEP_S
        log.step(step)
    log.__exit__(None, None, None)
    return folder
