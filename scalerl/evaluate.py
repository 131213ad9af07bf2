"""Evaluate a policy on held-out prompts: mean@k, with the counts of every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from scalerl.completions import Completion, Request
from scalerl.config import ScaleRLConfig
from scalerl.data import DataSet
from scalerl.forward import AnyForward, AnyWeights
from scalerl.learner import Learner
from scalerl.policy import Policy
from scalerl.rewards import Inline, Score, Scorer
from scalerl.sampler import make_generator
from scalerl.tasks import Thinking

SLOTS = 512
SAMPLES_KEPT = 4


class Evaluation(NamedTuple):
    """Fields of an eval row, and a few completions to read."""

    row: dict[str, Any]
    samples: list[dict[str, Any]]
    scores: list[Score]
    """Of every completion, in the order in which they were finished."""

    @property
    def pass_rate(self) -> float:
        """Share of correct completions."""
        correct: list[int] = self.row["correct"]
        return sum(correct) / (len(correct) * int(self.row["k"]))


def evaluate(
    learner: Learner,
    policy: Policy,
    task: Thinking,
    data: DataSet,
    step: int,
    *,
    scorer: Scorer | None = None,
    prompts: Sequence[tuple[int, ...]] | None = None,
) -> Evaluation:
    """Sample `eval_generations` completions of every prompt and count the correct ones.

    The noise comes from a stream of its own for each step: evaluations neither disturb training nor share their
    errors with one another, and two recipes are asked with the same noise at the same step. Without a scorer the task
    scores, in this process. `prompts` are those of the data, where they were encoded before.
    """
    config = learner.config
    k = config.eval_generations
    if prompts is None:
        prompts = [policy.encode_item(item) for item in data.items]
    completions = sample(config, policy, task, learner.forward, learner.weights(), prompts=prompts, step=step)
    pairs = [(data.items[c.number // k], policy.decode(c.tokens)) for c in completions]
    if scorer is None:
        scorer = Inline(task.score)  # type: ignore[attr-defined]  # it is a whole Task then
    scores = scorer.score(pairs)
    correct = [0] * len(prompts)
    samples = []
    for completion, (item, text), score in zip(completions, pairs, scores, strict=True):
        index, copy = divmod(completion.number, k)
        correct[index] += score.right
        if copy == 0 and index < SAMPLES_KEPT:
            kept = {"step": step, "prompt": item["prompt"], "completion": text, "answer": item["answer"]}
            samples.append({**kept, "reward": score.reward, "truncated": completion.truncated})
    row = {
        "correct": correct,
        "k": k,
        "prompt_set": data.sha256,
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
        "sampling_seed": config.eval_seed,
        "length_mean": sum(len(c.tokens) for c in completions) / len(completions),
        "truncation_rate": sum(c.truncated for c in completions) / len(completions),
        "reward_errors": sum(score.error is not None for score in scores),
    }
    return Evaluation(row, samples, scores)


def sample(
    config: ScaleRLConfig,
    policy: Policy,
    task: Thinking,
    forward: AnyForward,
    weights: AnyWeights,
    *,
    prompts: Sequence[tuple[int, ...]],
    step: int,
) -> list[Completion]:
    """Sample `eval_generations` completions of every encoded prompt with the noise of a step, prompt by prompt."""
    k = config.eval_generations
    generator = make_generator(
        config,
        policy,
        task,
        forward,
        weights,
        slots=min(SLOTS, config.slots or SLOTS, k * len(prompts)),
        seed=config.eval_seed,
        stream=1 + step,
    )
    generator.submit([Request(index * k, k, prompt) for index, prompt in enumerate(prompts)])
    return generator.poll()
