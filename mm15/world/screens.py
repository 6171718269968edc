"""Screens: buttons, fields, checkboxes, switches and list items with known boxes, as windows and as phones.

A widget's box is all of it: a button's plate, a field's frame, a checkbox or a switch with its label, a list item's
row. Labels of one screen differ. Level 1 shows one or two large widgets on a plain ground; level 2 a title bar and
three to five widgets; level 3 five to seven small ones, phone and window formats, and dark themes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..regions import Box
from ..sample import Image
from .canvas import BOLD, PLAIN, Canvas, Colour, dark, fit, jitter, light, named, word
from .dice import Dice
from .lexicon import APPS, BUTTONS, CHECKS, FIELDS
from .staging import phrase
from .task import Draft, Task, ask, place

KINDS = ("button", "field", "checkbox", "switch", "item")
_LABELS = {"button": BUTTONS, "field": FIELDS, "checkbox": CHECKS, "switch": CHECKS, "item": APPS}
_PLATES = ("red", "green", "blue", "purple", "black")
_FORMATS = ((1, 1), (9, 16), (16, 9), (4, 3))


@dataclass(frozen=True)
class Widget:
    """A drawn widget: kind, label, whether it is on (checkbox and switch), color's name (button) and its whole box."""

    kind: str
    label: str
    on: bool
    colour: str
    box: Box

    def record(self) -> dict[str, Any]:
        """The widget as an entry of `Draft.objects`."""
        return {
            "kind": self.kind,
            "label": self.label,
            "on": self.on,
            "colour": self.colour,
            "box": list(self.box),
            "image": 0,
        }


@dataclass(frozen=True)
class Screen:
    """A finished screen."""

    image: Image
    widgets: tuple[Widget, ...]

    def records(self) -> list[dict[str, Any]]:
        """Its widgets as entries of `Draft.objects`."""
        return [widget.record() for widget in self.widgets]


@dataclass(frozen=True)
class Theme:
    """Colours and typeface of a screen."""

    ground: Colour
    ink: Colour
    faint: Colour
    plate: Colour
    font: str


def _theme(dice: Dice, level: int) -> Theme:
    font = BOLD if level == 1 else dice.pick((BOLD, PLAIN))
    if level == 3 and dice.chance(0.3):
        return Theme(jitter(dice, (34, 36, 42), 10), (235, 235, 235), (150, 150, 155), (62, 64, 72), font)
    return Theme(light(dice, min(level, 2)), dark(dice), (125, 125, 130), (255, 255, 255), font)


def _union(a: Box, b: Box) -> Box:
    return Box(min(a.x1, b.x1), min(a.y1, b.y1), max(a.x2, b.x2), max(a.y2, b.y2))


def _label_beside(canvas: Canvas, theme: Theme, mark: Box, area: Box, label: str, size: int) -> Box:
    """The label to the right of a mark, its letters level with the mark's middle; returns both together."""
    left = mark.x2 + max(3, size // 3)
    size = fit(label, theme.font, size, int(area.x2 - left))
    wide = word(label, theme.font, size).size[0]
    middle = (mark.y1 + mark.y2) / 2
    text = canvas.write_centred(
        label, Box(left, middle, left + wide, middle), size=size, colour=theme.ink, name=theme.font
    )
    return _union(mark, text)


def _draw(dice: Dice, canvas: Canvas, theme: Theme, kind: str, label: str, area: Box, size: int) -> Widget:
    """Draw a widget inside an area; text at most `size` pixels."""
    wide, high = int(area.x2 - area.x1), int(area.y2 - area.y1)
    colour, on = "", False
    thin = max(1, size // 12)
    if kind == "button":
        colour = dice.pick(_PLATES[:4] if theme.ink > theme.ground else _PLATES)  # no black plate on a dark screen
        size = fit(label, theme.font, size, wide - size // 2)
        need = min(wide, word(label, theme.font, size).size[0] + max(6, round(size * dice.uniform(0.6, 1.4))))
        tall = min(high, round(size * dice.uniform(1.5, 1.8)))
        box = _inside(dice, area, need, tall)
        canvas.rectangle(box, fill=named(dice, colour), radius=dice.pick((0, max(2, tall // 6))))
        canvas.write_centred(label, box, size=size, colour=(255, 255, 255), name=theme.font)
    elif kind == "field":
        tall = min(high, round(size * 1.7))
        box = _inside(dice, area, round(wide * dice.uniform(0.8, 1.0)), tall)
        canvas.rectangle(box, fill=theme.plate, outline=theme.ink, width=thin)
        size = fit(label, theme.font, size, int(box.x2 - box.x1) - size // 2)
        text = word(label, theme.font, size).size[0]
        pad = max(2, size // 4)
        inner = Box(box.x1 + pad, box.y1, box.x1 + pad + text, box.y2)
        canvas.write_centred(label, inner, size=size, colour=theme.faint, name=theme.font)
    elif kind == "item":
        box = area
        canvas.rectangle(box, fill=theme.plate, outline=theme.faint, width=thin)
        size = fit(label, theme.font, size, wide - 2 * size)
        inner = Box(box.x1 + size // 3, box.y1, box.x1 + size // 3 + word(label, theme.font, size).size[0], box.y2)
        canvas.write_centred(label, inner, size=size, colour=theme.ink, name=theme.font)
        canvas.write_centred(
            ">", Box(box.x2 - size, box.y1, box.x2 - 2, box.y2), size=size, colour=theme.faint, name=theme.font
        )
    else:
        on = dice.chance()
        box = _mark(dice, canvas, theme, kind, label, area, size, on=on)
    return Widget(kind, label, on, colour, box)


def _mark(dice: Dice, canvas: Canvas, theme: Theme, kind: str, label: str, area: Box, size: int, *, on: bool) -> Box:
    """A checkbox or a switch with its label to the right."""
    thin = max(1, size // 10)
    side = min(int(area.y2 - area.y1) - 2, round(size * 1.05))
    y = round((area.y1 + area.y2 - side) / 2)
    x = int(area.x1) + dice.between(1, max(1, int(area.x2 - area.x1) // 8))
    if kind == "checkbox":
        mark = canvas.rectangle(Box(x, y, x + side, y + side), fill=theme.plate, outline=theme.ink, width=thin)
        if on:
            points = [
                (x + side * 0.2, y + side * 0.5),
                (x + side * 0.42, y + side * 0.74),
                (x + side * 0.8, y + side * 0.24),
            ]
            canvas.draw.line(points, fill=theme.ink, width=max(2, side // 6))
    else:
        high = max(6, side * 3 // 4)
        y += (side - high) // 2
        mark = Box(x, y, x + high * 9 // 5, y + high)
        colour = (40, 170, 80) if on else theme.faint
        canvas.rectangle(mark, fill=colour, radius=high // 2)
        knob = mark.x2 - high if on else mark.x1
        canvas.draw.ellipse((knob + 2, y + 2, knob + high - 3, y + high - 3), fill=(255, 255, 255))
    return _label_beside(canvas, theme, mark, area, label, size)


def _inside(dice: Dice, area: Box, wide: int, high: int) -> Box:
    """A box of a size at a random place of an area."""
    x = int(area.x1) + dice.between(0, max(0, int(area.x2 - area.x1) - wide))
    y = int(area.y1) + dice.between(0, max(0, int(area.y2 - area.y1) - high))
    return Box(x, y, x + wide, y + high)


def draw_screen(
    dice: Dice, level: int, size: int, kinds: Sequence[str], *, text: tuple[float, float] = (28, 28)
) -> Screen:
    """A screen with one widget of each of `kinds`, from top to bottom; at level 3 in two columns where it is wide.

    `text` is the range of the size of labels at level 1, in 128ths of the side; each widget has its own.
    """
    wide_part, high_part = (1, 1) if level == 1 else dice.pick(_FORMATS[: 2 if level == 2 else 4])
    longer = max(wide_part, high_part)
    width, height = round(size * wide_part / longer), round(size * high_part / longer)
    theme, unit = _theme(dice, level), size / 128
    canvas = Canvas(width, height, theme.ground)
    columns = 2 if level == 3 and width >= height else 1
    rows = -(-len(kinds) // columns)
    top = 0
    if level > 1:
        top = round(min(16 * unit, height * 0.16))
        canvas.rectangle(Box(0, 0, width, top), fill=named(dice, dice.pick(("blue", "black", "purple", "green"))))
        title, pen = f"My {dice.pick(APPS)}", max(7, round(top * 0.62))
        canvas.write_centred(title, Box(0, 0, width, top), size=pen, colour=(255, 255, 255), name=theme.font)
    labels: dict[str, list[str]] = {}
    limit = 12 if level == 1 else 24
    checks = dice.shuffle(CHECKS)
    for kind in KINDS:
        labels[kind] = checks if kind in ("checkbox", "switch") else dice.shuffle(_LABELS[kind][:limit])
    high, wide = (height - top) // rows, width // columns
    pens = [unit * dice.uniform(*text) if level == 1 else unit * 16 for _ in kinds]
    shift = round(height * dice.uniform(-0.12, 0.12)) if level == 1 and rows == 2 else 0
    widgets = []
    for i, kind in enumerate(kinds):
        row, column = divmod(i, columns)
        gap = max(2, round(min(high, wide) * 0.06))
        x, y = column * wide, top + row * high
        area = Box(x + gap, y + gap + row * shift, x + wide - gap, y + high - gap + (1 - row) * shift)
        widgets.append(_draw(dice, canvas, theme, kind, labels[kind].pop(), area, round(min(pens[i], high * 0.5))))
    return Screen(canvas.finish(), tuple(widgets))


def _kinds(dice: Dice, level: int, first: str, *, alone: bool = False) -> list[str]:
    """`first` and others of any kind (of other kinds if `alone`) in random order."""
    number = {1: 2, 2: dice.between(3, 5), 3: dice.between(5, 7)}[level]
    pool = [kind for kind in KINDS if not (alone and kind == first)]
    return dice.shuffle([first] + [dice.pick(pool) for _ in range(number - 1)])


def _name(kind: str, label: str) -> str:
    return f"{label} {'list item' if kind == 'item' else kind}"


def screen_read(dice: Dice, level: int, size: int) -> Draft:
    """What the only button says (level 1: on an otherwise empty screen; above: among other widgets)."""
    kinds = ["button"] if level == 1 else _kinds(dice, level, "button", alone=True)
    screen = draw_screen(dice, level, size, kinds)
    widget = next(w for w in screen.widgets if w.kind == "button")
    question = phrase(dice, level, ("What does the button say?", "What is written on the button?", "Read the button."))
    return ask(screen.image, question, widget.label, boxes=[widget.box], objects=screen.records())


def screen_ground(dice: Dice, level: int, size: int) -> Draft:
    """Where a widget is (level 1: one of two buttons): the answer is its box."""
    kinds = ["button", "button"] if level == 1 else _kinds(dice, level, dice.pick(KINDS))
    screen = draw_screen(dice, level, size, kinds, text=(13, 25))
    widget = dice.pick(screen.widgets)
    name = _name(widget.kind, widget.label)
    question = phrase(dice, level, ("Where is the {}?", "Find the {}.", "Locate the {}.")).format(name)
    answer = [place(widget.box, label=name)]
    return ask(screen.image, question, answer, boxes=[widget.box], objects=screen.records())


def screen_widget(dice: Dice, level: int, size: int) -> Draft:
    """What kind of widget lies in a box that the user gives."""
    kind = dice.pick(KINDS)
    screen = draw_screen(dice, level, size, _kinds(dice, level, kind))
    widget = dice.pick([w for w in screen.widgets if w.kind == kind])
    before = phrase(dice, level, ("What kind of widget is at ", "Which widget is at "))
    return ask(screen.image, [before, place(widget.box), "?"], kind, boxes=[widget.box], objects=screen.records())


def screen_state(dice: Dice, level: int, size: int) -> Draft:
    """Whether a checkbox or a switch is on; as often yes as no."""
    kind = dice.pick(("checkbox", "switch"))
    screen = draw_screen(dice, level, size, [kind] if level == 1 else _kinds(dice, level, kind))
    widget = dice.pick([w for w in screen.widgets if w.kind == kind])
    question = phrase(dice, level, ("Is {} on?", "Is {} turned on?", "Is {} enabled?")).format(widget.label)
    return ask(screen.image, question, "yes" if widget.on else "no", boxes=[widget.box], objects=screen.records())


TASKS = (
    Task("screen_read", "text-rich", "text-rich", "exact", "what the only button says", screen_read, 1 / 12),
    Task("screen_state", "text-rich", "text-rich", "exact", "whether a checkbox or switch is on", screen_state, 1 / 2),
    Task("screen_ground", "refer-ground", "refer-ground", "iou", "box of a named widget", screen_ground, 0.21),
    Task("screen_widget", "refer-ground", "refer-ground", "exact", "kind of the widget in a box", screen_widget, 1 / 5),
)
