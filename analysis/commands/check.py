"""The command check. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from analysis.commands.common import (
    add_columns,
    add_results,
    number_of,
    print_json,
    read_runs,
    refuse_output,
    save_figure,
)

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers

_EXITS = "Exit code: 0 healthy, or notes and warnings only; 1 a finding is an error; 2 a mistake in the call."


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "check",
        help="is a run healthy enough to be fitted, and which field to change",
        description=run.__doc__,
        epilog=_EXITS,
    )
    add_columns(parser)
    parser.add_argument(
        "--effect",
        type=number_of,
        metavar="D",
        help="difference of pass rates that the evaluations are to tell (default: half of each run's gain)",
    )
    add_results(parser, "also draw one run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at the updates, evaluations, events and clock of runs; name figure, place and the field to change."""
    from analysis.checks.checking import check
    from scalerl.runlog import UserError

    refuse_output(args)
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

        save_figure(args, plot_health(health).axes[0])
    return health.exit_code
