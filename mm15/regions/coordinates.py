"""Points and boxes, and the coordinate contract between pixels and text.

People speak pixels of the original picture; the model speaks bins. One object, `Coordinates`, goes both ways:

    pixel v on a side of length s  --encode-->  b = min(int(v * bins / s), bins - 1)   --decode-->  (b + 1/2) * s / bins

so a decoded side is never further than half a bin from the pixel that was encoded. The contract is stored with the
processor; nothing here knows about tiles, because coordinates always refer to the original picture.

The text form is Ferret's (arXiv 2310.07704): ``[x1, y1, x2, y2]`` for a box and ``[x, y]`` for a point, integers in
0..bins-1. MM1.5 follows it as far as is known (docs/paper_map.md). ``tokens=True`` writes each integer as one added
token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A point in pixels of the original picture: x to the right, y down."""

    x: float
    y: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.x, self.y))


@dataclass(frozen=True)
class Box:
    """A box in pixels of the original picture: left, top, right, bottom edge."""

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        if not (self.x1 <= self.x2 and self.y1 <= self.y2):
            raise ValueError(f"box {tuple(self)} is inside out: it needs x1 <= x2 and y1 <= y2")

    def __iter__(self) -> Iterator[float]:
        return iter((self.x1, self.y1, self.x2, self.y2))

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


Shape = Box | Point


@dataclass(frozen=True)
class Region:
    """A place in a picture: its shape in pixels, which picture of the conversation, and the words it was said of."""

    shape: Shape
    image: int = 0
    label: str = ""


@dataclass(frozen=True)
class Malformed:
    """A piece of text that looks like coordinates and is not: what it was and what is wrong with it."""

    text: str
    why: str


class Parsed(list[Region]):
    """The regions of a text in reading order; `malformed` lists what looked like one and was refused."""

    def __init__(self, regions: list[Region], malformed: list[Malformed]) -> None:
        super().__init__(regions)
        self.malformed = malformed


_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NUMBERS = re.compile(r"\s*(\d+)(?:\s*,\s*(\d+))*\s*")
_TOKEN = re.compile(r"<bin_(\d+)>")


@dataclass(frozen=True)
class Coordinates:
    """The contract: how many bins a side has, and whether a bin is written in digits or as one token.

    Sizes are (width, height) in pixels. Errors are ValueErrors that carry both the shape and the size.
    """

    bins: int = 1000
    tokens: bool = False

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"coordinates need at least 2 bins, got {self.bins}")

    def bin_tokens(self) -> list[str]:
        """The tokens to add to a tokenizer, one per bin; empty when bins are written in digits."""
        return [f"<bin_{i}>" for i in range(self.bins)] if self.tokens else []

    def quantise(self, shape: Shape, size: tuple[int, int]) -> tuple[int, ...]:
        """The bins of a shape; raises ValueError when any part of it lies outside the picture."""
        width, height = size
        if width <= 0 or height <= 0:
            raise ValueError(f"a picture of {width}x{height} pixels has no coordinates")
        for value, side in zip(shape, (width, height) * 2, strict=False):
            if not 0 <= value <= side:
                raise ValueError(f"{shape} lies outside its picture of {width}x{height} pixels")
        sides = (width, height) * 2
        return tuple(min(int(v * self.bins / s), self.bins - 1) for v, s in zip(shape, sides, strict=False))

    def dequantise(self, bins: tuple[int, ...], size: tuple[int, int]) -> Shape:
        """The shape in pixels whose sides are the centres of `bins` (2 for a point, 4 for a box)."""
        if len(bins) not in (2, 4):
            raise ValueError(f"{len(bins)} numbers are neither a point (2) nor a box (4)")
        for b in bins:
            if not 0 <= b < self.bins:
                raise ValueError(f"{b} is outside 0..{self.bins - 1}")
        values = [(b + 0.5) * s / self.bins for b, s in zip(bins, tuple(size) * 2, strict=False)]
        return Point(*values) if len(values) == 2 else Box(*values)

    def encode(self, shape: Shape, size: tuple[int, int]) -> str:
        """The text of a shape, for example ``[120, 40, 512, 300]``."""
        numbers = self.quantise(shape, size)
        if self.tokens:
            return "[" + "".join(f"<bin_{b}>" for b in numbers) + "]"
        return "[" + ", ".join(str(b) for b in numbers) + "]"

    def decode(self, text: str, size: tuple[int, int]) -> Shape:
        """The shape of exactly one bracketed text; raises ValueError for anything else."""
        parsed = parse(text.strip(), size, coordinates=self)
        match = _BRACKETS.fullmatch(text.strip())
        if match is None or len(parsed) != 1:
            why = parsed.malformed[0].why if parsed.malformed else "it is not one bracketed point or box"
            raise ValueError(f"cannot read {text!r} as coordinates: {why}")
        return parsed[0].shape


def parse(text: str, size: tuple[int, int], *, coordinates: Coordinates | None = None, image: int = 0) -> Parsed:
    """All points and boxes of a text, in pixels of a picture of `size` (width, height).

    Each region's label is the phrase before it (text since the former region, the last clause of it). What looks
    like coordinates (only digits, commas, signs and spaces, or bin tokens in brackets) but is none is listed in
    `.malformed`, never guessed at. Other brackets are plain text.
    """
    contract = coordinates or Coordinates()
    regions: list[Region] = []
    malformed: list[Malformed] = []
    last = 0
    for match in _BRACKETS.finditer(text):
        numbers = _numbers(match.group(1))
        if numbers is None:
            continue
        try:
            if isinstance(numbers, str):
                raise ValueError(numbers)
            shape = contract.dequantise(numbers, size)
        except ValueError as error:
            malformed.append(Malformed(match.group(0), str(error)))
        else:
            regions.append(Region(shape, image, phrase_before(text[last : match.start()])))
        last = match.end()
    return Parsed(regions, malformed)


def _numbers(inside: str) -> tuple[int, ...] | str | None:
    """The integers of a bracket; a complaint when it only looks like coordinates; None when it is plain text."""
    if "<bin_" in inside:
        tokens = _TOKEN.findall(inside)
        rest = _TOKEN.sub("", inside).strip(" ,")
        return f"unexpected {rest!r} between bins" if rest else tuple(int(t) for t in tokens)
    if _NUMBERS.fullmatch(inside):
        return tuple(int(n) for n in inside.split(","))
    if inside.strip() and re.fullmatch(r"[\d\s,.+-]*\d[\d\s,.+-]*", inside):
        return "it is not a list of whole numbers from 0"
    return None


def phrase_before(before: str) -> str:
    """The words a place after this text is said of: the last clause of it."""
    clause = re.split(r"[.;:!?\n\]]", before)[-1]
    return re.sub(r"^(?:\s|,|\band\b)+", "", clause).strip()
