"""What the commands share: the options that all of them read, runs from paths, JSON to the terminal, exit codes."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.fits.results import Fits
    from analysis.schema import Runs

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

METHODS = ("posterior", "profile", "bootstrap", "lsq", "paper")  # of analysis.fits.methods; a test holds them equal
FIGURES = ("png", "svg", "pdf")
_PATHS = (
    "run folders, logs of any trainer, tables, folders of these, or quoted patterns; scalerl logs shows what is there"
)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add what every command reads: paths, columns and the window."""
    add_columns(parser)
    parser.add_argument(
        "--from",
        "--skip-below",
        dest="start",
        type=number_of,
        metavar="C",
        help="leave out evaluations before this compute",
    )
    parser.add_argument(
        "--to", dest="stop", type=number_of, metavar="C", help="leave out evaluations after this compute"
    )
    add_recipe(parser)


def add_columns(parser: argparse.ArgumentParser, metavar: str = "PATH", what: str = _PATHS) -> None:
    """Add where runs are and which of their columns are compute and pass rate."""
    add_places(parser, metavar, what)
    parser.add_argument("--x", metavar="COL", help="compute column (default: gpu_hours, or the first axis there is)")
    parser.add_argument(
        "--y",
        action="append",
        metavar="COL",
        help="pass-rate column (default: pass_rate, accuracy, or the one evaluation that the format knows); "
        "repeatable: each run has the first that it holds",
    )
    parser.add_argument(
        "--scale", type=number_of, metavar="X", help="factor that makes the pass rate a fraction, as .01 for percent"
    )
    parser.add_argument(
        "--y-range",
        type=range_of,
        metavar="LO:HI",
        help="instead of --scale: the values that mean none right and all right, as --y-range=-1:1",
    )


def add_places(parser: argparse.ArgumentParser, metavar: str = "PATH", what: str = _PATHS) -> None:
    """Add where runs are, in which format, and how many devices they held."""
    parser.add_argument("paths", nargs="+", metavar=metavar, help=what)
    parser.add_argument("--format", metavar="NAME", help="format of the logs (default: told from their content)")
    parser.add_argument(
        "--devices",
        type=number_of,
        metavar="N",
        help="GPUs that each run held, where its log has seconds and no GPU-hours",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the recipes of runs that do not say theirs."""
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="runs whose name matches the pattern are seeds of this recipe, where columns and file names do not tell; "
        "repeatable",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add what every command that fits reads."""
    add_paths(parser)
    parser.add_argument(
        "--r0",
        default="free",
        metavar="free|first|shared|VALUE",
        help="R0, the pass rate before training: fitted (free), the first evaluation, one for all runs from one "
        "checkpoint (shared), or a value (default: free)",
    )
    parser.add_argument(
        "--method",
        default="posterior",
        choices=METHODS,
        help="where values and limits come from (default: posterior; the others are what other tools would say)",
    )
    parser.add_argument(
        "--up-to-peak",
        action="store_true",
        help="where a run decays, fit it up to its peak, and claim nothing of what comes behind",
    )
    parser.add_argument(
        "--up-to-spent",
        action="store_true",
        help="where the train prompts of a run run out, fit it up to there: what would it do with prompts enough?",
    )


def add_results(parser: argparse.ArgumentParser, figure: str = "also draw it") -> None:
    """Add JSON in place of the table, and the figure beside it; see `refuse_output` and `save_figure`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("-o", "--output", type=Path, metavar="FIG.PNG", help=f"{figure}: {', '.join(FIGURES)}")
    parser.add_argument("--force", action="store_true", help="write over an existing file")


def refuse_output(args: argparse.Namespace) -> None:
    """Raise `UserError`, before any work, if the figure that is asked for cannot be written."""
    from analysis.plots.output import refuse_unless_new

    if args.output is not None:
        refuse_unless_new(args.output, args.force, endings=tuple(f".{kind}" for kind in FIGURES))


def save_figure(args: argparse.Namespace, axes: Axes) -> None:
    """Write the figure that is asked for, and say so where no JSON is read."""
    from analysis.plots.output import save

    save(axes, args.output, force=args.force)
    if not args.json:
        print(f"wrote {args.output}")


def add_output(parser: argparse.ArgumentParser, example: str, what: str) -> None:
    """Add the file that is written, and how far a figure goes."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar=example.upper(), help=what)
    parser.add_argument(
        "--extend", type=number_of, default=4.0, metavar="N", help="draw curves up to N times the compute so far (4)"
    )
    parser.add_argument("--force", action="store_true", help="write over an existing file")


def read_runs(args: argparse.Namespace) -> Runs:
    """Read what `add_paths` asked for; paths that hold no run are named on the error stream."""
    from analysis.readers.logs import read

    runs = read(args.paths, recipes=_recipes(args), **how_to_read(args))
    say_skipped(runs.skipped)
    return runs


def how_to_read(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_paths` asked for as arguments of `analysis.readers.logs.read`."""
    return {
        "x": args.x,
        "y": args.y,
        "scale": args.scale,
        "y_range": args.y_range,
        "format": args.format,
        "devices": args.devices,
    }


def say_skipped(paths: Sequence[Path]) -> None:
    """Name on the error stream what lay beside the runs and is none."""
    from analysis.readers.cleaning import printable

    if paths:
        named = ", ".join(printable(str(path)) for path in paths[:5])
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        why = "no run that can be read, or a table beside run folders (name it to read it)"
        print(f"scalerl: skipped, {why}: {named}{more}", file=sys.stderr)


def _recipes(args: argparse.Namespace) -> dict[str, list[str]]:
    """Recipe to patterns, from the options --recipe."""
    from scalerl.runlog import UserError

    found: dict[str, list[str]] = {}
    for one in getattr(args, "recipe", []):
        name, sign, pattern = one.partition("=")
        if not (sign and name and pattern):
            raise UserError(f"--recipe {one}: is not NAME=PATTERN, such as mine='mine_*'")
        found.setdefault(name, []).append(pattern)
    return found


def print_json(content: dict[str, Any]) -> None:
    """Print JSON that any terminal can show."""
    print(json.dumps(content, indent=1, ensure_ascii=not shows_unicode(), allow_nan=False))


def shows_unicode() -> bool:
    """Return whether the output takes more than plain characters; one that was closed takes nothing."""
    encoding: str | None = getattr(sys.stdout, "encoding", None)
    return (encoding or "").lower().replace("-", "") == "utf8"


def fit_runs(args: argparse.Namespace, jobs: int | None = None) -> Fits:
    """Read the runs and fit them as the options say, in so many processes."""
    from analysis.fits.fitting import fit

    runs = read_runs(args)
    return fit(
        runs,
        x=args.x,
        r0=args.r0,
        window=(args.start, args.stop),
        method=args.method,
        up_to_peak=args.up_to_peak,
        up_to_spent=args.up_to_spent,
        jobs=jobs,
    )


def exit_code(fits: Fits) -> int:
    """0 where at least one run has a curve, else 1."""
    return 0 if any(fit.fitted for fit in fits) else 1


def number_of(text: str) -> float:
    """Return a finite number from the command line, or say what is wrong with it."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def range_of(text: str) -> tuple[float, float]:
    """Return two numbers LO:HI from the command line, or say what is wrong with them."""
    low, sign, high = text.partition(":")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not LO:HI, such as --y-range=-1:1")
    return number_of(low), number_of(high)
