"""How conventions write places in text, each read and written by one small class (JSON: `objects`).

    Brackets    a cat [100, 200, 300, 400]
    Tagged      <ref>a cat</ref><box>[[100, 200, 300, 400]]</box>           and what stands inside the box tags:
                Lists [[..], [..]] - Pairs (x1,y1),(x2,y2) - PatchTokens <patch_index_0044><patch_index_0863>
    PointTags   <point x="41.0" y="43.0" alt="a cat">a cat</point>
    Locations   <loc0256><loc0128><loc0768><loc0512> a cat ; <loc..

Reading is one pass of patterns that cannot backtrack over more than they matched, so its time is linear; no text makes
it raise. What looks like a place and is none is `Found` with a reason; words where numbers belong are just text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .coordinates import phrase_before
from .marks import NUMBER_LIKE, Found, Mark, Piece, is_template, runs, said, unsaid, with_strays

_BRACKET = re.compile(r"\[([^\[\]]+)(\]?)")
_NUMBERS = re.compile(r"(?:[0-9\s,;.+-]+|(?i:e[+-]?[0-9]|nan|infinity|inf))*")  # to `match` with: it never fails


@dataclass(frozen=True)
class Brackets:
    """Numbers in square brackets, separated by `comma`; where `several`, one bracket may hold more, separated by `;`.

    The label is the phrase before the bracket, or before the brackets before it. The words are text anyway, and a label
    that is not among them is not written: there is no place for it.
    """

    comma: str = ", "
    several: bool = False

    def find(self, text: str) -> list[Found]:
        found: list[Found] = []
        last, label = 0, ""
        for match in _BRACKET.finditer(text):
            inside, closed = match.groups()
            numbers = _NUMBERS.match(inside)
            end = 0 if numbers is None else numbers.end()
            if closed and end == len(inside) and NUMBER_LIKE.search(inside):
                between = text[last : match.start()]
                if not found or re.sub(r"\band\b", "", between).strip(" \t,"):
                    label = phrase_before(between)
                found.append(self._read(match, inside, label))
                last = match.end()
            elif not closed and len(_numbers_in(inside[:end])) > 1:
                found.append(Found(match.start(), match.start() + 1 + end, why="its bracket is not closed"))
        return found

    def _read(self, match: re.Match[str], inside: str, label: str) -> Found:
        if ";" in inside and not self.several:
            return Found(match.start(), match.end(), why="there is a ';' between its numbers")
        marks = [Mark(_split(row), label) for row in inside.split(";")]
        return Found(match.start(), match.end(), said("", marks))

    def write(self, pieces: Sequence[Piece]) -> str:
        if not self.several:
            return "".join(piece if isinstance(piece, str) else self._row([piece]) for piece in pieces)
        written = []
        for text, marks in runs(pieces):
            kinds = itertools.groupby(marks, lambda mark: len(mark.numbers))  # points and boxes do not mix
            written += [text, " ".join(self._row(list(kind)) for _, kind in kinds)]
        return "".join(written)

    def _row(self, marks: Sequence[Mark]) -> str:
        return "[" + ";".join(self.comma.join(mark.numbers) for mark in marks) + "]"


class Inside(Protocol):
    """What stands between the tags of a box."""

    @property
    def together(self) -> bool:
        """Whether all places of one label stand in one pair of tags."""

    def read(self, inside: str) -> list[tuple[str, ...]]:
        """The numbers of each place; ValueError when it is not of the form."""

    def write(self, places: Sequence[tuple[str, ...]]) -> str:
        """The other way."""


@dataclass(frozen=True)
class Lists:
    """`[[1, 2, 3, 4], [5, 6, 7, 8]]`; one place is read without its outer bracket, too."""

    together: bool = True

    def read(self, inside: str) -> list[tuple[str, ...]]:
        if not re.fullmatch(r"\s*(?:\[[^\[\]]*\]|\[\s*\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*\s*\])\s*", inside):
            raise ValueError("it is not a list of lists of numbers")
        return [_split(row) for row in re.findall(r"\[([^\[\]]*)\]", inside)]

    def write(self, places: Sequence[tuple[str, ...]]) -> str:
        return "[" + ", ".join("[" + ", ".join(numbers) + "]" for numbers in places) + "]"


@dataclass(frozen=True)
class Pairs:
    """`(x1,y1),(x2,y2)`, a point is `(x,y)`; each place in tags of its own."""

    together: bool = False

    def read(self, inside: str) -> list[tuple[str, ...]]:
        if not re.fullmatch(r"\s*\([^(),]*,[^(),]*\)(?:\s*,\s*\([^(),]*,[^(),]*\))?\s*", inside):
            raise ValueError("it is not (x1,y1),(x2,y2)")
        return [tuple(n for pair in re.findall(r"\(([^()]*)\)", inside) for n in _split(pair))]

    def write(self, places: Sequence[tuple[str, ...]]) -> str:
        return ",".join(f"({x},{y})" for numbers in places for x, y in zip(numbers[::2], numbers[1::2], strict=True))


@dataclass(frozen=True)
class PatchTokens:
    """`<patch_index_0044><patch_index_0863>`, further boxes after `</delimiter_of_multi_objects/>`."""

    together: bool = True

    def read(self, inside: str) -> list[tuple[str, ...]]:
        places = []
        for box in inside.split("</delimiter_of_multi_objects/>"):
            match = re.fullmatch(r"\s*<patch_index_([0-9]+)>\s*<patch_index_([0-9]+)>\s*", box)
            if match is None:
                raise ValueError("it is not two patches a box")
            places.append(match.groups())
        return places

    def write(self, places: Sequence[tuple[str, ...]]) -> str:
        boxes = ["".join(f"<patch_index_{number:0>4}>" for number in numbers) for numbers in places]
        return "</delimiter_of_multi_objects/>".join(boxes)


@dataclass(frozen=True)
class Tagged:
    """A label in `label` tags and, directly after it, its places in `box` tags; places may stand alone.

    A label without places is text (that is how models are asked for places). `space_inside`: the space before a label
    stands behind its opening tag. `tokens`: what else belongs to no text.
    """

    label: tuple[str, str]
    box: tuple[str, str]
    inside: Inside
    space_inside: bool = False
    tokens: str = ""

    def find(self, text: str) -> list[Found]:
        tags = "|".join(map(re.escape, self.label + self.box))
        hints = re.compile(f"{tags}|{self.tokens}" if self.tokens else tags)
        return with_strays(text, self._pairs(text, list(re.finditer(tags, text))), hints, "place")

    def _pairs(self, text: str, tags: list[re.Match[str]]) -> Iterator[Found]:
        n = 0
        while n < len(tags):
            first = n
            words = None
            if _is_pair(tags, n, self.label):
                words = text[tags[n].end() : tags[n + 1].start()]
                n += 2
            insides = []
            while _is_pair(tags, n, self.box) and (n == first or not text[tags[n - 1].end() : tags[n].start()].strip()):
                insides.append(text[tags[n].end() : tags[n + 1].start()])
                n += 2
            if n == first:
                n += 1  # a stray, reported as such
                continue
            start, end = tags[first].start(), tags[n - 1].end()
            yield self._read(start, end, words, insides) if insides else Found(start, end)

    def _read(self, start: int, end: int, words: str | None, insides: list[str]) -> Found:
        if words is not None and not words.strip():
            return Found(start, end, why="its label is empty")
        if all(is_template(i) and not (self.tokens and re.search(self.tokens, i)) for i in insides):
            return Found(start, end)
        label = (words or "").strip()
        try:
            marks = [Mark(numbers, label) for inside in insides for numbers in self.inside.read(inside)]
        except ValueError as error:
            return Found(start, end, why=str(error))
        return Found(start, end, said(words or "", marks))

    def write(self, pieces: Sequence[Piece]) -> str:
        written = []
        for text, marks in runs(pieces):
            label = marks[0].label.strip() if marks else ""
            before = unsaid(text, label)
            before = text if before is None else before
            if label:
                space = " " if self.space_inside and before.endswith(" ") else ""
                before = before.removesuffix(space) + self.label[0] + space + label + self.label[1]
            written.append(before)
            places = [mark.numbers for mark in marks]
            for group in [places] if self.inside.together and places else [[place] for place in places]:
                written.append(self.box[0] + self.inside.write(group) + self.box[1])
        return "".join(written)


_POINT_TAG = re.compile(r"<points?\b[^<>]*>|</points?>")
_POINT_HINT = re.compile(r"</?points?\b")
_POINT_OPEN = re.compile(r"<(points?)((?:\s+[xy][0-9]*=\"[^\"<>]*\")*)(?:\s+alt=\"([^<>]*)\")?\s*>")


@dataclass(frozen=True)
class PointTags:
    """`<point x="41.0" y="43.0" alt="a cat">a cat</point>`; several: `<points x1=".." y1=".." x2=".." y2=".." alt=..`.

    The label is `alt`; nothing is escaped, so that a label may hold quotes but no angle brackets.
    """

    def find(self, text: str) -> list[Found]:
        found = []
        for opening, closing in itertools.pairwise(_POINT_TAG.finditer(text)):
            name = _POINT_HINT.match(opening.group())
            if name is not None and closing.group() == f"</{name.group()[1:]}>":
                found.append(
                    self._read((opening.start(), closing.end()), opening, text[opening.end() : closing.start()])
                )
        return with_strays(text, found, _POINT_HINT, "point")

    def _read(self, span: tuple[int, int], opening: re.Match[str], words: str) -> Found:
        match = _POINT_OPEN.fullmatch(opening.group())
        if match is None:
            return Found(*span, why='its tag is not <point x=".." y=".." alt="..">')
        values = re.findall(r"([xy][0-9]*)=\"([^\"]*)\"", match[2])
        if is_template(" ".join(value for _, value in values)):
            return Found(*span)
        ends = [""] if match[1] == "point" else [str(n) for n in range(1, len(values) // 2 + 1)]
        if not values or [name for name, _ in values] != [axis + end for end in ends for axis in "xy"]:
            names = "x, y" if match[1] == "point" else "x1, y1, x2, y2, .."
            return Found(*span, why=f"its attributes are not {names}")
        numbers = [value.strip() for _, value in values]
        label = match[3] if match[3] is not None else words
        marks = [Mark(pair, label.strip()) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
        return Found(*span, said(words, marks))

    def write(self, pieces: Sequence[Piece]) -> str:
        written = []
        for text, marks in runs(pieces):
            label = marks[0].label if marks else ""
            before = unsaid(text, label)
            written.append(text if before is None else before)
            if not marks:
                continue
            tag, ends = ("point", [""]) if len(marks) == 1 else ("points", [str(n + 1) for n in range(len(marks))])
            places = [
                f'x{end}="{x}" y{end}="{y}"' for end, (x, y) in zip(ends, (m.numbers for m in marks), strict=True)
            ]
            words = "" if before is None else label
            written.append(f'<{tag} {" ".join(places)} alt="{label}">{words}</{tag}>')
        return "".join(written)


_LOCATIONS = re.compile(r"(?:<loc[0-9]*>)+")
_LABEL_END = re.compile(r"[;\n]|<loc|<seg|\Z")


@dataclass(frozen=True)
class Locations:
    """Four `<loc0000>` tokens, then the label up to `;`, the end of the line or the next token."""

    def find(self, text: str) -> list[Found]:
        found = []
        for match in _LOCATIONS.finditer(text):
            start, end = match.span()
            stop = _LABEL_END.search(text, end)
            assert stop is not None  # the end of the text at the latest
            label = text[end : stop.start()].rstrip()
            if not re.fullmatch(r"(?:<loc[0-9]{4}>)+", match.group()):
                found.append(Found(start, end, why="a location token has four digits"))
            elif len(numbers := tuple(re.findall(r"[0-9]+", match.group()))) != 4:
                found.append(Found(start, end, why=f"{len(numbers)} location tokens are not a box (4)"))
            elif stop.group() == "<seg":
                found.append(Found(start, end, why="a mask follows, which would be lost"))
            else:
                place = Mark(numbers, label.strip())
                found.append(Found(start, end + len(label), said(label.strip(), [place])))
        return with_strays(text, found, re.compile(r"<loc[0-9]*>"), "box")

    def write(self, pieces: Sequence[Piece]) -> str:
        written: list[str] = []
        for text, marks in runs(pieces):
            label = marks[0].label if marks else ""
            before = unsaid(text, label)
            boxes = ["".join(f"<loc{n:0>4}>" for n in mark.numbers) + (f" {label}" if label else "") for mark in marks]
            written += [text if before is None else before, " ; ".join(boxes)]
        return "".join(written)


def _is_pair(tags: list[re.Match[str]], n: int, pair: tuple[str, str]) -> bool:
    return n + 1 < len(tags) and (tags[n].group(), tags[n + 1].group()) == pair


def _split(row: str) -> tuple[str, ...]:
    return tuple(number.strip() for number in row.split(","))


def _numbers_in(text: str) -> list[str]:
    return [part for part in text.split(",") if any(c in "0123456789" for c in part)]
