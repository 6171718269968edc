"""LLaVA's format (github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md), as a JSON list or JSONL:

    {"id": "1", "image": "a.jpg" or ["a.jpg", "b.jpg"],
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}

A picture stands where its ``<image>`` does (see `turns`). Rows without `image` are text. Coordinates in the text stay
as they are unless the source declares a convention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...sample import Image, Part, Role
from .rows import RowFormat
from .turns import Keys, read_turns, show, speak

SPEAKERS = {
    "human": Role.USER,
    "user": Role.USER,
    "gpt": Role.ASSISTANT,
    "assistant": Role.ASSISTANT,
    "system": Role.SYSTEM,
}
KEYS = Keys("conversations", "from", "value", SPEAKERS)


class LlavaRows(RowFormat):
    """What a LLaVA row means."""

    key = KEYS.turns

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The turns of a row in order, with its pictures in their places."""
        for turn, contents in show(read_turns(row, KEYS), self.named(row)):
            yield from speak(turn, contents)

    def named(self, row: dict[str, Any]) -> list[Image]:
        """The pictures a row names."""
        named = row.get("image") or row.get("images") or []
        return [self.picture(name) for name in (named if isinstance(named, list) else [named])]
