"""One process builds the model, the others get its shape, and their shards of its weights.

    main     build() ----------------> whole model on the CPU --shard--> its shards
    others   configuration from main -> hollow model (meta)   --shard--> empty shards  <-- scattered from main

No process but the main one reads weights or holds more than its shards and one whole tensor, and starting many costs
what starting one does: fp32 weights once in the memory of one machine. The result is exact: every rank has what the
main process built, rotary tables (buffers, which no checkpoint holds) included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import UserError
from ..model import MM15ForConditionalGeneration

if TYPE_CHECKING:
    from .parallel import World


def build_once(build: Callable[[], MM15ForConditionalGeneration], world: World) -> MM15ForConditionalGeneration:
    """What `build` gives, whole on the main process; on the others the same without weights, for `parallel.prepare`.

    A UserError of `build` is raised on all processes.
    """
    if world.mesh is None:
        return build()
    told: list[Any] = [None]
    model = None
    if world.is_main:
        try:
            model = build()
            told = [model.config]
        except UserError as error:
            told = [error]
    dist.broadcast_object_list(told, src=0, group=world.waiting)
    if isinstance(told[0], UserError):
        raise told[0]
    return model or hollow(told[0])


def hollow(config: Any) -> MM15ForConditionalGeneration:
    """A model on the meta device: every parameter and buffer has a shape and no memory."""
    with torch.device("meta"):
        return MM15ForConditionalGeneration(config)


@torch.no_grad()
def fill(model: nn.Module, whole: Mapping[str, Tensor], device: torch.device) -> None:
    """Gives a sharded model the weights and buffers in `whole` (names -> tensors, on the main process only), in place.

    Hollow shards become real first; they stay the objects they are, so that tied ones stay tied.
    """
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model.to_empty(device=device)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if whole:
            source = whole[name].detach().to(device)
        else:
            source = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if isinstance(tensor, DTensor):
            tensor.copy_(distribute_tensor(source, tensor.device_mesh, tensor.placements))
        else:
            dist.broadcast(source, src=0)
            tensor.copy_(source)
