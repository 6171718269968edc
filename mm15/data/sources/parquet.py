"""Parquet through Hugging Face `datasets`: local files, a folder, a pattern, an fsspec address, or a hub id.

    chat   images: list of pictures, texts: [{"user": "Where is it?", "assistant": "Left."}, ...]
           as the_cauldron and FineVision have it: all pictures stand before the first question
    mm15   sample: a row of `mm15.data.native` as JSON, images: its pictures by name; what mm15 itself writes

A picture is bytes, a path below `images` (by default beside the file), or datasets' own {bytes, path}; it is never
decoded here. Rows without pictures are text. Other columns are left alone. Ids are row numbers; those of layout mm15
are its rows' own. A name that is nothing local is taken for a hub id: that alone asks the network.

`datasets` turns the files into Arrow once, in its own cache (as large as the files, about 150 MB/s); rows are then read
through memory maps, about 0.05 ms each, so neither size nor the number of processes matters. The fingerprint is of the
files' sizes and footers; on the hub, of the commit and file names.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Literal

from ...errors import UserError
from ...recipe import ParquetSource
from ...sample import Image, Part, Sample, assistant, user
from ..native import from_row
from .locate import file_system, locate, reason
from .pictures import Pictures
from .regions import read_parts
from .rows import parse

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_CHAT: tuple[Literal["images", "texts"], ...] = ("images", "texts")
_END = b"PAR1"
_AT_ONCE = 100
"""Rows of a file that are held while they go to Arrow."""


class ParquetData:
    """Parquet as a source. Raises UserError for what is missing or no parquet, and for columns that are not there."""

    def __init__(self, settings: ParquetSource, name: str) -> None:
        self.name = name
        self.settings = settings
        files, rows = _load(settings)
        if settings.layout == "mm15":
            self.columns = {"sample": "sample", "images": "images"}
        else:
            self.columns = {ours: settings.columns.get(ours, ours) for ours in _CHAT}
        present = rows.column_names
        for ours, theirs in self.columns.items():
            if theirs and theirs not in present:
                raise UserError(
                    f"{settings.path}: no column {theirs!r}, there are {', '.join(present)}; {_advice(ours)}"
                )
        wanted = [theirs for theirs in self.columns.values() if theirs]
        self.rows = rows.select_columns(wanted).with_format("arrow")
        self.pictures = Pictures(settings.images) if settings.images else _beside(settings.path, files)
        digest = hashlib.sha256(settings.model_dump_json(exclude={"path", "images"}).encode() + _digest(files))
        self.fingerprint = f"{name}:{len(self)}:{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """Path and row."""
        return f"{self.settings.path} row {index}"

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; UserError with the number of its row when it cannot be used."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in source {self.name!r}")
        where = self.where(index)
        found = self.rows[index].to_pylist()[0]
        row = {ours: found[theirs] if theirs else None for ours, theirs in self.columns.items()}
        try:
            if self.settings.layout == "mm15":
                sample = self._native(row)
            else:
                sample = Sample(str(index), self.name, tuple(self._chat(row)))
            if not any(part.target for part in sample.parts):
                raise UserError("the assistant says nothing, so there is nothing to learn; drop the row")
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return Sample(sample.id, self.name, read_parts(sample.parts, self.settings.regions, where), sample.meta)

    def _chat(self, row: dict[str, Any]) -> Iterator[Part]:
        cell = row["images"]
        pictures = [self._picture(value) for value in (cell if isinstance(cell, list) else [cell]) if value is not None]
        yield from user(*pictures)
        for number, turn in enumerate(_turns(row["texts"])):
            question, answer = (turn.get("user"), turn.get("assistant")) if isinstance(turn, dict) else (None, None)
            if not isinstance(question, str) or not isinstance(answer, str):
                raise UserError(f"turn {number} needs texts as 'user' and 'assistant', got {turn!r:.80}")
            yield from (*user(*([question] if question else [])), *assistant(*([answer] if answer else [])))

    def _native(self, row: dict[str, Any]) -> Sample:
        named = {value["path"]: value["bytes"] for value in row["images"] or []}

        def picture(name: str) -> Image:
            if not named.get(name):
                raise UserError(f"picture {name!r:.80} is not in its column images, which has {list(named)!r:.120}")
            return Image(named[name])

        try:
            return from_row(parse(row["sample"]), self.name, picture)
        except (TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"its column sample is no row of mm15 ({error})") from None

    def _picture(self, value: Any) -> Image:
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, bytes):
            return Image(data)
        path = data if isinstance(data, str) else path
        if not isinstance(path, str):
            raise UserError(f"a picture is bytes, a path or {{bytes, path}}, got {value!r:.80}")
        return self.pictures.open(path)


def _turns(cell: Any) -> list[Any]:
    """The turns of a row; datasets keeps some as one dictionary of lists."""
    if isinstance(cell, dict) and all(isinstance(values, list) for values in cell.values()):
        return [dict(zip(cell, values, strict=True)) for values in zip(*cell.values(), strict=True)]
    if not isinstance(cell, list):
        raise UserError(f"the turns are a list of {{user, assistant}}, got {cell!r:.80}")
    return cell


def _advice(ours: str) -> str:
    if ours == "sample":
        return "is this layout chat?"
    none = ", or columns: {images: ''} for text alone" if ours == "images" else ""
    return f"name it with columns: {{{ours}: NAME}}{none}"


# ------------------------------------------------------------------------------------------------------------ loading


def _load(settings: ParquetSource) -> tuple[list[str], Any]:
    """(files, their rows as a Dataset) of the split."""
    try:
        import datasets
    except ImportError:
        raise UserError("parquet sources need `datasets`: pip install 'mm15[datasets]'") from None
    split = settings.split
    try:
        builder = _builder(settings)
        files = dict(builder.config.data_files or {})
        if files and split not in files:
            raise UserError(f"{settings.path}: no split {split!r}, there are {', '.join(map(str, files))}")
        builder.download_and_prepare()
        if not builder.info.splits[split].num_examples:
            raise UserError(f"{settings.path}: split {split!r} holds no rows; give at least one sample")
        return [str(file) for file in files.get(split, [])], builder.as_dataset(split)
    except UserError:
        raise
    except datasets.exceptions.DatasetNotFoundError:
        raise UserError(
            f"{settings.path}: no such file, and the hub has no such dataset that you may read; check the path"
        ) from None
    except Exception as error:  # datasets, the hub and its file systems raise what they like
        why = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
        raise UserError(
            f"{settings.path}: cannot be read through datasets ({why}); check the path, for a hub id also the network"
        ) from error


def _builder(settings: ParquetSource) -> Any:
    """datasets' builder. A folder with a README (the dataset card, which names its files) is read as a hub dataset
    is; of others only the parquet files, in splits by their names as datasets has it."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    path = os.path.expanduser(settings.path)
    if not os.path.lexists(path) and _HUB_ID.fullmatch(path) and not path.endswith(".parquet"):
        return datasets.load_dataset_builder(path, name=settings.config)
    if os.path.isfile(os.path.join(path, "README.md")):
        return datasets.load_dataset_builder(path, name=settings.config)
    if settings.config is not None:
        raise UserError(f"{settings.path}: config {settings.config!r} is for the hub and folders with a README.md")
    if os.path.isdir(path):
        locate(os.path.join(glob.escape(path), "**", "*.parquet"), ".parquet")
        found = DataFilesDict.from_patterns(get_data_patterns(path), base_path=path, allowed_extensions=[".parquet"])
        files = {str(split): list(names) for split, names in found.items() if names}
    else:
        files = {settings.split: locate(path, ".parquet")}
    content = _digest([name for names in files.values() for name in names]).hex()[:32]  # or its cache goes by mtime
    return datasets.load_dataset_builder("parquet", name=content, data_files=files, batch_size=_AT_ONCE)


def _footer(file: str) -> tuple[int, bytes]:
    """(size, footer) of a parquet file; UserError when it has none."""
    fs, path = file_system(file)
    try:
        size = int(fs.info(path)["size"])
        end = fs.cat_file(path, start=max(size - 8, 0), end=size) if size else b""
        length = int.from_bytes(end[:4], "little")
        if end[4:] == _END and length < size:
            return size, fs.cat_file(path, start=size - 8 - length, end=size - 8)
    except Exception as error:  # each remote file system has its own
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None
    raise UserError(f"{file}: no parquet file, or one that is cut off: it has no footer; fetch it again")


def _digest(files: list[str]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        if file.startswith("hf://"):  # the address names the commit
            digest.update(file.encode())
        else:
            size, footer = _footer(file)
            digest.update(f"{PurePath(file).name}:{size}:".encode() + footer)
    return digest.digest()


def _beside(path: str, files: list[str]) -> Pictures:
    return Pictures.beside(files[0]) if files and not files[0].startswith("hf://") else Pictures(Path(path))
