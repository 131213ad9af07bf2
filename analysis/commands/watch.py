"""The command watch. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING

from analysis.commands.common import add_columns, how_to_read, number_of, shows_unicode

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers

CLEAR = "\x1b[H\x1b[J"


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "watch", help="follow growing logs: curve, forecast, reach, time left", description=run.__doc__
    )
    add_columns(parser, metavar="RUN", what="run folders, logs or CSV files; they may come later")
    parser.add_argument(
        "--until",
        type=number_of,
        metavar="C",
        help="compute to forecast to (default: the end that the run has set itself)",
    )
    parser.add_argument("--every", type=number_of, default=10.0, metavar="S", help="seconds between looks (10)")
    parser.add_argument("--once", action="store_true", help="print one frame and end; the default where no one watches")
    parser.add_argument("--ascii", action="store_true", help="draw with plain characters")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for every run that has news")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Follow runs while they train: the curve so far, the forecast and how it narrows, the reach, the time left."""
    from analysis.reports.watching import Watch, frame, next_look
    from scalerl.runlog import UserError

    if not args.every > 0.0:
        raise UserError(f"every: {args.every:g} seconds is no pause (--every)")
    if args.until is not None and not args.until > 0.0:
        raise UserError(f"until: {args.until:g} is not a compute above 0 (--until)")
    watch = Watch(args.paths, until=args.until, **how_to_read(args))
    once = args.once or not (args.json or (sys.stdout is not None and sys.stdout.isatty()))
    unicode = shows_unicode()
    try:
        while True:
            began = time.monotonic()
            told, news = watch.waiting, watch.look()
            if args.json and watch.waiting and watch.waiting != told:  # who reads lines of JSON sees no frame
                print(f"scalerl: waiting: {watch.waiting}", file=sys.stderr, flush=True)
            if args.json:
                for one in news:
                    print(json.dumps(one.to_dict(), allow_nan=False), flush=True)
            elif once:
                print(frame(watch, plain=args.ascii or not unicode))
            elif news or watch.waiting:
                size = shutil.get_terminal_size((80, 24))
                rows = max(5, (size.lines - 2) // max(len(watch.seen), 1) - 9)
                text = frame(watch, plain=args.ascii or not unicode, height=min(rows, 20), width=size.columns - 1)
                print(CLEAR + text, flush=True)
            if once:
                return 0 if watch.seen else 1
            time.sleep(next_look(args.every, time.monotonic() - began))
    except KeyboardInterrupt:
        return 0
