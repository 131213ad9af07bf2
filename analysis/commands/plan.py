"""The command plan. Importing this costs argparse and nothing more."""

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
        "plan", help="what more compute would tell, stop or go, and which run should get it", description=run.__doc__
    )
    add_paths(parser)
    parser.add_argument(
        "--budget",
        action="append",
        metavar="2x|N",
        help="total compute as a multiple of what a run has; repeatable (default: 1.5, 2 and 4)",
    )
    parser.add_argument(
        "--reach",
        type=number_of,
        default=2.0,
        metavar="N",
        help="reach that is wanted, as a multiple of the compute (2)",
    )
    parser.add_argument(
        "--until", metavar="2x|C", help="compute that stop-or-go and the ranking look to, or a multiple (default: 2x)"
    )
    parser.add_argument(
        "--least-gain", type=number_of, default=0.01, metavar="R", help="pass rate still to be gained by then (0.01)"
    )
    parser.add_argument(
        "--difference", type=number_of, default=0.05, metavar="R", help="difference of A that is to be told (0.05)"
    )
    parser.add_argument(
        "--seed-sd", type=number_of, metavar="SD", help="standard deviation of A between seeds, for power and ranking"
    )
    parser.add_argument(
        "--seeds",
        action="append",
        type=int,
        metavar="N",
        help="numbers of seeds a recipe to give the power for; repeatable (2, 3, 5 and 8)",
    )
    parser.add_argument("--futures", type=int, default=16, metavar="N", help="simulated futures a budget (16)")
    add_results(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say what more compute would tell about each run, whether it is worth it, and which recipe should get it."""
    from analysis.budgets.planning import BUDGETS, SEEDS, plan
    from analysis.fits.fitting import fit
    from analysis.plots.output import new_axes

    refuse_output(args)
    told = plan(
        fit(read_runs(args), x=args.x, window=(args.start, args.stop)),
        budgets=args.budget or BUDGETS,
        reach=args.reach,
        until=args.until,
        least_gain=args.least_gain,
        difference=args.difference,
        seed_sd=args.seed_sd,
        seeds=args.seeds or SEEDS,
        futures=args.futures,
    )
    if args.json:
        print_json(told.to_dict())
    else:
        print(told)
    done = any(one.budgets for one in told)
    if args.output is not None and done:
        from analysis.plots.plan_plots import plot_plan

        save_figure(args, plot_plan(told, new_axes()))
    return 0 if done else 1
