"""The commands fit, plot and report, and what all commands read. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from scalerl.runlog import UserError

if TYPE_CHECKING:
    from analysis.results import Fits
    from analysis.schema import Runs

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

METHODS = ("posterior", "profile", "bootstrap", "lsq", "paper")  # of analysis.methods; a test holds them equal
_PATHS = "run folders, log.jsonl or CSV files, folders of runs, or quoted patterns"


def add_commands(subparsers: Subparsers) -> None:
    """Add the commands to a parser; each sets `run`, a function of the parsed arguments that returns an exit code."""
    fit = subparsers.add_parser("fit", help="fit the sigmoid compute curve to runs", description=run_fit.__doc__)
    _add_reading(fit)
    fit.add_argument("--json", action="store_true", help="print JSON instead of a table")
    fit.add_argument(
        "--by",
        metavar="COL|FIELD|difficulty",
        help="fit groups: a column of one CSV, a field of the runs' configuration, or thirds of the prompts",
    )
    fit.add_argument("--share", metavar="NAMES", help="with --by: what is tested to be the same (default: B,C_mid)")
    fit.add_argument("--next", dest="following", type=number_of, metavar="SIZE", help="with --by: size to predict")
    fit.add_argument("-o", "--output", type=Path, metavar="FIG.PNG", help="with --by: also draw the groups")
    fit.add_argument("--force", action="store_true", help="write over an existing file")
    fit.add_argument("--checklist", action="store_true", help="also print what a fit report should carry")
    fit.set_defaults(run=run_fit)

    plot = subparsers.add_parser("plot", help="draw runs and their curves", description=run_plot.__doc__)
    _add_reading(plot)
    _add_output(plot, "fig.png", "picture to write: png, svg or pdf")
    plot.set_defaults(run=run_plot)

    report = subparsers.add_parser("report", help="write a report in one HTML file", description=run_report.__doc__)
    _add_reading(report)
    _add_output(report, "report.html", "file to write")
    report.set_defaults(run=run_report)

    from analysis import cli_backtest, cli_check, cli_compare, cli_forecast, cli_plan, cli_watch

    cli_check.add_command(subparsers)
    cli_compare.add_command(subparsers)
    cli_backtest.add_command(subparsers)
    cli_forecast.add_command(subparsers)
    cli_plan.add_command(subparsers)
    cli_watch.add_command(subparsers)


def run_fit(args: argparse.Namespace) -> int:
    """Fit R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B) to each run and print parameters, limits and doubts."""
    if args.by is not None:
        return _fit_groups(args)
    if given := [n for n in ("share", "following", "output") if getattr(args, n) is not None]:
        raise UserError(f"{', '.join('--next' if n == 'following' else f'--{n}' for n in given)}: read with --by alone")
    fits = _fits(args)
    if args.json:
        print_json({"schema": "fit/1", **fits.to_dict()})
    else:
        from analysis.tables import fit_text

        for fit in fits:
            print(fit_text(fit))
            if args.checklist:
                print(indent(fit.checklist(), "    "))
    return _exit_code(fits)


def _fit_groups(args: argparse.Namespace) -> int:
    """Fit groups: `run_fit` with --by."""
    from analysis.groups import DIFFICULTY, SHARED, fit_groups
    from analysis.output import new_axes, refuse_unless_new, save

    if args.method != "posterior" or args.r0 != "free" or args.up_to_peak or args.checklist:
        raise UserError(
            "--by: groups are fitted as they come; --method, --r0, --up-to-peak and --checklist are not read"
        )
    if args.output is not None:
        refuse_unless_new(args.output, args.force, endings=(".png", ".svg", ".pdf"))
    tables = [p for p in args.paths if p.lower().endswith(".csv")]
    if len(tables) == len(args.paths) == 1 and args.by != DIFFICULTY:
        import pandas as pd

        from analysis.csvfile import read_csv

        given: Any = pd.DataFrame(read_csv(Path(tables[0]))[1].columns)
        sizes = pd.to_numeric(given[args.by], errors="coerce") if args.by in given else None
        if sizes is not None and sizes.notna().all():
            given[args.by] = sizes
    else:
        given = read_runs(args)
    share = SHARED if args.share is None else [name for name in args.share.split(",") if name]
    told = fit_groups(
        given, by=args.by, share=share, following=args.following, x=args.x, window=(args.start, args.stop)
    )
    if args.json:
        print_json(told.to_dict())
    else:
        print(told)
    if args.output is not None:
        from analysis.group_plots import plot_groups

        save(plot_groups(told, new_axes()), args.output, force=args.force)
        if not args.json:
            print(f"wrote {args.output}")
    return _exit_code(told.fits)


def run_plot(args: argparse.Namespace) -> int:
    """Draw the evaluations of each run, its fitted curve and, dashed, where the curve leads."""
    from analysis.output import new_axes, refuse_unless_new, save
    from analysis.plotting import plot_curves

    refuse_unless_new(args.output, args.force, endings=(".png", ".svg", ".pdf"))
    fits = _fits(args)
    save(plot_curves(fits, new_axes(), extend=args.extend), args.output, force=args.force)
    print(f"wrote {args.output}")
    return _exit_code(fits)


def run_report(args: argparse.Namespace) -> int:
    """Write one self-contained HTML file: the figure, the fits, the runs at equal compute, how each was made."""
    from analysis.output import refuse_unless_new
    from analysis.reporting import write_report

    refuse_unless_new(args.output, args.force, endings=(".html", ".htm"))
    fits = _fits(args)
    comparison = write_report(fits, args.output, force=args.force, extend=args.extend)
    if comparison is not None:
        print(comparison)
    print(f"wrote {args.output}")
    return _exit_code(fits)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add what every command reads: paths, columns and the window."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help=_PATHS)
    parser.add_argument("--x", metavar="COL", help="compute column (default: gpu_hours, or the first axis there is)")
    parser.add_argument("--y", metavar="COL", help="pass-rate column (default: pass_rate or accuracy)")
    parser.add_argument("--scale", type=number_of, metavar="F", help="factor that makes a fraction of the pass rate")
    parser.add_argument(
        "--from", "--skip-below", dest="start", type=number_of, metavar="C", help="leave out points before this compute"
    )
    parser.add_argument("--to", dest="stop", type=number_of, metavar="C", help="leave out points after this compute")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    parser.add_argument(
        "--r0",
        default="free",
        metavar="free|first|shared|VALUE",
        help="fit R0, hold it, or share it over runs from one checkpoint",
    )
    parser.add_argument(
        "--method", default="posterior", choices=METHODS, help="where values and limits come from (default: posterior)"
    )
    parser.add_argument(
        "--up-to-peak",
        action="store_true",
        help="where a run decays, fit it up to its peak and claim nothing past that",
    )


def _add_output(parser: argparse.ArgumentParser, example: str, what: str) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, metavar=example.upper(), help=what)
    parser.add_argument("--extend", type=number_of, default=4.0, metavar="N", help="draw to N times the compute (4)")
    parser.add_argument("--force", action="store_true", help="write over an existing file")


def read_runs(args: argparse.Namespace) -> Runs:
    """Read what `add_paths` asked for; paths that hold no run are named on the error stream."""
    from analysis.cleaning import printable
    from analysis.logs import read

    runs = read(args.paths, x=args.x, y=args.y, scale=args.scale)
    if runs.skipped:
        named = ", ".join(printable(str(path)) for path in runs.skipped[:5])
        more = f" and {len(runs.skipped) - 5} more" if len(runs.skipped) > 5 else ""
        print(f"scalerl: skipped, no run or table that can be read: {named}{more}", file=sys.stderr)
    return runs


def print_json(content: dict[str, Any]) -> None:
    """Print JSON that any terminal can show."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps(content, indent=1, ensure_ascii=plain, allow_nan=False))


def _fits(args: argparse.Namespace) -> Fits:
    from analysis.fitting import fit

    runs = read_runs(args)
    return fit(
        runs, x=args.x, r0=args.r0, window=(args.start, args.stop), method=args.method, up_to_peak=args.up_to_peak
    )


def _exit_code(fits: Fits) -> int:
    return 0 if any(fit.fitted for fit in fits) else 1


def number_of(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value
