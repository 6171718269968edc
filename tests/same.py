"""Whether two samples are the same: parts, roles, targets, regions, and the bytes of their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from mm15.regions import Region
from mm15.sample import Image, Sample


def picture_bytes(image: Image) -> bytes:
    """The stored bytes of a picture; pixels for those that were never stored."""
    if isinstance(image.data, bytes):
        return image.data
    if isinstance(image.data, np.ndarray | PILImage.Image):
        return np.asarray(image.data).tobytes()
    return Path(image.data).read_bytes()


def assert_same(one: Sample, other: Sample, *, tolerance: float = 0.0) -> None:
    """Equal but for source and meta; places within `tolerance` pixels."""
    assert [(p.role, p.target, type(p.content)) for p in one.parts] == [
        (p.role, p.target, type(p.content)) for p in other.parts
    ]
    for a, b in zip(one.parts, other.parts, strict=True):
        if isinstance(a.content, Image):
            assert picture_bytes(a.content) == picture_bytes(b.content)
        elif isinstance(a.content, Region):
            assert type(a.content.shape) is type(b.content.shape)
            assert tuple(a.content.shape) == pytest.approx(tuple(b.content.shape), abs=tolerance)
            assert (a.content.image, a.content.label) == (b.content.image, b.content.label)
        else:
            assert a.content == b.content
