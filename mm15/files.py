"""Writing files so that they are there whole or not at all."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self


def write_atomically(path: Path, text: str) -> None:
    """The file appears whole or not at all, also when the process or the machine goes down; UTF-8."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class WholeOrNothing(ABC):
    """A writer of files. A `with` block closes it, and aborts it when an exception goes through."""

    def close(self) -> None:
        """Finish the files and put them under their names; leave nothing when that fails."""
        try:
            self._finish()
        except BaseException:
            self.abort()
            raise

    @abstractmethod
    def _finish(self) -> None:
        """Write what stands at the end, and put the files under their names."""

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
