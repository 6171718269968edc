"""One copy in bf16 where autocast makes several of the same.

Autocast copies what flows in fp32 for each product that takes it: the result of the norm before attention three times,
for queries, keys and values, and that before a gated feed-forward twice; in the backward as many gradients become fp32
before they are added up. Here the norm hands on one copy, and their gradients are added up in bf16, as when all of a
model is in bf16 (FSDP's mixed precision). Outside autocast nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_BEFORE_ATTENTION = ("input_layernorm", "layer_norm1", "norm1")
"""What transformers calls that norm: decoders; CLIP and SigLIP; DINOv2."""


def cast_once(part: nn.Module) -> None:
    """Makes norms of the layers of an encoder or decoder hand on one copy, in place; not to routers (fp32)."""
    for layer in part.modules():
        norms = [getattr(layer, name, None) for name in _BEFORE_ATTENTION]
        if hasattr(getattr(layer, "mlp", None), "gate_proj"):
            norms.append(getattr(layer, "post_attention_layernorm", None))
        for norm in norms:
            if norm is not None:
                norm.register_forward_hook(_cast)


def _cast(_norm: nn.Module, _inputs: Any, normed: Tensor) -> Tensor:
    kind = normed.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):  # meta has none
        return normed
    return normed.to(torch.get_autocast_dtype(kind))
