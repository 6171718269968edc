"""One sample for people: its parts as lines, and its pictures with the places it speaks of.

part 2  assistant  *  box 12, 30, 64.5, 90 of picture 0  "the red mug"          * is trained on
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..image import open_picture, picture_size
from ..regions import Box, Region
from ..sample import Image, Part, Sample, Video
from .sources import SourceData

if TYPE_CHECKING:
    from PIL import Image as PILImage

MANY = 30
"""Above so many regions on a picture they are drawn thin and without labels: these would cover it."""


def sample_at(source: SourceData, index: int) -> Sample:
    """Sample `index`; UserError when there is none of this number, or it cannot be used."""
    if not 0 <= index < len(source):
        raise UserError(f"source {source.name!r} has samples 0 to {len(source) - 1:,}; there is none of number {index}")
    return source[index]


def describe_sample(sample: Sample) -> dict[str, Any]:
    """The sample as plain JSON data: its parts in order; places in pixels of the original picture."""
    parts, seen = [], 0
    for part in sample.parts:
        parts.append({"role": part.role.value, "target": part.target, **_content(part, sample, seen)})
        seen += isinstance(part.content, Image)
    return {"id": sample.id, "source": sample.source, "parts": parts}


def _content(part: Part, sample: Sample, seen: int) -> dict[str, Any]:
    content = part.content
    if isinstance(content, Image):
        where = f"sample {sample.id!r} of {sample.source!r}"
        named = {} if isinstance(content.data, bytes) or not isinstance(content.data, str) else {"path": content.data}
        return {"picture": seen, "size": list(picture_size(content, where=where)), **named}
    if isinstance(content, Video):
        return {"video": str(content.path)}
    if isinstance(content, Region):
        kind = "box" if isinstance(content.shape, Box) else "point"
        return {kind: [round(v, 2) for v in content.shape], "of_picture": content.image, "label": content.label}
    return {"text": content}


def read_sample(told: dict[str, Any]) -> str:
    """What `describe_sample` gives, in lines."""
    lines = [f"{told['source']}: sample {told['id']!r} (* is trained on; places in pixels of the picture)"]
    wide = max((len(part["role"]) for part in told["parts"]), default=0)
    for part in told["parts"]:
        mark = "*" if part["target"] else " "
        first, *rest = _line(part).split("\n")
        lines.append(f"{part['role']:{wide}} {mark} {first}")
        lines += [f"{'':{wide}}   {line}" for line in rest]
    return "\n".join(lines)


def _line(part: dict[str, Any]) -> str:
    if "text" in part:
        return part["text"]
    if "picture" in part:
        width, height = part["size"]
        return f"<picture {part['picture']}> {width}x{height}" + (f" {part['path']}" if "path" in part else "")
    if "video" in part:
        return f"<video> {part['video']}"
    kind = "box" if "box" in part else "point"
    numbers = ", ".join(f"{value:g}" for value in part[kind])
    return f"<{kind}> {numbers} of picture {part['of_picture']}" + (f'  "{part["label"]}"' if part["label"] else "")


def draw_sample(sample: Sample) -> PILImage.Image:
    """All pictures of a sample side by side, each with its regions. UserError when it has none."""
    from ..image.marking import PALETTE, Pen, draw_regions, strip

    where = f"sample {sample.id!r} of {sample.source!r}"
    if not sample.images:
        raise UserError(f"{where} has no pictures to draw")
    regions = [part.content for part in sample.parts if isinstance(part.content, Region)]
    drawn = []
    for number, image in enumerate(sample.images):
        own = [region for region in regions if region.image == number]
        many = len(own) > MANY
        pens = [Pen(PALETTE[i % len(PALETTE)], 0.5) for i in range(len(own))] if many else None
        drawn.append(draw_regions(open_picture(image, where=where), own, pens=pens, labels=not many))
    return strip(drawn)
