"""Completions per wall second of Ray generators, a generator process, and the run in one process; the same updates.

Run ``python -m benchmarks.ray_speed [--updates 40] [--generators 2] [--repeats 3]`` from the repository's root, on an
idle machine. The run is the demo's: 512 completions an update, PipelineRL-8. Kinds take turns, repeat by repeat. What
counts is the metered wall time, idle included, as in `gpu_hours`: loading, starting Ray and evaluating are left out.
The first updates are left out, too, since generators work ahead by up to k batches before the first one; both figures
are over the same updates of every kind.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from scalerl.config import load_config
from scalerl.data import prepare
from scalerl.runlog import read_header, read_log
from scalerl.start import train

SKIPPED = 10  # updates until the schedule is filled


class Speed(NamedTuple):
    """What one run came to."""

    completions_per_s: float
    cpu_s: float
    """Of all processes, per update."""
    generators_idle: float
    learner_idle: float
    sync_s: float
    """Handing weights over and taking them, per update."""


def measure(kind: str, generators: int, updates: int, data: Path, run: Path) -> Speed:
    """Make one run and return its speed behind the first updates."""
    settings = [f"generator={kind}", f"max_steps={updates}", "eval_every=1000000", "eval_generations=1"]
    settings += [f"generators={generators}"] if kind == "ray" else []
    config = load_config(["scalerl", "demo"], settings)
    train(config, str(data / "train.json"), str(data / "eval.json"), str(run))
    steps = [row for row in read_log(run / "log.jsonl").rows if row["kind"] == "step"]
    devices = read_header(run)["devices"]["count"]
    first, counted = steps[SKIPPED - 1], steps[SKIPPED:]
    wall_s = (counted[-1]["gpu_hours"] - first["gpu_hours"]) * 3600 / devices
    mean = {
        name: statistics.fmean(row.get(name, 0.0) for row in counted)
        for name in ("generator_idle_share", "learner_idle_share", "weight_sync_s", "generator_sync_s")
    }
    return Speed(
        sum(row["reward_count"] for row in counted) / wall_s,
        (counted[-1]["cpu_s"] - first["cpu_s"]) / len(counted),
        mean["generator_idle_share"],
        mean["learner_idle_share"],
        mean["weight_sync_s"] + mean["generator_sync_s"],
    )


def main() -> None:
    """Print one line a kind, the median repeat, and the ratio to the run in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--generators", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.updates <= SKIPPED:
        parser.error(f"--updates: more than {SKIPPED} are needed; the first ones are left out")
    found: dict[str, list[Speed]] = {"inline": [], "process": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        prepare("chain", str(data), sizes=(1500, 8, 8))
        for repeat in range(args.repeats):
            for kind, speeds in found.items():
                speeds.append(measure(kind, args.generators, args.updates, data, data / f"{kind}-{repeat}"))
    base = statistics.median(speed.completions_per_s for speed in found["inline"])
    print(
        f"{args.updates - SKIPPED} updates of 512 completions behind the first {SKIPPED}, "
        f"median of {args.repeats} runs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )
    heads = ("completions/s", "to inline", "CPU-s/update", "idle: gen.", "learner", "sync s")
    print(f"{'generator':<12}" + "".join(f"{head:>14}" for head in heads))
    for kind, speeds in found.items():
        middle = Speed(*(statistics.median(column) for column in zip(*speeds, strict=True)))
        idle = [f"{share:.0%}" if kind != "inline" else "-" for share in (middle.generators_idle, middle.learner_idle)]
        cells = [f"{middle.completions_per_s:.0f}", f"{middle.completions_per_s / base:.2f}x", f"{middle.cpu_s:.2f}"]
        cells += [*idle, f"{middle.sync_s:.4f}"]
        label = f"ray x {args.generators}" if kind == "ray" else kind
        print(f"{label:<12}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
