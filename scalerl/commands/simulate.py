"""The command simulate. Importing this costs argparse and nothing more."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from scalerl.commands.common import natural
from scalerl.runlog import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scalerl.commands.common import Subparsers
    from scalerl.simulate import Outcome, Setup
    from scalerl.simulate.measured import Measured

EXAMPLES = ("paper", "thousand")  # of scalerl.simulate.examples; a test holds them equal
NODE = 8  # devices of a node, at most
FEW = 100  # updates of a log that no run worth predicting is as short as
LENGTHS = {"length_mean", "length_sd", "length_p50", "length_p95"}


def add_command(subparsers: Subparsers) -> None:
    """Add the command to a parser."""
    parser = subparsers.add_parser(
        "simulate", help="say what a run would take on devices that you do not have yet", description=run.__doc__
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--run",
        dest="runs",
        action="append",
        default=[],
        metavar="RUN",
        help="take recipe and speeds from this run folder; a second one, with other slots, tells more of the speeds",
    )
    source.add_argument("--example", choices=EXAMPLES, help="the paper's 64 + 16 devices, or 1,000; speeds assumed")
    parser.add_argument(
        "--config", metavar="F", help="YAML file with fields that --fields lists, over what the run or example has"
    )
    parser.add_argument("--devices", type=natural, metavar="N", help="propose how to split so many devices")
    parser.add_argument(
        "--cheapest", action="store_true", help="with --devices: the fewest GPU-hours on up to so many, not the fastest"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="change a field that --fields lists; repeatable"
    )
    parser.add_argument("--fields", action="store_true", help="list every field with its value, and simulate nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say what a run would take, before the devices are rented: hours, GPU-hours, lag and idle shares, from speeds of a
    run on one device or stated ones; propose how to split devices between generators and the learner, and show what
    every k costs.
    """
    from scalerl.simulate import Setup, simulate
    from scalerl.simulate.examples import ASSUMED
    from scalerl.simulate.examples import EXAMPLES as SETUPS
    from scalerl.simulate.measured import measure
    from scalerl.simulate.setup import DERIVED, FIELDS, changed
    from scalerl.simulate.splits import fewer, over_k, propose

    measured = measure(*args.runs) if args.runs else None
    base = measured.setup if measured else SETUPS[args.example] if args.example else Setup()
    given = _settings(args.set)
    of_file = _file(args.config)
    setup = changed(changed(base, of_file, args.config), given)
    if args.fields:
        if args.json:
            values = {name: None if _is_odd(getattr(setup, name)) else getattr(setup, name) for name in FIELDS}
            print(json.dumps({"schema": "simulate-fields/1", "fields": values}, indent=1, allow_nan=False))
            return 0
        for name, field in FIELDS.items():
            print(f"{name} = {getattr(setup, name)!r}\n    {field.metadata['what']}")
        for name, what in DERIVED.items():
            print(f"{name}\n    {what}")
        return 0
    if args.cheapest and args.devices is None:
        raise UserError("--cheapest: read with --devices alone")
    if measured is None and args.example is None and not setup.token_s and not setup.slot_s:
        raise UserError(
            "speeds are not known: give --run RUN, or --example NAME, or at least --set token_s=SECONDS (or "
            "tokens_per_s) and --set train_token_s=SECONDS; --fields lists all"
        )
    lengths = measured.lengths if measured and not LENGTHS & {*given, *of_file} else None
    if args.devices is None:
        outcomes = [simulate(setup, lengths=lengths)]
    else:
        outcomes = propose(setup, args.devices, lengths=lengths, cheapest=args.cheapest)
    setup = outcomes[0].setup
    less = fewer(outcomes[0], lengths=lengths) if args.devices is not None and not args.cheapest else None
    costs = over_k(setup, lengths=lengths)
    own = simulate(measured.setup, lengths=measured.lengths) if measured else None
    findings = [*(measured.findings if measured else ()), *([ASSUMED] if args.example else ())]
    if measured and setup.updates < FEW and "updates" not in {*given, *of_file}:
        what = f"for {setup.updates} updates, as many as the run made; the schedule fills in the first of them"
        findings.append(f"{what}, so say how many yours makes: --set updates=N")
    if args.json:
        told = {
            "schema": "simulate/1",
            "source": measured.source if measured else args.example,
            "setup": {name: getattr(setup, name) for name in FIELDS},
            "proposed": args.devices is not None,
            "splits": [one.to_dict() for one in outcomes],
            "fewer": None if less is None else less.to_dict(),
            "k": [one.to_dict() for one in costs],
            "measured": None if measured is None or own is None else _against(measured, own),
            "findings": findings,
        }
        print(json.dumps(told, indent=1, allow_nan=False))
        return 0
    print(_speeds(setup, measured, own, args.example))
    for finding in findings:
        print(f"  note  {finding}")
    what = "fewest GPU-hours" if args.cheapest else "done first"
    mode = f"{setup.off_policy}-{setup.off_policy_steps}, {setup.updates} updates of {setup.batch_size} completions"
    proposed = f"; {what}: the first line" if args.devices is not None else ""
    print(f"\n{setup.devices} device{'s' * (setup.devices > 1)}, {mode}{proposed}")
    shown = [*outcomes, *([less] if less else [])]
    print(_table(shown, "split", [_named(one.setup) for one in shown]))
    if args.devices is not None:
        print(_how(setup, "the first line"))
    if less is not None:
        print(f"  within 2 % of its time on {less.setup.devices} devices: the last line")
        print(_how(less.setup, "the last line"))
    print(f"\nwhat k costs, {_named(setup)}")
    print(_table(costs, "k", [str(one.setup.off_policy_steps) for one in costs]))
    return 0


def _is_odd(value: Any) -> bool:
    """Return whether a value is a number that JSON has none for."""
    return isinstance(value, float) and not math.isfinite(value)


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Return what --set says, by name."""
    found = {}
    for setting in given:
        name, mark, text = setting.partition("=")
        if not mark or not name.strip():
            raise UserError(f"--set: {setting!r} is not key=value")
        found[name.strip()] = text
    return found


def _file(path: str | None) -> dict[str, Any]:
    """Return what a YAML file says, by name."""
    if path is None:
        return {}
    import yaml

    from scalerl.runlog import read_regular

    try:
        found = yaml.safe_load(read_regular(path))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: is not a list of `key: value` lines")
    return found


def _named(setup: Setup) -> str:
    if setup.in_turn:
        return f"{setup.generators} in turn"
    return f"{setup.generators} + {setup.learners}"


def _how(setup: Setup, line: str) -> str:
    """Return what says how to run the split of a line."""
    if setup.in_turn:
        return f"  {line}: generator=inline, as scalerl train begins"
    slots = setup.generators * setup.slots
    nodes = f"--nproc-per-node {setup.learners}"
    if setup.learners > NODE:  # as many as divide them evenly
        a_node = max(n for n in range(1, NODE + 1) if setup.learners % n == 0)
        nodes = f"--nnodes {setup.learners // a_node} --nproc-per-node {a_node}"
    learners = f"torchrun {nodes} -m scalerl train, with " if setup.learners > 1 else ""
    kind = "process" if setup.generators == 1 and setup.learners == 1 else "ray"
    return f"  {line}: {learners}--set generator={kind} --set generators={setup.generators} --set slots={slots}"


def _speeds(setup: Setup, measured: Measured | None, own: Outcome | None, example: str | None) -> str:
    """Return the lines that say what is known of the devices."""
    source = f"speeds of {measured.source}" if measured else f"example {example}" if example else "speeds as given"
    train = f"{1 / setup.train_token_s:,.0f} tokens/s" if setup.train_token_s else "no time"
    each = f"a token takes {setup.token_s:.3g} s and {setup.slot_s:.3g} s for each completion in work"
    once = setup.update_s + setup.batch_size * setup.completion_s
    lines = [
        source,
        f"  a generator  {setup.tokens_per_s:,.0f} tokens/s with {setup.slots} slots full; {each}",
        f"  a learner    {train}, and {once:.3g} s an update; {setup.kept_share:.0%} of the tokens are trained",
        f"  completions  {setup.length_mean:,.0f} +- {setup.length_sd:,.0f} tokens, cut at {setup.max_new_tokens:,}",
    ]
    if measured and own:
        held = _against(measured, own)
        lag = "" if held["lag_mean"] is None else f", mean lag {own.lag_mean:.2f} of {held['lag_mean']:.2f}"
        lines.append(f"  held against that run: {own.wall_s:.4g} s of {held['wall_s']:.4g} s measured{lag}")
    return "\n".join(lines)


def _against(measured: Measured, own: Outcome) -> dict[str, Any]:
    """Return what the run itself took, and what it is simulated to take."""
    truth = measured.truth
    return {**truth._asdict(), "simulated_wall_s": own.wall_s, "simulated_lag_mean": own.lag_mean}


def _table(outcomes: Sequence[Outcome], first: str, names: Sequence[str]) -> str:
    """Return a line for each outcome."""
    head = (first, "hours", "GPU-hours", "updates/h", "lag", "at most", "generators idle", "learner idle")
    rows = [
        (
            name,
            f"{one.wall_s / 3600:.4g}",
            f"{one.gpu_hours:.4g}",
            f"{one.updates_per_hour:.4g}",
            f"{one.lag_mean:.2f}",
            f"{one.lag_max}",
            f"{one.generator_idle_share:.0%}",
            f"{one.learner_idle_share:.0%}",
        )
        for name, one in zip(names, outcomes, strict=True)
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
    )
