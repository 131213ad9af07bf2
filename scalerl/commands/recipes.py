"""The command recipes. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser("recipes", help="list the recipes and sizes that ship", description=run.__doc__)
    parser.add_argument(
        "--fields", action="store_true", help="list every field of a configuration, with its default, instead"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the recipes and sizes that ship, which --config of train takes, or every field of a configuration."""
    from scalerl.config import ScaleRLConfig, recipes

    if args.fields:
        for name, field in ScaleRLConfig.model_fields.items():
            default = field.get_default(call_default_factory=True)
            print(f"{name} = {default!r}" + (f"\n    {field.description}" if field.description else ""))
    else:
        for name, line in recipes().items():
            print(f"{name:<26} {line}")
    return 0
