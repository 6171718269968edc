"""Writing files and folders so that they are there whole or not at all; full disks; a folder to oneself."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from .errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, text: str) -> None:
    """The file appears whole or not at all, also when the process or the machine goes down; UTF-8."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """`folder` as `write` fills it; the former one stays until the new one is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*.partial"):  # by a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent))
    try:
        write(fresh)
        fresh.chmod(0o755)
        if folder.exists():
            old = fresh.with_name(f"{fresh.stem}-old.partial")
            os.replace(folder, old)
            os.replace(fresh, folder)
            shutil.rmtree(old)
        else:
            os.replace(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


@contextmanager
def room_in(place: Path, *, then: str) -> Iterator[None]:
    """Within the block a full disk becomes one line for the user: make room, and `then`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the writers of weights and tokenizers have exceptions of their own
        full = (
            error.errno in _NO_ROOM
            if isinstance(error, OSError)
            else any(f"(os error {number})" in str(error) for number in _NO_ROOM)
        )
        if not full:
            raise
        raise UserError(f"{place}: no room left on its disk ({error}); make room and {then}") from error


@contextmanager
def alone_in(out: Path, lock_name: str, *, busy: str) -> Iterator[None]:
    """The folder `out`, made if need be and ours alone; UserError saying `busy` while another process has it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / lock_name, timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"{out}: {busy}; wait for it or give another --out") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from None
    try:
        yield
    finally:
        lock.release()


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
