"""What the numbers of a convention mean: from pixels of the original picture to numbers and back.

    pixel v of a side  --frame-->  (v + before) * steps / span  --rounded-->  number

A `frame` lays the picture into the square (or the pixels) that the numbers count in. Numbers either name lines
(rounded, read where the line is) or cells (truncated, read at the cell's centre). Either way a side that goes there
and back moves by half a step at most: `resolution`. Kosmos-2's patches, two numbers a box, are a space of their own.

Sizes are (width, height) in pixels. Errors are ValueErrors that carry both the shape (or its numbers) and the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .coordinates import Box, Point, Shape

Size = tuple[int, int]
Number = int | float

LARGEST = 10**9
"""No side of a picture is longer; a number beyond it is refused before any arithmetic."""


@dataclass(frozen=True)
class Side:
    """How one side of `length` pixels is counted: number = (pixel + before) * steps / span."""

    length: int
    span: int
    steps: int
    before: int = 0

    def number(self, pixel: float) -> float:
        """The number of a pixel, not yet rounded."""
        return (pixel + self.before) * self.steps / self.span

    def pixel(self, number: float) -> float:
        """The pixel of a number."""
        return number * self.span / self.steps - self.before


Frame = Callable[[Size], tuple[Side, Side]]


@dataclass(frozen=True)
class Relative:
    """Each side of the original picture is `steps` long."""

    steps: int

    def __call__(self, size: Size) -> tuple[Side, Side]:
        width, height = size
        return Side(width, width, self.steps), Side(height, height, self.steps)


@dataclass(frozen=True)
class PaddedSquare:
    """The picture centred in a square as long as its longer side (LLaVA's expand2square); the square is 1 long."""

    def __call__(self, size: Size) -> tuple[Side, Side]:
        longest = max(size)
        x, y = (Side(length, longest, 1, (longest - length) // 2) for length in size)
        return x, y


@dataclass(frozen=True)
class Pixels:
    """Pixels of the original picture."""

    def __call__(self, size: Size) -> tuple[Side, Side]:
        x, y = (Side(length, 1, 1) for length in size)
        return x, y


@dataclass(frozen=True)
class Resized:
    """Pixels of the picture after `smart_resize`."""

    min_pixels: int
    max_pixels: int
    factor: int = 28

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"0 < min_pixels <= max_pixels is needed, got {self.min_pixels} and {self.max_pixels}")

    def __call__(self, size: Size) -> tuple[Side, Side]:
        resized = smart_resize(size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        x, y = (Side(length, length, steps) for length, steps in zip(size, resized, strict=True))
        return x, y


def smart_resize(size: Size, *, factor: int = 28, min_pixels: int, max_pixels: int) -> Size:
    """(width, height) that Qwen2-VL and Qwen2.5-VL resize a picture to before they look at it.

    Both sides become multiples of `factor` (the nearest; where the area then is out of bounds, scaled into them).
    The same numbers as transformers' `smart_resize`, which takes height first. ValueError for sides beyond 200 : 1.
    """
    if max(size) > 200 * min(size):
        raise ValueError(f"a picture of {size[0]}x{size[1]} pixels is longer than 200 : 1, and Qwen refuses those")
    near = [round(side / factor) * factor for side in size]
    area, pixels = math.prod(near), math.prod(size)
    if area > max_pixels:
        shrink = math.sqrt(pixels / max_pixels)
        near = [max(factor, math.floor(side / shrink / factor) * factor) for side in size]
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / pixels)
        near = [math.ceil(side * grow / factor) * factor for side in size]
    return near[0], near[1]


class Space(Protocol):
    """Numbers of shapes and shapes of numbers, in a picture of a size."""

    @property
    def decimals(self) -> int:
        """Digits that a number is written with after the point."""

    def to_numbers(self, shape: Shape, size: Size) -> tuple[Number, ...]:
        """The numbers of a shape that lies in the picture."""

    def from_numbers(self, numbers: Sequence[Number], size: Size) -> Shape:
        """The shape of numbers."""

    def resolution(self, size: Size) -> tuple[float, float]:
        """The furthest that an x and a y move, in pixels, when written and read back."""


@dataclass(frozen=True)
class Grid:
    """Two numbers a point, four a box, in `order`, each rounded to `decimals`.

    `cells`: the numbers name cells and this is the largest that is written; None: they name lines.
    """

    frame: Frame
    order: Literal["xyxy", "yxyx", "xywh"] = "xyxy"
    decimals: int = 0
    cells: int | None = None

    def to_numbers(self, shape: Shape, size: Size) -> tuple[Number, ...]:
        sides = self._sides(size, shape)
        check_inside(shape, size)
        values = [self._rounded(side.number(v)) for v, side in zip(shape, sides * 2, strict=False)]
        if self.order == "yxyx":
            values = _swapped(values)
        if self.order == "xywh" and len(values) == 4:
            x1, y1, x2, y2 = values
            values = [x1, y1, round(x2 - x1, self.decimals), round(y2 - y1, self.decimals)]
        return tuple(values)

    def from_numbers(self, numbers: Sequence[Number], size: Size) -> Shape:
        where = f"in a picture of {size[0]}x{size[1]} pixels"
        values = check_numbers(numbers, where, whole=not self.decimals)
        sides = self._sides(size, tuple(numbers))
        if self.order == "yxyx":
            values = _swapped(values)
        if self.order == "xywh" and len(values) == 4:
            values = [values[0], values[1], values[0] + values[2], values[1] + values[3]]
        shift = 0.5 if self.cells is not None else 0.0
        pixels = []
        for value, side, half in zip(values, sides * 2, self.resolution(size) * 2, strict=False):
            pixel = side.pixel(value + shift)
            # Half a step beyond the edge is what rounding one number does to it; further out is another place.
            slack = half * (2 if self.order == "xywh" else 1) * 1.000001
            if not -slack <= pixel <= side.length + slack:
                raise ValueError(f"{_shown(numbers)} lies outside {where}")
            pixels.append(min(max(pixel, 0.0), float(side.length)))
        if len(pixels) == 2:
            return Point(*pixels)
        if pixels[0] > pixels[2] or pixels[1] > pixels[3]:
            raise ValueError(f"{_shown(numbers)} is inside out {where}")
        return Box(*pixels)

    def resolution(self, size: Size) -> tuple[float, float]:
        x, y = (side.span / side.steps / 10**self.decimals / 2 for side in self._sides(size, None))
        return x, y

    def _rounded(self, number: float) -> Number:
        if self.cells is not None:
            return min(int(number), self.cells)
        return round(number, self.decimals) if self.decimals else round(number)

    def _sides(self, size: Size, of: Shape | tuple[Number, ...] | None) -> tuple[Side, Side]:
        check_size(size)
        try:
            return self.frame(size)
        except ValueError as error:
            raise ValueError(str(error) if of is None else f"{_shown(of)}: {error}") from None


@dataclass(frozen=True)
class Patches:
    """Kosmos-2: a box is the patches at its top left and bottom right, counted row by row in a grid of `side` squared.

    Written as its processor does (the patch that the left edge is in; the last patch that the right edge reaches), read
    as its decoder does: between the patches' centres, or all of both patches when they share a row or a column. So
    `resolution` is a whole patch, and half of one only for boxes wider and higher than a patch.
    """

    side: int = 32
    decimals: int = 0

    def to_numbers(self, shape: Shape, size: Size) -> tuple[Number, ...]:
        check_size(size)
        check_inside(shape, size)
        if isinstance(shape, Point):
            raise ValueError(f"{shape} in a picture of {size[0]}x{size[1]} pixels has no two patches")
        first = [min(int(v * self.side / s), self.side - 1) for v, s in zip((shape.x1, shape.y1), size, strict=True)]
        last = [math.ceil(v * self.side / s - 1) for v, s in zip((shape.x2, shape.y2), size, strict=True)]
        last = [max(a, b) for a, b in zip(first, last, strict=True)]
        return first[1] * self.side + first[0], last[1] * self.side + last[0]

    def from_numbers(self, numbers: Sequence[Number], size: Size) -> Shape:
        check_size(size)
        where = f"in a picture of {size[0]}x{size[1]} pixels"
        if len(numbers) != 2:
            raise ValueError(f"{_shown(numbers)} {where}: a box is 2 patches, not {len(numbers)}")
        first, last = (int(n) for n in check_numbers(numbers, where, whole=True))
        if max(first, last) >= self.side**2:
            raise ValueError(f"{_shown(numbers)} lies outside {where}: patches are 0..{self.side**2 - 1}")
        (top, left), (bottom, right) = divmod(first, self.side), divmod(last, self.side)
        if right < left or bottom < top:
            raise ValueError(f"{_shown(numbers)} is inside out {where}")
        before, after = (0.0, 1.0) if left == right or top == bottom else (0.5, 0.5)
        dx, dy = self.resolution(size)
        return Box((left + before) * dx, (top + before) * dy, (right + after) * dx, (bottom + after) * dy)

    def resolution(self, size: Size) -> tuple[float, float]:
        return size[0] / self.side, size[1] / self.side


def check_size(size: Size) -> None:
    """ValueError for a size that no picture has."""
    if not (0 < size[0] <= LARGEST and 0 < size[1] <= LARGEST):
        raise ValueError(f"a picture of {size[0]}x{size[1]} pixels has no coordinates")


def check_inside(shape: Shape, size: Size) -> None:
    """ValueError for a shape that any part of lies outside its picture."""
    for value, side in zip(shape, size * 2, strict=False):
        if not 0 <= value <= side:
            raise ValueError(f"{shape} lies outside its picture of {size[0]}x{size[1]} pixels")


def check_numbers(numbers: Sequence[Number], where: str, *, whole: bool) -> list[float]:
    """2 or 4 numbers from 0 as floats; ValueError for anything else."""
    if len(numbers) not in (2, 4):
        raise ValueError(f"{_shown(numbers)} {where}: {len(numbers)} numbers are neither a point (2) nor a box (4)")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{_shown(numbers)} {where}: {number!r:.40} is not a number")
        if not 0 <= number <= LARGEST:
            raise ValueError(f"{_shown(numbers)} {where}: {_shown((number,))} is outside 0..{LARGEST}")
        if whole and number != int(number):
            raise ValueError(f"{_shown(numbers)} {where}: {number} is not a whole number")
    return [float(number) for number in numbers]


def _swapped(values: Sequence[float]) -> list[float]:
    """x and y exchanged, pair by pair."""
    return [values[i ^ 1] for i in range(len(values))]


def _shown(of: Shape | Sequence[Number]) -> str:
    if isinstance(of, Box | Point):
        return str(of)
    # str() of an int beyond 4300 digits is an error of its own.
    shown = ["a number too large" if isinstance(n, int) and abs(n) > LARGEST else str(n)[:24] for n in of[:8]]
    return "(" + ", ".join(shown) + (", ...)" if len(of) > 8 else ")")
