"""One adapter for picture encoders: tiles [N, 3, S, S] -> patch features [N, L, D] of the last hidden state.

    family   class              last hidden state     dropped
    clip     CLIPVisionModel    before its post-LN    class token, post-LN (it serves only the pooled output)
    siglip   SiglipVisionModel  after its post-LN     pooling head
    dinov2   Dinov2Model        after its layer norm  class token, mask token

So the features are what transformers calls `last_hidden_state`, minus the class token, and nothing in the tower is
without a gradient. When the tile differs from the checkpoint's image size the position embeddings are resized once, on
the weights (`resize`), never in the forward; the class token's position is kept apart.

A tower can come from scratch (a `shape`), a local folder or a hub id (a full checkpoint or its vision half). A
from-scratch tower may have a convolutional stem (`ConvStem`), which learns faster than a bare patch embedding
(arXiv 2106.14881). Legend: N tiles, S side in pixels, L patches, D features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import cached_file

from ..errors import UserError
from .abstractor import resize_positions
from .loading import check_shape, mark_initialised, read


@dataclass(frozen=True)
class Family:
    """What is particular to a kind of encoder: configuration, class token, and the pixel statistics of its training."""

    model_type: str
    class_tokens: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    defaults: dict[str, Any] = field(default_factory=dict)


_HALF = (0.5, 0.5, 0.5)
_OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FAMILIES: dict[str, Family] = {
    "clip": Family("clip_vision_model", 1, *_OPENAI),
    "siglip": Family("siglip_vision_model", 0, _HALF, _HALF, {"vision_use_head": False}),
    "dinov2": Family("dinov2", 1, *_IMAGENET, {"use_mask_token": False}),
}
_BY_TYPE = {family.model_type: family for family in FAMILIES.values()}


class ConvStem(nn.Module):
    """Patch embedding as stride-2 3x3 convolutions with GELU, then one convolution over what is left of a patch.

    Widths (32, 64) with patch 8 are two halvings and a 2x2 patch convolution: [N, 3, S, S] -> [N, D, S/8, S/8].
    Weights start as Kaiming normal, so that the signal keeps its size through the stack.
    """

    def __init__(self, widths: list[int], patch: int, out: int) -> None:
        super().__init__()
        kernel = patch // 2 ** len(widths)
        if kernel * 2 ** len(widths) != patch:
            raise ValueError(f"a patch of {patch} pixels cannot be halved {len(widths)} times")
        layers: list[nn.Module] = []
        for width_in, width in zip([3, *widths], widths, strict=False):
            layers += [nn.Conv2d(width_in, width, 3, stride=2, padding=1), nn.GELU()]
        self.stem = nn.Sequential(*layers)
        self.patch = nn.Conv2d(widths[-1], out, kernel, stride=kernel)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                init.kaiming_normal_(module.weight, nonlinearity="linear" if module is self.patch else "relu")
                init.zeros_(module.bias)
        mark_initialised(self)

    @property
    def weight(self) -> Tensor:
        """The last convolution's weight; transformers reads its dtype."""
        return self.patch.weight

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        return self.patch(self.stem(pixels_N3SS))


class VisionEncoder(nn.Module):
    """A tower of one of `FAMILIES`, fresh from its configuration or the given one: [N, 3, S, S] -> [N, L, D]."""

    tower: Any

    def __init__(
        self, config: PreTrainedConfig, stem: list[int] | None = None, tower: PreTrainedModel | None = None
    ) -> None:
        super().__init__()
        self.family = _family(config)
        self.tower = tower or _tower_class(config)(config)
        _drop_unused(self.tower)
        if stem:
            if config.model_type == "dinov2":
                raise ValueError("a convolutional stem is for clip and siglip encoders")
            self.tower.embeddings.patch_embedding = ConvStem(stem, config.patch_size, config.hidden_size)

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        hidden_NLD = self.tower(pixels_N3SS).last_hidden_state
        return hidden_NLD[:, self.family.class_tokens :]

    def resize(self, tile: int) -> None:
        """Fit the position embeddings to tiles of `tile` pixels (in place; new parameters take their place)."""
        resize_tower(self.tower, tile)


def resize_tower(tower: Any, tile: int) -> None:
    """Interpolate a tower's position embeddings to tiles of `tile` pixels and set its `image_size`."""
    config, embeddings = tower.config, tower.embeddings
    grid, kept = tile // config.patch_size, _family(config).class_tokens
    dinov2 = config.model_type == "dinov2"
    learned = embeddings.position_embeddings[0] if dinov2 else embeddings.position_embedding.weight
    table_LD = torch.cat([learned[:kept], resize_positions(learned[kept:], grid)]).detach()
    config.image_size = tile
    if dinov2:
        embeddings.position_embeddings = nn.Parameter(table_LD[None], learned.requires_grad)
        embeddings.patch_embeddings.image_size = (tile, tile)
        embeddings.patch_embeddings.num_patches = grid * grid
        return
    embeddings.position_embedding = nn.Embedding.from_pretrained(table_LD, freeze=not learned.requires_grad)
    embeddings.position_ids = torch.arange(len(table_LD), device=table_LD.device)[None]
    embeddings.num_patches, embeddings.num_positions, embeddings.image_size = grid * grid, len(table_LD), tile


def scratch_config(family: str, shape: dict[str, Any], tile: int) -> PreTrainedConfig:
    """Configuration of a from-scratch encoder; `shape` in transformers' own names. UserError for unknown families."""
    if family not in FAMILIES:
        raise UserError(f"model.vision.family is {family!r}; known encoders: {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    return AutoConfig.for_model(kind.model_type, **{**kind.defaults, **shape, "image_size": tile})


def load_tower(
    weights: str, family_name: str, tile: int, dtype: torch.dtype, shape: Mapping[str, Any]
) -> PreTrainedModel:
    """The vision tower of a folder or hub id (a full CLIP/SigLIP checkpoint or its vision half), fitted to `tile`.

    UserError when the checkpoint is of another family or not of `shape` (checked before its weights are fetched), or
    any weight of the tower is missing.
    """
    config = AutoConfig.from_pretrained(weights)
    config = getattr(config, "vision_config", config)
    family = FAMILIES.get(family_name)
    if family is None or config.model_type != family.model_type:
        raise UserError(f"{weights}: its encoder is {config.model_type!r}, model.vision.family is {family_name!r}")
    check_shape(shape, config, of="model.vision", weights=weights)
    for name, value in family.defaults.items():
        setattr(config, name, value)
    tower = read(_tower_class(config), weights, config=config, dtype=dtype)
    _drop_unused(tower)
    resize_tower(tower, tile)
    return tower


def pixel_statistics(family_name: str, weights: str | None = None) -> tuple[list[float], list[float]]:
    """Mean and deviation of pixels: the checkpoint's own (``preprocessor_config.json``), else the family's."""
    kind = FAMILIES[family_name]
    path = weights and cached_file(weights, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    kept = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return list(kept.get("image_mean", kind.mean)), list(kept.get("image_std", kind.std))


def _tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    from transformers import CLIPVisionModel, Dinov2Model, SiglipVisionModel

    return {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel, "dinov2": Dinov2Model}[
        config.model_type
    ]


def _family(config: PreTrainedConfig) -> Family:
    if config.model_type not in _BY_TYPE:
        raise ValueError(f"encoder {config.model_type!r} is not one of {', '.join(_BY_TYPE)}")
    return _BY_TYPE[config.model_type]


def _drop_unused(tower: Any) -> None:
    """Take out weights that only the pooled output or masked training uses: they would never get a gradient."""
    if tower.config.model_type == "clip_vision_model":
        tower.post_layernorm = nn.Identity()
    elif tower.config.model_type == "dinov2":
        tower.embeddings.mask_token = None
