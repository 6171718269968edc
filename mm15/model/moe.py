"""Router losses of a mixture-of-experts decoder: balance and z, per layer, over real tokens only.

For one sparse layer with router logits z [T, E], probabilities p = softmax(z) and top-k assignments:

    balance = E * sum_e f_e * P_e     f_e: share of the T*k assignments that go to expert e, P_e: mean of p[:, e]
    z       = mean_t logsumexp(z_t)^2

A perfectly even router has balance 1 whatever E and k are. GShard (arXiv 2006.16668) and Switch (arXiv 2101.03961)
count the first choice only, which is this formula at k = 1. Both are **averaged over the sparse layers**, so that a
loss weight means the same at any depth. Gradients flow through P and z, not through f. The z-loss is ST-MoE's (arXiv
2202.08906).

The logits are taken by forward hooks on the gates, in place for one forward (`router_logits`). With re-entrant
activation checkpointing they would be cut off from the graph without a word, so that is an error here.
Legend: T tokens, E experts, k experts of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RouterLosses:
    """Both losses averaged over layers, and how many assignments each expert of each layer got ([layers, E] int64)."""

    balance: Tensor
    z: Tensor
    expert_counts: Tensor


def gates(decoder: Any) -> list[nn.Module]:
    """The routers of a decoder in layer order; empty for a dense one."""
    return [layer.mlp.gate for layer in decoder.model.layers if hasattr(layer.mlp, "experts")]


@contextmanager
def router_logits(decoder: Any) -> Iterator[list[Tensor]]:
    """Within the block a forward of `decoder` appends each sparse layer's logits [tokens, E] to the list it yields."""
    found: list[Tensor] = []
    hooks = [gate.register_forward_hook(lambda _m, _i, out: found.append(out[0])) for gate in gates(decoder)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def router_losses(logits: list[Tensor], top_k: int, real_T: Tensor | None = None) -> RouterLosses:
    """Losses of one forward from the logits of every sparse layer; `real_T` is false at padding (None: all real).

    Raises RuntimeError when gradients are on and the logits carry none.
    """
    if torch.is_grad_enabled() and not all(z.requires_grad for z in logits):
        raise RuntimeError("router logits carry no gradient: use non-reentrant activation checkpointing")
    weight_T = torch.ones_like(logits[0][:, 0], dtype=torch.float32) if real_T is None else real_T.reshape(-1).float()
    per_layer = [_layer(z.float(), top_k, weight_T) for z in logits]
    balance, z, counts = zip(*per_layer, strict=True)
    return RouterLosses(torch.stack(balance).mean(), torch.stack(z).mean(), torch.stack(counts))


def _layer(logits_TE: Tensor, top_k: int, weight_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    experts, tokens = logits_TE.shape[1], weight_T.sum().clamp(min=1)
    probs_TE = logits_TE.softmax(-1)
    chosen_Tk = probs_TE.detach().topk(top_k, dim=-1).indices
    assigned_TE = torch.zeros_like(probs_TE).scatter_(1, chosen_Tk, 1.0)
    counts_E = weight_T @ assigned_TE
    mean_E = weight_T @ probs_TE / tokens
    balance = experts * (counts_E / (tokens * top_k) * mean_E).sum()
    z = (weight_T * logits_TE.logsumexp(-1).square()).sum() / tokens
    return balance, z, counts_E.round().long()
