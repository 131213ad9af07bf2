"""Samples of text formats for `benchmarks.fuzz_readers`, and mutations of text.

What they hold is what the programs print and write that are named; the real files are in ``tests/data/logs``.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

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
