"""How text stands in a picture: blocks in a plane, and the plane in the picture.

A plane holds one block or several, which never touch. `geometry` moves it by one projective map into a picture that is
made as large as the moved text needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ...regions import Box
from ...world.dice import Dice
from ..fonts import Face, runs_left
from .distort import Distortion, hull, perspective, scale, shear, shift, turn
from .passages import Word, join
from .typeset import Align, Block, Style, set_block

SMALLEST = 14
"""Pixels of the smallest font."""


class Layout(StrEnum):
    """How text stands in a picture."""

    LINE = "line"
    PARAGRAPH = "paragraph"
    ROTATED = "rotated"
    BLOCKS = "blocks"


@dataclass(frozen=True)
class Plane:
    """Blocks with where their top left corner is, before anything is moved."""

    blocks: tuple[tuple[Block, int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return (
            max(x + block.mask.width for block, x, _ in self.blocks),
            max(y + block.mask.height for block, _, y in self.blocks),
        )


def set_plane(dice: Dice, pieces: list[Word], faces: list[Face], layout: Layout, size: int) -> Plane | None:
    """The words set by a layout, from the first on and as far as there is room; smaller where a word is too wide."""
    room = int(size * 0.9)
    if layout is Layout.LINE or (layout is Layout.ROTATED and dice.chance(0.4)):
        start = dice.below(max(1, len(pieces) - 4))
        style = Style(faces[0], _font_size(dice, SMALLEST + 2, size * 0.09))
        some = pieces[start : start + dice.between(1, 8)]
        block = _fitting(some, style, int(room * dice.uniform(0.5, 1)), 10**6, most=1)
        return None if block is None else Plane(((block, 0, 0),))
    if layout is not Layout.BLOCKS:
        style = _paragraph(dice, faces[0], size * 0.045)
        block = _fitting(pieces, style, int(room * dice.uniform(0.4, 1)), int(room * 0.9))
        return None if block is None else Plane(((block, 0, 0),))
    return _set_blocks(dice, pieces, faces, room)


def _set_blocks(dice: Dice, pieces: list[Word], faces: list[Face], room: int) -> Plane | None:
    """Two to four blocks below each other or, in scripts that run to the right, in rows of two."""
    number = min(dice.between(2, 4), len(pieces))
    cuts = [0, *sorted(dice.sample(range(1, len(pieces)), number - 1)), len(pieces)]
    rows_of = 2 if number > 2 and dice.chance() and not any(runs_left(piece.text) for piece in pieces) else 1
    gap = dice.between(room // 40, room // 14)
    placed: list[tuple[Block, int, int]] = []
    top = right = bottom = 0
    for i in range(number):
        if i % rows_of == 0:
            top, right = (bottom + gap if placed else 0), 0
        width = (room - gap) // rows_of
        height = (room * 9 // 10 - top) if rows_of == 1 else room // 2 - gap
        style = _paragraph(dice, dice.pick(faces), room * 0.05)
        block = _fitting(pieces[cuts[i] : cuts[i + 1]], style, width, height // (1 if rows_of == 2 else 2))
        if block is None:
            break
        x = right + (dice.below(max(1, (width - block.mask.width) // 2)) if rows_of == 1 else 0)
        placed.append((block, x, top))
        right, bottom = x + block.mask.width + gap, max(bottom, top + block.mask.height)
    return Plane(tuple(placed)) if placed else None


def _paragraph(dice: Dice, face: Face, largest: float) -> Style:
    aligns: tuple[Align, ...] = ("left", "left", "centre", "right")
    return Style(face, _font_size(dice, SMALLEST, largest), dice.uniform(1.0, 1.5), dice.pick(aligns))


def _font_size(dice: Dice, smallest: int, largest: float) -> int:
    """Small ones as often as large ones, by ratio."""
    return round(smallest * (max(largest, smallest) / smallest) ** dice.uniform(0, 1))


def _fitting(pieces: list[Word], style: Style, width: int, height: int, *, most: int = 1000) -> Block | None:
    """The block in this style, or in smaller letters where its first word is too wide; at most `most` lines."""
    size = style.size
    while size >= SMALLEST:
        block = set_block(pieces, Style(style.face, size, style.pitch, style.align), width=width, height=height)
        if block is not None and len(block.lines) > most:
            block = set_block(pieces[: _words_in(pieces, block)], block.style, width=width, height=height)
        if block is not None:
            return block
        size = min(size - 1, round(size * 0.8))
    return None


def _words_in(pieces: list[Word], block: Block) -> int:
    """How many words the first line of the block has."""
    return next(n for n in range(1, len(pieces) + 1) if join(pieces[:n]) == block.lines[0].text)


def geometry(
    dice: Dice, plane: Plane, layout: Layout, distortions: tuple[Distortion, ...], longest: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """(the map from plane to picture, the picture's size): all text inside, with a margin."""
    matrix = np.eye(3)
    if Distortion.PERSPECTIVE in distortions:
        matrix = perspective(dice, *plane.size) @ matrix
    if Distortion.SHEAR in distortions:
        matrix = shear(dice) @ matrix
    if layout is Layout.ROTATED:
        matrix = turn(dice.pick((90, -90, 180)) if dice.chance(0.25) else dice.uniform(-35, 35)) @ matrix
    boxes = [Box(x, y, x + block.mask.width, y + block.mask.height) for block, x, y in plane.blocks]
    area = hull(boxes, matrix)
    margins = [round(longest * dice.uniform(0.005, 0.045)) + 4 for _ in range(4)]
    smaller = min(
        1.0,
        (longest - margins[0] - margins[2] - 1) / (area.x2 - area.x1),
        (longest - margins[1] - margins[3] - 1) / (area.y2 - area.y1),
    )
    if smaller < 1:
        matrix = scale(smaller) @ matrix
        area = hull(boxes, matrix)
    matrix = shift(np.ceil(margins[0] - area.x1), np.ceil(margins[1] - area.y1)) @ matrix
    area = hull(boxes, matrix)
    return matrix, (int(np.ceil(area.x2)) + margins[2], int(np.ceil(area.y2)) + margins[3])
