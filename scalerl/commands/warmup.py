"""The command warmup. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from scalerl.commands.common import natural, place

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser("warmup", help="make a small starting checkpoint for a task (4 minutes)")
    parser.add_argument("--task", required=True, metavar="NAME", help="chain or addition")
    parser.add_argument("--output", required=True, type=place, metavar="DIR")
    parser.add_argument("--seed", type=natural, default=0, metavar="N")
    parser.add_argument("--layers", type=int, default=2, metavar="N")
    parser.add_argument("--width", type=int, default=64, metavar="N")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make a small starting checkpoint for a task."""
    import torch

    from scalerl.warmup import warmup

    torch.set_num_threads(1)

    def show(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step} of 750  loss {loss:.3f} nats a token", file=sys.stderr, flush=True)

    made = warmup(args.task, args.output, seed=args.seed, layers=args.layers, width=args.width, progress=show)
    figures = f"{made['parameters']:.0f} parameters, {made['loss']:.3f} nats a token, {made['cpu_s']:.0f} CPU-s"
    print(f"{args.output}: {figures}")
    return 0
