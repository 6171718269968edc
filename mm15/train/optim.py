"""Optimisers and learning-rate schedules.

AdamW is torch's fused one. AdaFactor is transformers', with an absolute learning rate (no parameter scale, no
relative step), as the framework MM1.5 was trained with uses it (docs/paper_map.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from .. import recipe


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: recipe.Optimizer) -> torch.optim.Optimizer:
    """The optimiser over trainable parameters; weight decay on matrices only (two or more axes)."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=settings.lr, scale_parameter=False, relative_step=False, warmup_init=False)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def learning_rate(step: int, steps: int, peak: float, schedule: recipe.Schedule) -> float:
    """The rate of `step` (0-based) of `steps`: linear warm-up to `peak`, then the schedule down to its floor."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    if schedule.kind == "constant":
        return peak
    progress = (step - schedule.warmup) / max(steps - schedule.warmup, 1)
    left = (1 + math.cos(math.pi * progress)) / 2 if schedule.kind == "cosine" else 1 - progress
    return peak * (schedule.floor + (1 - schedule.floor) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """The same learning rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = value
