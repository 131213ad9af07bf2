"""Train: prompts, completions, rewards, advantages, one update, again; every row of it in the log.

What is left out against GRPO as usually written, and why: no reference model and no KL term (ScaleRL has none), no
value function, no reward shaping, no partial rewards. On-policy, one update a batch.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from scalerl.advantage import advantages, keep_prompts, token_weights
from scalerl.config import ScaleRLConfig
from scalerl.data import DataSet, PromptOrder, check_apart, check_prompts, load_data
from scalerl.describe import completion_fields, header, multiplying_weights, reward_fields
from scalerl.evaluate import Evaluation, evaluate
from scalerl.generate import Completion, Generator, Request
from scalerl.learner import Batch, Learner
from scalerl.policy import Policy, load_policy
from scalerl.runlog import HEADER_FILE, LOG_FILE, MODEL_FOLDER, SAMPLES_FILE, RunLog, UserError
from scalerl.tasks import Task, get_task

CSV_COLUMNS = ("step", "gpu_hours", "cpu_s", "tokens_generated", "tokens_trained", "flops", "pass_rate", "accuracy")


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


def train(
    config: ScaleRLConfig,
    train_data: str,
    eval_data: str,
    output_dir: str,
    *,
    log_file: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Run the recipe from a starting checkpoint to the first limit reached, and return the run folder.

    Writes ``run.json``, ``log.jsonl`` and ``samples.jsonl`` (see docs/log-format.md) and the final policy as a
    Hugging Face directory ``model/``. `log_file` also keeps the evaluations as CSV.

    Raises
    ------
    UserError
        If configuration, data, model or folder cannot be used; nothing was written then.
    TrainingError
        If a loss or gradient is not finite; the log ends with an event that says so.
    """
    config.trainable()
    torch.set_num_threads(config.threads)
    device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    task = get_task(config.task)
    train_set, eval_set = load_data(train_data), load_data(eval_data, limit=config.eval_prompts)
    policy = load_policy(config.model_name, device=device, dtype=config.dtype)
    prompts = [policy.encode(item["prompt"]) for item in train_set.items]
    check_apart(train_set, eval_set)
    for data, encoded in ((train_set, prompts), (eval_set, [policy.encode(i["prompt"]) for i in eval_set.items])):
        unknown = policy.tokenizer.unk_token_id
        check_prompts(data, encoded, prompt_tokens=config.prompt_tokens, unknown_id=unknown)
    device_kind = torch.cuda.get_device_name() if device == "cuda" else "cpu process"
    log = RunLog(
        output_dir,
        recipe=config.recipe,
        seed=config.seed,
        device_kind=device_kind,
        header=header(config, train_set, eval_set, device),
        start_meter=False,
    )
    generator = Generator(
        policy.model,
        slots=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        max_length=config.max_length,
        end_ids=policy.end_ids,
        temperature=config.temperature,
        seed=config.seed,
        fp32_head=config.use_fp32_lm_head,
    )
    log.refuse_if_taken()
    if log_file is not None:
        _begin_csv(Path(log_file), log.folder)
    with log:
        _Run(
            config=config,
            policy=policy,
            task=task,
            train_set=train_set,
            eval_set=eval_set,
            prompts=prompts,
            log=log,
            generator=generator,
            learner=Learner(policy.model, config),
            order=PromptOrder(len(prompts), config.seed),
            log_file=log_file,
            report=report,
        ).loop()
        with log.meter.apart("checkpoint"):
            policy.save(log.folder / MODEL_FOLDER)
    return log.folder


@dataclass
class _Compute:
    """Cumulative compute axes that the meter does not know."""

    tokens_generated: int = 0
    tokens_trained: int = 0
    flops: float = 0.0


@dataclass
class _Run:
    """A run in memory, and its loop."""

    config: ScaleRLConfig
    policy: Policy
    task: Task
    train_set: DataSet
    eval_set: DataSet
    prompts: list[tuple[int, ...]]
    log: RunLog
    generator: Generator
    learner: Learner
    order: PromptOrder
    log_file: str | None
    report: Callable[[Progress], None]
    compute: _Compute = field(default_factory=_Compute)
    pass_rate: float = 0.0

    def loop(self) -> None:
        step, done = 0, False
        self._evaluate(step)  # before anything was spent: compute 0
        self.log.meter.start()
        while not done:
            step += 1
            self._step(step)
            done = self._used(step) >= 1
            if done or step % self.config.eval_every == 0:
                self._evaluate(step)

    def _step(self, step: int) -> None:
        config, meter = self.config, self.log.meter
        group, count = config.prompts_per_update, config.generations_per_prompt
        drawn = [self.order[draw] for draw in range((step - 1) * group, step * group)]
        with meter.phase("generate"):
            first = (step - 1) * config.batch_size
            self.generator.submit(
                [Request(first + i * count, count, self.prompts[index]) for i, index in enumerate(drawn)]
            )
            completions = self.generator.poll()
        with meter.phase("score"):
            rewards = self._score(drawn, completions)
        with meter.phase("train"):
            batch = make_batch(rewards, completions, config)
            update = self.learner.update(batch, step)
            self.generator.load(step)
        self._count(batch, completions)
        self.log.step(
            step=step,
            epoch=step * group / len(self.prompts),
            **asdict(self.compute),
            **reward_fields(rewards),
            **completion_fields(completions),
            **update,
        )
        self._report(step)

    def _score(self, drawn: list[int], completions: list[Completion]) -> torch.Tensor:
        """Return rewards (P, G): +1 for a right completion, -1 for a wrong one."""
        count = self.config.generations_per_prompt
        right = [
            self.task.score(self.train_set.items[drawn[place // count]], self.policy.decode(completion.tokens))
            for place, completion in enumerate(completions)
        ]
        return torch.tensor(right, dtype=torch.float64).view(-1, count) * 2 - 1

    def _count(self, batch: Batch, completions: list[Completion]) -> None:
        """Advance the compute axes: 2 N for a token forward, 6 N for a token forward and backward.

        Exact but for attention: a shared prompt counts once where it is run once, and the last token of a completion
        is sampled by the head but never run.
        """
        generated = sum(len(c.tokens) for c in completions)
        trained = sum(len(c.tokens) for c in batch.completions)
        prefilled, self.generator.prompt_tokens = self.generator.prompt_tokens, 0
        relearned, self.learner.prompt_tokens = self.learner.prompt_tokens, 0
        backbone, head = multiplying_weights(self.policy.model)
        self.compute.tokens_generated += generated
        self.compute.tokens_trained += trained
        decoded, passed = generated - len(completions), trained - len(batch.completions)
        self.compute.flops += 2.0 * (backbone * (prefilled + decoded) + head * generated)
        self.compute.flops += 6.0 * (backbone * (relearned + passed) + head * trained)

    def _evaluate(self, step: int) -> None:
        with self.log.meter.apart("evaluate"):
            began = time.perf_counter()
            result = evaluate(self.policy, self.task, self.eval_set, self.config, step)
            seconds = time.perf_counter() - began
            self.log.evaluate(step=step, evaluate_s=seconds, **asdict(self.compute), **result.row)
            self.log.samples(result.samples)
            if self.log_file is not None:
                self._append_csv(step, result)
            self.pass_rate = result.pass_rate
            self._report(step, evaluated=True)

    def _append_csv(self, step: int, result: Evaluation) -> None:
        meter = self.log.meter
        values = (step, meter.gpu_hours, meter.cpu_s, *asdict(self.compute).values(), *[result.pass_rate] * 2)
        with Path(str(self.log_file)).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(values)

    def _used(self, step: int) -> float:
        """Return the largest share of a limit that is used up; 1 or more ends the run."""
        config = self.config
        drawn = step * config.prompts_per_update / len(self.prompts)
        pairs = (
            (step, config.max_steps),
            (drawn, config.max_epochs),
            (self.log.meter.gpu_hours, config.max_gpu_hours),
        )
        return max(value / limit for value, limit in pairs if limit is not None)

    def _report(self, step: int, *, evaluated: bool = False) -> None:
        used = min(1.0, self._used(step))
        self.report(Progress(step, self.log.meter.gpu_hours, self.pass_rate, used, evaluated))


def _begin_csv(path: Path, run: Path) -> None:
    """Make the CSV with its header line; nothing that is there is touched."""
    if path.resolve() in {(run / name).resolve() for name in (HEADER_FILE, LOG_FILE, SAMPLES_FILE, MODEL_FOLDER)}:
        raise UserError(f"{path}: is a file of the run itself; choose another --log-file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(CSV_COLUMNS)
    except FileExistsError as error:
        raise UserError(f"{path}: exists already; choose another --log-file or move it away") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror} (--log-file)") from error


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
    lengths = torch.tensor([len(c.tokens) for c in kept]).view(-1, rewards.shape[1])
    advantage = advantages(rewards[keep], config.advantage_normalization)
    weight = token_weights(lengths, config.aggregation)
    return Batch(kept, advantage.flatten(), weight.flatten())
