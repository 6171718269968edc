"""AdaFactor (arXiv 1804.04235) with an absolute learning rate, over whole or sharded parameters.

    V ~ row x col / mean(row)      means of squared gradients by row and by column, in place of one number a weight
    U = G / sqrt(V), clipped to a root mean square of 1;   W <- W - lr U - lr weight_decay W

No parameter scale, no relative step, no first moment: transformers' `Adafactor` with these switched off (a test holds
the two equal), which cannot update parameters that FSDP2 has sharded. Here means over a sharded axis are summed over
the processes, two small exchanges a matrix and step. State: I + O numbers for a matrix of O x I. For expert weights
[E, O, I] rows and columns are those of each expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

TINY = 1e-30
"""Added to squared gradients (the paper's first epsilon)."""
DECAY = -0.8
"""The second moment of step t keeps 1 - t^DECAY of the former."""


class Adafactor(torch.optim.Optimizer):
    """See the module. Groups have `lr` and `weight_decay`."""

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step over all parameters that have a gradient; there is no closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, rate: float, weight_decay: float) -> None:
        gradient, state = parameter.grad.float(), self.state[parameter]  # type: ignore[union-attr]
        state["step"] = state.get("step", 0) + 1
        new = state["step"] ** DECAY
        square = gradient.square().add_(TINY)
        if gradient.ndim < 2:
            update = gradient * _average(state, "exp_avg_sq", square, new).rsqrt()
        else:
            row = _average(state, "exp_avg_sq_row", _whole(square.sum(-1)) / square.shape[-1], new)
            column = _average(state, "exp_avg_sq_col", _whole(square.sum(-2)) / square.shape[-2], new)
            del square  # two copies of the largest matrix at one time, not four
            share = (row / row.mean(-1, keepdim=True)).rsqrt()
            update = (gradient * share.unsqueeze(-1)).mul_(column.rsqrt().unsqueeze(-2))
        norm = (_whole(update.square().sum()) / update.numel()).sqrt()
        parameter.mul_(1 - weight_decay * rate).sub_(update.mul_(rate / norm.clamp(min=1.0)).to(parameter.dtype))


def _average(state: dict[str, Any], name: str, value: Tensor, new: float) -> Tensor:
    """The running average of this name, of which `value` becomes the share `new`."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    average: Tensor = state[name].lerp_(value, new)
    return average


def _whole(value: Tensor) -> Tensor:
    """The same on every process, where a sum went over an axis that is sharded."""
    if not isinstance(value, DTensor):
        return value
    whole: Tensor = value.redistribute(placements=[Replicate()] * value.device_mesh.ndim)
    return whole
