"""Router losses of a mixture-of-experts decoder: balance and z, per layer, over real tokens only; and expert use.

For one sparse layer with router logits z [T, E], probabilities p = softmax(z) and top-k assignments:

    balance = E * sum_e f_e * P_e     f_e: share of the T*k assignments that go to expert e, P_e: mean of p[:, e]
    z       = mean_t logsumexp(z_t)^2

A perfectly even router has balance 1 whatever E and k are. GShard (arXiv 2006.16668) and Switch (arXiv 2101.03961)
count the first choice only, which is this formula at k = 1. Both are reported as means over the sparse layers, and the
model's loss has them **summed over the layers**, as Switch and the framework MM1.5 was trained with do: so a weight
pushes each router alike at any depth. (The mean left experts at 0.6 to 1.4 of an even share after 500 steps of pico,
the sum at 0.8 to 1.2.) Gradients flow through P and z, not through f, which is taken before anything is dropped for
lack of capacity. The z-loss is ST-MoE's (arXiv 2202.08906). All of it is fp32, also under autocast, which would round
counts to 8 bits.

What the routers gave is taken by forward hooks on the gates, in place for one forward (`router_outputs`). With
re-entrant activation checkpointing the logits would be cut off from the graph without a word, so that is an error here.
Legend: T tokens, E experts, k experts of a token, G kinds of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .routing import sparse_blocks


class Routed(NamedTuple):
    """What one router gave: logits [T, E], gates [T, k] (0: dropped), chosen experts [T, k]."""

    logits: Tensor
    gates: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class RouterLosses:
    """Both losses averaged over layers, and how many assignments each expert of each layer got: int64 [layers, E], or
    [layers, G, E] where tokens have kinds."""

    balance: Tensor
    z: Tensor
    expert_counts: Tensor


def gates(decoder: Any) -> list[nn.Module]:
    """The routers of a decoder in layer order; empty for a dense one."""
    return [block.gate for block in sparse_blocks(decoder)]


@contextmanager
def router_outputs(decoder: Any) -> Iterator[list[Routed]]:
    """Within the block a forward of `decoder` appends what each sparse layer's router gave to the list it yields."""
    found: list[Routed] = []
    hooks = [gate.register_forward_hook(lambda _m, _i, out: found.append(Routed(*out))) for gate in gates(decoder)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def router_losses(
    logits: list[Tensor], top_k: int, real_T: Tensor | None = None, kinds_T: Tensor | None = None
) -> RouterLosses:
    """Losses of one forward from the logits of every sparse layer; `real_T` is false at padding (None: all real).

    `kinds_T` are labels 0, 1, ... of the tokens, by which assignments are counted. Raises RuntimeError when gradients
    are on and the logits carry none.
    """
    if torch.is_grad_enabled() and not all(z.requires_grad for z in logits):
        raise RuntimeError("router logits carry no gradient: use non-reentrant activation checkpointing")
    weight_T = torch.ones_like(logits[0][:, 0], dtype=torch.float32) if real_T is None else real_T.reshape(-1).float()
    with torch.autocast(logits[0].device.type, enabled=False):
        kinds_GT = None if kinds_T is None else _by_kind(kinds_T.reshape(-1), weight_T)
        per_layer = [_layer(z.float(), top_k, weight_T, kinds_GT) for z in logits]
    balance, z, counts = zip(*per_layer, strict=True)
    return RouterLosses(torch.stack(balance).mean(), torch.stack(z).mean(), torch.stack(counts))


def _by_kind(kinds_T: Tensor, weight_T: Tensor) -> Tensor:
    """[G, T]: the weights of the tokens of each kind. Waits for nothing when the kinds are on the host."""
    kinds_G1 = torch.arange(int(kinds_T.max()) + 1, device=weight_T.device)[:, None]
    return (kinds_T.to(weight_T.device, non_blocking=True) == kinds_G1) * weight_T


def _layer(logits_TE: Tensor, top_k: int, weight_T: Tensor, kinds_GT: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    experts, tokens = logits_TE.shape[1], weight_T.sum().clamp(min=1)
    probs_TE = logits_TE.softmax(-1)
    chosen_Tk = probs_TE.detach().topk(top_k, dim=-1).indices
    assigned_TE = torch.zeros_like(probs_TE).scatter_(1, chosen_Tk, 1.0)
    counts_E = weight_T @ assigned_TE
    mean_E = weight_T @ probs_TE / tokens
    balance = experts * (counts_E / (tokens * top_k) * mean_E).sum()
    z = (weight_T * logits_TE.logsumexp(-1).square()).sum() / tokens
    counted = counts_E if kinds_GT is None else kinds_GT @ assigned_TE
    return balance, z, counted.round().long()


def dropped(gates_Tk: list[Tensor], real_T: Tensor) -> Tensor:
    """How many assignments of real tokens each layer dropped for lack of capacity: int64 [layers]."""
    real_T1 = real_T.reshape(-1, 1)
    return torch.stack([((gate == 0) & real_T1).sum() for gate in gates_Tk])
