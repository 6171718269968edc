"""Optimisers, learning-rate schedules, and which parameter learns at what part of the rate.

AdamW is torch's fused one. AdaFactor is ours (`adafactor.py`), with an absolute learning rate, as the framework MM1.5
was trained with uses it (docs/paper_map.md).

A parameter's factor on the rate is its part's (`optimizer.rates`) times its layer's (`optimizer.layer_decay`, d): for a
part of n layers, as in BEiT (arXiv 2106.08254) and as timm groups a tower without a head,

    embeddings d^n   layer 1 d^(n-1)   ...   layer n-1 d   layer n and what follows it 1

What stands before a part's first layer counts as its embeddings. Output weights that are tied to the embeddings are one
parameter, and learn as embeddings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import nn

from .. import recipe
from .adafactor import Adafactor

_LAYER = re.compile(r"(?:^|\.)(layers?\.\d+|s\d\.b\d+)\.")
"""A layer of a decoder or encoder (`layers.3`, `layer.3`), or a block of the connector (`s1.b2`)."""


def make_optimizer(parameters: nn.Module | Iterable[nn.Parameter], settings: recipe.Optimizer) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters of a model; weight decay on matrices only (two or more axes).

    Groups of a factor other than 1 carry it as `rate`. Parameters of no part, and parameters given without their
    model, have factor 1.
    """
    factors: dict[nn.Parameter, float]
    if isinstance(parameters, nn.Module):
        factors = rate_factors(parameters, settings)
    else:
        factors = dict.fromkeys((p for p in parameters if p.requires_grad), 1.0)
    groups = []
    for rate in dict.fromkeys(factors.values()):
        own = [p for p, factor in factors.items() if factor == rate]
        extra = {} if rate == 1.0 else {"rate": rate}  # checkpoints from before there were rates have no such key
        groups.append({"params": [p for p in own if p.ndim >= 2], "weight_decay": settings.weight_decay, **extra})
        groups.append({"params": [p for p in own if p.ndim < 2], "weight_decay": 0.0, **extra})
    groups = [group for group in groups if group["params"]]
    if settings.name == "adafactor":
        return Adafactor(groups, lr=settings.lr)
    adamw = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
    _make_state(adamw)
    return adamw


def _make_state(adamw: torch.optim.AdamW) -> None:
    """What fused AdamW makes of each parameter in its first step, made before there is anything that a step frees.

    On a CPU the first step's averages would come to lie between what it frees, and the pieces never be one again: a
    process that trains 159M parameters takes 9 % more.
    """
    for group in adamw.param_groups:
        for p in group["params"]:
            adamw.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }


def rate_factors(model: nn.Module, settings: recipe.Optimizer) -> dict[nn.Parameter, float]:
    """Each trainable parameter of a model, once, and its factor on the learning rate, in the model's order."""
    factors: dict[nn.Parameter, float] = {}
    for part, module in model.named_children():
        rate, decay = settings.rates.get(part, 1.0), settings.layer_decay.get(part, 1.0)  # type: ignore[call-overload]
        for parameter, below in _depths(module):
            factors.setdefault(parameter, rate * decay**below)
    return {p: factors.get(p, 1.0) for p in model.parameters() if p.requires_grad}


def _depths(part: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Each parameter of a part and how many layers stand between it and the last (embeddings: all of them)."""
    layers: dict[str, int] = {}
    found: list[tuple[nn.Parameter, int]] = []
    for name, parameter in part.named_parameters():
        key = _LAYER.search(name)
        number = layers.setdefault(key[1], len(layers) + 1) if key else len(layers)
        found.append((parameter, number))
    return [(parameter, len(layers) - number) for parameter, number in found]


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
    """The learning rate of all groups: `value`, times the group's own `rate` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("rate", 1.0)
