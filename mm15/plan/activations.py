"""What a forward keeps for the backward, in bytes, from shapes: by layer of encoder and decoder, connector and loss.

Every operation keeps what its gradient needs and nothing else:

    linear, convolution   its input, in the compute precision, where its weights learn
    RMS norm              its input in fp32, and that normalised where its weights learn
    layer norm            its input, and two numbers a token
    SiLU, GELU            its input                      product of two      both of them
    attention             queries, keys, values; fused: the result and a number a token and head; else the probabilities

Autocast adds copies: where activations flow in fp32 and are multiplied in bf16, each linear layer has its own bf16 copy
of its input, except that norms hand on one (`mm15.model.autocast`). FSDP with bf16 parameters flows in bf16. On GPUs
autocast computes layer norms in fp32. A test compares each formula with what torch's saved-tensor hooks count, to the
byte where it can be.
"""

from __future__ import annotations

from dataclasses import dataclass

from .flops import Learns
from .row import Row, block_pairs
from .shapes import Connector, Decoder, Encoder

CPU_BLOCK = 128
"""Queries that `mm15.model.attention` computes at one time on a CPU in bf16."""
CPU_SHORT = 2048
"""Longest document that it computes so."""
LOGIT_ROWS = 4096
"""Targets whose logits `mm15.model.loss` has at one time."""
SOFTMAX_NUMBERS = 2**21
"""Logits that it has in fp32 at one time."""


@dataclass(frozen=True)
class Arithmetic:
    """Bytes of a number: as it is multiplied, as it flows from layer to layer, as layer norms on it compute (0: as it
    flows); and whether attention is fused, so that no probabilities are kept."""

    compute: int = 4
    stream: int = 4
    norm: int = 0
    fused: bool = True

    @staticmethod
    def of(device: str, *, bf16: bool, sharded: bool) -> Arithmetic:
        """As training computes on this device; sharded parameters are bf16 on GPUs."""
        if not bf16:
            return Arithmetic()
        if device == "cpu":
            return Arithmetic(compute=2, fused=False)
        return Arithmetic(compute=2, stream=2 if sharded else 4, norm=4)

    @property
    def casts(self) -> bool:
        """Whether what flows is copied before it is multiplied."""
        return self.compute != self.stream


@dataclass(frozen=True)
class Kept:
    """Bytes that stay of a layer after its forward: all of it, results of matrix products and attention (which
    selective checkpointing keeps), its input, and what its backward needs beside them while it runs."""

    everything: int
    products: int
    entry: int
    passing: int

    def after(self, checkpointing: str) -> int:
        """What stays with this setting of activation checkpointing."""
        if checkpointing == "none":
            return self.everything
        return self.entry + (self.products if checkpointing == "selective" else 0)

    def during(self, checkpointing: str) -> int:
        """What the backward of the layer needs for a while: what it computes again, and gradients in passing."""
        again = 0 if checkpointing == "none" else max(self.everything - self.after(checkpointing) + self.entry, 0)
        return again + self.passing


NOTHING = Kept(0, 0, 0, 0)


def linear_input(width: int, users: int, a: Arithmetic, learns: Learns, *, given: int | None = None) -> int:
    """Bytes a token that `users` linear layers keep of one input of `given` bytes a number (None: as it flows)."""
    if learns is Learns.NOTHING:
        return 0
    return width * a.compute * (users if (given or a.stream) != a.compute else 1)


def normed_input(width: int, users: int, a: Arithmetic, learns: Learns, *, given: int | None = None) -> int:
    """The same after a norm that hands on one copy. Adapters take it in fp32 and are given a copy each."""
    return linear_input(width, users if learns is Learns.ADAPTERS else 1, a, learns, given=given)


def rms_norm(width: int, a: Arithmetic, learns: Learns, *, given: int | None = None) -> int:
    """Bytes a token of transformers' RMS norm: the fp32 input, its inverse deviation, the normalised input."""
    return 4 * width + 4 + (width * (given or a.stream) if learns is Learns.ALL else 0)


def layer_norm(width: int, a: Arithmetic, *, given: int | None = None) -> int:
    """Bytes a token of a layer norm: its input as it computes, mean and deviation."""
    return width * (a.norm or given or a.stream) + 8


# ------------------------------------------------------------------------------------------------------------- decoder


def decoder_layer(decoder: Decoder, row: Row, a: Arithmetic, learns: Learns, *, sparse: bool = False) -> Kept:
    """One decoder layer over a row."""
    tokens, c = row.tokens, a.compute
    queries, keys = decoder.heads * decoder.head_dim, decoder.key_heads * decoder.head_dim
    each = rms_norm(decoder.width, a, learns) + normed_input(decoder.width, 3, a, learns)
    if decoder.head_norms:
        heads = decoder.heads + decoder.key_heads
        each += 4 * (queries + keys) + 4 * heads + (c * (queries + keys) if learns is Learns.ALL else 0)
    each += c * (queries + 2 * keys) + linear_input(queries, 1, a, learns, given=c)
    each += rms_norm(decoder.width, a, learns)
    scores = _scores(decoder, row, a)
    if sparse:
        mlp, results = _experts(decoder, a, learns)
    else:
        mlp = normed_input(decoder.width, 2, a, learns) + 3 * c * decoder.inner
        mlp += linear_input(decoder.inner, 1, a, learns, given=c)
        results = c * (2 * decoder.inner + decoder.width)
    products = tokens * (c * (queries + 2 * keys + decoder.width) + results) + (scores if a.fused else 0)
    inner = decoder.expert_inner * decoder.top_k if sparse else decoder.inner
    entry = tokens * decoder.width * a.stream
    passing = 2 * c * tokens * inner + entry + c * tokens * decoder.width
    return Kept(tokens * (each + mlp) + scores, products, entry, passing)


def _scores(decoder: Decoder, row: Row, a: Arithmetic) -> int:
    """What attention keeps beside queries, keys and values."""
    if not a.fused and max(row.documents, default=0) <= CPU_SHORT:
        return a.compute * decoder.heads * block_pairs(row.documents, CPU_BLOCK)
    return row.tokens * decoder.heads * (decoder.head_dim * a.compute + 4)


def _experts(decoder: Decoder, a: Arithmetic, learns: Learns) -> tuple[int, int]:
    """Bytes a token of a sparse feed-forward, and those of them that matrix products give (see mm15.model.routing)."""
    c, width, inner, top_k = a.compute, decoder.width, decoder.expert_inner, decoder.top_k
    trains = learns is Learns.ALL
    router = 4 * decoder.experts + 4 + 16 * top_k  # probabilities; the sum of a token's gates, gates, whose they are
    router += 4 * width * trains  # the router multiplies in fp32
    assignment = 16 + 3 * c * inner + c * width + c * (width + inner) * trains  # its row and its place first
    return router + top_k * assignment, top_k * c * (2 * inner + width)


def decoder_ends(decoder: Decoder, row: Row, a: Arithmetic, learns: Learns) -> int:
    """Token ids and rotary tables before the layers, the norm after them."""
    return row.tokens * (8 + 2 * decoder.head_dim * a.stream + rms_norm(decoder.width, a, learns))


# -------------------------------------------------------------------------------------------------------------- vision


def encoder_layer(encoder: Encoder, tiles: int, a: Arithmetic, learns: Learns) -> Kept:
    """One encoder layer over all tiles of a row."""
    tokens, width, c, trains = tiles * encoder.tokens, encoder.width, a.compute, learns is Learns.ALL
    normed = a.norm or a.stream
    each = 2 * layer_norm(width, a) + normed_input(width, 3, a, learns, given=normed)
    each += 3 * c * width
    if a.fused:
        scores = tokens * (c * width + 4 * encoder.heads)  # the result, which the output projection keeps too
    else:
        scores = c * encoder.heads * tiles * encoder.tokens**2
        each += linear_input(width, 1, a, learns, given=c)
    wide = 2 if encoder.gated else 1
    activated = {"quick_gelu": 2}.get(encoder.activation, 1) if not encoder.gated else 3
    mlp = linear_input(width, 1, a, learns, given=normed) + activated * c * encoder.inner
    mlp += linear_input(encoder.inner, 1, a, learns, given=c)
    each += mlp + (2 * c * width * trains if encoder.kind == "dinov2" else 0)  # two layer scales
    products = tokens * c * (5 * width + wide * encoder.inner) + (scores if a.fused else 0)
    entry = tokens * width * a.stream
    passing = max(2 * c * tokens * encoder.inner * wide, 0 if a.fused else 2 * scores - tokens * mlp)
    return Kept(tokens * each + scores, products, entry, passing + entry + c * tokens * width)


def encoder_ends(encoder: Encoder, tiles: int, a: Arithmetic, learns: Learns) -> int:
    """Patches before the layers and the norms around them."""
    kept = 0
    if learns is Learns.ALL:
        kept += tiles * a.compute * 3 * encoder.side**2
        for convolution in encoder.stem[:-1]:  # the input of GELU, and its result
            kept += tiles * 2 * a.compute * convolution.channels * convolution.positions
    if encoder.kind in ("siglip_vision_model", "dinov2", "clip_vision_model"):  # post-norm; CLIP: pre-norm
        kept += tiles * encoder.tokens * layer_norm(encoder.width, a)
    return kept


# ----------------------------------------------------------------------------------------------------------- connector


def connector_kept(connector: Connector, tiles: int, a: Arithmetic, learns: Learns) -> Kept:
    """The whole connector over all tiles of a row."""
    kept = sum(_block(*block, a, learns) for block in connector.blocks())
    for i, (width_in, width_out) in enumerate(connector.readout()):
        kept += connector.tokens * linear_input(width_in, 1, a, learns, given=a.compute)
        kept += connector.tokens * a.compute * width_out * (i < connector.mlp_depth - 1)
    kept += connector.patches * connector.width * (a.norm or a.compute)  # the input of the pooling
    widest = connector.patches * max(connector.width, connector.width_in)
    return Kept(tiles * kept, 0, 0, tiles * widest * 4 * (a.norm or a.compute))


def _block(width_in: int, width: int, positions: int, a: Arithmetic, learns: Learns) -> int:
    """A bottleneck over one map; `flow` are the bytes of what norms give."""
    c, flow = a.compute, a.norm or a.compute
    given = a.stream if width_in != width else flow
    shortcut = width_in != width
    norms = (3 + shortcut) * layer_norm(width, a, given=c)
    each = norms + linear_input(width_in, 1 + shortcut, a, learns, given=given)
    each += 2 * flow * width + linear_input(width, 1, a, learns, given=flow)  # SiLU twice; the depthwise input
    each += flow * width + linear_input(width, 1, a, learns, given=flow)  # squeeze-and-excite; the last convolution
    return positions * (each + flow * width) + 2 * c * (width + max(round(width_in / 4), 1))


# ---------------------------------------------------------------------------------------------------------------- loss


def logits(decoder: Decoder, targets: int, a: Arithmetic) -> int:
    """Bytes that exist at the worst moment of the loss, which computes its gradients in the forward."""
    rows, table = min(targets, LOGIT_ROWS), decoder.vocabulary * decoder.width
    numbers = rows * decoder.vocabulary
    softmax = 2 * 4 * min(numbers, max(SOFTMAX_NUMBERS, decoder.vocabulary))
    product = a.compute * table * (a.casts or targets > LOGIT_ROWS)
    worst = a.compute * numbers + max(softmax, product + a.stream * table)
    return worst + a.compute * table * a.casts + targets * decoder.width * (a.stream + a.compute)
