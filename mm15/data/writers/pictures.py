"""Pictures of a dataset that is written: named where they lie, or kept beside the rows in OUT.images.

    out.jsonl            {"image": "../photos/a.jpg"}     a file, by its path from here
    out.jsonl.images/    000/00000012.0.png               bytes, arrays, and files where copies are asked for

The folder appears whole when the rows do.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...sample import Image
from .shards import stored

_A_FOLDER = 1000
"""Samples whose pictures share a folder."""


class PictureFiles:
    """The pictures beside `out`; `copy`: files too, instead of naming them where they are."""

    def __init__(self, out: Path, *, copy: bool) -> None:
        self.folder = out.with_name(out.name + ".images")
        self._partial = out.with_name(out.name + ".images.partial")
        self._here = os.path.realpath(out.parent)
        self._copy = copy
        self._waiting: list[tuple[str, bytes]] = []
        shutil.rmtree(self._partial, ignore_errors=True)

    def name(self, image: Image, sample: int, number: int, where: str) -> str:
        """What picture `number` of a sample is called in its row; it is kept by `keep`. UserError when it is none."""
        data = image.data
        if isinstance(data, str | os.PathLike) and not self._copy:
            return Path(os.path.relpath(os.path.abspath(data), self._here)).as_posix()
        content, extension = stored(image, where)
        name = f"{sample // _A_FOLDER:03d}/{sample:08d}.{number}.{extension}"
        self._waiting.append((name, content))
        return f"{self.folder.name}/{name}"

    def keep(self) -> None:
        """Write the pictures that were named since the last time."""
        for name, content in self._waiting:
            path = self._partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._waiting.clear()

    def forget(self) -> None:
        """Do not write them."""
        self._waiting.clear()

    def close(self) -> None:
        """Put the folder under its name, if there is one."""
        if self._partial.exists():
            os.replace(self._partial, self.folder)

    def abort(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._partial, ignore_errors=True)
