"""COCO annotation files (cocodataset.org, "Data format"), also LVIS, Objects365 and others of the same form:

    {"images": [{"id": 9, "file_name": "9.jpg", "width": 640, "height": 480}],
     "annotations": [{"id": 1, "image_id": 9, "category_id": 18, "bbox": [x, y, w, h], "iscrowd": 0}],
     "categories": [{"id": 18, "name": "dog"}]}

    detect    one sample a picture: every object, category by category        "dog [..], [..]; cat [..]"
    find      one sample a picture: a question for each category              "Find every dog." "[..], [..]"
    caption   one sample a caption (`caption` of the annotations): the picture and its caption, a document

Annotations that cannot be used are left out and counted by reason in `unusable`, and said once in the log: crowds (one
box around many, so that `find` does not ask for their category in that picture), boxes outside of their picture or
without area, unknown pictures and categories. Boxes are brought to the picture's own size as in `shapes.to_picture`.

Opening parses every annotation once (about 10 us each) and keeps 32 bytes of it; samples read theirs again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import UserError
from ...image import picture_size
from ...recipe import CocoSource
from ...regions import Box, Region
from ...sample import Content, Image, Part, Sample, assistant, document, user
from .index import EMPTY, Index, first_byte, index_lists
from .locate import locate
from .rows import parse, pictures_of
from .shapes import clip, is_number, to_picture
from .stored import Stored

log = logging.getLogger(__name__)

DETECT = "List every object in the picture with its box."
FIND = "Find every {}."
CROWD = "crowd"
SLACK = 1.0
"""Pixels by which a box may reach over its picture's edge; it is cut off there."""


class CocoData:
    """A COCO file as a source. Raises UserError when it is none or nothing in it can be used."""

    def __init__(self, settings: CocoSource, name: str) -> None:
        self.name = name
        self.task = settings.task
        files = locate(settings.path, ".json")
        if len(files) > 1:
            raise UserError(
                f"{settings.path}: {len(files)} files; COCO's ids hold in one file only, make a source of each"
            )
        self.file = Stored(files[0])
        self.pictures = pictures_of(settings, files[0])
        if first_byte(self.file) != b"{":
            raise UserError(f"{self.file.address}: a COCO file is one object with images and annotations")
        lists = index_lists(self.file)
        needed = ("images", "annotations") if self.task == "caption" else ("images", "annotations", "categories")
        for key in needed:
            if key not in lists:
                raise UserError(f"{self.file.address}: no list {key!r}; a COCO file has {', '.join(needed)}")
        self._images, self._notes = lists["images"], lists["annotations"]
        categories = lists["categories"] if self.task != "caption" else EMPTY
        self.categories = {
            self._field(row, "id", categories, i): str(self._field(row, "name", categories, i))
            for i, row in self._rows(categories)
        }
        self.unusable: Counter[str] = Counter()
        self._order, self._firsts = self._sort()
        if not len(self):
            raise UserError(f"{self.file.address}: nothing to use for task {self.task}: {_listed(self.unusable)}")
        if self.unusable:
            log.warning(
                "%s: left out of %d annotations: %s", self.file.address, len(self._notes), _listed(self.unusable)
            )
        self.fingerprint = f"{name}:{len(self)}:{self._images.digest}"

    def __len__(self) -> int:
        return len(self._order) if self.task == "caption" else len(self._images)

    def where(self, index: int) -> str:
        """File and line of the picture's row."""
        return self._where(self._images, self._number(index))

    def _number(self, index: int) -> int:
        """The picture of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.file.address}")
        return int(np.searchsorted(self._firsts, index, side="right")) - 1 if self.task == "caption" else index

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError when its picture has nothing to say."""
        number = self._number(index)
        if self.task == "caption":
            notes = [self._row(self._notes, int(self._order[index]))]
        else:
            notes = [
                self._row(self._notes, int(note)) for note in self._order[self._firsts[index] : self._firsts[index + 1]]
            ]
        row = self._row(self._images, number)
        try:
            parts = self._parts(row, notes)
        except UserError as error:
            raise UserError(f"{self._where(self._images, number)} (id {row['id']!r:.80}): {error}") from None
        return Sample(f"{index}:{row['id']}", self.name, parts)

    # ---------------------------------------------------------------------------------------------------------- opening

    def _sort(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the annotations that belong to a picture, by picture in the file's order; where each begins."""
        images = {self._field(row, "id", self._images, i): (i, _said(row)) for i, row in self._rows(self._images)}
        if len(images) < len(self._images):
            raise UserError(f"{self.file.address}: {len(self._images)} images and {len(images)} ids; each has its own")
        of = np.full(len(self._notes), -1, dtype=np.int64)
        for i, note in self._rows(self._notes):
            number, size = images.get(self._field(note, "image_id", self._notes, i), (-1, None))
            reason = "no such picture" if number < 0 else self._reason(note, size)
            if reason:
                self.unusable[reason] += 1
            if not reason or reason == CROWD:
                of[i] = number
        order = np.argsort(of, kind="stable")
        order = order[of[order] >= 0]
        return order, np.searchsorted(of[order], np.arange(len(self._images) + 1))

    def _reason(self, note: dict[str, Any], size: tuple[int, int] | None) -> str:
        """Why an annotation of a picture of `size`, if that is known, cannot be used; empty when it can."""
        if self.task == "caption":
            return "" if isinstance(note.get("caption"), str) and note["caption"].strip() else "no caption"
        box = note.get("bbox")
        if note.get("category_id") not in self.categories:
            return "no such category"
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            return "no box of four numbers"
        if box[2] <= 0 or box[3] <= 0:
            return "box without area"
        if size and not _inside(box, size):
            return "box outside of its picture"
        return CROWD if note.get("iscrowd") else ""

    def _rows(self, index: Index) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(len(index)):
            yield i, self._row(index, i)

    def _row(self, index: Index, i: int) -> dict[str, Any]:
        try:
            row = parse(self.file.read(int(index.starts[i]), int(index.ends[i])).decode())
        except ValueError as error:
            raise UserError(f"{self._where(index, i)}: not valid JSON ({error}); mend the file") from None
        if not isinstance(row, dict):
            raise UserError(f"{self._where(index, i)}: an object in braces belongs here, this is {type(row).__name__}")
        return row

    def _field(self, row: dict[str, Any], key: str, index: Index, i: int) -> Any:
        if not isinstance(row.get(key), int | str):
            raise UserError(f"{self._where(index, i)}: {key!r} is missing; COCO rows have one")
        return row[key]

    def _where(self, index: Index, i: int) -> str:
        return f"{self.file.address} line {index.lines[i]}"

    # ---------------------------------------------------------------------------------------------------------- samples

    def _parts(self, row: dict[str, Any], notes: list[dict[str, Any]]) -> tuple[Part, ...]:
        image = self.pictures.open(row.get("file_name"))
        if self.task == "caption":
            return document(image, notes[0]["caption"])
        found = self._found(row, image, notes)
        crowded = {note["category_id"] for note in notes if note.get("iscrowd")}
        if self.task == "find":
            found = {category: regions for category, regions in found.items() if category not in crowded}
        if not found:
            raise UserError("no object of the picture can be used" if notes else "no object is annotated")
        named: dict[str, list[Region]] = {}
        for category, regions in found.items():
            named.setdefault(self.categories[category], []).extend(regions)
        if self.task == "detect":
            return user(image, DETECT) + assistant(*answer(named))
        parts: tuple[Part, ...] = user(image)
        for label, regions in named.items():
            parts += user(FIND.format(label)) + assistant(*answer({"": regions}))
        return parts

    def _found(self, row: dict[str, Any], image: Image, notes: list[dict[str, Any]]) -> dict[Any, list[Region]]:
        """The usable boxes of a picture by category, in the order of the file's categories."""
        size = picture_size(image, "picture")
        said = _said(row) or size
        found: dict[Any, list[Region]] = {category: [] for category in self.categories}
        for note in notes:
            x, y, w, h = note["bbox"]
            if _inside(note["bbox"], said) and not note.get("iscrowd"):
                shape = clip(to_picture(Box(x, y, x + w, y + h), said, size), size)
                found[note["category_id"]].append(Region(shape, 0, self.categories[note["category_id"]]))
        return {category: regions for category, regions in found.items() if regions}


def answer(found: dict[str, list[Region]]) -> Iterator[Content]:
    """Regions by label as they are said: ``dog [..], [..]; cat [..]``."""
    before = ""
    for label, regions in found.items():
        if label:
            yield f"{before}{label} "
        for number, region in enumerate(regions):
            if number:
                yield ", "
            yield region
        before = "; "


def _said(row: dict[str, Any]) -> tuple[int, int] | None:
    """The size that a row of `images` gives."""
    width, height = row.get("width", 0), row.get("height", 0)
    return (width, height) if is_number(width) and is_number(height) and min(width, height) >= 1 else None


def _inside(box: list[float], size: tuple[int, int]) -> bool:
    x, y, w, h = box
    return min(x, y) >= -SLACK and x + w <= size[0] + SLACK and y + h <= size[1] + SLACK


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "it holds no annotations"
