"""What a row of the log costs, and what share of a training goes into its log.

Run ``python -m benchmarks.writer [--folder DIR]`` from the repository's root; DIR lies on the disk that is measured.
Rows are those of a shipped run (a step row of .8 kB), each written and fsynced alone, beside a bare write and fsync of
the same bytes, which no writer can be faster than; sides alternate row by row. Then the demo's recipe trains for
`--steps` updates, and every second inside the log's methods is held against the wall time of the training, no mirrors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BAR_MS, BAR_SHARE = 5.0, 0.01
RESULTS = Path("benchmarks/results/writer.json")
SHIPPED = Path("data/runs")


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, in milliseconds."""
    ordered = sorted(1000 * s for s in seconds)
    return {"median_ms": statistics.median(ordered), "p99_ms": ordered[int(0.99 * len(ordered))], "max_ms": ordered[-1]}


def rows(folder: Path, count: int) -> dict[str, Any]:
    """Time `count` step rows through the writer, and the same bytes through a bare write and fsync."""
    from scalerl.runlog import RunLog, read_log

    path = next(path for path in sorted(SHIPPED.rglob("log.jsonl")) if "scalerl" in str(path.parent))
    kept = [row for row in read_log(path).rows if row["kind"] == "step"]
    own = {"kind", "step", "attempt", "gpu_hours", "cpu_s", "tokens_generated", "tokens_trained", "flops"}
    fields = [{name: value for name, value in row.items() if name not in own} for row in kept]
    bare, written, cpu = [], [], 0.0
    with (folder / "bare.jsonl").open("wb", buffering=0) as file, RunLog(folder / "run", recipe="rows") as log:
        for step in range(1, count + 1):
            row = fields[step % len(fields)]
            log.count(tokens_generated=1000, tokens_trained=900, flops=1e9)
            began, busy = time.perf_counter(), time.process_time()
            log.step(step, **row)
            written.append(time.perf_counter() - began)
            cpu += time.process_time() - busy
            line = json.dumps(kept[step % len(kept)]).encode() + b"\n"
            began = time.perf_counter()
            file.write(line)
            os.fsync(file.fileno())
            bare.append(time.perf_counter() - began)
    size = (folder / "run" / "log.jsonl").stat().st_size / count
    each = {"rows": count, "bytes_a_row": round(size), "cpu_ms": 1000 * cpu / count}
    return {**each, "writer": quantiles(written), "bare": quantiles(bare)}


def training(folder: Path, steps: int) -> dict[str, Any]:
    """Train a little and return the share of its wall time that went into the log."""
    from scalerl.config import load_config
    from scalerl.data import prepare
    from scalerl.runlog import RunLog
    from scalerl.start import train

    spent = {"s": 0.0, "calls": 0.0}
    depth = 0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            began, depth = time.perf_counter(), depth + 1
            try:
                return method(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:  # a method that calls another counts once
                    spent["s"] += time.perf_counter() - began
                    spent["calls"] += 1

        return call

    kept = {name: getattr(RunLog, name) for name in ("step", "evaluate", "event", "samples")}
    for name, method in kept.items():
        setattr(RunLog, name, timed(method))
    try:
        prepare("chain", str(folder))
        config = load_config(["scalerl", "demo"], [f"max_steps={steps}"])
        began = time.perf_counter()
        train(config, str(folder / "train.json"), str(folder / "eval.json"), str(folder / "trained"))
        wall = time.perf_counter() - began
    finally:
        for name, method in kept.items():
            setattr(RunLog, name, method)
    return {"steps": steps, "wall_s": wall, "log_s": spent["s"], "calls": spent["calls"], "share": spent["s"] / wall}


def main() -> None:
    """Print the figures, keep them, and fail where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40, help="updates of the training; 0 for none")
    parser.add_argument("--folder", type=Path, help="a folder on the disk that is measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        written, trained = rows(Path(place), args.rows), training(Path(place), args.steps) if args.steps else {}
    for side in ("writer", "bare"):
        figures = "  ".join(f"{name} {value:.2f}" for name, value in written[side].items())
        print(f"{side:<7} {args.rows} rows of {written['bytes_a_row']} bytes  {figures}")
    print(f"the writer's own processor time: {written['cpu_ms']:.2f} ms a row, load average {os.getloadavg()[0]:.1f}")
    share = trained.get("share", 0.0)
    if trained:
        print(f"training {trained['wall_s']:.1f} s, {trained['log_s']:.3f} s of it in the log: {share:.2%}")
    fine = written["writer"]["median_ms"] <= BAR_MS and share < BAR_SHARE
    print(f"bars: {BAR_MS} ms a row (median), {BAR_SHARE:.0%} of the training: {'held' if fine else 'MISSED'}")
    found = {"load": os.getloadavg()[0], "rows": written, "training": trained}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
