"""Samples as rows of one JSON file: JSONL, or a JSON list where the file's name ends with .json.

Every row is read back by the format's own reader before it is written, so that nothing is written which would read as
something else. Cost: about 0.2 ms a row, 0.5 to 1 ms where places are written into texts. Memory: one sample.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...sample import Image, Part, Sample
from ..sources import row_format
from ..sources.pictures import Pictures
from ..sources.regions import Sizes
from ..sources.text import TextRows
from .base import PartialFile, Writer
from .chats import Given, RowShape, data_address
from .pictures import PictureFiles
from .shards import stored


class RowWriter(Writer):
    """Rows of a format. Pictures that are files are named by their path from the file's folder, others (and with
    `copy_pictures` these too) are kept in NAME.images beside it."""

    def __init__(self, settings: Any, shape: type[RowShape], *, copy_pictures: bool) -> None:
        super().__init__(settings)
        self.shape = shape(settings, self.regions)
        self.holds_system = shape.holds_system
        self.holds_meta = settings.format == "mm15"
        path = Path(settings.path)
        self._out = PartialFile(path)
        self._pictures = PictureFiles(path, copy=copy_pictures)
        self._reads = TextRows if settings.format == "text" else row_format(settings.format)
        self._list = path.suffix == ".json"

    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        where = f"sample {sample.id!r}"
        try:
            names = [self._name(image, number, where) for number, image in enumerate(sample.images)]
            row = self.shape.row(Given(sample, names, sizes))
            text = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
            lost = self._compare(sample, self._read_again(row, dict(zip(names, sample.images, strict=True))), sizes)
        except (TypeError, ValueError) as error:
            self._pictures.forget()
            if isinstance(error, UserError):
                raise
            raise UserError(f"it cannot be written as JSON ({error})") from None
        self._pictures.keep()
        self._out.file.write((b",\n" if self.samples else b"[\n") + text if self._list else text + b"\n")
        return lost

    def _name(self, image: Image, number: int, where: str) -> str:
        if self.shape.embeds:
            return data_address(*stored(image, f"{where}, picture {number}"))
        return self._pictures.name(image, self.samples, number, f"{where}, picture {number}")

    def _read_again(self, row: dict[str, Any], images: dict[str, Image]) -> tuple[Part, ...]:
        pictures = Pictures(".") if self.shape.embeds else _Named(images)
        return tuple(self._reads(self.settings, pictures).parts(row))

    def _finish(self) -> None:
        """Finish the file; its pictures appear just before it."""
        if self._list:
            self._out.file.write(b"\n]\n" if self.samples else b"[]\n")
        self._pictures.close()
        self._out.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._out.abort()
        self._pictures.abort()


class _Named(Pictures):
    """The pictures of one sample by the names they have in its row."""

    def __init__(self, images: dict[str, Image]) -> None:
        self.images = images

    def open(self, name: Any) -> Image:
        """The picture of a name."""
        return self.images[name]
