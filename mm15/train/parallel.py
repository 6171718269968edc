"""One process or many: device, process group, FSDP2 sharding.

Start with ``torchrun --nproc-per-node N -m mm15 run ...``; without torchrun everything here is a no-op on one process.
The shard plan is data: (pattern of module paths, reshard after forward). Embedding, final norm and head stay with the
root, because the model calls the embedding from outside the decoder.

Gradients are summed, never averaged: each rank's loss is already divided by the count of target tokens over all ranks.
`set_gradient_divide_factor(1.0)` alone would turn the reduction into PREMUL_SUM, which gloo refuses and some NCCL
versions zero in bf16, hence `set_force_sum_reduction_for_comms(True)`.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

SHARD_PLAN: tuple[tuple[str, bool], ...] = (
    (r"vision\.(.*\.)?layers?\.\d+", True),
    (r"connector", True),
    (r"decoder\.(.*\.)?layers\.\d+", True),
)
"""Units of sharding, inner before outer; True frees the full weights after forward."""


@dataclass(frozen=True)
class World:
    """This process among all: its rank, how many there are, its device, and the mesh (None for one process)."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """The sum of a number over all ranks."""
        if self.mesh is None:
            return value
        tensor = torch.tensor(float(value), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.item()

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.mesh is not None:
            dist.barrier()


def start() -> World:
    """Joins the process group that torchrun described, or stays alone."""
    cuda = torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    return World(dist.get_rank(), size, device, mesh)


def stop() -> None:
    """Leaves the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(model: torch.nn.Module, world: World, *, bf16: bool) -> torch.nn.Module:
    """Shards an initialised model over the mesh in place; every rank must hold the same weights before."""
    if world.mesh is None:
        return model
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # nothing here is changed in place
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
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


def native_bf16(device: torch.device) -> bool:
    """Whether the machine multiplies bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
