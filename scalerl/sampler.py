"""The generator that a configuration describes: the same for training, for evaluation and in a process of its own."""

from __future__ import annotations

from typing import Any

from scalerl.completions import TRAIN_STREAM, Engine, Interruption
from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyForward, AnyWeights
from scalerl.generate import Generator
from scalerl.policy import Policy
from scalerl.runlog import UserError
from scalerl.tasks import Thinking


def make_generator(
    config: ScaleRLConfig,
    policy: Policy,
    task: Thinking,
    forward: AnyForward,
    weights: AnyWeights,
    *,
    slots: int,
    seed: int,
    stream: int = TRAIN_STREAM,
) -> Engine:
    """Return a generator with the engine, lengths, temperature and interruption of a configuration.

    Raises
    ------
    UserError
        If the interruption phrase cannot be used, see `interruption`, or the engine is not there or not able.
    """
    if config.engine == "own":
        return own_generator(config, policy, task, forward, weights, slots=slots, seed=seed, stream=stream)
    from scalerl.vllmengine import VllmGenerator

    return VllmGenerator(forward, weights, **_settings(config, policy, task), slots=slots, seed=seed, stream=stream)


def own_generator(
    config: ScaleRLConfig,
    policy: Policy,
    task: Thinking,
    forward: AnyForward,
    weights: AnyWeights,
    *,
    slots: int,
    seed: int,
    stream: int = TRAIN_STREAM,
) -> Generator:
    """Return this package's own generator, whatever the configuration's engine; see `make_generator`."""
    return Generator(forward, weights, **_settings(config, policy, task), slots=slots, seed=seed, stream=stream)


def _settings(config: ScaleRLConfig, policy: Policy, task: Thinking) -> dict[str, Any]:
    return {
        "max_new_tokens": config.max_new_tokens,
        "max_length": config.max_length,
        "end_ids": policy.end_ids,
        "temperature": config.temperature,
        "interruption": interruption(config, policy, task),
    }


def interruption(config: ScaleRLConfig, policy: Policy, task: Thinking) -> Interruption | None:
    """Return how thinking is ended by force, in training as in evaluation; None where it is not.

    Raises
    ------
    UserError
        If the phrase does not end the thinking, ends the completion, or is longer than the smallest budget.
    """
    if config.interruption_range is None:
        return None
    low, high = config.interruption_range
    text = config.interruption_phrase or task.interruption
    phrase = policy.encode(text)
    if task.end_of_thinking not in text:
        where = "which is end_of_thinking"
        if config.reward is None:
            where = (
                f"which ends the thinking of task {config.task}, and that scores since no reward is set; is one missing"
            )
        raise UserError(
            f"interruption_phrase: {text!r} does not hold {task.end_of_thinking!r}, {where}"
            + ("?" if config.reward is None else "; so thinking goes on")
        )
    if len(phrase) >= low or not phrase:
        raise UserError(f"interruption_phrase: its {len(phrase)} tokens leave nothing of interruption_tokens = {low}")
    if {policy.unknown_id, *policy.end_ids} & set(phrase):
        raise UserError(f"interruption_phrase: {text!r} holds an end token, or characters the tokenizer does not know")
    return Interruption(
        low, high, phrase, config.solution_tokens, lambda tokens: task.end_of_thinking in policy.decode(tokens)
    )
