"""Samples as what is no JSON: lines of text, tars of pairs and of web documents, parquet of chats, and our own shards.

All but our own are written as the field has them, so that other programs read them; places stand in the texts by the
convention of the source block.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...recipe import ParquetSource, TextSource, WebDatasetSource
from ...sample import Image, Role, Sample, Video, assistant, document, user
from ..sources.regions import Sizes
from .base import PartialFile, Writer
from .chats import Given, text_of
from .shards import open_shard, stored
from .turns import said, spell

_GROUP_BYTES = 1 << 25
_GROUP_SAMPLES = 100
"""A row group of parquet is closed when it holds so many bytes of pictures, or samples."""


class ShardFile(Writer):
    """Layout mm15 of webdataset and parquet: everything a sample is."""

    holds_meta = True

    def __init__(self, settings: WebDatasetSource | ParquetSource) -> None:
        super().__init__(settings)
        path = Path(settings.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._shard = open_shard(path, to=settings.format)

    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        self._shard.add(sample)
        return []

    def _finish(self) -> None:
        """Finish the shard."""
        self._shard.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._shard.abort()


class LineFile(Writer):
    """Documents without pictures, one a line."""

    def __init__(self, settings: TextSource) -> None:
        super().__init__(settings)
        self._out = PartialFile(Path(settings.path))

    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        text = text_of(Given(sample, [], sizes), self.regions)
        if "\n" in text or not text.strip(" \t\r"):
            raise UserError("a text of several lines (or none); unit: jsonl holds those")
        try:
            line = text.encode()
        except UnicodeEncodeError:
            raise UserError("its text holds half of a surrogate pair, which is no character") from None
        lost = self._compare(sample, document(text.rstrip("\r")), sizes)
        self._out.file.write(line + b"\n")
        return lost

    def _finish(self) -> None:
        """Finish the file."""
        self._out.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._out.abort()


class DocumentTar(Writer):
    """WebDataset of pairs (KEY.jpg, KEY.txt) or of web documents (KEY.json with texts and images, KEY.N.jpg)."""

    settings: WebDatasetSource

    def __init__(self, settings: WebDatasetSource) -> None:
        super().__init__(settings)
        path = Path(settings.path)
        self._out = PartialFile(path)
        self._tar = tarfile.TarFile(fileobj=self._out.file, mode="w", format=tarfile.PAX_FORMAT)
        self._stem = path.stem.replace(".", "_")  # a key ends at the first dot

    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        where = f"sample {sample.id!r}"
        if any(part.role is not Role.DOCUMENT for part in sample.parts):
            raise UserError(f"a conversation, and {self.settings.layout} are documents; layout mm15 holds both")
        if any(isinstance(part.content, Video) for part in sample.parts):
            raise UserError("it shows a video; layout mm15 holds those")
        contents = spell([part.content for part in sample.parts], self.regions, sizes, 0)
        pair = self.settings.layout == "pairs"
        if pair and [type(content) for content in contents] != [Image, str]:
            raise UserError("it is no picture followed by its caption, as pairs are")
        read = [content.strip() if pair and isinstance(content, str) else content for content in contents]
        lost = self._compare(sample, document(*read), sizes)
        pictures = [stored(image, f"{where}, picture {i}") for i, image in enumerate(sample.images)]
        try:
            self._put(self._pair(contents, pictures) if pair else self._document(sample, contents, pictures))
        except UnicodeEncodeError:
            raise UserError("its text holds half of a surrogate pair, which is no character") from None
        return lost

    def _pair(self, contents: Sequence[str | Image], pictures: list[tuple[bytes, str]]) -> list[tuple[str, bytes]]:
        content, extension = pictures[0]
        return [(extension, content), ("txt", str(contents[1]).encode())]

    def _document(
        self, sample: Sample, contents: Sequence[str | Image], pictures: list[tuple[bytes, str]]
    ) -> list[tuple[str, bytes]]:
        named = [(f"{number}.{extension}", data) for number, (data, extension) in enumerate(pictures)]
        left = iter(name for name, _ in named)
        row = {
            "id": sample.id,
            "texts": [content if isinstance(content, str) else None for content in contents],
            "images": [None if isinstance(content, str) else next(left) for content in contents],
        }
        return [("json", json.dumps(row, ensure_ascii=False).encode()), *named]

    def _put(self, members: list[tuple[str, bytes]]) -> None:
        for suffix, data in members:
            member = tarfile.TarInfo(f"{self._stem}-{self.samples:06d}.{suffix}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))

    def _finish(self) -> None:
        """Finish the tar."""
        self._tar.close()
        self._out.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._out.abort()


class ChatTable(Writer):
    """Parquet with columns of pictures and of [{user, assistant}], as the_cauldron and FineVision have it."""

    settings: ParquetSource
    holds_system = False

    def __init__(self, settings: ParquetSource) -> None:
        super().__init__(settings)
        import pyarrow as pa
        from pyarrow import parquet

        columns = settings.columns
        self._images, self._texts = columns.get("images", "images"), columns.get("texts", "texts")
        picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        turn = pa.struct({"user": pa.string(), "assistant": pa.string()})
        text = {"dtype": "string", "_type": "Value"}
        features = {
            self._images: {"feature": {"_type": "Image"}, "_type": "List"},
            self._texts: {"feature": {"user": text, "assistant": text}, "_type": "List"},
        }
        self._schema = pa.schema(
            {self._images: pa.list_(picture), self._texts: pa.list_(turn)},
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        self._out = PartialFile(Path(settings.path))
        self._parquet = parquet.ParquetWriter(self._out.file, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._waiting = 0

    def _write(self, sample: Sample, sizes: Sizes) -> list[str]:
        where = f"sample {sample.id!r}"
        turns = self._turns(sample, sizes)
        again = list(user(*sample.images))
        for turn in turns:
            again += [*user(*filter(None, [turn["user"]])), *assistant(*filter(None, [turn["assistant"]]))]
        lost = self._compare(sample, again, sizes)
        stored_ones = [stored(image, f"{where}, picture {i}") for i, image in enumerate(sample.images)]
        images = [{"bytes": data, "path": f"{n}.{extension}"} for n, (data, extension) in enumerate(stored_ones)]
        try:
            json.dumps(turns, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError("its text holds half of a surrogate pair, which is no character") from None
        self._rows.append({self._images: images, self._texts: turns})
        self._waiting += sum(len(data) for data, _ in stored_ones)
        if self._waiting >= _GROUP_BYTES or len(self._rows) >= _GROUP_SAMPLES:
            self._group()
        return lost

    def _turns(self, sample: Sample, sizes: Sizes) -> list[dict[str, str]]:
        """Questions and answers in pairs, all pictures before the first."""
        shown, worded = 0, False
        turns: list[dict[str, str]] = []
        for turn in said(sample):
            if turn.role is Role.USER or not turns or turns[-1]["assistant"]:
                turns.append({"user": "", "assistant": ""})
            for content in spell(turn.contents, self.regions, sizes, shown):
                if isinstance(content, str):
                    turns[-1]["user" if turn.role is Role.USER else "assistant"] = content
                elif worded:
                    raise UserError("a picture stands after a text, and chats in parquet show all pictures first")
                worded = worded or isinstance(content, str)
                shown += isinstance(content, Image)
        return turns

    def _group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._waiting = [], 0

    def _finish(self) -> None:
        """Finish the file."""
        if self._rows:
            self._group()
        self._parquet.close()
        self._out.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError, ValueError):  # a full disk, or closed before
            self._parquet.close()
        self._out.abort()
