"""Words to lines to blocks: grey masks with the exact box of every line's ink.

A block is a mask (mode L: 255 where there is ink) and its lines, whose boxes are where their ink is, to the pixel.
Every line is drawn by itself, in its own direction, so that what stands in it is known whatever the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image as PILImage
from PIL import ImageChops, ImageDraw, ImageFont

from ...regions import Box
from ..fonts import Face, has_raqm, load, runs_left
from .passages import Word, join

Align = Literal["left", "centre", "right"]


@dataclass(frozen=True)
class Style:
    """How a block is set: face, size in pixels, line pitch as a multiple of the font's own, alignment."""

    face: Face
    size: int
    pitch: float = 1.1
    align: Align = "left"


@dataclass(frozen=True)
class Line:
    """A line's text and the box of its ink."""

    text: str
    box: Box


@dataclass(frozen=True)
class Block:
    """A mask (mode L), its lines in pixels of the mask, and how many of the words it holds."""

    mask: PILImage.Image
    lines: tuple[Line, ...]
    used: int
    style: Style


def set_block(pieces: Sequence[Word], style: Style, *, width: int, height: int) -> Block | None:
    """As many of the words as fit into `width` x `height` pixels, from the first on; None when not even one does."""
    font = load(style.face, style.size)
    broken = _break(pieces, font, width)
    drawn, pitch = [], sum(font.getmetrics()) * style.pitch
    for number, line in enumerate(broken):
        text = join(line)
        mask, top = _draw(text, font)
        if mask.width > width or number * pitch + top + mask.height > height:
            break
        drawn.append((text, mask, round(number * pitch) + top, len(line)))
    if not drawn:
        return None
    widest = max(mask.width for _, mask, _, _ in drawn)
    bottom = max(top + mask.height for _, mask, top, _ in drawn)
    whole = PILImage.new("L", (widest, bottom), 0)
    lines = []
    for text, mask, top, _ in drawn:
        align = "right" if style.align == "left" and runs_left(text) else style.align
        left = {"left": 0, "centre": (widest - mask.width) // 2, "right": widest - mask.width}[align]
        place = (left, top, left + mask.width, top + mask.height)
        whole.paste(ImageChops.lighter(mask, whole.crop(place)), place)
        lines.append(Line(text, Box(*place)))
    return Block(whole, tuple(lines), sum(used for *_, used in drawn), style)


def _break(pieces: Sequence[Word], font: ImageFont.FreeTypeFont, width: int) -> list[list[Word]]:
    """Lines filled one after the other; a word that is wider than a line stands alone."""
    lines: list[list[Word]] = []
    for piece in pieces:
        if lines and font.getlength(join([*lines[-1], piece])) <= width:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return lines


def _draw(text: str, font: ImageFont.FreeTypeFont) -> tuple[PILImage.Image, int]:
    """(the ink of one line, cut to where it is; how far below the top of the line it begins)."""
    direction = ("rtl" if runs_left(text) else "ltr") if has_raqm() else None
    x1, y1, x2, y2 = font.getbbox(text, direction=direction)
    room = int(font.size)  # swashes reach beyond the box
    canvas = PILImage.new("L", (int(x2 - x1 + 2 * room), int(y2 - y1 + 2 * room)), 0)
    ImageDraw.Draw(canvas).text((room - int(x1), room - int(y1)), text, fill=255, font=font, direction=direction)
    ink = canvas.getbbox()
    assert ink is not None, f"{text!r} has no ink"
    return canvas.crop(ink), max(0, int(y1) + ink[1] - room)
