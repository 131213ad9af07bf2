"""Peak memory of real runs against the estimate of ``scalerl train --dry-run``, at three sizes on a CPU.

Run ``python -m benchmarks.memory [--size small|middle|large] [--json F]`` from the repository's root. Every size trains
in a process of its own: random weights, FP32, AdamW, updates that filter nothing, so that the largest micro-batch is
there. Measured is the largest resident set of that process while it trains, minus what it held when everything was
imported, and minus code that is read in on its first use (Linux: VmHWM, which the system counts, reset before the run,
and RssFile).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 2
MIB = 2.0**20
# Layers, width, words that are never used, and the fields that differ from the demo's size.
SIZES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "small": (2, 64, 0, {"off_policy_steps": 0}),
    "middle": (2, 256, 2000, {"batch_size": 128, "off_policy_steps": 0, "micro_batch_tokens": 8192}),
    "large": (5, 512, 4000, {"batch_size": 48, "off_policy_steps": 0, "micro_batch_tokens": 2048}),
}


def measure(size: str) -> dict[str, Any]:
    """Train a few steps of one size in a new process and return megabytes measured and estimated."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.memory", "--size", size, "--make"]
        subprocess.run([*command, folder], check=True)  # a model that is made here would leave its memory behind
        began = time.perf_counter()
        command[-1] = "--train"
        done = subprocess.run([*command, folder], check=True, capture_output=True, text=True)
        return {**json.loads(done.stdout.splitlines()[-1]), "wall_s": time.perf_counter() - began}


def make(size: str, folder: Path) -> None:
    """Write a model with random weights, and prompts."""
    from scalerl.data import prepare
    from scalerl.policy import new_policy
    from scalerl.tasks import get_task

    layers, width, words, fields = SIZES[size]
    unused = "".join(chr(0x4E00 + i) for i in range(words))
    length = fields.get("max_length", 72)
    policy = new_policy(get_task("chain").characters + unused, max_length=length, layers=layers, width=width)
    policy.save(folder / "model")
    prepare("chain", str(folder / "prompts"), sizes=(600, 8, 8))


def train(size: str, folder: Path) -> dict[str, Any]:
    """Train in this process, and measure it."""
    from scalerl.config import load_config
    from scalerl.footprint import memory, peak
    from scalerl.policy import load_policy
    from scalerl.start import train

    changes = {**SIZES[size][3], "model_name": folder / "model", "max_steps": STEPS, "eval_every": 1000}
    changes |= {"zero_variance_filtering": "false", "no_positive_resampling": "false", "length_control": "none"}
    config = load_config(["scalerl", "demo"], [f"{key}={value}" for key, value in changes.items()])
    estimated = memory(config, load_policy(config.model_name).model, eval_prompts=8)
    parameters = sum(p.numel() for p in load_policy(config.model_name).model.parameters())
    before, code = resident("VmRSS"), resident("RssFile")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    train(config, str(folder / "prompts/train.json"), str(folder / "prompts/eval.json"), str(folder / "run"))
    return {
        "size": size,
        "parameters": parameters,
        "before_mib": before / MIB,
        "measured_mib": (resident("VmHWM") - before - (resident("RssFile") - code)) / MIB,
        "code_mib": (resident("RssFile") - code) / MIB,
        "estimated_mib": peak(estimated)[0] / MIB,
        "parts_mib": {part.name: part.bytes / MIB for part in estimated},
    }


def resident(name: str) -> int:
    """Return bytes that the system counts for this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--json", type=Path, metavar="F")
    for part in ("--make", "--train"):
        parser.add_argument(part, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.size, args.make)
        return
    if args.train:
        print(json.dumps(train(args.size, args.train)))
        return
    rows = []
    print(f"{'size':<8} {'parameters':>12} {'measured':>9} {'estimated':>10} MiB  estimated / measured  wall s")
    for size in [args.size] if args.size else SIZES:
        row = measure(size)
        rows.append(row)
        ratio = row["estimated_mib"] / row["measured_mib"]
        figures = f"{row['measured_mib']:>9.0f} {row['estimated_mib']:>10.0f}"
        print(
            f"{row['size']:<8} {row['parameters']:>12,} {figures}      {ratio:>20.2f}  {row['wall_s']:.0f}", flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
