"""Evaluate a policy on held-out prompts: mean@k, with the counts of every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from scalerl.completions import Completion, Request
from scalerl.config import ScaleRLConfig
from scalerl.data import DataSet, for_reward
from scalerl.forward import AnyForward, AnyWeights
from scalerl.learner import Learner
from scalerl.policy import Policy
from scalerl.rewards import Inline, Score, Scorer
from scalerl.sampler import own_generator
from scalerl.tasks import Thinking

SLOTS = 512
SAMPLES_KEPT = 4


class Evaluation(NamedTuple):
    """The completions of a data set, k of each prompt after those of the one before, and what they were worth."""

    row: dict[str, Any]
    """Fields of an eval row."""
    data: DataSet
    completions: list[Completion]
    texts: list[str]
    scores: list[Score]

    @property
    def pass_rate(self) -> float:
        """Share of correct completions."""
        return float(self.row["pass_rate"])

    def samples(self) -> list[dict[str, Any]]:
        """Return the first completion of the first few prompts, to read."""
        firsts = [index * self.row["k"] for index in range(min(SAMPLES_KEPT, len(self.data.items)))]
        return [
            {
                "prompt": item["prompt"],
                "completion": self.texts[first],
                "answer": item["answer"],
                "right": self.scores[first].right,
                "reward": self.scores[first].reward,
                "error": self.scores[first].error,
                "truncated": self.completions[first].truncated,
            }
            for item, first in zip(self.data.items, firsts, strict=False)
        ]


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
    """Evaluate the policy that is trained; without a scorer the task scores, in this process.

    The noise comes from a stream of its own for each step: evaluations neither disturb training nor share their
    errors with one another, and two recipes are asked with the same noise at the same step. `prompts` are those of the
    data, where they were encoded before.
    """
    if scorer is None:
        scorer = Inline(task.score)  # type: ignore[attr-defined]  # it is a whole Task then
    if prompts is None:
        prompts = [policy.encode_item(item) for item in data.items]
    held: dict[str, Any] = {"forward": learner.forward, "weights": learner.weights()}
    return grade(learner.config, policy, task, data, **held, scorer=scorer, prompts=prompts, step=step)


def grade(
    config: ScaleRLConfig,
    policy: Policy,
    task: Thinking,
    data: DataSet,
    *,
    forward: AnyForward,
    weights: AnyWeights,
    scorer: Scorer,
    prompts: Sequence[tuple[int, ...]],
    step: int,
) -> Evaluation:
    """Sample `eval_generations` completions of every encoded prompt with the noise of a step, and score them."""
    k = config.eval_generations
    completions = sample(config, policy, task, forward, weights, prompts=prompts, step=step)
    texts = [policy.decode(completion.tokens) for completion in completions]
    items = [for_reward(item) for item in data.items]
    scores = scorer.score([(items[index // k], text) for index, text in enumerate(texts)])
    right = [score.right for score in scores]
    correct = [sum(right[first : first + k]) for first in range(0, len(right), k)]
    row = {
        "pass_rate": sum(correct) / len(completions),
        "n_prompts": len(correct),
        "k": k,
        "correct": correct,
        "prompt_set": data.sha256,
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
        "sampling_seed": config.eval_seed,
        "length_mean": sum(len(c.tokens) for c in completions) / len(completions),
        "truncation_rate": sum(c.truncated for c in completions) / len(completions),
        "reward_errors": sum(score.error is not None for score in scores),
    }
    return Evaluation(row, data, completions, texts, scores)


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
    generator = own_generator(
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
