"""Feed a reader of other programs' logs with files that are nearly right: what it cannot read must be one clear error.

Run ``python -m benchmarks.fuzz_readers --reader verl-console --count 100000 [--seed 0]`` from the repository's root, or
without ``--reader`` for all. Each input is a sample of the format with a few mutations of bytes, lines, numbers,
brackets or marks, drawn with the seed. It counts what was read, refused and not recognised, and ends with 1 where an
exception other than `UserError` came out, an error does not name its path, or the peak of memory passes the limit;
the input is then left in ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.readers import formats
from analysis.readers.found import Found
from scalerl.runlog import UserError

CELLS = {"loss": 0.031, "reward": 0.5, "grad_norm": 1.25e-3, "num_tokens": 4096, "kl": None, "note": "a \u00b5 b"}
TOKENS = (
    *(b"NaN", b"Infinity", b"-1e999", b"1e999", b"9" * 400, b"null", b"true", b'""', b"[]", b"{}"),
    *(b"\0", b"\r", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800"),
    *(b"\x1b[31m", b"\x1b]0;x", b"'", b'"', b"c" * 999, b"nan", b"1_000", b"0x10", b"\xd9\xa1"),
    *(b"<script>alert(1)</script>", b"../../etc/passwd", b"=cmd|' /C calc'!A0", b"!!python/object:os.system"),
    *(b"[" * 5000, b'{"a":' * 2000, b"(" * 200, b"," * 50, b"step:7 - a:1", b"[Step 3/9] a=1", b"100%|##| 1/2 ["),
    *(b" - ", b": ", b"_", b"-", b"step", b"seed", b"run", b"recipe", b"time", b"data", b"epoch"),
)


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Rows of a run: cells that change a little, and an evaluation now and then."""
    made = []
    for step in range(count):
        row = {"step": step, **CELLS, "loss": math.cos(step)}
        made.append({**row, "eval/math/acc": step / count} if step % 4 == 0 else row)
    return made


def lines_of(made: list[dict[str, Any]]) -> bytes:
    """JSON lines of rows."""
    return "".join(json.dumps(row) + "\n" for row in made).encode()


def jsonl() -> dict[str, bytes]:
    """JSON lines, flat and nested."""
    nested = {"timing": {"step": 1.5, "parts": [1, 2]}}
    return {"a.jsonl": lines_of([{**row, **nested} if row["step"] % 2 else row for row in rows()])}


def verl_file() -> dict[str, bytes]:
    """What verl's file logger writes."""
    made = [{"step": row.pop("step"), "data": {"val-core/math/acc/mean@4": 0.5, **row}} for row in rows()]
    return {"a.jsonl": lines_of(made)}


def prime_rl() -> dict[str, bytes]:
    """What the trainer and the orchestrator of prime-rl write."""
    trainer, orchestrator = [], []
    for step in range(8):
        time_s = 1.7e9 + 10.0 * step
        for cells in ({"loss/mean": 0.5, "optim/lr": 1e-6}, {"time/step": 3.5}, {"perf/throughput": 100.0}):
            trainer.append({"step": step, "time": time_s + 5.0, **cells})
        evaluated = {"reward/all/mean": 0.4, "time/step": 3.0, "eval/gsm8k/avg@4": 0.25}
        orchestrator.append({"step": step, "time": time_s, **evaluated, "progress/total_tokens": 100 * step})
    return {"metrics.jsonl": lines_of(trainer), "run_default/metrics.jsonl": lines_of(orchestrator)}


def trainer_state() -> dict[str, bytes]:
    """What Hugging Face's Trainer leaves in two checkpoints."""
    history: list[dict[str, Any]] = []
    for row in rows():
        history += [row, {"step": row["step"], "eval_loss": 0.5, "eval_rewards/right/mean": 0.25, "epoch": 0.1}]
    made = {}
    for count in (10, 24):
        state = {"best_metric": None, "global_step": count, "log_history": history[:count], "max_steps": 12}
        made[f"checkpoint-{count}/trainer_state.json"] = json.dumps(state, indent=2).encode()
    return made


def verl_console() -> dict[str, bytes]:
    """What verl prints through Ray."""
    ray = "\x1b[36m(TaskRunner pid=77)\x1b[0m "
    config = ("{'actor': {'n': 1},", " 'trainer': {'n_gpus_per_node': 8,", "             'nnodes': 2}}")
    lines = [ray + line for line in config]
    for row in rows():
        cells = " - ".join(f"{name}:{value}" for name, value in row.items() if name != "step")
        lines += [f"{ray}step:{row['step']} - {cells} - timing_s/step:np.float64(3.25)", ray + "Next step: 4"]
    return {"a.log": "\n".join(lines).encode() + b"\n"}


def trl_console() -> dict[str, bytes]:
    """What TRL prints among its progress bars."""
    text = "Loading weights\n"
    for row in rows():
        cells = {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items() if name != "step"}
        cells["epoch"] = f"{row['step'] / 12:.4g}"
        text += f"{cells}\n\r  8%|#   | {row['step']}/12 [00:05<00:09, 1.2s/it]"
    return {"a.log": text.encode() + b"\n"}


def console() -> dict[str, bytes]:
    """What own loops, OpenRLHF and SkyRL print."""
    lines = [f"[Step {i}/12] loss={0.1 * i:.3f} reward_avg=0.5 tokens_per_sec=19.3" for i in range(1, 6)]
    printed = "{'reward': 0.5, 'kl': np.float64(0.1)}"
    lines += [f"(PPOTrainer pid=9) INFO x.py:12] \u2728 Global step {i}: {printed}" for i in range(6, 9)]
    lines += ["2026-01-01 00:00:00.000 | INFO | a:log:3 - Step 9: ", "{'eval/all/pass_at_1': '0.5000',"]
    lines += [" 'loss': '0.1000'}", "step: 10, loss: 0.3, accuracy: 65%", "Step 11: then we look at 3 examples"]
    return {"a.log": "\n".join(lines).encode() + b"\n"}


SAMPLES: dict[str, Callable[[], dict[str, bytes]]] = {
    "trainer-state": trainer_state,
    "verl-file": verl_file,
    "prime-rl": prime_rl,
    "jsonl": jsonl,
    "verl-console": verl_console,
    "trl-console": trl_console,
    "console": console,
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with one to six mutations."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(made) + 1)
        to = min(len(made), at + draw.choice((1, 2, 5, 30, 300)))
        what = draw.randrange(8)
        if what == 0 and made:
            made[at % len(made)] = draw.randrange(256)
        elif what == 1:
            del made[at:to]
        elif what in (2, 3):
            made[at:at] = draw.choice(TOKENS)
        elif what == 4:
            made[at:to] = draw.choice(TOKENS)
        elif what == 5:
            made[at:at] = made[to : to + draw.choice((1, 20, 200))]
        elif what == 6:
            del made[at:]
        else:
            lines = bytes(made).split(b"\n")
            draw.shuffle(lines)
            made[:] = b"\n".join(lines)
    if draw.random() < 0.02:
        made[:] = bytes(made).decode("latin-1").encode(draw.choice(("utf-16", "utf-32", "utf-16-le")))
    return bytes(made)


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


def fuzz(reader: str, count: int, seed: int, folder: Path, keep: Path | None = None) -> Counter[str]:
    """Read mutated samples; return how many were read, refused and not recognised.

    Raises
    ------
    AssertionError
        With seed and number of the input, at the first that came out as anything else.
    """
    draw = random.Random(f"{reader} {seed}")  # noqa: S311
    sample = SAMPLES[reader]()
    module = formats._module(formats.FORMATS[reader])
    told: Counter[str] = Counter()
    for name in sample:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        whole = number % 50 == 0
        for name, data in sample.items():
            (folder / name).write_bytes(data if whole or draw.random() < 0.3 else mutated(data, draw))
        path = folder if len(sample) > 1 and number % 3 else folder / draw.choice(list(sample))
        try:
            known = module.recognise(path, formats.head_of(path))
            found = module.read(path)
            check(found)
            told["read" if known else "read, not recognised"] += 1
        except UserError as error:
            text = str(error)
            told["refused" if known else "not recognised"] += 1
            if not text.startswith(str(folder)) or not text.isprintable() or whole:
                raise AssertionError(f"{reader}, seed {seed}, input {number}: {text!r}") from error
        except Exception as error:
            if keep is not None:
                for name in sample:
                    (keep / f"{reader}-{number}-{Path(name).name}").write_bytes((folder / name).read_bytes())
            raise AssertionError(f"{reader}, seed {seed}, input {number}: {type(error).__name__}: {error}") from error
    return told


def main() -> None:
    """Print a line a reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=list(SAMPLES))
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    for reader in [args.reader] if args.reader else SAMPLES:
        began = time.perf_counter()
        quick = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108, files in memory
        with tempfile.TemporaryDirectory(dir=quick) as folder:
            told = fuzz(reader, args.count, args.seed, Path(folder), args.keep)
        seconds = time.perf_counter() - began
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{reader:<14} {args.count} inputs, {seconds:.0f} s, peak {peak_mb:.0f} MB: {dict(told)}", flush=True)


if __name__ == "__main__":
    main()
