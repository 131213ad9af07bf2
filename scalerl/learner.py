"""The learner: from scored completions to one update of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scalerl.completions import Completion
from scalerl.config import ScaleRLConfig
from scalerl.forward import AnyWeights, Prefix, logits
from scalerl.generic import make_forward
from scalerl.lora import add_adapters
from scalerl.loss import TokenLoss, cispo, clipped_surrogate, gspo, reinforce
from scalerl.runlog import UserError


class TrainingError(UserError):
    """The run cannot go on: a loss or gradient is not finite."""


class Batch(NamedTuple):
    """Completions with their advantages (N,) and the weight (N,) of one of their sampled tokens in the loss."""

    completions: Sequence[Completion]
    advantages: Tensor
    weights: Tensor


@dataclass
class UpdateStatistics:
    """Sums over the tokens in the loss, gathered over micro-batches; `row` turns them into a step row's fields."""

    tokens: int = 0
    loss: float = 0.0
    clipped: int = 0
    ratio_max: float = 0.0
    diff_max: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: {"ratio": 0.0, "diff": 0.0})
    not_finite: tuple[float, float] = (-math.inf, -math.inf)
    """Minus the first, and the last, of the completions whose micro-batch had no finite loss."""

    def add(self, out: TokenLoss, diff: Tensor, loss: Tensor, completions: Sequence[Completion]) -> None:
        """Add one micro-batch."""
        self.tokens += len(diff)
        self.loss += float(loss)
        if not torch.isfinite(loss):
            numbers = [completion.number for completion in completions]
            minus_first, last = self.not_finite
            self.not_finite = max(minus_first, -min(numbers)), max(last, *numbers)
        self.clipped += int(out.clipped.sum())
        self.sums["ratio"] += float(out.ratio.sum(dtype=torch.float64))
        self.sums["diff"] += float(diff.sum(dtype=torch.float64))
        self.ratio_max = max(self.ratio_max, float(out.ratio.max()))
        self.diff_max = max(self.diff_max, float(diff.max()))

    def row(self) -> dict[str, float | None]:
        """Return the fields of a step row; null where no token was in the loss."""
        n = self.tokens
        return {
            "loss": self.loss if n else None,
            "ratio_mean": self.sums["ratio"] / n if n else None,
            "ratio_max": self.ratio_max if n else None,
            "clipped_share": self.clipped / n if n else None,
            "logprob_diff_mean": self.sums["diff"] / n if n else None,
            "logprob_diff_max": self.diff_max if n else None,
        }


class Learner:
    """Hold the model and its optimizer, and make updates.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its parameters are the master copy, which the optimizer changes; `dtype` below FP32 computes with copies. With
        `lora_rank` it is given adapters, and they alone are trained.
    config : ScaleRLConfig
        Loss, optimizer, precision and micro-batch fields are read.
    """

    def __init__(self, model: Any, config: ScaleRLConfig) -> None:
        self.model, self.config = model, config
        self.forward = make_forward(model, config.max_length, getattr(torch, config.dtype))
        if config.lora_rank is not None:
            add_adapters(
                model, rank=config.lora_rank, alpha=config.lora_scale, targets=config.lora_targets, seed=config.seed
            )
        self._place()
        self.optimizer = torch.optim.AdamW(
            self.trainable().values(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        # FP16 has too few exponents for small gradients: the loss is scaled up, and a step that overflows is left out.
        self.scaler = torch.amp.GradScaler(self.forward.device.type, enabled=config.dtype == "float16")
        self._token_loss = _token_loss(config)
        self.others_cpu_s = 0.0
        """CPU-seconds of other processes that train with this one."""
        self.prompt_tokens = 0
        """Prompt tokens run since it was last set to 0."""
        self.peak_rate = config.learning_rate
        """Learning rate after the warm-up; a plateau lowers it."""
        self.micro_batches = 0
        """Micro-batches run since it was last set to 0."""

    def trainable(self) -> dict[str, Tensor]:
        """Return the parameters that are trained, by name; a tied weight is there once."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def weights(self) -> AnyWeights:
        """Return the current weights, in the precision that they multiply in."""
        weights: AnyWeights = self.forward.weights(fp32_head=self.config.use_fp32_lm_head)
        return weights

    def update(self, batch: Batch, step: int) -> dict[str, Any]:
        """Make update number `step` (from 1) and return its fields of the step row.

        An empty batch makes no optimizer call.

        Raises
        ------
        TrainingError
            If the loss or the gradient is not finite; the weights are left as they were.
        """
        rate = self.learning_rate(step)
        statistics = UpdateStatistics()
        if not batch.completions:
            return {"skipped": True, "learning_rate": rate, "grad_norm": None, **statistics.row()}
        self.optimizer.zero_grad()
        for chosen, counts in self._shares(batch.completions):
            self._backward(batch, chosen, statistics, counts=counts)
        self._sum(statistics)
        if not math.isfinite(statistics.loss):
            minus_first, last = statistics.not_finite
            raise self._not_finite(
                step, f"the loss ({statistics.loss}) of completions {-minus_first:.0f} to {last:.0f}"
            )
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        overflow = not math.isfinite(norm)
        if overflow and not (self.scaler.is_enabled() and self.scaler.get_scale() > 1):
            wrong = self._wrong()
            where = f"the first in {wrong}" if wrong else "though every element is"
            raise self._not_finite(step, f"the gradient (its norm is {norm}), {where},")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {
            "skipped": overflow,
            "learning_rate": rate,
            "grad_norm": None if overflow else norm,
            **statistics.row(),
        }

    def save(self) -> dict[str, dict[str, Tensor]]:
        """Return all that the next updates depend on: what is trained and its moments, by name."""
        parameters = self.trainable()
        moments = {
            f"{name}.{key}": torch.as_tensor(value)
            for name, p in parameters.items()
            for key, value in self.optimizer.state[p].items()
        }
        scaler = {f"scaler.{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()}
        return {"model": {name: p.detach() for name, p in parameters.items()}, "optimizer": {**moments, **scaler}}

    @torch.no_grad()
    def load(self, kept: dict[str, dict[str, Tensor]]) -> None:
        """Go on with what `save` returned."""
        device = self.forward.device
        scaler = {key: kept["optimizer"].get(f"scaler.{key}") for key in self.scaler.state_dict()}
        self.scaler.load_state_dict({key: value.item() for key, value in scaler.items() if value is not None})
        for name, p in self.trainable().items():
            p.copy_(kept["model"][name])
            moments = {key: kept["optimizer"].get(f"{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[p] = {
                key: value.clone() if key == "step" else value.to(device, copy=True)
                for key, value in moments.items()
                if value is not None
            }

    def write(self, folder: Path) -> None:
        """Write what `save` leaves out; here that is nothing."""

    def run_whole(self, action: Callable[[], None]) -> None:
        """Run something that reads the model's parameters."""
        action()

    def close(self) -> None:
        """Let go of what is held."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of update `step`: linear up to `warmup_steps`, then `peak_rate`."""
        return self.peak_rate * min(1.0, step / max(1, self.config.warmup_steps))

    def logprobs(self, completions: Sequence[Completion]) -> Tensor:
        """Return the log-probabilities of the completions' tokens, flat (N,), with gradient.

        The logits at a position predict the token after it, so the states read are those of the last prompt token
        and of every completion token but the last. A prompt that several completions share is run once.
        """
        device = self.forward.device
        prompts = list(dict.fromkeys(c.prompt for c in completions))  # each is run once, whoever shares it
        self.prompt_tokens += sum(map(len, prompts))
        self.micro_batches += 1
        row = {prompt: index for index, prompt in enumerate(prompts)}
        source = torch.tensor([row[c.prompt] for c in completions], device=device)
        weights = self.weights()
        run = self.forward.hidden(_padded(prompts).to(device), weights)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        states = run.states[source, lengths[source] - 1][:, None]  # (B, 1, H), predicts the first token
        fed = _padded([c.tokens[:-1] for c in completions]).to(device)
        if fed.shape[1]:
            rest = self.forward.hidden(fed, weights, Prefix(run.keys, run.values, lengths, source))
            states = torch.cat([states, rest.states], dim=1)  # (B, T, H)
        count = torch.tensor([len(c.tokens) for c in completions], device=device)
        states = states[torch.arange(states.shape[1], device=device) < count[:, None]]  # (N, H), row by row
        targets = torch.tensor([t for c in completions for t in c.tokens], device=device)
        scores = logits(states, weights) / self.config.temperature
        return scores.log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    def _place(self) -> None:
        """Put the parameters where they are trained; they are there."""

    def _shares(self, completions: Sequence[Completion]) -> Iterator[tuple[list[int], bool]]:
        """Yield the indices of every micro-batch, and whether it counts."""
        return ((chosen, True) for chosen in micro_batches(completions, self.config.micro_batch_tokens))

    def _sum(self, statistics: UpdateStatistics) -> None:
        """Add what was counted elsewhere; nothing was."""

    def _wrong(self) -> str | None:
        """Name the first parameter whose gradient is not finite."""
        grads = {name: p.grad for name, p in self.trainable().items() if p.grad is not None}
        return next((name for name, grad in grads.items() if not torch.isfinite(grad).all()), None)

    def _clip(self) -> float:
        """Clip the gradient and return the norm that it had."""
        return float(torch.nn.utils.clip_grad_norm_(self.trainable().values(), self.config.max_grad_norm))

    def _backward(
        self, batch: Batch, chosen: Sequence[int], statistics: UpdateStatistics, *, counts: bool = True
    ) -> None:
        """Add the gradient of some of the batch's completions, 0 if they do not count; forced tokens are left out."""
        completions = [batch.completions[i] for i in chosen]
        own = _sampled_mask(completions)
        logprobs = self.logprobs(completions)
        sampled = torch.tensor([p for c in completions for p in c.logprobs], dtype=logprobs.dtype)[own]
        logprobs, sampled = logprobs[own.to(logprobs.device)], sampled.to(logprobs.device)
        lengths = torch.tensor([c.sampled for c in completions])
        advantage, weight = (
            column[list(chosen)].repeat_interleave(lengths).to(logprobs) for column in (batch.advantages, batch.weights)
        )
        out = self._token_loss(logprobs, sampled, advantage, lengths.to(logprobs.device))
        loss = (weight * out.loss).sum() * float(counts)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if counts:
            statistics.add(out, (logprobs.detach() - sampled).abs(), loss.detach(), completions)

    def _not_finite(self, step: int, what: str) -> TrainingError:
        self.optimizer.zero_grad()
        return TrainingError(
            f"step {step}: {what} is not finite; the weights are as before this step; in a new run lower "
            "learning_rate, or set dtype to float32"
        )


def micro_batches(completions: Sequence[Completion], token_budget: int) -> Iterator[list[int]]:
    """Yield indices of completions of like length, so that rows x (longest prompt + longest completion) stay within
    the budget.

    A completion longer than the budget gets a micro-batch of its own.
    """
    length = [len(c.prompt) + len(c.tokens) for c in completions]
    chosen: list[int] = []
    widest = 0, 0
    for index in sorted(range(len(completions)), key=lambda i: (length[i], completions[i].prompt, i)):
        own = len(completions[index].prompt), len(completions[index].tokens)
        wider = max(widest[0], own[0]), max(widest[1], own[1])
        if chosen and (len(chosen) + 1) * sum(wider) > token_budget:
            yield chosen
            chosen, wider = [], own
        chosen.append(index)
        widest = wider
    if chosen:
        yield chosen


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return (B, T) ids, padded on the right with 0."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids


def _sampled_mask(completions: Sequence[Completion]) -> Tensor:
    """Return which of the completions' tokens the policy chose itself, flat (N,) boolean."""
    mask = torch.ones(sum(len(c.tokens) for c in completions), dtype=torch.bool)
    start = 0
    for completion in completions:
        mask[start + completion.forced[0] : start + completion.forced[1]] = False
        start += len(completion.tokens)
    return mask


def _token_loss(config: ScaleRLConfig) -> Callable[[Tensor, Tensor, Tensor, Tensor], TokenLoss]:
    """Return the loss of (logprobs, sampled, advantage), flat over tokens, and the completions' lengths."""
    if config.loss == "cispo":
        return lambda new, old, advantage, _: cispo(new, old, advantage, epsilon_max=config.epsilon_max)
    if config.loss == "gspo":
        return lambda new, old, advantage, lengths: gspo(new, old, advantage, lengths, epsilon=config.gspo_epsilon)
    if config.loss == "reinforce":
        return lambda new, old, advantage, _: reinforce(new, old, advantage)
    return lambda new, old, advantage, _: clipped_surrogate(
        new, old, advantage, epsilon_low=config.epsilon_low, epsilon_high=config.epsilon_high
    )
