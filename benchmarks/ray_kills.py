"""Kill Ray generators and their trainer from outside at random moments; look for rows lost, doubled, or trained twice.

Run ``python -m benchmarks.ray_kills [--generators 2] [--generator-kills 10] [--learner-kills 3] [--seed 0]`` from the
repository's root. The run is PipelineRL-8 at the demo's shape, 64 completions an update and a checkpoint every four.
Kills are SIGKILLs in random order, each a while after the run has gone on from the one before: of an actor's process,
or of the trainer, which is then resumed from its checkpoint. Behind the last one the run makes a few more updates and
is interrupted. Every attempt starts a cluster of its own: RAY_ADDRESS must not name one, for others may work there.

What is checked, against figures that do not depend on timing: steps follow one another; without resampling the epoch
of row u is that of prompts u P, so each batch is the one behind the last, once; completions per row; lag; the
checkpoint's count of trained completions; and that the rows cut off are in ``lost/`` with their bill.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.kills import bill_is_right
from scalerl.checkpoint import read_checkpoint
from scalerl.data import prepare
from scalerl.runlog import read_log

BATCH, GENERATIONS, PROMPTS, LAG = 64, 16, 240, 8
PAUSE_S = (0.5, 4.0)  # between the sign that a run goes on and the next kill
LONGEST_S = 300.0  # that a run may take to go on
GONE_S = 60.0
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own; they end a minute or two after their node
MORE_STEPS = 6  # behind the last kill


def settings(generators: int) -> list[str]:
    """Return the run's settings; without resampling the order of the prompts is known."""
    return [
        *("generator=ray", f"generators={generators}", f"batch_size={BATCH}", f"generations_per_prompt={GENERATIONS}"),
        *(f"off_policy_steps={LAG}", "no_positive_resampling=false", "checkpoint_every=4", "eval_every=20"),
        *("eval_generations=1", "max_steps=1000000"),
    ]


def start(run: Path, data: Path, generators: int) -> subprocess.Popen[bytes]:
    """Begin the run, or go on with it."""
    command = [sys.executable, "-m", "scalerl.cli", "train", "--output-dir", str(run)]
    if (run / "run.json").exists():
        command += ["--resume"]
    else:
        command += ["--config", "scalerl", "--config", "demo"]
        command += [part for one in settings(generators) for part in ("--set", one)]
        command += ["--train-data", str(data / "train.json"), "--eval-data", str(data / "eval.json")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(run.parent / "stderr").open("ab"))


def below(pid: int) -> list[int]:
    """Return all processes that descend from one."""
    found: list[int] = []
    with suppress(OSError):  # one that ends meanwhile has nobody below it
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    found += [child, *below(child)]
    return found


def actors(trainer: int) -> list[int]:
    """Return the processes of a trainer's actors."""
    found = []
    for pid in below(trainer):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Actor"):
                found.append(pid)
        except OSError:  # gone meanwhile
            continue
    return found


def steps_of(run: Path) -> list[int]:
    """Return the steps that the log has now; a last line may be half written."""
    path = run / "log.jsonl"
    rows = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [row["step"] for row in map(json.loads, rows) if row["kind"] == "step"]


def wait(what: str, met: Callable[[], Any], trainer: subprocess.Popen[bytes]) -> Any:
    """Return the first true value of a function.

    Raises
    ------
    RuntimeError
        If the trainer ends by itself, or it takes too long.
    """
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        if found := met():
            return found
        if trainer.poll() is not None:
            raise RuntimeError(f"the trainer ended with {trainer.returncode} while it was waited for {what}")
        time.sleep(0.02)
    raise RuntimeError(f"waited {LONGEST_S:g} s for {what}")


def _alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _name(pid: int) -> str:
    """Return how a process is called; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80].strip()
    except OSError:
        return ""


def _gone(pids: list[int]) -> None:
    """Wait until nothing is left of what a trainer that was killed had started.

    Raises
    ------
    RuntimeError
        If something is.
    """
    end = time.monotonic() + GONE_S
    while left := [pid for pid in pids if _alive(pid) and not _name(pid).startswith(AGENTS)]:
        if time.monotonic() > end:
            raise RuntimeError(f"left {GONE_S:g} s after their trainer was killed: {', '.join(map(_name, left))}")
        time.sleep(0.05)


def kill(run: Path, data: Path, kills: list[str], generators: int, drawn: random.Random) -> float:
    """Make a run with these kills in this order; return its wall seconds."""
    began = time.monotonic()
    trainer = start(run, data, generators)
    for kind in kills:
        before, pid = len(steps_of(run)), trainer.pid
        wait("an update", lambda before=before: len(steps_of(run)) > before, trainer)
        found = wait("all actors", lambda pid=pid: len(got := actors(pid)) >= generators and got, trainer)
        time.sleep(drawn.uniform(*PAUSE_S))
        if kind == "generator":
            os.kill(drawn.choice(found), signal.SIGKILL)
            print(f"  {time.monotonic() - began:6.1f} s  a generator, at step {len(steps_of(run))}", flush=True)
        else:
            held = below(pid)
            trainer.kill()
            trainer.wait()
            _gone(held)
            print(f"  {time.monotonic() - began:6.1f} s  the learner, at step {len(steps_of(run))}", flush=True)
            trainer = start(run, data, generators)
    last = len(steps_of(run))
    wait("the last updates", lambda: len(steps_of(run)) >= last + MORE_STEPS, trainer)
    trainer.send_signal(signal.SIGINT)
    trainer.wait(LONGEST_S)
    return time.monotonic() - began


def faults(run: Path, attempts: int) -> list[str]:
    """Return what is wrong with a run's log, in words; nothing if all is right."""
    rows = read_log(run / "log.jsonl").rows
    steps = [row for row in rows if row["kind"] == "step"]
    kept = read_checkpoint(run)
    prompts = json.loads((run / "run.json").read_text())["data"]["train"]["items"]
    epochs = [row["step"] * (BATCH // GENERATIONS) / prompts for row in steps]
    trained = None if kept is None else kept.state["schedule"]["first"]
    checks = {
        "steps do not follow one another": [row["step"] for row in steps] == list(range(1, len(steps) + 1)),
        "a batch is not the one behind the last": all(
            abs(row["epoch"] - epoch) < 1e-9 for row, epoch in zip(steps, epochs, strict=True)
        ),
        "a row has other completions than its batch": all(row["reward_count"] == BATCH for row in steps),
        "a token lags by more than off_policy_steps": all(
            0 <= row["lag_min"] <= row["lag_max"] <= LAG for row in steps
        ),
        "the checkpoint counts other completions than the rows": trained == len(steps) * BATCH,
        "attempts do not follow one another": [*dict.fromkeys(row["attempt"] for row in rows)]
        == list(range(1, attempts + 1)),
        "compute goes back": all(a["gpu_hours"] <= b["gpu_hours"] for a, b in itertools.pairwise(steps)),
        "the bill of lost rows is wrong": bill_is_right(run),
    }
    return [what for what, right in checks.items() if not right]


def events(run: Path) -> int:
    """Return how often a generator was replaced, rows that were cut off included."""
    logs = [run / "log.jsonl", *(run / "lost").glob("attempt-*.jsonl")]
    return sum(path.read_text().count('"generator_replaced"') for path in logs)


def main() -> None:
    """Print the kills, a table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generators", type=int, default=2)
    parser.add_argument("--generator-kills", type=int, default=10)
    parser.add_argument("--learner-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if "RAY_ADDRESS" in os.environ:
        parser.error("RAY_ADDRESS is set: others' actors would be killed; unset it")
    drawn = random.Random(args.seed)  # noqa: S311
    kills = ["generator"] * args.generator_kills + ["learner"] * args.learner_kills
    drawn.shuffle(kills)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare("chain", str(folder), sizes=(PROMPTS, 8, 8))
        print(f"{len(kills)} kills of a run with {args.generators} Ray generators, {BATCH} completions an update")
        try:
            wall_s = kill(folder / "run", folder, kills, args.generators, drawn)
        except RuntimeError:
            sys.stderr.write((folder / "stderr").read_text(errors="replace")[-4000:])
            raise
        wrong = faults(folder / "run", attempts=args.learner_kills + 1)
        if args.generator_kills and not events(folder / "run"):
            wrong.append("no generator was replaced: the kills had no effect")
        rows = read_log(folder / "run/log.jsonl").rows
        steps = [row for row in rows if row["kind"] == "step"]
        lost = sum(row.get("rows_lost", 0) for row in rows if row.get("event") == "resume")
        table = {
            "generators killed": args.generator_kills,
            "generators replaced, as events say": events(folder / "run"),
            "learner killed": args.learner_kills,
            "rows in the log": len(steps),
            "rows that resumes cut off": lost,
            "largest lag": max(row["lag_max"] for row in steps),
            "wall seconds": round(wall_s),
        }
    for what, value in table.items():
        print(f"  {what:<36}{value:>8}")
    print("no row is lost or doubled and no batch trained twice" if not wrong else "WRONG: " + "; ".join(wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
