"""For tests: small tars and the sources that read them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from pydantic import TypeAdapter

from mm15.data.sources import SourceData, open_source
from mm15.recipe import Source
from mm15.sample import Image, Sample


def picture(number: int, kind: str = "PNG") -> bytes:
    """A small picture, another for each number."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def tar(path: Path, members: Iterable[tuple[str, Any]], *, form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of (name, bytes, text or JSON data) in their order; a TarInfo in place of the content is added as it is."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            data = content if isinstance(content, bytes) else (
                content if isinstance(content, str) else json.dumps(content)
            ).encode()  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pairs(count: int, *, first: int = 0) -> list[tuple[str, Any]]:
    """The members of pairs `first`, ...: a picture and the caption "caption K"."""
    numbers = range(first, first + count)
    return [m for k in numbers for m in ((f"{k:04d}.png", picture(k)), (f"{k:04d}.txt", f"caption {k}"))]


def opened(path: Path | str, layout: str | None = "pairs", kind: str = "webdataset", **more: Any) -> SourceData:
    """The source of a block of settings."""
    settings = {"format": kind, "path": str(path), **({"layout": layout} if layout else {}), **more}
    return open_source(TypeAdapter(Source).validate_python(settings), "mine")


def shown(sample: Sample) -> list[Any]:
    """Texts, and the bytes of pictures, in order."""
    return [part.content.data if isinstance(part.content, Image) else part.content for part in sample.parts]
