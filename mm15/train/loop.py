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

from .. import recipe
from ..data.loader import Batch
from ..errors import UserError
from .expert_use import ExpertUse
from .optim import learning_rate, set_learning_rate
from .parallel import World, clip, last_row


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
    stopping: bool = False
    """Whether a process of the run has been asked to stop; the same on all of them."""

    def line(self) -> dict[str, Any]:
        """The step as a line of metrics.jsonl; router losses only where there is a router."""
        fields = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("router", "stopping")}
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
    asked_to_stop: Callable[[], bool] = lambda: False,
    use: ExpertUse | None = None,
) -> None:
    """Trains from step `first` (1-based) to the last of the stage; `on_step` logs and saves, and ends it by raising."""
    model.train()
    for number in range(first, stage.steps + 1):
        started = time.perf_counter()
        batch = next(rows)
        rate = learning_rate(number - 1, stage.steps, stage.optimizer.lr, stage.schedule)
        set_learning_rate(optimizer, rate)
        loss, totals = backward(model, batch, bf16=bf16, world=world, asked_to_stop=asked_to_stop, use=use)
        norm = clip(model.parameters(), stage.optimizer.clip)
        if not (math.isfinite(norm) and math.isfinite(loss)):
            names = ", ".join(f"{ref.source}[{ref.index}]" for row in batch for ref in row.refs)
            raise NotFiniteError(f"step {number}: loss {loss}, gradient norm {norm}; look at its samples: {names}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        counts = {name: int(totals.pop(name)) for name in ("tokens", "targets", "samples", "tiles")}
        stopping = totals.pop("stopping") > 0
        seconds = time.perf_counter() - started
        on_step(Step(number, loss, rate, norm, **counts, seconds=seconds, router=totals, stopping=stopping))


def backward(
    model: torch.nn.Module,
    batch: list[Batch],
    *,
    bf16: bool,
    world: World,
    asked_to_stop: Callable[[], bool] = lambda: False,
    use: ExpertUse | None = None,
) -> tuple[float, dict[str, float]]:
    """Gradients of ``sum of losses / count of targets`` over all rows and ranks.

    Returns the loss, and by name over all ranks: tokens, targets, samples, tiles; router losses where there are
    routers; and how many ranks were asked to stop. Two exchanges of numbers: before the rows and after them; and one
    of expert use, which `use` counts by token kind.
    """
    counts = world.totals(
        {
            "tokens": sum(row.input_ids.shape[1] for row in batch),
            "targets": sum(int((row.labels != -100).sum()) for row in batch),
            "samples": sum(len(row.refs) for row in batch),
            "tiles": sum(len(row.tiles) for row in batch),
        }
    )
    count, tokens = max(counts["targets"], 1), max(counts["tokens"], 1)
    sums: dict[str, Any] = {"loss": 0.0}
    for i, row in enumerate(batch):
        last_row(model, i == len(batch) - 1)
        with _autocast(bf16, world):
            out = model(
                input_ids=row.input_ids.to(world.device, non_blocking=True),
                position_ids=row.position_ids.to(world.device, non_blocking=True),
                pixel_values=row.tiles.to(world.device, non_blocking=True) if len(row.tiles) else None,
                tile_spans=row.spans,
                shift_labels=row.labels.to(world.device, non_blocking=True),
                num_items_in_batch=count,
                num_tokens_in_batch=tokens,
                token_kinds=None if use is None else use.kinds(row),
                use_cache=False,
            )
        out.loss.backward()
        sums["loss"] += out.loss_sum.detach().double() / count
        for name in ("balance_loss", "z_loss"):
            if getattr(out, name) is not None:
                sums[name] = sums.get(name, 0) + getattr(out, name).detach().double() * row.input_ids.shape[1] / tokens
        if use is not None:
            use.add(out.expert_counts, out.router_dropped)
    sums = world.totals({**sums, "stopping": asked_to_stop()}) | ({} if use is None else use.line())
    return sums.pop("loss"), {**counts, **sums}


def _autocast(bf16: bool, world: World) -> Any:
    if not bf16:
        return nullcontext()
    return torch.autocast(world.device.type, dtype=torch.bfloat16)
