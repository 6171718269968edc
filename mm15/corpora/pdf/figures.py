"""The figures of a page: its pictures and included drawings, as boxes in pixels of the page's picture.

A figure is an image or a form (what LaTeX's includegraphics and most programs place as one object); those that overlap
are one. Drawings whose lines stand in the page itself (TikZ, most plots of Word) cannot be told from rules and frames
by their objects and are not taken.
"""

from __future__ import annotations

from typing import Any

from ...regions import Box
from .document import Placer, Word, pdfium
from .layout import around, inside, middle

SMALLEST = 64
"""A figure is at least so many pixels wide and high, ..."""
LONGEST = 5
"""... at most so many times as long as wide (others are bars and rules), ..."""
LARGEST = 0.8
"""... and at most this share of the page: more is a background or a scan."""
MARK = "\ufffc"
"""The text of a figure's place among words (Unicode's object replacement character)."""


def find_figures(page: Any, size: tuple[int, int]) -> list[Box]:
    """The boxes of a loaded page's figures, top to bottom; `size` is that of its picture."""
    raw, place = pdfium().raw, Placer(page, size)
    found: list[Box] = []
    for item in page.get_objects(filter=(raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_FORM), max_depth=1):
        x1, y1, x2, y2 = place(*item.get_bounds())
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
        if x1 < x2 and y1 < y2:
            found.append(Box(x1, y1, x2, y2))
    merged = _merged(found)
    return sorted((box for box in merged if _is_figure(box, size)), key=lambda box: (box.y1, box.x1))


def _is_figure(box: Box, size: tuple[int, int]) -> bool:
    short, long = sorted((box.x2 - box.x1, box.y2 - box.y1))
    return short >= SMALLEST and long <= LONGEST * short and box.area <= LARGEST * size[0] * size[1]


def place_words(words: list[Word], figures: list[Box]) -> list[Word]:
    """The words outside figures, and one word MARK for each figure."""
    outside = [word for word in words if not any(inside(middle(word.box), figure) for figure in figures)]
    return outside + [Word(MARK, figure, (*figure,), True, True) for figure in figures]  # type: ignore[arg-type]


def _merged(boxes: list[Box]) -> list[Box]:
    """Boxes joined until none overlap."""
    done: list[Box] = []
    for box in boxes:
        while True:
            hit = [b for b in done if b.x1 < box.x2 and box.x1 < b.x2 and b.y1 < box.y2 and box.y1 < b.y2]
            if not hit:
                break
            done = [b for b in done if b not in hit]
            box = around([box, *hit])
        done.append(box)
    return done
