"""The command fit. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from analysis.commands.common import (
    add_reading,
    add_results,
    exit_code,
    fit_runs,
    number_of,
    print_json,
    read_runs,
    refuse_output,
    save_figure,
)
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    fit = subparsers.add_parser("fit", help="fit the sigmoid compute curve to runs", description=run.__doc__)
    add_reading(fit)
    fit.add_argument(
        "--by",
        metavar="COL|FIELD|difficulty|data_set",
        help="fit groups: a column of one CSV, a field of the runs' configuration, thirds of the prompts, or the data "
        "sets that a run's policies were evaluated on",
    )
    fit.add_argument("--share", metavar="NAMES", help="with --by: what is tested to be the same (default: B,C_mid)")
    fit.add_argument("--next", dest="following", type=number_of, metavar="SIZE", help="with --by: size to predict")
    add_results(fit, "with --by: also draw the groups")
    fit.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="fit several runs in so many processes, -1 for one a core; needs pip install 'scalerl[parallel]'",
    )
    fit.add_argument("--checklist", action="store_true", help="also print what a fit report should carry")
    fit.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B) to each run and print parameters, limits and doubts."""
    if args.by is not None:
        return _fit_groups(args)
    if given := [n for n in ("share", "following", "output") if getattr(args, n) is not None]:
        raise UserError(f"{', '.join('--next' if n == 'following' else f'--{n}' for n in given)}: read with --by alone")
    if args.json and args.checklist:
        raise UserError("--checklist: printed for people, and not part of --json; give one of them")
    fits = fit_runs(args, jobs=args.jobs)
    if args.json:
        print_json({"schema": "fit/1", **fits.to_dict()})
    else:
        from analysis.fits.tables import fit_text

        for fit in fits:
            print(fit_text(fit))
            if args.checklist:
                print(indent(fit.checklist(), "    "))
    return exit_code(fits)


def _fit_groups(args: argparse.Namespace) -> int:
    """Fit groups: `run` with --by."""
    from analysis.plots.output import new_axes
    from analysis.pooled.groups import DIFFICULTY, SHARED, fit_groups

    cut = args.up_to_peak or args.up_to_spent
    if args.method != "posterior" or args.r0 != "free" or cut or args.checklist or args.jobs is not None:
        raise UserError(
            "--by: groups are fitted as they come; --method, --r0, --up-to-peak, --up-to-spent, --jobs and --checklist "
            "are not read"
        )
    refuse_output(args)
    tables = [p for p in args.paths if p.lower().endswith(".csv")]
    one_table = len(tables) == len(args.paths) == 1 and args.by != DIFFICULTY
    given, by = _of_table(Path(tables[0]), args) if one_table else (read_runs(args), args.by)
    share = SHARED if args.share is None else [name for name in args.share.split(",") if name]
    told = fit_groups(given, by=by, share=share, following=args.following, x=args.x, window=(args.start, args.stop))
    if args.json:
        print_json(told.to_dict())
    else:
        print(told)
    if args.output is not None:
        from analysis.plots.group_plots import plot_groups

        save_figure(args, plot_groups(told, new_axes()))
    return exit_code(told.fits)


def _of_table(path: Path, args: argparse.Namespace) -> tuple[Any, Any]:
    """A table and the column that groups its rows; or the runs that it holds, and the size of each."""
    import numpy as np
    import pandas as pd

    from analysis.readers.cleaning import as_fraction, number
    from analysis.readers.csvfile import choose, read_csv
    from analysis.readers.labels import label_of_path, parts_of
    from analysis.readers.logs import first_of
    from analysis.readers.metrics import PASS_RATE_COLUMNS, scale_of

    table = read_csv(path)[1]
    parts = parts_of(table, label_of_path(path))
    if len(parts) > 1:
        runs = read_runs(args)
        if args.by not in table.columns:
            return runs, args.by
        values = {label.name: set(part.columns[args.by]) for label, part in parts}
        sizes = {name: number(cells.pop()) for name, cells in values.items() if len(cells) == 1}
        if args.by.lower() not in {"recipe", "seed", "run"} and len(sizes) == len(runs) and all(sizes.values()):
            return runs, sizes
        what = f"--by {args.by}: {path} holds {len(runs)} runs ({', '.join(runs.names[:3])}, ...)"
        raise UserError(f"{what}; scalerl compare sets their recipes side by side, fit without --by fits each run")
    frame: Any = pd.DataFrame(dict(table.columns))
    if args.y is not None or args.scale is not None or args.y_range is not None:
        rate = choose(table, first_of(table, args.y), PASS_RATE_COLUMNS, "pass-rate", "--y")
        frame = frame.drop(columns=[name for name in PASS_RATE_COLUMNS if name in frame and name != rate])
        frame = frame.rename(columns={rate: "pass_rate"})
        factor, zero = scale_of(table.where, args.scale, args.y_range)
        if factor is not None:
            cells = np.array([np.nan if (v := number(c)) is None else v for c in frame["pass_rate"]])
            known = np.isfinite(cells)
            cells[known] = as_fraction(cells[known] - zero, table.where, rate, factor)[0]
            frame["pass_rate"] = cells
    numbers: Any = pd.to_numeric(frame[args.by], errors="coerce") if args.by in frame else None
    if numbers is not None and numbers.notna().all():
        frame[args.by] = numbers
    return frame, args.by
