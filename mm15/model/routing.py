"""How tokens reach their experts: the router in fp32, capacity, and the product of many experts at once.

    hidden [B,T,H] -> Router -> logits, gates, experts [B*T,k]     (capacity sets gates of dropped assignments to 0)
                   -> dispatch: assignments sorted by expert -> rows [S,H]
                   -> multiply: one grouped product a matrix, each expert its own run of rows
                   -> combine: back in order, weighted, summed over k

transformers' layer does the same with three differences that matter under autocast: its router multiplies in bf16, its
experts in fp32 (grouped products are not autocast), and nothing is ever dropped. `install` puts these in their place in
a decoder; names and shapes of weights stay.

Cost of the experts of one layer, forward and backward (8 of 384 x 768, top-2, 1024 tokens, bf16 on one CPU core):
37 ms; transformers' 117 ms; one dense feed-forward of the same active parameters 27 ms.
Processes that hold other experts (expert parallelism) exchange rows between `dispatch` and `multiply`, and back after.
Legend: B rows, T tokens, H width, F width of an expert, E experts, k experts of a token, A = T * k assignments,
S rows that experts get.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .autocast import compute_dtype

GROUPED = "grouped_autocast"
"""The name of `grouped_experts` for transformers' set_experts_implementation."""


class SparseBlock(nn.Module):
    """A layer's router and experts. The router is told which tokens share a row."""

    gate: Router
    experts: nn.Module

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, H]."""
        _, gates_Tk, chosen_Tk = self.gate(hidden_states)
        flat_TH = hidden_states.reshape(-1, hidden_states.shape[-1])
        return self.experts(flat_TH, chosen_Tk, gates_Tk).view_as(hidden_states)


class Router(nn.Module):
    """Top-k of a softmax over all experts; logits, probabilities and gates are fp32 whatever the autocast."""

    weight: Tensor
    hidden_dim: int
    num_experts: int
    top_k: int
    norm_topk_prob: bool
    capacity: float | None = None
    """See `kept`; None: every assignment is served."""

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, H] -> logits [B*T, E], gates [B*T, k] (0 where dropped), experts [B*T, k] of every token."""
        flat_TH = hidden_states.reshape(-1, self.hidden_dim)
        with torch.autocast(flat_TH.device.type, enabled=False):
            logits_TE = F.linear(flat_TH.float(), self.weight.float())
            gates_Tk, chosen_Tk = logits_TE.softmax(-1).topk(self.top_k, dim=-1)
            if self.norm_topk_prob:
                gates_Tk = gates_Tk / gates_Tk.sum(-1, keepdim=True)
            if self.training and self.capacity is not None:
                chosen_BTk = chosen_Tk.view(*hidden_states.shape[:-1], self.top_k)
                served_BTk = kept(chosen_BTk, self.num_experts, capacity=self.capacity)
                gates_Tk = gates_Tk * served_BTk.reshape(gates_Tk.shape)
        return logits_TE, gates_Tk, chosen_Tk


def kept(chosen_BTk: Tensor, experts: int, *, capacity: float) -> Tensor:
    """[B, T, k] bool: assignments that are served when an expert takes at most `capacity` even shares of a row.

    An even share is T * k / E, the limit is rounded up. First choices of all tokens come before second choices, and
    within a choice tokens in order of position (GShard, arXiv 2006.16668, algorithm 1, whose 2N/E is capacity 1).
    """
    rows, tokens, top_k = chosen_BTk.shape
    limit = math.ceil(capacity * tokens * top_k / experts)
    in_turn_BS = chosen_BTk.transpose(1, 2).reshape(rows, -1)
    asked_BSE = F.one_hot(in_turn_BS, experts).cumsum(1)
    turn_BS = asked_BSE.gather(2, in_turn_BS[..., None]).squeeze(2)
    return (turn_BS <= limit).view(rows, top_k, tokens).transpose(1, 2)


# -------------------------------------------------------------------------------------------------------------- experts


@dataclass(frozen=True)
class Dispatch:
    """Assignments in order of their experts. Assignment t * k + j is the j-th choice of token t; there are A of them.

    `rows` [S]: the assignment of each row, or A for a row of padding; `places` [A]: the row of each assignment (0 for
    one that is not served, whose gate is 0); `ends` [E]: where each expert's run of rows ends.
    """

    rows: Tensor
    places: Tensor
    ends: Tensor


def dispatch(chosen_Tk: Tensor, experts: int, *, served_Tk: Tensor | None = None) -> Dispatch:
    """Sorts assignments by expert, by token within an expert; those that are not served are left out (one sync)."""
    asked_A = chosen_Tk.flatten()
    if served_Tk is not None:
        asked_A = asked_A.masked_fill(~served_Tk.flatten(), experts)
    expert_S, rows_S = asked_A.sort(stable=True)
    ends_E = torch.searchsorted(expert_S, torch.arange(experts, device=asked_A.device), right=True)
    if served_Tk is not None:
        rows_S = rows_S[: int(ends_E[-1])]
    places_A = torch.zeros_like(asked_A)
    slots_S = torch.arange(len(rows_S), device=asked_A.device)
    if asked_A.device.type == "cpu":
        padded_E = _padded(ends_E)
        slots_S = slots_S + (padded_E - ends_E).roll(1).index_fill(0, torch.tensor(0), 0)[expert_S[: len(rows_S)]]
        rows_S = rows_S.new_full((int(padded_E[-1]),), len(asked_A)).index_copy(0, slots_S, rows_S)
        ends_E = padded_E
    places_A[rows_S[slots_S]] = slots_S
    return Dispatch(rows_S, places_A, ends_E.int())


def _padded(ends_E: Tensor) -> Tensor:
    """Ends of the runs with each one's length rounded up to a multiple of 16, or of a sixteenth to an eighth of it.

    Matrix products on CPUs are compiled for each shape they meet (oneDNN), which takes as long as multiplying a few
    hundred rows and is remembered; lengths that differ from step to step would make every product a first one.
    """
    lengths_E = ends_E.diff(prepend=ends_E.new_zeros(1))
    unit_E = (2 ** (lengths_E.clamp(min=1).log2().ceil() - 4)).clamp(min=16).long()
    return ((lengths_E + unit_E - 1) // unit_E * unit_E).cumsum(0)


def multiply(rows_SH: Tensor, gate_up_E2FH: Tensor, down_EHF: Tensor, ends_E: Tensor, activation: nn.Module) -> Tensor:
    """Each expert's feed-forward over its run of rows: [S, H] -> [S, H], in autocast's dtype or else the weights'."""
    dtype = compute_dtype(rows_SH.device, gate_up_E2FH)
    gate_SF, up_SF = _grouped(rows_SH.to(dtype), gate_up_E2FH, ends_E).chunk(2, dim=-1)
    return _grouped(activation(gate_SF) * up_SF, down_EHF, ends_E)


def _grouped(rows_SI: Tensor, weights_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Rows times their expert's matrix, transposed: [S, I] -> [S, O] in the rows' dtype."""
    if rows_SI.device.type == "cpu" or not len(rows_SI):
        product: Tensor = _ExpertByExpert.apply(rows_SI, weights_EOI, ends_E.tolist())  # type: ignore[no-untyped-call]
        return product
    return F.grouped_mm(rows_SI, weights_EOI.to(rows_SI.dtype).transpose(1, 2), offs=ends_E)


class _ExpertByExpert(torch.autograd.Function):
    """`_grouped` for CPUs, where moving weights costs as much as multiplying them.

    One expert at a time is cast while it lies in the cache, forward and backward, and its gradient is written where
    and as the optimiser wants it. F.grouped_mm under autocast leaves a cast copy of all experts and a transposed
    gradient, which has to be copied twice.
    """

    @staticmethod
    def forward(ctx: Any, rows_SI: Tensor, weights_EOI: Tensor, ends: list[int]) -> Tensor:
        ctx.save_for_backward(rows_SI, weights_EOI)
        ctx.runs = [slice(start, end) for start, end in pairwise([0, *ends])]
        out_SO = rows_SI.new_empty(len(rows_SI), weights_EOI.shape[1])
        for run, weight_OI in zip(ctx.runs, weights_EOI, strict=True):
            if run.start < run.stop:
                torch.mm(rows_SI[run], weight_OI.to(rows_SI.dtype).t(), out=out_SO[run])
        return out_SO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_SO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows_SI, weights_EOI = ctx.saved_tensors
        for_rows = torch.empty_like(rows_SI) if ctx.needs_input_grad[0] else None
        for_weights = torch.empty_like(weights_EOI) if ctx.needs_input_grad[1] else None
        for expert, run in enumerate(ctx.runs):
            if for_rows is not None and run.start < run.stop:
                torch.mm(gradient_SO[run], weights_EOI[expert].to(rows_SI.dtype), out=for_rows[run])
            if for_weights is not None:
                for_weights[expert].copy_(gradient_SO[run].t() @ rows_SI[run])
        return for_rows, for_weights, None


def combine(out_SH: Tensor, sent: Dispatch, gates_Tk: Tensor) -> Tensor:
    """Rows back at their tokens, times their gates, summed over a token's experts: [T, H] in the gates' precision."""
    weighted_AH = out_SH.index_select(0, sent.places) * gates_Tk.reshape(-1, 1)
    return weighted_AH.view(*gates_Tk.shape, -1).sum(1)


def grouped_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """transformers' experts interface: hidden [T, H], experts and gates [T, k] -> [T, H]."""
    drops = getattr(self, "drops", False) and self.training
    sent = dispatch(top_k_index, self.num_experts, served_Tk=top_k_weights > 0 if drops else None)
    cast_TH = hidden_states.to(compute_dtype(hidden_states.device, self.gate_up_proj))
    rows_SH = F.pad(cast_TH, (0, 0, 0, 1))[sent.rows // top_k_index.shape[1]]  # A // k: the row of zeros
    product = getattr(self, "multiply", multiply)  # another one where experts are spread over processes
    out_SH = product(rows_SH, self.gate_up_proj, self.down_proj, sent.ends, self.act_fn)
    return combine(out_SH, sent, top_k_weights).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(GROUPED, grouped_experts)


# -------------------------------------------------------------------------------------------------------------- install


def sparse_blocks(decoder: Any) -> list[Any]:
    """The feed-forwards of a decoder that have experts, in layer order; empty for a dense one."""
    return [layer.mlp for layer in decoder.model.layers if hasattr(layer.mlp, "experts")]


def install(decoder: Any, capacity: float | None) -> None:
    """Routes the decoder's sparse layers by this module, unless another experts implementation was asked for."""
    for block in sparse_blocks(decoder):
        for module, ours in ((block, SparseBlock), (block.gate, Router)):
            theirs: Any = type(module)
            module.__class__ = _mixed(ours, theirs)
        block.gate.capacity, block.experts.drops = capacity, capacity is not None
    if sparse_blocks(decoder) and decoder.config._experts_implementation == "grouped_mm":
        decoder.set_experts_implementation(GROUPED)


@cache
def _mixed(ours: Any, theirs: Any) -> Any:
    """A class that is theirs and forwards as ours: modules change class in place, as under fully_shard.

    (transformers' classes cannot be imported here: loading their files loads the automatic classes, and those ours.)
    """
    return theirs if issubclass(theirs, ours) else type(ours.__name__, (ours, theirs), {})
