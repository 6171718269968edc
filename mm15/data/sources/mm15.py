"""Our own rows (`mm15.data.native`) as JSONL: everything a sample is, ids and meta too; places in pixels.

Pictures are named as in every other format: a path below `images`, an address, or base64 in a data: address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ...errors import UserError
from ...sample import Part, Sample
from ..native import KEY, from_row
from .regions import read_parts
from .rows import RowFormat


class NativeRows(RowFormat):
    """What a row of ours means."""

    key = KEY

    def parts(self, row: dict[str, Any]) -> Iterable[Part]:
        """The parts of a row in order."""
        return from_row(row, "", self.picture).parts

    def sample(self, row: dict[str, Any], index: int, source: str, where: str) -> Sample:
        """The sample under its own id (`index` where it has none)."""
        try:
            sample = from_row(row, source, self.picture)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        parts = read_parts(sample.parts, self.settings.regions, where)
        return replace(sample, id=sample.id or str(index), parts=parts)
