"""Charts with known values: bars upright or lying, lines of dots; one item's value is asked, or the largest item.

Level 1: three coloured bars with large digits above them, asked by color. Level 2: three or four items with names and
printed values. Level 3: four to six items and an axis instead of printed values; all values lie on its lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..regions import Box
from ..sample import Image
from .canvas import BOLD, PLAIN, Canvas, Colour, dark, fit, light, named
from .dice import Dice
from .lexicon import EASY_WORDS
from .staging import EASY_COLOURS, phrase
from .task import Draft, Task, ask

GRAY: Colour = (150, 150, 150)


@dataclass(frozen=True)
class Item:
    """One bar or dot: what it is called in questions, its value and its paint."""

    name: str
    value: int
    colour: Colour


@dataclass
class Chart:
    """A chart being drawn: canvas, plot area in pixels, largest value of the axis, and each item's mark."""

    canvas: Canvas
    plot: Box
    top: int
    items: list[Item]
    marks: list[Box]
    ink: Colour
    pieces: list[dict[str, Any]]

    def write(self, text: str, area: Box, size: int, **known: Any) -> None:
        """Write `text` in the middle of an area, smaller where it must be."""
        size = fit(text, BOLD, size, int(area.x2 - area.x1))
        box = self.canvas.write_centred(text, area, size=size, colour=self.ink, name=BOLD)
        self.pieces.append({"text": text, "box": list(box), "image": 0, **known})


def _items(dice: Dice, level: int, *, lying: bool) -> list[Item]:
    if level == 1:
        values = dice.sample(range(1, 10), 3)
        return [Item(c, v, named(dice, c)) for c, v in zip(dice.sample(EASY_COLOURS, 3), values, strict=True)]
    number = dice.between(3, 4) if level == 2 else dice.between(4, 6 if lying else 5)
    values = dice.sample(range(1, 40), number) if level == 2 else [10 * v for v in dice.sample(range(1, 9), number)]
    short = level == 3 and not lying  # names stand side by side under narrow bars
    names = dice.sample([w for w in EASY_WORDS if len(w) == 3 or not short], number)
    paints = dice.sample(EASY_COLOURS, number) if dice.chance() else [dice.pick(EASY_COLOURS)] * number
    return [Item(n, v, named(dice, p)) for n, v, p in zip(names, values, paints, strict=True)]


def _upright(chart: Chart, level: int, unit: float, *, dots: bool) -> None:
    """Bars from the bottom, or dots joined by a line; names below, values above where the level prints them."""
    plot, canvas = chart.plot, chart.canvas
    slot = (plot.x2 - plot.x1) / len(chart.items)
    size = max(7, round(unit * (26 if level == 1 else 12)))
    former = None
    for i, item in enumerate(chart.items):
        high = max(2, round((plot.y2 - plot.y1) * item.value / chart.top))
        middle, half = plot.x1 + (i + 0.5) * slot, max(2, round(slot * 0.32))
        if dots:
            half = max(2, round(2.5 * unit))
            at = (round(middle), int(plot.y2 - high))
            if former:
                canvas.line(*former, *at, GRAY, max(1, round(unit)))
            former = at
            mark = Box(at[0] - half, at[1] - half, at[0] + half + 1, at[1] + half + 1)
        else:
            mark = Box(round(middle) - half, plot.y2 - high, round(middle) + half, plot.y2)
        chart.marks.append(mark)
        if level < 3:
            over = Box(middle - slot / 2, mark.y1 - size * 1.15, middle + slot / 2, mark.y1)
            chart.write(str(item.value), over, size, role="value")
        if level > 1:
            under = Box(middle - slot / 2 + 1, plot.y2 + 2, middle + slot / 2 - 1, plot.y2 + 2 + 13 * unit)
            chart.write(item.name, under, max(7, round(10 * unit)), role="name")
    for item, mark in zip(chart.items, chart.marks, strict=True):
        if dots:
            canvas.draw.ellipse((mark.x1, mark.y1, mark.x2 - 1, mark.y2 - 1), fill=item.colour)
        else:
            canvas.rectangle(mark, fill=item.colour)
    canvas.line(int(plot.x1), int(plot.y2), int(plot.x2), int(plot.y2), chart.ink)


def _lying(chart: Chart, level: int, unit: float) -> None:
    """Bars from the left; names left of them, values right of them where the level prints them."""
    plot, canvas = chart.plot, chart.canvas
    slot = (plot.y2 - plot.y1) / len(chart.items)
    size = min(round(unit * 13), round(slot * 0.7))
    for i, item in enumerate(chart.items):
        wide = max(2, round((plot.x2 - plot.x1) * item.value / chart.top))
        middle, half = plot.y1 + (i + 0.5) * slot, max(2, round(slot * 0.3))
        mark = Box(plot.x1, round(middle) - half, plot.x1 + wide, round(middle) + half)
        chart.marks.append(canvas.rectangle(mark, fill=item.colour))
        chart.write(item.name, Box(1, middle - slot / 2, plot.x1 - 2, middle + slot / 2), size, role="name")
        if level < 3:
            over = Box(mark.x2 + 2, middle - slot / 2, mark.x2 + 2 + 18 * unit, middle + slot / 2)
            chart.write(str(item.value), over, size, role="value")
    canvas.line(int(plot.x1) - 1, int(plot.y1), int(plot.x1) - 1, int(plot.y2), chart.ink)


def _axis(chart: Chart, step: int, unit: float, *, lying: bool) -> None:
    """Grid lines at multiples of `step`, each with its number."""
    plot, canvas, size = chart.plot, chart.canvas, max(7, round(8 * unit))
    pale: Colour = (190, 190, 190)
    for value in range(0, chart.top + 1, step):
        if lying:
            x = round(plot.x1 + (plot.x2 - plot.x1) * value / chart.top)
            canvas.line(x, int(plot.y1), x, int(plot.y2), pale)
            area = Box(x - 9 * unit, plot.y2 + 1, x + 9 * unit, plot.y2 + 1 + 11 * unit)
        else:
            y = round(plot.y2 - (plot.y2 - plot.y1) * value / chart.top)
            canvas.line(int(plot.x1), y, int(plot.x2), y, pale)
            area = Box(0, y - 5 * unit, plot.x1 - 1, y + 5 * unit)
        if value % (2 * step) == 0:
            box = canvas.write_centred(str(value), area, size=size, colour=chart.ink, name=PLAIN)
            chart.pieces.append({"text": str(value), "box": list(box), "image": 0, "role": "tick"})


def draw_chart(dice: Dice, level: int, size: int) -> tuple[Image, Chart]:
    """A random chart of the level and its picture."""
    unit = size / 128
    width, height = (size, size) if level < 3 else dice.pick(((size, size), (size, round(size * 0.75))))
    lying = level > 1 and dice.chance(0.4)
    items = _items(dice, level, lying=lying)
    dots = level == 3 and not lying and dice.chance(0.4)
    axis = level == 3
    left = (36 if lying else (16 if axis else 4)) * unit
    right = width - ((20 if level == 2 else 8) if lying else 3) * unit
    above = (4 if lying else {1: 32, 2: 16, 3: 8}[level]) * unit
    below = height - ((13 if axis else 4) if lying else (4 if level == 1 else 16)) * unit
    plot = Box(round(left), round(above), round(right), round(below))
    top = 80 if axis else max(item.value for item in items)
    chart = Chart(Canvas(width, height, light(dice, min(level, 2))), plot, top, items, [], dark(dice), [])
    if axis:
        _axis(chart, 10, unit, lying=lying)
    if lying:
        _lying(chart, level, unit)
    else:
        _upright(chart, level, unit, dots=dots)
    return chart.canvas.finish(), chart


def _records(chart: Chart) -> list[dict[str, Any]]:
    pairs = zip(chart.items, chart.marks, strict=True)
    marks = [{"name": i.name, "value": i.value, "box": list(box), "image": 0, "role": "mark"} for i, box in pairs]
    return marks + chart.pieces


def chart_read(dice: Dice, level: int, size: int) -> Draft:
    """The value of one item, asked by its color (level 1) or name."""
    image, chart = draw_chart(dice, level, size)
    asked = dice.below(len(chart.items))
    item = chart.items[asked]
    if level == 1:
        question = f"What is the value of {item.name}?"
    else:
        question = phrase(dice, level, ("What is the value of {}?", "How much is {}?", "Read the value of {}.")).format(
            item.name
        )
    return ask(image, question, str(item.value), boxes=[chart.marks[asked]], objects=_records(chart))


def chart_extreme(dice: Dice, level: int, size: int) -> Draft:
    """Which item is the largest (from level 2 also: the smallest)."""
    image, chart = draw_chart(dice, level, size)
    largest = level == 1 or dice.chance()
    best = (max if largest else min)(range(len(chart.items)), key=lambda i: chart.items[i].value)
    ask_for = "largest" if largest else "smallest"
    question = phrase(dice, level, ("Which is the {}?", "What has the {} value?")).format(ask_for)
    return ask(image, question, chart.items[best].name, boxes=[chart.marks[best]], objects=_records(chart))


TASKS = (
    Task("chart_read", "text-rich", "text-rich", "exact", "the value of an item of a chart", chart_read, 1 / 9),
    Task(
        "chart_extreme",
        "text-rich",
        "text-rich",
        "exact",
        "the largest or smallest item of a chart",
        chart_extreme,
        1 / 8,
    ),
)
