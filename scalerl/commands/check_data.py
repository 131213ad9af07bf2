"""The command check-data. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from scalerl.commands.common import add_set, natural

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "check-data",
        help="show prompts as the model sees them, lengths, and whether answers score",
        description=run.__doc__,
    )
    parser.add_argument("--data", required=True, metavar="F", help="prompts and answers, as for train")
    parser.add_argument(
        "--model", metavar="M", help="model directory or hub name; without it nothing is counted in tokens"
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="F", help="as in train: the reward and prompt_tokens are read"
    )
    add_set(parser)
    parser.add_argument("--n", type=natural, default=5, metavar="N", help="prompts to print (5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show prompts as the model sees them, their lengths, and whether the reference answers score.

    Exit status 1: the data cannot be trained on as they are.
    """
    from scalerl.config import load_config
    from scalerl.places import refuse_no_file, refuse_no_model

    config = load_config(args.config, args.set)
    if args.model:
        refuse_no_model(args.model)
    refuse_no_file(args.data)
    from scalerl.checkdata import check_data  # heavy, as the model is

    policy = None
    if args.model:
        from scalerl.policy import load_policy

        policy = load_policy(args.model)
    found = check_data(args.data, config, policy, show=args.n)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if args.json else found)
    return 0 if found.usable else 1
