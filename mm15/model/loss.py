"""Cross entropy as a sum over targets: logits in chunks at target positions only, in fp32.

A step divides the sums of all its micro-batches and ranks by one count, so that how rows were split or packed does not
matter. The gradients of a chunk are computed with its loss, while its logits exist (as Liger Kernel does, arXiv
2410.10989): nothing of the size of the vocabulary is kept for the backward or computed twice.
Legend: B rows, T tokens, H width, V vocabulary, R targets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .autocast import compute_dtype

IGNORE = -100
"""The label of what is not a target."""
LOGIT_ROWS = 4096
"""Targets whose logits exist at one time."""
SOFTMAX_NUMBERS = 2**21
"""Logits that are in fp32 at one time, of as many targets as that makes: 8 MiB, which stay in a processor's cache."""


def target_loss(head: nn.Module, hidden_BTH: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy summed over targets, and their number; `targets_BT` says at each token what comes next.

    At most `LOGIT_ROWS` targets have logits at one time. `head` is linear without a bias; anything else (an adapted
    head) is called, and keeps its logits.
    """
    places_R = (targets_BT != IGNORE).flatten().nonzero().flatten()
    hidden_RH = hidden_BTH.flatten(0, 1).index_select(0, places_R)
    targets_R = targets_BT.flatten().index_select(0, places_R)
    count = torch.tensor(len(places_R), device=hidden_RH.device)
    if type(head) is not nn.Linear or head.bias is not None or head._forward_hooks or head._forward_pre_hooks:
        return F.cross_entropy(head(hidden_RH).float(), targets_R, reduction="sum"), count
    dtype = compute_dtype(hidden_RH.device, head.weight)
    return _LinearCrossEntropy.apply(hidden_RH, head.weight, targets_R, dtype), count


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over targets of cross entropy of ``hidden @ weight.T``, products in `dtype`; gradients come with the loss."""

    @staticmethod
    def forward(ctx: Any, hidden_RH: Tensor, weight_VH: Tensor, targets_R: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        learn_hidden, learn_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float32, device=hidden_RH.device)
        compute_VH = weight_VH.detach().to(dtype)
        to_hidden = torch.empty_like(hidden_RH) if learn_hidden else None
        to_weight = None
        for start in range(0, len(hidden_RH), LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            hidden = hidden_RH[rows].to(dtype)
            logits = hidden @ compute_VH.T
            total += _cross_entropy_(logits, targets_R[rows, None], differentiate=learn_hidden or learn_weight)
            if to_hidden is not None:
                to_hidden[rows] = logits @ compute_VH
            if learn_weight:
                product = logits.T @ hidden
                to_weight = product.to(weight_VH.dtype) if to_weight is None else to_weight.add_(product)
        if learn_weight and to_weight is None:  # no target at all: every rank still has a gradient to reduce
            to_weight = torch.zeros_like(weight_VH)
        ctx.save_for_backward(to_hidden, to_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight = (None if g is None else g.mul_(gradients[0]) for g in ctx.saved_tensors)
        return to_hidden, to_weight, None, None


def _cross_entropy_(logits_RV: Tensor, targets_R1: Tensor, *, differentiate: bool) -> Tensor:
    """Cross entropy summed over targets; the logits become its gradient in place: probabilities, less 1 at targets."""
    total = torch.zeros((), dtype=torch.float32, device=logits_RV.device)
    rows = max(SOFTMAX_NUMBERS // logits_RV.shape[1], 1)
    for logits, targets in zip(logits_RV.split(rows), targets_R1.split(rows), strict=True):
        log_probs = logits.log_softmax(-1, dtype=torch.float32)
        total -= log_probs.gather(1, targets).sum()
        if differentiate:
            probs = log_probs.exp_()
            logits.copy_(probs.scatter_add_(1, targets, probs.new_full(targets.shape, -1)))
    return total


def label_loss(logits_BTV: Tensor, labels_BT: Tensor, documents: list[list[int]] | None) -> tuple[Tensor, Tensor]:
    """The same of unshifted labels and whole logits; the first token of a packed document is nobody's target."""
    targets_BT = F.pad(labels_BT, (0, 1), value=IGNORE)[:, 1:].clone()
    for row, lengths in enumerate(documents or []):
        targets_BT[row, torch.tensor(lengths).cumsum(0) - 1] = IGNORE
    flat = logits_BTV.flatten(0, 1).float()
    loss = F.cross_entropy(flat, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss, (targets_BT != IGNORE).sum()
