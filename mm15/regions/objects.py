"""Places as JSON objects in text (Qwen2.5-VL, Qwen3-VL, Gemini), read by a strict parser.

    [{"bbox_2d": [1, 2, 3, 4], "label": "a cat"}, {"bbox_2d": [5, 6, 7, 8], "label": "a dog"}]

Flat objects are cut out of the text in one pass that knows strings, and each that holds the key of a place is parsed
alone: nothing nests, so no text can exhaust the stack. An object is a place only when nothing of it would be lost: one
place, a label or none, no other key. The list around objects belongs to them; a code fence around the list is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .marks import Found, Mark, Piece, is_template, runs, said, unsaid, with_strays
from .syntaxes import Brackets

# Inside an object: a whole string, a brace, or a backslash with what it escapes (which ends the object).
_STRING = r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_INSIDE = re.compile(_STRING + r'|[{}"]|\\.?', re.DOTALL)
_LIST_END = re.compile(r"\s*\]")
_NEXT = re.compile(r"\s*,\s*")
BETWEEN = "\n"
"""What stands between the objects of one list when they are read: one line each."""


class _Digits(str):
    """A JSON number as it stands in the text; JSON strings stay str."""


@dataclass(frozen=True)
class Objects:
    """JSON objects with the key `box` or `point`, and `label`. `brackets` reads places in the rest of the text."""

    box: str
    point: str
    brackets: Brackets | None = None

    def find(self, text: str) -> list[Found]:
        key = re.compile(rf"[\"'](?:{self.box}|{self.point})[\"']\s*:")
        found = list(self._lists(text, [span for span in _objects(text) if key.search(text, *span)]))
        found = with_strays(text, found, key, "JSON object")
        return found if self.brackets is None else _merged(found, self.brackets.find(text))

    def _lists(self, text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Found]:
        """Neighbouring objects together with the list around them."""
        n = 0
        while n < len(spans):
            group = [spans[n]]
            while n + len(group) < len(spans) and _NEXT.fullmatch(text, group[-1][1], spans[n + len(group)][0]):
                group.append(spans[n + len(group)])
            floor = spans[n - 1][1] if n else 0
            n += len(group)
            yield from self._read(text, group, floor)

    def _read(self, text: str, group: Sequence[tuple[int, int]], floor: int) -> Iterator[Found]:
        start, end = group[0][0], group[-1][1]
        read = [self._object(text[a:b]) for a, b in group]
        marks = [one for one in read if isinstance(one, Mark)]
        opening, closing = _opening(text, start, floor), _LIST_END.match(text, end)
        if len(marks) < len(read):
            # Beside a bad neighbour a good one stays text: the reading as a whole is not to be used.
            mixed = "words stand where numbers belong" if marks else ""
            for span, one in zip(group, read, strict=True):
                yield Found(*span, why="" if isinstance(one, Mark) else one or mixed)
        elif opening is None and closing is None:
            for span, mark in zip(group, marks, strict=True):
                yield Found(*span, said(mark.label, [mark]))
        elif opening is None or closing is None:
            yield Found(start, end, why="the list around it is not closed, or holds something else")
        else:
            lines = [[BETWEEN, *said(mark.label, [mark])] for mark in marks]
            yield Found(opening, closing.end(), tuple(piece for line in lines for piece in line)[1:])

    def _object(self, text: str) -> Mark | str:
        """The place that a JSON object is, or why it is none; "" for a template."""
        numbers = re.search(rf"[\"'](?:{self.box}|{self.point})[\"']\s*:\s*\[([^\[\]]*)\]", text)
        if numbers is not None and is_template(numbers[1]):
            return ""
        if re.sub(_STRING, "", text).count("[") > 1:
            return "it holds lists in lists, or several"
        try:
            found = json.loads(
                text, object_pairs_hook=_unique, parse_int=_Digits, parse_float=_Digits, parse_constant=_Digits
            )
        except ValueError as error:
            return f"it is not JSON ({error})"
        keys = [key for key in (self.box, self.point) if key in found]
        others = set(found) - {self.box, self.point, "label"}
        if len(keys) != 1 or others:
            return f"{min(others)!r:.40} beside the place would be lost" if others else "it holds a box and a point"
        values, label = found[keys[0]], found.get("label", "")
        if not isinstance(values, list) or not all(isinstance(value, _Digits) for value in values):
            return f"its {keys[0]} is not a list of numbers"
        if len(values) != (4 if keys[0] == self.box else 2):
            return f"its {keys[0]} has {len(values)} numbers"
        if isinstance(label, _Digits) or not isinstance(label, str):
            return "its label is not a string"
        return Mark(tuple(str(value) for value in values), label)

    def write(self, pieces: Sequence[Piece]) -> str:
        written: list[str] = []
        items: list[str] = []
        for text, marks in runs(pieces):
            label = marks[0].label if marks else ""
            before = unsaid(text, label)
            before = text if before is None else before
            if items and not (marks and before in ("", BETWEEN)):
                written.append("[" + ", ".join(items) + "]")
                items = []
            if not items:
                written.append(before)
            items += [self._item(mark) for mark in marks]
        return "".join(written)

    def _item(self, mark: Mark) -> str:
        key = self.box if len(mark.numbers) == 4 else self.point
        label = f', "label": {json.dumps(mark.label, ensure_ascii=False)}' if mark.label else ""
        return f'{{"{key}": [{", ".join(mark.numbers)}]{label}}}'


def _objects(text: str) -> Iterator[tuple[int, int]]:
    """Where the objects without objects in them start and end. Each character is looked at a bounded number of times:
    a string that does not end has no quote after it that could start another."""
    start = text.find("{")
    position = start + 1
    while start >= 0:
        token = _INSIDE.search(text, position)
        if token is None:
            return
        position = token.end()
        if token.group() == "{":
            start = token.start()
        elif token.group() in ("}", '"') or token.group()[0] == "\\":
            if token.group() == "}":
                yield start, position
            start = text.find("{", position)
            position = start + 1


def _opening(text: str, start: int, floor: int) -> int | None:
    """Where the list that holds the object at `start` begins; None when no `[` is directly before it."""
    while start > floor and text[start - 1].isspace():
        start -= 1
    return start - 1 if start > floor and text[start - 1] == "[" else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _merged(first: list[Found], second: list[Found]) -> list[Found]:
    """`first`, and what of `second` lies outside of it."""
    kept, n = [], 0
    for found in second:
        while n < len(first) and first[n].end <= found.start:
            n += 1
        if n == len(first) or found.end <= first[n].start:
            kept.append(found)
    return sorted([*first, *kept], key=lambda f: f.start)
