"""Pictures to tiles on one core, side by side: bare JPEG decode, mm15, and the PIL processors of two peers.

    python -m bench.loader [--rounds 15] [--json]

A page of 1700x2200 and a photo of 640x480, both JPEG at quality 90, drawn here. All get the bytes. LLaVA-OneVision's
processor is given our tile (672) and our grids (4 to 9 tiles), so that it keeps the same number of source pixels; its
published settings (384, up to 6x6) and SmolVLM's (2048 in tiles of 512) are shown beside it. The peers also scale and
normalise to float32, which mm15 leaves to the device; so they are timed without that too, and mm15 with it. In each
round every contender runs once and the least time of all rounds counts: other jobs of the machine only add. Exits
with 1 when mm15 makes fewer than 5 times the peer's pictures or takes more than twice the page's decoding.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from transformers.models.llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.smolvlm import SmolVLMImageProcessorPil

from bench.table import Line, report
from mm15.image import Tiling, cut, open_picture, plan
from mm15.sample import Image

TIMES_THE_PEER, OF_THE_DECODE = 5.0, 0.5
TILING = Tiling()
GRIDS = [
    [rows * TILING.tile, cols * TILING.tile]
    for rows in range(1, TILING.max_tiles + 1)
    for cols in range(1, TILING.max_tiles + 1)
    if TILING.min_tiles <= rows * cols <= TILING.max_tiles
]
PEER = "LLaVA-OneVision, our grids"


def page() -> bytes:
    """A page of text, 1700x2200."""
    rng = np.random.default_rng(0)
    picture = PILImage.new("RGB", (1700, 2200), (250, 249, 246))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(26)
    for top in range(100, 2100, 34):
        words = ("".join(map(chr, rng.integers(97, 123, rng.integers(2, 10)))) for _ in range(16))
        draw.text((120, top), " ".join(words), fill=(20, 20, 30), font=font)
    return jpeg(picture)


def photo() -> bytes:
    """Soft blobs and sensor noise, 640x480."""
    rng = np.random.default_rng(0)
    blobs = PILImage.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
    noisy = np.asarray(blobs) + rng.normal(0, 6, (480, 640, 3))
    return jpeg(PILImage.fromarray(noisy.clip(0, 255).astype(np.uint8)))


def jpeg(picture: PILImage.Image) -> bytes:
    """The picture as a JPEG of quality 90."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def contenders() -> dict[str, Callable[[bytes], object]]:
    """Name -> what it does with the bytes of a picture."""
    sides = {"height": TILING.tile, "width": TILING.tile}
    ours_grids = LlavaOnevisionImageProcessorPil(size=sides, image_grid_pinpoints=GRIDS)
    published, smol = LlavaOnevisionImageProcessorPil(), SmolVLMImageProcessorPil()

    def decoded(data: bytes) -> PILImage.Image:
        return PILImage.open(io.BytesIO(data)).convert("RGB")

    def ours(data: bytes) -> np.ndarray:
        image = Image(data)
        with PILImage.open(io.BytesIO(data)) as header:
            layout = plan(*header.size, TILING)
        return cut(open_picture(image, "bench", at_least=layout.resized), layout)

    def normalised(data: bytes) -> np.ndarray:
        return (ours(data).astype(np.float32) / 255 - 0.5) / 0.5

    plain = {"do_rescale": False, "do_normalize": False}
    return {
        "JPEG decode": decoded,
        "mm15": ours,
        "mm15, normalised": normalised,
        PEER: lambda data: ours_grids(decoded(data)),
        f"{PEER}, bytes": lambda data: ours_grids(decoded(data), **plain),
        "LLaVA-OneVision": lambda data: published(decoded(data)),
        "SmolVLM": lambda data: smol(decoded(data)),
    }


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Picture -> contender -> seconds a picture."""
    torch.set_num_threads(1)
    runs = contenders()
    found = {}
    for name, data in (("page", page()), ("photo", photo())):
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(rounds):
            for contender, run in runs.items():
                start = time.perf_counter()
                run(data)
                best[contender] = min(best[contender], time.perf_counter() - start)
        found[name] = best
    return found


def lines(found: dict[str, dict[str, float]]) -> list[Line]:
    """Each picture beside the peer that keeps as many source pixels, and the page beside its bare decoding."""
    made = [
        Line(
            f"{picture} to tiles", "pictures/s", 1 / best["mm15"], name, 1 / best[name], best[name] / best["mm15"], goal
        )
        for picture, best in found.items()
        for name, goal in ((PEER, TIMES_THE_PEER), ("SmolVLM", None))
    ]
    page, decode = found["page"]["mm15"], found["page"]["JPEG decode"]
    return [
        *made,
        Line("page to tiles", "pictures/s", 1 / page, "JPEG decode", 1 / decode, decode / page, OF_THE_DECODE),
    ]


def main() -> int:
    """Measure, print the table, and hold the promises."""
    parser = argparse.ArgumentParser(description="Pictures to tiles: mm15, peers, and bare decoding.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rounds)
    for picture, best in ({} if options.json else found).items():
        for contender, seconds in best.items():
            ratio = seconds / best["mm15"]
            print(f"{picture:6} {contender:36} {1 / seconds:8.1f} pictures/s   {ratio:6.2f} times mm15's time")
    return report(lines(found), json_wanted=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
