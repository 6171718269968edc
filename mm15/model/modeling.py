"""`MM15ForConditionalGeneration`: encoder, C-Abstractor and decoder as one transformers model.

    tiles [N,3,S,S] -> vision -> [N,L,D] -> connector -> [N,Q,H]
    input_ids [B,T] -> embeddings [B,T,H], placeholders replaced by the N*Q visual tokens in order -> decoder -> logits

Training rows are packed: whole documents one after the other, `position_ids` restarting at 0, no attention mask, no
cache; the logits of a pack equal the logits of its parts. With `shift_labels` logits are computed at target positions
only, in chunks, in fp32. The loss is a sum over targets divided by `num_items_in_batch`, so that micro-batches add up.
Legend: B rows, T tokens, H decoder width, N tiles, S side of a tile, Q tokens of a tile, V vocabulary, R targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .abstractor import Bottleneck, CAbstractor
from .attention import packed_arguments, packed_documents, real_tokens
from .autocast import cast_once
from .configuration import MM15Config
from .decoder import new_decoder
from .loading import mark_initialised
from .loss import label_loss, target_loss
from .moe import dropped, router_losses, router_outputs
from .routing import install
from .vision import VisionEncoder


@dataclass
class MM15Output(ModelOutput):
    """What a forward returns.

    `loss` is what to call backward on; `loss_sum` and `loss_count` are the cross entropy summed over targets and their
    number. Mixture-of-experts decoders add `balance_loss`, `z_loss`, `expert_counts` [layers, experts] (with
    `token_kinds` [layers, kinds, experts]), the number of real tokens these were taken over, and with limited capacity
    in training `router_dropped` [layers], assignments that were dropped.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    loss_sum: Tensor | None = None
    loss_count: Tensor | None = None
    balance_loss: Tensor | None = None
    z_loss: Tensor | None = None
    expert_counts: Tensor | None = None
    router_tokens: Tensor | None = None
    router_dropped: Tensor | None = None


class MM15ForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """An MM1.5 model: `vision` (tower), `connector` (C-Abstractor), `decoder` (a transformers causal LM)."""

    decoder: Any

    config_class = MM15Config
    main_input_name = "input_ids"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_set_experts_implementation_cached_value = True  # the decoder may have experts
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 (read by transformers)
    _no_split_modules = ["CAbstractor"]  # noqa: RUF012 (read by transformers)

    def __init__(
        self, config: MM15Config, *, tower: PreTrainedModel | None = None, decoder: PreTrainedModel | None = None
    ) -> None:
        """Fresh weights, except for the parts that are given (`config` must be theirs; see `mm15.model.build`)."""
        super().__init__(config)
        self.vision = VisionEncoder(config.vision_config, config.vision_stem, tower)
        self.connector = CAbstractor(
            config.vision_config.hidden_size,
            config.connector_hidden_size,
            config.text_config.hidden_size,
            grid=config.grid,
            tokens=config.tokens_per_tile,
            depth=config.connector_depth,
            mlp_depth=config.connector_mlp_depth,
        )
        self.decoder = decoder or new_decoder(config.text_config)
        install(self.decoder, config.router_capacity)
        cast_once(self.vision)
        cast_once(self.decoder)
        for part in (tower, decoder):
            if part is not None:
                mark_initialised(part)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The connector: trunc-normal positions, timm's Kaiming convolutions and blocks that start as their
        shortcut (timm's zero_init_last); linear layers normal with std 0.02."""
        super()._init_weights(module)
        if isinstance(module, CAbstractor):
            init.trunc_normal_(module.pos_emb, std=0.02)
        elif isinstance(module, Bottleneck):
            init.zeros_(module.conv3.bn.weight)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)

    # ------------------------------------------------------------------------------------------- what others look for

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_output_embeddings(value)

    def get_decoder(self, *_: Any, **__: Any) -> nn.Module:
        return self.decoder.model

    def set_tile(self, tile: int) -> None:
        """Make the model take tiles of `tile` pixels: both position embeddings are interpolated, once.

        New parameters take the place of the old, so do it before an optimiser or a sharding plan sees them.
        """
        patch = self.config.vision_config.patch_size
        if tile // patch < 1:
            raise ValueError(f"tile={tile} is smaller than one patch of {patch} pixels")
        self.vision.resize(tile)
        self.connector.resize(tile // patch)
        self.config.tile = self.config.vision_config.image_size = tile

    # ------------------------------------------------------------------------------------------------------- pictures

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> Tensor:
        """Visual tokens [N, Q, H] of tiles [N, 3, S, S]: uint8, or floats that are already normalised."""
        side = self.config.tile
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ValueError(f"tiles of shape {tuple(pixel_values.shape)}, this model takes [N, 3, {side}, {side}]")
        return self.connector(self.vision(self._normalise(pixel_values)))

    def _normalise(self, tiles_N3SS: Tensor) -> Tensor:
        if tiles_N3SS.is_floating_point():
            return tiles_N3SS
        mean, std = (
            torch.tensor(values, device=tiles_N3SS.device)[:, None, None]
            for values in (self.config.image_mean, self.config.image_std)
        )
        return (tiles_N3SS.float() / 255 - mean) / std

    def _embed(
        self, input_ids: Tensor, pixel_values: Tensor | None, tile_spans: Tensor | None, *, decoding: bool
    ) -> Tensor:
        """Token embeddings [B, T, H] with the placeholders replaced by visual tokens."""
        embeds_BTH = self.get_input_embeddings()(input_ids)
        tiles = 0 if pixel_values is None else len(pixel_values)
        places_R = self._placeholders(input_ids, tiles, tile_spans, decoding=decoding)
        if pixel_values is not None and tiles:
            features = self.get_image_features(pixel_values).flatten(0, 1).to(embeds_BTH.dtype)
            return embeds_BTH.flatten(0, 1).index_copy(0, places_R, features).view_as(embeds_BTH)
        if self.training:
            side = self.config.tile
            blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=embeds_BTH.device)
            return embeds_BTH + self.get_image_features(blank).sum().to(embeds_BTH.dtype) * 0
        return embeds_BTH

    def _placeholders(self, input_ids: Tensor, tiles: int, spans: Tensor | None, *, decoding: bool) -> Tensor:
        """Flat positions of the placeholders, checked against the number of tiles; loud when they do not fit."""
        if decoding:
            return input_ids.new_empty(0)
        each, mask_BT = self.config.tokens_per_tile, input_ids == self.config.image_token_id
        places_R = mask_BT.flatten().nonzero().flatten()
        _check_runs(mask_BT, each)
        if len(places_R) != tiles * each:
            raise ValueError(
                f"{len(places_R)} placeholder tokens in {len(input_ids)} rows, but {tiles} tiles of {each} tokens "
                f"need {tiles * each}"
            )
        if spans is not None and len(spans):
            wanted = (spans.to(places_R.device)[:, None] + torch.arange(each, device=places_R.device)).flatten()
            if not torch.equal(wanted, places_R):
                found = places_R[::each].tolist()
                raise ValueError(f"tile spans start at {spans.tolist()}, runs of placeholders at {found}")
        return places_R

    # -------------------------------------------------------------------------------------------------------- forward

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool | None = None,
        tile_spans: Tensor | None = None,
        num_tokens_in_batch: Tensor | int | None = None,
        token_kinds: Tensor | None = None,
        **kwargs: Any,
    ) -> MM15Output | tuple[Any, ...]:
        """Logits, and the loss when there are labels.

        `pixel_values` are all tiles of the batch in reading order, [N, 3, S, S]. `labels` are unshifted (transformers'
        convention); `shift_labels` say at each position what comes next, and then no `logits` are returned. The loss is
        divided by `num_items_in_batch` (targets over all micro-batches and ranks) or else by this batch's targets.
        Router losses enter it weighted by this batch's share of the step: of `num_tokens_in_batch` (real tokens) where
        given, else of the targets. `token_kinds` [B, T] are labels 0, 1, ... by which `expert_counts` are counted.
        Raises ValueError when tiles and placeholders do not match, and for packed rows with
        padding masked by `attention_mask`.
        """
        as_tuple = kwargs.pop("return_dict", True) is False
        if labels is not None and shift_labels is not None:
            raise ValueError("give labels or shift_labels, not both")
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, pixel_values, tile_spans, decoding=seen > 0 and pixel_values is None)
        elif inputs_embeds is None or input_ids is not None:
            raise ValueError("give input_ids or inputs_embeds, one of them")
        elif pixel_values is not None:
            raise ValueError("pixel_values need input_ids: placeholders cannot be found in inputs_embeds")
        shape = (inputs_embeds.shape[0], inputs_embeds.shape[1])
        documents = packed_documents(position_ids, attention_mask, shape, seen)
        if documents is not None:
            attention_mask, past_key_values, use_cache = None, None, False
            kwargs.update(packed_arguments(self.config.text_config._attn_implementation, documents))
        with router_outputs(self.decoder) as routed:
            outputs = self.decoder.model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        hidden_BTH = outputs.last_hidden_state
        result = MM15Output(past_key_values=outputs.past_key_values, hidden_states=outputs.get("hidden_states"))
        if routed and not seen:
            real_BT = real_tokens(attention_mask, documents, shape, hidden_BTH.device)
            top_k = self.config.text_config.num_experts_per_tok
            routing = router_losses([layer.logits for layer in routed], top_k, real_BT, token_kinds)
            result.balance_loss, result.z_loss, result.expert_counts = routing.balance, routing.z, routing.expert_counts
            result.router_tokens = real_BT.sum()
            if self.training and self.config.router_capacity is not None:
                result.router_dropped = dropped([layer.gates for layer in routed], real_BT)
        if shift_labels is not None:
            result.loss_sum, result.loss_count = target_loss(self.decoder.lm_head, hidden_BTH, shift_labels)
        elif labels is not None:
            result.logits = self.decoder.lm_head(hidden_BTH)
            result.loss_sum, result.loss_count = label_loss(result.logits, labels, documents)
        else:
            result.logits = self._logits(hidden_BTH, logits_to_keep)
        if result.loss_sum is not None:
            result.loss = self._total(result, num_items_in_batch, num_tokens_in_batch)
        return result.to_tuple() if as_tuple else result

    def _total(self, result: Any, items: Tensor | int | None, tokens: Tensor | int | None) -> Tensor:
        """Cross entropy over targets plus the weighted router losses, summed over layers, each by this batch's share of
        the step."""
        count = result.loss_count.clamp(min=1) if items is None else items
        loss = result.loss_sum / count
        if result.balance_loss is None:
            return loss
        share = result.loss_count / count if tokens is None else result.router_tokens / tokens
        router = self.config.router_balance * result.balance_loss + self.config.router_z * result.z_loss
        return loss + share * router * len(result.expert_counts)

    def _logits(self, hidden_BTH: Tensor, keep: int | Tensor) -> Tensor:
        part = slice(-keep, None) if isinstance(keep, int) and keep else slice(None) if isinstance(keep, int) else keep
        return self.decoder.lm_head(hidden_BTH[:, part])

    # ----------------------------------------------------------------------------------------------------- generation

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of one generation step; tiles go in with the prompt only (or every time without a cache)."""
        first = kwargs.get("is_first_iteration", False) or not kwargs.get("use_cache", True)
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[arg-type, misc]
        return {**inputs, "pixel_values": pixel_values if first else None}

    def _expand_inputs_for_generation(  # type: ignore[override]
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat each row for beams or samples; a row's tiles are repeated as a block, in order."""
        tiles = kwargs.pop("pixel_values", None)
        if tiles is not None and expand_size > 1 and input_ids is not None:
            counts = (input_ids == self.config.image_token_id).sum(1) // self.config.tokens_per_tile
            blocks = tiles.split(counts.tolist())
            tiles = torch.cat([block for block in blocks for _ in range(expand_size)])
        ids, rest = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size,
            is_encoder_decoder=is_encoder_decoder,
            input_ids=input_ids,  # type: ignore[arg-type]
            **kwargs,
        )
        return ids, {**rest, **({} if tiles is None else {"pixel_values": tiles})}


def _check_runs(mask_BT: Tensor, each: int) -> None:
    """Every unbroken run of placeholders must be whole tiles; names the row and both numbers otherwise."""
    padded = F.pad(mask_BT.to(torch.int8), (1, 1))
    edge = padded.diff(dim=1)
    starts, ends = (edge == 1).nonzero(), (edge == -1).nonzero()
    wrong = ((ends[:, 1] - starts[:, 1]) % each).nonzero()
    if len(wrong):
        row, start = starts[wrong[0, 0]].tolist()
        length = int(ends[wrong[0, 0], 1]) - start
        raise ValueError(f"row {row} has a run of {length} placeholders at token {start}; a tile needs {each}")
