"""The command line. It alone knows both halves: training here, analysis in `analysis.cli`.

Heavy packages are imported inside the command that needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

import scalerl
from analysis.cli import add_commands
from scalerl.runlog import UserError

_TRAIN_PACKAGES = {"torch", "transformers", "safetensors", "tokenizers", "pydantic", "yaml", "tqdm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 (the data allow no result), 2 (a mistake in the call) or 130 (interrupted)."""
    parser = _parser()
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of runs may hold what the terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    # A terminated run ends as an interrupted one does: with its log whole.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(args.run(args))
    except UserError as error:
        if args.debug:
            raise
        _complain(str(error))
        return 2
    except BrokenPipeError:  # the reader of a pipe had enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # whatever of files was not foreseen, a full disk above all
        if args.debug:
            raise
        _complain(f"{error.filename or 'file'}: {error.strerror or error}")
        return 2
    except ModuleNotFoundError as error:
        if args.debug or error.name is None or error.name.split(".")[0] not in _TRAIN_PACKAGES:
            raise
        _complain(
            f"this command needs the trainer, and {error.name} is missing: in the repository pip install '.[train]'"
        )
        return 2
    except KeyboardInterrupt:
        print("scalerl: interrupted", file=sys.stderr)
        return 130


def _complain(message: str) -> None:
    """Print one line on stderr for each line of a message, without what could steer a terminal."""
    for line in message.splitlines():
        print("scalerl: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)


def _natural(text: str) -> int:
    """Parse a whole number from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _place(text: str) -> str:
    """Parse the name of a folder, for argparse; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scalerl",
        description="Scaling curves for reinforcement learning of language models: train, fit, compare.",
    )
    parser.add_argument("--version", action="version", version=f"scalerl {scalerl.__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback instead of one line")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="train two small recipes, fit, compare, and write a report")
    demo.add_argument("--output", metavar="DIR", help="folder to make (default: runs/demo-seedN)")
    demo.add_argument("--seed", type=_natural, default=0, metavar="N")
    demo.add_argument("--steps", type=_natural, metavar="N", help="updates a recipe, fewer for a quick look")
    demo.set_defaults(run=_demo)

    prepare = commands.add_parser("prepare", help="write train.json, eval.json and test.json of a task")
    prepare.add_argument("--task", required=True, metavar="NAME", help="chain or addition")
    prepare.add_argument("--output", required=True, type=_place, metavar="DIR")
    prepare.add_argument("--sizes", type=int, nargs=3, default=(1500, 256, 256), metavar=("TRAIN", "EVAL", "TEST"))
    prepare.add_argument("--seed", type=_natural, default=0, metavar="N")
    prepare.set_defaults(run=_prepare)

    warmup = commands.add_parser("warmup", help="make a small starting checkpoint for a task (4 minutes)")
    warmup.add_argument("--task", required=True, metavar="NAME", help="chain or addition")
    warmup.add_argument("--output", required=True, type=_place, metavar="DIR")
    warmup.add_argument("--seed", type=_natural, default=0, metavar="N")
    warmup.add_argument("--layers", type=int, default=2, metavar="N")
    warmup.add_argument("--width", type=int, default=64, metavar="N")
    warmup.set_defaults(run=_warmup)

    train = commands.add_parser("train", help="train a recipe and log GPU-hours and pass rate")
    train.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="F",
        help="YAML file or the name of a shipped recipe or size; repeat to lay one over another",
    )
    train.add_argument("--train-data", metavar="F")
    train.add_argument("--eval-data", metavar="F")
    train.add_argument("--output-dir", required=True, type=_place, metavar="DIR", help="run folder to make")
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output-dir from its latest checkpoint, if there is one; the other options may be "
        "left out then, and --set may raise its limits",
    )
    train.add_argument("--log-file", metavar="F.csv", help="keep the evaluations as CSV, too")
    train.add_argument("--seed", type=int, metavar="N")
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="print memory, seconds a step and GPU-hours to the end, and write nothing",
    )
    train.add_argument("--set", action="append", default=[], metavar="key=value", help="change one field; repeatable")
    train.set_defaults(run=_train)

    recipes = commands.add_parser("recipes", help="list the recipes and sizes that ship")
    recipes.add_argument("--fields", action="store_true", help="list every field of a configuration instead")
    recipes.set_defaults(run=_recipes)

    add_commands(commands)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from scalerl.demo import train_demo

    runs = train_demo(args.output, seed=args.seed, steps=args.steps)
    paths, folder = [str(run) for run in runs], runs[0].parent
    print()
    code = main(["fit", *paths])
    main(["plot", *paths, "-o", str(folder / "curves.png")])
    main(["report", *paths, "-o", str(folder / "report.html")])
    return code


def _prepare(args: argparse.Namespace) -> int:
    from scalerl.data import prepare

    sizes = prepare(args.task, args.output, sizes=args.sizes, seed=args.seed)
    print(f"{args.output}: " + ", ".join(f"{split}.json {size}" for split, size in sizes.items()))
    return 0


def _warmup(args: argparse.Namespace) -> int:
    import torch

    from scalerl.warmup import warmup

    torch.set_num_threads(1)

    def show(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step} of 750  loss {loss:.3f} nats a token", file=sys.stderr, flush=True)

    made = warmup(args.task, args.output, seed=args.seed, layers=args.layers, width=args.width, progress=show)
    figures = f"{made['parameters']:.0f} parameters, {made['loss']:.3f} nats a token, {made['cpu_s']:.0f} CPU-s"
    print(f"{args.output}: {figures}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from scalerl.config import load_config
    from scalerl.runlog import HEADER_FILE

    seed = [] if args.seed is None else [f"seed={args.seed}"]
    goes_on = args.resume and os.path.lexists(f"{args.output_dir}/{HEADER_FILE}")
    whole = not goes_on or args.config
    config = load_config(args.config, [*args.set, *seed]) if whole else None
    if not goes_on and not (args.train_data and args.eval_data):
        found = f"there is no run in {args.output_dir} to go on with; " if args.resume else ""
        raise UserError(f"{found}a new run needs --train-data and --eval-data")
    if config is not None:
        config.trainable()
    if args.dry_run:
        if goes_on or config is None:
            raise UserError(
                f"--dry-run: {args.output_dir} holds a run already; leave --resume out to estimate a new one"
            )
        from scalerl.estimate import estimate

        print(estimate(config, args.train_data, args.eval_data))
        return 0

    from scalerl.display import Display
    from scalerl.start import resume, train

    try:
        with Display() as display:
            if goes_on:
                folder = resume(
                    args.output_dir,
                    [*args.set, *seed],
                    config=config,
                    train_data=args.train_data,
                    eval_data=args.eval_data,
                    log_file=args.log_file,
                    report=display,
                    say=_complain,
                )
            elif config is not None:
                folder = train(
                    config,
                    args.train_data,
                    args.eval_data,
                    args.output_dir,
                    log_file=args.log_file,
                    report=display,
                    say=_complain,
                )
    except KeyboardInterrupt:
        _complain(
            "interrupted"
            + (f"; go on with: scalerl train --resume --output-dir {args.output_dir}" if display.told else "")
        )
        return 130
    print(f"wrote {folder}; look at it with: scalerl fit {folder}")
    return 0


def _recipes(args: argparse.Namespace) -> int:
    from scalerl.config import ScaleRLConfig, recipes

    if args.fields:
        for name, field in ScaleRLConfig.model_fields.items():
            print(f"{name} = {field.default!r}" + (f"\n    {field.description}" if field.description else ""))
    else:
        for name, line in recipes().items():
            print(f"{name:<26} {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
