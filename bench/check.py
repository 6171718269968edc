"""How fast `mm15 data check` is: a LLaVA file of 100,000 rows with as many JPEGs, made in a temporary folder.

    python -m bench.check                     exact comparison only: no pixel is read
    python -m bench.check --perceptual        also look-alikes of 1,000 evaluation pictures: every JPEG at 1/8
    python -m bench.check --samples 10000 --workers 2 --keep FOLDER

Prints samples a second, and the CPU seconds of all processes. Every row asks two questions about its own picture of
640x480 pixels (about 40 kB), in some 150 tokens; two stages cut it in two ways.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mm15 import recipe
from mm15.data.check import check
from mm15.recipe import Recipe

WORDS = ["".join(random.Random(number).choices("etaoinshrdlucmfwyp", k=2 + number % 8)) for number in range(4000)]


def jpeg(seed: int) -> bytes:
    """A picture of 640x480 pixels with some texture."""
    blobs = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blobs).resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=80)
    return out.getvalue()


def words(rng: random.Random, count: int) -> str:
    """So many words."""
    return " ".join(rng.choices(WORDS, k=count))


def make_rows(folder: Path, count: int, first: int) -> Path:
    """A LLaVA file with pictures of its own; two pictures differ at least in a comment behind their first bytes."""
    (folder / "pictures").mkdir(parents=True)
    bases = [jpeg(first + seed) for seed in range(64)]
    path = folder / "rows.jsonl"
    with open(path, "w") as file:
        for number in range(count):
            rng = random.Random(first + number)
            mark = f"{first + number:08}".encode()
            base = bases[number % len(bases)]
            comment = b"\xff\xfe" + (len(mark) + 2).to_bytes(2, "big") + mark
            (folder / "pictures" / f"{number}.jpg").write_bytes(base[:2] + comment + base[2:])
            said = ("<image>\n" + words(rng, 12), words(rng, 30), words(rng, 10), words(rng, 40))
            turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
            row = {"id": number, "image": f"pictures/{number}.jpg", "conversations": turns}
            file.write(json.dumps(row) + "\n")
    return path


def make_recipe(rows: Path, held: Path | None) -> Recipe:
    """Two stages with different tilings over the same source."""
    tree = recipe.load("pico").model_dump(mode="json")
    mixture = {"all": {"categories": {"all": {"sources": {"rows": 1.0}}}}}
    stage = {"steps": 100, "mixture": mixture, "batch": {"rows": 8, "tokens": 8192, "tiles": 48}}
    whole = {**stage, "picture": {"rule": "none"}}
    block = {"format": "llava"}
    groups = {"held": {"held": {**block, "path": str(held)}}} if held else {}
    tree["model"]["tokenizer"] = {"vocab_size": 8000}
    tree["picture"] = {"tile": 336, "min_tiles": 4, "max_tiles": 9}
    tree |= {"sources": {"rows": {**block, "path": str(rows)}}, "stages": {"pretrain": whole, "sft": stage}}
    tree["evaluation"] = {"limit": 1000, "groups": groups}
    return recipe.validate(tree, "bench")


def main() -> None:
    """Make the data, check it, print the rate."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=100_000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--perceptual", action="store_true")
    options.add_argument("--keep", type=Path, help="make the data here, or take it from here")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        rows, held = folder / "rows" / "rows.jsonl", folder / "held" / "rows.jsonl"
        if not rows.exists():
            make_rows(folder / "rows", given.samples, 0)
            make_rows(folder / "held", 1000, 10_000_000)
        started, before = time.perf_counter(), cpu_seconds()
        report = check(make_recipe(rows, held if given.perceptual else None), workers=given.workers)
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - before
    print(report.text())
    print(f"\n{report.looked_at:,} samples in {seconds:.1f} s, {report.looked_at / seconds:,.0f}/s; CPU {cpu:.1f} s")


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
