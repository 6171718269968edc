"""Five steps of AdaFactor on sharded parameters, of 2-D, 3-D and 1-D and of uneven sizes; started by torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mm15.train.adafactor import Adafactor


class Weights(nn.Module):
    """Parameters of every shape that models have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        shapes = {"matrix": (7, 5), "experts": (3, 4, 6), "vector": (9,), "kernel": (4, 1, 3, 3)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))


def gradients(step: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(100 + step)
    return {name: torch.randn_like(p) * 10 ** (step - 2) for name, p in Weights().named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The parameters after five steps with given gradients."""
    for step in range(5):
        for name, given in gradients(step).items():
            p = model.get_parameter(name)
            p.grad = given if not isinstance(p, DTensor) else _like(given, p)
        optimizer.step()
    return {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach() for n, p in model.named_parameters()}


def _like(given: torch.Tensor, parameter: DTensor) -> DTensor:
    return distribute_tensor(given, parameter.device_mesh, parameter.placements)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = Weights()
    fully_shard(model)
    found = train(model, Adafactor(model.parameters(), lr=0.02, weight_decay=0.1))
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort an interpreter that is shutting down
