"""Samples as JSON and back, with nothing lost: the form of everything mm15 writes itself.

    {"id": "7", "parts": [{"role": "user", "image": "7.0.jpg"},
                          {"role": "user", "text": "Where is Save?"},
                          {"role": "assistant", "box": [12, 40, 96, 64], "of": 0, "label": "Save", "target": true}],
     "meta": {...}}

Places are pixels of the original picture: `box` [x1, y1, x2, y2] or `point` [x, y], `of` counts the sample's pictures
from 0. What the names of pictures mean (a path, a member of a tar, a row's own bytes) is up to who writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UserError
from ..regions import Box, Point, Region
from ..sample import Content, Image, Part, Role, Sample, Video

KEY = "parts"
"""The key by which such a row is known."""


def to_row(sample: Sample, name: Callable[[int, Image], str]) -> dict[str, Any]:
    """The row of a sample; `name` is asked for the name of each picture, by its number in the sample."""
    parts, seen = [], 0
    for part in sample.parts:
        written: dict[str, Any] = {"role": part.role.value}
        content = part.content
        if isinstance(content, str):
            written["text"] = content
        elif isinstance(content, Image):
            written["image"] = name(seen, content)
            seen += 1
        elif isinstance(content, Video):
            written["video"] = str(content.path)
        else:
            written["box" if isinstance(content.shape, Box) else "point"] = list(content.shape)
            written["of"] = content.image
            if content.label:
                written["label"] = content.label
        if part.target:
            written["target"] = True
        parts.append(written)
    row: dict[str, Any] = {"id": sample.id, KEY: parts}
    return {**row, "meta": sample.meta} if sample.meta else row


def from_row(row: Mapping[str, Any], source: str, picture: Callable[[str], Image]) -> Sample:
    """The sample of a row; `picture` opens a picture by its name. UserError says which part is wrong."""
    parts = row.get(KEY)
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{KEY!r} is a list of parts, got {parts!r:.80}")
    read = tuple(_part(number, part, picture) for number, part in enumerate(parts))
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise UserError(f"'meta' is an object, got {meta!r:.80}")
    return Sample(str(row.get("id", "")), source, read, meta)


def _part(number: int, part: Any, picture: Callable[[str], Image]) -> Part:
    try:
        return Part(_content(part, picture), Role(part["role"]), bool(part.get("target", False)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"part {number} cannot be read ({error}): {part!r:.120}") from None


def _content(part: Mapping[str, Any], picture: Callable[[str], Image]) -> Content:
    if isinstance(part.get("text"), str):
        return part["text"]
    if isinstance(part.get("image"), str):
        return picture(part["image"])
    if isinstance(part.get("video"), str):
        return Video(part["video"])
    for kind, shape in (("box", Box), ("point", Point)):
        if kind in part:
            numbers = [float(value) for value in part[kind]]
            if not all(map(math.isfinite, numbers)):
                raise ValueError("its numbers are not finite")
            return Region(shape(*numbers), int(part.get("of", 0)), str(part.get("label", "")))
    raise ValueError("it is none of text, image, video, box and point")
