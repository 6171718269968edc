"""Points and boxes that formats keep as numbers in fields, checked, and brought to pixels of the picture itself."""

from __future__ import annotations

import math
from typing import Any

from ...errors import UserError
from ...regions import Box, Point, Shape


def shape_of(numbers: Any) -> Shape:
    """A point of two numbers or a box of four (left, top, right, bottom). UserError for anything else."""
    if not isinstance(numbers, list) or len(numbers) not in (2, 4) or not all(map(is_number, numbers)):
        raise UserError(f"a place has 4 numbers (x1, y1, x2, y2) or 2 (x, y), got {numbers!r:.80}")
    values = [float(number) for number in numbers]
    try:
        return Point(*values) if len(values) == 2 else Box(*values)
    except ValueError as error:
        raise UserError(str(error)) from None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number (a truth value is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scale(shape: Shape, x: float, y: float) -> Shape:
    """A shape with its x and y multiplied."""
    return type(shape)(*(value * factor for value, factor in zip(shape, (x, y, x, y), strict=False)))


def clip(shape: Shape, size: tuple[int, int]) -> Shape:
    """A shape with what lies outside of a picture of `size` cut off."""
    return type(shape)(*(min(max(value, 0.0), float(side)) for value, side in zip(shape, size * 2, strict=False)))


def to_picture(shape: Shape, said: tuple[int, int], size: tuple[int, int]) -> Shape:
    """A shape in pixels of a picture that a row says is of size `said`, in pixels of the picture as it is.

    UserError when the picture's proportions are others, so that it is another picture or has been turned or cropped.
    """
    if said == size:
        return shape
    x, y = size[0] / said[0], size[1] / said[1]
    if abs(x * said[1] - size[1]) > max(1.0, 0.01 * size[1]):
        raise UserError(
            f"places are given for a picture of {said[0]}x{said[1]} pixels, and the picture has {size[0]}x{size[1]}; "
            "use the picture they were drawn on"
        )
    return scale(shape, x, y)
