"""torch.utils.flop_counter, taught the two operations that it counts not at all or wrongly on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

_ATEN = torch.ops.aten


def counted() -> FlopCounterMode:
    """A counter of matrix products, convolutions and attention, the latter over all pairs of a document's tokens.

    torch's has no entry for the fused attention of CPUs, and takes the backward of a depthwise convolution for that of
    a whole one (channels times too much).
    """
    mapping: dict[Any, Any] = {
        _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        _ATEN.convolution_backward: _convolution_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop(query, [*query[:2], *key[2:]], [*query[:2], *value[2:]])


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop(gradient, query, [*query[:2], *key[2:]], [*query[:2], *value[2:]])


def _convolution_backward(gradient: Any, _picture: Any, weight: Any, *more: Any, out_val: Any = None) -> int:
    """As much as the forward for each of the two gradients that is asked for."""
    del out_val
    forward = 2 * gradient.numel() * weight[0].numel()
    return forward * (more[-1][0] + more[-1][1])


_convolution_backward._get_raw = True  # type: ignore[attr-defined]
