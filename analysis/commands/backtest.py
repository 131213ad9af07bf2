"""The command backtest. Importing this costs argparse and nothing more."""

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
        "backtest", help="how good forecasts of these runs were, by horizon and method", description=run.__doc__
    )
    add_paths(parser)
    parser.add_argument(
        "--horizon",
        action="append",
        type=_multiple,
        metavar="2x",
        help="multiple of the compute that is known; repeatable (default: 1.5x, 2x and 4x)",
    )
    parser.add_argument(
        "--origins",
        type=int,
        default=20,
        metavar="N",
        help="at most this many evaluations of a run are forecast from (20)",
    )
    parser.add_argument("--level", type=number_of, default=0.95, help="level of the bands (0.95)")
    parser.add_argument(
        "--inflation",
        default="accuracy curves",
        metavar="NAME|F",
        help="past error assumed beforehand: 'accuracy curves' (1.35), 'vision curves' (2) or a number",
    )
    parser.add_argument("--all", action="store_true", help="print every method, and not the best of the others alone")
    add_results(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Forecast each run from earlier evaluations by every method, and compare with what came."""
    from analysis.predict.backtesting import HORIZONS, backtest

    refuse_output(args)
    tested = backtest(
        read_runs(args),
        args.horizon or HORIZONS,
        origins=args.origins,
        x=args.x,
        window=(args.start, args.stop),
        level=args.level,
        inflation=args.inflation,
    )
    if args.json:
        print_json(tested.to_dict())
    else:
        from analysis.predict.backtests import backtest_text
        from analysis.predict.verdicts import short_methods, verdict_text

        print(f"{verdict_text(tested)}\n{backtest_text(tested, None if args.all else short_methods(tested))}")
    if args.output is not None and tested.rows:
        from analysis.plots.backtest_plots import plot_backtest

        save_figure(args, plot_backtest(tested).axes[0])
    return 0 if tested.rows else 1


def _multiple(text: str) -> float:
    """A multiple, with or without the x behind it."""
    return number_of(text.strip().removesuffix("x").removesuffix("X"))
