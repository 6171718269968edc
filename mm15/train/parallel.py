"""One process or many: device, process group, FSDP2 sharding.

Start with ``torchrun --nproc-per-node N -m mm15 run ...``; without torchrun everything here is a no-op on one process.

    start     process group and mesh: [shard], or with parallel.replicate [replicate, shard] (HSDP)
              and with parallel.experts another one of the same processes: [data, expert]
    prepare   a whole model (elsewhere a hollow one, see `materialise`) -> its layers as set, sharded, weights in place
    last_row  which of a step's rows brings the gradients together          clip   one norm over all shards

The shard plan is data: (pattern of module paths, reshard after forward). Embedding, final norm and head stay with the
root, because the model calls the embedding from outside the decoder.

Gradients are summed, never averaged: each rank's loss is already divided by the count of target tokens over all ranks.
`set_gradient_divide_factor(1.0)` alone would turn the reduction into PREMUL_SUM, which gloo refuses and some NCCL
versions zero in bf16, hence `set_force_sum_reduction_for_comms(True)`; it makes HSDP's all-reduce a sum as well.

When a process ends, those that wait for it get an error from the transport at once (`lost` makes it one line), and
torchrun stops them. Processes that hang without an end are given up after `PATIENCE`. Only `World.barrier` waits on
longer, because the main process may evaluate for hours meanwhile.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from .. import recipe
from ..errors import UserError
from ..model.device import best_device
from ..model.moe import gates
from .expert_parallel import spread
from .layers import LAYERS, set_up_layers
from .materialise import fill

SHARD_PLAN: tuple[tuple[str, bool], ...] = ((LAYERS, True), (r"connector", True))
"""Units of sharding, inner before outer; True frees the full weights after forward."""
WHOLE_GRADIENTS = 8 * 2**30
"""Bytes of whole gradients that a process may keep over a step's rows. Models up to this reduce gradients once a step;
larger ones scatter them after each row (and with copies still sum between them once)."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for another in a step: the first one may compile and read from cold storage."""
LONG_PATIENCE = timedelta(days=30)
"""The same between steps, where the main process may evaluate, write or measure alone."""


@dataclass(frozen=True)
class World:
    """This process among all: its rank, how many there are, its device, and the mesh (None for one process)."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: DeviceMesh | None = None
    grid: DeviceMesh | None = None
    """The same processes as [data, expert] where experts are spread over them (see `expert_parallel`)."""
    waiting: dist.ProcessGroup | None = None
    """All processes, in a group of long patience; never on a GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """The sum of a number over all ranks."""
        return self.totals({"value": value})["value"]

    def totals(self, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """The sums of numbers over all ranks, in one exchange; the keys are the same everywhere."""
        tensors = [torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values.values()]
        summed = torch.stack(tensors)
        if self.mesh is not None:
            dist.all_reduce(summed)
        return dict(zip(values, summed.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """What each rank hands in, in their order; anything that can be pickled."""
        found = [value] * self.size
        if self.mesh is not None:
            dist.all_gather_object(found, value, self.waiting)
        return found

    def barrier(self) -> None:
        """Waits for all ranks, however long the main one takes."""
        if self.mesh is not None:
            dist.barrier(self.waiting)


def start(settings: recipe.Parallel | None = None) -> World:
    """Joins the process group that torchrun described, or stays alone.

    UserError when the processes cannot be split into the copies that `settings` ask for.
    """
    settings = settings or recipe.Parallel()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % settings.replicate:
        raise UserError(
            f"parallel.replicate is {settings.replicate}, and this run has {size} processes, which are no "
            f"{settings.replicate} equal copies; start a multiple of {settings.replicate}, or set parallel.replicate=1"
        )
    if size % settings.experts:
        raise UserError(
            f"parallel.experts is {settings.experts}, and this run has {size} processes, which cannot be split into "
            f"groups of {settings.experts}; start a multiple of {settings.experts}, or set parallel.experts=1"
        )
    if settings.experts > 1 and settings.replicate > 1:
        raise UserError(
            f"parallel.replicate={settings.replicate} and parallel.experts={settings.experts} cannot be had together; "
            "set one of them to 1"
        )
    device = best_device()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device)
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE, device_id=device if cuda else None
        )
    shape: tuple[int, ...] = (size,)
    names: tuple[str, ...] = ("shard",)
    if settings.replicate > 1:
        shape, names = (settings.replicate, size // settings.replicate), ("replicate", "shard")
    mesh, grid = init_device_mesh(device.type, shape, mesh_dim_names=names), None
    if settings.experts > 1:
        groups = (size // settings.experts, settings.experts)
        grid = init_device_mesh(device.type, groups, mesh_dim_names=("data", "expert"))
        grid._flatten("all")  # so that a norm is summed at once, not axis by axis
    waiting = dist.new_group(backend="gloo", timeout=LONG_PATIENCE)
    return World(dist.get_rank(), size, device, mesh, grid, waiting)


def stop() -> None:
    """Leaves the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------------------------- model


def prepare(model: torch.nn.Module, settings: recipe.Parallel, world: World, *, bf16: bool) -> None:
    """Makes a model ready to train, in place: layers as set, on the device, sharded, with the main process's weights.

    `bf16` is whether the machine computes in it. Optimisers come after: parameters may be other objects then.
    """
    set_up_layers(model, settings, world.device)
    if world.mesh is None:
        torch.nn.Module.to(model, world.device)
        return
    whole = {**dict(model.named_parameters()), **dict(model.named_buffers())} if world.is_main else {}
    shard(model, world, bf16=bf16 and world.device.type == "cuda")
    fill(model, whole, world.device)


def shard(model: torch.nn.Module, world: World, *, bf16: bool) -> torch.nn.Module:
    """Shards a model over the mesh in place; the weights that count are the main process's (see `prepare`)."""
    if world.mesh is None:
        return model
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # nothing here is changed in place
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = replace(exact, param_dtype=torch.bfloat16) if bf16 else exact
    if bf16:  # routers multiply in fp32, with weights that are not rounded on their way
        for gate in gates(model.decoder):
            fully_shard(gate, mesh=world.mesh, mp_policy=exact)
    if world.grid is not None:
        spread(model.decoder, world.grid, policy)
    for pattern, reshard in SHARD_PLAN:
        for name, module in list(model.named_modules()):
            if re.fullmatch(pattern, name):
                fully_shard(module, mesh=world.mesh, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(model, mesh=world.mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def last_row(model: torch.nn.Module, last: bool) -> None:
    """Says before a row's forward whether it is the step's last, with which gradients come together over all ranks."""
    if not isinstance(model, FSDPModule):
        return
    if 4 * sum(p.numel() for p in model.parameters() if p.requires_grad) <= WHOLE_GRADIENTS:
        model.set_requires_gradient_sync(last)
    else:
        model.set_requires_all_reduce(last)
    model.set_is_last_backward(last)


def clip(parameters: Iterable[torch.nn.Parameter], most: float) -> float:
    """Scales gradients down to a norm of `most` over all shards, in place; returns the norm before.

    Torch's own cannot take parameters of different meshes together; here the norm of each mesh's enters the whole.
    """
    groups: dict[DeviceMesh | None, list[torch.nn.Parameter]] = {}
    for p in parameters:
        if p.grad is not None:
            groups.setdefault(p.grad.device_mesh if isinstance(p.grad, DTensor) else None, []).append(p)
    norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups.values()]
    norm = math.hypot(*(n.full_tensor().item() if isinstance(n, DTensor) else n.item() for n in norms))
    if norm > most:
        for group in groups.values():
            torch.nn.utils.clip_grads_with_norm_(group, most, torch.tensor(norm))
    return norm


# ----------------------------------------------------------------------------------------------------------- lost peers


@contextmanager
def together() -> Iterator[None]:
    """Within the block the end of another process is a UserError of one line, not a transport's traceback."""
    try:
        yield
    except (Exception, CheckpointException) as error:  # DCP's own is not an Exception
        if not lost(error):
            raise
        raise UserError(
            "another process of the run ended, or did not answer; mend what it reported, and run again to go on from "
            "the last checkpoint"
        ) from error


def lost(error: BaseException) -> bool:
    """Whether an error comes from another process being gone, at whatever depth it was wrapped."""
    seen: set[int] = set()
    left: list[Any] = [error]
    while left:
        one = left.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        text = str(one)
        if isinstance(one, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError):
            return True
        if isinstance(one, RuntimeError) and ("gloo/transport" in text or "[gloo]" in text.lower()):
            return True
        left += [one.__cause__, one.__context__]
        if isinstance(one, CheckpointException):
            left += [failure[0] for failure in one.failures.values()]
    return False
