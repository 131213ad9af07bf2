"""What the commands share: parsing of single options, and how a problem is told."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def complain(message: str) -> None:
    """Print one line on stderr for each line of a message, without what could steer a terminal."""
    for line in message.splitlines():
        print("scalerl: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)


def natural(text: str) -> int:
    """Parse a whole number from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def place(text: str) -> str:
    """Parse the name of a folder, for argparse; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder")
    return text


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes fields of a configuration."""
    what = "change a field that scalerl recipes --fields lists; repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help=what)
