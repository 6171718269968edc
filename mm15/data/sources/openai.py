"""OpenAI's chat messages as JSONL, the format of fine-tuning files and of most chat programs:

    {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                               {"type": "image_url", "image_url": {"url": "a.jpg"}}]},
                  {"role": "assistant", "content": "A cat."}]}

`content` is a text or a list of parts. A picture is {"type": "image_url", "image_url": {"url": ...} or ...}, or
{"type": "image", "image": ...}; or {"type": "image"} alone, which takes the next of the row's own list "images". It
is a path, a file: address or base64 in a data: address; pictures on the web are refused. A row may have an "id".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...sample import Content, Part, assistant, system, user
from .rows import JsonSource

_ROLES = {"system": system, "developer": system, "user": user, "assistant": assistant}


class OpenAIData(JsonSource):
    """A file of messages as a source; see `JsonSource`."""

    key = "messages"

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The messages of a row in order."""
        messages, own = row.get("messages"), row.get("images") or []
        if not isinstance(messages, list):
            raise UserError(f"'messages' is a list of messages, got {messages!r:.80}")
        left = iter(own if isinstance(own, list) else [own])
        for number, message in enumerate(messages):
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            if role not in _ROLES:
                raise UserError(f"message {number} has role {role!r}; use one of {', '.join(_ROLES)}")
            yield from _ROLES[role](*self._contents(content, left))
        unused = len(list(left))
        if unused:
            raise UserError(f"'images' names {len(own)} pictures, and the messages show {len(own) - unused} of them")

    def _contents(self, content: Any, own: Iterator[Any]) -> Iterator[Content]:
        """What one message says and shows, in order."""
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if content else []
        if not isinstance(content, list):
            raise UserError(f"'content' is a text or a list of parts, got {content!r:.80}")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                yield part["text"]
            elif kind == "image_url":
                address = part.get("image_url")
                yield self.picture(address.get("url") if isinstance(address, dict) else address)
            elif kind == "image":
                yield self.picture(part["image"] if "image" in part else next(own, None))
            else:
                raise UserError(f"a part has type text, image_url or image, got {part!r:.80}")
