"""Tiny models for the tests of mm15.model: two layers, 32 wide, tiles of 32 pixels, 4 tokens a tile."""

from __future__ import annotations

from typing import Any

import torch

from mm15.model import MM15ForConditionalGeneration, build
from mm15.recipe import Model

IMAGE = 3
VOCAB = 64
TILE = 32
EACH = 4

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
}
DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


def settings(vision: str = "siglip", decoder: str = "llama", **changes: Any) -> Model:
    """A recipe's model block; `vision_shape` and `decoder_shape` are merged into the tiny ones."""
    heads = {"mlp_ratio": 2} if vision == "dinov2" else {}
    head_dim = {"head_dim": 8} if decoder.startswith("qwen3") else {}
    experts = {"num_experts": 4} if decoder == "qwen3_moe" else {}
    return Model.model_validate(
        {
            "vision": {"family": vision, "shape": {**VISION, **heads, **changes.pop("vision_shape", {})}},
            "connector": {"tokens": EACH, "depth": 1, "hidden_size": 32},
            "decoder": {
                "family": decoder,
                "shape": {**DECODER, **head_dim, **experts, **changes.pop("decoder_shape", {})},
            },
            **changes,
        }
    )


def make(
    vision: str = "siglip", decoder: str = "llama", *, seed: int = 0, **changes: Any
) -> MM15ForConditionalGeneration:
    """A tiny model in fp32 and eval mode; the same every time."""
    torch.manual_seed(seed)
    build_options = {"tile": TILE, "image_token_id": IMAGE, "vocab_size": VOCAB, "eos_token_id": 2, "pad_token_id": 0}
    build_options.update(changes.pop("options", {}))
    return build(settings(vision, decoder, **changes), **build_options).eval()


def tiles(count: int, seed: int = 0, side: int = TILE) -> torch.Tensor:
    """Random uint8 tiles [count, 3, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def text(length: int, seed: int = 0) -> list[int]:
    """Random ordinary token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCAB, (length,), generator=generator).tolist()


PICTURE = [IMAGE] * EACH
