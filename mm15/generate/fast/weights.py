"""The weights of a dense decoder as `kernels` reads them: panels of 64 rows, in fp32 or in blocks of few bits.

    weight [N,K]  ->  codes [P,K,64], scales and lows [P,K/32,64]      row 64 p + j at codes[p, :, j]
                                                                       weight = code * scale + low

    fp32    codes are the weights, the scale is 1
    int8    one scale for 32 weights of a row: a weight moves by at most its block's largest magnitude / 254
    4 bits  a scale and a low for 32 weights: in place of int8 where it moves the weights of all layers less (mean of
            squares), as it does those that were 4 bits wide before (GGUF's Q4_1) and have not been trained since

Codes of few bits are multiplied by x rounded to int16, a scale for 32 numbers, which costs x less than a half does.
Scales and lows are halves, and codes are chosen after they were rounded. Rows and columns are filled up with zeros to
whole panels and blocks. The matrices of all layers lie in one array. Cost: a copy of the decoder's matrices, 4.06, 1.06
or 0.63 bytes a weight, made in some seconds for 135M.
Legend: L layers, N rows, K columns, P panels, J rows of a panel, B blocks, E head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ...errors import UserError

BLOCK = 32
"""Columns that share a scale."""
PANEL = 64
"""Rows side by side: a cache line of int8, four registers of fp32."""
LARGEST_HALF = 65504.0
"""What the cache holds of a greater number: an infinity would make every later logit NaN."""

DENSE = ("llama", "mistral", "qwen2", "qwen3")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary positions that do not change with the length of the text."""


class Weights(Enum):
    """How the fast decoder holds its matrices: as they are, or in int8, or in less where that moves them no further."""

    FP32 = "fp32"
    INT8 = "int8"


class Matrix(NamedTuple):
    """Matrices of one shape, one a layer: codes fp32 [L, P, K, J], or words of codes [L, P, K/4 or K/8, J]; scales
    [L, P, B, J] and lows of the same shape (or none) as halves in uint16; bias fp32 [L, N]."""

    codes: np.ndarray
    scales: np.ndarray
    lows: np.ndarray
    bias: np.ndarray


class Layers(NamedTuple):
    """All layers of a decoder, and its final norm [1, D]. `windows` [L] are the keys that a query sees at the most;
    the norms of heads [L, E] have no rows where there are none."""

    qkv: Matrix
    out: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    norm1: np.ndarray
    norm2: np.ndarray
    final: np.ndarray
    query_norm: np.ndarray
    key_norm: np.ndarray
    windows: np.ndarray
    heads: int
    scale: np.float32
    eps: np.float32


def check_decoder(decoder: Any) -> None:
    """UserError for a decoder that has no fast form, naming what it has instead."""
    config = decoder.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    head = head_dim(config)
    reasons = {
        f"is {config.model_type!r} (mixture-of-experts and other layouts are not)": config.model_type not in DENSE,
        f"has the activation {config.hidden_act!r} (silu is)": config.hidden_act not in ("silu", "swish"),
        f"has {rope!r} positions ({', '.join(FIXED_ROPE)} are)": rope not in FIXED_ROPE,
        f"has heads of {head} (multiples of 16 are)": head % 16 > 0,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(
                f"this decoder {reason} supported by fast generation; leave `weights` out for plain `generate`"
            )


def pack_layers(decoder: Any, weights: Weights) -> Layers:
    """Copies of all layers of a decoder that `check_decoder` lets through."""
    config, layers = decoder.config, list(decoder.model.layers)
    attention = [layer.self_attn for layer in layers]
    normed = hasattr(attention[0], "q_norm")

    def matrix(parts: Callable[[Any], Sequence[nn.Linear]]) -> Matrix:
        return pack([list(parts(layer)) for layer in layers], weights)

    def stacked(modules: Sequence[Any]) -> np.ndarray:
        return np.stack([_array(module.weight) for module in modules])

    none = np.zeros((0, head_dim(config)), np.float32)
    return Layers(
        qkv=matrix(lambda layer: [getattr(layer.self_attn, f"{part}_proj") for part in "qkv"]),
        out=matrix(lambda layer: [layer.self_attn.o_proj]),
        gate=matrix(lambda layer: [layer.mlp.gate_proj]),
        up=matrix(lambda layer: [layer.mlp.up_proj]),
        down=matrix(lambda layer: [layer.mlp.down_proj]),
        norm1=stacked([layer.input_layernorm for layer in layers]),
        norm2=stacked([layer.post_attention_layernorm for layer in layers]),
        final=stacked([decoder.model.norm]),
        query_norm=stacked([one.q_norm for one in attention]) if normed else none,
        key_norm=stacked([one.k_norm for one in attention]) if normed else none,
        windows=np.array([_window(config, one) for one in attention], np.int64),
        heads=config.num_attention_heads,
        scale=np.float32(attention[0].scaling),
        eps=np.float32(layers[0].input_layernorm.variance_epsilon),
    )


def pack_head(decoder: Any, weights: Weights, *, never: Sequence[int]) -> Matrix:
    """The output matrix, whose bias keeps tokens from ever being written."""
    head = pack([[decoder.lm_head]], weights)
    head.bias[0, list(never)] = -np.inf
    return head


def pack(layers: Sequence[Sequence[nn.Linear]], weights: Weights) -> Matrix:
    """One matrix a layer, of linear layers on the same input whose outputs follow each other."""
    matrices, biases = [], []
    for parts in layers:
        weight_NK = np.concatenate([_array(part.weight) for part in parts])
        rows, columns = weight_NK.shape
        matrices.append(np.pad(weight_NK, ((0, -rows % PANEL), (0, -columns % BLOCK))))
        biases.append(np.pad(np.concatenate([_bias(part) for part in parts]), (0, -rows % PANEL)))
    found = [_exact(weight_NK) for weight_NK in matrices] if weights is Weights.FP32 else _small(matrices)
    codes, scales, lows = (np.stack([_panels(array) for array in arrays]) for arrays in zip(*found, strict=True))
    return Matrix(codes, scales.view(np.uint16), lows.view(np.uint16), np.stack(biases))


def _exact(weight_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ones = np.ones((len(weight_NK), weight_NK.shape[1] // BLOCK), np.float16)
    return weight_NK, ones, ones[:, :0]


def _small(matrices: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(codes, scales, lows) of each: 4 bits for all of them or int8 for all."""
    eights = [quantise(weight_NK) for weight_NK in matrices]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for weight_NK, eight in zip(matrices, eights, strict=True):
        codes, scales, lows = quantise_to_4_bits(weight_NK)
        if error(weight_NK, codes, scales, lows) > error(weight_NK, *eight):
            return [(words(codes, bits=8), scales, scales[:, :0]) for codes, scales in eights]
        found.append((words(codes, bits=4), scales, lows))
    return found


def error(weight_NK: np.ndarray, codes: np.ndarray, scales: np.ndarray, lows: np.ndarray | None = None) -> float:
    """How far weights were moved: the mean of the squares."""
    scales_NK, lows_NK = (0 if x is None else np.repeat(x.astype(np.float32), BLOCK, axis=1) for x in (scales, lows))
    return float(np.square(codes * scales_NK + lows_NK - weight_NK).mean())


def words(codes_NK: np.ndarray, *, bits: int) -> np.ndarray:
    """Codes of 32 / bits columns in a word: columns 0, 2, ... from the lowest bit of its lower half on, the others from
    that of its upper half. int32 of int8, uint32 of 4 bits."""
    kind, each = (np.uint32, 8) if bits == 4 else (np.int32, 4)
    columns = codes_NK.astype(np.uint32).reshape(len(codes_NK), -1, each) & np.uint32(2**bits - 1)
    found = np.zeros(columns.shape[:2], np.uint32)
    for i in range(each):
        found |= columns[..., i] << np.uint32(i // 2 * bits + i % 2 * 16)
    return found.view(kind)


def quantise(weight_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes int8 [N, K], scales fp16 [N, B]) of whole blocks: symmetric, rounded to nearest."""
    blocks_NBK = weight_NK.reshape(len(weight_NK), -1, BLOCK)
    scales_NB = _rounded_up(np.abs(blocks_NBK).max(-1) / np.float32(127))
    codes = np.rint(blocks_NBK / _divisor(scales_NB))
    return codes.astype(np.int8).reshape(weight_NK.shape), scales_NB


def quantise_to_4_bits(weight_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes uint8 [N, K] from 0 to 15, scales fp16 [N, B], lows fp16 [N, B]).

    Codes as in GGUF's Q4_1, from a block's least weight to its largest; then the line through them with the least
    squares.
    """
    blocks_NBK = weight_NK.reshape(len(weight_NK), -1, BLOCK)
    low_NB, high_NB = blocks_NBK.min(-1, keepdims=True), blocks_NBK.max(-1, keepdims=True)
    codes = np.rint((blocks_NBK - low_NB) * (15 / np.where(high_NB > low_NB, high_NB - low_NB, 1)))
    codes_mean, mean = codes.mean(-1, keepdims=True), blocks_NBK.mean(-1, keepdims=True)
    spread = ((codes - codes_mean) ** 2).sum(-1, keepdims=True)
    scales = ((codes - codes_mean) * (blocks_NBK - mean)).sum(-1, keepdims=True) / np.where(spread > 0, spread, 1)
    lows = mean - scales * codes_mean
    return codes.astype(np.uint8).reshape(weight_NK.shape), *(x[..., 0].astype(np.float16) for x in (scales, lows))


def _rounded_up(x: np.ndarray) -> np.ndarray:
    """To fp16, never down: no weight is beyond the last code."""
    half = x.astype(np.float16)
    return np.where(half.astype(np.float32) < x, np.nextafter(half, np.float16(np.inf)), half)


def _divisor(scales_NB: np.ndarray) -> np.ndarray:
    return np.where(scales_NB > 0, scales_NB, 1).astype(np.float32)[..., None]


def head_dim(config: Any) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _panels(x_NK: np.ndarray) -> np.ndarray:
    """[N, K] -> [P, K, J]."""
    return np.ascontiguousarray(x_NK.reshape(len(x_NK) // PANEL, PANEL, x_NK.shape[1]).transpose(0, 2, 1))


def _window(config: Any, attention: Any) -> int:
    window = config.sliding_window if config.model_type == "mistral" else getattr(attention, "sliding_window", None)
    return 2**62 if window is None else window


def _bias(layer: nn.Linear) -> np.ndarray:
    return np.zeros(len(layer.weight), np.float32) if layer.bias is None else _array(layer.bias)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
