"""Masks of the shapes and icons: anti-aliased, cached, and tight, so that a shape's box is where its mask is stamped.

A shape is a list of strokes in its unit square (x right, y down): polygons and ellipses that add, or (`cut`) take away.
Masks are drawn four times too large and averaged down once, then cached; a cache hit costs well under a microsecond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

_SCALE = 4
_INK = 24  # of 255: coverage from which a pixel belongs to a shape


@dataclass(frozen=True)
class Stroke:
    """A filled polygon, or the ellipse inside the box of two points; `cut` takes it out of what was drawn before."""

    kind: str
    points: tuple[tuple[float, float], ...]
    cut: bool = False


@dataclass(frozen=True)
class Outline:
    """A shape: its strokes and its width and height as fractions of its size (the longer of the two is 1)."""

    strokes: tuple[Stroke, ...]
    width: float = 1.0
    height: float = 1.0


def _polygon(*points: tuple[float, float], cut: bool = False) -> Stroke:
    return Stroke("polygon", points, cut)


def _ellipse(x1: float, y1: float, x2: float, y2: float, cut: bool = False) -> Stroke:
    return Stroke("ellipse", ((x1, y1), (x2, y2)), cut)


def _rectangle(x1: float, y1: float, x2: float, y2: float, cut: bool = False) -> Stroke:
    return _polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2), cut=cut)


def _star(points: int = 5, inner: float = 0.42) -> Stroke:
    corners = []
    for i in range(2 * points):
        radius = 1.0 if i % 2 == 0 else inner
        angle = math.pi * i / points
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    left, top = min(xs), min(ys)
    wide, high = max(xs) - left, max(ys) - top
    return _polygon(*(((x - left) / wide, (y - top) / high) for x, y in corners))


def _heart() -> Stroke:
    corners = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        corners.append((x, y))
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    left, top = min(xs), min(ys)
    wide, high = max(xs) - left, max(ys) - top
    return _polygon(*(((x - left) / wide, (y - top) / high) for x, y in corners))


OUTLINES: dict[str, Outline] = {
    "circle": Outline((_ellipse(0, 0, 1, 1),)),
    "square": Outline((_rectangle(0, 0, 1, 1),)),
    "triangle": Outline((_polygon((0.5, 0), (1, 1), (0, 1)),), height=0.9),
    "star": Outline((_star(),), height=0.95),
    "cross": Outline((_rectangle(0.33, 0, 0.67, 1), _rectangle(0, 0.33, 1, 0.67))),
    "ring": Outline((_ellipse(0, 0, 1, 1), _ellipse(0.25, 0.25, 0.75, 0.75, cut=True))),
    "heart": Outline((_heart(),), height=0.92),
    "diamond": Outline((_polygon((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),), width=0.8),
    "house": Outline(
        (
            _polygon((0.5, 0), (1, 0.45), (0, 0.45)),
            _rectangle(0.1, 0.45, 0.9, 1),
            _rectangle(0.4, 0.62, 0.6, 1, cut=True),
        )
    ),
    "tree": Outline(
        (
            _polygon((0.5, 0), (0.9, 0.45), (0.1, 0.45)),
            _polygon((0.5, 0.25), (1, 0.78), (0, 0.78)),
            _rectangle(0.4, 0.78, 0.6, 1),
        ),
        width=0.8,
    ),
    "moon": Outline((_ellipse(0, 0, 1, 1), _ellipse(0.36, -0.06, 1.24, 0.82, cut=True))),
    "fish": Outline(
        (
            _ellipse(0, 0, 0.78, 1),
            _polygon((0.62, 0.5), (1, 0.05), (1, 0.95)),
            _ellipse(0.16, 0.28, 0.28, 0.48, cut=True),
        ),
        height=0.6,
    ),
    "cup": Outline(
        (
            _ellipse(0.55, 0.15, 1, 0.75),
            _ellipse(0.66, 0.28, 0.89, 0.62, cut=True),
            _polygon((0, 0), (0.76, 0), (0.66, 1), (0.1, 1)),
        ),
        height=0.85,
    ),
    "bolt": Outline((_polygon((0.62, 0), (0, 0.58), (0.42, 0.58), (0.3, 1), (1, 0.38), (0.55, 0.38)),), width=0.7),
    "flag": Outline((_rectangle(0, 0, 0.12, 1), _polygon((0.12, 0.04), (1, 0.3), (0.12, 0.58))), width=0.8),
    "hexagon": Outline((_polygon((0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1), (0, 0.5)),), height=0.87),
}


def extent(shape: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of an upright `shape` whose longer side is `size` pixels."""
    outline = OUTLINES[shape]
    return max(2, round(outline.width * size)), max(2, round(outline.height * size))


@lru_cache(maxsize=8192)
def mask(shape: str, size: int, angle: int = 0) -> PILImage.Image:
    """The mask (mode L, cut to its ink) of `shape`, `size` pixels on its longer side, turned by `angle` degrees."""
    width, height = extent(shape, size)
    wide, high = width * _SCALE, height * _SCALE
    image = PILImage.new("L", (wide, high))
    draw = ImageDraw.Draw(image)
    for stroke in OUTLINES[shape].strokes:
        fill = 0 if stroke.cut else 255
        points = [(x * (wide - 1), y * (high - 1)) for x, y in stroke.points]
        if stroke.kind == "ellipse":
            draw.ellipse(points, fill=fill)
        else:
            draw.polygon(points, fill=fill)
    if angle:
        image = image.rotate(angle, PILImage.Resampling.BILINEAR, expand=True)
    small = image.reduce(_SCALE)
    return small.crop(ink_box(small, _INK))


def ink_box(image: PILImage.Image, least: int) -> tuple[int, int, int, int]:
    """The tight box (left, top, right, bottom) of a mask's pixels of at least `least`; one pixel if there are none."""
    ink = np.asarray(image) >= least
    columns, rows = np.flatnonzero(ink.any(axis=0)), np.flatnonzero(ink.any(axis=1))
    if not len(rows):
        return 0, 0, 1, 1
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
