"""One adapter for decoders: any causal language model whose layers are laid out as Llama's.

    llama (SmolLM too) · qwen2 · qwen3 · mistral · qwen3_moe (the paper's mixture-of-experts layout)

A decoder comes from scratch (a `shape` in transformers' own names), a local folder, a hub id, or a folder that holds
one ``.gguf`` file, which transformers reads and de-quantises. It stays a plain transformers model, of which the rest of
mm15 uses `model` (and its `layers[i].mlp`), `lm_head` and the accessors of its embeddings, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import UserError
from .loading import check_shape, read

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {},
    "qwen3_moe": {"decoder_sparse_step": 2, "num_experts": 64, "num_experts_per_tok": 2, "norm_topk_prob": True},
}
"""Decoder families and what the paper fixes for them: 64 experts in every second layer, top-2, renormalised."""


def scratch_config(family: str, shape: dict[str, Any], vocab_size: int) -> PreTrainedConfig:
    """Configuration of a from-scratch decoder; UserError for an unknown family.

    It has `vocab_size` rows of embeddings, or as many as `shape` says if those are more (a multiple of 128 multiplies
    faster).
    """
    if family not in FAMILIES:
        raise UserError(f"model.decoder.family is {family!r}; known decoders: {', '.join(FAMILIES)}")
    fields = {"bos_token_id": None, "eos_token_id": None, **FAMILIES[family], **shape}
    fields["vocab_size"] = max(vocab_size, shape.get("vocab_size", 0))
    if family == "qwen3_moe" and "intermediate_size" in fields:
        fields.setdefault("moe_intermediate_size", fields["intermediate_size"])
    return AutoConfig.for_model(family, **fields)


def new_decoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A decoder with fresh weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)


def load_decoder(weights: str, family: str, dtype: torch.dtype, shape: Mapping[str, Any]) -> PreTrainedModel:
    """The decoder of a folder, hub id or folder with one .gguf file.

    UserError when the checkpoint is of another family or not of `shape` (checked before its weights are fetched), or
    any weight of the decoder is missing.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    where: dict[str, Any] = {}
    gguf = sorted(Path(weights).glob("*.gguf")) if Path(weights).is_dir() else []
    if gguf and not (Path(weights) / "config.json").is_file():
        if len(gguf) > 1:
            raise UserError(f"{weights}: holds {len(gguf)} .gguf files; leave one")
        where["gguf_file"] = gguf[0].name
    config = AutoConfig.from_pretrained(weights, **where)
    if config.model_type != family or family not in FAMILIES:
        raise UserError(f"{weights}: its decoder is {config.model_type!r}, model.decoder.family is {family!r}")
    check_shape(shape, config, of="model.decoder", weights=weights)
    if where:
        where["quantization_config"] = GgufConfig(dequantize=True)
    return read(AutoModelForCausalLM, weights, dtype=dtype, **where)
