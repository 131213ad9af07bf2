"""The command completion. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers

SHELLS = ("bash", "zsh", "fish")
HOW = """put one of these lines where your shell starts:
  bash, ~/.bashrc:                   source <(scalerl completion bash)
  zsh, ~/.zshrc, behind compinit:    eval "$(scalerl completion zsh)"
  fish, ~/.config/fish/config.fish:  scalerl completion fish | source"""
TASKS = ("addition", "chain", "long-chain")  # of scalerl.tasks; a test holds them equal
FOLDERS = {"DIR", "M"}  # metavars of what is completed by folders, and by files
FILES = {"PATH", "RUN", "RAW", "F", "FILE", "F.csv", "F.json", "FIG.PNG", "REPORT.HTML"}


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "completion",
        help="print what makes your shell complete commands, options, recipes and files",
        description="Print a script that makes a shell complete commands, options, recipes and files.",
        epilog=HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script of a shell."""
    import shtab

    from scalerl.cli import make_parser

    parser = make_parser()
    names = " ".join(sorted(path.stem for path in (Path(__file__).parent.parent / "recipes").glob("*.yaml")))
    recipe = {  # what may stand behind --config: a recipe or size that ships, or a file
        "bash": "_scalerl_config",
        "zsh": "_scalerl_config",
        "fish": f"(string split ' ' '{names}'; __fish_complete_path (commandline -ct))",
    }
    preamble = {
        "bash": f'_scalerl_config() {{ compgen -W "{names}" -- "$1"; _shtab_compgen_files "$1"; }}',
        "zsh": f"_scalerl_config() {{ compadd {names}; _files }}",
    }
    for action in _actions(parser):
        if action.dest == "config":
            action.complete = recipe  # type: ignore[attr-defined]  # where shtab looks
        elif action.dest == "task":
            action.choices = TASKS
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell, preamble=preamble.get(args.shell, "")))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action
