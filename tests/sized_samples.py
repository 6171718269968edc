"""For tests of the loader: sources whose samples know how large they will be, an encoder for them, and comparisons."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mm15.data.loader import Batch, PackedLoader
from mm15.data.mixture import Mixture
from mm15.errors import UserError
from mm15.recipe import Category, Group
from mm15.sample import Image, Sample, document
from mm15.text.render import IGNORE, Encoded

EACH = 4
"""Placeholder tokens of a tile."""
LENGTHS = {"pictures": 60, "text": 40, "long": 25}


class Source:
    """Samples that know how large they will be. Two of "long" are larger than a row, and some of "text" are broken."""

    def __init__(self, name: str, fingerprint: str = "1") -> None:
        self.name = name
        self.fingerprint = f"{name}:{len(self)}:{fingerprint}"

    def __len__(self) -> int:
        return LENGTHS[self.name]

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([index, len(self)])
        tiles = int(rng.integers(1, 4)) if self.name == "pictures" else 0
        tokens = tiles * EACH + int(rng.integers(2, 80 if self.name == "long" else 20))
        if self.name == "long" and index in (3, 17):
            tokens, tiles = 101, 9
        if self.name == "text" and index % 13 == 5:
            raise UserError(f"row {index} is broken")
        parts = document(*[Image(b"to be decoded")] * tiles)
        return Sample(f"{self.name}-{index}", self.name, parts, {"tokens": tokens, "tiles": tiles, "index": index})


@dataclass(frozen=True)
class Size:
    """As `mm15.processor.Measured`, whose import takes transformers'."""

    tokens: int
    target_tokens: int
    tiles: int


def measure(sample: Sample) -> Size:
    """What `encode` gives, by other means."""
    tokens, tiles = sample.meta["tokens"], sample.meta["tiles"]
    if sample.id == "text-11":
        raise ValueError("cannot be\nencoded")
    return Size(tokens, max(tokens - tokens * 2 // 3 - 2, 0), tiles)


def damaged(sample: Sample) -> Encoded:
    """Some pictures have a header that is whole, and pixels that are not."""
    if sample.source == "pictures" and sample.meta["index"] % 5 == 2:
        raise UserError(f"{sample.id} is cut off")
    return encode(sample)


def encode(sample: Sample) -> Encoded:
    """Random tokens, tiles at the start, the last third are targets; text 11 cannot be encoded. Pure."""
    tokens, tiles, index = (sample.meta[key] for key in ("tokens", "tiles", "index"))
    if sample.id == "text-11":
        raise ValueError("cannot be\nencoded")
    rng = np.random.default_rng([index, tokens])
    ids = rng.integers(0, 1000, tokens)
    labels = np.where(np.arange(tokens) > tokens * 2 // 3, np.roll(ids, -1), IGNORE)
    labels[-1] = IGNORE
    pixels = rng.integers(0, 256, (tiles, 3, 4, 4), dtype=np.uint8)
    return Encoded(ids, labels, pixels, np.arange(tiles, dtype=np.int64) * EACH)


def make(
    workers: int = 0, *, rows: int = 2, encoder: Callable[[Sample], Encoded] = encode, **more: Any
) -> PackedLoader:
    sources = {name: Source(name, more.pop(f"{name}_fingerprint", "1")) for name in LENGTHS}
    weights = {"pictures": 0.5, "text": 0.3, "long": more.pop("long", 0.2)}
    groups = {"all": Group(categories={"all": Category(sources=weights)})}
    deep = {key: more.pop(key, None) for key in ("epochs", "means")}
    mixture = Mixture(groups, LENGTHS, seed=more.pop("seed", 0), **deep)
    sizes = {"tokens": 100, "tiles": 8, "lookahead": 8}
    measurer = more.pop("measurer", measure)
    return PackedLoader(mixture, sources, encoder, measurer, **{**sizes, **more}, rows=rows, workers=workers)


def plain(batch: Batch) -> list[Any]:
    """All that a batch holds, comparable with ==."""
    tensors = [getattr(batch, name) for name in ("input_ids", "position_ids", "labels", "tiles", "spans")]
    return [batch.refs, *((str(t.dtype), tuple(t.shape), t.numpy().tobytes()) for t in tensors)]


def steps(loader: PackedLoader, count: int) -> list[list[Any]]:
    """The next steps; the workers end with the call."""
    return [[plain(batch) for batch in step] for step in islice(loader, count)]


def exchanges(ranks: int) -> list[Callable[[Any], list[Any]]]:
    """For each of the ranks, in threads of this process, a `gather`."""
    handed: list[Any] = [None] * ranks
    barrier = threading.Barrier(ranks, timeout=30)

    def of(rank: int) -> Callable[[Any], list[Any]]:
        def gather(mine: Any) -> list[Any]:
            handed[rank] = mine
            barrier.wait()
            found = handed.copy()
            barrier.wait()
            return found

        return gather

    return [of(rank) for rank in range(ranks)]


def states(ranks: list[PackedLoader]) -> list[dict[str, Any]]:
    """What all are told when all ask at once."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda rank: through_json(rank.state_dict()), ranks))


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


def slowly(sample: Sample) -> Encoded:
    """Encodes with a pause, so that a signal finds workers at work."""
    time.sleep(0.01)
    return encode(sample)
