"""OpenAI's chat messages as JSONL, the format of fine-tuning files and of most chat programs:

    {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                               {"type": "image_url", "image_url": {"url": "a.jpg"}}]},
                  {"role": "assistant", "content": "A cat."}]}

`content` is a text or a list of parts. A picture is {"type": "image_url", "image_url": {"url": ...} or ...}, or
{"type": "image", "image": ...}; or {"type": "image"} alone, which takes the next of the row's own list "images". It
is a path, an address or base64 in a data: address; pictures on the web are refused. A row may have an "id". The
assistant's messages with "weight": 0 are not trained on, as in OpenAI's fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...sample import Content, Part, Role
from .rows import RowFormat
from .turns import Turn, speak

ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


def read_messages(row: dict[str, Any], roles: dict[str, Role]) -> Iterator[tuple[Turn, Any]]:
    """Each message of a row and its content; the turn's text is left empty."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise UserError(f"'messages' is a list of messages, got {messages!r:.80}")
    for number, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or role not in roles:
            raise UserError(f"message {number} has role {role!r:.80}; use one of {', '.join(roles)}")
        weight = message.get("weight", 1)
        if weight not in (0, 1):
            raise UserError(f"message {number} has weight {weight!r:.80}; use 0 (not trained on) or 1")
        target = roles[role] is Role.ASSISTANT and weight == 1
        yield (
            Turn(roles[role], "", target),
            [{"type": "text", "text": content}] if isinstance(content, str) else content,
        )


class OpenAIRows(RowFormat):
    """What a row of OpenAI messages means."""

    key = "messages"

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The messages of a row in order."""
        own = row.get("images") or []
        left = iter(own if isinstance(own, list) else [own])
        for turn, content in read_messages(row, ROLES):
            yield from speak(turn, self._contents(content, left))
        unused = len(list(left))
        if unused:
            raise UserError(f"'images' names {len(own)} pictures, and the messages show {len(own) - unused} of them")

    def _contents(self, content: Any, own: Iterator[Any]) -> Iterator[Content]:
        """What one message says and shows, in order."""
        if not isinstance(content, list):
            raise UserError(f"'content' is a text or a list of parts, got {content!r:.80}")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                if part["text"]:
                    yield part["text"]
            elif kind == "image_url":
                address = part.get("image_url")
                yield self.picture(address.get("url") if isinstance(address, dict) else address)
            elif kind == "image":
                yield self.picture(part["image"] if "image" in part else next(own, None))
            else:
                raise UserError(f"a part has type text, image_url or image, got {part!r:.80}")
