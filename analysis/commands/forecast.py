"""The command forecast. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from analysis.commands.common import (
    add_paths,
    add_results,
    number_of,
    print_json,
    read_runs,
    refuse_output,
    save_figure,
)

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "forecast", help="pass rate at more compute, with calibrated bands, and the reach", description=run.__doc__
    )
    add_paths(parser)
    parser.add_argument(
        "--at",
        action="append",
        metavar="2x|C",
        help="multiple of the last compute, or a compute; repeatable (default: 2x and 4x)",
    )
    parser.add_argument("--level", type=number_of, default=0.95, help="level of the bands (0.95)")
    parser.add_argument(
        "--tolerance",
        type=number_of,
        default=0.02,
        metavar="W",
        help="half-width of the band that ends the reach (0.02)",
    )
    parser.add_argument(
        "--inflation",
        default="accuracy curves",
        metavar="NAME|F",
        help="past error assumed beforehand: 'accuracy curves' (1.35), 'vision curves' (2) or a number",
    )
    add_results(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Forecast each run at more compute, with bands that its own earlier forecasts have calibrated."""
    from analysis.plots.output import new_axes
    from analysis.predict.forecasting import AT, forecast

    refuse_output(args)
    told = forecast(
        read_runs(args),
        args.at or AT,
        x=args.x,
        window=(args.start, args.stop),
        level=args.level,
        tolerance=args.tolerance,
        inflation=args.inflation,
    )
    if args.json:
        print_json(told.to_dict())
    else:
        print(told)
    known = any(row.pass_rate is not None for one in told for row in one.rows)
    if args.output is not None and known:
        from analysis.plots.forecast_plots import plot_forecast

        save_figure(args, plot_forecast(told, new_axes()))
    return 0 if known else 1
