"""The command report. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from analysis.commands.common import add_output, add_reading, exit_code, fit_runs

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    report = subparsers.add_parser("report", help="write a report in one HTML file", description=run.__doc__)
    add_reading(report)
    add_output(report, "report.html", "file to write")
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write one self-contained HTML file: the figure, the fits, the runs at equal compute, how each was made."""
    from analysis.plots.output import refuse_unless_new
    from analysis.reports.reporting import write_report

    refuse_unless_new(args.output, args.force, endings=(".html", ".htm"))
    fits = fit_runs(args)
    comparison = write_report(fits, args.output, force=args.force, extend=args.extend)
    if comparison is not None:
        print(comparison)
    print(f"wrote {args.output}")
    return exit_code(fits)
