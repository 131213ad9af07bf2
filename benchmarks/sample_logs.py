"""Make ``data/logs``: six simulated runs as TRL, verl and W&B would have logged them, for notebook 05.

Run ``python -m benchmarks.sample_logs`` from the repository's root. The curves are drawn from the law with noise that
is correlated and with seeds that differ; what is real about the files is their form: TRL's checkpoints hold a branch
that a resume took back, verl's console has Ray's prefixes, colours and a restart, W&B's history has sparse columns.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from analysis.curves.curve import R
from benchmarks.simulate import ar1_noise

FOLDER = Path("data/logs")
STEPS, EVERY = 400, 10
DEVICES = 8
SEED_SD = 0.01
# Recipe: R0, A, B, C_mid in GPU-hours, seconds a step.
RECIPES = {
    "trl-grpo": (0.12, 0.60, 1.7, 14.0, 95.0),
    "verl-dapo": (0.12, 0.66, 1.6, 16.0, 110.0),
    "wandb-cispo": (0.12, 0.66, 1.7, 11.0, 90.0),
}


def evaluations(recipe: str, seed: int) -> tuple[list[float], list[float]]:
    """Seconds of each step, and the pass rate after every `EVERY` steps, the first before any."""
    R0, A, B, C_mid, step_s = RECIPES[recipe]
    rng = np.random.default_rng([sorted(RECIPES).index(recipe), seed])
    seconds = (step_s * rng.lognormal(0.0, 0.08, STEPS)).round(2).tolist()
    hours = np.cumsum([0.0, *seconds])[::EVERY] * DEVICES / 3600.0
    ceiling = A + SEED_SD * rng.standard_normal()
    rate = np.asarray(R(hours, R0, ceiling, B, C_mid)) + 0.7 * ar1_noise(rng, len(hours), 0.5)
    return seconds, np.clip(rate, 0.0, 1.0).round(4).tolist()


def trl(seed: int) -> None:
    """TRL's output folder: the checkpoint of a first attempt, and the last one, which went on from step 200."""
    seconds, rates = evaluations("trl-grpo", seed)
    tokens = np.cumsum(np.random.default_rng(seed).integers(250_000, 350_000, STEPS)).tolist()

    def rows(until: int, other: float = 0.0) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for step in range(EVERY, until + 1, EVERY):
            shift = other if step > 200 else 0.0
            window = seconds[step - EVERY : step]
            reward = round(rates[step // EVERY] + shift + 0.02, 4)
            row = {"reward": reward, "rewards/accuracy/mean": reward, "step_time": round(float(np.mean(window)), 3)}
            made.append({"epoch": step / STEPS, **row, "num_tokens": tokens[step - 1], "step": step})
            rate = round(rates[step // EVERY] + shift, 4)
            made.append({"epoch": step / STEPS, "eval_rewards/accuracy/mean": rate, "eval_runtime": 61.2, "step": step})
        return made

    for until, other in ((260, -0.004), (STEPS, 0.0)):
        folder = FOLDER / f"trl-grpo_s{seed}" / f"checkpoint-{until}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {"best_metric": None, "global_step": until, "log_history": rows(until, other), "logging_steps": EVERY}
        (folder / "trainer_state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


def verl(seed: int) -> None:
    """verl's console: Ray's prefixes and colours, prose between, killed after step 245 and begun again at 240."""
    seconds, rates = evaluations("verl-dapo", seed)
    config = "{'trainer': {'n_gpus_per_node': 8, 'nnodes': 1, 'logger': ['console']}}"
    lines = [f"\x1b[36m(TaskRunner pid=4711)\x1b[0m {config}"]

    def step(n: int, pid: int) -> str:
        said = f"step:{n} - training/global_step:{n} - critic/score/mean:np.float64({rates[n // EVERY]:.4f})"
        if n:
            said += f" - timing_s/step:{seconds[n - 1]} - perf/total_num_tokens:{310_000 + 10 * n}"
        if n % EVERY == 0:
            said += f" - val-core/math/acc/mean@4:{rates[n // EVERY]}"
        return f"\x1b[36m(TaskRunner pid={pid})\x1b[0m {said}"

    lines += [step(n, 4711) for n in range(246)]
    lines += ["Killed", "Next step: resume from checkpoint global_step_240"]
    lines += [step(n, 5120) for n in range(241, STEPS + 1)]
    (FOLDER / f"verl-dapo_s{seed}.log").write_text("\n".join(lines) + "\n", encoding="utf-8")


def wandb(seed: int) -> None:
    """The history of a W&B run as ``pandas.DataFrame(run.scan_history()).to_csv()`` writes it."""
    seconds, rates = evaluations("wandb-cispo", seed)
    clock = np.cumsum([0.0, *seconds])
    with (FOLDER / f"wandb-cispo_s{seed}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["_step", "_runtime", "_timestamp", "train/reward", "eval/pass_rate", "train/loss"])
        for n in range(STEPS + 1):
            rate = rates[n // EVERY] if n % EVERY == 0 else ""
            runtime, now = f"{clock[n]:.2f}", f"{1.76e9 + clock[n]:.2f}"
            table.writerow([n, runtime, now, f"{rates[n // EVERY] + 0.02:.4f}", rate, f"{0.1 / (1 + n):.6f}"])


def main() -> int:
    """Write all files anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed in (0, 1, 2):
        trl(seed)
        verl(seed)
        wandb(seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
