"""How a chart looks: size, font, colours, grid, legend; drawn by dice, apart from what it shows.

Colours that are asked about have names (`Palette.names`): those of the generated world's lexicon, a little varied. The
others come from matplotlib's colour maps and are never named. Two colours of one chart are always far apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ...world.dice import Dice
from ...world.lexicon import COLOURS
from ..fonts import Face
from ..text.ground import luminance, ratio

Colour = tuple[int, int, int]
_MAPS = ("tab10", "Set2", "Dark2", "Paired", "viridis", "plasma", "cividis", "Blues", "Greens", "Oranges", "coolwarm")
_APART = 70.0
"""Least distance in RGB of two colours of one chart."""
_OFF_PANEL = 110.0
"""Least distance of a colour from the panel."""
SMALLEST = 8.0
"""Points of the smallest text: 11 pixels from one line to the next."""
Legend = Literal["right", "below", "above"]
Trouble = Literal["labels", "values", "room"]
"""What does not fit: the labels of an axis, printed values, or anything else."""


@dataclass(frozen=True)
class Palette:
    """Colours and, where they have some, their names (else "")."""

    colours: tuple[Colour, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """Everything about a chart but its data. Sizes in pixels, text in points at 100 dots an inch."""

    width: int
    height: int
    face: Face
    text: float
    paper: Colour
    panel: Colour
    ink: Colour
    palette: Palette
    grid: bool
    frame: bool
    legend: Legend
    lying: bool
    """Bars from the left."""
    printed: bool
    """Values stand at the marks."""
    turned: int
    """Degrees by which the labels of the lower axis are turned."""
    marker: str
    edge: bool

    def calmer(self, trouble: Trouble) -> Look | None:
        """The next thing to try against a trouble; None when there is nothing left."""
        if trouble == "labels" and self.turned < 90:
            return replace(self, turned=90 if self.turned else 40)
        if trouble == "values" and self.printed and self.text < 10:
            return replace(self, printed=False)
        if self.text > SMALLEST:
            return replace(self, text=max(SMALLEST, self.text * 0.75))
        return replace(self, printed=False) if trouble == "values" and self.printed else None


def choose_look(dice: Dice, face: Face, size: int, *, colours: int, labels: str, kind: str) -> Look:
    """A look for a chart with so many colours; `labels` are all that stand on one axis, put together."""
    long = size if dice.chance(0.6) else round(size * dice.uniform(0.6, 1))
    short = round(long * dice.uniform(0.6, 0.9))
    width, height = (long, short) if dice.chance(0.8) or kind == "table" else (short, long)
    dark = dice.chance(0.12)
    tint = dice.between(0, 18)
    paper = _near(dice, (28, 30, 36), 12) if dark else _near(dice, (255 - tint,) * 3, 4)
    panel = paper if dice.chance(0.6) else _near(dice, (44, 46, 54) if dark else (236, 238, 242), 5)
    text = dice.uniform(SMALLEST, SMALLEST + 6 * min(1.0, size / 800))
    lying = kind in ("bar", "stacked") and dice.chance(0.35)
    upright = not lying and kind != "pie"
    wide = len(labels) * text * 0.85 > width * 0.8  # 0.6 em a letter at 100 dots an inch
    return Look(
        width,
        height,
        face,
        text,
        paper,
        panel,
        (232, 232, 232) if dark else _near(dice, (30, 30, 34), 20),
        choose_palette(dice, colours, panel),
        dice.chance(0.6),
        dice.chance(0.5),
        dice.pick(("right", "below", "above")),
        lying,
        dice.chance(0.55),
        40 if upright and wide else 0,
        dice.pick(("o", "o", "s", "^", "D")),
        dice.chance(0.2),
    )


def choose_palette(dice: Dice, number: int, panel: Colour) -> Palette:
    """`number` colours that can be told from each other and from the panel; named ones as often as not."""
    for _ in range(60):
        palette = _named(dice, number) if number <= len(COLOURS) - 1 and dice.chance(0.55) else _mapped(dice, number)
        if _far_apart(list(palette.colours)) and all(_shows(colour, panel) for colour in palette.colours):
            return palette
    return _wheel(number, panel)


def _named(dice: Dice, number: int) -> Palette:
    names = dice.sample([name for name in COLOURS if name != "black"], number)
    return Palette(tuple(_near(dice, COLOURS[name], 9) for name in names), tuple(names))


def _mapped(dice: Dice, number: int) -> Palette:
    from matplotlib import colormaps

    chosen = colormaps[dice.pick(_MAPS)]
    count = chosen.N
    if count < 20:  # a list of colours
        places = [i / count + 0.5 / count for i in range(number)]
    else:
        places = [0.1 + 0.8 * (i + 0.5) / number for i in range(number)]
    colours = tuple(tuple(round(255 * v) for v in chosen(place)[:3]) for place in places)
    return Palette(colours, ("",) * number)  # type: ignore[arg-type]


def _wheel(number: int, panel: Colour) -> Palette:
    """Hues at equal steps, dark on light and light on dark."""
    import colorsys

    value = 0.62 if float(luminance_of(panel)) > 0.4 else 0.95
    hues = [colorsys.hsv_to_rgb(i / number, 0.85, value if i % 2 else value * 0.7) for i in range(number)]
    return Palette(tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in hues), ("",) * number)


def luminance_of(colour: Colour) -> float:
    """Its relative luminance."""
    import numpy as np

    return float(luminance(np.array(colour)))


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour."""
    light = luminance_of(colour)
    return (20, 20, 20) if ratio(light, 0.007) >= ratio(light, 1.0) else (250, 250, 250)


def _shows(colour: Colour, panel: Colour) -> bool:
    return math.dist(colour, panel) >= _OFF_PANEL and ratio(luminance_of(colour), luminance_of(panel)) >= 1.25


def _far_apart(colours: list[Colour]) -> bool:
    return all(math.dist(a, b) >= _APART for i, a in enumerate(colours) for b in colours[:i])


def _near(dice: Dice, colour: Colour, by: int) -> Colour:
    r, g, b = (max(0, min(255, v + dice.between(-by, by))) for v in colour)
    return r, g, b
