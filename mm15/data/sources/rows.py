"""Rows of a JSON file, read one at a time: a JSON list of objects, or JSONL (one object a line).

Opening looks through the file once and keeps two int64 arrays, the start and end byte of each row (16 bytes a row),
and a SHA-256 of the whole file. JSONL lines are found but not parsed then (about 1 s a GB); a JSON list has to be
parsed to find its elements (about 20 s a GB, and the file's text in memory meanwhile). Rows are cut out of a memory
map afterwards, so neither size nor the number of processes matters.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from ...errors import UserError
from ...sample import Image, Part, Sample

_CHUNK = 1 << 24
_SPACE = b" \t\r\n"
_NO_SPACE = re.compile(r"[^ \t\r\n]")
_BOM = b"\xef\xbb\xbf"


class JsonRows:
    """`rows[i]` is the i-th object of the file; `digest` are 16 hex digits of its content.

    Raises UserError for a missing, empty or unreadable file, and with the line number for bad JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        try:
            first = self._first_byte()
            if first == b"[":
                self._starts, self._ends, self.digest = self._index_list()
            else:
                self._starts, self._ends, self.digest = self._index_lines()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error}); check the path") from None
        if not len(self._starts):
            raise UserError(f"{self.path}: holds no rows; give a file with at least one sample")
        self._file: mmap.mmap | None = None
        self[0]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`; UserError when it is not a JSON object."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        if self._file is None:
            with open(self.path, "rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        text = self._file[int(self._starts[index]) : int(self._ends[index])]
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.where(index)}: not valid JSON ({error}); mend or remove it") from None
        if not isinstance(row, dict):
            raise UserError(f"{self.where(index)}: a row is an object in braces, this is {type(row).__name__}")
        return row

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def where(self, index: int) -> str:
        """The row's place, for errors: file and line. Reads the file up to there."""
        before = 0
        with open(self.path, "rb") as file:
            left = int(self._starts[index])
            while left > 0:
                chunk = file.read(min(_CHUNK, left))
                before += chunk.count(b"\n")
                left -= len(chunk)
        return f"{self.path} line {before + 1}"

    def _first_byte(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read(4096).removeprefix(_BOM).lstrip(_SPACE)[:1]

    def _index_lines(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Where the lines that are not blank start and end."""
        digest, breaks, offset = hashlib.sha256(), [], 0
        with open(self.path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + offset)
                offset += len(chunk)
            ends = np.concatenate([*breaks, [offset]]).astype(np.int64)
            starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
            filled = np.ones(len(starts), dtype=bool)
            for i in np.flatnonzero(ends - starts < 3):
                file.seek(starts[i])
                filled[i] = bool(file.read(int(ends[i] - starts[i])).strip(_SPACE))
        return starts[filled], ends[filled], digest.hexdigest()[:16]

    def _index_list(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Where the elements of a JSON list start and end, in bytes."""
        raw = self.path.read_bytes()
        digest = hashlib.sha256(raw).hexdigest()[:16]
        try:
            text = raw.decode("utf-8")
            spans = _in_bytes(text, _elements(text))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path} line {error.lineno}: not valid JSON ({error.msg}); mend the file") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
        return spans[:, 0], spans[:, 1], digest


class JsonSource:
    """A source made of JSON rows: what the formats have in common. They add the `key` of their rows, and `parts`.

    Pictures lie below `images`, by default beside the file. Sample ids read ``index:id`` (``index`` where a row has
    no id), because ids repeat in the files of the field.
    """

    key: ClassVar[str]

    def __init__(self, path: str | Path, name: str, *, images: str | Path | None = None) -> None:
        self.name = name
        self.rows = JsonRows(path)
        self.images = Path(images).expanduser() if images is not None else self.rows.path.parent
        self.fingerprint = f"{name}:{len(self.rows)}:{self.rows.digest}"
        if self.key not in self.rows[0]:
            raise UserError(
                f"{self.rows.where(0)}: rows of this format have {self.key!r}, this one has {list(self.rows[0])}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError with line and id when the row cannot be used."""
        row = self.rows[index]
        try:
            parts = tuple(self.parts(row))
            if not any(part.target for part in parts):
                raise UserError(
                    "the assistant says nothing, so there is nothing to learn; add its answer or drop the row"
                )
        except UserError as error:
            named = f" (id {row['id']!r})" if "id" in row else ""
            raise UserError(f"{self.rows.where(index)}{named}: {error}") from None
        return Sample(f"{index}:{row['id']}" if "id" in row else str(index), self.name, parts)

    def parts(self, row: dict[str, Any]) -> Iterable[Part]:
        """The parts of a row; UserErrors say what is wrong, not where."""
        raise NotImplementedError

    def picture(self, name: Any) -> Image:
        """The picture a row names: a path below `images`, a file: address, or base64 in a data: address.

        Nothing is fetched from the web; that a file exists is only known when it is opened.
        """
        if not isinstance(name, str) or not name:
            raise UserError(f"a picture is named by a path or a data: address, got {name!r:.80}")
        scheme = name.partition(":")[0].lower()
        if scheme in ("http", "https"):
            raise UserError(f"picture {name:.80} is on the web; download it and name the file, nothing is fetched here")
        if scheme == "data":
            return Image(_data_address(name))
        if scheme == "file":
            return Image(url2pathname(urlsplit(name).path))
        return Image(self.images / name)


def _data_address(address: str) -> bytes:
    header, comma, content = address.partition(",")
    if not comma or not header.endswith(";base64"):
        raise UserError(f"{header!r:.40} is no picture; write data:image/png;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise UserError(f"the base64 of a data: address is damaged ({error})") from None


def _elements(text: str) -> list[tuple[int, int]]:
    """Start and end character of each element of a JSON list; JSONDecodeError when it is none."""
    decoder, spans = json.JSONDecoder(), []
    at = _skip_space(text, text.index("[") + 1)
    more = text[at : at + 1] != "]"
    while more:
        _, end = decoder.raw_decode(text, at)
        spans.append((at, end))
        at = _skip_space(text, end)
        more = text[at : at + 1] == ","
        if more:
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("expected ',' or ']'", text, at)
    if _skip_space(text, at + 1) != len(text):
        raise json.JSONDecodeError("text after the end of the list", text, at + 1)
    return spans


def _skip_space(text: str, at: int) -> int:
    found = _NO_SPACE.search(text, at)
    return found.start() if found else len(text)


def _in_bytes(text: str, spans: list[tuple[int, int]]) -> np.ndarray:
    """Character places as places in the UTF-8 bytes, int64 [rows, 2]."""
    places, at, byte = [], 0, 0
    for place in (edge for span in spans for edge in span):
        byte += len(text[at:place].encode())
        at = place
        places.append(byte)
    return np.array(places, dtype=np.int64).reshape(-1, 2)
