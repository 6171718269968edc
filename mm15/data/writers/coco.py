"""Samples as one COCO annotation file: pictures, and their boxes by category or their captions.

Of a sample the file keeps what COCO has: a picture and labelled boxes (tasks detect and find), or a picture and its
caption (task caption). Questions and the words of answers are asked anew by the reader, in its own words; where a
sample had others that is reported. Annotations wait in a file of their own until the end, so that memory is flat.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...recipe import CocoSource
from ...regions import Box, Region
from ...sample import Image, Part, Role, Sample, assistant, document, user
from ..sources.coco import DETECT, FIND, answer
from ..sources.regions import Sizes
from .base import PartialFile, Writer
from .pictures import PictureFiles

WORDS = "questions and words around the boxes"


class CocoWriter(Writer):
    """One picture a sample. Its boxes need labels: they are the categories."""

    def __init__(self, settings: CocoSource, *, copy_pictures: bool) -> None:
        super().__init__(settings)
        self.task = settings.task
        path = Path(settings.path)
        self._out = PartialFile(path)
        self._notes = PartialFile(path.with_name(path.name + ".annotations"))
        self._pictures = PictureFiles(path, copy=copy_pictures)
        self._categories: dict[str, int] = {}
        self._annotations = 0

    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        images = sample.images
        if len(images) != 1:
            raise UserError(f"it shows {len(images)} pictures, and coco's samples are of one")
        where = f"sample {sample.id!r}"
        try:
            width, height = sizes[0]
            name = self._pictures.name(images[0], self.samples, 0, where)
            notes, lost = self._caption(sample, sizes) if self.task == "caption" else self._boxes(sample, sizes)
        except UserError:
            self._pictures.forget()
            raise
        self._pictures.keep()
        image = {"id": self.samples, "file_name": name, "width": width, "height": height}
        self._put(self._out, self.samples, image, '{"images": [\n')
        for note in notes:
            self._put(self._notes, self._annotations, {"id": self._annotations, "image_id": self.samples, **note}, "")
            self._annotations += 1
        return lost

    def _put(self, out: PartialFile, number: int, row: dict[str, Any], begin: str) -> None:
        out.file.write(((",\n" if number else begin) + json.dumps(row, ensure_ascii=False)).encode())

    def _caption(self, sample: Sample, sizes: Sizes) -> tuple[list[dict[str, Any]], list[str]]:
        if not isinstance(sample.parts[0].content, Image) or not all(
            isinstance(part.content, str) and part.role is Role.DOCUMENT for part in sample.parts[1:]
        ):
            raise UserError("it is no picture followed by its caption, as task caption has them")
        caption = "".join(str(part.content) for part in sample.parts[1:])
        return [{"caption": caption}], self._compare(sample, document(sample.parts[0].content, caption), sizes)

    def _boxes(self, sample: Sample, sizes: Sizes) -> tuple[list[dict[str, Any]], list[str]]:
        regions = [part.content for part in sample.parts if isinstance(part.content, Region)]
        if not regions:
            raise UserError("it holds no boxes, and coco is made of them (task: caption keeps captions)")
        for region in regions:
            if not isinstance(region.shape, Box):
                raise UserError("it holds a point, and coco has boxes")
            if not region.shape.area:
                raise UserError("it holds a box without area, which coco's readers leave out")
            if not region.label:
                raise UserError("it holds a box without a label, which would be its category")
        lost: list[str] = []
        try:
            lost = self._compare(sample, self._as_read(sample, regions), sizes)
        except UserError:
            lost.append(WORDS)
        return [self._note(region) for region in regions], lost

    def _as_read(self, sample: Sample, regions: list[Region]) -> tuple[Part, ...]:
        """What the reader will make of the boxes."""
        known = {**self._categories}
        for region in regions:
            known.setdefault(region.label, len(known) + 1)
        regions = sorted(regions, key=lambda region: known[region.label])
        found = {label: list(group) for label, group in groupby(regions, key=lambda region: region.label)}
        image = sample.images[0]
        if self.task == "detect":
            return user(image, DETECT) + assistant(*answer(found))
        parts: tuple[Part, ...] = user(image)
        for label, boxes in found.items():
            parts += user(FIND.format(label)) + assistant(*answer({"": boxes}))
        return parts

    def _note(self, region: Region) -> dict[str, Any]:
        x1, y1, x2, y2 = region.shape
        category = self._categories.setdefault(region.label, len(self._categories) + 1)
        box = [x1, y1, x2 - x1, y2 - y1]
        return {"category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}

    def _finish(self) -> None:
        """Join the lists; pictures appear just before the file."""
        out = self._out.file
        out.write(b'\n],\n"annotations": [\n' if self.samples else b'{"images": [],\n"annotations": [\n')
        self._notes.file.flush()
        with open(self._notes.file.name, "rb") as notes:
            while piece := notes.read(1 << 20):
                out.write(piece)
        rows = [{"id": number, "name": label} for label, number in self._categories.items()]
        out.write(f'\n],\n"categories": {json.dumps(rows, ensure_ascii=False)}}}\n'.encode())
        self._notes.abort()
        self._pictures.close()
        self._out.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._notes.abort()
        self._out.abort()
        self._pictures.abort()
