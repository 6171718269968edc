"""Pictures of text: numbers, words, forms, tables, pages in reading order, and where a word stands.

Level 1 is large dark bold type on a near-white page, legible when a picture of 128 pixels is shrunk to 64. Higher
levels add typefaces, colours, longer and smaller text, more rows, columns, and pages that are not square. Sizes scale
with the picture, so `size=512` shows the same page four times as large. What is read is answered as it is printed.
"""

from __future__ import annotations

from typing import Any

from ..regions import Box
from ..sample import Image, document
from .canvas import BOLD, FONTS, Canvas, Colour, dark, fit, light, word
from .dice import Dice
from .lexicon import (
    EASY_WORDS,
    FORM_CITIES,
    FORM_CITY_LABELS,
    FORM_DATE_LABELS,
    FORM_LABELS,
    FORM_NAME_LABELS,
    FORM_NAMES,
    WORDS,
)
from .staging import phrase
from .task import Draft, Task, ask, place

_PAGES = ((1, 1), (1, 1), (4, 3), (3, 4), (2, 1), (17, 22))


class Page:
    """A canvas with one typeface and one ink, and a record of every piece of text on it."""

    def __init__(self, dice: Dice, level: int, size: int, *, ratio: tuple[int, int] | None = None) -> None:
        wide, high = ratio or ((1, 1) if level == 1 else dice.pick(_PAGES))
        longer = max(wide, high)
        self.width, self.height = round(size * wide / longer), round(size * high / longer)
        self.unit = size / 128
        self.font = BOLD if level == 1 else dice.pick(FONTS[:4] if level == 2 else FONTS)
        paper, self.ink = light(dice, min(level, 2)), dark(dice)
        if level == 3 and dice.chance(0.25):
            paper, self.ink = self.ink, paper
        self.paper: Colour = paper
        self.canvas = Canvas(self.width, self.height, paper)
        self.pieces: list[dict[str, Any]] = []

    def write(self, text: str, x: int, y: int, size: int, *, colour: Colour | None = None, **known: Any) -> Box:
        """Write `text` with its line's top left at (x, y), higher where it would leave the page, and remember it."""
        drawn = word(text, self.font, size)
        y = min(y, self.height - drawn.dy - drawn.size[1])
        box = self.canvas.write(text, x, y, size=size, colour=colour or self.ink, name=self.font)
        self.pieces.append({"text": text, "box": list(box), "image": 0, **known})
        return box

    def write_at(self, text: str, x: int, y: int, size: int, *, colour: Colour | None = None, **known: Any) -> Box:
        """Write `text` with the top left of its ink at (x, y) and remember it."""
        box = self.canvas.write_at(text, x, y, size=size, colour=colour or self.ink, name=self.font)
        self.pieces.append({"text": text, "box": list(box), "image": 0, **known})
        return box

    @property
    def most_lines(self) -> int:
        """How many lines of legible text (11 units each) have room."""
        return int(self.height / self.unit / 11)

    def pixels(self, units: float) -> int:
        """A length given in 128ths of the longer side, in whole pixels."""
        return max(1, round(units * self.unit))

    def finish(self) -> Image:
        """The picture."""
        return self.canvas.finish()


def _somewhere(dice: Dice, page: Page, text: str, low: float, high: float) -> Box:
    """Write `text` at a random place inside the page, its size between `low` and `high` units if it fits the width."""
    size = fit(text, page.font, page.pixels(dice.uniform(low, high)), page.width - page.pixels(6))
    wide, high_px = word(text, page.font, size).size
    x = dice.between(1, max(1, page.width - wide - 1))
    y = dice.between(1, max(1, page.height - high_px - 1))
    return page.write_at(text, x, y, size)


def number_text(dice: Dice, level: int) -> str:
    """A number without leading zeros; from level 2 longer, from level 3 with separators, signs and decimals."""
    if level == 1:
        digits = dice.between(1, 3)
        return str(dice.between(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1))
    digits = dice.between(2, 5) if level == 2 else dice.between(3, 7)
    value = dice.between(10 ** (digits - 1), 10**digits - 1)
    if level == 2:
        return str(value)
    return dice.pick((str(value), f"{value:,}", f"-{value}", f"{value / 100:.2f}"))


def read_digit(dice: Dice, level: int, size: int) -> Draft:
    """One number."""
    page = Page(dice, level, size)
    text = number_text(dice, level)
    box = _somewhere(dice, page, text, *{1: (48, 76), 2: (24, 44), 3: (12, 28)}[level])
    question = phrase(dice, level, ("What number is shown?", "Which number do you see?", "Read the number."))
    return ask(page.finish(), question, text, boxes=[box], objects=page.pieces)


def read_word(dice: Dice, level: int, size: int) -> Draft:
    """One word; level 3 two words, and letters of both cases."""
    page = Page(dice, level, size)
    words = [dice.pick(EASY_WORDS if level == 1 else WORDS) for _ in range(2 if level == 3 else 1)]
    text = " ".join(words)
    if level > 1:
        text = dice.pick((text, text, text.upper(), text.capitalize()))
    box = _somewhere(dice, page, text, *{1: (44, 60), 2: (22, 40), 3: (12, 24)}[level])
    question = phrase(dice, level, ("What word is shown?", "Which word do you see?", "Read the text."))
    return ask(page.finish(), question, text, boxes=[box], objects=page.pieces)


def _fields(dice: Dice, level: int, rows: int) -> list[tuple[str, str]]:
    """Labels and values: numbers, from level 2 also amounts and names, at level 3 also cities and dates."""
    if level == 1:
        return [(label, str(dice.between(0, 99))) for label in dice.sample(FORM_LABELS[:6], rows)]
    known = FORM_LABELS + FORM_NAME_LABELS + (FORM_CITY_LABELS + FORM_DATE_LABELS if level == 3 else ())
    fields = []
    for label in dice.sample(known, rows):
        if label in FORM_NAME_LABELS:
            value = dice.pick(FORM_NAMES)
        elif label in FORM_CITY_LABELS:
            value = dice.pick(FORM_CITIES)
        elif label in FORM_DATE_LABELS:
            value = f"{dice.between(1, 28)}.{dice.between(1, 12)}.{dice.between(1990, 2029)}"
        else:
            value = str(dice.between(0, 999)) if dice.chance() else f"{dice.between(1, 99)}.{dice.between(0, 99):02}"
        fields.append((label, value))
    return fields


def form_field(dice: Dice, level: int, size: int) -> Draft:
    """A form of "label: value" rows (level 1: two rows, values 0-99); the value of one label is asked."""
    page = Page(dice, level, size)
    rows = min({1: 2, 2: dice.between(3, 4), 3: dice.between(5, 8)}[level], page.most_lines)
    fields = _fields(dice, level, rows)
    values = [value for _, value in fields]
    high = page.height // rows
    size_px = min(page.pixels(30 if level == 1 else 18), int(high * 0.72))
    lines = [f"{label}: {value}" for label, value in fields]
    size_px = min(fit(line, page.font, size_px, page.width - page.pixels(8)) for line in lines)
    gap = round(size_px * 0.35)
    wide = max(word(f"{label}:", page.font, size_px).size[0] for label, _ in fields)
    column = dice.chance() and wide + gap + page.pixels(4) + max(
        word(v, page.font, size_px).size[0] for v in values
    ) < page.width - page.pixels(4)
    boxes = []
    for i, (label, value) in enumerate(fields):
        y = i * high + dice.between(0, max(0, high - round(size_px * 1.25)))
        left = page.pixels(4)
        box = page.write(f"{label}:", left, y, size_px, role="label")
        boxes.append(page.write(value, (left + wide if column else int(box.x2)) + gap, y, size_px, role="value"))
    asked = dice.below(rows)
    question = phrase(dice, level, ("What is the {}?", "Read the {}.", "What does the form say for {}?"))
    return ask(
        page.finish(), question.format(fields[asked][0]), values[asked], boxes=[boxes[asked]], objects=page.pieces
    )


def table_read(dice: Dice, level: int, size: int) -> Draft:
    """A table with names of rows and columns; the cell of a row and a column is asked (level 1: 2 rows of 1 column)."""
    page = Page(dice, level, size, ratio=(1, 1) if level < 3 else (4, 3))
    rows, columns = {1: (2, 1), 2: (3, 2), 3: (dice.between(4, 6), 3)}[level]
    heads = dice.sample(FORM_LABELS[:6], columns)
    names = dice.sample([w for w in EASY_WORDS[:24] if w not in heads], rows)
    wide, high = page.width // (columns + 1), page.height // (rows + (columns > 1))
    size_px = min(page.pixels({1: 30, 2: 18, 3: 12}[level]), int(high * 0.7))
    texts = [*heads, *names, "88"] if columns > 1 else [*names, "88"]
    size_px = min(fit(text, page.font, size_px, wide - page.pixels(4)) for text in texts)
    cells: dict[tuple[int, int], tuple[str, Box]] = {}

    def cell(text: str, row: int, column: int, **known: Any) -> Box:
        area = Box(column * wide, row * high, (column + 1) * wide, (row + 1) * high)
        box = page.canvas.write_centred(text, area, size=size_px, colour=page.ink, name=page.font)
        page.pieces.append({"text": text, "box": list(box), "image": 0, **known})
        return box

    top = 1 if columns > 1 else 0
    for c, head in enumerate(heads if columns > 1 else []):
        cell(head, 0, c + 1, role="head")
    for r, name in enumerate(names):
        cell(name, r + top, 0, role="name")
        for c in range(columns):
            text = str(dice.between(0, 99))
            cells[r, c] = (text, cell(text, r + top, c + 1, role="value", at=[r, c]))
    red, green, blue = ((3 * p + i) // 4 for p, i in zip(page.paper, page.ink, strict=True))
    rule = (red, green, blue)
    for r in range(1, rows + top):
        page.canvas.line(0, r * high, page.width, r * high, rule)
    for c in range(1, columns + 1):
        page.canvas.line(c * wide, 0, c * wide, page.height, rule)
    r, c = dice.below(rows), dice.below(columns)
    question = f"What is the {heads[c]} of {names[r]}?" if columns > 1 else f"What is the value of {names[r]}?"
    text, box = cells[r, c]
    return ask(page.finish(), question, text, boxes=[box], objects=page.pieces)


def _lines(dice: Dice, level: int) -> list[str]:
    """The lines of a page of words and numbers."""
    if level == 1:
        return [
            dice.pick(EASY_WORDS) if dice.chance(0.6) else str(dice.between(0, 99)) for _ in range(dice.between(1, 3))
        ]
    lines = []
    for _ in range(dice.between(3, 5) if level == 2 else dice.between(6, 10)):
        items = [
            dice.pick(WORDS) if dice.chance(0.75) else str(dice.between(0, 999)) for _ in range(dice.between(1, 3))
        ]
        line = " ".join(items) if level == 2 else " ".join(items) + dice.pick(("", "", ".", ","))
        lines.append(dice.pick((line, line, line.capitalize(), line.upper())))
    return lines


def ocr_page(dice: Dice, level: int, size: int) -> Draft:
    """A page of lines and its whole text in reading order, lines parted by line breaks (level 1: by spaces)."""
    page = Page(dice, level, size)
    lines = _lines(dice, level)[: page.most_lines]
    high = page.height // len(lines)
    size_px = min(page.pixels({1: dice.uniform(30, 40), 2: 20, 3: 13}[level]), int(high * 0.8))
    size_px = min(fit(line, page.font, size_px, page.width - page.pixels(6)) for line in lines)
    indent = dice.chance()
    for i, line in enumerate(lines):
        slack = page.width - word(line, page.font, size_px).size[0] - page.pixels(4)
        x = page.pixels(2) + (dice.between(0, max(0, slack)) if indent else 0)
        y = i * high + dice.between(0, max(0, high - round(size_px * 1.25)))
        page.write(line, x, y, size_px)
    text = (" " if level == 1 else "\n").join(lines)
    boxes = [Box(*piece["box"]) for piece in page.pieces]
    return Draft(document(page.finish(), text), text, boxes, page.pieces)


def text_find(dice: Dice, level: int, size: int) -> Draft:
    """Where a word stands among others: the answer is its box."""
    page = Page(dice, level, size)
    rows, columns = {1: (2, 1), 2: (3, dice.between(1, 2)), 3: (dice.between(4, 5), 2)}[level]
    words = dice.sample(EASY_WORDS if level == 1 else WORDS, rows * columns)
    high, wide = page.height // rows, page.width // columns
    for i, text in enumerate(words):
        row, column = divmod(i, columns)
        size_px = page.pixels(dice.uniform(*{1: (24, 42), 2: (16, 26), 3: (11, 17)}[level]))
        size_px = fit(text, page.font, min(size_px, int(high * 0.8)), wide - page.pixels(4))
        drawn = word(text, page.font, size_px).size
        x = column * wide + dice.between(1, max(1, wide - drawn[0] - 2))
        y = row * high + dice.between(1, max(1, high - drawn[1] - 2))
        page.write_at(text, x, y, size_px)
    asked = dice.below(len(words))
    box = Box(*page.pieces[asked]["box"])
    question = phrase(dice, level, ("Where is the word {}?", "Find the text {}.", 'Where does it say "{}"?'))
    answer = [place(box, label=words[asked])]
    return ask(page.finish(), question.format(words[asked]), answer, boxes=[box], objects=page.pieces)


TASKS = (
    Task("read_digit", "text-rich", "text-rich", "exact", "the number shown", read_digit, 0.04),
    Task("read_word", "text-rich", "text-rich", "exact", "the word shown", read_word, 1 / 64),
    Task("form_field", "text-rich", "text-rich", "exact", "the value of a label of a form", form_field, 0.01),
    Task("table_read", "text-rich", "text-rich", "exact", "a cell of a table", table_read, 0.01),
    Task("ocr_page", "", "ocr", "", "a page and its text in reading order", ocr_page),
    Task("text_find", "refer-ground", "refer-ground", "iou", "box of a given word", text_find, 0.12),
)
