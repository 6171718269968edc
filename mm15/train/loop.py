"""The training loop of one stage, on one screen.

For each step: take the rows, count target tokens over all rows and ranks, backward ``loss_sum / count`` row by row,
clip, stop on a norm that is not finite, step, log, save. The split into rows therefore never changes the gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from .. import recipe
from ..data.loader import Batch
from ..errors import UserError
from .optim import learning_rate, set_learning_rate
from .parallel import World


class NotFiniteError(UserError):
    """Loss or gradient became NaN or infinite; the message names the step and its samples."""


@dataclass(frozen=True)
class Step:
    """What one step was: for metrics.jsonl and the progress bar."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    targets: int
    samples: int
    tiles: int
    seconds: float
    router: dict[str, float]

    def line(self) -> dict[str, Any]:
        """The step as a line of metrics.jsonl; router losses only where there is a router."""
        fields = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "router"}
        return {**fields, **self.router}


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Iterator[list[Batch]],
    *,
    stage: recipe.Stage,
    first: int,
    bf16: bool,
    world: World,
    on_step: Callable[[Step], None],
) -> None:
    """Trains from step `first` (1-based) to the last of the stage; `on_step` logs and saves."""
    model.train()
    for number in range(first, stage.steps + 1):
        started = time.perf_counter()
        batch = next(rows)
        rate = learning_rate(number - 1, stage.steps, stage.optimizer.lr, stage.schedule)
        set_learning_rate(optimizer, rate)
        loss, router = backward(model, batch, bf16=bf16, world=world)
        norm = _number(torch.nn.utils.clip_grad_norm_(model.parameters(), stage.optimizer.clip))
        if not (math.isfinite(norm) and math.isfinite(loss)):
            names = ", ".join(f"{ref.source}[{ref.index}]" for row in batch for ref in row.refs)
            raise NotFiniteError(
                f"step {number}: loss {loss}, gradient norm {norm}; lower optimizer.lr or look at the samples: {names}"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        counts = {
            "tokens": sum(row.input_ids.shape[1] for row in batch),
            "targets": _targets(batch),
            "samples": sum(len(row.refs) for row in batch),
            "tiles": sum(len(row.tiles) for row in batch),
        }
        totals = {key: int(world.total(value)) for key, value in counts.items()}
        on_step(Step(number, loss, rate, norm, seconds=time.perf_counter() - started, router=router, **totals))


def _number(tensor: torch.Tensor) -> float:
    """A scalar, gathered from all ranks where it is sharded."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).item()


def _targets(batch: list[Batch]) -> int:
    return sum(int((row.labels != -100).sum()) for row in batch)


def backward(model: torch.nn.Module, batch: list[Batch], *, bf16: bool, world: World) -> tuple[float, dict[str, float]]:
    """Gradients of ``sum of losses / count of targets`` over all rows and ranks; returns the loss and router losses."""
    count = max(world.total(_targets(batch)), 1)
    tokens = max(world.total(sum(row.input_ids.shape[1] for row in batch)), 1)
    total = torch.zeros((), dtype=torch.float64)
    router: dict[str, float] = {}
    for i, row in enumerate(batch):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(i == len(batch) - 1)
        with _autocast(bf16, world):
            out = model(
                input_ids=row.input_ids.to(world.device, non_blocking=True),
                position_ids=row.position_ids.to(world.device, non_blocking=True),
                pixel_values=row.tiles.to(world.device, non_blocking=True) if len(row.tiles) else None,
                tile_spans=row.spans,
                shift_labels=row.labels.to(world.device, non_blocking=True),
                num_items_in_batch=count,
                num_tokens_in_batch=tokens,
                use_cache=False,
            )
        out.loss.backward()
        total += out.loss_sum.detach().double().cpu() / count
        for name in ("balance_loss", "z_loss"):
            if getattr(out, name) is not None:
                share = row.input_ids.shape[1] / tokens
                router[name] = router.get(name, 0.0) + getattr(out, name).item() * share
    return world.total(total.item()), {name: world.total(value) for name, value in router.items()}


def _autocast(bf16: bool, world: World) -> Any:
    if not bf16:
        return nullcontext()
    return torch.autocast(world.device.type, dtype=torch.bfloat16)
