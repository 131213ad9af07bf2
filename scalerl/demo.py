"""Train two small recipes side by side from the checkpoint that ships, for the demo."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from scalerl.config import load_config
from scalerl.data import prepare
from scalerl.places import refuse_no_model
from scalerl.runlog import UserError

RECIPES = ("scalerl", "grpo")


def train_demo(output: str | None, *, seed: int = 0, steps: int | None = None) -> list[Path]:
    """Train both recipes at once, one process each, and return their run folders, which share a new parent.

    Raises
    ------
    UserError
        If the folder exists, the starting checkpoint is missing, or a run fails.
    """
    limit = [] if steps is None else [f"max_steps={steps}"]
    refuse_no_model(load_config([RECIPES[0], "demo"], limit).model_name)
    folder = Path(output) if output else _new_folder(Path(f"runs/demo-seed{seed}"))
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another --output or move it away")
    prepare("chain", str(folder / "prompts"))
    runs = [folder / recipe for recipe in RECIPES]
    print(f"training {' and '.join(RECIPES)}, seed {seed}, into {folder}", flush=True)
    _train_all(runs, folder / "prompts", ["--seed", str(seed), *(part for s in limit for part in ("--set", s))])
    return runs


def _train_all(runs: list[Path], prompts: Path, options: list[str]) -> None:
    """Run `scalerl train` for every folder at once and pass on what they print."""
    started: list[tuple[str, subprocess.Popen[str]]] = []
    readers: list[threading.Thread] = []
    try:
        for run in runs:
            command = [sys.executable, "-m", "scalerl.cli", "train", "--config", run.name, "--config", "demo"]
            command += ["--train-data", str(prompts / "train.json"), "--eval-data", str(prompts / "eval.json")]
            command += ["--output-dir", str(run), *options]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            started.append((run.name, process))
            readers.append(threading.Thread(target=_pass_on, args=(run.name, process.stderr), daemon=True))
            readers[-1].start()
        for reader in readers:
            reader.join()
        failed = [name for name, process in started if process.wait() != 0]
    finally:
        for _, process in started:
            process.terminate()
            process.communicate()
    if failed:
        raise UserError(f"{', '.join(failed)}: the run failed; its last lines are above")


def _pass_on(name: str, stream: IO[str] | None) -> None:
    for line in stream or ():
        print(f"{name:<8} {line.rstrip()}", flush=True)


def _new_folder(wanted: Path) -> Path:
    """Return the folder, or the first of its numbered siblings that does not exist."""
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder
