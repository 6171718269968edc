"""Writers: samples into files of one format, the other way round from `mm15.data.sources`.

    with open_writer(settings) as writer:          settings: the source block that reads the file back
        lost = writer.add(sample)                  what of the sample the format cannot hold; UserError: not written

A file appears whole or not at all. What is written reads back equal to what was given: every sample is compared with
what the format's reader makes of it before it is written (`fidelity`), and what the format has no field for is named.
`open_shard` writes the shards of the corpora that mm15 builds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UserError
from .base import Writer
from .shards import ShardWriter, open_shard
from .turns import UndecidedError

__all__ = ["ShardWriter", "UndecidedError", "Writer", "open_shard", "open_writer", "spells"]


def open_writer(settings: Any, *, copy_pictures: bool = False) -> Writer:
    """A writer of the file that `settings` reads. Where rows name pictures by path, files are named where they lie, or
    copied beside the rows with `copy_pictures`; bytes and arrays always are.

    Raises UserError for what cannot be written, and for a file that is there already.
    """
    path = Path(settings.path)
    for made in (path, path.with_name(path.name + ".images")):
        if made.exists() or made.is_symlink():
            raise UserError(f"{made}: is there already; remove it or write to another file")
    if settings.images is not None:
        raise UserError("images: pictures that are written are found by their names; leave it out")
    if settings.regions is not None and not spells(settings):
        raise UserError("regions: this format keeps places in fields of its own, not in its texts; leave it out")
    if settings.format == "text":
        return _text(settings)
    if settings.format in ("parquet", "webdataset"):
        return _table(settings)
    if settings.format == "coco":
        from .coco import CocoWriter

        return CocoWriter(settings, copy_pictures=copy_pictures)
    from .rows import RowWriter

    return RowWriter(settings, _shape(settings.format), copy_pictures=copy_pictures)


def spells(settings: Any) -> bool:
    """Whether a format can hold places in its texts."""
    return settings.format not in ("mm15", "coco") and getattr(settings, "layout", "") != "mm15"


def _shape(name: str) -> Any:
    from . import chats, fields

    shapes = {
        "llava": chats.LlavaShape,
        "sharegpt": chats.ShareGPTShape,
        "openai": chats.OpenAIShape,
        "anthropic": chats.AnthropicShape,
        "mm15": chats.NativeShape,
        "swift": fields.SwiftShape,
        "ferret": fields.FerretShape,
    }
    return shapes[name]


def _text(settings: Any) -> Writer:
    if settings.unit == "file":
        raise UserError("texts are written as lines (unit: line) or rows (unit: jsonl), not as a file each")
    if settings.unit == "line":
        from .tables import LineFile

        return LineFile(settings)
    from .chats import TextShape
    from .rows import RowWriter

    return RowWriter(settings, TextShape, copy_pictures=False)


def _table(settings: Any) -> Writer:
    from .tables import ChatTable, DocumentTar, ShardFile

    if settings.layout == "mm15":
        return ShardFile(settings)
    return ChatTable(settings) if settings.format == "parquet" else DocumentTar(settings)
