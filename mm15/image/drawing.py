"""A figure of a picture's pieces: the tiles side by side, numbered as the model reads them, and the overview.

What is drawn is what `cut` returns, so a figure shows how little of a page survives in an overview of 64 pixels. Only
the padding is drawn otherwise: hatched, where the model sees plain grey, so that it cannot be taken for picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from .anyres import Layout
from .tiles import cut, spread

_MARGIN, _GUTTER, _SPACE, _HEAD = 28, 4, 36, 92
_WIDEST, _TALLEST, _LARGEST = 1240, 880, 440
"""Pixels: width and height the tiles and the overview may take together, and the largest side of a drawn tile."""
_INK, _SOFT, _ACCENT, _PAPER = "#1b1f24", "#57606a", "#0b5cad", "#ffffff"
_SHEET, _CROSS = "#dbe9f6", "#8fb8de"
_HATCH_23 = np.array([(226, 230, 235), (206, 212, 220)], dtype=np.uint8)


def draw_grid(picture: PILImage.Image | None, layout: Layout) -> PILImage.Image:
    """The figure, RGB, about a thousand pixels wide; `picture` is what `cut` takes.

    Without a picture, when only a size is known, a sheet with a cross stands for it.
    """
    tiles_N3TT = cut(picture, layout) if picture is not None else spread(_blank(layout), layout)
    beside = layout.grid.cols <= 2 * layout.grid.rows
    side = _side(layout, beside)
    step = side + _GUTTER
    width, height = layout.grid.cols * step - _GUTTER, layout.grid.rows * step - _GUTTER
    overview = layout.overview_piece
    small = 0 if overview is None else min(max(side, 140), 300)
    corner = (_MARGIN + width + _SPACE, _HEAD) if beside else (_MARGIN, _HEAD + height + _SPACE)
    if overview is not None:
        width, height = max(width, corner[0] + small - _MARGIN), max(height, corner[1] + small + 28 - _HEAD)
    page = _page(layout, width, height)
    draw = ImageDraw.Draw(page)
    for number, piece in enumerate(layout.pieces):
        is_overview = number == overview
        at = corner if is_overview else (_MARGIN + piece.col * step, _HEAD + piece.row * step)
        page.paste(_piece(tiles_N3TT[number], layout, number, small if is_overview else side), at)
        _badge(draw, at, small if is_overview else side, str(number + 1))
    if overview is not None:
        draw.text((corner[0], corner[1] + small + 6), "overview", font=ImageFont.load_default(17), fill=_SOFT)
    return page


def _side(layout: Layout, beside: bool) -> int:
    """Pixels on a side of a drawn tile, with the overview beside the tiles or below them."""
    across = (_WIDEST - (336 if beside else 0)) // layout.grid.cols
    down = (_TALLEST - (0 if beside else 360)) // layout.grid.rows
    return max(4, min(across, down, _LARGEST) - _GUTTER)


def _piece(tile_3TT: np.ndarray, layout: Layout, number: int, side: int) -> PILImage.Image:
    """One piece, `side` pixels wide: its content over a hatched ground, with a frame."""
    stripes_SS = (np.arange(side)[:, None] + np.arange(side)[None, :]) // 7 % 2
    drawn = PILImage.fromarray(_HATCH_23[stripes_SS])
    content = layout.content_box(number)
    if content.area:
        pixels = PILImage.fromarray(tile_3TT[:, : int(content.y2), : int(content.x2)].transpose(1, 2, 0).copy())
        across, down = (max(1, round(length * side / layout.tile)) for length in pixels.size)
        drawn.paste(pixels.resize((across, down), PILImage.Resampling.BICUBIC), (0, 0))
    ImageDraw.Draw(drawn).rectangle((0, 0, side - 1, side - 1), outline=_ACCENT, width=1 if side < 60 else 2)
    return drawn


def _badge(draw: ImageDraw.ImageDraw, at: tuple[int, int], side: int, text: str) -> None:
    """The number of a piece in its top left corner; none where it would hide the piece."""
    if side < 30:
        return
    size = max(10, min(side // 10, 17))
    font = ImageFont.load_default(size)
    width, height = round(max(draw.textlength(text, font=font) + size * 0.8, size * 1.5)), round(size * 1.45)
    draw.rectangle((at[0], at[1], at[0] + width, at[1] + height), fill=_ACCENT)
    draw.text((at[0] + (width + 1) / 2, at[1] + height / 2), text, font=font, fill=_PAPER, anchor="mm")


def _blank(layout: Layout) -> PILImage.Image:
    """A sheet of the picture's proportions with a cross, so that one sees which part of it each tile gets."""
    width, height = layout.resized
    thick = max(1, layout.tile // 80)
    sheet = PILImage.new("RGB", (width, height), _SHEET)
    draw = ImageDraw.Draw(sheet)
    for line in ((0, 0, width - 1, height - 1), (0, height - 1, width - 1, 0)):
        draw.line(line, fill=_CROSS, width=thick)
    draw.rectangle((0, 0, width - 1, height - 1), outline=_CROSS, width=thick)
    return sheet


def _page(layout: Layout, width: int, height: int) -> PILImage.Image:
    """White paper with room for `width` x `height` pixels below two lines that say what happened."""
    tiles = "1 tile" if layout.grid.tiles == 1 else f"{layout.grid.rows}x{layout.grid.cols} tiles"
    overview = "" if layout.overview_piece is None else f" + overview = {layout.n_tiles} images"
    title = f"{layout.width}x{layout.height} pixels: {tiles} of {layout.tile}{overview}"
    how = "down" if layout.downscaled else "up"
    scaled = f"scaled {how} by {layout.scale:.3g} to {layout.resized[0]}x{layout.resized[1]}"
    if layout.resized == (layout.width, layout.height):
        scaled = "not scaled"
    subtitle = f"rule {layout.rule}, {scaled}, {layout.padding:.0%} padding"
    large, small = ImageFont.load_default(22), ImageFont.load_default(17)
    width = max(width, round(large.getlength(title)), round(small.getlength(subtitle)))
    page = PILImage.new("RGB", (width + 2 * _MARGIN, _HEAD + height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 4), title, font=large, fill=_INK)
    draw.text((_MARGIN, _MARGIN + 26), subtitle, font=small, fill=_SOFT)
    return page
