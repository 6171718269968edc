"""Ferret's and Ferret-UI's rows (github.com/apple/ml-ferret): LLaVA's, with the boxes of each turn beside them:

    {"id": 0, "image": "screen.png", "image_h": 2532, "image_w": 1170,
     "conversations": [{"from": "human", "value": "<image>\\nWhat is <bbox_location0>?"},
                       {"from": "gpt", "value": "A button"}],
     "box_x1y1x2y2": [[[445, 524, 692, 632]], []]}

``<bbox_location0>`` is the first box of its own turn. Boxes are pixels of a picture of `image_w` x `image_h`; where the
picture has another size of the same proportions they are scaled, and parts outside it are cut off, as Ferret does.
Coordinates spelled out in a text, [x1, y1, x2, y2] in 0 to 999, are read where the source declares `regions: ferret`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ...image import picture_size
from ...regions import Box, Region
from ...sample import Image, Part
from .llava import KEYS, LlavaRows
from .shapes import clip, is_number, shape_of, to_picture
from .turns import fill, read_turns, show, speak

PLACEHOLDER = re.compile(r"<bbox_location(\d{1,6})>")


class FerretRows(LlavaRows):
    """What a Ferret row means."""

    def parts(self, row: dict[str, Any]) -> Iterator[Part]:
        """The turns of a row in order, with the picture and the boxes in their places."""
        turns, pictures = read_turns(row, KEYS), self.named(row)
        boxes = _boxes(row, len(turns), pictures)
        for (turn, contents), own in zip(show(turns, pictures), boxes, strict=True):
            used: set[int] = set()

            def region(match: re.Match[str], own: list[Region] = own, used: set[int] = used) -> Region:
                number = int(match[1])
                if number >= len(own):
                    raise UserError(f"{match[0]}, and its turn has {len(own)} boxes in box_x1y1x2y2; they count from 0")
                used.add(number)
                return own[number]

            yield from speak(turn, fill(contents, PLACEHOLDER, region))
            if len(used) < len(own):
                raise UserError(f"a turn has {len(own)} boxes and uses {len(used)} of them; there must be as many")


def _boxes(row: dict[str, Any], turns: int, pictures: list[Image]) -> list[list[Region]]:
    """The boxes of each turn, in pixels of the picture."""
    given = row.get("box_x1y1x2y2") or []
    if not isinstance(given, list) or not all(isinstance(own, list) for own in given) or len(given) > turns:
        raise UserError(f"'box_x1y1x2y2' has a list of boxes for each of the {turns} turns, got {given!r:.80}")
    if any(given) and len(pictures) != 1:
        raise UserError(f"boxes are of the row's picture, and it has {len(pictures)}")
    size = picture_size(pictures[0], "picture") if any(given) else (1, 1)
    said = (row.get("image_w"), row.get("image_h"))
    if any(given) and not all(is_number(side) and side >= 1 for side in said):  # type: ignore[operator]
        raise UserError(f"boxes need the 'image_w' and 'image_h' they are pixels of, got {said!r:.80}")
    found = [[_region(numbers, said, size) for numbers in own] for own in given]
    return found + [[] for _ in range(turns - len(given))]


def _region(numbers: Any, said: Any, size: tuple[int, int]) -> Region:
    shape = shape_of(numbers)
    if not isinstance(shape, Box):
        raise UserError(f"box_x1y1x2y2 holds boxes of 4 numbers, got {numbers!r:.80}")
    return Region(clip(to_picture(shape, said, size), size))
