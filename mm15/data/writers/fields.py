"""Formats that keep places in fields of the row: ms-swift's `objects`, Ferret's `box_x1y1x2y2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import UserError
from ...regions import Box, Region
from ...sample import Content, Image, Role
from ..sources.ferret import PLACEHOLDER
from ..sources.swift import BOX, REF
from ..sources.turns import MARKER
from .chats import Given, RowShape, marked
from .turns import said, spell


class SwiftShape(RowShape):
    """``<bbox>`` and, where the text before a place ends with its label, ``<ref-object>``; "loss": false where an
    answer is not trained on."""

    def row(self, given: Given) -> dict[str, Any]:
        """id, messages, images, objects."""
        objects: dict[str, list[Any]] = {"ref": [], "bbox": [], "image_id": []}
        messages = []
        for turn in said(given.sample):
            message: dict[str, Any] = {"role": turn.role.value, "content": self._text(turn.contents, objects)}
            if turn.role is Role.ASSISTANT and not turn.target:
                message["loss"] = False
            messages.append(message)
        row: dict[str, Any] = {"id": given.sample.id, "messages": messages}
        if given.names:
            row["images"] = list(given.names)
        if objects["bbox"]:
            row["objects"] = {**objects, "bbox_type": "real"}
            if not any(objects["image_id"]):
                del row["objects"]["image_id"]
        return row

    def _text(self, contents: Sequence[Content], objects: dict[str, list[Any]]) -> str:
        text, label = "", ""
        for content in contents:
            if isinstance(content, Region):
                if content.label and not (label == content.label and text.rstrip().endswith((REF, BOX))):
                    text, label = self._refer(text, content.label, objects)
                objects["bbox"].append([_plain(value) for value in content.shape])
                objects["image_id"].append(content.image)
                text += BOX
            else:
                text += marked([content], [MARKER, REF, BOX], between="")
        return text

    def _refer(self, text: str, label: str, objects: dict[str, list[Any]]) -> tuple[str, str]:
        """The text with the label at its end as a placeholder, where it ends with it."""
        said = text.rstrip()
        if not said.endswith(label):
            return text, ""
        objects["ref"].append(label)
        return said[: len(said) - len(label)] + REF + text[len(said) :], label


class FerretShape(RowShape):
    """``<bbox_location0>`` for boxes; points stand in the texts where the block declares a convention."""

    holds_system = False

    def row(self, given: Given) -> dict[str, Any]:
        """id, image with its size, conversations, box_x1y1x2y2."""
        talk = said(given.sample)
        if len(given.names) > 1:
            raise UserError(f"it shows {len(given.names)} pictures, and ferret has one a row")
        turns, boxes = [], []
        shown = 0
        for turn in talk:
            own: list[list[float]] = []
            value = marked(self._spelled(turn.contents, own, given, shown), [MARKER], between="\n")
            turns.append({"from": {Role.USER: "human"}.get(turn.role, "gpt"), "value": self._fill(value, own)})
            boxes.append(own)
            shown += sum(isinstance(content, Image) for content in turn.contents)
        row: dict[str, Any] = {"id": given.sample.id}
        if given.names:
            width, height = given.sizes[0]
            row |= {"image": given.names[0], "image_h": height, "image_w": width}
        return {**row, "conversations": turns, "box_x1y1x2y2": boxes}

    def _spelled(self, contents: Sequence[Content], own: list[list[float]], given: Given, shown: int) -> list[Any]:
        """The contents with boxes as signs to fill, and everything else as text."""
        kept: list[Content] = []
        for content in contents:
            if isinstance(content, str) and (PLACEHOLDER.search(content) or _SIGN in content):
                raise UserError("its text holds <bbox_location..>, which ferret reads as a box")
            if isinstance(content, Region) and isinstance(content.shape, Box):
                own.append([_plain(value) for value in content.shape])
                kept.append(_SIGN)
            elif isinstance(content, Region) and self.regions is None:
                raise UserError("points: ferret's fields hold boxes; with regions: ferret they stand in its texts")
            else:
                kept.append(content)
        return spell(kept, self.regions, given.sizes, shown)

    def _fill(self, value: str, own: list[list[float]]) -> str:
        first, *rest = value.split(_SIGN)
        return first + "".join(f"<bbox_location{number}>{piece}" for number, piece in enumerate(rest))


_SIGN = "\ue000"
"""Stands for a box until all texts around it are joined; a character that means nothing to anybody."""


def _plain(value: float) -> float | int:
    """Whole numbers without a point, as the files of the field have them."""
    return int(value) if float(value).is_integer() else float(value)
