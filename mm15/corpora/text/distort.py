"""What happens to written text on its way to a picture: geometry first, then pixels.

Geometry is one projective map (3x3 matrix) from the plane the text is set in to the picture, so that the box of a line
afterwards is the hull of its four moved corners; there is no second truth. Pixels (blur, noise, JPEG) move nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFilter

from ...regions import Box
from ...world.dice import Dice


class Distortion(StrEnum):
    """What may happen to a picture of text."""

    PERSPECTIVE = "perspective"
    SHEAR = "shear"
    BLUR = "blur"
    NOISE = "noise"
    JPEG = "jpeg"
    LOW_CONTRAST = "low-contrast"


def turn(degrees: float) -> np.ndarray:
    """A rotation about the origin, clockwise as one sees it."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if degrees % 90 == 0:
        c, s = round(c), round(s)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def shear(dice: Dice) -> np.ndarray:
    """Slanted by up to 0.3 sidewards, or by up to 0.12 upwards."""
    if dice.chance(0.7):
        return np.array([[1, dice.uniform(-0.3, 0.3), 0], [0, 1, 0], [0, 0, 1.0]])
    return np.array([[1, 0, 0], [dice.uniform(-0.12, 0.12), 1, 0], [0, 0, 1.0]])


def perspective(dice: Dice, width: float, height: float) -> np.ndarray:
    """The corners of a plane of that size moved inwards by up to 14 % of its sides."""
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    inwards = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    moved = [
        (x + sx * dice.uniform(0, 0.14) * width, y + sy * dice.uniform(0, 0.14) * height)
        for (x, y), (sx, sy) in zip(corners, inwards, strict=True)
    ]
    return projection(corners, moved)


def projection(old: Sequence[tuple[float, float]], new: Sequence[tuple[float, float]]) -> np.ndarray:
    """The 3x3 matrix that takes four points to four others."""
    rows, right = [], []
    for (x, y), (u, v) in zip(old, new, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), np.array(right, float)), 1).reshape(3, 3)


def moved(points: Sequence[tuple[float, float]], matrix: np.ndarray) -> np.ndarray:
    """Points [n, 2] where the map takes them."""
    homogeneous = np.column_stack([np.array(points, float), np.ones(len(points))]) @ matrix.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def corners(box: Box) -> list[tuple[float, float]]:
    """Top left, top right, bottom right, bottom left."""
    return [(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)]


def hull(boxes: Sequence[Box], matrix: np.ndarray) -> Box:
    """The upright box round moved boxes."""
    points = moved([corner for box in boxes for corner in corners(box)], matrix)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return Box(x1, y1, x2, y2)


def shift(x: float, y: float) -> np.ndarray:
    """A move."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def scale(by: float) -> np.ndarray:
    """Larger or smaller."""
    return np.diag([by, by, 1.0])


def warp(mask: PILImage.Image, matrix: np.ndarray, size: tuple[int, int]) -> PILImage.Image:
    """The mask where the map takes it, in a picture of `size`; a move by whole pixels keeps every pixel."""
    if np.array_equal(matrix[:, :2], np.eye(3)[:, :2]) and float(matrix[0, 2]).is_integer():
        out = PILImage.new("L", size, 0)
        out.paste(mask, (int(matrix[0, 2]), int(matrix[1, 2])))
        return out
    back = np.linalg.inv(matrix)
    coefficients = (back / back[2, 2]).ravel()[:8].tolist()
    return mask.transform(size, PILImage.Transform.PERSPECTIVE, coefficients, PILImage.Resampling.BICUBIC)


def blurred(picture: PILImage.Image, dice: Dice, letter: float) -> PILImage.Image:
    """Out of focus by up to 5 % of the size of the smallest letters."""
    return picture.filter(ImageFilter.GaussianBlur(dice.uniform(0.02, 0.05) * letter))


def noisy(picture: PILImage.Image, dice: Dice, contrast: float) -> PILImage.Image:
    """Grain, weaker where ink and ground are close (`contrast` is their ratio of luminance)."""
    sigma = dice.uniform(2, 14) * min(1.0, contrast / 6)
    random = np.random.RandomState(dice.below(1 << 32))  # its stream is frozen across versions of numpy
    pixels = np.asarray(picture).astype(np.float32)
    pixels += (
        random.normal(0, sigma, pixels.shape[:2] if dice.chance() else pixels.shape)
        .astype(np.float32)
        .reshape(*pixels.shape[:2], -1)
    )
    return PILImage.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def stored(picture: PILImage.Image, quality: int | None) -> bytes:
    """The file of a picture: JPEG of a quality, or PNG."""
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, "PNG", compress_level=6)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
