"""Warm up a model directory on demonstrations of one's own: supervised steps on `thinking` and `solution` columns.

A completion is the thinking, the mark that ends it, the solution and the end token. The loss is the mean over the
completions' tokens of a batch; prompts and padding are not in it. Nothing is cut: a demonstration over the longest
length is left out and counted, for a cut one would teach the policy never to end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from scalerl.data import load_data
from scalerl.forward import AnyForward, logits
from scalerl.generic import make_forward
from scalerl.policy import Policy, load_policy
from scalerl.runlog import UserError
from scalerl.tasks import Item, completion_of
from scalerl.warmup import save_whole, shifted

MOST_TOKENS = 16_384  # padded tokens that are run at once; a larger batch is run in parts
LONGEST = 4096
Encoded = tuple[tuple[int, ...], tuple[int, ...]]


class WarmUp(NamedTuple):
    """What a warm-up did: rows used and left out, steps, mean loss of its first and last epoch in nats a token."""

    rows: int
    incomplete: int
    too_long: int
    steps: int
    first_loss: float
    last_loss: float
    tokens: int
    cpu_s: float


def warmup_on_data(
    model: str,
    train_data: str,
    output: str,
    *,
    epochs: int = 2,
    learning_rate: float = 1e-5,
    max_length: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    end_of_thinking: str = "</think>",
    thinking: bool = True,
    device: str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> WarmUp:
    """Train a causal LM on own demonstrations and save it as a model directory.

    Parameters
    ----------
    model : str
        Model directory or hub name to start from.
    train_data : str
        Items with ``prompt`` and ``solution``, and ``thinking`` unless that is switched off; a prompt may have several.
    learning_rate : float
        Reached after the first twentieth of the steps; falls to 0 in a line by the end.
    max_length : int, optional
        Longest demonstration in tokens, prompt included; 4,096, or what the model was made for, if not given.
    end_of_thinking : str
        Put between thinking and solution, unless the solution begins with it.
    progress : callable of (step, steps, loss), optional

    Raises
    ------
    UserError
        If the output exists, columns are missing, no demonstration is short enough, or the loss is not finite.
    """
    _check(epochs, learning_rate, max_length, batch_size, end_of_thinking)
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; choose another --output or move it away")
    began = time.process_time()
    data = load_data(train_data, repeats=True)
    texts = _texts(data.path, data.items, end_of_thinking, thinking)
    policy = load_policy(model, device=device, prompt_format="auto")  # as in generation
    longest = min(max_length or LONGEST, getattr(policy.model.config, "max_position_embeddings", None) or LONGEST)
    rows = [row for row in _encoded(data.path, policy, texts, end_of_thinking) if len(row[0]) + len(row[1]) <= longest]
    if not rows:
        raise UserError(f"{data.path}: all {len(texts)} demonstrations are longer than {longest} tokens (--max-length)")
    forward = _forward(policy, longest)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    steps = epochs * math.ceil(len(rows) / batch_size)
    losses: list[tuple[float, int]] = []  # sum and number of tokens, a step each
    for step, batch in enumerate(_batches(rows, epochs, batch_size, seed), 1):
        rising = min(1.0, step / max(1, steps // 20))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(rising, (steps - step + 1) / steps)
        optimizer.zero_grad()
        summed, count = _backward(forward, batch)
        if not math.isfinite(summed):
            raise UserError(f"the loss is not finite at step {step} of {steps}; lower --learning-rate")
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        losses.append((summed, count))
        if progress is not None:
            progress(step, steps, summed / count)
    save_whole(policy, folder)
    an_epoch = steps // epochs
    return WarmUp(
        rows=len(rows),
        incomplete=len(data.items) - len(texts),
        too_long=len(texts) - len(rows),
        steps=steps,
        first_loss=_mean(losses[:an_epoch]),
        last_loss=_mean(losses[-an_epoch:]),
        tokens=sum(count for _, count in losses),
        cpu_s=time.process_time() - began,
    )


def _check(epochs: int, learning_rate: float, max_length: int | None, batch_size: int, mark: str) -> None:
    problems = [
        f"{name} {value}: at least {least}"
        for name, value, least in (
            ("--epochs", epochs, 1),
            ("--batch-size", batch_size, 1),
            ("--max-length", LONGEST if max_length is None else max_length, 2),
        )
        if value < least
    ]
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        problems.append(f"--learning-rate {learning_rate}: a number above 0")
    if not mark:
        problems.append("--end-of-thinking: is empty; name the text that ends the thinking")
    if problems:
        raise UserError("\n".join(problems))


def _texts(path: str, items: Sequence[Item], mark: str, thinking: bool) -> list[tuple[Item, str]]:
    """Return the items with their completions, of those that have all columns."""
    wanted = ("thinking", "solution") if thinking else ("solution",)
    complete = [item for item in items if all(isinstance(item.get(c), str) and item[c] for c in wanted)]
    if not complete:
        have = {column: sum(bool(item.get(column)) for item in items) for column in wanted}
        told = ", ".join(f"{column!r} is in {count:,} of {len(items):,}" for column, count in have.items())
        hint = "; with --no-thinking the solution alone is the completion" if thinking and have["solution"] else ""
        raise UserError(f"{path}: no item has text under {' and '.join(map(repr, wanted))}: {told}{hint}")
    return [(item, str(completion_of(item, mark)) if thinking else item["solution"]) for item in complete]


def _encoded(path: str, policy: Policy, texts: Sequence[tuple[Item, str]], mark: str) -> list[Encoded]:
    own = policy.tokenizer.eos_token_id
    end = own if own in policy.end_ids else policy.end_ids[0]
    unknown = policy.unknown_id
    rows = []
    for item, completion in texts:
        ids: Encoded = (policy.encode_item(item), _with_mark(policy, completion, mark))
        if not ids[0] or not ids[1] or (unknown is not None and unknown in ids[0] + ids[1]):
            raise UserError(f"{path}: the tokenizer does not know all of the text of the item {item['prompt'][:60]!r}")
        rows.append((ids[0], (*ids[1], end)))
    return rows


def _with_mark(policy: Policy, completion: str, mark: str) -> tuple[int, ...]:
    """Encode a completion as text; the mark alone may be a control token of the tokenizer."""
    if completion.count(mark) == 0 or policy.encode(mark) == policy.encode_text(mark):
        return policy.encode_text(completion)
    ids: tuple[int, ...] = ()
    for number, text in enumerate(completion.split(mark)):
        ids += (policy.encode(mark) if number else ()) + policy.encode_text(text)
    return ids


def _forward(policy: Policy, longest: int) -> AnyForward:
    """Return the forward pass; the one place that chooses it."""
    return make_forward(policy.model, longest)


def _batches(rows: Sequence[Encoded], epochs: int, batch_size: int, seed: int) -> Iterator[list[Encoded]]:
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(rows)).tolist()
        for start in range(0, len(rows), batch_size):
            yield [rows[index] for index in order[start : start + batch_size]]


def _backward(forward: Any, batch: Sequence[Encoded]) -> tuple[float, int]:
    """Add the gradient of the mean loss of a batch; return the sum of the losses and the number of tokens."""
    count = sum(len(completion) for _, completion in batch)
    summed = 0.0
    for part in _parts(batch):
        ids, target = (tensor.to(forward.device) for tensor in shifted(part))
        weights = forward.weights()
        hidden = forward.hidden(ids, weights).states
        counted = target >= 0
        loss = F.cross_entropy(logits(hidden[counted], weights), target[counted], reduction="sum")
        (loss / count).backward()  # type: ignore[no-untyped-call]
        summed += loss.item()
    return summed, count


def _parts(batch: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Yield parts of a batch, those of like length together, none of more than `MOST_TOKENS` when padded."""
    part: list[Encoded] = []
    for row in sorted(batch, key=lambda row: len(row[0]) + len(row[1])):
        if part and (len(part) + 1) * (len(row[0]) + len(row[1])) > MOST_TOKENS:
            yield part
            part = []
        part.append(row)
    yield part


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    return sum(summed for summed, _ in losses) / sum(count for _, count in losses)
