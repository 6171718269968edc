"""What the syntaxes of conventions are made of: marks in a text, where they were found, and the words beside them.

A mark is the numbers of a place, still as text, and the label that it is of. A label is always words of the text as
well, directly before its marks, whatever the syntax did with it (`<ref>a cat</ref><box>..</box>` reads as the pieces
"a cat ", mark): tags go, words stay, and what a model is trained to say is whole. `unsaid` takes the words off again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Mark:
    """The numbers of one place as they stand in the text, in the order of the text, and its label."""

    numbers: tuple[str, ...]
    label: str = ""


Piece = str | Mark


@dataclass(frozen=True)
class Found:
    """A stretch of a text and what it holds: `pieces`; or `why` it is malformed; or neither, then it is just text."""

    start: int
    end: int
    pieces: tuple[Piece, ...] = ()
    why: str = ""


class Syntax(Protocol):
    """One way of writing marks in text. Reading costs time linear in the text and raises nothing."""

    def find(self, text: str) -> list[Found]:
        """Everything that is a mark or looks like one, in order, without overlaps."""

    def write(self, pieces: Sequence[Piece]) -> str:
        """The text of pieces; with the syntax's own signs in a label or a text, it reads as something else."""


PLAIN_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
NUMBER_LIKE = re.compile(r"(?<![A-Za-z0-9_])(?:[+-]?\.?[0-9]|[+-]?(?i:nan|inf(?:inity)?)\b)")
"""Where a number begins, were it not for what may follow."""
LONGEST_NUMBER = 24
"""Digits. A double has 17; anything longer is no coordinate, and converting it may take quadratic time."""


def number_of(text: str) -> int | float:
    """A number from 0 in plain decimal digits; ValueError for everything else (signs, exponents, nan, inf)."""
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"{text[:LONGEST_NUMBER]}.. ({len(text)} characters) is too long for a number")
    if not PLAIN_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number from 0 in plain decimal digits")
    return float(text) if "." in text else int(text)


def is_template(inside: str) -> bool:
    """Whether words stand where the numbers belong (`x1, y1, x2, y2`, `None`): instructions, not a place gone wrong."""
    return bool(re.search(r"[^\W\d_]|\.\.\.|…", inside)) and not NUMBER_LIKE.search(inside)


def said(words: str, marks: Sequence[Mark]) -> tuple[Piece, ...]:
    """The words of a label and its marks, as pieces that read well."""
    pieces: list[Piece] = [] if not words else [words if words[-1].isspace() else words + " "]
    for mark in marks:
        pieces += [mark] if not pieces or isinstance(pieces[-1], str) else [" ", mark]
    return tuple(pieces)


def unsaid(text: str, label: str) -> str | None:
    """The text without the label at its end; None where it does not end with it."""
    if not label:
        return None
    words = text.removesuffix(" ")
    return words.removesuffix(label) if words.endswith(label) else None


def runs(pieces: Iterable[Piece]) -> Iterator[tuple[str, list[Mark]]]:
    """Text and the marks after it, over and over: marks of one label with at most a space between are one run.

    The last run has no marks, only the text that is left.
    """
    text, marks = "", list[Mark]()
    gap = ""
    for piece in pieces:
        if isinstance(piece, str):
            gap += piece
        elif marks and gap in ("", " ") and piece.label == marks[0].label:
            marks.append(piece)
            gap = ""
        else:
            if marks:
                yield text, marks
            text, marks, gap = gap, [piece], ""
    if marks:
        yield text, marks
    yield gap, []


def with_strays(text: str, found: Iterable[Found], hints: re.Pattern[str], what: str) -> list[Found]:
    """`found`, and every hint outside of it as malformed: nothing that belongs to a mark is taken for text."""
    listed = sorted(found, key=lambda f: f.start)
    strays, n, last = [], 0, 0
    for hint in hints.finditer(text):
        while n < len(listed) and listed[n].end <= hint.start():
            n += 1
        if hint.start() >= last and (n == len(listed) or hint.start() < listed[n].start):
            strays.append(
                Found(hint.start(), hint.end(), why=f"{hint.group()!r:.40} stands alone, not in a whole {what}")
            )
            last = hint.end()
    return sorted([*listed, *strays], key=lambda f: f.start)
