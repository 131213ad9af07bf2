"""The command compare. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from analysis.commands.common import (
    add_reading,
    add_results,
    fit_runs,
    number_of,
    print_json,
    refuse_output,
    save_figure,
)

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers
    from analysis.comparisons.compared import Compared
    from analysis.comparisons.straight import SameCeiling
    from analysis.fits.results import Fits

FIGURES = ("forest", "line", "leave-one-out")


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser; it sets `run`, a function of the parsed arguments that returns an exit code."""
    parser = subparsers.add_parser(
        "compare", help="compare recipes over their seeds: ceiling, speed, how sure", description=run_compare.__doc__
    )
    add_reading(parser)
    parser.add_argument(
        "--at", action="append", default=[], metavar="C", help="compute to compare at, or 2x of what all have reached"
    )
    parser.add_argument(
        "--target", action="append", default=[], type=number_of, metavar="RATE", help="pass rate to reach; repeatable"
    )
    parser.add_argument("--by", default="A", metavar="A|C", help="rank by the ceiling (default) or at a compute")
    parser.add_argument(
        "--seed-sd",
        type=number_of,
        metavar="SD",
        help="standard deviation of A between seeds, where a recipe has one seed",
    )
    parser.add_argument("--level", type=number_of, default=0.95, metavar="L", help="level of all limits (0.95)")
    parser.add_argument("--nested", action="store_true", help="also test which parameters the runs share")
    add_results(parser)
    parser.add_argument("--figure", choices=FIGURES, help="with -o: which figure (forest)")
    parser.add_argument(
        "--ceiling",
        type=number_of,
        metavar="A",
        help="common ceiling at which B is fitted again (default: that of the recipes alike)",
    )
    parser.add_argument(
        "--full", metavar="RECIPE", help="with --figure leave-one-out: the whole recipe (default: the best)"
    )
    parser.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> int:
    """Compare recipes over their seeds: ceilings, pass rates and speed, differences with limits, and how sure each is.

    Exit status 1: fewer than two runs have a curve.
    """
    from analysis.comparisons.comparing import compare
    from scalerl.runlog import UserError

    if args.output is None and (args.figure is not None or args.full is not None):
        raise UserError("--figure, --full: read with -o FIG.PNG alone")
    if args.full is not None and args.figure != "leave-one-out":
        raise UserError("--full: read with --figure leave-one-out alone")
    if args.nested and (args.r0 != "free" or args.method != "posterior"):
        raise UserError("--nested: runs are fitted together there, R0 among the rest; --r0 and --method are not read")
    refuse_output(args)
    fits = fit_runs(args)
    if sum(fit.fitted for fit in fits) < 2 <= len(fits):
        if args.json:
            print_json(_nothing(fits, args))
        else:
            print(fits)
        return 1
    compared = compare(
        fits,
        at=args.at,
        target=args.target or None,
        by=args.by,
        seed_sd=args.seed_sd,
        level=args.level,
    )
    tests = None
    if args.nested:
        from analysis.fits.refits import fitted_run
        from analysis.pooled.joint import nested

        tests = nested([fitted_run(f) for f in fits], x=compared.x, level=args.level)
    alike = _same_ceiling(compared, args)
    if args.json:
        told = compared.to_dict()
        told["same_ceiling"] = None if alike is None else alike.to_dict()
        if tests is not None:
            told["nested"] = [
                {
                    "share": list(m.share),
                    "F": m.F,
                    "p": m.p,
                    "dof": [m.dof - m.dof_free, m.dof_free],
                    "differ": m.differ,
                }
                for m in tests.models
            ]
        print_json(told)
    else:
        print(compared)
        if alike is not None:
            print(alike)
        if tests is not None:
            print(tests)
    figure = args.figure or "forest"
    if args.output is not None:
        from analysis.plots.compared_plots import draw

        save_figure(args, draw(compared, figure, alike, full=args.full))
    return 0


def _nothing(fits: Fits, args: argparse.Namespace) -> dict[str, Any]:
    """What --json prints where fewer than two runs have a curve: no rows, and what the fits say."""
    said = [(fit.name, f) for fit in fits for f in fit.findings if f.severity != "note"]
    findings = [f.to_dict() | {"message": f"{name}: {f.message}"} for name, f in said]
    empty: dict[str, Any] = {"rows": [], "pairs": [], "axes": [], "findings": findings, "same_ceiling": None}
    return {
        "schema": "compare/1",
        "x": fits[0].x,
        "by": args.by,
        "level": args.level,
        "seed_sd": args.seed_sd,
        "tested": False,
        **empty,
    }


def _same_ceiling(compared: Compared, args: argparse.Namespace) -> SameCeiling | None:
    """B at one ceiling; None where ceilings differ and nobody asked for it."""
    from analysis.comparisons.straight import same_ceiling
    from scalerl.runlog import UserError

    try:
        return same_ceiling(compared, A=args.ceiling)
    except UserError as error:
        if args.ceiling is not None:
            raise
        if args.output is not None and args.figure not in {None, "forest"}:
            said = str(error).removeprefix("same_ceiling: ").split("; say A")[0]
            what = f"--figure {args.figure} draws recipes at one ceiling, and these share none: {said}"
            raise UserError(f"{what}; give one with --ceiling A, or take --figure forest") from error
        return None
