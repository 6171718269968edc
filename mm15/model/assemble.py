"""From a recipe's model block to a model: parts from scratch or with weights, one tile size, one tokenizer.

    build        the model; with `meta` its skeleton: every parameter has a shape and no memory, nothing is read
    skeleton     that of a whole recipe: 0.1 s for 1B parameters, half a second for 30B
    vocabulary   how many rows of embeddings it has, told without its tokenizer

What has `weights` and `shape` is what the shape says: a skeleton takes its word, building checks it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import UserError
from ..pretrained import find_model, resolve
from ..recipe import Backbone, Model, Recipe
from . import decoder as decoders
from . import vision as encoders
from .attention import PACKED_SDPA
from .configuration import MM15Config
from .loading import check_shape, quiet, read, readable
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
    meta: bool = False,
) -> MM15ForConditionalGeneration:
    """The model of a recipe's `model` block, in `dtype`, for tiles of `tile` pixels and `vocab_size` token ids.

    Parts with `weights` are read from there, the others start fresh; or the whole model is read, if it has `weights`.
    The result depends only on the arguments and on torch's global seed. Token embeddings grow to `vocab_size` (never
    shrink); new rows are drawn around the mean of the old. `attn_implementation` is for encoder and decoder;
    packed_sdpa equals sdpa and is the faster in training. With `meta` every parameter is on the meta device and no file
    or hub is touched: the `shape` of parts is taken for what they are. Raises UserError for unknown families, weights
    that cannot be read or are not of the shape that is given beside them, and with `meta` for weights without a shape.
    """
    if meta:
        settings = _without_weights(settings)
    if settings.weights is not None:
        model = _whole(settings, dtype, attn_implementation)
        model.set_tile(tile)
    else:
        model = _of_parts(settings, tile, vocab_size, dtype, attn_implementation, meta=meta)
    for name, value in {
        "image_token_id": image_token_id,
        "router_balance": settings.router.balance,
        "router_z": settings.router.z,
        "coordinates": coordinates or {},
        "tiling": tiling or {},
    }.items():
        setattr(model.config, name, value)
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


def skeleton(recipe: Recipe, *, tile: int, vocab_size: int) -> MM15ForConditionalGeneration:
    """The model of a recipe on the meta device, for tiles of `tile` pixels and `vocab_size` token ids.

    Nothing is read, from a hub or elsewhere. UserError for a part that has weights and no shape.
    """
    return build(recipe.model, tile=tile, image_token_id=0, vocab_size=vocab_size, meta=True)


def vocabulary(recipe: Recipe) -> int:
    """Rows of token embeddings that the recipe's model has at most, told without its tokenizer.

    Exact where the decoder's `shape.vocab_size` has room for the few tokens that mm15 adds, as in every shipped recipe.
    UserError when nothing in the recipe says it.
    """
    rows = max(recipe.model.tokenizer.vocab_size or 0, recipe.model.decoder.shape.get("vocab_size", 0))
    if not rows:
        raise UserError("model.decoder.shape has no vocab_size; say how many rows of embeddings the decoder has")
    return rows + (recipe.coordinates.bins if recipe.coordinates.tokens else 0)


def _of_parts(
    settings: Model, tile: int, vocab_size: int, dtype: torch.dtype, attention: str, *, meta: bool
) -> MM15ForConditionalGeneration:
    """The model of parts that are read or fresh; its configuration knows nothing of a tokenizer yet."""
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
        image_mean=mean,
        image_std=std,
        router_capacity=settings.router.capacity,
    )
    config._attn_implementation = attention
    with torch.device("meta") if meta else nullcontext():
        return MM15ForConditionalGeneration(config, tower=tower, decoder=decoder)


def _whole(settings: Model, dtype: torch.dtype, attention: str) -> MM15ForConditionalGeneration:
    """The trained model that `settings.weights` names; UserError where the parts say that it is another."""
    named = str(settings.weights)
    place = str(find_model(named))
    with readable(named):
        config = AutoConfig.from_pretrained(place)
    if config.model_type != "mm15":
        raise UserError(f"{named}: is a {config.model_type!r} model, not a whole mm15 one; name it as a part's weights")
    _check_whole(settings, config, named)
    config.router_capacity = settings.router.capacity
    with readable(named):
        options: dict[str, Any] = {"config": config, "dtype": dtype, "attn_implementation": attention}
        model: Any = read(MM15ForConditionalGeneration, place, **options)
    return model


def _check_whole(settings: Model, config: MM15Config, named: str) -> None:
    """UserError where a whole model is not what the recipe's parts say; of parts without a shape only the family."""
    vision, decoder, connector = settings.vision, settings.decoder, settings.connector
    families = {kind.model_type: name for name, kind in encoders.FAMILIES.items()}
    found = {
        "vision.family": (vision.family, families.get(config.vision_config.model_type)),
        "decoder.family": (decoder.family, config.text_config.model_type),
        "connector.tokens": (connector.tokens, config.tokens_per_tile),
        "connector.depth": (connector.depth, config.connector_depth),
        "connector.hidden_size": (connector.hidden_size, config.connector_hidden_size),
        "connector.mlp_depth": (connector.mlp_depth, config.connector_mlp_depth),
    }
    if vision.shape:
        found["vision.shape.stem"] = (list(vision.shape.get("stem", [])), list(config.vision_stem))
    for key, (said, is_) in found.items():
        if said != is_:
            raise UserError(f"{named}: its {key} is {is_}, model.{key} says {said}; correct it")
    shape = {key: value for key, value in vision.shape.items() if key != "stem"}
    check_shape(shape, config.vision_config, of="model.vision", weights=named)
    if decoder.shape:
        shape = {**decoders.FAMILIES[decoder.family], **decoder.shape}
        shape.pop("vocab_size", None)  # rows that the tokenizer needed were added to it
        check_shape(shape, config.text_config, of="model.decoder", weights=named)


def _without_weights(settings: Model) -> Model:
    """The same model, its parts fresh ones of their shapes; UserError for weights without a shape."""
    parts: dict[str, Backbone] = {"vision": settings.vision, "decoder": settings.decoder}
    for name, part in parts.items():
        weights = settings.weights or part.weights
        if weights is not None and not part.shape:
            raise UserError(
                f"model.{name} has weights ({weights}) and no shape; give its shape, so that its size is known before "
                "they are fetched"
            )
    fresh = {name: part.model_copy(update={"weights": None}) for name, part in parts.items()}
    return settings.model_copy(update={"weights": None, **fresh})


def _vision(
    part: Backbone, tile: int, dtype: torch.dtype
) -> tuple[PreTrainedModel | None, PreTrainedConfig, list[int]]:
    """The encoder that was read (None: fresh), its configuration, and the widths of its convolutional stem."""
    shape = dict(part.shape)
    stem = list(shape.pop("stem", []))
    folder = _folder(part.weights)
    if folder is None:
        return None, encoders.scratch_config(part.family, shape, tile), stem
    with readable(str(part.weights)):
        tower = encoders.load_tower(folder, part.family, tile, dtype, part.shape)
    return tower, tower.config, stem


def _decoder(part: Backbone, vocab_size: int, dtype: torch.dtype) -> tuple[PreTrainedModel | None, PreTrainedConfig]:
    """The decoder that was read (None: fresh) and its configuration."""
    folder = _folder(part.weights)
    if folder is None:
        return None, decoders.scratch_config(part.family, part.shape, vocab_size)
    with readable(str(part.weights)):
        decoder = decoders.load_decoder(folder, part.family, dtype, part.shape)
    return decoder, decoder.config


def _folder(weights: str | None) -> str | None:
    return None if weights is None else str(resolve(weights))
