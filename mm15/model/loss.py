"""Cross entropy as a sum over targets: logits in chunks at target positions only, in fp32.

A step divides the sums of all its micro-batches and ranks by one count, so that how rows were split or packed does not
matter. Legend: B rows, T tokens, H width, V vocabulary, R targets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

IGNORE = -100
"""The label of what is not a target."""
LOGIT_ROWS = 4096
"""Targets whose logits exist at one time."""


def target_loss(head: nn.Module, hidden_BTH: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy summed over targets, and their number; `targets_BT` says at each token what comes next.

    More than `LOGIT_ROWS` targets are taken in chunks, whose logits are computed again in the backward.
    """
    places_R = (targets_BT != IGNORE).flatten().nonzero().flatten()
    hidden_RH = hidden_BTH.flatten(0, 1).index_select(0, places_R)
    targets_R = targets_BT.flatten().index_select(0, places_R)
    count = torch.tensor(len(places_R), device=hidden_RH.device)
    if len(places_R) <= LOGIT_ROWS:
        return _cross_entropy(head, hidden_RH, targets_R), count
    total = hidden_RH.new_zeros((), dtype=torch.float32)
    for hidden, targets in zip(hidden_RH.split(LOGIT_ROWS), targets_R.split(LOGIT_ROWS), strict=True):
        total = total + checkpoint(_cross_entropy, head, hidden, targets, use_reentrant=False)
    return total, count


def label_loss(logits_BTV: Tensor, labels_BT: Tensor, documents: list[list[int]] | None) -> tuple[Tensor, Tensor]:
    """The same of unshifted labels and whole logits; the first token of a packed document is nobody's target."""
    targets_BT = F.pad(labels_BT, (0, 1), value=IGNORE)[:, 1:].clone()
    for row, lengths in enumerate(documents or []):
        targets_BT[row, torch.tensor(lengths).cumsum(0) - 1] = IGNORE
    flat = logits_BTV.flatten(0, 1).float()
    loss = F.cross_entropy(flat, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss, (targets_BT != IGNORE).sum()


def _cross_entropy(head: nn.Module, hidden_RH: Tensor, targets_R: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden_RH).float(), targets_R, reduction="sum")
