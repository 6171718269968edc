"""Pictures as rows name them: a path below a folder or an address, a file: or fsspec address, or base64 in a data:
address.

Absolute paths and ``..`` are followed, as files of the field rely on them: a file of rows is trusted with the names of
pictures, and what it names is only ever opened as a picture. Nothing is fetched from the web (http, https).
"""

from __future__ import annotations

import base64
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ...errors import UserError
from ...sample import Image
from .locate import file_system, is_local


class Pictures:
    """Opens pictures below `folder`: a local path, or an fsspec address such as s3://bucket/pictures."""

    def __init__(self, folder: str | Path) -> None:
        address = str(folder)
        fs, inner = file_system(address)
        self.folder: Path | str = (
            (Path(inner) if "://" in address else Path(folder).expanduser()) if is_local(fs) else address
        )

    @classmethod
    def beside(cls, file: str) -> Pictures:
        """Those that lie where a file lies."""
        return cls(posixpath.dirname(file) if "://" in file else Path(file).parent)

    def open(self, name: Any) -> Image:
        """The picture of a name. That a local file exists is only known when it is looked at; others are fetched here.

        UserError for what names no picture, for the web, and for what cannot be fetched.
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
        if "://" in name:
            return Image(_fetch(name))
        if isinstance(self.folder, Path) or posixpath.isabs(name):
            return Image(Path(self.folder if isinstance(self.folder, Path) else "/") / name)
        head, _, path = self.folder.partition("://")
        return Image(_fetch(f"{head}://{posixpath.normpath(posixpath.join(path, name))}"))


def _fetch(address: str) -> bytes:
    fs, inner = file_system(address)
    try:
        return bytes(fs.cat_file(inner))
    except Exception as error:  # each remote file system has its own
        why = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise UserError(f"picture {address:.200} cannot be read ({why}); check the path") from None


def _data_address(address: str) -> bytes:
    header, comma, content = address.partition(",")
    if not comma or not header.endswith(";base64"):
        raise UserError(f"{header!r:.40} is no picture; write data:image/png;base64,...")
    return from_base64(content, "a data: address")


def from_base64(content: str, of: str) -> bytes:
    """The bytes of base64; UserError naming what it is the base64 `of`."""
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise UserError(f"the base64 of {of} is damaged ({error})") from None
