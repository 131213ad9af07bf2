"""Seconds and memory to read a long log of each text format: the bars are 15 s and 1 GB for a million rows.

Run ``python -m benchmarks.read_speed --reader jsonl [--rows 1000000]`` from the repository's root, one process a
reader, so that the peak of memory is its own. Rows hold a step and eight numbers of full length; those of
``table-short`` a step and four of few digits, most cells of one column empty. ``--whole`` goes on to the run that is
fitted (`analysis.read`).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from analysis import read
from analysis.readers import formats

NAMES = ("loss", "grad_norm", "learning_rate", "reward", "reward_std", "kl", "entropy", "completions/mean_length")
READERS = (
    "jsonl",
    "verl-file",
    "prime-rl",
    "trainer-state",
    "verl-console",
    "trl-console",
    "console",
    "table",
    "table-short",
)


def written(reader: str, rows: int) -> Iterator[str]:
    """Yield the text of a log; prime-rl's has two rows a step."""
    draw = random.Random(0)  # noqa: S311
    if reader == "trainer-state":
        yield f'{{"global_step": {rows}, "log_history": ['
    if reader == "table":
        yield f"step,{','.join(NAMES)}\n"
    elif reader == "table-short":
        yield "step,gpu_hours,reward,accuracy,loss\n"
    for i in range(rows):
        cells = {name: draw.random() for name in NAMES}
        if reader == "jsonl":
            yield json.dumps({"step": i, **cells}) + "\n"
        elif reader == "table":
            yield f"{i},{','.join(map(str, cells.values()))}\n"
        elif reader == "table-short":
            accuracy = "" if i % 10 else f"{cells['reward']:.4f}"
            yield f"{i},{i / 1000:.3f},{cells['reward']:.4f},{accuracy},{cells['loss']:.6f}\n"
        elif reader == "verl-file":
            yield json.dumps({"step": i, "data": cells}) + "\n"
        elif reader == "prime-rl":
            part = "time" if i % 2 else "reward"
            told = {f"{part}/{name}": value for name, value in cells.items()}
            yield json.dumps({"step": i // 2, "time": 1.7e9 + i, **told}) + "\n"
        elif reader == "trainer-state":
            yield json.dumps({"step": i + 1, **cells}, indent=2) + (",\n" if i + 1 < rows else "]}")
        elif reader == "verl-console":
            fields = " - ".join(f"{name}:{value:.6f}" for name, value in cells.items())
            yield f"\x1b[36m(TaskRunner pid=12)\x1b[0m step:{i} - {fields}\n"
        elif reader == "trl-console":
            printed = {name: f"{value:.4g}" for name, value in cells.items()}
            bar = f"\r {100 * i // rows:3d}%|##  | {i}/{rows} [00:01<00:02, 1.0it/s]"
            yield f"{ {**printed, 'epoch': f'{i / rows:.4g}'} }\n{bar}"
        else:
            fields = " ".join(f"{name}={value:.6f}" for name, value in cells.items())
            yield f"[Step {i}/{rows}] {fields}\n"


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.csv" if "table" in args.reader else "trainer_state.json")
        with path.open("w") as file:
            file.writelines(written(args.reader, args.rows))
        size, before = path.stat().st_size, _peak_mb()
        began, began_cpu = time.perf_counter(), time.process_time()
        if args.whole:
            read(path, y="reward", format=args.reader.removesuffix("-short"))
        else:
            formats.read_as(args.reader.removesuffix("-short"), path)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    grown = _peak_mb() - before
    what = f"{args.rows} rows of {size / 1e6:.0f} MB in {seconds:.1f} s ({cpu_s:.1f} CPU-s)"
    print(f"{args.reader:<14} {what}, {grown:.0f} MB of memory, {grown * 2**20 / size:.1f} x the file")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
