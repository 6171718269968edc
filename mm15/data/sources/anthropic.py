"""Anthropic's messages, one conversation a row:

    {"system": "Be short.",
     "messages": [{"role": "user", "content": [
                      {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR..."}},
                      {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A cat."}]}

`content` is a text or a list of blocks; so is `system`. A picture's source is base64, {"type": "path", "path": "a.jpg"}
or {"type": "url", "url": ...} with anything but the web. Blocks of tools, documents and thinking are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...sample import Content, Image, Part, Role
from .openai import read_messages
from .pictures import from_base64
from .rows import RowFormat
from .turns import Turn, speak

ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT}


class AnthropicRows(RowFormat):
    """What a row of Anthropic messages means."""

    key = "messages"

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The system's text, then the messages in order."""
        told = row.get("system")
        if told:
            blocks = [{"type": "text", "text": told}] if isinstance(told, str) else told
            yield from speak(Turn(Role.SYSTEM, ""), self._contents(blocks))
        for turn, content in read_messages(row, ROLES):
            yield from speak(turn, self._contents(content))

    def _contents(self, blocks: Any) -> Iterator[Content]:
        if not isinstance(blocks, list):
            raise UserError(f"'content' is a text or a list of blocks, got {blocks!r:.80}")
        for block in blocks:
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "text" and isinstance(block.get("text"), str):
                if block["text"]:
                    yield block["text"]
            elif kind == "image":
                yield self._image(block.get("source"))
            else:
                raise UserError(f"a block has type text or image, got {block!r:.80}")

    def _image(self, source: Any) -> Image:
        kind = source.get("type") if isinstance(source, dict) else None
        if kind == "base64" and isinstance(source.get("data"), str):
            return Image(from_base64(source["data"], "an image block"))
        if kind in ("path", "url"):
            return self.picture(source.get(kind))
        raise UserError(f"the source of an image block has type base64, path or url, got {source!r:.80}")
