"""`MM15Config`: everything needed to build an MM1.5 model without its recipe.

A transformers configuration with two sub-configurations (`vision_config`, `text_config`: any class that the adapters
know, or its dict) and flat fields for what joins them. It is saved as ``config.json`` beside the weights and read back
equal. It holds no paths and no training settings.
"""

from __future__ import annotations

from dataclasses import field
from math import isqrt
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


class MM15Config(PreTrainedConfig):
    """Configuration of `MM15ForConditionalGeneration`.

    `tile` is the side of a tile in pixels, `tokens_per_tile` the tokens the connector makes of it (a square number;
    144 in the paper). Raises ValueError when the numbers cannot make a model.
    """

    model_type = "mm15"
    sub_configs_defaults = {  # noqa: RUF012 (a ClassVar of the base class)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: Any = None
    """Configuration of the picture encoder, or its dict; its `image_size` always equals `tile`."""
    text_config: Any = None
    """Configuration of the decoder, or its dict."""
    tile: int = 672
    """Side of a tile in pixels."""
    tokens_per_tile: int = 144
    """Visual tokens of one tile."""
    vision_stem: list[int] = field(default_factory=list)
    """Widths of the stride-2 convolutions before the patch embedding; empty for a plain patch embedding."""
    connector_depth: int = 3
    """Residual blocks in each of the C-Abstractor's two stages."""
    connector_hidden_size: int = 1024
    connector_mlp_depth: int = 2
    """Linear layers of the C-Abstractor's readout."""
    image_token_id: int = 0
    """Id of the placeholder token; a tile owns a run of `tokens_per_tile` of them."""
    image_mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    image_std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    """Mean and deviation of the encoder's pixels in 0..1; uint8 tiles are normalised by the model."""
    router_balance: float = 0.01
    """Weight of the balance loss of a mixture-of-experts decoder (paper section 4)."""
    router_z: float = 0.001
    """Weight of the router z-loss (paper section 4)."""
    router_capacity: float | None = None
    """In training an expert serves at most so many even shares of a row's assignments; None: all."""
    coordinates: dict[str, Any] = field(default_factory=dict)
    """The coordinate contract the model was trained with, for the record; the processor owns it."""
    tiling: dict[str, Any] = field(default_factory=dict)
    """How pictures were cut in training, for the record; the processor owns it."""
    tie_word_embeddings: bool = False
    """Follows the decoder's own setting."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        if isqrt(self.tokens_per_tile) ** 2 != self.tokens_per_tile:
            raise ValueError(f"tokens_per_tile={self.tokens_per_tile} is not a square number")
        if self.tile < self.vision_config.patch_size:
            raise ValueError(f"tile={self.tile} is smaller than one patch of {self.vision_config.patch_size} pixels")
        self.vision_config.image_size = self.tile

    @property
    def grid(self) -> int:
        """Patches along one side of a tile."""
        return self.tile // self.vision_config.patch_size
