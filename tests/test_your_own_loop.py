"""The code in docs/your-own-loop.md runs as it stands, killed in between, and gives what the page says."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import analysis as an
from scalerl.runlog import read_log

PAGE = Path(__file__).parent.parent / "docs" / "your-own-loop.md"
PLAIN, VERL, TRL = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


class Killed(BaseException):
    """Ends a loop as a kill would: nothing of the log is closed."""


def test_the_plain_loop_killed_in_step_17_and_started_again(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "checkpoint"
    weights = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1)
    made = 0

    def update():
        nonlocal made
        made += 1
        if made == 17:
            raise Killed
        time.sleep(0.001)
        loss = weights(torch.ones(2, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, torch.tensor([1.0, -1.0])

    def evaluate():
        time.sleep(0.05)
        return torch.tensor([min(made // 2, 16), 3])

    names = {
        "load_checkpoint": lambda: int(saved.read_text()) if saved.exists() else 0,
        "save_checkpoint": lambda step: saved.write_text(str(step)),
        "update": update,
        "evaluate": evaluate,
    }
    code = compile(PLAIN, str(PAGE), "exec")
    monkeypatch.setattr("scalerl.runlog.RunLog.__exit__", lambda log, *_: log.close())  # a kill writes no row
    with pytest.raises(Killed):
        exec(code, dict(names))  # noqa: S102 - the code of the page is what is tested
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    exec(code, dict(names))  # noqa: S102
    rows = read_log("runs/mine/log.jsonl").rows
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 31)) and {row["attempt"] for row in steps} == {1, 2}
    evals = [row for row in rows if row["kind"] == "eval"]
    assert [row["step"] for row in evals] == [0, 5, 10, 15, 20, 25, 30] and all(
        row["evaluate_s"] >= 0.05 for row in evals
    )
    assert evals[0]["gpu_hours"] == 0
    spent = [row["gpu_hours"] for row in rows if row["kind"] in ("step", "eval")]
    assert spent == sorted(spent) and 0 < spent[-1] * 3600 / 8 < 30 * 0.05  # without the evaluations
    resume = next(row for row in rows if row.get("event") == "resume")
    assert (resume["step"], resume["rows_lost"]) == (10, 7) and resume["gpu_hours_lost"] > 0  # 11 to 16, and one eval
    assert len(an.read("runs/mine")[0].data["pass_rate"]) == 7


def test_the_loop_in_verls_style_killed_and_started_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = made = 0

    def fit_one_step(log):
        nonlocal step, made
        made += 1
        if made == 13:
            raise Killed
        step += 1
        metrics = {"actor/pg_loss": 0.1, "critic/rewards/mean": 0.4, "timing_s/step": 1.5}
        if step % 5 == 0:
            with log.pause("evaluate"):
                metrics["val-core/math/acc/mean@16"] = step / 40
        return metrics

    names = {"fit_one_step": fit_one_step, "load_checkpoint": lambda: step // 10 * 10}
    code = compile(VERL, str(PAGE), "exec")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("scalerl.runlog.RunLog.__exit__", lambda log, *_: log.close())  # a kill writes no row
        exec(code, dict(names))  # noqa: S102
    step = 10  # as its checkpoint has it
    exec(code, dict(names))  # noqa: S102
    rows = [row for row in read_log("runs/verl/log.jsonl").rows if row["kind"] == "step"]
    assert [(row["step"], row["attempt"]) for row in rows] == [(n, 1 if n <= 10 else 2) for n in range(1, 21)]
    (run,) = an.read("runs/verl")
    assert run.recipe == "verl-grpo" and run.data["pass_rate"].tolist() == [0.125, 0.25, 0.375, 0.5]
    row = next(row for row in read_log("runs/verl/log.jsonl").rows if row["kind"] == "step")
    assert row["actor/pg_loss"] == 0.1 and row["timing_s/step"] == 1.5


def test_the_callback_is_made_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(TRL, str(PAGE), "exec"), names)  # noqa: S102 - real runs with it: tests/test_callbacks.py
    assert names["callback"].recipe == "trl-grpo" and list(tmp_path.iterdir()) == []


def test_every_method_that_the_page_names_is_there():
    from scalerl.runlog import RunLog

    text = PAGE.read_text()
    named = set(re.findall(r"\blog\.(\w+)", text))
    assert {"step", "evaluate", "pause", "phase", "count", "saved"} <= named
    assert all(hasattr(RunLog, name) for name in named), named
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (PAGE.parent / link).exists(), link
