"""OpenAI's chat messages as JSONL, the format of fine-tuning files and of most chat programs:

    {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                               {"type": "image_url", "image_url": {"url": "a.jpg"}}]},
                  {"role": "assistant", "content": "A cat."}]}

`content` is a text or a list of parts. A picture is {"type": "image_url", "image_url": {"url": ...} or ...}, or
{"type": "image", "image": ...}; or {"type": "image"} alone, which takes the next of the row's own list "images". It is a path,
a file: address or base64 in a data: address; pictures on the web are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...sample import Content, Sample, assistant, system, user
from .rows import JsonRows

_ROLES = {"system": system, "developer": system, "user": user, "assistant": assistant}


class OpenAIData:
    """A file of messages as a source. Relative paths of pictures start at `images`, by default the file's folder.

    A row may have an "id"; sample ids read ``index:id``.
    """

    def __init__(self, path: str | Path, name: str, *, images: str | Path | None = None) -> None:
        self.name = name
        self._rows = JsonRows(path, images=images)
        self.fingerprint = f"{name}:{len(self._rows)}:{self._rows.digest}"
        if "messages" not in self._rows[0]:
            keys = ", ".join(map(repr, self._rows[0])) or "no keys"
            raise UserError(f"{self._rows.where(0)}: OpenAI rows have 'messages', this has {keys}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError with line and id when the row cannot be used."""
        row = self._rows[index]
        identity = f"{index}:{row['id']}" if "id" in row else str(index)
        where = f"{self._rows.where(index)} (id {row['id']!r})" if "id" in row else self._rows.where(index)
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise UserError(f"{where}: 'messages' must be a list of messages")
        own = row.get("images") or []
        left = iter(own if isinstance(own, list) else [own])
        parts = []
        for number, message in enumerate(messages):
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            if role not in _ROLES:
                raise UserError(f"{where}: message {number} has role {role!r}; use one of {', '.join(_ROLES)}")
            parts += _ROLES[role](*self._contents(content, left, f"{where} message {number}"))
        if not any(part.target for part in parts):
            raise UserError(f"{where}: the assistant says nothing, so there is nothing to learn; add the answer or drop the row")
        unused = len(list(left))
        if unused:
            raise UserError(f"{where}: 'images' has {len(own)} pictures and the messages show {len(own) - unused} of them")
        return Sample(identity, self.name, tuple(parts), {"metric": "exact"})

    def _contents(self, content: Any, own: Iterator[Any], where: str) -> Iterator[Content]:
        """What one message says and shows, in order."""
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if content else []
        if not isinstance(content, list):
            raise UserError(f"{where}: 'content' is a text or a list of parts, got {content!r:.80}")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                yield part["text"]
            elif kind == "image_url":
                address = part.get("image_url")
                yield self._rows.picture(address.get("url") if isinstance(address, dict) else address, where)
            elif kind == "image":
                yield self._rows.picture(part["image"] if "image" in part else next(own, None), where)
            else:
                raise UserError(f"{where}: a part has type text, image_url or image, got {part!r:.80}")
