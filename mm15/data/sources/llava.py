"""LLaVA's format (github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md), as a JSON list or JSONL:

    {"id": "1", "image": "a.jpg" or ["a.jpg", "b.jpg"],
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}

A picture stands where its ``<image>`` does. Rows with pictures and no marker at all show the pictures first, as LLaVA does; any
other difference in their numbers is an error. Rows without `image` are text. Coordinates in the text stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...sample import Image, Part, Sample, assistant, system, user
from .rows import JsonRows

MARKER = "<image>"

_SPEAKERS = {
    "human": user,
    "user": user,
    "gpt": assistant,
    "assistant": assistant,
    "system": system,
}


class LlavaData:
    """A LLaVA file as a source. Pictures lie below `images`, by default beside the file.

    Sample ids read ``index:id``, because ids repeat in the files of the field.
    """

    def __init__(self, path: str | Path, name: str, *, images: str | Path | None = None) -> None:
        self.name = name
        self._rows = JsonRows(path, images=images)
        self.fingerprint = f"{name}:{len(self._rows)}:{self._rows.digest}"
        if "conversations" not in self._rows[0]:
            raise UserError(f"{self._rows.where(0)}: LLaVA rows have 'conversations', this has {_keys(self._rows[0])}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError with line and id when the row cannot be used."""
        row = self._rows[index]
        identity = f"{index}:{row['id']}" if "id" in row else str(index)
        where = f"{self._rows.where(index)} (id {row['id']!r})" if "id" in row else self._rows.where(index)
        turns = _turns(row, where)
        pictures = [self._rows.picture(name, where) for name in _named(row)]
        return Sample(identity, self.name, tuple(_parts(turns, pictures, where)), {"metric": "exact"})


def _named(row: dict[str, Any]) -> list[Any]:
    """The pictures a row names: `image` or `images`, one or a list."""
    named = row.get("image") or row.get("images") or []
    return named if isinstance(named, list) else [named]


def _turns(row: dict[str, Any], where: str) -> list[tuple[str, str]]:
    """(speaker, text) of each turn, checked."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: 'conversations' must be a list of turns; the row has {_keys(row)}")
    found = []
    for number, turn in enumerate(turns):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if speaker not in _SPEAKERS or not isinstance(text, str):
            known = ", ".join(_SPEAKERS)
            raise UserError(f"{where}: turn {number} needs 'from' (one of {known}) and a text as 'value', got {turn!r:.80}")
        found.append((speaker, text))
    if not any(_SPEAKERS[speaker] is assistant for speaker, _ in found):
        raise UserError(f"{where}: no turn is from 'gpt', so there is nothing to learn; add the answer or drop the row")
    return found


def _parts(turns: list[tuple[str, str]], pictures: list[Image], where: str) -> Iterator[Part]:
    markers = sum(text.count(MARKER) for _, text in turns)
    if markers and markers != len(pictures):
        raise UserError(f"{where}: {markers} {MARKER} markers and {len(pictures)} pictures; give as many of one as of the other")
    first = next((i for i, (speaker, _) in enumerate(turns) if _SPEAKERS[speaker] is user), None)
    if pictures and not markers and first is None:
        raise UserError(f"{where}: {len(pictures)} pictures, but no turn is from 'human' to show them in; add one")
    left = iter(pictures)
    for number, (speaker, text) in enumerate(turns):
        contents: list[Any] = list(pictures) if number == first and not markers else []
        for i, piece in enumerate(text.split(MARKER)):
            if i:
                contents.append(next(left))
                piece = piece.removeprefix("\n")
            if i < text.count(MARKER):
                piece = piece.removesuffix("\n")
            if piece:
                contents.append(piece)
        yield from _SPEAKERS[speaker](*contents)


def _keys(row: dict[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "no keys"
