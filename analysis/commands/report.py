"""The command report. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from analysis.commands.common import add_output, add_reading, exit_code, fit_runs, number_of

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    report = subparsers.add_parser("report", help="write a report in one HTML file", description=run.__doc__)
    add_reading(report)
    add_output(report, "report.html", "file to write")
    report.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="2x|C",
        help="compute to forecast and to compare at; repeatable (default: 2x and 4x, and what all have reached)",
    )
    report.add_argument(
        "--until", metavar="2x|C", help="compute that stop-or-go and the ranking look to, or a multiple (default: 2x)"
    )
    report.add_argument(
        "--seed-sd",
        type=number_of,
        metavar="SD",
        help="standard deviation of A between seeds, where a recipe has one seed",
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write one self-contained HTML file: what to do in three sentences, and all that it rests on."""
    from analysis.plots.output import refuse_unless_new
    from analysis.reports.reporting import write_report

    refuse_unless_new(args.output, args.force, endings=(".html", ".htm"))
    fits = fit_runs(args)
    comparison = write_report(
        fits,
        args.output,
        force=args.force,
        extend=args.extend,
        at=args.at,
        until=args.until,
        seed_sd=args.seed_sd,
    )
    if comparison is not None:
        print(comparison)
    print(f"wrote {args.output}")
    return exit_code(fits)
