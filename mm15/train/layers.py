"""What the layers of a model do in training besides their forward: compute activations again, run compiled.

    parallel.activation_checkpointing   none        all activations of the forward are kept for the backward
                                        selective   matrix products and attention are kept, the rest is computed again
                                        full        only what enters a layer is kept
    parallel.compile                    each kind of layer is compiled once, for all lengths of rows

Both act through the hook that transformers' layers have for checkpointing, so that no module and no weight changes its
name: checkpoints of any setting load with any other. In evaluation the layers run as they are.

Checkpointing is never re-entrant, which would cut router losses off the graph. What a forward recorded by hooks stays
valid, because hooks are in place during the first forward only.

Compiled layers break their graph at attention, whose cuts at documents differ from row to row, and at experts, whose
runs of rows do. A compiled layer computes cheap operations again by itself; so `selective` adds nothing to `compile`.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import AttentionInterface

from .. import recipe
from ..errors import UserError
from ..model.attention import PACKED_SDPA, packed_sdpa

LAYERS = r"(vision|decoder)\.(.*\.)?layers?\.\d+"
"""Module paths of encoder and decoder layers."""

_ATEN = torch.ops.aten
KEPT = {
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN._grouped_mm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops._c10d_functional.all_to_all_single.default,
}
"""What `selective` keeps, rows that were sent between processes included. Not batched products: those are attention
scores, which grow with the square of a row."""


def set_up_layers(model: nn.Module, settings: recipe.Parallel, device: torch.device) -> None:
    """Makes a model's layers train as set, in place; before they are sharded. UserError without a C++ compiler."""
    if settings.compile:
        _check_compiler(device)
        AttentionInterface.register(PACKED_SDPA, _uncompiled_attention)
    if not settings.compile and settings.activation_checkpointing == "none":
        return
    for name, layer in model.named_modules():
        if not re.fullmatch(LAYERS, name):
            continue
        forward = _forward_of(layer)
        if settings.compile:
            forward = _compiled(forward)
            block: Any = getattr(layer, "mlp", None)
            if hasattr(block, "experts"):
                block.forward = torch.compiler.disable(block.forward)
        flagged: Any = layer
        flagged.gradient_checkpointing = True
        flagged._gradient_checkpointing_func = partial(_call, forward, settings, name.startswith("decoder"))


def _call(forward: Callable[..., Any], settings: recipe.Parallel, packed: bool, bound: partial[Any], *args: Any) -> Any:
    """A layer's call in training; `bound` is its plain forward with the layer and all keywords."""
    (layer,), keywords = bound.args, bound.keywords
    if settings.compile and packed:  # also of a row that is one document, so that keywords are the same for all
        keywords = {**keywords, "documents": _Documents(keywords.get("documents"))}
    call = partial(forward, layer, **keywords)
    if settings.activation_checkpointing == "full":
        return checkpoint(call, *args, use_reentrant=False)
    if settings.activation_checkpointing == "selective" and not settings.compile:
        return checkpoint(call, *args, use_reentrant=False, context_fn=_selective)
    return call(*args)


def _selective() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _forward_of(layer: nn.Module) -> Callable[..., Any]:
    """The forward of a layer's class below transformers' checkpointing, which all classes share: compiled code is kept
    by function, and a dozen layers of two kinds would be too many for one."""
    return inspect.unwrap(type(layer).forward, stop=lambda f: f.__code__.co_name != "forward_with_checkpointing")


@cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(forward, dynamic=True)


class _Documents:
    """Lengths of a row's documents. The compiler looks into lists and would compile again for each new content."""

    def __init__(self, lengths: list[list[int]] | None) -> None:
        self.lengths = lengths


@torch.compiler.disable
def _uncompiled_attention(*args: Any, documents: Any = None, **kwargs: Any) -> Any:
    """`packed_sdpa` at which graphs break."""
    lengths = documents.lengths if isinstance(documents, _Documents) else documents
    return packed_sdpa(*args, documents=lengths, **kwargs)


def _check_compiler(device: torch.device) -> None:
    """UserError when torch.compile would fail in the first step for want of a compiler."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(command) is None:
        raise UserError(
            f"parallel.compile on {device.type} needs a C++ compiler, and {command!r} is not found; install one, name "
            "it in CXX, or set parallel.compile=false"
        )
