"""Floating-point operations of a row, counted from shapes: two for every multiplication of a matrix product.

    forward    every linear layer, convolution and attention product, of the head only where there are targets
    backward   the same again for what flows to the input, where anything before it learns, and again for the weights
               that learn: twice the forward in a model that is trained whole
    recompute  the forward of the layers once more, where activation checkpointing drops it; and attention scores, which
               fused kernels (FlashAttention) do not keep

Norms, activation functions and the optimiser are left out, as everywhere: they move memory and multiply little. A text
row's one blank tile is counted. Attention is counted as it must be (`causal_pairs`); `pairs` counts it in another way,
to compare with a counter that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from ..recipe import Part
from .row import Row, causal_pairs
from .shapes import PARTS, Connector, Decoder, Encoder, Shapes


class Learns(Enum):
    """What of a part a stage trains."""

    ALL = "all"
    ADAPTERS = "adapters"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Training:
    """What of a model is trained, and how: per part what learns, rank of adapters, what is computed twice."""

    vision: Learns = Learns.ALL
    connector: Learns = Learns.ALL
    decoder: Learns = Learns.ALL
    rank: int = 0
    checkpointing: str = "none"

    def of(self, part: Part) -> Learns:
        """What of this part learns."""
        found: Learns = getattr(self, part)
        return found

    def reached(self, part: Part) -> bool:
        """Whether gradients reach this part's layers at all: it learns, or something before it does."""
        return any(self.of(earlier) is not Learns.NOTHING for earlier in PARTS[: PARTS.index(part) + 1])


@dataclass(frozen=True)
class Flops:
    """Operations of a row in one part."""

    forward: int = 0
    backward: int = 0
    recompute: int = 0

    @property
    def total(self) -> int:
        """All that is executed."""
        return self.forward + self.backward + self.recompute

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.forward * times, self.backward * times, self.recompute * times)


@dataclass(frozen=True)
class _Products:
    """Multiplications of a part: with weights, between activations, first of all (no gradient goes below it)."""

    weights: int
    attention: int
    first: int
    recomputed: int
    adapters: int


def row_flops(
    shapes: Shapes,
    row: Row,
    training: Training,
    *,
    pairs: Callable[[tuple[int, ...]], int] = causal_pairs,
    fused: bool = True,
) -> dict[str, Flops]:
    """Operations of one row by part: vision, connector, decoder and head. `fused`: attention keeps no scores."""
    tiles, rank = max(row.tiles, 1), training.rank
    found = {
        "vision": _vision(shapes.encoder, tiles, rank),
        "connector": _connector(shapes.connector, tiles, rank),
        "decoder": _decoder(shapes.decoder, row, pairs(row.documents), rank),
    }
    flops = {part: _flops(products, part, training, fused) for part, products in found.items()}  # type: ignore[arg-type]
    head = 2 * row.targets * shapes.decoder.width * shapes.decoder.vocabulary
    back = head * ((training.decoder is Learns.ALL) + training.reached("decoder"))
    return {**flops, "head": Flops(head, back)}


def _flops(products: _Products, part: Part, training: Training, fused: bool) -> Flops:
    learns, reached = training.of(part), training.reached(part)
    adapters = 2 * products.adapters * (learns is Learns.ADAPTERS)
    forward = 2 * (products.weights + products.attention) + adapters
    if not reached:
        return Flops(forward)
    below = products.weights - (products.first if part == "vision" else 0)
    own = products.weights if learns is Learns.ALL else 0
    backward = 2 * (below + own + 2 * products.attention) + 2 * adapters
    again = 2 * products.recomputed + adapters if training.checkpointing == "full" else 0
    return Flops(forward, backward, again + products.attention * fused)


def _vision(encoder: Encoder, tiles: int, rank: int) -> _Products:
    tokens = tiles * encoder.tokens
    matrices = 3 if encoder.gated else 2
    layer = tokens * (4 * encoder.width**2 + matrices * encoder.width * encoder.inner)
    attention = 2 * tiles * encoder.tokens**2 * encoder.width
    stem = [tiles * one.products for one in encoder.stem]
    low = tokens * rank * (10 * encoder.width + matrices * encoder.inner)
    layers = encoder.layers
    # what a layer ends with is kept by nothing and not computed again, but where a learnt scale follows it
    again = layer + attention - (tokens * encoder.inner * encoder.width if encoder.kind != "dinov2" else 0)
    return _Products(layers * layer + sum(stem), layers * attention, stem[0], layers * again, layers * low)


def _connector(connector: Connector, tiles: int, rank: int) -> _Products:
    linear = [(connector.tokens, a, b) for a, b in connector.readout()]
    depthwise = 0
    for width_in, width, positions in connector.blocks():
        reduced = max(round(width_in / 4), 1)
        linear += [(positions, width_in, width), (positions, width, width), (1, width, reduced), (1, reduced, width)]
        linear += [(positions, width_in, width)] * (width_in != width)
        depthwise += positions * 9 * width
    total = depthwise + sum(places * a * b for places, a, b in linear)
    low = rank * sum(places * (a + b) for places, a, b in linear)
    return _Products(tiles * total, 0, 0, 0, tiles * low)


def _decoder(decoder: Decoder, row: Row, pairs: int, rank: int) -> _Products:
    queries, keys = decoder.heads * decoder.head_dim, decoder.key_heads * decoder.head_dim
    projections = 2 * decoder.width * (queries + keys)
    dense, sparse = 3 * decoder.width * decoder.inner, 3 * decoder.width * decoder.expert_inner * decoder.top_k
    sparse += decoder.width * decoder.experts
    count, experts = len(decoder.sparse), sum(decoder.sparse)
    weights = row.tokens * (count * projections + (count - experts) * dense + experts * sparse)
    attention = count * 2 * pairs * queries
    low = count * (4 * decoder.width + 2 * (queries + keys)) + (count - experts) * 3 * (decoder.width + decoder.inner)
    last = row.tokens * (count - experts) * decoder.inner * decoder.width  # kept by nothing, so not computed again
    return _Products(weights, attention, 0, weights + attention - last, row.tokens * rank * low)


def totals(by_part: Mapping[str, Flops]) -> Flops:
    """The sum over parts."""
    return sum(by_part.values(), Flops())
