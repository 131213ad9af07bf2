"""Make a starting checkpoint: supervised steps on a task's own, sloppy demonstrations.

The demonstrations show the procedure and slip in the arithmetic, so that the policy knows what to do and samples it
badly: it starts near a pass rate of .1, and reinforcement learning has something to sharpen. A warm-up that is
merely stopped early does not do that (see LOG.md).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from scalerl.forward import AnyForward, logits
from scalerl.generic import make_forward
from scalerl.policy import Policy, new_policy
from scalerl.runlog import UserError
from scalerl.tasks import get_task

STEPS = 750


def warmup(
    task_name: str,
    output: str,
    *,
    seed: int = 0,
    steps: int = STEPS,
    batch_size: int = 128,
    max_length: int = 80,
    layers: int = 2,
    width: int = 64,
    progress: Any = None,
) -> dict[str, float]:
    """Train a new small policy on demonstrations of a task and save it as a model directory.

    Parameters
    ----------
    steps : int
        See `learning_rate`.
    max_length : int
        Positions of the model: longest prompt plus completion.
    progress : callable of (step, loss), optional

    Returns
    -------
    dict
        Final loss, in nats a token, CPU-seconds, and the number of parameters.

    Raises
    ------
    UserError
        If the output directory exists and is not empty, the size makes no model, a demonstration is too long for it, or
        loss or weights are not finite; nothing was written then.
    """
    if layers < 1 or width < 8 or width % 8:
        raise UserError(f"--layers {layers} --width {width}: at least one layer, and a width that 8 divides")
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; choose another --output or move it away")
    task = get_task(task_name)
    began = time.process_time()
    policy = new_policy(task.characters, max_length=max_length, layers=layers, width=width, seed=seed)
    forward = make_forward(policy.model, max_length)
    items, rng = task.prompts("warmup", seed), np.random.default_rng([seed, 1])
    optimizer = torch.optim.AdamW(policy.model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    loss = torch.tensor(float("nan"))
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, width)
        texts = [(item["prompt"], task.demonstration(item, rng)) for item in islice(items, batch_size)]
        loss = _loss(policy, forward, texts, max_length)
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the loss is not finite at step {step} of {steps}; try another --seed, or a smaller --width"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step, loss.item())
    save_whole(policy, folder)
    parameters = sum(p.numel() for p in policy.model.parameters())
    return {"loss": loss.item(), "cpu_s": time.process_time() - began, "parameters": parameters}


def learning_rate(step: int, steps: int, width: int) -> float:
    """Return 2e-3 for three fifths of the steps, then half of it; for layers wider than 96 by so much less.

    At 2e-3 four layers of 192 had learnt nothing of copying after 300 steps, at 1e-3 all of it after 240 (LOG.md).

    Examples
    --------
    >>> [learning_rate(step, 750, 64) for step in (1, 450, 451)], learning_rate(1, 400, 192)
    ([0.002, 0.002, 0.001], 0.001)
    """
    return (2e-3 if step <= 0.6 * steps else 1e-3) * min(1.0, 96 / width)


def _loss(policy: Policy, forward: AnyForward, texts: list[tuple[str, str]], max_length: int) -> torch.Tensor:
    """Return the mean cross-entropy of the completions' tokens, end token included."""
    rows = [(policy.encode(prompt), (*policy.encode(text), policy.end_ids[0])) for prompt, text in texts]
    ids, target = shifted(rows)
    if ids.shape[1] > max_length:
        raise UserError(f"--max-length {max_length}: a demonstration has {ids.shape[1]} tokens; give that or more")
    weights = forward.weights()
    hidden = forward.hidden(ids, weights).states
    counted = target >= 0
    scores = logits(hidden[counted], weights)
    return F.cross_entropy(scores, target[counted])


def save_whole(policy: Policy, folder: Path) -> None:
    """Write a model directory beside its place and rename it: it appears whole or not at all.

    Parameters
    ----------
    folder : Path
        Nothing, or an empty directory.

    Raises
    ------
    UserError
        If a weight is not finite, or it cannot be written.
    """
    if not all(bool(p.isfinite().all()) for p in policy.model.parameters()):
        raise UserError(f"{folder}: not written, for weights became infinite or no numbers in the last step")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            part = Path(name) / "whole"
            policy.save(part)
            if folder.exists():
                folder.rmdir()  # empty: it was looked at before training
            part.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: the model cannot be written: {error.strerror}") from error


def shifted(rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, T) of prompts and completions, and beside each token the one to be predicted there (B, T).

    Only tokens of completions are targets; -100 stands where there is none.
    """
    extent = max(len(p) + len(c) for p, c in rows)
    ids = torch.zeros(len(rows), extent, dtype=torch.long)
    target = torch.full((len(rows), extent), -100)
    for row, (prompt, completion) in enumerate(rows):
        ids[row, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        target[row, len(prompt) - 1 : len(prompt) + len(completion) - 1] = torch.tensor(completion)
    return ids, target
