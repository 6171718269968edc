"""Short clips: four (level 3: six) pictures of one thing that moves in a straight line, oldest first."""

from __future__ import annotations

from PIL import Image as PILImage

from ..sample import Image, document
from .canvas import Canvas, light, named
from .dice import Dice
from .shapes import mask
from .staging import Look, Thing, article, cast, phrase
from .task import Draft, Task, ask

STEPS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
_FRAMES = {1: 4, 2: 4, 3: 6}


def _path(dice: Dice, level: int, size: int, pixels: int, step: tuple[int, int], frames: int) -> list[tuple[int, int]]:
    """Middles of the thing in each frame; it stays inside and travels 40-55 % of the side (above level 1: 22-45)."""
    travel = dice.uniform(0.4, 0.55) if level == 1 else dice.uniform(0.22, 0.45)
    margin = pixels / 2 / size + 0.02
    travel = min(travel, 1 - 2 * margin)
    start = dice.uniform(margin, 1 - margin - travel)
    across = dice.uniform(margin, 1 - margin)
    points = []
    for i in range(frames):
        forward = start + travel * i / (frames - 1)
        along = forward if sum(step) > 0 else 1 - forward
        x, y = (along, across) if step[0] else (across, along)
        points.append((round(x * size), round(y * size)))
    return points


def _clip(dice: Dice, level: int, size: int, direction: str) -> tuple[list[Image], list[list[Thing]]]:
    """The frames, and the things in each: the mover first, from level 2 on also one thing that stays."""
    mover, *others = cast(dice, level, 1 if level == 1 else 2, unique="shape")
    pixels = round(size * dice.uniform(*((0.25, 0.4) if level == 1 else (0.15, 0.26))))
    drawn = mask(mover.shape, pixels)
    colour, paper = named(dice, mover.colour), light(dice, min(level, 2))
    path = _path(dice, level, size, pixels, STEPS[direction], _FRAMES[level])
    still = [(other, mask(other.shape, round(size * 0.14)), named(dice, other.colour)) for other in others]
    spot = _clear_spot(dice, size, path, pixels) if still else (0, 0)
    frames, things = [], []
    for x, y in path:
        canvas = Canvas(size, size, paper)
        seen = [_stamp(canvas, mover, drawn, (x, y), colour)]
        seen += [_stamp(canvas, look, shape, spot, tint) for look, shape, tint in still]
        frames.append(canvas.finish())
        things.append(seen)
    return frames, things


def _stamp(
    canvas: Canvas, look: Look, drawn: PILImage.Image, middle: tuple[int, int], colour: tuple[int, int, int]
) -> Thing:
    wide, high = drawn.size
    return Thing(look, canvas.stamp(drawn, middle[0] - wide // 2, middle[1] - high // 2, colour), drawn)


def _clear_spot(dice: Dice, size: int, path: list[tuple[int, int]], pixels: int) -> tuple[int, int]:
    """A middle for the thing that stays, out of the mover's way (the roomiest of some random places)."""
    low, high = round(0.1 * size), round(0.9 * size)
    spots = [(dice.between(low, high), dice.between(low, high)) for _ in range(16)]
    return max(spots, key=lambda s: min(max(abs(s[0] - x), abs(s[1] - y)) for x, y in path))


def _records(things: list[list[Thing]]) -> list[dict]:
    return [thing.record(i) for i, seen in enumerate(things) for thing in seen]


def clip_direction(dice: Dice, level: int, size: int) -> Draft:
    """Which way the thing moves."""
    direction = dice.pick(tuple(STEPS))
    frames, things = _clip(dice, level, size, direction)
    shape = things[0][0].look.shape
    templates = ("Which way does the {} move?", "In which direction does the {} go?", "Where is the {} going?")
    question = phrase(dice, level, templates).format(shape)
    return ask(frames, question, direction, objects=_records(things))


def clip_caption(dice: Dice, level: int, size: int) -> Draft:
    """A clip and a sentence about it."""
    direction = dice.pick(tuple(STEPS))
    frames, things = _clip(dice, level, size, direction)
    text = f"{article(str(things[0][0].look))} moves {direction}"
    if level > 1:
        text += f" and {article(str(things[0][1].look))} stays"
    return Draft(document(*frames, text), text, objects=_records(things))


TASKS = (
    Task("clip_direction", "multi-image", "video", "exact", "the way a thing moves in a clip", clip_direction, 1 / 4),
    Task("clip_caption", "", "video", "", "a clip and a sentence about it", clip_caption),
)
