"""Where pictures are drawn: a canvas that gives back the exact box of everything put on it, and the world's fonts.

Shapes and words are stamped from cached masks at whole pixels, so a box is known without looking at the picture and is
tight to the ink. Fonts are DejaVu and STIX as matplotlib ships them (found without importing it), else Pillow's own;
text is laid out by Pillow's basic engine, which does the same everywhere. A stamp costs 5-10 us, a new word about 100.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from ..regions import Box
from ..sample import Image
from .dice import Dice
from .lexicon import COLOURS
from .shapes import ink_box

Colour = tuple[int, int, int]
BOLD = "DejaVuSans-Bold"
PLAIN = "DejaVuSans"
FONTS = (
    BOLD,
    PLAIN,
    "DejaVuSerif-Bold",
    "DejaVuSerif",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono",
    "STIXGeneralBol",
    "STIXGeneral",
)
_INK = 40  # of 255: coverage from which a pixel belongs to a word


@lru_cache(maxsize=1)
def _font_folder() -> Path | None:
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    return folder if folder.is_dir() else None


@lru_cache(maxsize=1024)
def font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font `name` at `size` pixels to the em; Pillow's own font where matplotlib's are not installed."""
    folder = _font_folder()
    path = None if folder is None else folder / f"{name}.ttf"
    if path is None or not path.is_file():
        return ImageFont.load_default(size)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Word:
    """A rendered word: its mask (mode L, cut to its ink) and where the ink lies from the pen at the line's top left."""

    mask: PILImage.Image
    dx: int
    dy: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the ink in pixels."""
        return self.mask.size


@lru_cache(maxsize=16384)
def word(text: str, name: str, size: int) -> Word:
    """`text` in one line of the font `name` at `size` pixels."""
    pad = 2 + size // 4
    wide = int(_length(text, name) * size * 1.05) + 2 * pad
    image = PILImage.new("L", (wide, size * 3 // 2 + 2 * pad))
    ImageDraw.Draw(image).text((pad, pad), text, fill=255, font=font(name, size))
    box = ink_box(image, _INK)
    return Word(image.crop(box), box[0] - pad, box[1] - pad)


@lru_cache(maxsize=1024)
def ascent(name: str, size: int) -> int:
    """Pixels from a line's top to its base line."""
    face = font(name, size)
    return face.getmetrics()[0] if isinstance(face, ImageFont.FreeTypeFont) else size


@lru_cache(maxsize=2048)
def _advance(letter: str, name: str) -> float:
    return font(name, 64).getlength(letter) / 64


def _length(text: str, name: str) -> float:
    """How far the pen moves over `text`, in ems, kerning left out."""
    return sum(_advance(letter, name) for letter in text)


def fit(text: str, name: str, size: int, width: int) -> int:
    """The size, at most `size` and at least 5, at which `text` surely is at most `width` pixels wide (if any is)."""
    return max(5, min(size, int(0.97 * width / max(_length(text, name), 0.1))))


class Canvas:
    """A picture being drawn. Coordinates are pixels, x to the right, y down; boxes end where the next pixel begins."""

    __slots__ = ("_draw", "height", "image", "width")

    def __init__(self, width: int, height: int, paper: Colour | PILImage.Image) -> None:
        self.width, self.height = width, height
        self.image = PILImage.new("RGB", (width, height), paper) if isinstance(paper, tuple) else paper
        self._draw: ImageDraw.ImageDraw | None = None

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """Pillow's drawing object of this picture."""
        if self._draw is None:
            self._draw = ImageDraw.Draw(self.image)
        return self._draw

    def stamp(self, mask: PILImage.Image, x: int, y: int, colour: Colour) -> Box:
        """Paint `colour` through a mask whose top left pixel lies at (x, y)."""
        width, height = mask.size
        self.image.paste(colour, (x, y, x + width, y + height), mask)
        return Box(x, y, x + width, y + height)

    def write(self, text: str, x: int, y: int, *, size: int, colour: Colour, name: str = PLAIN) -> Box:
        """Write one line with the pen at its top left (x, y); the box is the ink's."""
        drawn = word(text, name, size)
        return self.stamp(drawn.mask, x + drawn.dx, y + drawn.dy, colour)

    def write_at(self, text: str, x: int, y: int, *, size: int, colour: Colour, name: str = PLAIN) -> Box:
        """Write one line whose ink has its top left pixel at (x, y)."""
        return self.stamp(word(text, name, size).mask, x, y, colour)

    def write_centred(self, text: str, box: Box, *, size: int, colour: Colour, name: str = PLAIN) -> Box:
        """Write one line in the middle of `box`: its ink across, its small letters and digits (nearly) down."""
        drawn = word(text, name, size)
        x = round((box.x1 + box.x2 - drawn.size[0]) / 2)
        y = round((box.y1 + box.y2) / 2 - 0.62 * ascent(name, size))
        return self.stamp(drawn.mask, x, y + drawn.dy, colour)

    def rectangle(
        self,
        box: Box,
        *,
        fill: Colour | None = None,
        outline: Colour | None = None,
        width: int = 1,
        radius: int = 0,
    ) -> Box:
        """A rectangle that fills whole pixels from box.x1, box.y1 up to but not including box.x2, box.y2."""
        corners = (int(box.x1), int(box.y1), int(box.x2) - 1, int(box.y2) - 1)
        if radius:
            self.draw.rounded_rectangle(corners, radius, fill=fill, outline=outline, width=width)
        else:
            self.draw.rectangle(corners, fill=fill, outline=outline, width=width)
        return box

    def line(self, x1: int, y1: int, x2: int, y2: int, colour: Colour, width: int = 1) -> None:
        """A straight line between two pixels."""
        self.draw.line((x1, y1, x2, y2), fill=colour, width=width)

    def finish(self) -> Image:
        """The picture as a uint8 array [height, width, 3] of its own."""
        return Image(np.array(self.image))


def jitter(dice: Dice, colour: Colour, amount: int = 12) -> Colour:
    """A colour within `amount` of `colour` in each channel."""
    r, g, b = (min(255, max(0, c + dice.between(-amount, amount))) for c in colour)
    return r, g, b


def named(dice: Dice, name: str) -> Colour:
    """A shade of one of the world's named colours."""
    return jitter(dice, COLOURS[name])


def light(dice: Dice, level: int = 1) -> Colour:
    """A background: near white at level 1, a pale tint above."""
    low = 236 if level == 1 else 208
    return dice.between(low, 255), dice.between(low, 255), dice.between(low, 255)


def dark(dice: Dice) -> Colour:
    """A colour for text on a light ground."""
    return dice.between(0, 70), dice.between(0, 70), dice.between(0, 70)


@lru_cache(maxsize=256)
def _texture(number: int, width: int, height: int) -> np.ndarray:
    """One of a few fixed textures, uint8 [height, width]: slopes, waves, grain."""
    bits = np.random.PCG64(np.random.SeedSequence([0x7E87, number]))
    a, b, c = (bits.random_raw(3) >> 40) / 2.0**24
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    kind = number % 3
    if kind == 0:
        field = (a * 2 - 1) * (x - 0.5) * 2 + (b * 2 - 1) * (y - 0.5) * 2
    elif kind == 1:
        field = np.sin((4 + 10 * a) * x + c * 6) * np.cos((4 + 10 * b) * y)
    else:
        grain = (bits.random_raw(width * height) >> 40) / 2.0**23 - 1
        field = 0.5 * grain.reshape(height, width) + (a - 0.5) * x + (b - 0.5) * y
    return (127.5 + 127 * np.clip(field, -1, 1)).astype(np.uint8)


def ground(dice: Dice, level: int, width: int, height: int) -> Colour | PILImage.Image:
    """A background for a scene: plain near white (1), a plain tint (2), a pale texture (3)."""
    base = light(dice, level)
    if level < 3:
        return base
    swing = np.array([dice.between(-24, 24) for _ in range(3)])
    ramp = np.linspace(-1, 1, 256)[:, None] * swing + (np.array(base) - 16)
    image = PILImage.fromarray(_texture(dice.below(12), width, height))
    image.putpalette(np.clip(ramp, 0, 255).astype(np.uint8).tobytes())
    return image.convert("RGB")
