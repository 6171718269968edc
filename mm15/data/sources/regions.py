"""Places in texts: the text parts of a sample cut into text and regions, by the convention its source declares.

    user(Image(a), "The cat at [100, 200, 300, 400]?")  ->  user(Image(a), "The cat at ", Region(Box(..), 0), "?")

A place belongs to the last picture shown before it, in pixels of that picture; a text before any picture holds none.
Sizes are asked for where a text holds places, and come from the pictures' headers (about 50 us each).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import UserError
from ...image import picture_size
from ...recipe import RegionFormat
from ...regions import Convention, convention
from ...sample import Image, Part


class Sizes(Sequence[tuple[int, int]]):
    """(width, height) of pictures, each read when it is first asked for. UserError naming `where`."""

    def __init__(self, images: Iterable[Image], where: str) -> None:
        self._images, self._where = list(images), where
        self._known: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        if number not in self._known:
            self._known[number] = picture_size(self._images[number], f"{self._where}: picture {number}")
        return self._known[number]


def convention_of(settings: RegionFormat) -> Convention:
    """The convention that a source declares."""
    return convention(settings.convention, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)


def read_parts(
    parts: Iterable[Part], settings: RegionFormat | None, where: str, sizes: Sizes | None = None
) -> tuple[Part, ...]:
    """The parts with their texts cut into texts and regions; as they are when no convention is declared.

    `sizes` are those of the pictures, for who knows them already.

    Raises UserError naming `where` for what looks like a place and is none, and for pictures that cannot be opened.
    """
    parts = tuple(parts)
    if settings is None or not any(isinstance(part.content, Image) for part in parts):
        return parts
    reader = convention_of(settings)
    if sizes is None:
        sizes = Sizes((part.content for part in parts if isinstance(part.content, Image)), where)
    read: list[Part] = []
    shown = 0
    for part in parts:
        shown += isinstance(part.content, Image)
        if not shown or not isinstance(part.content, str):
            read.append(part)
            continue
        reading = reader.read(part.content, sizes, shown - 1)
        if reading.malformed:
            bad = reading.malformed[0]
            raise UserError(f"{where}: {bad.text!r:.80} is no place as {settings.convention} writes them: {bad.why}")
        read += [Part(content, part.role, part.target) for content in reading.contents]
    return tuple(read)
