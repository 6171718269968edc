"""What every writer does: keep a sample whole or say why not, and let files appear whole or not at all."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ...errors import UserError
from ...files import WholeOrNothing
from ...recipe import FileSource
from ...regions import Region
from ...sample import Part, Role, Sample
from ..sources.regions import Sizes, convention_of, read_parts
from .fidelity import META, SYSTEM, differences


class Writer(WholeOrNothing):
    """`add` samples, then `close`, or use it in a `with` block.

    `settings` is the source block that reads the file back; its `regions` is the convention of places in texts.
    """

    holds_system = True
    holds_meta = False

    def __init__(self, settings: FileSource) -> None:
        self.settings = settings
        self.regions = convention_of(settings.regions) if settings.regions else None
        self.samples = 0

    def add(self, sample: Sample) -> list[str]:
        """Append a sample; what of it could not be carried, by name. UserError when it cannot be said in the format:
        nothing of it is written then, and the next may be added."""
        lost = []
        if sample.meta and not self.holds_meta:
            lost.append(META)
        if not self.holds_system and any(part.role is Role.SYSTEM for part in sample.parts):
            lost.append(SYSTEM)
            sample = replace(sample, parts=tuple(part for part in sample.parts if part.role is not Role.SYSTEM))
        if not any(part.target for part in sample.parts):
            raise UserError("nothing in it is trained on")
        lost += self._write(sample, Sizes(sample.images, f"sample {sample.id!r}"))
        self.samples += 1
        return lost

    @abstractmethod
    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        """Append a sample from which nothing has to be left out; `sizes` are those of its pictures."""

    def _compare(self, sample: Sample, again: Iterable[Part], sizes: Sizes) -> list[str]:
        """What is lost between a sample and the parts a reader makes of its row, places in texts not yet read."""

        def tolerance(region: Region) -> tuple[float, float]:
            return self.regions.resolution(sizes[region.image]) if self.regions else (0.0, 0.0)

        read = read_parts(again, self.settings.regions, f"sample {sample.id!r}", sizes)
        return differences(sample.parts, read, tolerance)


class PartialFile:
    """A file that appears under its name when it is whole. UserError when it cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: BinaryIO = open(self._partial, "wb")  # noqa: SIM115 - closed by close() or abort()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); check the folder") from None

    def close(self) -> None:
        """Bring it to the disk and put it under its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):  # a full disk
            self.file.close()
        self._partial.unlink(missing_ok=True)
