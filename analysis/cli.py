"""The commands of the analysis. Importing this costs argparse and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.commands.common import Subparsers


def add_commands(subparsers: Subparsers) -> None:
    """Add the commands to a parser; each sets `run`, a function of the parsed arguments that returns an exit code."""
    from analysis.commands import backtest, check, compare, fit, forecast, logs, plan, plot, report, watch

    for command in (logs, fit, plot, check, forecast, backtest, compare, plan, report, watch):
        command.add_command(subparsers)
