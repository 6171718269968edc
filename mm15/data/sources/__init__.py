"""Sources: `open_source(settings, name)[i]` is Sample i, whatever format it is stored in.

    rows     llava, sharegpt, openai, anthropic, swift, ferret, mm15 (JSON lists or JSONL), text in JSONL
    others   world (generated), coco, text (files, lines), parquet, webdataset

A source is opened once: its files are looked through (1-2 seconds a GB), which gives its length, the place of every
row and its fingerprint; rows are read when they are asked for. Sources can be pickled and forked. Errors in a row
name the file, the line and the row's id; while training they make the loader skip the sample and say so.

`path` may be a pattern, and any address that fsspec knows, here as for `images`. Where a source declares the convention
its texts write places in (`regions`), places become regions in pixels of their pictures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ...recipe import Source
from ...sample import Sample

if TYPE_CHECKING:
    from .rows import RowFormat


class SourceData(Protocol):
    """What every source is. `fingerprint` reads ``name:length:digest`` and changes with the content of its file.

    Picture files are not part of the fingerprint: reading them all would cost as much as training on them.
    """

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, the same each time. Raises UserError when the row cannot be used."""
        ...

    def where(self, index: int) -> str:
        """The place of sample `index`, for people: file and line, tar and key, ... Also of one that cannot be read."""
        ...


def open_source(settings: Source, name: str) -> SourceData:
    """The source of a recipe's block. Raises UserError when its file is missing, empty or not of the format."""
    if settings.format in _ROWS:
        from .rows import JsonSource

        return JsonSource(settings, name, row_format(settings.format))
    return _find(_OTHERS[settings.format])(settings, name)


def row_format(name: str) -> type[RowFormat]:
    """What the rows of a format mean. KeyError for a format whose samples are not JSON rows."""
    return _find(_ROWS[name])


_ROWS = {
    "llava": "llava.LlavaRows",
    "sharegpt": "sharegpt.ShareGPTRows",
    "openai": "openai.OpenAIRows",
    "anthropic": "anthropic.AnthropicRows",
    "swift": "swift.SwiftRows",
    "ferret": "ferret.FerretRows",
    "mm15": "mm15.NativeRows",
}
_OTHERS = {
    "world": "world.WorldData",
    "coco": "coco.CocoData",
    "text": "text.open_text",
    "parquet": "parquet.ParquetData",
    "webdataset": "webdataset.WebDatasetData",
}
"""Format -> where it is read, imported when it is asked for."""


def _find(place: str) -> Any:
    module, _, name = place.partition(".")
    return getattr(import_module(f".{module}", __name__), name)
