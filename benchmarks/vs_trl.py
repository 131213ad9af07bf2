"""CPU-seconds of a training step beside TRL's GRPOTrainer: same checkpoint, prompts, batch and loss, one pinned core.

Run ``python -m benchmarks.vs_trl [--repeat 3]`` from the repository's root, with ``pip install trl==1.16.0``. Every
side is a process of its own; sides alternate, TRL with each of its micro-batch sizes. 512 completions a step (32
prompts x 16), on-policy, steps 5 to 24; what is compared is the median over steps of process CPU-seconds, and of that
the median over repetitions, TRL at its best size. Start-up (process start to the first step) is printed apart. The
comparison is refused where mean completion lengths differ by more than 10 %: then the two did not do the same work.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

FIRST, LAST = 5, 24
PROMPTS, GENERATIONS, LONGEST = 32, 16, 50
LEARNING_RATE = 1e-4
TRL_SIZES = (128, 256, 512)
BARS = {"all prompts": (2.0, 2.5), "zero-variance filter": (2.8, 3.3)}
MODEL = "data/checkpoints/chain"
RESULTS = Path("benchmarks/results/vs_trl.csv")


def ours(folder: Path, *, filtered: bool) -> dict[str, Any]:
    """Train our side and return its figures a step."""
    from scalerl.config import load_config
    from scalerl.runlog import read_log
    from scalerl.start import train

    config = load_config(
        ["grpo", "demo"],
        [
            f"batch_size={PROMPTS * GENERATIONS}",
            f"generations_per_prompt={GENERATIONS}",
            f"zero_variance_filtering={str(filtered).lower()}",
            *("off_policy=pipeline", "off_policy_steps=0", f"learning_rate={LEARNING_RATE}", f"max_steps={LAST}"),
            *("eval_every=1000", "eval_prompts=8", "eval_generations=1", "checkpoint_every=1000"),
        ],
    )
    train(config, str(folder / "train.json"), str(folder / "eval.json"), str(folder / "run"))
    rows = [row for row in read_log(folder / "run" / "log.jsonl").rows if row["kind"] == "step"]
    before = [0.0, *(row["cpu_s"] for row in rows)]
    return {
        "cpu_s": [row["cpu_s"] - b for row, b in zip(rows, before, strict=False)],
        "length": [row["length_mean"] for row in rows],
        "reward": [row["reward_sum"] / row["reward_count"] for row in rows],
        "phases": {
            name: statistics.median(row[name] for row in rows[FIRST - 1 :]) for name in ("generate_s", "train_s")
        },
        "flops": statistics.median(b["flops"] - a["flops"] for a, b in pairwise(rows[FIRST - 2 :])),
    }


def trl(folder: Path, micro_batch: int) -> dict[str, Any]:
    """Train TRL's side with one micro-batch size and return its figures a step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from scalerl.tasks import get_task

    torch.set_num_threads(1)
    task = get_task("chain")
    items = json.loads((folder / "train.json").read_text())
    lengths: list[float] = []
    rewards: list[float] = []

    def right(prompts: list[str], completions: list[str], answer: list[str], **more: Any) -> list[float]:
        marks = [
            1.0 if task.score({"prompt": p, "answer": a}, c) else -1.0
            for p, c, a in zip(prompts, completions, answer, strict=True)
        ]
        rewards.append(sum(marks) / len(marks))
        ids = more["completion_ids"]
        lengths.append(sum(map(len, ids)) / len(ids))
        return marks

    clock: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not clock:
                clock.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(time.process_time())

    total = PROMPTS * GENERATIONS
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=total // micro_batch,
        num_generations=GENERATIONS,
        max_completion_length=LONGEST,
        temperature=1.0,
        beta=0.0,
        epsilon=0.2,
        loss_type="grpo",
        scale_rewards="group",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        adam_beta2=0.95,
        adam_epsilon=1e-15,
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_steps=LAST,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1000,
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        reward_funcs=right,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": item["prompt"], "answer": item["answer"]} for item in items]),
        callbacks=[Clock()],
    )
    trainer.train()
    return {
        "cpu_s": [b - a for a, b in pairwise(clock)],
        "length": lengths,
        "reward": rewards,
        "start_s": clock[0],
    }


def side(name: str, folder: Path) -> dict[str, Any]:
    """Run a side in a process of its own on one core, and return its medians over the counted steps."""
    command = [sys.executable, "-m", "benchmarks.vs_trl", "--side", name, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    raw = json.loads(done.stdout.splitlines()[-1])
    figures = {key: statistics.median(raw[key][FIRST - 1 : LAST]) for key in ("cpu_s", "length", "reward")}
    rest = {key: value for key, value in raw.items() if key not in figures}
    return {"side": name, **figures, **rest}


def matrix_rate() -> float:
    """Floating-point operations a second of a 1024-square product on one thread, the best of 20."""
    import torch

    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        began = time.process_time()
        torch.mm(a, a)
        times.append(time.process_time() - began)
    return 2 * 1024**3 / min(times)


def main() -> None:
    """Print one line a run, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    if args.side:
        kind, _, size = args.side.partition("-")
        result = trl(args.folder, int(size)) if kind == "trl" else ours(args.folder, filtered=size == "filtered")
        print(json.dumps(result))
        return

    from scalerl.data import prepare

    names = ["ours-all", "ours-filtered", *(f"trl-{size}" for size in TRL_SIZES)]
    runs: list[dict[str, Any]] = []
    print("side           CPU-s/step  mean length  mean reward  more", flush=True)
    for _ in range(args.repeat):
        for name in names:
            with tempfile.TemporaryDirectory() as scratch:
                prepare("chain", scratch)
                runs.append(side(name, Path(scratch)))
            r = runs[-1]
            more = {key: value for key, value in r.items() if key in {"phases", "flops", "start_s"}}
            print(f"{name:<14} {r['cpu_s']:<11.3f} {r['length']:<12.2f} {r['reward']:<12.3f} {more}", flush=True)
    sys.exit(0 if report(runs) else 1)


def report(runs: list[dict[str, Any]]) -> bool:
    """Print the ratios and keep the runs; return whether every bar holds."""
    middle = {
        name: {key: statistics.median(r[key] for r in runs if r["side"] == name) for key in ("cpu_s", "length")}
        for name in dict.fromkeys(r["side"] for r in runs)
    }
    best = min((name for name in middle if name.startswith("trl")), key=lambda name: middle[name]["cpu_s"])
    rate = matrix_rate()
    flops = statistics.median(r["flops"] for r in runs if r["side"] == "ours-all")
    print(f"TRL is fastest with micro-batches of {best.removeprefix('trl-')}: {middle[best]['cpu_s']:.3f} CPU-s a step")
    print(f"floor by floating-point operations, all prompts: {flops / rate:.3f} CPU-s at {rate / 1e9:.0f} GFLOP/s")
    fine = True
    for label, name in (("all prompts", "ours-all"), ("zero-variance filter", "ours-filtered")):
        if abs(middle[name]["length"] / middle[best]["length"] - 1) > 0.1:
            print(f"{label}: refused, mean lengths {middle[name]['length']:.1f} and {middle[best]['length']:.1f}")
            return False
        ratio, (bar, target) = middle[best]["cpu_s"] / middle[name]["cpu_s"], BARS[label]
        verdict = "holds" if ratio >= bar else "MISSED"
        print(f"{label:<21} {ratio:.2f} times as fast as TRL; bar {bar} {verdict}, target {target}")
        fine &= ratio >= bar
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["side", "cpu_s", "length", "reward"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(runs)
    return fine


if __name__ == "__main__":
    main()
