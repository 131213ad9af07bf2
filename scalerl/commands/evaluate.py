"""The command evaluate. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalerl.commands.common import complain, natural
from scalerl.runlog import HEADER_FILE, LOG_FILE, UserError, refuse_if_held

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers
    from scalerl.config import ScaleRLConfig
    from scalerl.saved import Saved


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser("evaluate", help="pass@k and majority@k of a saved model, with intervals")
    parser.add_argument(
        "--model-path",
        required=True,
        metavar="M",
        help="model directory (a run's model/ or any other), checkpoints/step-N of a run, or a .pt file with --base",
    )
    parser.add_argument("--eval-data", required=True, action="append", metavar="F", help="repeat for several data sets")
    parser.add_argument("--output-file", required=True, type=Path, metavar="F.json")
    parser.add_argument("--k", type=int, metavar="N", help="completions a prompt (default: eval_generations)")
    parser.add_argument("--seed", type=natural, metavar="N", help="of the sampling noise (default: eval_seed)")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="completions decoded at once (default: slots, at most 512)"
    )
    parser.add_argument("--base", metavar="DIR", help="model directory that a file of weights is put onto")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="F",
        help="lengths, task and precision; by default those of the run that the model lies in, or of --run",
    )
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="change one field; repeatable")
    parser.add_argument("--run", type=Path, metavar="DIR", dest="folder", help="add the scores to the log of this run")
    parser.add_argument("--step", type=natural, metavar="N", help="with --run: update that the model is from")
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate a saved model and write mean@k, pass@k and majority@k with intervals."""
    from analysis.plots.output import refuse_unless_new, write
    from scalerl.outofmemory import memory_advice
    from scalerl.results import evaluate_saved

    refuse_unless_new(args.output_file, args.force, endings=(".json",))
    if args.output_file.name == HEADER_FILE and (args.output_file.parent / LOG_FILE).exists():
        raise UserError(f"--output-file: {args.output_file} belongs to the run in {args.output_file.parent}")
    if args.folder is not None:
        refuse_if_held(args.folder)
    saved, config = _load(args)
    with memory_advice(config):
        found = evaluate_saved(saved, config, args.eval_data, run=args.folder, step=args.step, say=complain)
    write(args.output_file, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode(), force=args.force)
    print(_table(found))
    print(f"wrote {args.output_file}" + (f" and {len(found['data'])} rows in {args.folder}" if args.folder else ""))
    return 0


def _load(args: argparse.Namespace) -> tuple[Saved, ScaleRLConfig]:
    """Load the policy, with the configuration that is named, that it was trained with, or that it has room for."""
    import torch

    from scalerl.config import load_config
    from scalerl.process import prepare_process
    from scalerl.results import fitting_config, run_config
    from scalerl.saved import load_saved, run_of

    given = {"eval_generations": args.k, "eval_seed": args.seed, "temperature": args.temperature, "slots": args.batch}
    settings = [*args.set, *(f"{name}={value}" for name, value in given.items() if value is not None)]
    home = args.folder or run_of(args.model_path)
    config = None
    if args.config:
        config = load_config(args.config, settings)
    elif home is not None:
        config = run_config(home, settings)
    threads, wanted = (config.threads, config.device) if config else (1, "auto")
    prepare_process(threads)
    device = wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float64" if config is not None and config.dtype == "float64" else "float32"
    saved = load_saved(args.model_path, base=args.base, device=device, dtype=dtype)
    if config is None:
        config = fitting_config(saved.policy, args.eval_data, settings)
    return saved, config


def _table(found: dict[str, Any]) -> str:
    """Return the lines to print."""
    k = found["k"]
    lines = []
    for data in found["data"]:
        about = (
            f"{data['n_prompts']} prompts x {k}, {data['length_mean']:.1f} tokens, {data['truncation_rate']:.1%} cut"
        )
        lines.append(f"{data['name']}   {about}")
        scores = {f"mean@{k}": data["mean_at_k"]}
        scores |= {f"pass@{n}": score for n, score in data["pass_at_k"].items() if n != "1"}  # pass@1 is mean@k
        if data["majority_at_k"] is not None:
            scores[f"majority@{k}"] = data["majority_at_k"]
        lines += [f"  {name:<12}{s['value']:.3f}   {s['lo']:.3f} - {s['hi']:.3f}" for name, s in scores.items()]
        if data["majority_missing"]:
            lines.append(f"  no majority@{k}: {data['majority_missing']}")
    return "\n".join([*lines, "limits hold at 95 % for prompts like these"])
