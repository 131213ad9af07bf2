"""The command demo. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scalerl.commands.common import natural

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "demo", help="train two small recipes, fit, compare, and write a report", description=run.__doc__
    )
    parser.add_argument("--output", metavar="DIR", help="folder to make (default: runs/demo-seedN)")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of prompts, order and sampling (0)")
    parser.add_argument(
        "--steps", type=natural, metavar="N", help="updates of each recipe (160); fewer for a quick look"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train two small recipes side by side, fit and compare them, and write a report: minutes on two CPU cores."""
    from scalerl.cli import main  # the demo is what a person would type
    from scalerl.demo import train_demo

    runs = train_demo(args.output, seed=args.seed, steps=args.steps)
    paths, folder = [str(run) for run in runs], runs[0].parent
    print()
    code: int = main(["fit", *paths])
    main(["plot", *paths, "-o", str(folder / "curves.png")])
    main(["report", *paths, "-o", str(folder / "report.html")])
    print("next: open the report in a browser, or go on with a run:")
    print(f"  scalerl train --resume --output-dir {runs[0]} --set max_steps=320")
    return code
