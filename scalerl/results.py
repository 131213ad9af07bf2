"""Evaluate a saved policy on data sets: mean@k, pass@k, majority@k with intervals, as a file and as rows of a run.

What is sampled is what the run's own evaluations would sample: the same generator, lengths, interruption and noise. The
policy of step n, asked with the configuration of its run, gives the counts that the log has for step n.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

import scalerl
from scalerl.architectures import beyond_positions, beyond_text
from scalerl.config import ScaleRLConfig, change_config, load_config
from scalerl.data import DataSet, encode_prompts, load_data
from scalerl.evaluate import Evaluation, grade
from scalerl.generic import make_forward
from scalerl.modelcard import read_facts
from scalerl.passk import Interval, majority, over_prompts, pass_at_k, powers
from scalerl.places import read_latest
from scalerl.policy import Policy
from scalerl.preparing.readers import DataError
from scalerl.rewards import Failed, make_scorer
from scalerl.runlog import COMPUTE_AXES, LOG_FILE, UserError, log_in, read_log
from scalerl.sampler import interruption
from scalerl.saved import Saved, step_of
from scalerl.scoring import answer_of
from scalerl.tasks import thinking_of

SCHEMA = "evaluation/1"


class Scored(NamedTuple):
    """Scores of one saved policy on data sets."""

    found: dict[str, Any]
    """What ``results.json`` holds."""
    rows: list[dict[str, Any]]
    """For the log of the run, `append_downstream`; empty where none was named."""


def run_config(run: Path, settings: Sequence[str]) -> ScaleRLConfig:
    """Return the configuration of a run with changes, for all prompts of a data set."""
    config = read_latest(run).get("config")
    if not isinstance(config, dict):
        raise UserError(f"{run}: its run.json has no configuration; give one with --config")
    return change_config({**config, "eval_prompts": None}, settings)


def policy_config(folder: Path, settings: Sequence[str]) -> ScaleRLConfig | None:
    """Return the configuration that a policy of the trainer carries with it, with changes; None where there is none."""
    known = read_facts(folder) if folder.is_dir() else None
    config = None if known is None else known.get("config")
    return change_config({**config, "eval_prompts": None}, settings) if isinstance(config, dict) else None


def fitting_config(policy: Policy, files: Sequence[str], settings: Sequence[str]) -> ScaleRLConfig:
    """Return a configuration for a model alone: as long as the model and the defaults take, nothing forced.

    Raises
    ------
    UserError
        If the longest prompt leaves no room for a completion.
    """
    policy = policy.formatted(load_config().prompt_format)
    longest = max(len(policy.encode_item(item)) for file in files for item in load_data(file).items)
    default = load_config()
    most = min(default.max_length, getattr(policy.model.config, "max_position_embeddings", None) or default.max_length)
    before = max(1, min(longest, default.prompt_tokens))
    if most - before < 2:
        raise UserError(
            f"max_length: the model takes {most} tokens and the longest prompt has {longest}; "
            "give lengths with --set prompt_tokens=... and the others, or --config"
        )
    lengths = {"max_length": most, "prompt_tokens": before, "thinking_tokens": most - before - 1, "solution_tokens": 1}
    return change_config({**lengths, "length_control": "none", "dtype": "float32"}, settings)


def evaluate_saved(
    saved: Saved,
    config: ScaleRLConfig,
    files: Sequence[str],
    *,
    run: Path | None = None,
    step: int | None = None,
    sampling_step: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Scored:
    """Evaluate a policy on data sets; with `run`, also make a row for each that its log takes. Writes nothing.

    Parameters
    ----------
    run, step : optional
        The run whose log shall have rows, and the update of it that the policy is from.
    sampling_step : int
        Without `run`: the update whose noise is sampled with, as `noise_of` finds it.

    Raises
    ------
    UserError
        If a data set, the configuration or the run cannot be used; before anything was sampled.
    """
    policy = saved.policy.formatted(config.prompt_format, config.system_prompt)
    task = thinking_of(config)
    names = data_set_names(files)
    interruption(config, policy, task)  # says what is wrong with the phrase
    forward = make_forward(policy.model, config.max_length, getattr(torch, config.dtype))
    if (made_for := beyond_positions(policy.model, config.max_length)) is not None:
        say(beyond_text(config.max_length, made_for))
    loaded = [_load(file, policy, config, say) for file in files]
    axes = None if run is None else axes_at(run, saved, step)
    held: dict[str, Any] = {"forward": forward, "weights": forward.weights(fp32_head=config.use_fp32_lm_head)}
    number = sampling_step if axes is None else int(axes["step"])
    about = {"model": saved.about["path"], "model_sha256": saved.about["sha256"]}
    tables, rows = [], []
    with closing(make_scorer(config)) as scorer:  # before the first token: it says if there is no such reward
        for name, (data, prompts) in zip(names, loaded, strict=True):
            began = time.perf_counter()
            with torch.inference_mode():
                done = grade(config, policy, task, data, **held, scorer=scorer, prompts=prompts, step=number)
            seconds = time.perf_counter() - began
            tables.append({"name": name, **describe(config, done), "evaluate_s": seconds})
            if axes is not None:
                rows.append({**axes, "data_set": name, **done.row, "evaluate_s": seconds, **about})
    found = {
        "schema": SCHEMA,
        "model": {**saved.about, "parameters": sum(p.numel() for p in policy.model.parameters())},
        "run": None if run is None else {"folder": str(run), **(axes or {})},
        "k": config.eval_generations,
        "sampling_seed": config.eval_seed,
        "sampling_step": number,
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
        "intervals": "95 %, over prompts; see scalerl.passk.over_prompts",
        "data": tables,
        "config": config.model_dump(),
        "versions": {"scalerl": scalerl.__version__, "python": platform.python_version(), "torch": torch.__version__},
    }
    return Scored(found, rows)


def describe(config: ScaleRLConfig, done: Evaluation) -> dict[str, Any]:
    """Return the scores of one data set, with what they are made from."""
    row, data = done.row, done.data
    k, correct = row["k"], row["correct"]
    answer, asked = answer_of(config), config.reward or config.task
    votes = None
    if answer is not None:
        answers, right = [answer(text) for text in done.texts], [score.right for score in done.scores]
        firsts = range(0, len(answers), k)
        votes = [majority(answers[first : first + k], right[first : first + k]) for first in firsts]
    return {
        "file": data.path,
        "sha256": data.sha256,
        "n_prompts": row["n_prompts"],
        "dropped": data.dropped,
        "mean_at_k": _interval(over_prompts([c / k for c in correct])),
        "pass_at_k": {str(n): _interval(over_prompts([pass_at_k(c, k, n) for c in correct])) for n in powers(k)},
        "majority_at_k": None if votes is None else _interval(over_prompts(votes)),
        "majority_missing": None if votes is not None else f"{asked} cannot tell the answer from a completion",
        "length_mean": row["length_mean"],
        "truncation_rate": row["truncation_rate"],
        "reward_errors": row["reward_errors"],
        "reward_error": Failed.among(done.scores).first,
        "correct": correct,
        "majority": votes,
        "samples": done.samples(),
    }


def _interval(interval: Interval) -> dict[str, float]:
    return interval._asdict()


def _load(
    file: str, policy: Policy, config: ScaleRLConfig, say: Callable[[str], None]
) -> tuple[DataSet, list[tuple[int, ...]]]:
    unknown = policy.unknown_id
    data = load_data(file, limit=config.eval_prompts)
    kept, prompts = encode_prompts(data, policy.encode_item, prompt_tokens=config.prompt_tokens, unknown_id=unknown)
    if kept.dropped:
        say(f"{file}: {kept.dropped} of {len(data.items)} prompts, over prompt_tokens {config.prompt_tokens}, left out")
    return kept, prompts


def data_set_names(files: Sequence[str]) -> list[str]:
    """Return the name of each data set: of its file, or where two files share one, of folder and file.

    Raises
    ------
    DataError
        If a file is given twice.

    Examples
    --------
    >>> data_set_names(["math/test.json", "code/test.json", "aime.json"])
    ['math/test', 'code/test', 'aime']
    """
    if len({Path(file).resolve() for file in files}) < len(files):
        raise DataError("--eval-data: a file is given twice")
    stems = [Path(file).stem for file in files]
    return [
        stem if stems.count(stem) == 1 else f"{Path(file).resolve().parent.name}/{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]


def noise_of(saved: Saved, home: Path | None) -> int:
    """Return the update that a policy is from, as far as the run that it lies in or it itself tells; else 0."""
    path, sha256 = saved.about["path"], saved.about["sha256"]
    known = None
    if home is not None:
        with suppress(UserError):  # a folder that is no run of ours, or without a log
            known = step_of(path, home, sha256, read_log(log_in(home)).rows)
    elif Path(path).is_dir():
        compute = (read_facts(Path(path)) or {}).get("compute")
        known = compute.get("step") if isinstance(compute, dict) else None
    return known if isinstance(known, int) and known > 0 else 0


def axes_at(run: Path, saved: Saved, step: int | None) -> dict[str, Any]:
    """Return the compute axes that a run had when it made the policy.

    Raises
    ------
    UserError
        If the update is not known, or the log has no row of it.
    """
    rows = read_log(run / LOG_FILE).rows
    known = step_of(saved.about["path"], run, saved.about["sha256"], rows)
    if step is not None and known is not None and step != known:
        raise UserError(f"--step {step}: {saved.about['path']} is from step {known} of {run}")
    number = known if step is None else step
    if number is None:
        raise UserError(f"{saved.about['path']}: it cannot be told at which step of {run} it was; give --step N")
    for row in reversed(rows):
        if row.get("kind") in ("step", "eval") and row.get("step") == number:
            return {axis: row[axis] for axis in COMPUTE_AXES if axis in row}
    raise UserError(f"{run / LOG_FILE}: has no row of step {number}, so its compute is not known")
