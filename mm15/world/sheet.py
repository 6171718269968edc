"""A contact sheet: pictures with their questions, answers and true boxes, for people to look at.

contact_sheet(["ground", "form_field"], 6).save("sheet.png")
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from ..regions import Region
from ..sample import Image, Role, Sample
from .canvas import BOLD, PLAIN, font
from .tasks import make

_CELL = 160
_LINE = 13


def contact_sheet(
    kinds: Sequence[str], n: int = 6, *, level: int = 1, size: int = 128, seed: int = 0, split: str = "train"
) -> PILImage.Image:
    """One row of `n` samples for each task of `kinds`, boxes in green, given points and boxes in magenta."""
    rows = []
    for kind in kinds:
        cells = [_cell(make(kind, i, seed=seed, level=level, size=size, split=split)) for i in range(n)]
        rows.append(_row(f"{kind}  (level {level})", cells))
    sheet = PILImage.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(title: str, cells: Sequence[PILImage.Image]) -> PILImage.Image:
    row = PILImage.new("RGB", (sum(c.width for c in cells), 18 + max(c.height for c in cells)), "white")
    ImageDraw.Draw(row).text((4, 2), title, fill="black", font=font(BOLD, 12))
    left = 0
    for cell in cells:
        row.paste(cell, (left, 18))
        left += cell.width
    return row


def _cell(sample: Sample) -> PILImage.Image:
    pictures = _framed(sample)
    wide = max(_CELL, sum(p.width + 4 for p in pictures) + 4)
    lines = [line for text in _texts(sample) for line in textwrap.wrap(text, wide // 6) or [""]]
    high = max((p.height for p in pictures), default=0)
    cell = PILImage.new("RGB", (wide, high + 8 + _LINE * len(lines) + 6), "white")
    left = 2
    for picture in pictures:
        cell.paste(picture, (left, 2))
        left += picture.width + 4
    draw = ImageDraw.Draw(cell)
    for i, line in enumerate(lines):
        draw.text((3, high + 5 + _LINE * i), line, fill="black", font=font(PLAIN, 10))
    return cell


def _framed(sample: Sample) -> list[PILImage.Image]:
    """The pictures of a sample with a thin frame and its regions drawn."""
    given = [
        (p.content, "magenta" if p.role is Role.USER else "lime") for p in sample.parts if isinstance(p.content, Region)
    ]
    pictures = []
    for number, image in enumerate(sample.images):
        array = image.data
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a picture of the world is an array, got {type(array).__name__} in {sample.id}")
        picture = PILImage.fromarray(array)
        draw = ImageDraw.Draw(picture)
        for region, colour in given:
            if region.image == number:
                _mark(draw, region, colour)
        if not any(colour == "lime" for _, colour in given):
            boxes = sample.meta["boxes"]
            homes = sample.meta.get("box_images", [0] * len(boxes))
            for (x1, y1, x2, y2), home in zip(boxes, homes, strict=True):
                if home == number:
                    draw.rectangle((x1 - 1, y1 - 1, x2, y2), outline="lime")
        framed = PILImage.new("RGB", (picture.width + 2, picture.height + 2), "gray")
        framed.paste(picture, (1, 1))
        pictures.append(framed)
    return pictures


def _mark(draw: ImageDraw.ImageDraw, region: Region, colour: str) -> None:
    corners = list(region.shape)
    if len(corners) == 4:
        draw.rectangle((corners[0] - 1, corners[1] - 1, corners[2], corners[3]), outline=colour)
    else:
        x, y = corners
        draw.line((x - 4, y, x + 4, y), fill=colour)
        draw.line((x, y - 4, x, y + 4), fill=colour)


def _texts(sample: Sample) -> list[str]:
    """The turns of a sample as lines of text: pictures as <1>, regions as [x1 y1 x2 y2] in pixels."""
    lines: list[str] = []
    role: Role | None = None
    picture = 0
    for part in sample.parts:
        if part.role is not role:
            lines.append({Role.USER: "Q: ", Role.ASSISTANT: "A: ", Role.DOCUMENT: "", Role.SYSTEM: "S: "}[part.role])
            role = part.role
        if isinstance(part.content, Image):
            picture += 1
            lines[-1] += f"<{picture}> "
        elif isinstance(part.content, Region):
            lines[-1] += f"[{' '.join(f'{v:g}' for v in part.content.shape)}]"
        else:
            lines[-1] += str(part.content).replace("\n", " / ")
    return lines
