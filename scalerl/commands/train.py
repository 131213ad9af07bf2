"""The command train. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from scalerl.commands.common import add_set, complain, place
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from analysis.fits.results import Fit
    from scalerl.commands.common import Subparsers
    from scalerl.config import ScaleRLConfig


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "train", help="train a recipe and log GPU-hours and pass rate", description=run.__doc__
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="F",
        help="YAML file, or name of a recipe or size that scalerl recipes lists; repeat to lay one over another",
    )
    parser.add_argument("--train-data", metavar="F", help="prompts to train on, as scalerl prepare writes them")
    parser.add_argument("--eval-data", metavar="F", help="held-out prompts, which give the pass rate")
    parser.add_argument("--output-dir", required=True, type=place, metavar="DIR", help="run folder to make")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --output-dir from its latest checkpoint, if there is one; the other options may be "
        "left out then, and --set may raise its limits",
    )
    parser.add_argument("--log-file", metavar="F.csv", help="keep the evaluations as CSV, too")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the order of prompts and of the sampling; as --set seed=N"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print memory, seconds a step and GPU-hours to the end, and write nothing",
    )
    add_set(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train a recipe and log GPU-hours and pass rate, or go on with a run, or say what one would take."""
    from scalerl.config import load_config
    from scalerl.ranks import rank, world_size
    from scalerl.runlog import HEADER_FILE

    if rank() and args.dry_run:  # the first process says it
        return 0
    if rank():  # one process says what is wrong with a call, not all; what ends this one meanwhile does so at once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from scalerl.sharded import follow

        follow()
        return 0

    seed = [] if args.seed is None else [f"seed={args.seed}"]
    goes_on = args.resume and os.path.lexists(f"{args.output_dir}/{HEADER_FILE}")
    whole = not goes_on or args.config
    config = load_config(args.config, [*args.set, *seed]) if whole else None
    if not goes_on and not (args.train_data and args.eval_data):
        found = f"there is no run in {args.output_dir} to go on with; " if args.resume else ""
        raise UserError(f"{found}a new run needs --train-data and --eval-data")
    if config is not None:
        config.trainable()
    _refuse_missing(args, config, [*args.set, *seed])
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
                    say=complain,
                )
            elif config is not None:
                folder = train(
                    config,
                    args.train_data,
                    args.eval_data,
                    args.output_dir,
                    log_file=args.log_file,
                    report=display,
                    say=complain,
                )
    except KeyboardInterrupt:
        again = "scalerl" if world_size() == 1 else "torchrun ... -m scalerl"
        complain(
            "interrupted"
            + (f"; go on with: {again} train --resume --output-dir {args.output_dir}" if display.told else "")
        )
        return 130
    add_curves(folder)
    print(f"wrote {folder}; look at it with: scalerl fit {folder}")
    return 0


def _refuse_missing(args: argparse.Namespace, config: ScaleRLConfig | None, settings: list[str]) -> None:
    """Raise `UserError` if data or model are not there; importing the trainer can take a minute on a busy machine."""
    from scalerl.config import ConfigError, change_config
    from scalerl.places import read_latest, refuse_gone_model, refuse_no_file, refuse_no_model

    refuse_no_file(args.train_data, args.eval_data)
    if config is None:
        begun = read_latest(Path(args.output_dir)).get("config")
        try:
            config = change_config(begun, settings) if isinstance(begun, dict) else None
        except ConfigError:
            return  # `resume` knows better what to say
        if config is not None:
            refuse_gone_model(config.model_name)
    elif not (args.resume or args.dry_run):  # an estimate takes a size for a model
        refuse_no_model(config.model_name)


def add_curves(folder: Path) -> None:
    """Fit the run and add what the fit says to the model cards; here, for the trainer does not know the analysis."""
    import analysis
    from scalerl.modelcard import add_curve
    from scalerl.runlog import BEST_FOLDER, MODEL_FOLDER

    try:
        said = "\n".join(curve_text(fit) for fit in analysis.fit(analysis.read(folder)))
    except UserError as error:
        said = f"There is none: {error}"
    for name in (MODEL_FOLDER, BEST_FOLDER):
        add_curve(folder / name, said)


def curve_text(fit: Fit) -> str:
    """Return a fit as it prints, but a parameter that it does not identify without a figure: a card is read alone.

    An `A` that is open above stays: it is printed as a lower limit, and that is known.
    """
    from analysis.fits.tables import NEW_PROMPTS, OPEN_ABOVE, cells

    unknown = {name for name, p in fit.params.items() if not p.identified and cells(fit, name)[1] != OPEN_ABOVE}
    lines = []
    for line in repr(fit).splitlines():
        name = next((name for name in unknown if line.startswith(f"  {name:<6} ")), None)
        if name is not None:
            lines.append(f"  {name:<6} {'unknown':<40} {cells(fit, name)[2]}")
        elif "A" not in unknown or not line.startswith(f"  {NEW_PROMPTS}"):
            lines.append(line)
    return "\n".join(lines)
