"""The command warmup. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from scalerl.commands.common import natural, place

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers

TASK: dict[str, Any] = {"layers": 2, "width": 64, "steps": 750}  # options of --task alone, with their defaults
OWN: dict[str, Any] = {  # options of --model alone
    "train_data": None,
    "epochs": 2,
    "learning_rate": 1e-5,
    "batch_size": 16,
    "end_of_thinking": "</think>",
    "no_thinking": False,
    "device": "auto",
}


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "warmup", help="make a starting checkpoint, of a task or on own data", description=run.__doc__
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", metavar="NAME", help="make a new small model for chain, long-chain or addition")
    source.add_argument("--model", type=place, metavar="DIR", help="train this model on --train-data")
    parser.add_argument("--output", required=True, type=place, metavar="DIR", help="model directory to make")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of weights and order (0)")
    limit = "in tokens: positions of a new model (80); with --model longer demonstrations are left out"
    parser.add_argument("--max-length", type=natural, metavar="N", help=limit)
    task = parser.add_argument_group("with --task")
    task.add_argument("--layers", type=int, metavar="N", help="transformer layers (2)")
    task.add_argument("--width", type=int, metavar="N", help="of a layer, which 8 divides (64)")
    task.add_argument("--steps", type=natural, metavar="N", help="of 128 demonstrations (750)")
    own = parser.add_argument_group("with --model")
    own.add_argument("--train-data", metavar="F", help="items with prompt, thinking and solution")
    own.add_argument("--epochs", type=natural, metavar="N", help="passes over the data (2)")
    own.add_argument("--learning-rate", type=float, metavar="X", help="largest; it rises and then falls to 0 (1e-5)")
    own.add_argument("--batch-size", type=natural, metavar="N", help="demonstrations a step (16)")
    own.add_argument("--end-of-thinking", metavar="TEXT", help="text between thinking and solution (</think>)")
    own.add_argument("--no-thinking", action="store_true", help="the solution alone is the completion")
    own.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to train (auto: cuda if there is one)")
    parser.set_defaults(run=run, **TASK, **OWN)


def run(args: argparse.Namespace) -> int:
    """Make a starting checkpoint: a small model that knows a task a little (4 minutes), or a model taught own data."""
    from scalerl.runlog import UserError

    other = OWN if args.task is not None else TASK
    if idle := [f"--{name.replace('_', '-')}" for name, value in other.items() if getattr(args, name) != value]:
        raise UserError(f"{', '.join(idle)}: only with {'--model' if args.task is not None else '--task'}")
    return _own(args) if args.task is None else _task(args)


def _task(args: argparse.Namespace) -> int:
    import torch

    from scalerl.warmup import warmup

    torch.set_num_threads(1)

    def show(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step} of {args.steps}  loss {loss:.3f} nats a token", file=sys.stderr, flush=True)

    made = warmup(
        args.task,
        args.output,
        seed=args.seed,
        steps=args.steps,
        max_length=args.max_length or 80,
        layers=args.layers,
        width=args.width,
        progress=show,
    )
    figures = f"{made['parameters']:.0f} parameters, {made['loss']:.3f} nats a token, {made['cpu_s']:.0f} CPU-s"
    print(f"{args.output}: {figures}")
    return 0


def _own(args: argparse.Namespace) -> int:
    from scalerl.runlog import UserError

    if args.train_data is None:
        raise UserError("--train-data: name a file of items with prompt, thinking and solution")
    from scalerl.places import refuse_no_file, refuse_no_model

    refuse_no_model(args.model)
    refuse_no_file(args.train_data)
    import torch

    from scalerl.demonstrations import warmup_on_data
    from scalerl.policy import device_of

    torch.set_num_threads(1)
    device = device_of(args.device)

    def show(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // 20) == 0 or step == steps:
            print(f"step {step} of {steps}  loss {loss:.3f} nats a token", file=sys.stderr, flush=True)

    made = warmup_on_data(
        args.model,
        args.train_data,
        args.output,
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        max_length=args.max_length,
        batch_size=args.batch_size,
        seed=args.seed,
        end_of_thinking=args.end_of_thinking,
        thinking=not args.no_thinking,
        device=device,
        progress=show,
    )
    left_out = f"{made.incomplete} without all columns and {made.too_long} too long left out"
    print(f"{args.output}: {made.rows} demonstrations ({left_out}), {made.steps} steps, {made.tokens} tokens")
    losses = f"{made.first_loss:.3f} nats a token in the first epoch, {made.last_loss:.3f} in the last"
    print(f"loss {losses}; {made.cpu_s:.0f} CPU-s")
    return 0
