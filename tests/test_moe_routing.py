"""Routing: the router in fp32 under autocast, capacity as by hand, experts at once as one by one, kinds of tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_model import PICTURE, make, text, tiles
from torch.nn import functional as F  # noqa: N812

from mm15.model import MM15ForConditionalGeneration
from mm15.model.moe import gates, router_losses, router_outputs
from mm15.model.routing import GROUPED, grouped_experts, install, kept, sparse_blocks


def sparse(**changes: Any) -> MM15ForConditionalGeneration:
    """Four layers, every second with 4 experts, 2 of them a token."""
    shape = {"num_hidden_layers": 4, **changes.pop("shape", {})}
    return make(decoder="qwen3_moe", decoder_shape=shape, **changes)


# --------------------------------------------------------------------------------------------------------------- router


def test_the_router_is_fp32_under_autocast() -> None:
    """Logits equal an fp32 product of what the router was given to 1e-6, and gates the fp32 softmax of those."""
    model, given = sparse(), []
    for gate in gates(model.decoder):
        gate.register_forward_pre_hook(lambda _m, args: given.append(args[0].detach().clone()))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), router_outputs(model.decoder) as routed:
        model(torch.tensor([text(40)]))
    for gate, hidden, out in zip(gates(model.decoder), given, routed, strict=True):
        wanted = hidden.flatten(0, 1).float() @ gate.weight.T
        rounded = (hidden.flatten(0, 1).bfloat16() @ gate.weight.T.bfloat16()).float()
        assert out.logits.dtype == out.gates.dtype == torch.float32
        torch.testing.assert_close(out.logits, wanted, rtol=0, atol=1e-6)
        assert (rounded - wanted).abs().max() > 1e-3
        best = wanted.softmax(-1).sort(descending=True).values[:, :2]
        torch.testing.assert_close(out.gates, best / best.sum(1, keepdim=True), rtol=0, atol=1e-6)


def test_losses_and_counts_are_fp32_under_autocast() -> None:
    """Autocast would multiply counts of more than 256 in bf16, and round them and the balance loss to 8 bits."""
    logits = [torch.randn(999, 4, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        wanted = router_losses(logits, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = router_losses(logits, 2)
    assert found.balance == wanted.balance
    assert found.expert_counts.sum() == 2 * 999
    assert torch.equal(found.expert_counts, wanted.expert_counts)


# ------------------------------------------------------------------------------------------------------------- capacity


def by_hand(chosen: list[list[list[int]]], experts: int, limit: int) -> list[list[list[bool]]]:
    """Each row: all first choices in order of position, then all second ones, while their expert has room."""
    served = []
    for row in chosen:
        room = [limit] * experts
        taken = [[False] * len(row[0]) for _ in row]
        for choice in range(len(row[0])):
            for token, choices in enumerate(row):
                if room[choices[choice]]:
                    room[choices[choice]] -= 1
                    taken[token][choice] = True
        served.append(taken)
    return served


@pytest.mark.parametrize(("capacity", "top_k"), [(0.3, 1), (0.5, 2), (1.0, 2), (1.3, 3), (9.0, 2)])
def test_capacity_is_as_by_hand(capacity: float, top_k: int) -> None:
    """Row by row, first choices before second ones, early tokens before late ones."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 29, 5, generator=generator) * torch.tensor([3.0, 1, 1, 1, 1])
    chosen = scores.topk(top_k, dim=-1).indices
    wanted = by_hand(chosen.tolist(), 5, math.ceil(capacity * 29 * top_k / 5))
    assert kept(chosen, 5, capacity=capacity).tolist() == wanted


def test_dropped_assignments_contribute_nothing() -> None:
    """The block's output is the sum over served experts, with gates as they were; in training only, and it is told."""
    model = sparse()
    block = sparse_blocks(model.decoder)[0]
    install(model.decoder, 0.5)
    hidden = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        free = block.eval()(hidden)
        best = (hidden.flatten(0, 1) @ block.gate.weight.T).softmax(-1).topk(2)
        plain_gates, chosen = best.values / best.values.sum(-1, keepdim=True), best.indices
        tight = block.train()(hidden)
        served = kept(chosen.view(2, 24, 2), 4, capacity=0.5).reshape(48, 2)
        assert 0 < served.sum() <= 2 * 4 * 6
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(tight, one_by_one(block, hidden, chosen, plain_gates * served), **close)
        torch.testing.assert_close(free, one_by_one(block, hidden, chosen, plain_gates), **close)
        model.config.router_capacity = 0.5
        ids = torch.tensor([text(20), text(20, 1)])
        with router_outputs(model.decoder) as routed:
            found = model.train()(ids).router_dropped
        assert found.tolist() == [int((layer.gates == 0).sum()) for layer in routed]
        assert found.min() > 0
        assert model.eval()(ids).router_dropped is None
    assert sparse().train()(ids).router_dropped is None


def test_a_recipes_capacity_reaches_the_routers() -> None:
    """And stays with the saved configuration."""
    model = sparse(router={"capacity": 1.25})
    assert [gate.capacity for gate in gates(model.decoder)] == [1.25, 1.25]
    assert model.config.to_dict()["router_capacity"] == 1.25
    assert gates(sparse().decoder)[0].capacity is None


# -------------------------------------------------------------------------------------------------------------- experts


def one_by_one(block: Any, hidden: torch.Tensor, chosen: torch.Tensor, gates_Tk: torch.Tensor) -> torch.Tensor:
    """Token by token, expert by expert."""
    experts, flat = block.experts, hidden.reshape(-1, hidden.shape[-1])
    rows = []
    for token, (numbers, weights) in enumerate(zip(chosen.tolist(), gates_Tk, strict=True)):
        total = torch.zeros(flat.shape[1])
        for number, weight in zip(numbers, weights, strict=True):
            gate, up = (experts.gate_up_proj[number] @ flat[token]).chunk(2)
            total = total + weight * (experts.down_proj[number] @ (F.silu(gate) * up))
        rows.append(total)
    return torch.stack(rows).view_as(hidden)


def experts_and_input(dtype: torch.dtype = torch.float32) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six experts of which one gets no token and one nearly all; outputs and gradients are about 1."""
    shape = {"num_experts": 6, "hidden_size": 32, "moe_intermediate_size": 24, "initializer_range": 0.25}
    block = sparse_blocks(sparse(shape=shape).decoder)[0]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 50, 32, generator=generator)
    scores = torch.rand(50, 6, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1, 0])
    chosen = scores.topk(2, dim=-1).indices
    return block, hidden, chosen, torch.rand(50, 2, generator=generator)


def results(block: Any, hidden: torch.Tensor, forward: Any) -> list[torch.Tensor]:
    """Output and gradients of input, gates and both weights under a fixed weighting of the output."""
    block.zero_grad()
    hidden = hidden.clone().requires_grad_()
    out = forward(hidden)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), hidden.grad, block.experts.gate_up_proj.grad, block.experts.down_proj.grad]


def test_experts_at_once_equal_one_by_one() -> None:
    """Output and all gradients to 1e-6 in fp32; an expert without tokens has gradient 0."""
    block, hidden, chosen, weights = experts_and_input()
    wanted = results(block, hidden, lambda x: one_by_one(block, x, chosen, weights))
    found = results(block, hidden, lambda x: grouped_experts(block.experts, x[0], chosen, weights)[None])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * max(other.abs().max().item(), 1))
    assert found[2][5].abs().max() == 0
    assert found[2][0].abs().max() > 0


def test_experts_at_once_in_bf16() -> None:
    """Under autocast within what rounding explains.

    bf16 has 8 bits: each of two products' inputs and outputs is off by 2^-9 at most, the sums over 32 and 24 terms grow
    as their root while errors are independent, so an element is off by less than 2^-6 of the largest. fp32 gradients of
    weights show that products are rounded, not accumulations.
    """
    block, hidden, chosen, weights = experts_and_input()
    wanted = results(block, hidden, lambda x: one_by_one(block, x, chosen, weights))

    def under_autocast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return grouped_experts(block.experts, x[0], chosen, weights)[None]

    found = results(block, hidden, under_autocast)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 2**-6 * other.abs().max()
    assert (found[0] - wanted[0]).abs().max() > 1e-4  # it was bf16


def test_frozen_experts_and_inputs_without_gradient() -> None:
    """Gradients that nobody wants are not computed."""
    block, hidden, chosen, weights = experts_and_input()
    block.experts.requires_grad_(False)
    wanted = hidden.clone().requires_grad_()
    grouped_experts(block.experts, wanted[0], chosen, weights).sum().backward()
    assert wanted.grad is not None and block.experts.gate_up_proj.grad is None
    block.experts.requires_grad_(True)
    grouped_experts(block.experts, hidden[0], chosen, weights).sum().backward()
    assert block.experts.down_proj.grad is not None


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_capacity_holds_for_transformers_ways_too(implementation: str) -> None:
    """A dropped assignment has gate 0, which all of them respect."""
    model = sparse(router={"capacity": 0.6}).train()
    assert model.decoder.config._experts_implementation == GROUPED
    ids = torch.tensor([text(20)])
    with torch.no_grad():
        wanted = model(ids).logits
        model.set_experts_implementation(implementation)
        torch.testing.assert_close(model(ids).logits, wanted, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- kinds


def test_counts_by_kind_of_token() -> None:
    """[layers, kinds, experts]: each kind's tokens only, and all kinds together what is counted without."""
    model = sparse()
    ids = torch.tensor([text(8) + PICTURE + text(10, 1)])
    kinds = torch.tensor([[0] * 8 + [2] * 4 + [0] * 10])
    positions = torch.tensor([[*range(21), 0]])  # the last token is padding
    with torch.no_grad(), router_outputs(model.decoder) as routed:
        found = model(ids, tiles(1), position_ids=positions, token_kinds=kinds).expert_counts
        plain = model(ids, tiles(1), position_ids=positions).expert_counts
    assert found.shape == (2, 3, 4)
    assert torch.equal(found.sum(1), plain)
    assert found.sum((0, 2)).tolist() == [2 * 2 * 17, 0, 2 * 2 * 4]
    chosen = routed[1].logits.topk(2).indices
    assert found[1, 2].tolist() == torch.bincount(chosen[8:12].flatten(), minlength=4).tolist()


def test_each_router_is_pushed_with_the_whole_weight() -> None:
    """A gate's gradient is that of its own layer's losses, weighted, however many layers there are."""
    model = sparse().train()
    ids = torch.tensor([text(40)])
    nothing = torch.full_like(ids, -100)
    with router_outputs(model.decoder) as routed:
        loss = model(ids, shift_labels=nothing, num_items_in_batch=1, num_tokens_in_batch=40).loss
    last = gates(model.decoder)[-1].weight
    (found,) = torch.autograd.grad(loss, last, retain_graph=True)
    own = router_losses([routed[-1].logits], 2)
    (wanted,) = torch.autograd.grad(0.01 * own.balance + 0.001 * own.z, last)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)


def test_the_balance_loss_evens_out_the_routers() -> None:
    """By themselves the two losses bring all experts near an even share; z alone lets them drift apart.

    With a language model's loss beside them that takes the 500 steps of pico (docs/measurements.md).
    """

    def spread(balance: float, steps: int) -> tuple[float, float]:
        model = sparse(shape={"num_experts": 8, "num_hidden_layers": 2}, router={"balance": balance})
        model.train().requires_grad_(False)
        weights = [gate.weight.requires_grad_() for gate in gates(model.decoder)]
        optimizer, counts = torch.optim.AdamW(weights, lr=0.015), []
        for step in range(steps):
            ids = torch.tensor([text(128, step)])
            nothing = torch.full_like(ids, -100)
            out = model(ids, shift_labels=nothing, num_items_in_batch=1, num_tokens_in_batch=128)
            out.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            counts.append(out.expert_counts)
        late = torch.stack(counts[-25:]).sum(0).double()
        shares = late / late.mean(1, keepdim=True)
        return shares.min().item(), shares.max().item()

    least, most = spread(0.01, 90)
    assert least > 0.8 and most < 1.2, (least, most)
    least, most = spread(0.0, 30)
    assert least < 0.7 and most > 1.35, (least, most)
