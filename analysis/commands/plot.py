"""The command plot. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from analysis.commands.common import add_output, add_reading, exit_code, fit_runs

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    plot = subparsers.add_parser("plot", help="draw runs and their curves", description=run.__doc__)
    add_reading(plot)
    add_output(plot, "fig.png", "picture to write: png, svg or pdf")
    plot.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw the evaluations of each run, its fitted curve and, dashed, where the curve leads."""
    from analysis.plots.output import new_axes, refuse_unless_new, save
    from analysis.plots.plotting import plot_curves

    refuse_unless_new(args.output, args.force, endings=(".png", ".svg", ".pdf"))
    fits = fit_runs(args)
    save(plot_curves(fits, new_axes(), extend=args.extend), args.output, force=args.force)
    print(f"wrote {args.output}")
    return exit_code(fits)
