"""Kill a run from outside at random moments, resume it until it ends, and compare it with one that was never killed.

Run ``python -m benchmarks.kills [--kills 200] [--seed 0] [--in-flight kv|refresh]`` from the repository's root. The run
is PipelineRL-8 at the demo's shape with 16 completions an update and a checkpoint after every update. Each attempt is
a process of its own, forked from one that has imported everything, and is ended by SIGKILL: a quarter after a time
drawn uniformly, the rest up to 3 ms into the phase with the fewest kills, so that short phases are hit, too. What it
was doing then is read from a byte of shared memory that only this program's wrappers write. Runs follow one another
until so many kills are made; then log (but for time fields and attempts), weights, optimizer and
what was half written must be the unkilled run's, bit for bit.
"""

from __future__ import annotations

import argparse
import collections
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scalerl.checkpoint import read_checkpoint
from scalerl.config import load_config
from scalerl.data import prepare
from scalerl.meter import Meter
from scalerl.runlog import TIME_FIELDS, read_log
from scalerl.start import resume, train

PHASES = ("begin", "generate", "score", "train", "evaluate", "checkpoint", "between")
STEPS, LONGEST_S, AIMED = 10, 2.0, 0.75
AIMED_S = {"score": 0.0, "between": 0.0}  # these are over in a fraction of a millisecond


def settings(in_flight: str) -> list[str]:
    """Return the run's settings: small, streaming, all of its curriculum on."""
    return [
        *("batch_size=16", "generations_per_prompt=4", f"max_steps={STEPS}", "eval_every=3", "eval_generations=2"),
        *("checkpoint_every=1", "resampling_threshold=0.5", f"in_flight={in_flight}"),
    ]


def tell_phases(shared: mmap.mmap) -> None:
    """Write what a run does into shared memory, from now on in this process."""

    def told(method: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def wrapped(self: Meter, name: str) -> Iterator[None]:
            with method(self, name):
                shared[0] = PHASES.index(name)
                try:
                    yield
                finally:
                    shared[0] = PHASES.index("between")

        return wrapped

    Meter.phase, Meter.apart = told(Meter.phase), told(Meter.apart)  # type: ignore[method-assign]


def attempt(
    work: Callable[[], Any], shared: mmap.mmap, kill_after_s: float | None, phase: str | None = None
) -> str | None:
    """Do the work in a fork; return the phase in which it was killed, or None if it came to its end.

    It is killed after so many seconds; where a phase is given, so many seconds after that has begun.

    Raises
    ------
    RuntimeError
        If it ended by itself with an error.
    """
    shared[0] = PHASES.index("begin")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            tell_phases(shared)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    began = None if phase else time.monotonic()
    while kill_after_s is not None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _ended(status)
        if began is None and PHASES[shared[0]] == phase:
            began = time.monotonic()
        if began is not None and time.monotonic() - began >= kill_after_s:
            break
        time.sleep(0.0001 if began is None or phase is None else 0)
    if kill_after_s is not None:
        os.kill(child, signal.SIGKILL)
        hit = PHASES[shared[0]]
        status = os.waitpid(child, 0)[1]
        return hit if os.WIFSIGNALED(status) else _ended(status)
    return _ended(os.waitpid(child, 0)[1])


def _ended(status: int) -> None:
    if status:
        raise RuntimeError(f"an attempt ended with status {status}; its traceback is above")


def state_of(run: Path) -> dict[str, Any]:
    """Return what two equal runs have in common: rows, and all tensors of the last checkpoint."""
    left_out = TIME_FIELDS | {"attempt"}
    rows = [row for row in read_log(run / "log.jsonl").rows if row["kind"] != "event"]
    kept = read_checkpoint(run)
    if kept is None:
        raise RuntimeError(f"{run}: no checkpoint")
    slots = kept.tensors["generator"]  # what stands behind a slot's end was written for others and is never read
    for slot, (length, position) in enumerate(zip(slots["length"].tolist(), slots["position"].tolist(), strict=True)):
        for name, column in slots.items():
            if name in {"tokens", "versions", "logprobs"}:
                column[slot, length:] = 0
            elif name.startswith(("keys", "values")):
                column[slot, :, position:] = 0
    names = ("step", "schedule", "pool", "drawn", "guards", "compute", "pass_rate")
    return {
        "rows": [{name: value for name, value in row.items() if name not in left_out} for row in rows],
        "tensors": {f"{file}.{name}": t for file, group in kept.tensors.items() for name, t in group.items()},
        "state": {name: kept.state[name] for name in names},
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return what differs, by name; nothing if both are equal bit for bit."""
    found = [name for name in ("rows", "state") if one[name] != other[name]]
    a, b = one["tensors"], other["tensors"]
    found += sorted(a.keys() ^ b.keys())
    return found + [name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]


def bill_is_right(run: Path) -> bool:
    """Return whether the last resume's bill is the sum of the bills in ``lost/``."""
    bills = [json.loads(path.open().readline())["gpu_hours_lost"] for path in (run / "lost").glob("attempt-*.jsonl")]
    said = [row["gpu_hours_lost"] for row in read_log(run / "log.jsonl").rows if row.get("event") == "resume"]
    return not said or abs(said[-1] - sum(bills)) <= 1e-12 + 1e-9 * sum(bills)


def main() -> None:
    """Print the histogram and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-flight", choices=("kv", "refresh"), default="kv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(["scalerl", "demo"], settings(args.in_flight))
    drawn, shared = random.Random(args.seed), mmap.mmap(-1, 1)  # noqa: S311
    hits: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare("chain", str(folder), sizes=(24, 8, 8))
        data = str(folder / "train.json"), str(folder / "eval.json")
        whole = folder / "whole"
        attempt(lambda: train(config, *data, str(whole)), shared, None)
        expected, number = state_of(whole), 0
        while sum(hits.values()) < args.kills:
            number += 1
            run = folder / f"run-{number}"

            def go_on(run: Path = run) -> None:
                if (run / "run.json").exists():
                    resume(str(run), say=lambda _: None)
                else:
                    train(config, *data, str(run))

            ended = False
            while not ended:
                kill = sum(hits.values()) < args.kills
                aimed = min(PHASES[1:], key=hits.__getitem__) if drawn.random() < AIMED else None
                limit = drawn.uniform(0, LONGEST_S if aimed is None else AIMED_S.get(aimed, 0.003)) if kill else None
                phase = attempt(go_on, shared, limit, aimed)
                ended = phase is None
                hits.update([] if phase is None else [phase])
            wrong += [f"run {number}: {what}" for what in differences(state_of(run), expected)]
            wrong += [] if bill_is_right(run) else [f"run {number}: the bill"]
    print(f"{sum(hits.values())} kills in {number} runs, in-flight work by {args.in_flight}")
    for phase in PHASES:
        print(f"  {phase:<11}{hits[phase]:>4}")
    empty = [phase for phase in PHASES if not hits[phase]]
    print("every run equals the unkilled one, bit for bit" if not wrong else "DIFFERS: " + "; ".join(wrong))
    if empty:
        print(f"never hit: {', '.join(empty)}")
    sys.exit(1 if wrong or empty else 0)


if __name__ == "__main__":
    main()
