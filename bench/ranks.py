"""What loading costs each of R processes: CPU seconds of one of them for 100 rows of the whole stream.

    python -m bench.ranks [--rows 96] [--ranks 1 2 4 8] [--json]

Three kinds of documents, drawn equally often: a page of 1700x2200 (10 tiles), a photo of 640x480 (5 tiles), both JPEG,
and a text of about 1000 tokens. Rows hold 4096 tokens and 16 tiles of 672 pixels, a step 8 rows. A process encodes the
documents of its own rows, and outlines the others to know which these are; "encoded" is what it encodes of all
documents. Without workers, so that all of its work is in one process. Exits with 1 when one of 8 processes takes more
than a quarter of the time of one alone.
"""

from __future__ import annotations

import argparse
import time

import torch

from bench.loader import page, photo
from bench.table import Line, report
from mm15.data.loader import PackedLoader
from mm15.data.mixture import Mixture
from mm15.image import Tiling
from mm15.processor import build_processor
from mm15.recipe import Category, Group
from mm15.regions import Coordinates
from mm15.sample import Image, Sample, assistant, document, user
from mm15.text import tokenizer as tokenizers
from mm15.text.render import Encoded

TIMES_LESS = 4.0
WORDS = "The quick brown fox jumps over the lazy dog and reads 17 more lines of the page. "


class Documents:
    """Samples of one kind, all with the same picture."""

    def __init__(self, name: str, picture: bytes | None) -> None:
        self.name, self.fingerprint, self.picture = name, name, picture

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Sample:
        if self.picture is None:
            return Sample(str(index), self.name, document(WORDS * (40 + index % 20)))
        return Sample(str(index), self.name, user(Image(self.picture), "Read.") + assistant(WORDS * (1 + index % 9)))

    def where(self, index: int) -> str:
        """The place of a sample."""
        return f"{self.name}[{index}]"


def measure(rows: int, ranks: list[int]) -> dict[int, dict[str, float]]:
    """Ranks -> CPU seconds of the first for 100 rows of all, and the share of all documents that it encodes."""
    torch.set_num_threads(1)
    sources = {"page": Documents("page", page()), "photo": Documents("photo", photo()), "text": Documents("text", None)}
    processor = build_processor(
        tokenizers.prepare(tokenizers.train([WORDS] * 50, vocab_size=400), coordinates=Coordinates()),
        tiling=Tiling(),
        coordinates=Coordinates(),
        tokens_per_tile=144,
    )
    groups = {"all": Group(categories={"all": Category(sources=dict.fromkeys(sources, 1.0))})}
    found = {}
    for world in ranks:
        encoded = 0

        def encode(sample: Sample) -> Encoded:
            nonlocal encoded
            encoded += 1
            return processor.encode(sample)

        mixture = Mixture(groups, {name: len(source) for name, source in sources.items()})
        sizes = {"tokens": 4096, "tiles": 16, "rows": 8, "workers": 0}
        loader = PackedLoader(mixture, sources, encode, processor.measure, **sizes, rank=0, world_size=world)
        stream = iter(loader)
        next(stream)  # the first step fills the packer
        start, before, encoded = time.process_time(), loader.state_dict()["next"], 0
        for _ in range(rows // 8):
            next(stream)
        seconds = (time.process_time() - start) * 100 / rows
        found[world] = {"seconds": seconds, "encoded": encoded / (loader.state_dict()["next"] - before)}
    return found


def main() -> int:
    """Measure, print the table, and hold the promise."""
    parser = argparse.ArgumentParser(description="What loading costs each of R processes.")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rows, options.ranks)
    for world, one in ({} if options.json else found).items():
        print(f"{world:3} processes {one['seconds']:8.2f} s each for 100 rows  {100 * one['encoded']:6.1f} % encoded")
    alone = found[1]["seconds"]
    lines = [
        Line(
            f"100 rows, one of {world} processes",
            "s of a core",
            one["seconds"],
            "one alone",
            alone,
            alone / one["seconds"],
            TIMES_LESS if world == 8 else None,
        )
        for world, one in found.items()
        if world > 1
    ]
    return report(lines, json_wanted=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
