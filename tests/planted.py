"""Datasets for the tests of `mm15 data check`: clean ones, and the same with faults planted at known places."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from mm15 import recipe
from mm15.recipe import Recipe

HERE = Path(__file__).parent


def scene(seed: int, width: int = 96, height: int = 72) -> PILImage.Image:
    """A picture of soft blobs that looks like no other."""
    blobs = np.random.default_rng([seed, 77]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return PILImage.fromarray(blobs).resize((width, height), PILImage.Resampling.BICUBIC)


def stored(picture: PILImage.Image, kind: str, **settings: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def bomb() -> bytes:
    """A whole PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def talk(*said: str, image: str | Sequence[str] | None = None, **more: Any) -> dict[str, Any]:
    """A LLaVA row: question, answer, question, ..."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    pictures = {} if image is None else {"image": image}
    return {**pictures, "conversations": turns, **more}


def question(number: int) -> dict[str, Any]:
    """A clean row about picture `number`."""
    kind = ("jpg", "png")[number % 2]
    return talk(
        f"<image>\nWhat is blob {number}?", f"It is blob number {number}.", image=f"{number}.{kind}", id=f"q{number}"
    )


class Dataset:
    """Rows of one format in a folder with their pictures; `add` says at which index a row stands."""

    def __init__(self, folder: Path, name: str, **settings: Any) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.settings = {"path": str(self.folder / "rows.jsonl"), **settings}
        self.lines: list[str] = []

    def add(self, row: dict[str, Any] | str, **pictures: bytes) -> int:
        """A row (or a line as it is) and the files of its pictures, by stem."""
        for name, content in pictures.items():
            (self.folder / name.replace("__", ".")).write_bytes(content)
        self.lines.append(row if isinstance(row, str) else json.dumps(row))
        return len(self.lines) - 1

    def clean(self, first: int, count: int) -> None:
        """Rows that nothing is wrong with."""
        for number in range(first, first + count):
            kind = ("JPEG", "PNG")[number % 2]
            row = question(number)
            self.add(row, **{row["image"].replace(".", "__"): stored(scene(number), kind)})

    def block(self) -> dict[str, Any]:
        """The source block, with the rows written."""
        Path(self.settings["path"]).write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return self.settings


def make_recipe(
    sources: dict[str, dict[str, Any]],
    *,
    evaluation: dict[str, dict[str, Any]] | None = None,
    tokens: int = 1024,
    tiles: int = 8,
    **stage: Any,
) -> Recipe:
    """A recipe of one stage that draws from all sources alike."""
    tree = recipe.load(HERE / "tiny.yaml").model_dump(mode="json")
    mixture = {"all": {"categories": {"all": {"sources": dict.fromkeys(sources, 1.0)}}}}
    batch = {"rows": 2, "tokens": tokens, "tiles": tiles}
    tree |= {
        "name": "planted",
        "sources": sources,
        "stages": {"sft": {"steps": 10, "batch": batch, "mixture": mixture, **stage}},
        "evaluation": {"groups": {"held": evaluation or {}}},
    }
    return recipe.validate(tree, "planted")
