"""ms-swift's rows (its docs, Customization/Custom-dataset.md):

    {"messages": [{"role": "user", "content": "<image>Find the <ref-object>."},
                  {"role": "assistant", "content": "<bbox>"}],
     "images": ["a.jpg"],
     "objects": {"ref": ["sheep"], "bbox": [[90.9, 160.8, 135, 212.8]], "bbox_type": "real", "image_id": [0]}}

The texts of `ref` fill the ``<ref-object>`` of all messages in order, the boxes (or points, two numbers) of `bbox` the
``<bbox>``. `bbox_type` real: pixels of picture `image_id` (default 0 for all); norm1: 0 to 1 of its sides. A place is
labelled with the ``<ref-object>`` directly before it, or before the places before it. An assistant's message with
"loss": false is not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...image import picture_size
from ...regions import Region
from ...sample import Content, Image, Part, Role
from .rows import RowFormat
from .shapes import scale, shape_of
from .turns import Keys, fill, read_turns, show, speak

REF, BOX = "<ref-object>", "<bbox>"
PLACEHOLDERS = re.compile(f"{REF}|{BOX}")
SPEAKERS = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}
KEYS = Keys("messages", "role", "content", SPEAKERS, target="loss")


class SwiftRows(RowFormat):
    """What an ms-swift row means."""

    key = KEYS.turns

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The messages in order, with pictures, texts of `ref` and places of `objects` in their places."""
        pictures = [self.picture(name.get("path") if isinstance(name, dict) else name) for name in _list(row, "images")]
        objects = _Objects(row.get("objects"), pictures)
        for turn, contents in show(read_turns(row, KEYS), pictures, lines=False):
            objects.begin()
            yield from speak(turn, fill(contents, PLACEHOLDERS, objects.next))
        objects.check_used()


class _Objects:
    """The texts and places of a row, handed out in order."""

    def __init__(self, objects: Any, pictures: list[Image]) -> None:
        if not isinstance(objects, dict | None):
            raise UserError(f"'objects' is an object with ref and bbox, got {objects!r:.80}")
        found = objects or {}
        self.refs, self.boxes, self.images = (_list(found, key) for key in ("ref", "bbox", "image_id"))
        self.kind = found.get("bbox_type") or "real"
        if self.kind not in ("real", "norm1"):
            raise UserError(f"bbox_type is real or norm1, got {self.kind!r:.80}")
        if self.images and len(self.images) != len(self.boxes):
            raise UserError(f"{len(self.boxes)} bbox and {len(self.images)} image_id; there must be one for each")
        if self.kind == "norm1" and len(pictures) > 1 and self.boxes and not self.images:
            raise UserError(f"bbox_type norm1 and {len(pictures)} pictures; add image_id, which says which is meant")
        self.pictures = pictures
        self.ref = self.box = 0
        self._label, self._at = "", -1

    def begin(self) -> None:
        """A turn begins: what was named before it is no label in it."""
        self._at = -1

    def next(self, match: re.Match[str]) -> Content:
        """What the next placeholder stands for."""
        if match[0] == REF:
            if self.ref == len(self.refs) or not isinstance(self.refs[self.ref], str):
                raise UserError(f"{REF} number {self.ref} has no text; 'ref' has {len(self.refs)}: {self.refs!r:.80}")
            self.ref += 1
            self._label, self._at = self.refs[self.ref - 1], match.end()
            return self._label
        if self.box == len(self.boxes):
            raise UserError(f"there are more {BOX} than the {len(self.boxes)} of 'bbox'; there must be one for each")
        between = match.string[self._at : match.start()] if 0 <= self._at <= match.start() else "?"
        labelled = not between.replace(BOX, "").strip()
        self.box += 1
        return self._region(self.box - 1, self._label if labelled else "")

    def _region(self, number: int, label: str) -> Region:
        image = self.images[number] if self.images else 0
        if not isinstance(image, int) or not 0 <= image < len(self.pictures):
            raise UserError(f"image_id {image!r:.80}, and the row has {len(self.pictures)} pictures; they count from 0")
        shape = shape_of(self.boxes[number])
        if self.kind == "norm1":
            shape = scale(shape, *picture_size(self.pictures[image], f"picture {image}"))
        return Region(shape, image, label)

    def check_used(self) -> None:
        """UserError when the messages have fewer placeholders than there are texts or places."""
        for name, placeholder, used, given in (
            ("ref", REF, self.ref, len(self.refs)),
            ("bbox", BOX, self.box, len(self.boxes)),
        ):
            if used < given:
                raise UserError(f"{name!r} has {given}, and the messages {used} {placeholder}; there must be as many")


def _list(row: dict[str, Any], key: str) -> list[Any]:
    found = row.get(key) or []
    return found if isinstance(found, list) else [found]
