"""Rates out of the log of a run: what its devices took for a token, a trained token and an update.

Decoding is told apart into what a pass takes however little is in it (`token_s`) and what each completion in work adds
(`slot_s`) where the run shows it: where its rows differ in how many were in work. How many is not logged; the run's own
schedule is followed to find out. Otherwise all of it is `slot_s`, and a finding says so; a second run with
other slots helps.

A token of a prompt takes a third of a trained one, which is run backward, too. What a pass of prompts takes besides
(`start_s`) is the rest of `prefill_s` in the log; without that, as of vLLM, it takes as long as a pass without prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalerl.runlog import HEADER_FILE, LOG_FILE, SAMPLES_FILE, UserError, log_in, read_header, read_log, read_regular
from scalerl.simulate.engine import Simulation, Update
from scalerl.simulate.outcome import Drawn
from scalerl.simulate.setup import SECONDS, Setup

APART = 0.1  # standard deviation of the completions in work, as a share of their mean, from which token_s can be told
FORWARD = 1 / 3  # of forward and backward
WANTED = ("generate_s", "train_s", "score_s", "gpu_hours", "length_mean", "reward_count", "tokens_generated")
FEWEST = 3  # updates
LENGTHS = 2000  # of a lognormal distribution, where the samples show none


class Truth(NamedTuple):
    """What the run itself took."""

    updates: int
    wall_s: float
    gpu_hours: float
    lag_mean: float | None
    """None where the log does not say."""


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
    read = [_read(run) for run in runs]
    first = read[0]
    setup, findings = _train(read)
    setup, more = _decode(read, setup)
    source = ", ".join(f"{one.folder} ({one.truth.updates} updates)" for one in read)
    return Measured(setup, first.lengths, first.truth, source, (*first.findings, *findings, *more))


class _Run(NamedTuple):
    """What is read of one."""

    folder: str
    setup: Setup
    lengths: tuple[int, ...]
    rows: dict[str, np.ndarray]
    truth: Truth
    findings: tuple[str, ...]


def _read(folder: str) -> _Run:
    header = read_header(folder)
    rows = [row for row in read_log(log_in(folder)).rows if row.get("kind") == "step"]
    missing = [name for name in WANTED if any(not _is_number(row.get(name)) for row in rows)]
    if missing:
        raise UserError(
            f"{folder}/{LOG_FILE}: its updates do not say {', '.join(missing)}, as those of scalerl train do"
        )
    if len(rows) < FEWEST:
        raise UserError(f"{folder}/{LOG_FILE}: {len(rows)} updates; rates take {FEWEST} at least")
    config, devices = header.get("config"), header.get("devices")
    if not isinstance(config, dict):
        raise UserError(f"{folder}/{HEADER_FILE}: says no config, so the schedule of the run is not known")
    held: Any = devices.get("count") if isinstance(devices, dict) else None
    if not _is_number(held) or held < 1:
        raise UserError(f"{folder}/{HEADER_FILE}: devices.count is {held!r}, no number of devices")
    try:
        return _of_rows(folder, config, int(held), rows)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"its config is not that of a run of scalerl train ({error!r})"
        raise UserError(f"{folder}/{HEADER_FILE}: {what}") from error


def _of_rows(folder: str, config: Mapping[str, Any], held: int, rows: Sequence[Mapping[str, Any]]) -> _Run:
    """Return what the rows of updates say; other errors than `UserError` mean a config that is none of ours."""
    columns = {name: np.array([row[name] for row in rows], dtype=float) for name in WANTED}
    columns["wall_s"] = np.diff(columns["gpu_hours"], prepend=0.0) * 3600.0 / held
    columns["generated"] = np.diff(columns["tokens_generated"], prepend=0.0)
    trained = [row.get("tokens_trained") for row in rows]
    columns["trained"] = np.diff([np.nan if count is None else float(count) for count in trained], prepend=0.0)
    columns["batch"] = columns["length_mean"] * columns["reward_count"]
    busy = [row.get("generator_busy_s") for row in rows]
    apart = config.get("generator", "inline") != "inline"
    generators = int(config.get("generators", 1)) if apart else 1
    if apart and not all(map(_is_number, busy)):
        what = f"has no generator_busy_s, though {HEADER_FILE} says that a process generated"
        raise UserError(f"{folder}/{LOG_FILE}: {what}")
    if not apart and held > 1:
        what = f"{held} processes trained, and the first generated for all of them"
        raise UserError(f"{folder}: {what}; read speeds from a run on one device, or with generators of its own")
    columns["decode_s"] = np.array(busy, dtype=float) * generators if apart else columns["generate_s"]
    prefill = [row.get("prefill_s") for row in rows]
    columns["prefill_s"] = np.array(prefill if all(map(_is_number, prefill)) else np.nan, dtype=float) * generators
    lags: list[Any] = [row.get("lag_mean") for row in rows]
    lag = float(np.average(lags, weights=columns["batch"])) if all(map(_is_number, lags)) else None
    lengths, prompt, findings = _lengths(folder, rows, config)
    setup = _setup(config, columns, generators, lengths, rows, apart=apart, held=held, prompt_length=prompt)
    setup.check()
    if setup.devices > held:
        findings.append(f"{folder}: generator and learner shared {held} device; here each has its own")
    if (columns["reward_count"] != setup.batch_size).any():
        findings.append(f"{folder}: the batch changed while the run went on; {setup.batch_size} completions are taken")
    truth = Truth(len(rows), float(columns["wall_s"].sum()), float(columns["gpu_hours"][-1]), lag)
    return _Run(folder, setup, tuple(lengths), columns, truth, tuple(findings))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _setup(
    config: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
    generators: int,
    lengths: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    *,
    apart: bool,
    held: int,
    prompt_length: float,
) -> Setup:
    """Return the setup of a run without its rates."""
    slots = config.get("slots") or config["batch_size"]
    forced = float(columns["batch"].sum())
    kept = float(columns["trained"].sum()) / forced
    return Setup(
        generators=generators,
        learners=max(1, held - generators) if apart else 1,
        in_turn=not apart,
        slots=max(1, slots // generators),
        batch_size=config["batch_size"],
        generations_per_prompt=config["generations_per_prompt"],
        off_policy=config.get("off_policy", "pipeline"),
        off_policy_steps=config["off_policy_steps"],
        lead=config.get("lead", "full"),
        updates=len(rows),
        length_mean=float(np.mean(lengths)),
        length_sd=float(np.std(lengths)),
        max_new_tokens=config["thinking_tokens"] + config["solution_tokens"],
        prompt_length=prompt_length,
        token_s=0.0,
        slot_s=1.0,
        kept_share=1.0 if np.isnan(kept) else min(1.0, kept),
        completion_s=float(columns["score_s"].sum() / columns["reward_count"].sum()),
    )


def _lengths(
    folder: str, rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> tuple[list[int], float, list[str]]:
    """Lengths as spread as those of the samples, in characters, with the mean that the log has in tokens; and prompts,
    whose mean is taken to have as many characters a token.
    """
    mean = float(np.average([row["length_mean"] for row in rows], weights=[row["reward_count"] for row in rows]))
    longest = config["thinking_tokens"] + config["solution_tokens"]
    try:
        lines = read_regular(Path(folder) / SAMPLES_FILE).decode("utf-8", errors="replace").splitlines()
        read = [json.loads(line) for line in lines]
        characters = np.array([len(one["completion"]) for one in read], dtype=float)
        asked = float(np.mean([len(one["prompt"]) for one in read]))
    except (UserError, ValueError, KeyError, TypeError):
        characters, asked = np.array([]), 0.0
    if len(characters) < 2 or not characters.mean():
        setup = Setup(length_mean=mean, length_sd=mean / 2, max_new_tokens=longest)
        drawn = Drawn(setup, None, 0)
        why = f"{folder}: no samples show how long completions are; taken as lognormal, sd half of the mean"
        return [drawn[i] for i in range(LENGTHS)], float(config["prompt_tokens"]), [why]
    found = characters
    for _ in range(20):  # cutting moves the mean
        found = np.clip(found * mean / found.mean(), 1, longest)
    prompt = min(float(config["prompt_tokens"]), asked * mean / float(characters.mean()))
    return np.rint(found).astype(int).tolist(), prompt, []


def _train(read: Sequence[_Run]) -> tuple[Setup, list[str]]:
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
    slope, once = _line(tokens, seconds)
    learners = setup.generators if setup.in_turn else setup.learners
    token_s, update_s = slope * learners, once + max(0.0, float(other.mean()))
    return replace(setup, update_s=update_s, train_token_s=token_s, prefill_s=FORWARD * token_s), findings


def _decode(read: Sequence[_Run], rates: Setup) -> tuple[Setup, list[str]]:
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


def _follow(one: _Run, rates: Setup) -> list[Update]:
    """Simulate a run with its own devices and recipe, and rates read so far."""
    setup = replace(one.setup, **{name: getattr(rates, name) for name in SECONDS})
    return Simulation(setup, Drawn(setup, one.lengths, 0)).run(setup.updates)


def _parts(
    one: _Run, rows: Sequence[Update], rates: Setup, *, clocked: bool
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
