"""Models and rows of known content, to hold what `mm15.plan` predicts against what training really takes."""

from __future__ import annotations

import json
from typing import Any

import torch

from mm15.model import MM15ForConditionalGeneration, build
from mm15.plan.row import Row
from mm15.recipe import Model, load

IMAGE = 3

SMOLLM2 = Model.model_validate(
    {
        "vision": {
            "family": "dinov2",
            "shape": {
                "hidden_size": 384,
                "num_hidden_layers": 12,
                "num_attention_heads": 6,
                "mlp_ratio": 4,
                "patch_size": 14,
            },
        },
        "connector": {"tokens": 64, "hidden_size": 384},
        "decoder": {
            "family": "llama",
            "shape": {
                "hidden_size": 576,
                "num_hidden_layers": 30,
                "intermediate_size": 1536,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": True,
            },
        },
    }
)
"""SmolLM2-135M's decoder and an encoder like DINOv2-S, 64 tokens a tile: 159M parameters."""


def network(name: str) -> MM15ForConditionalGeneration:
    """`pico` as its recipe has it, or `smollm2` at 224 pixels a tile; fresh weights, in training."""
    settings, tile, vocabulary = (load("pico").model, 64, 768) if name == "pico" else (SMOLLM2, 224, 49152)
    torch.manual_seed(0)
    return build(settings, tile=tile, image_token_id=IMAGE, vocab_size=vocabulary).train()


def inputs(model: Any, row: Row, device: str = "cpu") -> dict[str, Any]:
    """What the model takes for such a row: visual tokens first, targets last."""
    config, made = model.config, torch.Generator().manual_seed(0)
    ids = torch.randint(IMAGE + 1, config.text_config.vocab_size, (1, row.tokens), generator=made)
    labels = torch.full_like(ids, -100)
    labels[0, row.tokens - row.targets :] = ids[0, row.tokens - row.targets :]
    ids[0, : row.tiles * config.tokens_per_tile] = IMAGE
    tiles = torch.randint(0, 256, (row.tiles, 3, config.tile, config.tile), dtype=torch.uint8, generator=made)
    found: dict[str, Any] = {
        "input_ids": ids.to(device),
        "position_ids": torch.cat([torch.arange(n) for n in row.documents])[None].to(device),
        "shift_labels": labels.to(device),
        "pixel_values": tiles.to(device) if row.tiles else None,
    }
    return {**found, "use_cache": False}


def as_json(row: Row) -> str:
    """A row for the command line of another process."""
    return json.dumps([row.documents, row.tiles, row.targets])


def from_json(text: str) -> Row:
    """The row again."""
    documents, tiles, targets = json.loads(text)
    return Row(tuple(documents), tiles, targets)
