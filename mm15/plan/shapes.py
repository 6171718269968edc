"""The sizes of a model's three parts, out of its configuration and its skeleton: all that counting needs.

`Shapes.of(skeleton)` reads widths, layers and heads from the configuration, and how many numbers each unit (a layer,
the connector, the embeddings) has from the parameters themselves, which have shapes and no memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..recipe import Part

PARTS: tuple[Part, ...] = ("vision", "connector", "decoder")


@dataclass(frozen=True)
class Convolution:
    """A convolution over a square map: channels, kernel, groups, and the positions of its output."""

    channels_in: int
    channels: int
    kernel: int
    positions: int
    groups: int = 1

    @property
    def products(self) -> int:
        """Multiplications of one pass."""
        return self.positions * self.channels * (self.channels_in // self.groups) * self.kernel**2


@dataclass(frozen=True)
class Encoder:
    """A vision transformer as it sees one tile; `tokens` are its patches and, in some families, a class token."""

    kind: str
    side: int
    width: int
    layers: int
    heads: int
    inner: int
    gated: bool
    activation: str
    patches: int
    tokens: int
    stem: tuple[Convolution, ...]


@dataclass(frozen=True)
class Connector:
    """The C-Abstractor: a map of `patches` positions to one of `tokens`, in blocks of which `depth` are on each."""

    width_in: int
    width: int
    width_out: int
    patches: int
    tokens: int
    depth: int
    mlp_depth: int

    def blocks(self) -> list[tuple[int, int, int]]:
        """(width in, width, positions) of every block, in order."""
        first = [(self.width_in if i == 0 else self.width, self.width, self.patches) for i in range(self.depth)]
        return first + [(self.width, self.width, self.tokens)] * self.depth

    def readout(self) -> list[tuple[int, int]]:
        """(width in, width out) of the linear layers of a visual token."""
        return [(self.width, self.width_out)] + [(self.width_out, self.width_out)] * (self.mlp_depth - 1)


@dataclass(frozen=True)
class Decoder:
    """A decoder of Llama's layout. `sparse` says of each layer whether it has experts."""

    width: int
    inner: int
    heads: int
    key_heads: int
    head_dim: int
    head_norms: bool
    vocabulary: int
    tied: bool
    sparse: tuple[bool, ...]
    experts: int
    top_k: int
    expert_inner: int


@dataclass(frozen=True)
class Unit:
    """Parameters that are used together: a layer, the connector, what comes before or after the layers.

    `numbers` in all; of them `cast` are multiplied in the compute precision by linear layers and convolutions,
    `experts` belong to experts, `largest` to the largest tensor. `linear` are (in, out) of the layers that adapters may
    be given to, `factored` is how many numbers AdaFactor keeps of it.
    """

    name: str
    part: Part
    numbers: int
    cast: int
    experts: int
    largest: int
    linear: tuple[tuple[int, int], ...]
    factored: int


@dataclass(frozen=True)
class Shapes:
    """A model in numbers."""

    encoder: Encoder
    connector: Connector
    decoder: Decoder
    units: tuple[Unit, ...]

    @staticmethod
    def of(model: Any) -> Shapes:
        """Of a model or its skeleton (`mm15.model.assemble.skeleton`)."""
        config = model.config
        encoder = _encoder(config)
        connector = Connector(
            encoder.width,
            config.connector_hidden_size,
            config.text_config.hidden_size,
            encoder.patches,
            config.tokens_per_tile,
            config.connector_depth,
            config.connector_mlp_depth,
        )
        return Shapes(encoder, connector, _decoder(config.text_config), _units(model))

    def numbers(self, part: Part) -> int:
        """Parameters of a part."""
        return sum(unit.numbers for unit in self.units if unit.part == part)

    def active(self, part: Part) -> int:
        """Parameters of a part that one token passes: of experts only those it is sent to."""
        experts = sum(unit.experts for unit in self.units if unit.part == part)
        if not experts:
            return self.numbers(part)
        return self.numbers(part) - experts + experts * self.decoder.top_k // self.decoder.experts


def _encoder(config: Any) -> Encoder:
    vision, grid = config.vision_config, config.grid
    tokens = grid * grid + (vision.model_type in ("clip_vision_model", "dinov2"))
    gated = bool(getattr(vision, "use_swiglu_ffn", False))
    inner = int(vision.hidden_size * vision.mlp_ratio) if vision.model_type == "dinov2" else vision.intermediate_size
    if gated:  # as transformers' Dinov2SwiGLUFFN rounds it
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
    widths, side = [3, *config.vision_stem], config.tile
    stem = []
    for width_in, width in pairwise(widths):
        side = (side + 1) // 2
        stem.append(Convolution(width_in, width, 3, side * side))
    kernel = vision.patch_size // 2 ** len(config.vision_stem)
    stem.append(Convolution(widths[-1], vision.hidden_size, kernel, grid * grid))
    return Encoder(
        kind=vision.model_type,
        side=config.tile,
        width=vision.hidden_size,
        layers=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        inner=inner,
        gated=gated,
        activation=vision.hidden_act,
        patches=grid * grid,
        tokens=tokens,
        stem=tuple(stem),
    )


def _decoder(text: Any) -> Decoder:
    experts, dense = getattr(text, "num_experts", 0) or 0, getattr(text, "mlp_only_layers", None) or []
    step = getattr(text, "decoder_sparse_step", 1)
    sparse = [bool(experts) and i not in dense and (i + 1) % step == 0 for i in range(text.num_hidden_layers)]
    return Decoder(
        width=text.hidden_size,
        inner=text.intermediate_size,
        heads=text.num_attention_heads,
        key_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        head_norms=text.model_type.startswith("qwen3"),
        vocabulary=text.vocab_size,
        tied=bool(text.tie_word_embeddings),
        sparse=tuple(sparse),
        experts=experts,
        top_k=getattr(text, "num_experts_per_tok", 0) or 0,
        expert_inner=getattr(text, "moe_intermediate_size", 0) or 0,
    )


_LAYER = re.compile(r"(?:vision|decoder)\.(?:.*\.)?layers?\.(\d+)\.")


def _unit_of(name: str) -> str:
    part = name.partition(".")[0]
    layer = _LAYER.match(name)
    if part == "connector" or layer:
        return part if part == "connector" else f"{part}.{layer[1]}"  # type: ignore[index]
    if part == "vision":
        return "vision.after" if re.search(r"(post_layernorm|\.layernorm)\.", name) else "vision.before"
    return "decoder.before" if "embed_tokens" in name else "decoder.after"


def _units(model: Any) -> tuple[Unit, ...]:
    """All units in the order in which a forward comes by them."""
    cast, linear = set(), {}
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            cast |= {f"{module_name}.{name}" for name, _ in module.named_parameters(recurse=False)}
        flat = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        if (isinstance(module, nn.Linear) or flat) and "lm_head" not in module_name:
            linear[f"{module_name}.weight"] = (int(module.weight.shape[1]), int(module.weight.shape[0]))
    found: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(_unit_of(name), []).append((name, parameter))
    layers = {part: sorted(int(key.split(".")[1]) for key in found if _is_layer(key, part)) for part in PARTS}
    order = ["decoder.before", "vision.before", *(f"vision.{i}" for i in layers["vision"]), "vision.after", "connector"]
    order += [*(f"decoder.{i}" for i in layers["decoder"]), "decoder.after"]
    return tuple(_unit(name, found[name], cast, linear) for name in order if name in found)


def _is_layer(key: str, part: str) -> bool:
    return key.startswith(f"{part}.") and key.rpartition(".")[2].isdigit()


def _unit(
    name: str, members: list[tuple[str, torch.Tensor]], cast: set[str], linear: dict[str, tuple[int, int]]
) -> Unit:
    part: Any = name.partition(".")[0]
    return Unit(
        name=name,
        part=part,
        numbers=sum(tensor.numel() for _, tensor in members),
        cast=sum(tensor.numel() for key, tensor in members if key in cast),
        experts=sum(tensor.numel() for key, tensor in members if ".experts." in key),
        largest=max(tensor.numel() for _, tensor in members),
        linear=tuple(linear[key] for key, _ in members if key in linear),
        factored=sum(_factored(tensor) for _, tensor in members),
    )


def _factored(tensor: torch.Tensor) -> int:
    """Numbers of AdaFactor's second moment (arXiv 1804.04235): rows and columns of the last two axes, or all."""
    if tensor.ndim < 2:
        return tensor.numel()
    rows, columns = tensor.shape[-2:]
    return tensor.numel() // (rows * columns) * (rows + columns)
