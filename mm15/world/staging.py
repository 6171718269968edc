"""Scenes before anybody asks: which things there are, where they go, and the picture of them.

Things never overlap and never touch. Level 1 shows things of different shapes and colours, 25-45 % of the side large,
on a plain near-white ground; higher levels show more, smaller and more alike things, on tinted and textured grounds,
and at level 3 turned a little and on pictures that are not square. About 0.1 ms a scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as PILImage

from ..regions import Box
from ..sample import Image
from .canvas import Canvas, ground, named
from .dice import Dice
from .lexicon import COLOURS, ICONS, SHAPES
from .shapes import mask

EASY_COLOURS = tuple(COLOURS)[:8]
ALL_COLOURS = tuple(COLOURS)
_RATIOS = ((1, 1), (1, 1), (4, 3), (3, 4), (16, 9), (9, 16))
_SIZES = {1: (0.25, 0.45), 2: (0.16, 0.32), 3: (0.11, 0.22)}


@dataclass(frozen=True)
class Look:
    """What a thing is: its shape and its colour's name."""

    shape: str
    colour: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Thing:
    """A drawn thing, its tight box in pixels, and its mask (mode L, the size of the box)."""

    look: Look
    box: Box
    mask: PILImage.Image = field(repr=False, compare=False)

    @property
    def x(self) -> float:
        """Middle of the box, in pixels from the left."""
        return (self.box.x1 + self.box.x2) / 2

    @property
    def y(self) -> float:
        """Middle of the box, in pixels from the top."""
        return (self.box.y1 + self.box.y2) / 2

    def record(self, image: int = 0) -> dict[str, Any]:
        """The thing as an entry of `Draft.objects`."""
        return {"shape": self.look.shape, "colour": self.look.colour, "box": list(self.box), "image": image}


@dataclass(frozen=True)
class Scene:
    """A finished picture and its things, in the order in which they were asked for."""

    image: Image
    things: tuple[Thing, ...]
    width: int
    height: int

    def records(self, image: int = 0) -> list[dict[str, Any]]:
        """The things as entries of `Draft.objects`."""
        return [thing.record(image) for thing in self.things]


def shapes(level: int) -> tuple[str, ...]:
    """The shapes that may appear at a level."""
    return SHAPES if level == 1 else SHAPES + ICONS[: 4 if level == 2 else 8]


def colours(level: int) -> tuple[str, ...]:
    """The colours that may appear at a level."""
    return EASY_COLOURS if level == 1 else ALL_COLOURS


def count(dice: Dice, level: int) -> int:
    """How many things a scene of this level shows when its task does not say."""
    return dice.between(*{1: (1, 2), 2: (2, 4), 3: (4, 7)}[level])


def cast(dice: Dice, level: int, number: int, *, unique: str = "look") -> list[Look]:
    """`number` looks, no two equal. `unique` is what only the first may have: "look", "shape" or "colour".

    At level 1 all shapes and all colours differ. Above, half of the others share what they may with the first.
    """
    if level == 1:
        pairs = zip(dice.sample(shapes(1), number), dice.sample(colours(1), number), strict=True)
        return [Look(s, c) for s, c in pairs]
    first = Look(dice.pick(shapes(level)), dice.pick(colours(level)))
    looks = [first]
    while len(looks) < number:
        shape, colour = dice.pick(shapes(level)), dice.pick(colours(level))
        if dice.chance():
            if unique == "shape" or (unique == "look" and dice.chance()):
                colour = first.colour
            else:
                shape = first.shape
        clash = (unique == "shape" and shape == first.shape) or (unique == "colour" and colour == first.colour)
        if not clash and Look(shape, colour) not in looks:
            looks.append(Look(shape, colour))
    return looks


def frame(dice: Dice, level: int, size: int) -> tuple[int, int]:
    """Width and height of a scene: square up to level 2, of several ratios at level 3, `size` on the longer side."""
    wide, high = _RATIOS[0] if level < 3 else dice.pick(_RATIOS)
    longer = max(wide, high)
    return round(size * wide / longer), round(size * high / longer)


def stage(
    dice: Dice,
    level: int,
    size: int,
    looks: Sequence[Look],
    *,
    scale: tuple[float, float] | None = None,
    spread: float = 0.0,
) -> Scene:
    """Draw `looks` at random places that do not touch.

    scale: smallest and largest size as fractions of the root of the picture's area; things shrink when they do not
    fit. spread: least distance of the things' middles in x, as a fraction of the width, so that left to right is
    beyond doubt.
    """
    width, height = frame(dice, level, size)
    low, high = scale or _SIZES[level]
    side = math.sqrt(width * height)
    sizes = [round(side * dice.uniform(low, high)) for _ in looks]
    angles = [0 if level < 3 else 10 * dice.between(-2, 2) for _ in looks]
    while True:
        masks = [mask(look.shape, s, a) for look, s, a in zip(looks, sizes, angles, strict=True)]
        corners = _scatter(dice, [m.size for m in masks], width, height, spread * width)
        if corners is not None:
            break
        sizes = [max(5, s * 7 // 8) for s in sizes]
        spread *= 0.8
    canvas = Canvas(width, height, ground(dice, level, width, height))
    things = []
    for look, drawn, (x, y) in zip(looks, masks, corners, strict=True):
        things.append(Thing(look, canvas.stamp(drawn, x, y, named(dice, look.colour)), drawn))
    return Scene(canvas.finish(), tuple(things), width, height)


def put(dice: Dice, level: int, size: int, looks: Sequence[Look], spots: Sequence[tuple[float, float, int]]) -> Scene:
    """Draw `looks` at given middles (x and y as fractions of the side) and sizes in pixels, kept inside the picture."""
    canvas = Canvas(size, size, ground(dice, level, size, size))
    things = []
    for look, (x, y, pixels) in zip(looks, spots, strict=True):
        drawn = mask(look.shape, pixels)
        wide, high = drawn.size
        left = min(max(round(x * size - wide / 2), 1), size - wide - 1)
        top = min(max(round(y * size - high / 2), 1), size - high - 1)
        things.append(Thing(look, canvas.stamp(drawn, left, top, named(dice, look.colour)), drawn))
    return Scene(canvas.finish(), tuple(things), size, size)


def _scatter(
    dice: Dice, sizes: Sequence[tuple[int, int]], width: int, height: int, apart: float
) -> list[tuple[int, int]] | None:
    """Top left corners for boxes of these sizes, at least 3 % of the side between them; None when they do not fit."""
    gap = max(2, min(width, height) * 3 // 100)
    placed: list[tuple[int, int, int, int]] = []
    for wide, high in sizes:
        if wide + 2 > width or high + 2 > height:
            return None
        for _ in range(40):
            x, y = dice.between(1, width - wide - 1), dice.between(1, height - high - 1)
            if all(
                (x + wide + gap <= a or c + gap <= x or y + high + gap <= b or d + gap <= y)
                and abs(2 * x + wide - a - c) >= 2 * apart
                for a, b, c, d in placed
            ):
                placed.append((x, y, x + wide, y + high))
                break
        else:
            return None
    return [(x, y) for x, y, _, _ in placed]


def phrase(dice: Dice, level: int, templates: Sequence[str]) -> str:
    """The first template at level 1, any of them above."""
    return templates[0] if level == 1 else dice.pick(templates)


def article(words: str) -> str:
    """`words` after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def listing(items: Sequence[str]) -> str:
    """Items as a person lists them: "x, y and z"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
