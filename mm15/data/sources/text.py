"""Plain text to continue: each file, each line, or one key of each JSONL row is a document.

    {format: text, path: "books/*.txt"}                                  a file, a pattern, or a folder of .txt files
    {format: text, path: lines.txt, unit: line}                          lines that are not blank
    {format: text, path: "corpus/*.jsonl", unit: jsonl, key: text}       {"text": "..."}

Texts are taken as they stand, in UTF-8; only the ends of lines are no part of a line. Opening reads all of it once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from ...errors import UserError
from ...recipe import TextSource
from ...sample import Part, Sample, document
from .index import BOM, LONGEST
from .locate import locate
from .pictures import Pictures
from .rows import JsonSource, Pieces, RowFormat
from .stored import Stored


def open_text(settings: TextSource, name: str) -> JsonSource | LineData | FileData:
    """The source of a block of texts."""
    if settings.unit == "jsonl":
        return JsonSource(settings, name, TextRows)
    return (LineData if settings.unit == "line" else FileData)(settings, name)


class TextRows(RowFormat):
    """What a row with a text means."""

    def __init__(self, settings: TextSource, pictures: Pictures) -> None:
        super().__init__(settings, pictures)
        self.key = settings.key

    def parts(self, row: dict[str, Any]) -> Iterable[Part]:
        """The text of a row as a document."""
        text = row.get(self.key)
        if not isinstance(text, str) or not text:
            raise UserError(f"{self.key!r} is a text that is not empty, got {text!r:.80}")
        return document(text)


class LineData:
    """Each line of the files that is not blank."""

    def __init__(self, settings: TextSource, name: str) -> None:
        self.name = name
        self.lines = Pieces(settings.path, ".txt", json_lists=False)
        self.fingerprint = f"{name}:{len(self.lines)}:{self.lines.digest}"

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """File and line."""
        return self.lines.where(index)

    def __getitem__(self, index: int) -> Sample:
        """Line `index` as a document."""
        return Sample(str(index), self.name, document(self.lines.text(index).rstrip("\r\n")))


class FileData:
    """Each file; a sample's id ends with the file's name."""

    def __init__(self, settings: TextSource, name: str) -> None:
        self.name = name
        self.files = [Stored(address) for address in locate(settings.path, ".txt")]
        digest = hashlib.sha256()
        for file in self.files:
            if file.size > LONGEST:
                raise UserError(
                    f"{file.address}: {file.size:,} bytes; a document has at most {LONGEST:,}, use unit: line"
                )
            digest.update(f"{file.size}\n".encode())
            for chunk in file.chunks():
                digest.update(chunk)
        self.fingerprint = f"{name}:{len(self.files)}:{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.files)

    def where(self, index: int) -> str:
        """The file."""
        return self.files[index].address

    def __getitem__(self, index: int) -> Sample:
        """File `index` as a document. UserError for an empty file and what is not UTF-8."""
        if not 0 <= index < len(self):
            raise IndexError(f"file {index} of {len(self)} in source {self.name!r}")
        file = self.files[index]
        try:
            text = (file.read(0, file.size) if file.size else b"").removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{file.address}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
        if not text.strip():
            raise UserError(f"{file.address}: holds no text")
        return Sample(f"{index}:{file.address.rpartition('/')[2]}", self.name, document(text))
