"""The loop: prompts, completions, rewards, advantages, an update, new weights for what is half written; and again.

What is left out against GRPO as usually written, and why: no reference model and no KL term (ScaleRL has none), no
value function. `scalerl.start` builds a `Trainer` for a new run or one that goes on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from scalerl.advantage import advantages, keep_prompts, length_penalty, token_weights
from scalerl.checkpoint import write_checkpoint
from scalerl.completions import Completion, Generation, Request
from scalerl.config import ScaleRLConfig
from scalerl.controllers import Controllers
from scalerl.curriculum import PromptPool
from scalerl.data import DataSet, for_reward
from scalerl.describe import (
    completion_fields,
    machine,
    multiplying_weights,
    reward_fields,
    training_flops,
)
from scalerl.evalcsv import write_csv
from scalerl.evaluate import evaluate
from scalerl.guards import SKIPPED, Guards
from scalerl.kept import pack, unpack
from scalerl.learner import Batch, Learner
from scalerl.modelcard import count_evaluations, facts, take_place, write_best, write_card
from scalerl.policy import Policy
from scalerl.rewards import Failed, Score, Scorer
from scalerl.runlog import MODEL_FOLDER, RunLog, read_header
from scalerl.runlog.lost import mark, rows_of
from scalerl.schedule import Schedule
from scalerl.tasks import Thinking

MESSAGES_KEPT = 5


@dataclass
class Progress:
    """What a display is told after every update and evaluation."""

    step: int
    gpu_hours: float
    pass_rate: float
    fraction: float
    """Share of the nearest limit that is used up."""
    evaluated: bool
    """Whether the pass rate is new."""
    note: str = ""
    """What the run decided just now, in words; most of the time nothing."""


@dataclass
class Compute:
    """Cumulative compute axes that the meter does not know."""

    tokens_generated: int = 0
    tokens_trained: int = 0
    flops: float = 0.0


@dataclass
class Trainer:
    """A run in memory, and its loop."""

    config: ScaleRLConfig
    policy: Policy
    task: Thinking
    scorer: Scorer
    train_set: DataSet
    eval_set: DataSet
    prompts: list[tuple[int, ...]]
    """Encoded prompts of the train set."""
    eval_prompts: list[tuple[int, ...]]
    """Those of the evaluation set, encoded once: a chat template may read the clock."""
    log: RunLog
    generator: Generation
    schedule: Schedule
    pool: PromptPool
    learner: Learner
    controllers: Controllers
    log_file: str | None
    report: Callable[[Progress], None]
    guards: Guards = field(default_factory=Guards)
    compute: Compute = field(default_factory=Compute)
    pass_rate: float = 0.0
    epoch: float = 0.0
    """Passes over the prompts when the latest trained one was drawn."""
    drawn: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Of each group in work, the index of its prompt and the epochs walked when it was drawn."""
    done: dict[int, Completion] = field(default_factory=dict)
    """Completions that wait for their batch, by number."""
    saved: int | None = None
    """Step of the latest checkpoint."""
    prefill_s: float = 0.0
    """Seconds of prompts since the last row, the mean over generators."""

    @property
    def step(self) -> int:
        """Updates tried so far."""
        return self.schedule.version

    def run(self) -> None:
        """Train until the first limit, then leave a checkpoint, an evaluation and the final policy."""
        with _Stop() as stop:
            if self.log.attempt > 1:
                self._report(note=f"going on from step {self.step}")
            if self.step == 0 and self.saved is None:
                self._evaluate()  # before anything was spent: compute 0
                self._decide()
                if self.saved is None:
                    self.save()
            self.log.meter.start()
            ends = self._ends()
            while not (ends or self.schedule.over or stop.asked):
                self._generate()
                batch = self.schedule.next_batch()
                if batch is not None:
                    self._update(batch)
                    if self.step % self.config.eval_every == 0:
                        self._evaluate()
                        self._decide()
                    if self.step % self.config.checkpoint_every == 0 and self.saved != self.step:
                        self.save()
                    ends = self._ends()
            self.log.meter.stop()
            stopped = stop.asked
            if self.saved != self.step:
                self.save()
            if stopped:
                raise KeyboardInterrupt
            # What is only there because the run ends comes behind the last checkpoint, so that going on with a longer
            # budget cuts it off again and leaves the rows of a run that had that budget from the start.
            if self.schedule.over:
                self.log.event("prompts_exhausted", retired=len(self.pool.retired))
            if self.controllers.stopping.stopped:
                stopping = self.controllers.stopping.fields()
                self.log.event("early_stop", step=self.step, **stopping)
                kept = "; best/ holds the best policy" if self.config.keep_best else ""
                self._report(note=f"stopped at step {self.step}: {stopping['reason']}{kept}")
            if self.config.keep_best:
                count_evaluations(self.log.folder, self._evaluations())
            if self.step % self.config.eval_every:
                self._evaluate()
            self._save_policy(self.log.folder / MODEL_FOLDER)
            write_card(self.log.folder / MODEL_FOLDER, self._facts())

    def _generate(self) -> None:
        """Start what may start, and decode one token of all that is in work."""
        with self.log.meter.phase("generate"):
            self.generator.submit(self._requests(self.schedule.admit()))
            finished = self.generator.poll(ticks=1)
        for completion in finished:
            self.done[completion.number] = completion
            self.schedule.finished([completion.number])
            self._submit(completion)

    def note_replaced(self, event: dict[str, Any]) -> None:
        """Log and show that another generator took the place of one that was lost."""
        self.log.event("generator_replaced", step=self.step, **event)
        self._report(note=f"{event['name']} was lost at step {self.step} and is replaced: {event['how']}")

    def _submit(self, completion: Completion) -> None:
        """Hand a completion over to be scored while others are generated."""
        index, _ = self.drawn[completion.number // self.config.generations_per_prompt]
        with self.log.meter.phase("score"):
            item, text = self.train_set.items[index], self.policy.decode(completion.tokens)
            self.scorer.submit(completion.number, for_reward(item), text)

    def _requests(self, numbers: range) -> list[Request]:
        """Draw the prompts of the groups that begin, and ask for these completions."""
        requests, first, count = [], numbers.start, self.config.generations_per_prompt
        while first < numbers.stop:
            group = first // count
            if group not in self.drawn:
                index = self.pool.draw()
                if index is None:
                    self.schedule.close(first)
                    break
                self.drawn[group] = index, self.pool.epoch
            end = min(numbers.stop, (group + 1) * count)
            requests.append(Request(first, end - first, self.prompts[self.drawn[group][0]]))
            first = end
        return requests

    def _update(self, numbers: range) -> None:
        """Score a batch, make one update, and hand its weights to the generator."""
        meter, count = self.log.meter, self.config.generations_per_prompt
        completions = [self.done.pop(number) for number in numbers]
        drawn = [self.drawn.pop(group) for group in range(numbers.start // count, numbers.stop // count)]
        with meter.phase("score"):
            scores = self.scorer.take(numbers)
            values = torch.tensor([score.value for score in scores], dtype=torch.float64).view(-1, count)
            rewards, penalty = make_rewards(values, completions, self.config)
        in_flight = self.schedule.in_flight
        with meter.phase("train"):
            batch = make_batch(rewards, completions, self.config)
            update = self.learner.update(batch, self.step + 1)
            self.schedule.updated()
            self.generator.load(self.step, self.learner.weights())
        for (index, _), right in zip(drawn, (values == 1).sum(dim=1).tolist(), strict=True):
            self.pool.record(index, correct=int(right), count=count)
        self.epoch = drawn[-1][1]
        self._count_generated()
        self._count_trained(batch)
        row = {
            "epoch": self.epoch,
            **asdict(self.compute),
            **reward_fields(rewards),
            "reward_errors": sum(score.error is not None for score in scores),
            "penalty_mean": float(penalty.mean()),
            "filtered_share": 1 - len(batch.completions) / len(completions),
            "retired": len(self.pool.retired),
            **completion_fields(completions, self.step - 1),
            "in_flight": in_flight,
            **update,
        }
        if self.config.engine == "own":  # vLLM runs prompts and goes on with completions in one pass
            row["prefill_s"], self.prefill_s = self.prefill_s, 0.0
        self.log.step(step=self.step, **row)
        self._tell_spent(skipped=row["skipped"])
        told = self._tell_errors("train", scores)
        for event in self.guards.watch(row):
            self.log.event("guard", step=self.step, **event)
            if event["guard"] == "reward_errors" and event["raised"] and not told:
                self._report(note=f"warning: train rewards at step {self.step}: {Failed.among(scores)}")
        resized = self.controllers.batch_size.watch(len(completions), meter.wall_s, self.compute.flops)
        if resized is not None:
            self.schedule.resize(resized["new"] // count)
            self.log.event("batch_size", step=self.step, **resized)
        self._report()

    def _tell_spent(self, *, skipped: bool) -> None:
        """Log and show, once each, that prompts are too few for an update, and that updates teach nothing any more."""
        active, needed = self.pool.active, self.schedule.prompts
        if active < needed and self.guards.first("prompts_low"):
            self.log.event("prompts_low", step=self.step, active=active, needed=needed)
            told = f"{active} active prompts are left at step {self.step}, and an update takes {needed}"
            self._report(note=f"warning: {told}: the same ones come several times in a batch; add prompts")
        if self.guards.skipped(skipped):
            self.log.event("updates_skipped", step=self.step, updates=SKIPPED)
            told = f"the last {SKIPPED} updates up to step {self.step} were skipped"
            self._report(note=f"warning: {told}: GPU-hours go on, and nothing is learned")

    def _tell_errors(self, data: str, scores: list[Score]) -> bool:
        """Log and show what went wrong in scoring, the first time that it does; the rows count it every time."""
        failed = Failed.among(scores)
        if not failed.errors or not self.guards.first(f"reward_errors_{data}"):
            return False
        messages = list(dict.fromkeys(score.error for score in scores if score.error is not None))[:MESSAGES_KEPT]
        fields = {"data": data, "errors": failed.errors, "scores": failed.scores, "messages": messages}
        self.log.event("reward_errors", step=self.step, **fields)
        self._report(note=f"warning: {data} rewards at step {self.step}: {failed}")
        return True

    def _count_generated(self) -> None:
        """Advance the compute axes by what was generated since the last call: 2 N for a token forward.

        Exact but for attention: a shared prompt counts once where it is run once, and the last token of a completion
        is sampled by the head but never run.
        """
        counts = self.generator.take_counts()
        self.prefill_s += counts.prefill_s / self.config.generators
        backbone, head = multiplying_weights(self.policy.model)
        self.compute.tokens_generated += counts.sampled
        self.compute.flops += 2.0 * (backbone * (counts.prefilled + counts.decoded) + head * counts.sampled)

    def _count_trained(self, batch: Batch) -> None:
        """Advance the compute axes by an update: 6 N for a token forward and backward, see `training_flops`."""
        trained, passed = sum(c.sampled for c in batch.completions), sum(len(c.tokens) for c in batch.completions)
        relearned, self.learner.prompt_tokens = self.learner.prompt_tokens, 0
        gathers, self.learner.micro_batches = self.learner.micro_batches, 0
        run = relearned + passed - len(batch.completions)
        self.compute.tokens_trained += trained
        self.compute.flops += training_flops(
            self.policy.model, backbone_tokens=run, head_tokens=passed, gathers=gathers
        )

    def _evaluate(self) -> None:
        with self.log.meter.apart("evaluate"), self.scorer.apart():
            began = time.perf_counter()
            given: dict[str, Any] = {"scorer": self.scorer, "prompts": self.eval_prompts}
            result = evaluate(self.learner, self.policy, self.task, self.eval_set, self.step, **given)
            seconds = time.perf_counter() - began
            self.log.evaluate(step=self.step, evaluate_s=seconds, **asdict(self.compute), **result.row)
            self.log.samples([{"step": self.step, **sample} for sample in result.samples()])
            self._tell_errors("eval", result.scores)
            if self.log_file is not None:
                write_csv(self.log.folder, Path(self.log_file))
            self.pass_rate = result.pass_rate
            self._report(evaluated=True)

    def _decide(self) -> None:
        """Let the evaluation that was just made, on its turn, change what comes."""
        lowered = self.controllers.learning_rate.watch(self.step, self.pass_rate)
        if lowered is not None:
            self.learner.peak_rate = lowered["new"]
            self.log.event("learning_rate", step=self.step, **lowered)
            old, new = lowered["old"], lowered["new"]
            self._report(note=f"learning rate from {old:.3g} to {new:.3g} at step {self.step}: {lowered['reason']}")
        self.controllers.stopping.watch(self.step, self.pass_rate)
        self._keep_best()

    def _keep_best(self) -> None:
        """Keep the policy if its evaluation is the best so far, with a checkpoint: no resume may fall behind it.

        An evaluation off its turn is not asked: a run that goes on cuts it off, and the policy before it would be gone.
        """
        found = self.controllers.best.watch(self.step, self.pass_rate) if self.config.keep_best else None
        if found is None:
            return
        self.log.event("best", step=self.step, **found)
        with self.log.meter.apart("checkpoint"):
            write_best(self.log.folder, self._save_policy, self._facts(highest_of=self._evaluations()))
        self.save()
        with self.log.meter.apart("checkpoint"):
            take_place(self.log.folder)
        if found["old"] is not None:  # that the first is the best so far goes without saying
            self._report(note=f"new best at step {self.step}: pass rate {found['new']:.3f}, kept in best/")

    def _save_policy(self, folder: Path) -> None:
        """Write the policy as a model directory."""
        self.learner.run_whole(lambda: self.policy.save(folder))

    def _facts(self, highest_of: int | None = None) -> dict[str, Any]:
        """Return what the model card says of the policy as it is now, which was evaluated just before."""
        evaluations = [row for row in rows_of(self.log.folder) if row.get("kind") == "eval"]
        return facts(read_header(self.log.folder), evaluations[-1], highest_of)

    def _evaluations(self) -> int:
        """Return how many evaluations the log has; before the end they are those that the best is chosen among."""
        return sum(row.get("kind") == "eval" for row in rows_of(self.log.folder))

    def save(self) -> None:
        """Write a checkpoint of all that the next tick depends on."""
        # Off its turn, where a run ends or is stopped, the cache is kept: a run that goes on refreshes none there.
        refresh = self.config.in_flight == "refresh" and self.step % self.config.checkpoint_every == 0
        with self.log.meter.apart("checkpoint"), self.scorer.apart():
            self._count_generated()  # of a batch that is half written, where a signal stops the run
            generator = self.generator.state(cache=not refresh)
            tensors = {**self.learner.save(), "completions": pack(list(self.done.values()))}
            state = {
                "step": self.step,
                "config": self.config.model_dump(),
                "data": {"train": self.train_set.path, "eval": self.eval_set.path},
                "schedule": self.schedule.state(),
                "pool": self.pool.state(),
                "drawn": self.drawn,
                "guards": self.guards.state(),
                "controllers": self.controllers.state(),
                "compute": asdict(self.compute),
                "pass_rate": self.pass_rate,
                "epoch": self.epoch,
                "meter": self.log.meter.state(),
                "mark": mark(self.log.folder, self.log.meter.gpu_hours),
                "refresh": refresh,
                "machine": machine(self.config),
            }
            if generator is not None:
                tensors["generator"] = generator
            kept = self.config.keep_checkpoints
            write_checkpoint(self.log.folder, self.step, tensors, state, kept, shares=self.learner.write)
            self.saved = self.step
            if refresh:  # part of saving: a run that goes on does it before its meter starts
                self.generator.refresh()

    def restore(self, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        """Go on from a checkpoint, in memory: the log is not touched."""
        self.learner.load(tensors)
        self.log.meter.restore(**state["meter"])
        self.schedule.restore(state["schedule"])
        self.pool.restore(state["pool"])
        self.guards.restore(state["guards"])
        if "controllers" in state:  # not in checkpoints from before there were any
            self.controllers.restore(state["controllers"])
            self.learner.peak_rate = self.controllers.learning_rate.peak
        self.drawn = {int(group): (index, epoch) for group, (index, epoch) in state["drawn"].items()}
        self.compute = Compute(**state["compute"])
        self.pass_rate, self.epoch = state["pass_rate"], state["epoch"]
        self.done = {completion.number: completion for completion in unpack(tensors["completions"])}
        self.generator.load(self.step, self.learner.weights())
        for completion in self.done.values():
            self._submit(completion)
        self.saved = self.step
        if "generator" in tensors:
            self.generator.restore(tensors["generator"])
            if state["refresh"]:
                self.generator.refresh()
        else:  # the generator kept nothing: what was half written is written again
            waiting = set(range(self.schedule.first, self.schedule.admitted)) - set(self.done)
            for number in sorted(waiting):
                self.generator.submit(self._requests(range(number, number + 1)))

    def _ends(self) -> bool:
        """Return whether a limit is reached, or the pass rate has not risen for too long."""
        return self._used() >= 1 or self.controllers.stopping.stopped

    def _used(self) -> float:
        """Return the largest share of a limit that is used up; 1 or more ends the run."""
        return max(self.limits().values())

    def limits(self) -> dict[str, float]:
        """Return the share of each limit that is used up."""
        config = self.config
        pairs = {
            "max_steps": (self.step, config.max_steps),
            "max_epochs": (self.epoch, config.max_epochs),
            "max_gpu_hours": (self.log.meter.gpu_hours, config.max_gpu_hours),
        }
        return {name: value / limit for name, (value, limit) in pairs.items() if limit is not None}

    def _report(self, *, evaluated: bool = False, note: str = "") -> None:
        used = min(1.0, self._used())
        self.report(Progress(self.step, self.log.meter.gpu_hours, self.pass_rate, used, evaluated, note))


class _Stop:
    """While entered, the first SIGINT or SIGTERM asks to stop after the token in work; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def make_rewards(
    scores: torch.Tensor, completions: list[Completion], config: ScaleRLConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rewards and length penalties, both (P, G): 2 s - 1 for a score s, so +1 for right and -1 for worthless.

    The penalty, 0 to -1, is part of the reward of right completions only.
    """
    rewards = scores.double() * 2 - 1
    if config.length_control != "penalty":
        return rewards, torch.zeros_like(rewards)
    lengths = torch.tensor([len(c.tokens) for c in completions], dtype=torch.float64).view_as(rewards)
    longest, cache = config.penalty_range
    penalty = length_penalty(lengths, max_tokens=longest, cache_tokens=cache) * (scores == 1)
    return rewards + penalty, penalty


def make_batch(rewards: torch.Tensor, completions: list[Completion], config: ScaleRLConfig) -> Batch:
    """Filter, then advantages and weights over what is kept (see `scalerl.advantage`).

    Parameters
    ----------
    rewards : (P, G) tensor
    completions : list of P x G completions, prompt by prompt
    """
    keep = keep_prompts(rewards, filter_zero_variance=config.zero_variance_filtering)
    kept = [c for c, stays in zip(completions, keep.repeat_interleave(rewards.shape[1]).tolist(), strict=True) if stays]
    if not kept:
        return Batch([], torch.empty(0), torch.empty(0))
    lengths = torch.tensor([c.sampled for c in kept]).view(-1, rewards.shape[1])
    advantage = advantages(rewards[keep], config.advantage_normalization)
    weight = token_weights(lengths, config.aggregation)
    return Batch(kept, advantage.flatten(), weight.flatten())
