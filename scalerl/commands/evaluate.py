"""The command evaluate. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import datetime as dt
import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalerl.commands.common import add_set, complain, natural
from scalerl.runlog import HEADER_FILE, LOG_FILE, UserError, append_downstream, read_header, refuse_if_held

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers
    from scalerl.config import ScaleRLConfig
    from scalerl.saved import Saved


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "evaluate", help="pass@k and majority@k of a saved model, with intervals", description=run.__doc__
    )
    parser.add_argument(
        "--model-path",
        required=True,
        nargs="+",
        metavar="M",
        help="model directory (a run's model/ or any other), checkpoints/step-N of a run, or a .pt file with --base; "
        "several, or a pattern as 'RUN/checkpoints/*', are evaluated one after the other",
    )
    parser.add_argument(
        "--eval-data",
        required=True,
        action="append",
        metavar="F",
        help="prompts and answers; repeat for several data sets",
    )
    parser.add_argument("--output-file", required=True, type=Path, metavar="F.json", help="file to write")
    parser.add_argument("--k", type=int, metavar="N", help="completions a prompt (default: eval_generations)")
    parser.add_argument("--seed", type=natural, metavar="N", help="of the sampling noise (default: eval_seed)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="of the sampling (default: that of the configuration)"
    )
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
    add_set(parser)
    parser.add_argument("--run", type=Path, metavar="DIR", dest="folder", help="add the scores to the log of this run")
    parser.add_argument("--step", type=natural, metavar="N", help="with --run: update that the model is from")
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate a saved model and write mean@k, pass@k and majority@k with intervals."""
    from analysis.plots.output import refuse_unless_new, write

    refuse_unless_new(args.output_file, args.force, endings=(".json",))
    if args.output_file.name == HEADER_FILE and (args.output_file.parent / LOG_FILE).exists():
        raise UserError(f"--output-file: {args.output_file} belongs to the run in {args.output_file.parent}")
    paths, asked, scored = _models(args), "", []
    _refuse_missing(args, paths)
    from scalerl.outofmemory import memory_advice  # heavy, and what is not there is told before
    from scalerl.results import evaluate_saved, noise_of

    for line in _not_held_out(args, paths):
        complain(line)
    for path in paths:
        saved, config = _load(args, path)
        if (line := _asked(saved, config)) != asked:
            print(asked := line, flush=True)
        with memory_advice(config):
            at: dict[str, Any] = {"run": args.folder, "step": args.step}
            if not args.config:  # of another configuration no run has counts: all models have the same noise
                at["sampling_step"] = noise_of(saved, _home(args, path))
            one = evaluate_saved(saved, config, args.eval_data, **at, say=complain)
        if len(paths) > 1:
            print(f"{path}:", flush=True)
        print(_table(one.found), flush=True)
        scored.append(one)
    print("limits hold at 95 % for prompts like these")
    found = [one.found for one in scored]
    whole = found[0] if len(paths) == 1 else {"schema": "evaluations/1", "evaluations": found}
    write(args.output_file, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode(), force=args.force)
    rows = [row for one in scored for row in one.rows]
    if args.folder is not None:  # of all models or, where one of them could not be scored, of none
        try:
            append_downstream(args.folder, rows)
        except UserError as error:
            raise UserError(f"{error}; no row was added, and the scores stand in {args.output_file}") from error
    print(f"wrote {args.output_file}" + (f" and {len(rows)} rows in {args.folder}" if args.folder else ""))
    return 0


def _refuse_missing(args: argparse.Namespace, paths: list[str]) -> None:
    """Raise `UserError` if a model, a data file or the run is not there, or a process works on the run."""
    from scalerl.places import refuse_no_file, refuse_no_model

    for path in paths:
        if not Path(path).exists():
            refuse_no_model(path)
    if args.base is not None:
        refuse_no_model(args.base)
    refuse_no_file(*args.eval_data)
    if args.folder is not None:
        read_header(args.folder)
        refuse_if_held(args.folder)


def _home(args: argparse.Namespace, path: str) -> Path | None:
    """Return the run that was named, or that a model lies in."""
    from scalerl.saved import run_of

    named: Path | None = args.folder
    return named or run_of(path)


def _not_held_out(args: argparse.Namespace, paths: list[str]) -> list[str]:
    """Return what is to be said of prompts that a run trained on; it may be meant, so nothing is refused."""
    from scalerl.data import check_apart, load_data
    from scalerl.preparing.readers import DataError

    said = []
    for file in dict.fromkeys(_trained_on(home) for path in paths if (home := _home(args, path)) is not None):
        if file is None:
            continue
        try:
            train = load_data(file)
        except UserError as error:
            said.append(f"{error}; whether these prompts are held out is not known")
            continue
        for path in args.eval_data:
            evaluation = load_data(path)
            try:
                check_apart(train, evaluation)
            except DataError as error:
                said.append(f"warning: {error}")
    return said


def _trained_on(home: Path) -> str | None:
    """Return the file of a run's train data, where it says one."""
    from scalerl.places import read_latest

    try:
        data = read_latest(home).get("data")
    except UserError:  # a model that lies beside a run.json of something else
        return None
    trained = data.get("train") if isinstance(data, dict) else None
    file = trained.get("file") if isinstance(trained, dict) else None
    return file if isinstance(file, str) else None


def _models(args: argparse.Namespace) -> list[str]:
    """Return the models that were named, patterns replaced by what they match; unfinished checkpoints are none."""
    from scalerl.runlog import UserError

    named = []
    for given in args.model_path:
        pattern = any(sign in given for sign in "*?[") and not Path(given).exists()
        found = sorted(glob.glob(given)) if pattern else [given]  # noqa: PTH207 - it may begin at the root
        matched = [path for path in found if not (pattern and path.endswith(".part"))]
        if not matched:
            raise UserError(f"--model-path: nothing matches {given}")
        named += matched
    paths = list(dict.fromkeys(named))
    if len(paths) > 1 and args.step is not None:
        raise UserError(f"--step {args.step}: is the update of one model, and {len(paths)} are named")
    return paths


def _refuse_without_reward(args: argparse.Namespace, path: str) -> None:
    """Raise `UserError` where nothing says what scores: a default would find every answer wrong, in silence."""
    from scalerl.runlog import UserError

    if not any(setting.partition("=")[0].strip() in ("reward", "task") for setting in args.set):
        raise UserError(
            f"{path}: lies in no run, so nothing says what scores its completions; give the configuration "
            "with --config F.yaml, or --set reward=NAME, or --set task=NAME"
        )


def _asked(saved: Saved, config: ScaleRLConfig) -> str:
    """Return the line that says what is sampled and what scores it."""
    from scalerl.scoring import scored_by

    policy = saved.policy.formatted(config.prompt_format, config.system_prompt)
    forced = "thinking ended by force" if config.length_control == "interruption" else "nothing forced"
    kind = "chat" if policy.chat else "plain"
    return (
        f"scored by: {scored_by(config)}; {kind} prompts of {config.prompt_tokens} tokens at most, "
        f"completions of {config.thinking_tokens} + {config.solution_tokens} tokens, {forced}"
    )


def _load(args: argparse.Namespace, path: str) -> tuple[Saved, ScaleRLConfig]:
    """Load the policy, with the configuration that is named, that it was trained with, or that it has room for."""
    from scalerl.config import load_config
    from scalerl.policy import device_of
    from scalerl.process import prepare_process
    from scalerl.results import fitting_config, policy_config, run_config
    from scalerl.saved import load_saved

    given = {"eval_generations": args.k, "eval_seed": args.seed, "temperature": args.temperature, "slots": args.batch}
    settings = [*args.set, *(f"{name}={value}" for name, value in given.items() if value is not None)]
    home = _home(args, path)
    config = None
    if args.config:
        config = load_config(args.config, settings)
    elif home is not None:
        config = run_config(home, settings)
    else:
        config = policy_config(Path(path), settings)
    threads, wanted = (config.threads, config.device) if config else (1, "auto")
    prepare_process(threads)
    dtype = "float32" if config is None else config.master_dtype
    saved = load_saved(path, base=args.base, device=device_of(wanted), dtype=dtype)
    if home is not None:
        saved = saved._replace(policy=saved.policy._replace(clock=_clock(home)))
    if config is None:
        _refuse_without_reward(args, path)
        config = fitting_config(saved.policy, args.eval_data, settings)
    return saved, config


def _clock(home: Path) -> dt.datetime | None:
    """Return the time that the chat template of a run is told, if it is a run of ours."""
    from scalerl.describe import clock_of

    try:
        return clock_of(read_header(home))
    except UserError:
        return None


def _table(found: dict[str, Any]) -> str:
    """Return the lines to print."""
    from scalerl.rewards import Failed

    k = found["k"]
    lines = []
    for data in found["data"]:
        about = (
            f"{data['n_prompts']} prompts x {k}, {data['length_mean']:.1f} tokens, {data['truncation_rate']:.1%} cut"
        )
        lines.append(f"{data['name']}   {about}")
        if data["reward_errors"]:
            failed = Failed(data["reward_errors"], data["n_prompts"] * k, data["reward_error"])
            lines.append(f"  warning     {failed}")
        scores = {f"mean@{k}": data["mean_at_k"]}
        scores |= {f"pass@{n}": score for n, score in data["pass_at_k"].items() if n != "1"}  # pass@1 is mean@k
        if data["majority_at_k"] is not None:
            scores[f"majority@{k}"] = data["majority_at_k"]
        lines += [f"  {name:<12}{s['value']:.3f}   {s['lo']:.3f} - {s['hi']:.3f}" for name, s in scores.items()]
        if data["majority_missing"]:
            lines.append(f"  no majority@{k}: {data['majority_missing']}")
    return "\n".join(lines)
