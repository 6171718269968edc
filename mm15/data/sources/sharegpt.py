"""ShareGPT rows under any names, as LLaMA-Factory's dataset_info.json declares them (its data/README.md):

    {"conversations": [{"from": "human", "value": "<image>What is this?"}, {"from": "gpt", "value": "A cat."}],
     "images": ["a.jpg"], "system": "Be short."}

`columns` and `tags` of the source say what the file calls things; the defaults are those above. The `system` column, or
a first turn of the system, is what the model is told before; the turn wins, as there. Turns of tools are no turns here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...recipe import ShareGPTSource
from ...sample import Part, Role
from .pictures import Pictures
from .rows import RowFormat
from .turns import Keys, Turn, read_turns, show, speak


def keys_of(settings: ShareGPTSource) -> Keys:
    """What the file calls its turns."""
    tags = {
        "role": "from",
        "content": "value",
        "user": "human",
        "assistant": "gpt",
        "system": "system",
        **settings.tags,
    }
    speakers = {tags["user"]: Role.USER, tags["assistant"]: Role.ASSISTANT, tags["system"]: Role.SYSTEM}
    return Keys(settings.columns.get("messages", "conversations"), tags["role"], tags["content"], speakers)


class ShareGPTRows(RowFormat):
    """What a ShareGPT row means."""

    def __init__(self, settings: ShareGPTSource, pictures: Pictures) -> None:
        super().__init__(settings, pictures)
        self.keys = keys_of(settings)
        self.key = self.keys.turns
        self.images = settings.columns.get("images", "images")
        self.system = settings.columns.get("system", "system")

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The system's text, then the turns with the pictures in their places."""
        turns = read_turns(row, self.keys)
        told = row.get(self.system)
        if told is not None and not isinstance(told, str):
            raise UserError(f"{self.system!r} is a text, got {told!r:.80}")
        if told and not (turns and turns[0].role is Role.SYSTEM):
            turns = [Turn(Role.SYSTEM, told), *turns]
        named = row.get(self.images) or []
        pictures = [self.picture(name) for name in (named if isinstance(named, list) else [named])]
        for turn, contents in show(turns, pictures):
            yield from speak(turn, contents)
