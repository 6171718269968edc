"""Drawing places on a picture: boxes with labels, points as rings, readable on any ground and at any size.

Lines and letters grow with the picture; small pictures are enlarged first by a whole factor, pixels kept. Lines have
white edges, so that they show on their own colour too. A label stands outside its box where there is room, and not on
another label. Nothing is changed in place.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..regions import Box, Point, Region, Shape

PALETTE = ("#e8590c", "#1c7ed6", "#2b8a3e", "#c2255c", "#7048e8", "#0b7285", "#f08c00", "#495057")
"""Colours of the regions in turn, when none are given."""
SMALL = 448
"""Pictures whose longer side is below this many pixels are enlarged to at least it."""
LONGEST_LABEL = 40


@dataclass(frozen=True)
class Pen:
    """How a region is drawn: its colour, and its width relative to the picture's usual one."""

    colour: str
    weight: float = 1.0


TRUE, PREDICTED = Pen("#1c7ed6", 2.6), Pen("#f76707", 1.2)
"""What should have been pointed at (blue, wide, drawn first) and what was (orange, on top)."""

_Rect = tuple[float, float, float, float]


def draw_regions(
    picture: Image.Image, regions: Sequence[Region], *, pens: Pen | Sequence[Pen] | None = None, labels: bool = True
) -> Image.Image:
    """A copy of the picture (RGB) with the regions drawn on it in their order.

    Regions are in pixels of `picture`, whatever their `image`; parts outside are cut off. `pens` is one for all or one
    each. A copy of a small picture is larger than the picture, by `enlargement(picture.size)`.
    """
    factor = enlargement(picture.size)
    canvas = picture.convert("RGB")
    if factor > 1:
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    unit = _unit(canvas.size, [region.shape for region in regions], factor)
    marks = list(zip(regions, _pens(pens, len(regions)), strict=True))
    for region, pen in marks:
        width = max(2, round(1.4 * unit * pen.weight))
        shape = [value * factor for value in region.shape]
        _ring(draw, shape, width, pen.colour) if isinstance(region.shape, Point) else _box(
            draw, shape, width, pen.colour
        )
    taken: list[_Rect] = []
    for region, pen in marks if labels else ():
        if region.label:
            _label(draw, canvas.size, region, factor=factor, unit=unit, colour=pen.colour, taken=taken)
    return canvas


def _unit(size: tuple[int, int], shapes: Sequence[Shape], factor: int) -> float:
    """What lines and letters are measured in: a share of the picture, less where boxes are low (words of a page)."""
    heights = [(shape.y2 - shape.y1) * factor for shape in shapes if isinstance(shape, Box)]
    whole = math.sqrt(size[0] * size[1]) / 270
    return min(whole, max(1.6, statistics.median(heights) / 7)) if heights else whole


def enlargement(size: tuple[int, int]) -> int:
    """The whole factor by which a picture of this size is enlarged before drawing."""
    return -(-SMALL // max(size)) if max(size) < SMALL else 1


def strip(pictures: Sequence[Image.Image], *, gap: int = 8, ground: str = "white") -> Image.Image:
    """Pictures side by side from the left, tops in line."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)), ground)
    x = 0
    for picture in pictures:
        joined.paste(picture, (x, 0))
        x += picture.width + gap
    return joined


def _pens(pens: Pen | Sequence[Pen] | None, n: int) -> list[Pen]:
    if pens is None:
        return [Pen(PALETTE[i % len(PALETTE)]) for i in range(n)]
    return [pens] * n if isinstance(pens, Pen) else list(pens)


def _box(draw: ImageDraw.ImageDraw, shape: Sequence[float], width: int, colour: str) -> None:
    """The line lies outside the box, as far as the picture goes, so that what is inside stays visible."""
    x1, y1, x2, y2 = shape
    limit_x, limit_y = draw.im.size
    edge = max(1, width // 3)
    for grow, line, paint in ((width + edge, width + 2 * edge, "white"), (width, width, colour)):
        outer = (
            max(x1 - grow, 0),
            max(y1 - grow, 0),
            min(x2 + grow, limit_x) - 1,
            min(y2 + grow, limit_y) - 1,
        )
        if outer[2] > outer[0] and outer[3] > outer[1]:
            draw.rectangle(outer, outline=paint, width=line)


def _ring(draw: ImageDraw.ImageDraw, shape: Sequence[float], width: int, colour: str) -> None:
    x, y = shape
    radius = max(7, 4 * width)
    edge = max(1, width // 3)
    for r, line, paint in ((radius + edge, width + 2 * edge, "white"), (radius, width, colour)):
        draw.ellipse((x - r, y - r, x + r, y + r), outline=paint, width=line)
    for spot, paint in ((width / 2 + edge, "white"), (width / 2, colour)):
        draw.ellipse((x - spot, y - spot, x + spot, y + spot), fill=paint)


def _label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    region: Region,
    *,
    factor: int,
    unit: float,
    colour: str,
    taken: list[_Rect],
) -> None:
    text = region.label if len(region.label) <= LONGEST_LABEL else region.label[: LONGEST_LABEL - 1] + "…"
    letters, pad = max(13, round(7.5 * unit)), max(3, round(2 * unit))
    font = _font(letters)
    left, _, right, _ = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 2 * pad, letters * 1.25 + pad
    x, y = _spot(_extent(region, factor, unit), (wide, high), size, taken, gap=round(unit) + 1)
    taken.append((x, y, x + wide, y + high))
    rectangle, edge = (x, y, x + wide, y + high), max(1, round(unit / 3))
    draw.rounded_rectangle(rectangle, radius=pad, fill=colour, outline="white", width=edge)
    draw.text((x + pad - left, y + high / 2), text, font=font, fill=_ink(colour), anchor="lm")


def _extent(region: Region, factor: int, unit: float) -> _Rect:
    """What a region covers on the canvas, a ring included."""
    if isinstance(region.shape, Box):
        x1, y1, x2, y2 = (value * factor for value in region.shape)
        return x1, y1, x2, y2
    x, y = (value * factor for value in region.shape)
    radius = max(7, 4 * round(1.4 * unit))
    return x - radius, y - radius, x + radius, y + radius


def _spot(
    around: _Rect, label: tuple[float, float], size: tuple[int, int], taken: Sequence[_Rect], *, gap: int
) -> tuple[float, float]:
    """Where the label goes: above, below, right or left of the region or inside it, the first that is free."""
    x1, y1, x2, y2 = around
    wide, high = label
    places = [
        (x1, y1 - high - gap),
        (x1, y2 + gap),
        (x2 + gap, y1),
        (x1 - wide - gap, y1),
        (x1 + gap, y1 + gap),
        (x1 + gap, y2 - high - gap),
    ]
    fits = [p for p in places if p[0] >= 0 and p[1] >= 0 and p[0] + wide <= size[0] and p[1] + high <= size[1]]
    free = [p for p in fits if not any(_touch((*p, p[0] + wide, p[1] + high), other) for other in taken)]
    x, y = (free or fits or places)[0]
    return max(0.0, min(x, size[0] - wide - 1)), max(0.0, min(y, size[1] - high - 1))


def _touch(a: _Rect, b: _Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink(colour: str) -> str:
    """Black or white, whichever reads better on the colour."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 160 else "white"


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib ships it (it has far more letters), else Pillow's own."""
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
