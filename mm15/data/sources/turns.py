"""Turns of a conversation as texts with markers, as LLaVA writes them and many formats after it.

    "<image>\nWhat is this?"   ->   Image, "What is this?"

A picture stands where its ``<image>`` does. Rows with pictures and no marker at all show the pictures first, as LLaVA
does; any other difference in their numbers is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import UserError
from ...sample import Content, Image, Part, Role, Video

MARKER = "<image>"
"""Where a picture stands in a text."""


@dataclass(frozen=True)
class Turn:
    """What one speaker says, as a text with markers; `target`: whether it is trained on."""

    role: Role
    text: str
    target: bool = False


@dataclass(frozen=True)
class Keys:
    """What a format calls things: its list of turns, the keys of a turn, and its speakers."""

    turns: str
    speaker: str
    text: str
    speakers: Mapping[str, Role]
    target: str | None = None
    """Key of a turn that says whether it is trained on (default: what the assistant says)."""


def read_turns(row: Mapping[str, Any], keys: Keys) -> list[Turn]:
    """The turns of a row, checked."""
    turns = row.get(keys.turns)
    if not isinstance(turns, list):
        raise UserError(f"{keys.turns!r} is a list of turns, got {turns!r:.80}")
    found = []
    for number, turn in enumerate(turns):
        speaker, text = (turn.get(keys.speaker), turn.get(keys.text)) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or speaker not in keys.speakers or not isinstance(text, str):
            known = ", ".join(keys.speakers)
            raise UserError(
                f"turn {number} needs {keys.speaker!r} (one of {known}) and a text as {keys.text!r}, got {turn!r:.80}"
            )
        role = keys.speakers[speaker]
        found.append(Turn(role, text, role is Role.ASSISTANT and _trained(turn, number, keys.target)))
    return found


def _trained(turn: Mapping[str, Any], number: int, key: str | None) -> bool:
    said = turn.get(key) if key else None
    if said is not None and not isinstance(said, bool):
        raise UserError(f"turn {number}: {key!r} is true or false, got {said!r:.80}")
    return said is not False


def show(
    turns: Sequence[Turn], pictures: Sequence[Image], *, lines: bool = True
) -> Iterator[tuple[Turn, list[Content]]]:
    """Each turn with its text and pictures in order. With `lines`, a line break between a marker and the text is the
    marker's."""
    markers = sum(turn.text.count(MARKER) for turn in turns)
    if pictures and not markers:
        turns = _pictures_first(turns, len(pictures))
    elif markers != len(pictures):
        raise UserError(f"{markers} {MARKER} markers and {len(pictures)} pictures; there must be one marker for each")
    left = iter(pictures)
    for turn in turns:
        yield turn, list(_contents(turn.text, left, lines=lines))


def speak(turn: Turn, contents: Iterable[Content]) -> Iterator[Part]:
    """The parts of a turn. UserError when it has none, because the turns around it would become one."""
    empty = turn.role is not Role.SYSTEM
    for content in contents:
        empty = False
        yield Part(content, turn.role, turn.target and not isinstance(content, Image | Video))
    if empty:
        raise UserError(f"a turn of the {turn.role.value} says nothing; write what is missing or drop the row")


def fill(
    contents: Iterable[Content], pattern: re.Pattern[str], filled: Callable[[re.Match[str]], Content]
) -> list[Content]:
    """The contents with each match of `pattern` in their texts replaced by what `filled` makes of it."""
    found: list[Content] = []
    for content in contents:
        if not isinstance(content, str):
            found.append(content)
            continue
        at = 0
        for match in pattern.finditer(content):
            found += [content[at : match.start()], filled(match)]
            at = match.end()
        found.append(content[at:])
    return join(found)


def join(contents: Iterable[Content]) -> list[Content]:
    """Contents with texts that follow each other joined, and none that is empty."""
    pieces: list[Content | list[str]] = []
    for content in contents:
        if not isinstance(content, str):
            pieces.append(content)
        elif pieces and isinstance(pieces[-1], list):
            pieces[-1].append(content)
        else:
            pieces.append([content])
    joined = ("".join(piece) if isinstance(piece, list) else piece for piece in pieces)
    return [piece for piece in joined if piece != ""]


def _pictures_first(turns: Sequence[Turn], pictures: int) -> list[Turn]:
    """The turns with one marker for each picture at the start of the first question."""
    for number, turn in enumerate(turns):
        if turn.role is Role.USER:
            return [*turns[:number], replace(turn, text=MARKER * pictures + turn.text), *turns[number + 1 :]]
    raise UserError(f"{pictures} pictures, but no turn is the user's to show them in; add one")


def _contents(text: str, left: Iterator[Image], *, lines: bool) -> Iterator[Content]:
    first, *rest = text.split(MARKER)
    if lines and rest:
        first = first.removesuffix("\n")
    if first:
        yield first
    for number, piece in enumerate(rest):
        yield next(left)
        if lines:
            piece = piece.removeprefix("\n").removesuffix("\n" if number < len(rest) - 1 else "")
        if piece:
            yield piece
