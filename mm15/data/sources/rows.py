"""Rows of JSON files, read one at a time, and the source that is made of them.

    JsonRows     row i of one or several files: JSONL (one object a line) or JSON lists of objects
    RowFormat    what a format says a row means: its pictures and parts
    JsonSource   both: sample i, with its id, its places read, and its errors naming file, line and id

Opening looks through the files once (see `index`); rows are cut out of a memory map, or fetched by byte ranges from
wherever fsspec reaches, so neither size nor the number of processes matters. Nothing but JSON is taken for JSON: no
NaN, no key twice, no half surrogates, only UTF-8.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...errors import UserError
from ...recipe import FileSource
from ...sample import Image, Part, Sample
from .index import BOM, Index, first_byte, index_lines, index_list
from .locate import locate
from .pictures import Pictures
from .regions import convention_of, read_parts
from .stored import Stored


class Pieces:
    """Pieces of text files one after the other: `pieces.text(i)` is the i-th; `digest` are 16 hex digits of all files.

    Raises UserError when there are none.
    """

    def __init__(self, path: str, ending: str, *, json_lists: bool) -> None:
        self.path = path
        self.files = [Stored(address) for address in locate(path, ending)]
        self.indexes = [_index(file, json_lists=json_lists) for file in self.files]
        self._firsts = np.cumsum([0, *map(len, self.indexes)])
        digests = [index.digest for index in self.indexes]
        self.digest = digests[0] if len(digests) == 1 else _digest_of(digests)
        if not len(self):
            raise UserError(f"{path}: holds no rows; give a file with at least one sample")

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def text(self, index: int) -> str:
        """Piece `index`. UserError when it is not UTF-8."""
        file, row = self.place(index)
        found = self.indexes[file]
        content = self.files[file].read(int(found.starts[row]), int(found.ends[row]))
        try:
            return (content.removeprefix(BOM) if row == 0 else content).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where(index)}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None

    def where(self, index: int) -> str:
        """The piece's place, for errors: file and line."""
        file, row = self.place(index)
        return f"{self.files[file].address} line {self.indexes[file].lines[row]}"

    def place(self, index: int) -> tuple[int, int]:
        """(number of the file, number in the file) of a piece."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        file = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return file, index - int(self._firsts[file])


class JsonRows(Pieces):
    """`rows[i]` is the i-th object of the files. UserError with the line for what is no object or no JSON."""

    def __init__(self, path: str) -> None:
        super().__init__(path, ".jsonl", json_lists=True)
        self[0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row = parse(self.text(index))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.where(index)}: not valid JSON ({error}); mend or remove it") from None
        if not isinstance(row, dict):
            raise UserError(f"{self.where(index)}: a row is an object in braces, this is {type(row).__name__}")
        return row


def parse(text: str) -> Any:
    """What a JSON text says; ValueError for anything that is not JSON, or cannot be written as UTF-8 again."""
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("its lists and objects are nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r:.80} stands twice in an object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON, write null")


def _index(file: Stored, *, json_lists: bool) -> Index:
    is_list = first_byte(file) == b"[" and json_lists
    return index_list(file) if is_list else index_lines(file)


def _digest_of(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


class RowFormat(ABC):
    """What the rows of a format mean. Formats add the `key` their rows are known by, and `parts`."""

    key: str

    def __init__(self, settings: Any, pictures: Pictures) -> None:
        self.settings = settings
        self.pictures = pictures

    @abstractmethod
    def parts(self, row: dict[str, Any]) -> Iterable[Part]:
        """The parts of a row; UserErrors say what is wrong, not where."""

    def sample(self, row: dict[str, Any], index: int, source: str, where: str) -> Sample:
        """The sample of row `index`; errors begin with `where`.

        Ids read ``index:id`` (``index`` where a row has none), because ids repeat in the files of the field.
        """
        try:
            parts = tuple(self.parts(row))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        sample_id = f"{index}:{row['id']}" if "id" in row else str(index)
        return Sample(sample_id, source, read_parts(parts, self.settings.regions, where))

    def picture(self, name: Any) -> Image:
        """The picture a row names; see `Pictures.open`."""
        return self.pictures.open(name)


class JsonSource:
    """A source made of JSON rows, read by a format. Pictures lie below `settings.images`, by default beside a file."""

    def __init__(self, settings: Any, name: str, reads: type[RowFormat]) -> None:
        self.name = name
        self.rows = JsonRows(settings.path)
        self.fingerprint = f"{name}:{len(self.rows)}:{self.rows.digest}"
        self._formats = [reads(settings, pictures_of(settings, file.address)) for file in self.rows.files]
        if settings.regions is not None:
            convention_of(settings.regions)
        key, first = self._formats[0].key, self.rows[0]
        if key not in first:
            raise UserError(
                f"{self.rows.where(0)}: rows of this format have {key!r}, this one has {list(first)!r:.200}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """File and line."""
        return self.rows.where(index)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError with file, line and id when the row cannot be used."""
        row = self.rows[index]
        where = self.rows.where(index) + (f" (id {row['id']!r:.80})" if "id" in row else "")
        sample = self._formats[self.rows.place(index)[0]].sample(row, index, self.name, where)
        if not any(part.target for part in sample.parts):
            raise UserError(
                f"{where}: the assistant says nothing, so there is nothing to learn; add its answer or drop the row"
            )
        return sample


def pictures_of(settings: FileSource, file: str) -> Pictures:
    """Where the pictures of a file's rows lie."""
    return Pictures(settings.images) if settings.images is not None else Pictures.beside(file)
