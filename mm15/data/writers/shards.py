"""Shards: samples into one tar or parquet file, the form of every dataset mm15 builds (layout mm15 of the sources).

    shard-000003.tar                              shard-000003.parquet
      shard-000003-000000.json   native row         id      string
      shard-000003-000000.0.jpg  its pictures       sample  string, the native row
      shard-000003-000000.1.png                     images  list<struct<bytes, path>>, `path` is the name in the row
      shard-000003-000001.json   ...

Pictures that are files or bytes are stored as they are, neither decoded nor encoded again; arrays and Pillow pictures
become PNG. The path of a video is written as it is given: the video stays where it is.

Guarantees: the same samples under the same file name give the same bytes (no times, users or machine in them; parquet
also needs the same pyarrow). The file appears under its name when it is whole, on `close`; until then it is
NAME.partial. A sample is written whole or, when `add` raises UserError, not at all, and the next may be added.

Cost: memory of one sample (tar) or one row group of at most 32 MB (parquet); writing is as fast as the disk.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

from ...errors import UserError
from ...files import WholeOrNothing
from ...image import open_picture, picture_size
from ...sample import Image, Sample
from ..native import to_row

_GROUP_BYTES = 1 << 25
"""A row group of parquet is closed when its samples reach this size, or ..."""
_GROUP_SAMPLES = 100
"""... this number: reading one sample reads its row group."""
_MAGIC = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG", "png"),
    (0, b"GIF8", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"II", "tif"),
    (0, b"MM", "tif"),
    (0, b"BM", "bmp"),
    (0, b"P", "ppm"),
    (0, b"\0\0\1\0", "ico"),
    (8, b"avi", "avif"),
    (4, b"jP  ", "jp2"),
    (0, b"\xff\x4f\xff\x51", "j2k"),
)
"""(place, bytes, extension) by which the formats of `image.tiles.FORMATS` are told apart."""


def open_shard(path: Path, *, to: Literal["webdataset", "parquet"]) -> ShardWriter:
    """A writer of the shard `path`; a file that is there is replaced on `close`. UserError when it cannot be made.

    with open_shard(Path("shard-000000.tar"), to="webdataset") as shard:
        shard.add(sample)
    """
    return (TarShard if to == "webdataset" else ParquetShard)(path)


class ShardWriter(WholeOrNothing):
    """`add` samples, then `close`, or use it in a `with` block.

    `samples`: how many were added. `bytes`: what they take, pictures and rows (parquet: before compression); it only
    depends on the samples, so that a limit on it cuts a dataset alike every time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self.bytes = 0
        self._partial = path.with_name(path.name + ".partial")
        try:
            self._file = open(self._partial, "wb")  # noqa: SIM115 - closed by close() or abort()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); check the folder") from None

    def add(self, sample: Sample) -> None:
        """Append a sample. UserError naming it when a picture cannot be read or its row is no JSON: nothing of it is
        written then."""
        where = f"sample {sample.id!r} of {sample.source!r}"
        pictures = [stored(image, f"{where}, picture {i}") for i, image in enumerate(sample.images)]
        names = [self._name(number, extension) for number, (_, extension) in enumerate(pictures)]
        try:
            row = json.dumps(
                to_row(sample, lambda number, _: names[number]),
                ensure_ascii=False,
                separators=(",", ":"),
                allow_nan=False,
            )
            text = row.encode()
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: cannot be written as JSON ({error}); mend its texts, places and meta") from None
        self._write(sample.id, text, [(name, data) for name, (data, _) in zip(names, pictures, strict=True)])
        self.bytes += len(text) + sum(len(data) for data, _ in pictures)
        self.samples += 1

    def _finish(self) -> None:
        """Finish the file and put it under its name."""
        self._end()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    @abstractmethod
    def _name(self, number: int, extension: str) -> str:
        """What picture `number` of the next sample is called."""

    @abstractmethod
    def _write(self, sample_id: str, row: bytes, pictures: list[tuple[str, bytes]]) -> None:
        """Append the next sample: its row and its (name, content) of pictures."""

    @abstractmethod
    def _end(self) -> None:
        """Write what stands at the end of the file."""


class TarShard(ShardWriter):
    """WebDataset: KEY.json and KEY.N.EXT, KEY being the file's name and the sample's number in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
        self._stem = path.stem.replace(".", "_")  # a key ends at the first dot

    def _key(self) -> str:
        return f"{self._stem}-{self.samples:06d}"

    def _name(self, number: int, extension: str) -> str:
        return f"{self._key()}.{number}.{extension}"

    def _write(self, sample_id: str, row: bytes, pictures: list[tuple[str, bytes]]) -> None:
        for name, data in [(f"{self._key()}.json", row), *pictures]:
            member = tarfile.TarInfo(name)  # its time, user and group are 0
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))

    def _end(self) -> None:
        self._tar.close()


class ParquetShard(ShardWriter):
    """Parquet: columns id, sample and images; `datasets` reads `images` as pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows: list[dict[str, Any]] = []
        self._waiting = 0
        import pyarrow as pa
        from pyarrow import parquet

        images = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        text = {"dtype": "string", "_type": "Value"}
        features = {"id": text, "sample": text, "images": {"feature": {"_type": "Image"}, "_type": "List"}}
        self._schema = pa.schema(
            {"id": pa.string(), "sample": pa.string(), "images": images},
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        packed = {"id": "zstd", "sample": "zstd", "images.list.element.bytes": "none"}
        self._parquet = parquet.ParquetWriter(
            self._file,
            self._schema,
            compression={**packed, "images.list.element.path": "zstd"},
            use_dictionary=False,
            write_statistics=["id"],
        )

    def _name(self, number: int, extension: str) -> str:
        return f"{number}.{extension}"

    def _write(self, sample_id: str, row: bytes, pictures: list[tuple[str, bytes]]) -> None:
        images = [{"bytes": data, "path": name} for name, data in pictures]
        self._rows.append({"id": sample_id, "sample": row.decode(), "images": images})
        self._waiting += len(row) + sum(len(data) for _, data in pictures)
        if self._waiting >= _GROUP_BYTES or len(self._rows) >= _GROUP_SAMPLES:
            self._group()

    def _group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._waiting = [], 0

    def _end(self) -> None:
        if self._rows:
            self._group()
        self._parquet.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError, ValueError):  # a full disk, or closed before
            self._parquet.close()
        super().abort()


def stored(image: Image, where: str) -> tuple[bytes, str]:
    """A picture as it is stored: its bytes and the extension of their format; UserError when it is none."""
    data = image.data
    if isinstance(data, np.ndarray | PILImage.Image):
        buffer = io.BytesIO()
        open_picture(image, where).save(buffer, "PNG")
        return buffer.getvalue(), "png"
    picture_size(image, where)
    content = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else Path(data).read_bytes()
    found = (end for at, magic, end in _MAGIC if content[at : at + len(magic)] == magic)
    return content, next(found, "bin")
