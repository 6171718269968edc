"""A dense decoder as an ONNX graph for onnxruntime: embeddings and the cache in, the next token out.

    x [1,T,D] -- norm - qkv - attention - o - norm - gate|up - silu * - down --  (each layer)  -- norm - head - argmax
                                 |
         keys, values [1,K,C,E] of each layer, written in place; positions from `cos` and `sin` [C,E/2]

One graph serves a prompt (T tokens) and a step (one token). The fused operators are onnxruntime's own:
GroupQueryAttention (rotary positions, cache, sliding window), SkipSimplifiedLayerNormalization
(residual and RMS norm), MatMulNBits (weights in blocks of int8 by int8 activations, which VNNI multiplies).

fp32 is the transformers decoder itself, up to rounding; int8 has one fp32 scale for 32 weights of a row, so a weight
moves by at most its block's largest magnitude / 254. Cost: a copy of the decoder's matrices, 4 or 1.125 bytes a weight,
made in 1 to 2 s for 135M. Weights are handed over in memory, so the 2 GB of a protobuf bound nothing.
Legend: T tokens, D width, K key heads, E head width, C capacity of the cache, V vocabulary, N rows of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BLOCK = 32
"""Weights that share a scale. 64 decodes no faster and costs 0.15 % more perplexity (SmolLM2-135M)."""

DENSE = ("llama", "mistral", "qwen2", "qwen3")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary positions that do not change with the length of the text."""

_OURS = "com.microsoft"


class Weights(Enum):
    """How the fast decoder holds its matrices."""

    FP32 = "fp32"
    INT8 = "int8"


def quantise(weight_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes uint8 [N, B, BLOCK], scales fp32 [N, B]) of a matrix; weight = (code - 128) * scale.

    Symmetric, round to nearest; B blocks a row, the last one filled up with zeros.
    """
    rows, width = weight_ND.shape
    padded = np.pad(weight_ND.astype(np.float32), ((0, 0), (0, -width % BLOCK)))
    blocks = padded.reshape(rows, -1, BLOCK)
    scales = np.abs(blocks).max(-1) / np.float32(127)
    codes = np.rint(blocks / np.where(scales > 0, scales, np.float32(1))[..., None]) + 128
    return codes.astype(np.uint8), scales


def check_decoder(decoder: Any) -> None:
    """UserError for a decoder that has no fast form, naming what it has instead."""
    config = decoder.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    head = _head_dim(config)
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


def make_session(decoder: Any, weights: Weights, *, never: Sequence[int] = (), threads: int) -> InferenceSession:
    """A session of the decoder's layers and head on the CPU, with copies of its weights.

    Inputs `x`, `last` (tokens in the cache after this call, less one), `total` (their number), `wanted` (positions of
    `x` after which the next token is asked for, R of them), `cos`, `sin` and `key_i`, `value_i` of each layer. Outputs
    `token` int64 [1, R], `logits` fp32 [1, R, V], and the cache as `key_i_out`, `value_i_out`, to be bound to the same
    memory. `never` are tokens that are not written. Raises UserError for what `check_decoder` refuses, or when
    onnxruntime is not installed.
    """
    check_decoder(decoder)
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError:
        raise UserError('fast generation needs onnxruntime: pip install "mm15[fast]"') from None
    graph = _Graph(weights)
    model = _decoder_graph(graph, decoder, never)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_external_initializers(list(graph.arrays), list(graph.arrays.values()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Graph:
    """Nodes and weights of a graph in the making; every tensor is named by the node that makes it."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self.arrays: dict[str, Any] = {}

    def add(self, kind: str, inputs: Iterable[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        """A node; the name of its first output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, array: np.ndarray) -> str:
        """A weight that stays outside the protobuf, or a few whole numbers (sizes, which must stand inside)."""
        from onnx import TensorProto, helper, numpy_helper
        from onnxruntime import OrtValue

        array = np.ascontiguousarray(array)
        if array.dtype == np.int64:
            self.initialisers.append(numpy_helper.from_array(array, name))
            return name
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="memory")
        self.initialisers.append(tensor)
        self.arrays[name] = OrtValue.ortvalue_from_numpy(array)
        return name

    def linear(self, name: str, x: str, parts: Iterable[nn.Linear]) -> str:
        """Layers side by side on the same input, as one product; their outputs follow each other."""
        layers = list(parts)
        weight_ND = _array(torch.cat([layer.weight.detach() for layer in layers]))
        rows, width = weight_ND.shape
        if self.weights is Weights.INT8:
            codes, scales = quantise(weight_ND)
            inputs = [x, self.constant(f"{name}.codes", codes), self.constant(f"{name}.scales", scales.reshape(-1))]
            sizes = {"N": rows, "K": width, "bits": 8, "block_size": BLOCK}
            out = self.add("MatMulNBits", inputs, name, domain=_OURS, accuracy_level=4, **sizes)
        else:
            out = self.add("MatMul", [x, self.constant(f"{name}.weight", weight_ND.T)], name)
        if all(layer.bias is None for layer in layers):
            return out
        biases = [_bias(layer) for layer in layers]
        return self.add("Add", [out, self.constant(f"{name}.bias", _array(torch.cat(biases)))], f"{name}.biased")

    def norm(self, name: str, module: nn.Module, residual: str, added: str | None) -> tuple[str, str]:
        """(the RMS norm of the residual stream after `added`, the stream itself)."""
        weight, eps = self.constant(f"{name}.weight", _array(module.weight)), module.variance_epsilon
        if added is None:
            return self.add("SimplifiedLayerNormalization", [residual, weight], name, epsilon=eps, axis=-1), residual
        stream = f"{name}.stream"
        outputs = (name, "", "", stream)
        inputs = [residual, added, weight]
        return self.add("SkipSimplifiedLayerNormalization", inputs, *outputs, domain=_OURS, epsilon=eps), stream


def _decoder_graph(graph: _Graph, decoder: Any, never: Sequence[int]) -> bytes:
    """The whole decoder as a serialised model without its weights."""
    from onnx import TensorProto, helper

    config, stream, added = decoder.config, "x", None
    cache_in, cache_out = [], []
    for i, layer in enumerate(decoder.model.layers):
        stream, added = _layer(graph, i, layer, config, stream, added)
        for part in ("key", "value"):
            shape = [1, config.num_key_value_heads, "C", _head_dim(config)]
            cache_in.append(helper.make_tensor_value_info(f"{part}_{i}", TensorProto.FLOAT, shape))
            cache_out.append(helper.make_tensor_value_info(f"{part}_{i}_out", TensorProto.FLOAT, shape))
    hidden, _ = graph.norm("final", decoder.model.norm, stream, added)
    logits = graph.linear("every_logit", graph.add("Gather", [hidden, "wanted"], "asked", axis=1), [decoder.lm_head])
    if never:
        barred = np.zeros(len(decoder.lm_head.weight), np.float32)
        barred[list(never)] = -np.inf
        logits = graph.add("Add", [logits, graph.constant("barred", barred)], "allowed")
    graph.add("Identity", [logits], "logits")
    graph.add("ArgMax", [logits], "token", axis=-1, keepdims=0)
    rotary = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["C", _head_dim(config) // 2]) for n in ("cos", "sin")
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", config.hidden_size]),
        helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
        helper.make_tensor_value_info("wanted", TensorProto.INT64, ["R"]),
        *rotary,
        *cache_in,
    ]
    found: list[tuple[str, Any, list[Any]]] = [
        ("token", TensorProto.INT64, [1, "R"]),
        ("logits", TensorProto.FLOAT, [1, "R", len(decoder.lm_head.weight)]),
    ]
    outputs = [*(helper.make_tensor_value_info(*described) for described in found), *cache_out]
    made = helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initialisers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_OURS, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


def _layer(graph: _Graph, i: int, layer: Any, config: Any, stream: str, added: str | None) -> tuple[str, str]:
    """One layer; (the residual stream, what is still to be added to it)."""
    attention, mlp = layer.self_attn, layer.mlp
    x, stream = graph.norm(f"norm1_{i}", layer.input_layernorm, stream, added)
    qkv = graph.linear(f"qkv_{i}", x, [attention.q_proj, attention.k_proj, attention.v_proj])
    queries = (qkv, "", "") if not hasattr(attention, "q_norm") else _normed_heads(graph, i, attention, config, qkv)
    inputs = [*queries, f"key_{i}", f"value_{i}", "last", "total", "cos", "sin"]
    options: dict[str, Any] = {"scale": attention.scaling}
    window = config.sliding_window if config.model_type == "mistral" else getattr(attention, "sliding_window", None)
    if window is not None:
        options["local_window_size"] = window
    attended = graph.add(
        "GroupQueryAttention",
        inputs,
        *(f"attended_{i}", f"key_{i}_out", f"value_{i}_out"),
        domain=_OURS,
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        do_rotary=1,
        **options,
    )
    added = graph.linear(f"o_{i}", attended, [attention.o_proj])
    x, stream = graph.norm(f"norm2_{i}", layer.post_attention_layernorm, stream, added)
    both = graph.linear(f"gate_up_{i}", x, [mlp.gate_proj, mlp.up_proj])
    graph.add("Split", [both], f"gate_{i}", f"up_{i}", axis=-1, num_outputs=2)
    gate = graph.add("QuickGelu", [f"gate_{i}"], f"silu_{i}", domain=_OURS, alpha=1.0)  # x * sigmoid(1.0 x)
    gated = graph.add("Mul", [gate, f"up_{i}"], f"gated_{i}")
    return stream, graph.linear(f"down_{i}", gated, [mlp.down_proj])


def _normed_heads(graph: _Graph, i: int, attention: Any, config: Any, qkv: str) -> tuple[str, str, str]:
    """Queries, keys and values apart, the first two with the RMS norm of each head (qwen3)."""
    width, heads = _head_dim(config), {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    sizes = np.array([width * heads["q"], width * heads["k"], width * heads["k"]])
    names = [f"{part}_{i}" for part in "qkv"]
    graph.add("Split", [qkv, graph.constant(f"qkv_{i}.sizes", sizes)], *names, axis=-1)
    normed = []
    for part, count in heads.items():
        name, norm = f"{part}_{i}", getattr(attention, f"{part}_norm")
        apart = graph.add(
            "Reshape", [name, graph.constant(f"{name}.heads", np.array([0, 0, count, width]))], f"{name}.apart"
        )
        by_head, _ = graph.norm(f"{name}.norm", norm, apart, None)
        joined = graph.constant(f"{name}.joined", np.array([0, 0, count * width]))
        normed.append(graph.add("Reshape", [by_head, joined], f"{name}.normed"))
    return normed[0], normed[1], names[2]


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
