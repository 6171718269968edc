"""What text is written on, and ink that can be read on it.

Contrast is WCAG 2's ratio of relative luminance, (lighter + 0.05) / (darker + 0.05), from 1 to 21; black on white is
21. On a ground that is not plain it is that of the ink and the worst of the ground under the block, leaving out 1 % of
the pixels at each end, and more is asked: a ground whose own contrast is 1.5 needs ink with 1.5 times the contrast (up
to twice). Where no ink reaches that, the ground under the block is made plainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image as PILImage

from ...world.dice import Dice
from ...world.lexicon import COLOURS

Colour = tuple[int, int, int]


class Ground(StrEnum):
    """What text is written on."""

    PLAIN = "plain"
    GRADIENT = "gradient"
    NOISE = "noise"
    PICTURE = "picture"


_LINEAR = np.array([v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255])
_WEIGHTS = np.array([0.2126, 0.7152, 0.0722])


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance (WCAG 2) of sRGB pixels uint8 [..., 3], 0 to 1."""
    return np.asarray(_LINEAR[pixels] @ _WEIGHTS)


def ratio(one: float, other: float) -> float:
    """The contrast of two luminances."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@dataclass(frozen=True)
class Span:
    """The luminance of a ground, from its darkest to its lightest (without 1 % at each end)."""

    low: float
    high: float

    @classmethod
    def of(cls, ground_HW3: np.ndarray) -> Span:
        """That of pixels uint8 [..., 3]."""
        low, high = np.percentile(luminance(ground_HW3), [1, 99]).tolist()
        return cls(low, high)

    def contrast(self, ink: Colour) -> float:
        """That of ink and the worst of the ground; 1 where the ground is lighter here and darker there."""
        light = float(luminance(np.array(ink)))
        return 1.0 if self.low < light < self.high else min(ratio(light, self.low), ratio(light, self.high))

    def asked(self, floor: float) -> float:
        """The contrast that ink needs here: `floor`, and up to twice that where the ground is uneven."""
        return floor * min(2.0, ratio(self.low, self.high))


def draw_ground(kind: Ground, dice: Dice, size: tuple[int, int], photo: PILImage.Image | None = None) -> np.ndarray:
    """A ground of (width, height) pixels: uint8 [height, width, 3]."""
    width, height = size
    base = np.array(_paper(dice), np.float32)
    if kind is Ground.PICTURE and photo is not None:
        return _cropped(photo, dice, size)
    pixels = np.broadcast_to(base, (height, width, 3)).astype(np.float32)
    if kind is Ground.GRADIENT:
        other = np.clip(base + [dice.uniform(-70, 70) for _ in range(3)], 0, 255)
        angle = dice.uniform(0, 2 * np.pi)
        along = (
            np.cos(angle) * np.linspace(-0.5, 0.5, width)[None]
            + np.sin(angle) * np.linspace(-0.5, 0.5, height)[:, None]
        )
        share = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
        pixels = base + share[..., None].astype(np.float32) * (other - base).astype(np.float32)
    if kind is Ground.NOISE:
        random = np.random.RandomState(dice.below(1 << 32))
        cells = dice.between(3, 24)
        grain = random.uniform(-1, 1, (cells, cells, 1)) * dice.uniform(4, 32)
        coarse = grain + random.uniform(-1, 1, (cells, cells, 3)) * dice.uniform(0, 10) + 128
        soft = PILImage.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(size, PILImage.Resampling.BICUBIC)
        pixels = pixels + np.asarray(soft, np.float32) - 128
        pixels = pixels + random.normal(0, dice.uniform(0.5, 7), (height, width, 1)).astype(np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def choose_ink(dice: Dice, ground_HW3: np.ndarray, *, floor: float, low: bool) -> tuple[Colour, np.ndarray, float]:
    """(ink, the ground, made plainer where it had to be, their contrast, which is `asked` of that ground or more).

    `low` asks for ink that is as close to the ground as `floor` allows.
    """
    black, white = (12, 12, 12), (250, 250, 250)
    span = Span.of(ground_HW3)
    good = next((ink for ink in [_ink(dice) for _ in range(10)] if span.contrast(ink) >= span.asked(floor)), None)
    ink = good or max((black, white), key=span.contrast)
    paper = np.array(white if ink == black else black, np.float32)
    plainer = ground_HW3
    for share in (0.4, 0.6, 0.75, 0.9, 1.0):
        if span.contrast(ink) >= span.asked(floor):
            break
        plainer = np.rint(ground_HW3 * (1 - share) + paper * share).astype(np.uint8)
        span = Span.of(plainer)
    if low:
        ink = _closer(ink, plainer.reshape(-1, 3).mean(axis=0).tolist(), span, floor)
    return ink, plainer, span.contrast(ink)


def _closer(ink: Colour, mean: list[float], span: Span, floor: float) -> Colour:
    """The ink mixed with the ground's mean as far as `floor` allows."""
    for share in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        r, g, b = (round(a * (1 - share) + c * share) for a, c in zip(ink, mean, strict=True))
        if span.contrast((r, g, b)) >= span.asked(floor):
            return r, g, b
    return ink


def _paper(dice: Dice) -> Colour:
    """Mostly light, sometimes dark, sometimes strong."""
    kind = dice.below(10)
    if kind < 6:
        level = dice.between(215, 255)
        tint = [dice.between(-14, 0) for _ in range(3)]
        r, g, b = (level + t for t in tint)
        return r, g, b
    if kind < 8:
        r, g, b = (dice.between(5, 70) for _ in range(3))
        return r, g, b
    r, g, b = (max(0, min(255, v + dice.between(-25, 25))) for v in dice.pick(list(COLOURS.values())))
    return r, g, b


def _ink(dice: Dice) -> Colour:
    kind = dice.below(10)
    if kind < 4:
        level = dice.between(0, 60)
        return level, level, level
    if kind < 6:
        level = dice.between(215, 255)
        return level, level, level
    r, g, b = (dice.below(256) for _ in range(3))
    return r, g, b


def _cropped(photo: PILImage.Image, dice: Dice, size: tuple[int, int]) -> np.ndarray:
    """A random part of a picture with the shape of `size`, stretched to it."""
    width, height = size
    fit = min(photo.width / width, photo.height / height)
    part = dice.uniform(0.6, 1.0) * fit
    w, h = min(photo.width, width * part), min(photo.height, height * part)
    x, y = dice.uniform(0, photo.width - w), dice.uniform(0, photo.height - h)
    cut = photo.resize(size, PILImage.Resampling.BICUBIC, box=(x, y, x + w, y + h), reducing_gap=3.0)
    return np.array(cut)
