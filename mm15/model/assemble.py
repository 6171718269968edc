"""From a recipe's model block to a model: parts from scratch or with weights, one tile size, one tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UserError
from ..pretrained import resolve
from ..recipe import Backbone, Model
from . import decoder as decoders
from . import vision as encoders
from .attention import PACKED_SDPA
from .configuration import MM15Config
from .loading import quiet, readable
from .modeling import MM15ForConditionalGeneration


def build(
    settings: Model,
    *,
    tile: int,
    image_token_id: int,
    vocab_size: int,
    bos_token_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = PACKED_SDPA,
    coordinates: dict[str, Any] | None = None,
    tiling: dict[str, Any] | None = None,
) -> MM15ForConditionalGeneration:
    """The model of a recipe's `model` block, in `dtype`, for tiles of `tile` pixels and `vocab_size` token ids.

    Parts with `weights` are read from there, the others start fresh; the result depends only on the arguments and on
    torch's global seed. Token embeddings grow to `vocab_size` (never shrink); new rows are drawn around the mean of
    the old. `attn_implementation` is for encoder and decoder; packed_sdpa equals sdpa and is the faster in training.
    Raises UserError for unknown families and weights that cannot be read.
    """
    tower, vision_config, stem = _vision(settings.vision, tile, dtype)
    decoder, text_config = _decoder(settings.decoder, vocab_size, dtype)
    with readable(str(settings.vision.weights)):
        mean, std = encoders.pixel_statistics(settings.vision.family, _folder(settings.vision.weights))
    config = MM15Config(
        vision_config=vision_config,
        text_config=text_config,
        tile=tile,
        tokens_per_tile=settings.connector.tokens,
        vision_stem=stem,
        connector_depth=settings.connector.depth,
        connector_hidden_size=settings.connector.hidden_size,
        connector_mlp_depth=settings.connector.mlp_depth,
        image_token_id=image_token_id,
        image_mean=mean,
        image_std=std,
        router_balance=settings.router.balance,
        router_z=settings.router.z,
        coordinates=coordinates or {},
        tiling=tiling or {},
    )
    config._attn_implementation = attn_implementation
    model = MM15ForConditionalGeneration(config, tower=tower, decoder=decoder)
    for parameter in model.parameters():  # not model.to, which would round the rotary buffers too
        parameter.data = parameter.data.to(dtype)
    table: Any = model.get_input_embeddings()
    if table.num_embeddings < vocab_size:
        with quiet():
            model.resize_token_embeddings(vocab_size)
    for holder in (model.generation_config, model.config):
        holder.bos_token_id, holder.eos_token_id, holder.pad_token_id = bos_token_id, eos_token_id, pad_token_id
    model.generation_config.suppress_tokens = [image_token_id]
    return model


def _vision(
    part: Backbone, tile: int, dtype: torch.dtype
) -> tuple[PreTrainedModel | None, PreTrainedConfig, list[int]]:
    """The encoder that was read (None: fresh), its configuration, and the widths of its convolutional stem."""
    shape = dict(part.shape)
    stem = list(shape.pop("stem", []))
    folder = _folder(part.weights)
    if folder is None:
        return None, encoders.scratch_config(part.family, shape, tile), stem
    if part.shape:
        raise UserError(f"model.vision has weights ({part.weights}) and a shape; leave one")
    with readable(str(part.weights)):
        tower = encoders.load_tower(folder, part.family, tile, dtype)
    return tower, tower.config, stem


def _decoder(part: Backbone, vocab_size: int, dtype: torch.dtype) -> tuple[PreTrainedModel | None, PreTrainedConfig]:
    """The decoder that was read (None: fresh) and its configuration."""
    folder = _folder(part.weights)
    if folder is None:
        return None, decoders.scratch_config(part.family, part.shape, vocab_size)
    if part.shape:
        raise UserError(f"model.decoder has weights ({part.weights}) and a shape; leave one")
    with readable(str(part.weights)):
        decoder = decoders.load_decoder(folder, part.family, dtype)
    return decoder, decoder.config


def _folder(weights: str | None) -> str | None:
    return None if weights is None else str(resolve(weights))
