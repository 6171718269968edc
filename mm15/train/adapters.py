"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, for stages that leave whole weights as they are.

    y = W x + alpha / rank * B A x      W [out, in] stays, A [rank, in] and B [out, rank] are trained; B starts at zero

In the parts that a stage names, adapters go to every linear layer (attention and feed-forward of encoder and decoder,
the connector's readout) and every ungrouped 1x1 convolution, which is a linear layer at each place of the map (most of
the connector). Not to the output head, the embeddings, larger or depthwise convolutions; nor to experts and their
routers, so a mixture-of-experts decoder is adapted in its attention and its dense layers only.

While a stage trains, its checkpoints hold the model with its adapters; `merge` makes it the plain model again, under
the names it had. Cost: rank * (in + out) parameters a layer with gradient and optimiser state instead of in * out.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import nn

from .. import recipe
from ..errors import UserError
from ..model import MM15ForConditionalGeneration


def add(model: MM15ForConditionalGeneration, lora: recipe.Lora) -> None:
    """Puts fresh adapters into the parts that `lora` names, in place, and freezes those parts' own weights.

    A and B depend on torch's global seed; other parts stay trainable or frozen as they were. UserError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("the recipe has a stage with lora, which needs peft: pip install peft") from None
    own = {parameter: parameter.requires_grad for parameter in model.parameters()}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # all it does is to divide it by the rank
        lora_dropout=lora.dropout,
        target_modules=targets(model, lora.parts),
    )
    inject_adapter_in_model(config, model)  # freezes all that is no adapter
    for parameter, trains in own.items():
        parameter.requires_grad_(trains)
    adapted = {p for part in lora.parts for p in getattr(model, part).parameters()}
    for parameter in adapted & own.keys():
        parameter.requires_grad_(False)


def merge(model: nn.Module) -> None:
    """Adds W += alpha / rank * B A in place and takes the adapters out; the parts that had them can be trained again.

    For a model that is whole on this process. Nothing happens to a model without adapters.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
            getattr(model, name.partition(".")[0]).requires_grad_(True)
    vars(model).pop("peft_config", None)


def targets(model: MM15ForConditionalGeneration, parts: tuple[str, ...]) -> list[str]:
    """Names of the layers that get adapters."""
    head = model.get_output_embeddings()
    return [
        name
        for name, layer in model.named_modules()
        if name.partition(".")[0] in parts and layer is not head and _is_linear(layer)
    ]


def _is_linear(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def same_row_same_dropout(model: nn.Module) -> None:
    """Makes what a training forward drops a function of the row's tokens.

    So a run that was stopped goes on as if it had not been, and the number of processes changes nothing.
    """

    def seed(module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if module.training:
            torch.manual_seed(zlib.crc32(kwargs["input_ids"].cpu().numpy().tobytes()))

    model.register_forward_pre_hook(seed, with_kwargs=True)
