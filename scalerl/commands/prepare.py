"""The command prepare. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from scalerl.commands.common import natural, place

if TYPE_CHECKING:
    from scalerl.commands.common import Subparsers

TASK_SIZES = (1500, 256, 256)
OWN: dict[str, Any] = {  # options of --input alone, with their defaults
    "shares": None,
    "split": None,
    "prompt_column": None,
    "answer_column": None,
    "model": None,
    "prompt_tokens": 2048,
    "near_duplicates": 0.8,
    "decontaminate": (),
}


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "prepare", help="write train.json, eval.json and test.json of a task or of own data", description=run.__doc__
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", metavar="NAME", help="make prompts of a task: chain, addition or reasoning-gym:NAME")
    source.add_argument(
        "--input",
        nargs="+",
        type=place,
        metavar="RAW",
        help="take own prompts: JSON, JSONL, Parquet, a folder of these, or a folder of datasets.save_to_disk",
    )
    parser.add_argument("--output", required=True, type=place, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--sizes",
        type=natural,
        nargs=3,
        metavar=("TRAIN", "EVAL", "TEST"),
        help="number of prompts in each file; with --input a TRAIN of 0 means the rest",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the draw or the split (0)")
    own = parser.add_argument_group("with --input")
    own.add_argument(
        "--shares",
        type=float,
        nargs=2,
        metavar=("EVAL", "TEST"),
        help="shares of the prompts instead of --sizes, as .02 .02",
    )
    own.add_argument("--split", metavar="NAME", help="which split of a saved DatasetDict (train)")
    own.add_argument("--prompt-column", metavar="NAME", help="column of the questions (default: found by its name)")
    own.add_argument("--answer-column", metavar="NAME", help="column of the answers (default: found by its name)")
    own.add_argument("--model", type=place, metavar="DIR", help="count tokens with this model's tokenizer")
    own.add_argument(
        "--prompt-tokens",
        type=natural,
        metavar="N",
        help="leave out longer prompts (2048); without --model, those over 4 N characters",
    )
    own.add_argument(
        "--near-duplicates",
        type=_similarity,
        metavar="J",
        help="leave out prompts this alike, from .7 to 1 (.8), or off",
    )
    own.add_argument(
        "--decontaminate", nargs="+", type=place, metavar="FILE", help="leave out prompts that stand in these test sets"
    )
    parser.set_defaults(run=run, **OWN)


def run(args: argparse.Namespace) -> int:
    """Write train.json, eval.json and test.json of a task, or of own data with a report."""
    from scalerl.runlog import UserError

    if args.task is not None:
        from scalerl.data import prepare

        if idle := [f"--{name.replace('_', '-')}" for name, value in OWN.items() if getattr(args, name) != value]:
            raise UserError(f"{', '.join(idle)}: only with --input; a task makes its prompts itself")
        sizes = prepare(args.task, args.output, sizes=args.sizes or TASK_SIZES, seed=args.seed)
        print(f"{args.output}: " + ", ".join(f"{split}.json {size}" for split, size in sizes.items()))
        return 0
    from scalerl.preparing.columns import Columns
    from scalerl.preparing.pipeline import Options, prepare_rows

    options = Options(
        inputs=tuple(args.input),
        seed=args.seed,
        split=args.split,
        columns=Columns(args.prompt_column, args.answer_column),
        model=args.model,
        prompt_tokens=args.prompt_tokens,
        sizes=None if args.sizes is None else tuple(args.sizes),
        shares=None if args.shares is None else tuple(args.shares),
        near=args.near_duplicates,
        decontaminate=tuple(args.decontaminate),
    )
    table = prepare_rows(options, args.output).table()
    print("".join(c if c.isprintable() or c == "\n" else "?" for c in table))  # names of columns are whatever data say
    print(f"wrote {args.output}; each rejected row stands in {args.output}/report.json")
    return 0


def _similarity(text: str) -> float | None:
    if text == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor off") from None
