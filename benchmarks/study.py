"""The study: recipes, one choice taken back at a time, long runs and other sizes, on chain arithmetic.

Run ``make study`` or ``python -m benchmarks.study [--processes 2] [--ray [ADDRESS]] [--quick]`` from the repository's
root; hours of two cores. Cells stand in ``study.yaml`` and are run in its order, each with one thread. What is in
``data/study`` is done and is not run again; a cell that was cut off goes on from its checkpoint under ``--work``. The
learning rate of a recipe is chosen from the first stage by the rule that ``study.yaml`` states. With ``--ray`` a cell
is a Ray task, on this machine or on the cluster at an address, whose nodes see this folder under the same path.
``--quick`` trains a seed of two recipes of the base stage anew, five minutes of two cores, and says whether their
ceilings agree with those that ship.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scalerl.data import prepare
from scalerl.runlog import HEADER_FILE, LOG_FILE, UserError, read_log

SHIPPED = Path("data/study")
RATES = "rates"
QUICK_RECIPES, QUICK_STEPS = ("scalerl", "grpo"), 240  # as long as those that ship
TASK = "chain"
SCALERL = [sys.executable, "-m", "scalerl.cli"]


@dataclass(frozen=True)
class Cell:
    """One run: stage, recipe, seed and what differs from the demo's size; `rate_of` is the recipe whose rate it has.

    `checkpoint` is a key of ``checkpoints`` in the plan, or empty for the one that ships.
    """

    stage: str
    recipe: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    rate_of: str = ""
    checkpoint: str = ""

    @property
    def name(self) -> str:
        """Folder of the run, below ``data/study`` and below the work folder."""
        rate = f"-{self.settings['learning_rate']:g}" if self.stage == RATES else ""
        return f"{self.stage}/{self.recipe}{rate}_s{self.seed}"


def cells(plan: dict[str, Any]) -> Iterator[Cell]:
    """Return all cells in order; those after the first stage have no learning rate yet."""
    first = plan["rates"]
    for recipe, rates in first["values"].items():
        for rate in rates:
            yield Cell(RATES, recipe, first["seed"], {**first["settings"], "learning_rate": rate})
    for stage in plan["stages"]:
        for seed in stage["seeds"]:  # a seed of every recipe before the next one: an early stop leaves whole sets
            for recipe in stage["recipes"]:
                rate, checkpoint = stage.get("rate_of", recipe), stage.get("checkpoint", "")
                yield Cell(stage["name"], recipe, seed, stage["settings"], rate, checkpoint)


def rate_of(recipe: str, plan: dict[str, Any]) -> float | None:
    """Return the learning rate of a recipe by the rule of ``study.yaml``, None while a run of the sweep is missing."""
    first = plan["rates"]
    means: dict[float, float] = {}
    for rate in first["values"][recipe]:
        cell = Cell(RATES, recipe, first["seed"], {**first["settings"], "learning_rate": rate})
        if not (shipped := SHIPPED / cell.name).exists():
            return None
        rates = [row["pass_rate"] for row in rows(shipped) if row["kind"] == "eval"]
        means[rate] = float(np.mean(rates[len(rates) // 2 :]))
    return max(means, key=lambda rate: means[rate])


def rows(shipped: Path) -> list[dict[str, Any]]:
    """Return the rows of a shipped run."""
    with gzip.open(shipped / f"{LOG_FILE}.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def command(cell: Cell, plan: dict[str, Any], work: Path) -> list[str] | None:
    """Return what trains a cell or goes on with it, None while its learning rate is not known."""
    folder = work / cell.name
    settings = dict(cell.settings)
    if "learning_rate" not in settings:
        rate = rate_of(cell.rate_of, plan)
        if rate is None:
            return None
        settings["learning_rate"] = rate
    task = TASK
    if cell.checkpoint:
        task = plan["checkpoints"][cell.checkpoint]["task"]
        settings |= {"task": task, "model_name": str(work / "checkpoints" / cell.checkpoint)}
    said = [arg for key, value in {"seed": cell.seed, **settings}.items() for arg in ("--set", f"{key}={value}")]
    prompts = work / "prompts" / task
    data = ["--train-data", str(prompts / "train.json"), "--eval-data", str(prompts / "eval.json")]
    recipe = ["--config", cell.recipe, "--config", "demo"]
    return [*SCALERL, "train", "--resume", *recipe, *data, *said, "--output-dir", str(folder)]


def made_ready(cell: Cell, plan: dict[str, Any], work: Path) -> None:
    """Write the prompts of a cell's task, and warm its checkpoint up, where they are not there yet."""
    size = dict(plan["checkpoints"][cell.checkpoint]) if cell.checkpoint else {"task": TASK}
    prompts = work / "prompts" / size["task"]
    if not prompts.exists():
        prepare(size["task"], str(prompts))
    if cell.checkpoint and not (folder := work / "checkpoints" / cell.checkpoint).exists():
        told = [arg for key, value in size.items() for arg in (f"--{key}", str(value))]
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run([*SCALERL, "warmup", *told, "--output", str(part)], check=True, stdout=subprocess.DEVNULL)
        part.replace(folder)


def finished(folder: Path) -> bool:
    """Whether a run has come to its end."""
    try:
        return bool(read_log(folder / LOG_FILE).rows[-1].get("event") == "end")
    except (UserError, IndexError):
        return False


def ship(folder: Path, cell: Cell) -> None:
    """Pack log and header of a finished run into ``data/study``, whole or not at all."""
    target = SHIPPED / cell.name
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copy(folder / HEADER_FILE, part)
    with gzip.GzipFile(part / f"{LOG_FILE}.gz", "wb", mtime=0) as file:
        file.write((folder / LOG_FILE).read_bytes())
    part.replace(target)


def train(told: list[str], where: Path, out: str) -> int:
    """Run a command in a folder with one thread, add what it says to a file there, and return its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (where / out).open("ab") as file:
        return subprocess.run(told, stdout=file, stderr=file, env=environment, cwd=where, check=False).returncode


class RayPool(Executor):
    """Run calls as Ray tasks of one core each; one that is lost with its node is started again."""

    def __init__(self, address: str, processes: int) -> None:
        from scalerl.raycluster import import_ray

        self._ray = import_ray()
        here: dict[str, Any] = {"num_cpus": processes, "include_dashboard": False} if address == "local" else {}
        self._ray.init(address=address, log_to_driver=False, **here)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call somewhere."""
        future: Future[Any] = self._ray.remote(num_cpus=1)(call).remote(*args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Leave the cluster."""
        self._ray.shutdown()


def run(plan: dict[str, Any], work: Path, processes: int, pool: Executor) -> int:
    """Run what is missing, `processes` at a time; return how many cells failed."""
    waiting = [cell for cell in cells(plan) if not (SHIPPED / cell.name).exists()]
    running: list[tuple[Cell, Future[int]]] = []
    failed: list[str] = []
    while waiting or running:
        for cell in [cell for cell in waiting if len(running) < processes]:
            if len(running) >= processes:
                break
            folder = work / cell.name
            if finished(folder):
                ship(folder, cell)
                waiting.remove(cell)
                continue
            told = command(cell, plan, work)
            if told is None:
                continue
            folder.parent.mkdir(parents=True, exist_ok=True)
            made_ready(cell, plan, work)
            running.append((cell, pool.submit(train, told, Path.cwd(), f"{folder}.out")))
            waiting.remove(cell)
            print(f"{time.strftime('%H:%M:%S')} {cell.name}, {len(waiting)} more", flush=True)
        if not running:
            break  # what is left waits for a learning rate that a failed run leaves unknown
        time.sleep(0.5)
        for cell, future in list(running):
            if not future.done():
                continue
            running.remove((cell, future))
            if finished(work / cell.name):
                ship(work / cell.name, cell)
            else:
                failed.append(cell.name)
                print(f"failed: {cell.name}, see {work / cell.name}.out", flush=True)
    return len(failed) + len(waiting)


def quick(plan: dict[str, Any], work: Path, pool: Executor) -> int:
    """Train a slice of the base stage anew and compare its ceilings with those that ship."""
    import analysis as an

    folders, running = {}, []
    for recipe in QUICK_RECIPES:
        cell = Cell("quick", recipe, 0, {"max_steps": QUICK_STEPS}, recipe)
        folder = folders[recipe] = work / cell.name
        told = command(cell, plan, work)
        if told is None:
            raise SystemExit(f"no learning rate for {recipe}: data/study/rates is not whole")
        if not finished(folder):
            made_ready(cell, plan, work)
            folder.parent.mkdir(parents=True, exist_ok=True)
            print(f"{cell.name}: {QUICK_STEPS} updates, what it says is in {folder}.out", flush=True)
            running.append(pool.submit(train, told, Path.cwd(), f"{folder}.out"))
    if sum(one.result() for one in running):
        print(f"failed: see {work / 'quick'}/*.out")
        return 1
    agree = True
    for recipe, folder in folders.items():
        new = an.fit(an.read(folder)[0], x="flops").params["A"]
        shipped = an.fit(an.read(sorted(SHIPPED.glob(f"base/{recipe}_s*"))), x="flops")
        for fit in shipped:
            old = fit.params["A"]
            (lo, hi), (shipped_lo, shipped_hi) = _limits(new), _limits(old)
            together = lo <= shipped_hi and shipped_lo <= hi
            agree &= together
            print(f"{recipe}: A {lo:.3f} to {hi:.3f} now, {shipped_lo:.3f} to {shipped_hi:.3f} in {fit.name}", end="")
            print(": agree" if together else ": DISAGREE")
    return 0 if agree else 1


def _limits(A: Any) -> tuple[float, float]:
    """Return the limits of a ceiling; an open side ends where a pass rate does."""
    return 0.0 if A.lo is None else A.lo, 1.0 if A.hi is None else A.hi


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    plan_file = Path(__file__).with_name("study.yaml")
    parser.add_argument("--plan", type=Path, default=plan_file, help="YAML file of the cells (default: the study's)")
    work = "folder of the runs; one that is whole there, or in data/study, is not made again (default: build/study)"
    parser.add_argument("--work", type=Path, default=Path("build/study"), help=work)
    parser.add_argument("--processes", type=int, default=2, help="cells at once, with --ray too (default: 2)")
    ray = "make the cells as Ray tasks, in the cluster at HOST:PORT, whose nodes see this folder under the same path"
    parser.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help=f"{ray} (default: one made here)")
    parser.add_argument("--quick", action="store_true", help="train two runs again, compare their ceilings, end")
    options = parser.parse_args(arguments)
    plan = yaml.safe_load(options.plan.read_text(encoding="utf-8"))
    local = ThreadPoolExecutor(options.processes) if options.ray is None else RayPool(options.ray, options.processes)
    with local as pool:
        if options.quick:
            return quick(plan, options.work, pool)
        return min(run(plan, options.work, options.processes, pool), 1)


if __name__ == "__main__":
    sys.exit(main())
