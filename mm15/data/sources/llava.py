"""LLaVA's format (github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md), as a JSON list or JSONL:

    {"id": "1", "image": "a.jpg" or ["a.jpg", "b.jpg"],
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}

A picture stands where its ``<image>`` does. Rows with pictures and no marker at all show the pictures first, as LLaVA
does; any other difference in their numbers is an error. Rows without `image` are text. Coordinates in the text stay
as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...sample import Content, Part, assistant, system, user
from .rows import JsonSource

MARKER = "<image>"
"""Where a picture stands in a text."""

_SPEAKERS = {"human": user, "user": user, "gpt": assistant, "assistant": assistant, "system": system}


class LlavaData(JsonSource):
    """A LLaVA file as a source; see `JsonSource`."""

    key = "conversations"

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The turns of a row in order, with its pictures in their places."""
        turns = _turns(row)
        named = row.get("image") or row.get("images") or []
        pictures = [self.picture(name) for name in (named if isinstance(named, list) else [named])]
        markers = sum(text.count(MARKER) for _, text in turns)
        if pictures and not markers:
            turns = _pictures_first(turns, len(pictures))
        elif markers != len(pictures):
            raise UserError(
                f"{markers} {MARKER} markers and {len(pictures)} pictures; there must be one marker for each"
            )
        left = iter(pictures)
        for speaker, text in turns:
            yield from _SPEAKERS[speaker](*_contents(text, left))


def _turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(speaker, text) of each turn, checked."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise UserError(f"'conversations' is a list of turns, got {turns!r:.80}")
    found = []
    for number, turn in enumerate(turns):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if speaker not in _SPEAKERS or not isinstance(text, str):
            known = ", ".join(_SPEAKERS)
            raise UserError(f"turn {number} needs 'from' (one of {known}) and a text as 'value', got {turn!r:.80}")
        found.append((speaker, text))
    return found


def _pictures_first(turns: list[tuple[str, str]], pictures: int) -> list[tuple[str, str]]:
    """The turns with one marker for each picture at the start of the first question."""
    for number, (speaker, text) in enumerate(turns):
        if _SPEAKERS[speaker] is user:
            return [*turns[:number], (speaker, MARKER * pictures + text), *turns[number + 1 :]]
    raise UserError(f"{pictures} pictures, but no turn is from 'human' to show them in; add one")


def _contents(text: str, left: Iterator[Content]) -> Iterator[Content]:
    """Text and pictures of one turn; a line break between a marker and the text is the marker's."""
    first, *rest = text.split(MARKER)
    if first.removesuffix("\n" if rest else ""):
        yield first.removesuffix("\n" if rest else "")
    for number, piece in enumerate(rest):
        yield next(left)
        piece = piece.removeprefix("\n").removesuffix("\n" if number < len(rest) - 1 else "")
        if piece:
            yield piece
