"""Feed readers of other programs' logs with files that are nearly right: what they cannot read must be one clear error.

Run ``python -m benchmarks.fuzz_readers --reader verl-console --count 100000 [--seed 0]`` from the repository's root, or
without ``--reader`` for all. Each input is a sample of the format with a few mutations of bytes, lines, numbers,
brackets or marks, drawn with the seed; half of those of a binary format are sound to it and odd in what they hold
(`benchmarks.fuzz_stores`). One in eight, or three, also goes the whole way of `analysis.read` and of the listing.
Inputs are read in a process of their own, so that a crash is seen. It counts what was read, refused and not recognised,
and ends with 1 where anything else came out: an exception other than `UserError`, an error that does not begin with its
path or is no short printable line, a dead process, an input that takes longer than 30 s (`MOST_S`) or raises the peak
of memory by more than 64 MB (`MOST_MB`). That input is then left in ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from analysis.readers import formats
from analysis.readers.found import Found
from analysis.readers.listing import list_logs
from analysis.readers.logs import read
from benchmarks import fuzz_samples as samples
from benchmarks import fuzz_stores as odd
from benchmarks.fuzz_samples import Files
from benchmarks.fuzz_text import SAMPLES, mutated
from scalerl.runlog import UserError

MOST_S, MOST_MB, MOST_CHARACTERS = 30.0, 64, 1000  # of one input: seconds, growth of the peak, length of an error
ADDRESS_SPACE = 6 << 30  # bytes
OUTCOMES = ("read", "read, not recognised", "refused", "not recognised", "failed")


class Kind(NamedTuple):
    """What one line of the report is about.

    `odd` makes inputs that are sound to the format; names that end in one of `text` are mutated as text, others as
    bytes; `paths` are what is read, one an input: the folder of all files is ``""``; one input in `whole` goes the
    whole way of `analysis.read` and of the listing.
    """

    reader: str
    sample: Callable[[], Files]
    odd: Callable[[Files, random.Random], Files] | None = None
    text: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    whole: int = 8


STORES: dict[str, Kind] = {
    "table": Kind("table", samples.table, None, ("",)),
    "parquet": Kind("parquet", samples.parquet, odd.odd_parquet),
    "tensorboard": Kind("tensorboard", samples.tensorboard, odd.odd_events, (), ("grpo", "")),
    "tensorboard-page": Kind("tensorboard", samples.tensorboard_page, None, ("",)),
    "wandb": Kind("wandb", samples.wandb, odd.odd_offline, (), ("", "offline-run-a", "offline-run-a/run-abc.wandb")),
    "wandb-page": Kind("wandb", samples.wandb_page, None, ("",)),
    "wandb-history": Kind("wandb", samples.wandb_history, None, (".csv",)),
    "mlflow": Kind("mlflow", samples.mlflow, odd.odd_database),
    "mlflow-folder": Kind("mlflow", samples.mlflow_folder, odd.odd_folder, ("",), ("mlruns",)),
    "trackio": Kind("trackio", samples.trackio, odd.odd_database, (), ("p.db", "q.db")),
    "scalerl": Kind(
        "scalerl", samples.own, odd.packed, (".jsonl", ".json"), ("a", "b", "a/log.jsonl", "b/log.jsonl.gz")
    ),
    "trl-folder": Kind("trainer-state", samples.trl_folder, odd.odd_events, (".json", ".md"), ("grpo_seed3",), 3),
}
KINDS: dict[str, Kind] = {**{name: Kind(name, make, None, ("",)) for name, make in SAMPLES.items()}, **STORES}


def check(found: list[Found]) -> None:
    """Raise `ValueError` where what a reader hands on breaks its own promises."""
    if not found:
        raise ValueError("no run and no error")
    for one in found:
        count = len(one.table.lines)
        if count == 0 or any(len(cells) != count for cells in one.table.columns.values()):
            raise ValueError("columns are not as long as the lines")
        if one.step is not None and one.step not in one.table.columns:
            raise ValueError(f"no column {one.step}")
        if not set(one.rates) <= set(one.table.columns) or not all(0 < start < count for start in one.starts):
            raise ValueError("rates or starts are none of the table's")
        said = (finding.message for finding in one.findings)
        for name in (one.label.name, one.table.where, *one.table.columns, *said):
            if not name.isprintable():
                raise ValueError(f"not printable: {name!r}")


def check_error(text: str, folder: Path) -> None:
    """Raise `ValueError` where an error is not one short printable line that begins with its path."""
    if not text.startswith(str(folder)) or not text.isprintable() or len(text) > len(str(folder)) + MOST_CHARACTERS:
        raise ValueError(f"error: {text[:2000]!r}")


def whole_way(path: Path, folder: Path) -> None:
    """Read a path as the commands do: what lies there, and its runs by the likeliest column."""
    try:
        listing = list_logs(path, devices=2)
        json.dumps(listing.to_dict())
        if not all(line.isprintable() for line in repr(listing).split("\n")):
            raise ValueError(f"not printable: {listing!r}")
        for refused in listing.refused:
            check_error(refused, folder)
        rates = [rate.column for run in listing.runs for rate in run.rates if len(rate.column) <= 80]
        repr(read(path, y=rates[0] if rates else None, devices=2))
    except UserError as error:
        check_error(str(error), folder)


class Inputs:
    """Write the inputs of a kind to a folder and read them, each drawn with reader, seed and number alone."""

    def __init__(self, name: str, seed: int, folder: Path, sample: Mapping[str, bytes] | None = None) -> None:
        self.name, self.seed, self.folder, self.kind = name, seed, folder, KINDS[name]
        self.sample: Files = dict(self.kind.sample() if sample is None else sample)
        self._there: Files = {}

    def outcome(self, number: int) -> str:
        """Return how an input was read, one of `OUTCOMES` but the last.

        Raises
        ------
        Exception
            Whatever came out that is no `UserError`, or broke a promise.
        """
        draw = random.Random(f"{self.name} {self.seed} {number}")  # noqa: S311
        untouched = number % 50 == 0
        self._write(self.sample if untouched else self._drawn(draw))
        path = self.folder / draw.choice(self._paths(number))
        module = formats._module(formats.FORMATS[self.kind.reader])
        known = module.recognise(path, formats.head_of(path))
        try:
            found = formats.read_as(self.kind.reader, path)
            check(found)
            told = "read" if known else "read, not recognised"
        except UserError as error:
            check_error(str(error), self.folder)
            if untouched:
                raise ValueError(f"the sample itself is refused: {error}") from error
            told = "refused" if known else "not recognised"
        if number % self.kind.whole == 0:
            whole_way(path, self.folder)
        return told

    def _drawn(self, draw: random.Random) -> Files:
        if self.kind.odd is not None and draw.random() < 0.5:
            return self.kind.odd(self.sample, draw)
        made = {}
        for name, data in self.sample.items():
            is_text = name.endswith(self.kind.text) if self.kind.text else False
            kept = len(self.sample) > 1 and draw.random() < 0.3
            made[name] = data if kept else mutated(data, draw) if is_text else odd.mutated(data, draw)
        return made

    def _paths(self, number: int) -> list[str]:
        if self.kind.paths or self.kind.reader in STORES:
            return list(self.kind.paths or self.sample)
        return [""] if len(self.sample) > 1 and number % 3 else list(self.sample)

    def _write(self, files: Files) -> None:
        for name in self._there.keys() - files.keys():
            (self.folder / name).unlink()
        for name, data in files.items():
            if self._there.get(name) != data:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(data)
        self._there = files


def fuzz(name: str, count: int, seed: int, folder: Path, sample: Mapping[str, bytes] | None = None) -> Counter[str]:
    """Read mutated samples here; return how many were read, refused and not recognised.

    Raises
    ------
    AssertionError
        With seed and number of the input, at the first that came out as anything else.
    """
    inputs, told = Inputs(name, seed, folder, sample), Counter[str]()
    for number in range(count):
        try:
            told[inputs.outcome(number)] += 1
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, input {number}: {type(error).__name__}: {error}") from error
    return told


def fuzz_long(name: str, count: int, seed: int, keep: Path) -> bool:
    """Read mutated samples in other processes, print what came of them and return whether all was well."""
    began, died = time.perf_counter(), 0
    quick = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108, files in memory
    shared = multiprocessing.RawArray(
        "q", len(OUTCOMES) + 3
    )  # how many of each; the next; slowest, in ms; peak, in KiB
    sample = KINDS[name].sample()
    while (at := shared[-3]) < count:
        with tempfile.TemporaryDirectory(dir=quick) as below:
            folder = Path(below) / "in"
            folder.mkdir()
            child = os.fork()
            if not child:
                tempfile.tempdir = below
                _child(Inputs(name, seed, folder, sample), shared, count, keep)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status:
                died, at = died + 1, shared[-3]
                why = f"took longer than {MOST_S:g} s" if status == -signal.SIGALRM else f"ended with {status}"
                _keep(folder, keep, f"{name}, seed {seed}, input {at}: its process {why}")
                shared[-3] = at + 1
    told = {outcome: shared[i] for i, outcome in enumerate(OUTCOMES) if shared[i]}
    spent = f"{time.perf_counter() - began:.0f} s, slowest {shared[-2]} ms, peak {shared[-1] / 1024:.0f} MB"
    print(f"{name:<16} {count} inputs, {spent}: {told}{f', {died} ended the process' if died else ''}", flush=True)
    return not died and "failed" not in told


def _child(inputs: Inputs, shared: Any, count: int, keep: Path) -> None:
    """Read inputs until all are read; never returns."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        inputs.outcome(0)  # what a reader imports is not counted
        before = _peak_kib()
        for number in range(shared[-3], count):
            shared[-3] = number
            began = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, MOST_S)  # its signal ends the process
            try:
                outcome = inputs.outcome(number)
                if _peak_kib() - before > MOST_MB << 10:
                    raise ValueError(f"{(_peak_kib() - before) >> 10} MB more memory")
            except Exception as error:
                outcome = "failed"
                told = f"{inputs.name}, seed {inputs.seed}, input {number}: {type(error).__name__}: {error}"
                _keep(inputs.folder, keep, told)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            before = _peak_kib()
            shared[OUTCOMES.index(outcome)] += 1
            shared[-2] = max(shared[-2], int(1000 * (time.perf_counter() - began)))
            shared[-1] = max(shared[-1], before)
        shared[-3], status = count, 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def _keep(folder: Path, keep: Path, told: str) -> None:
    print(told[:3000], flush=True)
    place = keep / told.split(":", maxsplit=1)[0].replace(", ", "-").replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Print a line a reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=list(KINDS), action="append", help="may be given several times")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    args = parser.parse_args()
    well = [fuzz_long(name, args.count, args.seed, args.keep) for name in args.reader or KINDS]
    sys.exit(not all(well))


if __name__ == "__main__":
    main()
