"""The command line. It alone knows both halves: training here, analysis in `analysis.cli`.

Heavy packages are imported inside the command that needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import scalerl
from analysis.cli import add_commands
from scalerl.commands.common import complain
from scalerl.runlog import UserError

_TRAIN_PACKAGES = {"torch", "transformers", "safetensors", "tokenizers", "pydantic", "yaml", "tqdm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 (the data allow no result), 2 (a mistake in the call) or 130 (interrupted)."""
    parser = make_parser()
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of runs may hold what the terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    # A terminated run ends as an interrupted one does: with its log whole.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(args.run(args))
    except UserError as error:
        if args.debug:
            raise
        complain(str(error))
        return 2
    except BrokenPipeError:  # the reader of a pipe had enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # whatever of files was not foreseen, a full disk above all
        if args.debug:
            raise
        complain(f"{error.filename or 'file'}: {error.strerror or error}")
        return 2
    except ModuleNotFoundError as error:
        if args.debug or error.name is None or error.name.split(".")[0] not in _TRAIN_PACKAGES:
            raise
        complain(f"this command needs the trainer, and {error.name} is missing: pip install 'scalerl[train]'")
        return 2
    except KeyboardInterrupt:
        print("scalerl: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser that says itself what it does not know; the one above it would show the wrong usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and end with what is unknown."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            import difflib

            name = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
            near = difflib.get_close_matches(name, self._option_string_actions, n=1, cutoff=0.75) if name else []
            self.error(f"unknown: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
        return found, unknown


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run`, a function from the parsed arguments to an exit code."""
    parser: argparse.ArgumentParser = _Parser(
        prog="scalerl",
        description="Scaling curves for reinforcement learning of language models: train, fit, compare.",
        epilog="To see it work: scalerl demo. With logs of your own: scalerl logs PATH, then scalerl fit PATH. "
        "Options of a command: scalerl COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"scalerl {scalerl.__version__}")
    parser.add_argument("--debug", action="store_true", help="where something fails, show the traceback")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    from scalerl.commands import check_data, completion, demo, evaluate, prepare, recipes, simulate, train, warmup

    for command in (demo, prepare, check_data, warmup, train, evaluate, recipes, simulate):
        command.add_command(commands)
    add_commands(commands)
    completion.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
