"""The command check. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.common import add_columns, number_of, print_json, read_runs

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers

_EXITS = "Exit code: 0 healthy, or notes and warnings only; 1 a finding is an error; 2 a mistake in the call."


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "check", help="look at the health of runs before fitting them", description=run.__doc__, epilog=_EXITS
    )
    add_columns(parser)
    parser.add_argument(
        "--effect",
        type=number_of,
        metavar="D",
        help="difference of pass rates that the evaluations are to tell (default: half of each run's gain)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("-o", "--output", type=Path, metavar="FIG.PNG", help="also draw one run: png, svg or pdf")
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at the updates, evaluations, events and clock of runs; name figure, place and the field to change."""
    from analysis.checks.checking import check
    from analysis.plots.output import refuse_unless_new, save
    from scalerl.runlog import UserError

    if args.output is not None:
        refuse_unless_new(args.output, args.force, endings=(".png", ".svg", ".pdf"))
    runs = read_runs(args)
    if args.output is not None and len(runs) > 1:
        raise UserError(f"-o {args.output}: the figure holds one run, and {len(runs)} were read; name one of them")
    health = check(runs, x=args.x, effect=args.effect)
    if args.json:
        print_json(health.to_dict())
    else:
        print(health)
    if args.output is not None:
        from analysis.plots.health_plots import plot_health

        save(plot_health(health).axes[0], args.output, force=args.force)
        if not args.json:
            print(f"wrote {args.output}")
    return health.exit_code
