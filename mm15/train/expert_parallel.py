"""Expert parallelism: the experts of a layer spread over processes, to which tokens travel (GShard, arXiv 2006.16668).

    processes    [data, expert]: those of one `data` row are neighbours and share out a layer's E experts, E / N each
    weights      [E, ., .] as DTensors: Shard(0) over `expert`, and within a share Shard(1) by FSDP2 over `data`
    a layer      dispatch -> counts to each process -> rows to their expert's -> multiply -> rows back -> combine

All else is sharded over all processes together, and every process has rows of its own, as without expert parallelism.
An expert's gradient is the sum over its group, which comes back with the rows, and over `data`, by FSDP. The state dict
holds whole [E, ., .] tensors, so any checkpoint loads with any number of groups. Within a share FSDP cuts matrices, not
experts, of which a share may have fewer than `data` has processes; the price is one more copy of a gathered share.

Cost, in a layer of k experts a token, width H, expert width F, T tokens on each process, bytes b of the compute type:

    sent by a process    4 * (1 - 1/N) * k * T * H * b    a row's way there and back, in forward and in backward; with
                                                          full activation checkpointing six ways instead of four
    saved by a process   (1 - 1/N) * 3 * E * H * F * (2 * b + 4)    gathered in forward and backward, reduced in fp32
                         (1 - 1/N) * 3 * E * H * F * b              room for a layer's gathered experts

So in bf16 fewer bytes are sent while k * T < 3 * E * F, but they are waited for, while FSDP gathers the next layer's
weights during one; each layer waits once more for the host to learn how many rows come, and lasts as long as the
busiest process of a group. It pays where a layer's gathered experts do not fit, or take longer to gather than the layer
to compute: many large experts, few tokens a process, a group within one machine. Where they fit it only costs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ..errors import UserError
from ..model.autocast import compute_dtype
from ..model.routing import multiply, sparse_blocks


def spread(decoder: Any, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Splits the experts of every sparse layer over `mesh` [data, expert] in place; before the layers are sharded.

    Every process gives a whole model, or a hollow one. UserError for a decoder without experts, and for sizes that
    cannot be split evenly.
    """
    blocks = sparse_blocks(decoder)
    _check(blocks, *mesh.shape)
    for block in blocks:
        experts = block.experts
        for name, whole in list(experts.named_parameters()):
            share = distribute_tensor(whole.detach(), mesh["expert"], [Shard(0)], src_data_rank=None)
            setattr(experts, name, nn.Parameter(share, requires_grad=whole.requires_grad))
        experts.multiply = partial(exchanged, mesh.get_group("expert"))
        fully_shard(experts, mesh=mesh["data"], mp_policy=policy, shard_placement_fn=lambda _: Shard(1))


def exchanged(
    group: dist.ProcessGroup,
    rows_SH: Tensor,
    gate_up: DTensor,
    down: DTensor,
    ends_E: Tensor,
    activation: nn.Module,
) -> Tensor:
    """`routing.multiply` where each process of `group` holds its share of the experts: [S, H] -> [S, H].

    All processes of the group call it together, each with its own rows; none is a number of rows too. The weights are
    over the group.
    """
    gate_up_E2FH, down_EHF = gate_up.to_local(), down.to_local()
    processes, experts = group.size(), len(gate_up_E2FH)
    sent_E = ends_E.long().diff(prepend=ends_E.new_zeros(1, dtype=torch.int64))
    come_E = wait_tensor(all_to_all_single_autograd(sent_E, None, None, group))
    come_PE = come_E.view(processes, experts)
    sends, receives = torch.stack([sent_E.view(processes, experts).sum(1), come_PE.sum(1)]).tolist()

    rows_SH = rows_SH.to(compute_dtype(rows_SH.device, gate_up_E2FH))
    come_RH = wait_tensor(all_to_all_single_autograd(rows_SH, receives, sends, group))
    whose_PE = torch.arange(experts, device=come_E.device).repeat(processes)
    order_R = whose_PE.repeat_interleave(come_E, output_size=sum(receives)).argsort(stable=True)
    ends = come_PE.sum(0).cumsum(0).int()
    out_RH = multiply(come_RH.index_select(0, order_R), gate_up_E2FH, down_EHF, ends, activation)
    back_RH = torch.empty_like(out_RH).index_copy(0, order_R, out_RH)
    return wait_tensor(all_to_all_single_autograd(back_RH, sends, receives, group))


def _check(blocks: list[Any], data: int, groups: int) -> None:
    if not blocks:
        raise UserError(f"parallel.experts is {groups}, and the model's decoder has no experts; set parallel.experts=1")
    for experts in (block.experts for block in blocks):
        for whole in experts.parameters():
            if len(whole) % groups:
                raise UserError(
                    f"parallel.experts is {groups}, which does not divide the decoder's {len(whole)} experts a layer; "
                    "set parallel.experts to a number that divides both them and the number of processes"
                )
            if whole.shape[1] % data:
                raise UserError(
                    f"with parallel.experts={groups} the experts of a layer are cut into {data} parts, which does not "
                    f"divide the {whole.shape[1]} rows of their matrices; choose another number of processes or groups"
                )
