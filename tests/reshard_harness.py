"""Checkpoints across layouts, on gloo processes that are forked: reshard_harness.py OUT

Two processes train a tiny model for two steps and save it, at once and asynchronously; then 1, 2 and 4 processes, with
one or two copies of the model among them, load each into a model of other weights and save again what they have.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lives import Life
from tiny_model import make
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from mm15 import recipe
from mm15.train import checkpoint, parallel
from mm15.train.optim import make_optimizer

LAYOUTS = {"one": (1, 1), "four": (4, 1), "copies": (2, 2), "four in two copies": (4, 2)}
"""Name -> processes, copies of the model among them."""


def started(seed: int, copies: int) -> tuple[Any, torch.optim.Optimizer, parallel.World]:
    """A tiny model of experts, spread over the processes there are."""
    torch.set_num_threads(1)
    settings = recipe.Parallel(replicate=copies)
    world = parallel.start(settings)
    model = make(decoder="qwen3_moe", seed=seed).train()
    parallel.prepare(model, settings, world, bf16=False)
    return model, make_optimizer(model.parameters(), recipe.Optimizer(lr=0.01)), world


def whole(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything a checkpoint holds, gathered."""
    return dict(
        zip(
            ("model", "optimizer"),
            get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True)),
            strict=True,
        )
    )


def save(out: Path) -> None:
    """Two steps on made-up gradients, then both kinds of checkpoint; the step after them must not be in them."""
    model, optimizer, world = started(1, 1)

    def step(number: int) -> None:
        for p in model.parameters():
            p.grad = torch.full_like(p, 0.1 * number)
        optimizer.step()

    step(1), step(-3)
    checkpoint.save(out / "at once", 2, model=model, optimizer=optimizer, state={}, world=world, keep=1)
    state = whole(model, optimizer)
    if world.is_main:
        torch.save(state, out / "saved.pt")
    with checkpoint.Saver(out / "asynchronous", recipe.Checkpoint(asynchronous=True), world) as saver:
        saver.save(2, model=model, optimizer=optimizer, state={})
        step(5)
    parallel.stop()


def load(out: Path, name: str) -> None:
    """Both checkpoints in another layout."""
    for kind in ("at once", "asynchronous"):
        model, optimizer, world = started(2, LAYOUTS[name][1])
        path = checkpoint.latest(out / kind)
        assert path is not None
        checkpoint.load(path, model=model, optimizer=optimizer, world=world)
        state = whole(model, optimizer)
        if world.is_main:
            torch.save(state, out / f"{kind}, {name}.pt")
    parallel.stop()


def main(out: Path) -> None:
    Life(partial(save, out), out / "save", ranks=2).succeed()
    for name, (ranks, _) in LAYOUTS.items():
        Life(partial(load, out, name), out / name, ranks=ranks).succeed()


def flat(state: Any, path: str = "") -> dict[str, Tensor | float]:
    """Leaves of nested dicts and lists by their path."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if items is None:
        return {path: state}
    return {name: leaf for key, value in items for name, leaf in flat(value, f"{path}/{key}").items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
