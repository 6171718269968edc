"""What autocast multiplies in, and one copy in bf16 where it makes several of the same.

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


def compute_dtype(device: torch.device, otherwise: Tensor) -> torch.dtype:
    """What products on a device are in: autocast's type, or else that of `otherwise`. Some devices (meta) have none."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return otherwise.dtype


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
    return normed.to(compute_dtype(normed.device, normed))
