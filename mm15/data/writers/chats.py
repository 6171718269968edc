"""Conversations as rows of JSON, the other way round from the readers of `mm15.data.sources`.

A `RowShape` makes the row of a sample; places that the format keeps in fields it writes there, all others stand in the
texts by the convention of the source block. What a format has no words for is refused here (UserError); what is left
out on the way is found by reading the row back (`fidelity`).
"""

from __future__ import annotations

import base64
import mimetypes
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...recipe import ShareGPTSource
from ...regions import Convention
from ...sample import Content, Image, Role, Sample
from ..native import to_row
from ..sources.regions import Sizes
from ..sources.sharegpt import keys_of
from ..sources.turns import MARKER
from .turns import said, spell


@dataclass(frozen=True)
class Given:
    """What a row is made from: the sample, the names of its pictures, and their sizes (read when asked for)."""

    sample: Sample
    names: Sequence[str]
    sizes: Sizes


class RowShape(ABC):
    """How a format writes a sample. `regions`: the convention of places in its texts, if there is one."""

    holds_system = True
    """Whether the format has a place for what the system says; else it is left out and reported."""
    embeds = False
    """Whether pictures stand in the row itself, so that `names` are data: addresses."""

    def __init__(self, settings: Any, regions: Convention | None) -> None:
        self.settings = settings
        self.regions = regions

    @abstractmethod
    def row(self, given: Given) -> dict[str, Any]:
        """The row of a sample. UserError for what the format cannot say."""

    def _turns(self, given: Given) -> Iterable[tuple[Role, bool, list[str | Image]]]:
        """Role, target and contents of each turn, places spelled out."""
        shown = 0
        for turn in said(given.sample):
            yield turn.role, turn.target, spell(turn.contents, self.regions, given.sizes, shown)
            shown += sum(isinstance(content, Image) for content in turn.contents)


def marked(contents: Iterable[Content], markers: Sequence[str], *, between: str) -> str:
    """Texts with ``<image>`` for each picture, `between` them; UserError where a text holds a marker itself."""
    pieces = []
    for content in contents:
        if isinstance(content, str):
            for marker in markers:
                if marker in content:
                    raise UserError(f"its text holds {marker}, which the format reads as a place for something else")
        pieces.append(content if isinstance(content, str) else MARKER)
    return between.join(pieces)


class LlavaShape(RowShape):
    """`conversations` with ``<image>`` on lines of their own."""

    def row(self, given: Given) -> dict[str, Any]:
        """id, image, conversations."""
        speakers = {Role.USER: "human", Role.ASSISTANT: "gpt", Role.SYSTEM: "system"}
        turns = [
            {"from": speakers[role], "value": marked(contents, [MARKER], between="\n")}
            for role, _, contents in self._turns(given)
        ]
        names = list(given.names)
        image = {"image": names[0] if len(names) == 1 else names} if names else {}
        return {"id": given.sample.id, **image, "conversations": turns}


class ShareGPTShape(RowShape):
    """The columns and tags that the source block declares."""

    settings: ShareGPTSource

    def row(self, given: Given) -> dict[str, Any]:
        """id, images, what the system says first, and the turns."""
        keys, columns = keys_of(self.settings), self.settings.columns
        names = {role: name for name, role in reversed(list(keys.speakers.items()))}
        turns = [
            {keys.speaker: names[role], keys.text: marked(contents, [MARKER], between="\n")}
            for role, _, contents in self._turns(given)
        ]
        row: dict[str, Any] = {"id": given.sample.id, keys.turns: turns}
        if turns and turns[0][keys.speaker] == names[Role.SYSTEM] and MARKER not in turns[0][keys.text]:
            row[columns.get("system", "system")] = turns.pop(0)[keys.text]
        if given.names:
            row[columns.get("images", "images")] = list(given.names)
        return row


class OpenAIShape(RowShape):
    """Messages of texts and image_url parts; "weight": 0 where an answer is not trained on."""

    def row(self, given: Given) -> dict[str, Any]:
        """id, messages."""
        messages, names = [], iter(given.names)
        for role, target, contents in self._turns(given):
            message: dict[str, Any] = {"role": role.value, "content": _one_text(self._parts(contents, names))}
            if role is Role.ASSISTANT and not target:
                message["weight"] = 0
            messages.append(message)
        return {"id": given.sample.id, "messages": messages}

    def _parts(self, contents: Iterable[str | Image], names: Iterator[str]) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": content}
            if isinstance(content, str)
            else {"type": "image_url", "image_url": {"url": next(names)}}
            for content in contents
        ]


class AnthropicShape(RowShape):
    """Messages of text and image blocks, pictures in base64."""

    embeds = True

    def row(self, given: Given) -> dict[str, Any]:
        """id, system, messages."""
        row: dict[str, Any] = {"id": given.sample.id, "messages": []}
        names = iter(given.names)
        for number, (role, _, contents) in enumerate(self._turns(given)):
            content = _one_text([self._block(content, names) for content in contents])
            if role is not Role.SYSTEM:
                row["messages"].append({"role": role.value, "content": content})
            elif number == 0:
                row["system"] = content
            else:
                raise UserError("the system speaks in the middle; anthropic has it only before the conversation")
        return row

    def _block(self, content: str | Image, names: Iterator[str]) -> dict[str, Any]:
        if isinstance(content, str):
            return {"type": "text", "text": content}
        header, _, data = next(names).partition(",")
        media_type = header.removeprefix("data:").removesuffix(";base64")
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


class NativeShape(RowShape):
    """Our own rows: everything a sample is."""

    def row(self, given: Given) -> dict[str, Any]:
        """See `mm15.data.native`."""
        return to_row(given.sample, lambda number, _: given.names[number])


class TextShape(RowShape):
    """{key: text} of a document without pictures."""

    def row(self, given: Given) -> dict[str, Any]:
        """id and text."""
        return {"id": given.sample.id, self.settings.key: text_of(given, self.regions)}


def text_of(given: Given, regions: Convention | None) -> str:
    """The text of a document. UserError when it is a conversation, or shows pictures."""
    sample = given.sample
    if any(part.role is not Role.DOCUMENT for part in sample.parts):
        raise UserError("a conversation, and text holds documents only")
    if not all(isinstance(part.content, str) for part in sample.parts):
        raise UserError("a document with pictures, places or videos; text holds none, webdataset and mm15 do")
    return "".join(str(part.content) for part in sample.parts)


def data_address(content: bytes, extension: str) -> str:
    """A picture as a data: address."""
    kind = mimetypes.types_map.get(f".{extension}", f"image/{extension}")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _one_text(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The text itself where a message is one text."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
