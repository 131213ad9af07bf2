"""The command prepare. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scalerl.commands.common import natural, place

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser("prepare", help="write train.json, eval.json and test.json of a task")
    parser.add_argument("--task", required=True, metavar="NAME", help="chain or addition")
    parser.add_argument("--output", required=True, type=place, metavar="DIR")
    parser.add_argument("--sizes", type=int, nargs=3, default=(1500, 256, 256), metavar=("TRAIN", "EVAL", "TEST"))
    parser.add_argument("--seed", type=natural, default=0, metavar="N")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write train.json, eval.json and test.json of a task."""
    from scalerl.data import prepare

    sizes = prepare(args.task, args.output, sizes=args.sizes, seed=args.seed)
    print(f"{args.output}: " + ", ".join(f"{split}.json {size}" for split, size in sizes.items()))
    return 0
