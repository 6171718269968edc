"""Streams of documents' sizes (tokens, tiles), for tests of the packer and for bench/packing.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np

from mm15.data.packing import Document
from mm15.image import Tiling, plan
from mm15.text.render import Encoded, Ref

Size = tuple[int, int]


def document(draw: int, tokens: int, tiles: int) -> Document:
    """A document of given sizes, with nothing in it."""
    empty = np.broadcast_to(np.zeros((1, 3, 1, 1), np.uint8), (tiles, 3, 1, 1))
    ids = np.broadcast_to(np.int64(draw), (tokens,))
    return Document(draw, f"id-{draw}", Ref("source", draw), Encoded(ids, ids, empty, np.zeros(tiles, np.int64)))


def pictures(rng: random.Random) -> Size:
    """80 % one picture of 5..10 tiles, 10 % several unsplit ones, 10 % text; 144 tokens a tile, then words."""
    words = int(min(1500, max(8, rng.lognormvariate(4.2, 1.0))))
    kind = rng.random()
    if kind < 0.9:
        tiles = rng.randint(5, 10) if kind < 0.8 else rng.randint(2, 6)
        return tiles * 144 + words, tiles
    return min(4096, int(max(16, rng.lognormvariate(5.5, 1.0)))), 0


def half_text(rng: random.Random) -> Size:
    """Half text, half pictures of 2..5 tiles."""
    if rng.random() < 0.5:
        return min(4096, int(max(16, rng.lognormvariate(5.8, 1.0)))), 0
    tiles = rng.randint(2, 5)
    return tiles * 144 + int(min(1500, max(8, rng.lognormvariate(4.2, 1.0)))), tiles


def mostly_tiles(rng: random.Random) -> Size:
    """Pictures of 5..10 tiles with few tokens a tile."""
    tiles = rng.randint(5, 10)
    return tiles * 64 + rng.randint(10, 200), tiles


PHOTOS = (
    [(640, 480)] * 40 + [(480, 640)] * 12 + [(640, 427)] * 18 + [(427, 640)] * 6 + [(500, 375)] * 12 + [(1024, 683)] * 8
)
"""Sizes as COCO's, Flickr's and Visual Genome's pictures have them."""
PAGES = (
    [(1700, 2200)] * 20
    + [(850, 1100)] * 8
    + [(800, 600)] * 20
    + [(1024, 768)] * 10
    + [(640, 480)] * 10
    + [(1280, 720)] * 4
    + [(600, 1500)] * 4
    + [(450, 800)] * 3
    + [(1920, 1080)] * 4
    + [(300, 200)] * 6
    + [(400, 560)] * 6
)
"""Pages, charts, tables, screens and cuttings of them."""


@cache
def tiles_of(size: Size, pictures: int = 1) -> int:
    return plan(*size, Tiling(tile=672, min_tiles=4, max_tiles=9), images=pictures).n_tiles


def papers(rng: random.Random) -> Size:
    """The paper's SFT mix by its shares: 37.2 % text-rich, 22.5 grounding, 20.3 others with one picture, 10 with
    several, 10 text. Pictures are split by its rule; sizes of pictures and texts are ours: 5.4 tiles a sample."""
    kind = rng.random()

    def words(mean: float, spread: float) -> int:
        return int(min(3000, max(8, rng.lognormvariate(mean, spread))))

    if kind < 0.372:
        tiles = tiles_of(rng.choice(PAGES))
    elif kind < 0.8:
        tiles = tiles_of(rng.choice(PHOTOS))
    elif kind < 0.9:
        pictures = rng.choice([2, 2, 2, 3, 4, 5, 6, 8])
        tiles = sum(tiles_of(rng.choice(PHOTOS), pictures) for _ in range(pictures))
    else:
        return words(5.9, 0.9), 0
    return tiles * 144 + (words(5.5, 0.6) if 0.372 < kind < 0.71 else words(4.5, 0.9)), tiles


def snippets(rng: random.Random) -> Size:
    """Very short texts: some 200 to a row."""
    return rng.randint(10, 30), 0


def stream(kind: Callable[[random.Random], Size], count: int, seed: int = 0) -> list[Size]:
    rng = random.Random(seed)
    return [kind(rng) for _ in range(count)]
