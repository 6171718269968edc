"""The bytes of one file wherever it lies: local ones through a memory map, any that fsspec reaches by byte ranges.

Nothing stays open but the map, which is made again after a fork or a pickle; remote file systems are asked for anew in
each process, because those with threads do not survive a fork.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from .locate import file_system, is_local

CHUNK = 1 << 24
"""Bytes read at once when a whole file is looked through."""


class Stored:
    """A file's bytes. UserError when it cannot be read."""

    def __init__(self, address: str) -> None:
        self.address = address
        fs, inner = file_system(address)
        self.local = inner if is_local(fs) else None
        self._map: mmap.mmap | None = None
        try:
            self.size = int(os.stat(inner).st_size if self.local else fs.info(inner)["size"])
        except Exception as error:  # each remote file system has its own
            raise self._cannot(error) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`."""
        try:
            if self.local is None:
                fs, inner = file_system(self.address)
                return bytes(fs.cat_file(inner, start=start, end=end))
            if self._map is None:
                with open(self.local, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._map[start:end]
        except Exception as error:  # each remote file system has its own
            raise self._cannot(error) from None

    def chunks(self) -> Iterator[bytes]:
        """All of it in order, CHUNK bytes at a time."""
        if self.local is None:
            for start in range(0, self.size, CHUNK):
                yield self.read(start, min(start + CHUNK, self.size))
            return
        try:
            with open(self.local, "rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: Exception) -> UserError:
        why = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        return UserError(f"{self.address}: cannot be read ({why}); check the path")
