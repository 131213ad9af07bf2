"""Learning rates as torch's own scheduler gives them."""

from __future__ import annotations

import torch

STILL = {"learning_rate": "1e-9", "plateau_floor": "1e-12", "warmup_steps": 0}


def torch_rates(config, series):
    """Learning rates after each pass rate by torch, whose patience counts evaluations that are tolerated."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=config.plateau_factor, patience=config.plateau_patience - 1,
        threshold=config.plateau_min_gain, threshold_mode="abs", min_lr=config.plateau_floor, eps=0.0,
    )  # fmt: skip
    found = []
    for rate in series:
        scheduler.step(rate)
        found.append(optimizer.param_groups[0]["lr"])
    return found
