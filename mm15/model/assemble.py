"""From a recipe's model block to a model: parts from scratch or with weights, one tile size, one tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError
from ..recipe import Model
from . import decoder as decoders
from . import vision as encoders
from .attention import PACKED_SDPA
from .configuration import MM15Config
from .modeling import MM15ForConditionalGeneration
from .pretrained import resolve


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
    tower = decoder = None
    shape = dict(settings.vision.shape)
    stem = list(shape.pop("stem", []))
    if settings.vision.weights:
        tower = _read(encoders.load_tower, settings.vision.weights, tile, dtype)
        vision_config = tower.config
    else:
        vision_config = encoders.scratch_config(settings.vision.family, shape, tile)
    if settings.decoder.weights:
        decoder = _read(decoders.load_decoder, settings.decoder.weights, dtype)
        text_config = decoder.config
    else:
        text_config = decoders.scratch_config(settings.decoder.family, settings.decoder.shape, vocab_size)
    family = encoders.FAMILIES[settings.vision.family]
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
        image_mean=list(family.mean),
        image_std=list(family.std),
        router_balance=settings.router.balance,
        router_z=settings.router.z,
        coordinates=coordinates or {},
        tiling=tiling or {},
        attn_implementation=attn_implementation,
    )
    model = MM15ForConditionalGeneration(config, tower=tower, decoder=decoder).to(dtype)
    if model.get_input_embeddings().num_embeddings < vocab_size:
        model.resize_token_embeddings(vocab_size)
    for holder in (model.generation_config, model.config):
        holder.bos_token_id, holder.eos_token_id, holder.pad_token_id = bos_token_id, eos_token_id, pad_token_id
    return model


def _read(load: Any, weights: str, *args: Any) -> Any:
    """What `load` reads from a folder, hub id or shipped name; every failure to read is one line for the user."""
    try:
        return load(str(resolve(weights)), *args)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{weights}: cannot be read as model weights: {' '.join(str(error).split())}") from error
