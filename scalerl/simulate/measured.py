"""Rates out of the log of a run: what its devices took for a token, a trained token and an update.

Decoding is told apart into what a pass takes however little is in it (`token_s`) and what each completion in work adds
(`slot_s`) where the run shows it: where its rows differ in how many were in work. How many is not logged; the run's own
schedule is followed to find out. Otherwise all of it is `slot_s`, and a finding says so; a second run with
other slots helps.

A token of a prompt takes a third of a trained one, which is run backward, too. What a pass of prompts takes besides
(`start_s`) is the rest of `prefill_s` in the log; without that, as of vLLM, it takes as long as a pass without prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalerl.simulate.engine import Simulation, Update
from scalerl.simulate.logged import LoggedRun, Truth, read_logged
from scalerl.simulate.outcome import Drawn
from scalerl.simulate.setup import SECONDS, Setup

APART = 0.1  # standard deviation of the completions in work, as a share of their mean, from which token_s can be told
FORWARD = 1 / 3  # of forward and backward
VAGUE = 0.1  # of an update: standard error of what it takes besides its tokens


@dataclass(frozen=True)
class Measured:
    """A run's devices, recipe and rates."""

    setup: Setup
    lengths: tuple[int, ...]
    truth: Truth
    source: str
    findings: tuple[str, ...]


def measure(*runs: str) -> Measured:
    """Read rates from run folders; devices and recipe are those of the first.

    Parameters
    ----------
    *runs : str
        Folders that ``scalerl train`` wrote, of one model on one kind of device.

    Raises
    ------
    UserError
        If a folder holds no such run, or too few updates.

    Examples
    --------
    >>> found = measure("data/runs/scalerl")
    >>> found.setup.slots, found.setup.in_turn, 0.2 < found.truth.wall_s / found.truth.updates < 2
    (512, True, True)
    """
    read = [read_logged(run) for run in runs]
    first = read[0]
    setup, findings = _train(read)
    setup, more = _decode(read, setup)
    source = ", ".join(f"{one.folder} ({one.truth.updates} updates)" for one in read)
    return Measured(setup, first.lengths, first.truth, source, (*first.findings, *findings, *more))


def _train(read: Sequence[LoggedRun]) -> tuple[Setup, list[str]]:
    """Seconds of a trained token, and of an update besides, by least squares over all updates."""
    setup, findings = read[0].setup, []
    tokens = np.concatenate([one.rows["trained"] for one in read])
    if np.isnan(tokens).any():
        findings.append(f"{read[0].folder}: its log does not say tokens_trained; all are taken to be trained")
        tokens = np.concatenate([one.rows["batch"] for one in read])
    seconds = np.concatenate([one.rows["train_s"] for one in read])
    # What an update takes besides its phases: rows written, prompts drawn.
    other = np.concatenate(
        [one.rows["wall_s"] - one.rows["generate_s"] - one.rows["score_s"] - one.rows["train_s"] for one in read]
    )
    shares = []  # of the learner that had most
    for one, trained in zip(
        read, np.split(tokens, np.cumsum([len(one.rows["batch"]) for one in read])[:-1]), strict=True
    ):
        learners = one.setup.generators if one.setup.in_turn else one.setup.learners
        kept = trained / np.maximum(one.rows["batch"], 1.0) * one.rows["reward_count"]
        shares.append(trained * one.setup.busiest(trained, kept, learners))
    token_s, once = _line(share := np.concatenate(shares), seconds)
    update_s = once + max(0.0, float(other.mean()))
    if (sd := _intercept_sd(share, seconds)) > VAGUE * float(seconds.mean()):
        known = (
            f"known to +- {2 * sd:.2g} s only"
            if math.isfinite(sd)
            else "not told from tokens, of which all have as many"
        )
        what = f"update_s {update_s:.3g} s is {known}, of updates that take {seconds.mean():.3g} s"
        findings.append(f"{what}; it says how far more learners pay: read a longer run, or a --run with another batch")
    return replace(setup, update_s=update_s, train_token_s=token_s, prefill_s=FORWARD * token_s), findings


def _decode(read: Sequence[LoggedRun], rates: Setup) -> tuple[Setup, list[str]]:
    """Seconds of a token, of each completion in work, and of starting some, from following every run's own schedule."""
    setup = rates
    clocked = not any(np.isnan(one.rows["prefill_s"]).any() for one in read)
    for _ in range(1 if setup.in_turn else 2):  # beside a learner the schedule depends on the rates
        followed = [_follow(one, setup) for one in read]
        found = [_parts(one, rows, setup, clocked=clocked) for one, rows in zip(read, followed, strict=True)]
        passes, decoded, seconds = (np.concatenate(each) for each in zip(*found, strict=True))
        live = decoded / passes
        # How many were in work beside a learner is known about, not exactly: one such run would say anything.
        sure = setup.in_turn or len(read) > 1
        if not sure or float(live.std() / live.mean()) < APART:
            token_s, slot_s = 0.0, float(seconds.sum() / decoded.sum())
        else:
            token_s, slot_s = _line(live, seconds / passes)[::-1]
            factor = float(seconds.sum() / (token_s * passes + slot_s * decoded).sum())
            token_s, slot_s = token_s * factor, slot_s * factor
        setup = replace(setup, token_s=token_s, slot_s=slot_s)
        if clocked:
            starts = sum(rows[-1].passes - rows[-1].ticks for rows in followed)
            tokens = sum(rows[-1].prefilled for rows in followed)
            took = float(sum(one.rows["prefill_s"].sum() for one in read))
            prefill_s = min(rates.prefill_s, took / tokens / 2) if tokens else rates.prefill_s
            setup = replace(setup, prefill_s=prefill_s, start_s=(took - tokens * prefill_s) / starts)
    if token_s:
        return setup, []
    why = f"all updates had {live.min():.0f} to {live.max():.0f} completions in work, so what a token takes with few is"
    advice = "on a GPU that is too little: add a second --run with other slots, or --set token_s=SECONDS"
    return setup, [f"{why} not known, and token_s is 0; {advice}"]


def _follow(one: LoggedRun, rates: Setup) -> list[Update]:
    """Simulate a run with its own devices and recipe, and rates read so far."""
    setup = replace(one.setup, **{name: getattr(rates, name) for name in SECONDS})
    return Simulation(setup, Drawn(setup, one.lengths, 0)).run(setup.updates)


def _parts(
    one: LoggedRun, rows: Sequence[Update], rates: Setup, *, clocked: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every update, passes of the generators, tokens that they decoded one by one, and the seconds of both.

    Passes with prompts are among them where prompts have no clock.
    """
    passes, decoded, prefilled = (
        _steps(rows, name) for name in ("ticks" if clocked else "passes", "decoded", "prefilled")
    )
    prompts = one.rows["prefill_s"] if clocked else prefilled * rates.prefill_s
    told = (passes > 0) & (one.rows["generated"] > 0)
    # The rows' own tokens, in the simulated proportion of those decoded one by one: the others come with a prompt.
    share = decoded.sum() / one.rows["generated"].sum()
    own = one.rows["generated"] * share
    scaled = passes * np.divide(own, decoded, out=np.ones_like(own), where=decoded > 0)
    return scaled[told], own[told], np.maximum(one.rows["decode_s"] - prompts, 0.0)[told]


def _steps(rows: Sequence[Update], name: str) -> np.ndarray:
    return np.diff([float(getattr(row, name)) for row in rows], prepend=0.0)


def _intercept_sd(x: np.ndarray, y: np.ndarray) -> float:
    """Standard error of the intercept of least squares.

    Examples
    --------
    >>> round(_intercept_sd(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.5, 2.5, 4.0])), 3)  # (.45 / 2 x 1.5)^.5
    0.581
    """
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread == 0.0:
        return math.inf
    rest = y - y.mean() - centred * float(centred @ y) / spread
    return math.sqrt(float(rest @ rest) / (len(x) - 2) * (1.0 / len(x) + float(x.mean()) ** 2 / spread))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of least squares, neither below 0.

    Examples
    --------
    >>> slope, intercept = _line(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0]))
    >>> round(slope, 9), round(intercept, 9)
    (2.0, 1.0)
    >>> _line(np.array([1.0, 2.0]), np.array([1.0, 3.0]))[1]
    0.0
    """
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread if spread > 0.0 else 0.0
    intercept = float(y.mean() - slope * x.mean())
    if slope < 0.0:
        return 0.0, float(y.mean())
    if intercept < 0.0 or spread == 0.0:
        return float(x @ y / (x @ x)), 0.0
    return slope, intercept
