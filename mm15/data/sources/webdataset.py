"""WebDataset: samples as members of tars that share a key, read in place at random by an index (`tar.py`).

    pairs        KEY.jpg + KEY.txt, or `caption` in KEY.json: the picture and then its caption, a document
    interleaved  KEY.json with `texts` and `images` (OBELICS: lists of one length, at each place one of the two is None)
                 or `text_list` and `image_info` (MMC4: picture by picture the number of its sentence), a document
    mm15         KEY.json is a row of `mm15.data.native`, its pictures are members; what mm15 itself writes

Pictures of a document are the members its JSON names, or else KEY.N.EXT, by their numbers one after the other; as many
as the JSON has. Other members of a sample are left alone (pairs: .json beside .txt, .seg.png; not a second picture).
Sample ids read ``index:key``; in layout mm15 they are those of the rows.

Opening reads the headers of tars that have no index yet. A sample costs one opening of its tar and a read for each
member (local files), or a request for each (fsspec). What is wrong with a sample is a UserError that names tar and key.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import PurePath
from typing import Any

from ...errors import UserError
from ...image.tiles import MOST_BYTES
from ...progress import Bar
from ...recipe import WebDatasetSource
from ...sample import Content, Image, Sample, document
from ..native import from_row
from .locate import file_system, is_local, locate, reason
from .regions import read_parts
from .rows import parse
from .tar import TarIndex, index_tar

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "jp2", "j2k", "ico")
"""Endings of pictures."""


class Members:
    """The members of one sample: `members[suffix]` is the content of KEY.suffix."""

    def __init__(self, address: str, key: str, places: dict[str, tuple[int, int]]) -> None:
        self.address, self.key, self.places = address, key, places

    def __contains__(self, suffix: str) -> bool:
        return suffix in self.places

    def read(self, *suffixes: str) -> list[bytes]:
        """Contents in the order asked for; UserError when one cannot be read."""
        for suffix in suffixes:
            if self.places[suffix][1] > MOST_BYTES:
                raise UserError(f"member .{suffix} is {self.places[suffix][1]:,} bytes, more than {MOST_BYTES:,}")
        try:
            contents = self._local_or_remote([self.places[suffix] for suffix in suffixes])
        except UserError:
            raise
        except Exception as error:  # each remote file system has its own
            raise UserError(f"cannot be read ({reason(error)})") from error
        for suffix, content in zip(suffixes, contents, strict=True):
            if len(content) != self.places[suffix][1]:
                raise UserError(f"member .{suffix} ends early; the tar has changed since it was opened")
        return contents

    def _local_or_remote(self, places: list[tuple[int, int]]) -> list[bytes]:
        fs, path = file_system(self.address)
        if not is_local(fs):
            return [fs.cat_file(path, start=at, end=at + size) if size else b"" for at, size in places]
        with open(path, "rb", buffering=0) as file:
            return [os.pread(file.fileno(), size, at) for at, size in places]

    def json(self) -> dict[str, Any]:
        """The object in KEY.json."""
        if "json" not in self:
            raise UserError(f"no member .json; it has {self.listed()}")
        try:
            row = parse(self.read("json")[0].decode("utf-8-sig"))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"member .json is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"member .json is an object in braces, this is {type(row).__name__}")
        return row

    def named(self, name: str) -> str | None:
        """The suffix of the member that a JSON calls `name`: a member's name, or what stands after its key."""
        own = PurePath(self.key).name
        for suffix in (name, name.removeprefix(self.key + "."), PurePath(name).name.removeprefix(own + ".")):
            if suffix.lower() in self:
                return suffix.lower()
        return None

    def numbered(self) -> list[str]:
        """The suffixes of pictures KEY.N.EXT, by their numbers."""
        split = [(suffix.split("."), suffix) for suffix in self.places]
        found = [
            (int(parts[0]), suffix)
            for parts, suffix in split
            if len(parts) == 2 and parts[0].isdecimal() and parts[1] in PICTURES
        ]
        return [suffix for _, suffix in sorted(found)]

    def listed(self) -> str:
        """Its suffixes, for errors."""
        return ", ".join(f".{suffix}" for suffix in list(self.places)[:8]) or "none"


class WebDatasetData:
    """Tars as a source. Raises UserError for tars that are missing, no tars, damaged, or without samples of the
    layout."""

    def __init__(self, settings: WebDatasetSource, name: str) -> None:
        if settings.images is not None:
            raise UserError(f"source {name!r}: `images` is not for webdataset, whose pictures are in the tars; drop it")
        self.name = name
        self.settings = settings
        self.shards = locate(settings.path, ".tar")
        indexed = _index_all(self.shards)
        self.indexes = [index for index, _ in indexed]
        self._ends = list(accumulate(map(len, self.indexes)))
        if not len(self):
            raise UserError(f"{settings.path}: no samples; a sample's members are called KEY.jpg, KEY.txt and the like")
        self._check_layout()
        digest = hashlib.sha256(f"{settings.layout} {settings.regions!r}".encode())
        for shard, (index, size) in zip(self.shards, indexed, strict=True):
            digest.update(f"{PurePath(shard).name}:{size}:".encode() + index.digest())
        self.fingerprint = f"{name}:{len(self)}:{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return self._ends[-1]

    def where(self, index: int) -> str:
        """Tar and key."""
        shard, inside = self._find(index)
        return f"{self.shards[shard]} sample {self.indexes[shard].key(inside)!r}"

    def _find(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and its number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in source {self.name!r}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError with tar and key when it cannot be used."""
        shard, inside = self._find(index)
        tar, where = self.indexes[shard], self.where(index)
        key = tar.key(inside)
        try:
            sample = self._read(f"{index}:{key}", Members(self.shards[shard], key, tar.members(inside)))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return replace(sample, parts=read_parts(sample.parts, self.settings.regions, where))

    def _read(self, sample_id: str, members: Members) -> Sample:
        if self.settings.layout == "mm15":
            sample = _native(members, self.name)
        else:
            contents = _pair(members) if self.settings.layout == "pairs" else _interleaved(members)
            sample = Sample(sample_id, self.name, document(*contents))
        if not any(part.target for part in sample.parts):
            raise UserError("there is no text to learn; add some or leave the sample out")
        return sample

    def _check_layout(self) -> None:
        """That some sample of the first tars may be of the layout."""
        suffixes = {suffix for index in self.indexes[:8] for suffix in index.suffixes}
        shown = ", ".join(f".{suffix}" for suffix in sorted(suffixes)[:8])
        layout = self.settings.layout
        if layout != "pairs" and "json" not in suffixes:
            raise UserError(f"{self.shards[0]}: layout {layout} needs .json members, these are {shown}")
        if layout == "pairs" and not (suffixes & set(PICTURES) and suffixes & {"txt", "json"}):
            raise UserError(f"{self.shards[0]}: layout pairs needs members such as .jpg and .txt, these are {shown}")


# ------------------------------------------------------------------------------------------------------------ layouts


def _native(members: Members, source: str) -> Sample:
    row = members.json()

    def picture(name: str) -> Image:
        suffix = members.named(name)
        if suffix is None:
            raise UserError(f"picture {name!r:.80} is no member; it has {members.listed()}")
        return Image(members.read(suffix)[0])

    return from_row(row, source, picture)


def _pair(members: Members) -> list[Content]:
    """A picture and its caption."""
    pictures = [suffix for suffix in members.places if suffix in PICTURES]
    if len(pictures) != 1:
        raise UserError(f"a pair has one picture, this has {len(pictures)} among its members {members.listed()}")
    if "txt" in members:
        picture, text = members.read(pictures[0], "txt")
        try:
            caption: Any = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"member .txt is not UTF-8 text at byte {error.start}") from None
    elif "json" in members:
        caption = members.json().get("caption")
        picture = members.read(pictures[0])[0]
    else:
        raise UserError(f"no caption: neither .txt nor .json among its members {members.listed()}")
    if not isinstance(caption, str) or not caption.strip():
        raise UserError(f"its caption is a text with something in it, got {caption!r:.80}")
    return [Image(picture), caption.strip()]


def _interleaved(members: Members) -> list[Content]:
    """A web document in reading order: texts, and pictures in their places."""
    row = members.json()
    if "texts" in row:
        contents = list(_obelics(row))
    elif "text_list" in row:
        contents = list(_mmc4(row))
    else:
        raise UserError(f"a document has 'texts' and 'images', or 'text_list' and 'image_info'; this has {list(row)}")
    named = [content for content in contents if not isinstance(content, str)]
    pictures = (Image(data) for data in members.read(*_pictures([name for (name,) in named], members)))
    return [content if isinstance(content, str) else next(pictures) for content in contents]


def _pictures(names: list[Any], members: Members) -> list[str]:
    """The suffixes of a document's pictures: as named, or by their numbers."""
    by_name = [members.named(name) if isinstance(name, str) else None for name in names]
    found = [suffix for suffix in by_name if suffix is not None]
    if len(found) == len(names):
        return found
    numbered = members.numbered()
    if len(numbered) != len(names):
        missing = next(name for name, suffix in zip(names, by_name, strict=True) if suffix is None)
        raise UserError(
            f"{len(names)} pictures, of which {len(found)} are named as members (not {missing!r:.80}) and "
            f"{len(numbered)} are numbered .N.EXT"
        )
    return numbered


def _obelics(row: dict[str, Any]) -> Iterator[str | tuple[Any]]:
    """Texts, and the names of pictures in tuples; texts that follow one another are paragraphs."""
    texts, images = row["texts"], row.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        raise UserError("'texts' and 'images' are lists of one length")
    after_text = False
    for number, (text, image) in enumerate(zip(texts, images, strict=True)):
        if (text is None) == (image is None) or not isinstance(text, str | None):
            raise UserError(f"place {number} holds a text or a picture, got {text!r:.60} and {image!r:.60}")
        if text is None:
            yield (image,)
        elif text:
            yield "\n\n" + text if after_text else text
        after_text = bool(text)


def _mmc4(row: dict[str, Any]) -> Iterator[str | tuple[Any]]:
    """Sentences, and the names of pictures in tuples, each before its sentence."""
    sentences, infos = row["text_list"], row.get("image_info")
    if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
        raise UserError("'text_list' is a list of texts")
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise UserError("'image_info' is a list of objects")
    shown: dict[int, list[Any]] = {}
    for number, info in enumerate(infos):
        place = info.get("matched_text_index")
        if not isinstance(place, int) or not 0 <= place < len(sentences):
            raise UserError(f"picture {number} has matched_text_index {place!r:.40} of {len(sentences)} texts")
        shown.setdefault(place, []).append(info.get("image_name"))
    for place, sentence in enumerate(sentences):
        yield from ((name,) for name in shown.get(place, []))
        if sentence:
            yield sentence if place + 1 == len(sentences) or place + 1 in shown else sentence + " "


# ------------------------------------------------------------------------------------------------------------ opening


def _index_all(shards: list[str]) -> list[tuple[TarIndex, int]]:
    """(index, size) of each tar; a bar on stderr when it takes longer."""
    with Bar("indexing tars", total=len(shards), unit="tars") as bar:
        found: list[tuple[TarIndex, int]] = []
        for shard in shards:
            found.append(index_tar(shard, lambda _at: bar.update(len(found))))
            bar.update(len(found))
        return found
