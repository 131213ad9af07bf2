"""The log of a run as the simulation reads it: its devices and recipe, seconds of every update, and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalerl.runlog import HEADER_FILE, LOG_FILE, SAMPLES_FILE, UserError, log_in, read_header, read_log, read_regular
from scalerl.simulate.outcome import Drawn
from scalerl.simulate.setup import Setup

WANTED = ("generate_s", "train_s", "score_s", "gpu_hours", "length_mean", "reward_count", "tokens_generated")
FEWEST = 3  # updates
LENGTHS = 2000  # of a lognormal distribution, where the samples show none
BUSY = 0.8  # CPU-seconds of a second of work on a CPU; with fewer, others were at work there


class Truth(NamedTuple):
    """What the run itself took."""

    updates: int
    wall_s: float
    gpu_hours: float
    lag_mean: float | None
    """None where the log does not say."""


class LoggedRun(NamedTuple):
    """What is read of one; `setup` without its rates, `rows` by name, (updates,) each."""

    folder: str
    setup: Setup
    lengths: tuple[int, ...]
    rows: dict[str, np.ndarray]
    truth: Truth
    findings: tuple[str, ...]


def read_logged(folder: str) -> LoggedRun:
    """Read a run folder; see `scalerl.simulate.measured.measure`."""
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
        found = _of_rows(folder, config, int(held), rows)
        cores = isinstance(devices, dict) and devices.get("kind") == "cpu process" and config.get("threads", 1) == 1
        return found._replace(findings=(*found.findings, *_busy(found, rows))) if cores else found
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"its config is not that of a run of scalerl train ({error!r})"
        raise UserError(f"{folder}/{HEADER_FILE}: {what}") from error


def _of_rows(folder: str, config: Mapping[str, Any], held: int, rows: Sequence[Mapping[str, Any]]) -> LoggedRun:
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
    return LoggedRun(folder, setup, tuple(lengths), columns, truth, tuple(findings))


def _busy(found: LoggedRun, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say that processes of one thread waited for their core while they worked."""
    columns, cpu_s = found.rows, rows[-1].get("cpu_s")
    if not isinstance(cpu_s, (int, float)):
        return []
    waited = 0.0 if found.setup.in_turn else float(columns["decode_s"].sum() - columns["generate_s"].sum())
    scoring = float(columns["score_s"].sum())  # by processes of its own, maybe
    share = cpu_s / (float(columns["wall_s"].sum()) - scoring + waited)
    if share >= BUSY:
        return []
    what = f"{found.folder}: it had {share:.2f} s of a core for every second of work: others were at work there, and"
    return [f"{what} speeds are those of a busy machine; read a run of a quiet one"]


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
        micro_batch_tokens=float(config.get("micro_batch_tokens", 0)),
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
