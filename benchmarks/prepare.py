"""CPU-seconds and peak memory of `scalerl prepare --input` on 100,000 prompts, one core.

Run ``python benchmarks/prepare.py [--rows N] [--repeat N]`` from the repository's root; needs the extra `data`. The
bar: under 60 s of process CPU time and 2 GB of peak memory, in a process of its own from cold, with everything on:
duplicates exact and near, decontamination against 1,000 test prompts, token budgets by a BPE tokenizer trained here.

The prompts are made up: words from a Zipf law over 20,000 pseudo-words, numbers, pieces of LaTeX, 20 to 120 words, half
of them with a solution of 300 words, 30 % ending with one shared instruction. 3 % are copies, 3 % are copies with a
changed word, 1 % hold a test prompt; how many of each are found is printed beside what was put in.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BAR_CPU_S, BAR_GB = 60.0, 2.0
TESTS = 1000
ENDING = " Let's think step by step and output the final answer within \\boxed{} at the end of the solution, please."
PIECES = ["$x^2+{}$", "$\\frac{{{}}}{{7}}$", "{} apples", "{} km", "$a_{{{}}} = 3$", "{}%"]


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield rows; `kind` says what each was made as."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, n)) for n in rng.integers(2, 10, 20_000)])
    law = 1.0 / np.arange(5, 20_005)
    law /= law.sum()

    def text(length: int) -> list[str]:
        chosen = words[rng.choice(len(words), length, p=law)].tolist()
        for place in rng.integers(0, length, max(1, length // 8)):
            chosen[place] = PIECES[rng.integers(len(PIECES))].format(rng.integers(2, 1000))
        return chosen

    tests = [" ".join(text(int(n))) for n in rng.integers(20, 60, TESTS)]
    for prompt in tests:
        yield {"kind": "test", "problem": prompt}
    earlier: list[dict[str, Any]] = []
    for _ in range(count):
        draw = rng.random()
        if draw < 0.06 and len(earlier) > 100:
            row = dict(earlier[rng.integers(len(earlier))])
            row["kind"] = "copy" if draw < 0.03 else "near"
            if draw >= 0.03:
                parts = row["problem"].split(" ")
                parts[int(rng.integers(len(parts)))] = "changed"
                row["problem"] = " ".join(parts)
        else:
            body = " ".join(text(int(rng.integers(20, 120))))
            row = {"kind": "fresh", "problem": body, "answer": str(rng.integers(10_000)), "difficulty": "3/8"}
            if draw > 0.99:
                row.update(kind="holds a test", problem=f"{body} {tests[rng.integers(TESTS)]}")
            elif draw > 0.69:
                row["problem"] += ENDING
            if rng.random() < 0.5:
                row["solution"] = " ".join(text(300))
            if row["kind"] == "fresh" and len(body) > 300:  # long enough that one word makes no other prompt of it
                earlier.append(row)
        yield row


def write(folder: Path, count: int) -> dict[str, int]:
    """Write raw.jsonl, tests.jsonl and a tokenizer; return how many rows of each kind there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    kinds: dict[str, int] = {}
    sample = []
    with (folder / "raw.jsonl").open("w") as raw, (folder / "tests.jsonl").open("w") as tests:
        for row in rows(count):
            kind = row.pop("kind")
            kinds[kind] = kinds.get(kind, 0) + 1
            (tests if kind == "test" else raw).write(json.dumps(row) + "\n")
            if len(sample) < 5000:
                sample.append(row["problem"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(sample, trainer)
    (folder / "model").mkdir()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    return kinds


def measure(folder: Path, *options: str) -> tuple[float, float, dict[str, Any]]:
    """Prepare in a fresh process; return its CPU-seconds, its peak memory in GB, and its report."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "prepared"
        command = [sys.executable, "-m", "scalerl.cli", "prepare", "--input", str(folder / "raw.jsonl"), *options]
        process = subprocess.Popen(
            [*command, "--output", str(output)], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"scalerl prepare ended with {process.returncode}")
        report = json.loads((output / "report.json").read_text())
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, report


def main() -> int:
    """Print a line a run; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = write(folder, args.rows)
        size = (folder / "raw.jsonl").stat().st_size / 2**20
        print(f"{args.rows:,} rows, {size:.0f} MiB; put in: {kinds}")
        everything = ["--model", str(folder / "model"), "--decontaminate", str(folder / "tests.jsonl")]
        for label, options in (("everything", everything), ("exact duplicates only", ["--near-duplicates", "off"])):
            for _ in range(args.repeat):
                cpu_s, gb, report = measure(folder, *options)
                missed |= cpu_s > BAR_CPU_S or gb > BAR_GB
                found = {reason: entry["count"] for reason, entry in report["rejected"].items()}
                print(f"{label:<22} {cpu_s:6.1f} CPU-s  {gb:5.2f} GB peak  {found}", flush=True)
    print(f"bars: {BAR_CPU_S:.0f} CPU-s, {BAR_GB:.0f} GB: {'MISSED' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
