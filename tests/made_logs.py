"""Run folders and tables that tests read."""

from __future__ import annotations

from pathlib import Path

from scalerl.runlog import RunLog

DATA = Path(__file__).parent / "data"


def write_run(folder, *, recipe="scalerl", seed=0, compute=(0.0, 1.0, 2.0), correct=(1, 2, 3), **fields):
    with RunLog(folder, recipe=recipe, seed=seed, device_kind="cpu") as log:
        for i, (c, right) in enumerate(zip(compute, correct, strict=True)):
            log.evaluate(
                step=10 * i, correct=[right, right], k=4, gpu_hours=c, cpu_s=3600.0 * c, prompt_set="p", **fields
            )
            log.step(step=10 * i + 1, gpu_hours=c, reward_sum=0.0, reward_count=1)
    return folder


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def codes(run):
    return [f.code for f in run.findings]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text
