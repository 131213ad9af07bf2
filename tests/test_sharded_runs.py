"""Runs of a learner over two processes: resumed by one and the other way round, ended by a signal, or by a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from scalerl.checkpoint import read_checkpoint
from scalerl.runlog import read_log
from scalerl.saved import load_saved
from tests.test_sharded import environment

pytestmark = pytest.mark.slow
SECONDS = 240


class Runs(NamedTuple):
    """A folder of runs, and the arguments of a new one."""

    folder: Path
    new: list[str]


def launched(processes: int, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run, under torchrun if it has two processes."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] if processes == 2 else []
    told = [sys.executable, "-m", *launch, "scalerl", "train", *arguments, "--output-dir", str(folder)]
    return subprocess.Popen(told, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that must end well."""
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out


def rows(folder: Path) -> list[dict]:
    """The rows of a log so far."""
    log = folder / "log.jsonl"
    return read_log(log).rows if log.exists() and log.stat().st_size else []


def steps(folder: Path) -> list[int]:
    """The updates in it."""
    return [row["step"] for row in rows(folder) if row["kind"] == "step"]


def wait_for_steps(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until a run has made so many updates."""
    end = time.monotonic() + SECONDS
    while len(steps(folder)) < count:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, prompts) -> Runs:
    """Two runs that end at step 4 and go on to 6: of one process and then two, and the other way round."""
    folder = tmp_path_factory.mktemp("runs")
    small = ["batch_size=32", "generations_per_prompt=4", "eval_generations=2", "eval_every=2", "checkpoint_every=2"]
    fields = [*small, "max_steps=4", "off_policy_steps=1", "keep_best=true"]
    said = [part for field in fields for part in ("--set", field)]
    data = ["--train-data", str(prompts / "train.json"), "--eval-data", str(prompts / "eval.json")]
    new = ["--config", "scalerl", "--config", "demo", *data, *said]
    for processes, arguments in (((1, 2), new), ((2, 1), ["--resume", "--set", "max_steps=6"])):
        pairs = zip(processes, ("from-one", "from-two"), strict=True)
        for process in [launched(count, folder / name, *arguments) for count, name in pairs]:
            finish(process)
    return Runs(folder, new)


def test_a_run_of_two_processes_goes_on_with_one_and_the_other_way_round(runs):
    logs = [
        {(row["kind"], row["step"]): row for row in rows(runs.folder / name) if row["kind"] != "event"}
        for name in ("from-one", "from-two")
    ]
    assert logs[0].keys() == logs[1].keys() and ("step", 6) in logs[0]
    for key, row in logs[0].items():
        other = logs[1][key]
        if key[0] == "step":
            assert other["loss"] == pytest.approx(row["loss"], abs=1e-6)
            assert other["tokens_generated"] == row["tokens_generated"] and other["lag_max"] == row["lag_max"] <= 1
        else:
            assert other["correct"] == row["correct"]
    headers = [json.loads((runs.folder / name / "run.json").read_text()) for name in ("from-one", "from-two")]
    assert [header["devices"]["count"] for header in headers] == [1, 2]
    assert sum(row.get("loss") is not None for row in logs[0].values()) >= 3
    last = [read_checkpoint(runs.folder / name) for name in ("from-one", "from-two")]
    assert last[0] is not None and last[1] is not None
    assert last[0].state["machine"]["processes"] == 2 and last[1].state["machine"]["processes"] == 1


def test_a_run_that_is_asked_to_end_writes_a_checkpoint_of_its_last_update(runs):
    """As a scheduler ends a job: the signal goes to torchrun, which passes it on to every process."""
    folder = runs.folder / "ended"
    process = launched(2, folder, *runs.new, "--set", "max_steps=500", "--set", "checkpoint_every=100")
    wait_for_steps(process, folder, 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=SECONDS)
    made = steps(folder)
    assert rows(folder)[-1]["event"] == "interrupted" and "is gone" not in out, out
    assert f"go on with: torchrun ... -m scalerl train --resume --output-dir {folder}" in out, out
    kept = read_checkpoint(folder)
    assert kept is not None and kept.folder.name == f"step-{made[-1]:08d}"
    finish(launched(1, folder, "--resume", "--set", f"max_steps={made[-1] + 1}"))
    assert steps(folder) == [*made, made[-1] + 1]


def test_a_process_that_is_killed_ends_the_run_with_one_line_and_it_goes_on(runs):
    folder = runs.folder / "killed"
    process = launched(2, folder, *runs.new, "--set", "max_steps=500", "--set", "checkpoint_every=1")
    wait_for_steps(process, folder, 3)
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    other = [c for c in children if b"RANK=1" in Path(f"/proc/{c}/environ").read_bytes().split(b"\0")]
    os.kill(int(other[0]), signal.SIGKILL)
    out, _ = process.communicate(timeout=SECONDS)
    ours = [line for line in out.splitlines() if line.startswith("scalerl:")]
    assert process.returncode != 0 and len(other) == 1 and len(ours) <= 1, out  # torchrun may end the first one, too
    assert all("another process of this run is gone" in line for line in ours)
    last = max(steps(folder)) + 1
    finish(launched(2, folder, "--resume", "--set", f"max_steps={last}"))
    assert steps(folder) == list(range(1, last + 1))


def test_a_checkpoint_in_shares_is_read_like_any_other(runs):
    """Both runs had made the same updates then, one with one process and the other with two."""
    names = ("from-one", "from-two")
    folders = [next((runs.folder / name / "checkpoints").glob("step-*4")) for name in names]
    assert [(folder / "learner").is_dir() for folder in folders] == [False, True]
    one, two = (load_saved(str(folder), base=None).policy.model.state_dict() for folder in folders)
    assert one.keys() == two.keys()
    assert all((one[name] - two[name]).abs().max() < 1e-6 for name in one)
    share = next((folders[1] / "learner").iterdir())
    content = bytearray(share.read_bytes())
    content[-1] ^= 1
    share.write_bytes(content)
    with pytest.raises(Exception, match="damaged"):
        load_saved(str(folders[1]), base=None)


@pytest.mark.parametrize("file", ["nowhere.json", "train.json"])  # told before torch is imported, and behind that
def test_a_mistake_in_the_call_is_said_once_and_the_other_process_does_not_wait_to_be_killed(file, tmp_path, prompts):
    """It waits for the first one to meet it, and torchrun gives it 30 s to end by itself."""
    both = str(prompts / file)
    process = launched(2, tmp_path / "run", "--config", "demo", "--train-data", both, "--eval-data", both)
    assert process.stdout is not None
    out, said = [], 0.0
    with process.stdout:
        for line in process.stdout:
            out.append(line)
            said = said or (time.monotonic() if line.startswith("scalerl:") else 0.0)
    took = time.monotonic() - said
    assert process.wait() != 0 and [line.startswith("scalerl:") for line in out].count(True) == 1, "".join(out)
    assert said and took < 15, f"{took:.0f} s"
