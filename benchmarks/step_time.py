"""CPU-seconds of one training step: 512 completions, steps 5 to 24 from the shipped checkpoint, one core.

Run ``python benchmarks/step_time.py [--repeat 3]`` from the repository's root. What is timed is process CPU time, as
the run log meters it: generation, scoring and the update, evaluation apart. Both recipes of the demo run in turn, so
that a slow spell of the machine falls on both; medians over the steps are printed, with the phases' wall seconds. For
scale, the rate of a matrix product is measured in the same process, and what a step's floating-point operations would
take at that rate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from scalerl.config import load_config
from scalerl.data import prepare
from scalerl.runlog import read_log
from scalerl.start import train

FIRST, LAST = 5, 24


def matrix_rate() -> float:
    """Floating-point operations a second of a 1024-square product, the best of 20."""
    a = torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(20):
        began = time.process_time()
        torch.mm(a, a)
        best = min(best, time.process_time() - began)
    return 2 * 1024**3 / best


def measure(recipe: str, folder: Path) -> dict[str, float]:
    """Train 24 steps and return medians over steps 5 to 24."""
    config = load_config([recipe, "demo"], [f"max_steps={LAST}", "eval_every=1000", "eval_prompts=8"])
    train(config, str(folder / "train.json"), str(folder / "eval.json"), str(folder / "run"))
    rows = [row for row in read_log(folder / "run" / "log.jsonl").rows if row["kind"] == "step"]
    pairs = list(zip(rows[FIRST - 2 : LAST - 1], rows[FIRST - 1 : LAST], strict=True))
    middle = statistics.median
    return {
        "cpu_s": middle(b["cpu_s"] - a["cpu_s"] for a, b in pairs),
        "generate_s": middle(b["generate_s"] for _, b in pairs),
        "train_s": middle(b["train_s"] for _, b in pairs),
        "tokens": middle(b["tokens_generated"] - a["tokens_generated"] for a, b in pairs),
        "flops": middle(b["flops"] - a["flops"] for a, b in pairs),
        "dropped": middle(b["zero_variance_share"] for _, b in pairs),
    }


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    print("recipe   CPU-s/step  generate  train  tokens  zero-variance  GFLOP/s of a product  FLOP floor CPU-s")
    for _ in range(repeat):
        for recipe in ("scalerl", "grpo"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                prepare("chain", str(folder))
                m, rate = measure(recipe, folder), matrix_rate()
            print(
                f"{recipe:<8} {m['cpu_s']:<11.3f} {m['generate_s']:<9.3f} {m['train_s']:<6.3f} {m['tokens']:<7.0f} "
                f"{m['dropped']:<14.2f} {rate / 1e9:<21.0f} {m['flops'] / rate:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
