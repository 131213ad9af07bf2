"""scalerl logs: what lies at a path, and its rows as one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.common import add_places, print_json, say_skipped

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers

TO = ("csv", "jsonl", "parquet")  # of analysis.readers.converting; a test holds them equal


def add_command(subparsers: Subparsers) -> None:
    """Add ``scalerl logs``."""
    parser = subparsers.add_parser(
        "logs",
        help="list the runs at a path, whoever logged them",
        description="List the runs at a path, whoever logged them: format, rows, compute, likely pass rates, attempts. "
        "Exit status 1: a file cannot be read, or there is no run.",
    )
    add_places(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--to", choices=TO, help="write all rows of the surviving branches as one table, with -o")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="file that --to writes")
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found, or write it."""
    from analysis.readers.listing import list_logs
    from scalerl.runlog import UserError

    if (args.to is None) != (args.output is None):
        raise UserError("--to says in which form and -o to which file; give both or neither")
    if args.output is not None:
        from analysis.plots.output import refuse_unless_new

        refuse_unless_new(args.output, args.force, endings=(f".{args.to}",))
    listing = list_logs(args.paths, format=args.format, devices=args.devices)
    if args.output is not None and listing.runs:
        from analysis.plots.output import write
        from analysis.readers.converting import convert

        write(args.output, convert(listing.runs, args.to), force=args.force)
    if args.json:
        print_json(listing.to_dict())
    elif listing.runs or listing.refused:
        print(listing)
        if args.output is not None and listing.runs:
            print(f"wrote {args.output}")
    say_skipped(listing.skipped)
    return 0 if listing.runs and not listing.refused else 1
