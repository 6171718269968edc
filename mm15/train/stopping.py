"""SIGTERM, as schedulers send it before they take a machine away: a run puts its work down whole and ends.

    anywhere but in a stage's steps       Stopped at once; what is being written is dropped, what is there is whole
    while a stage trains (`held`)         noted; the loop asks after each step, with all processes of the run

Ctrl-C is KeyboardInterrupt as ever; it waits for nothing but a checkpoint that is being written or read.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Stopped


class Stopping:
    """Handles SIGTERM within its `with` block; elsewhere than in the main thread, where Python has no signals, it does
    nothing."""

    def __init__(self) -> None:
        self.where = ""
        """How far the run is, for the line that the user gets."""
        self._asked = self._held = False

    def asked(self) -> bool:
        """Whether SIGTERM has come to this process."""
        return self._asked

    def stopped(self) -> Stopped:
        """The exception that ends the run."""
        return Stopped(f"stopped by SIGTERM{self.where}; the same command continues")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block SIGTERM is only noted; when the block has come to its end, the run ends."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked:
            raise self.stopped()

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._former)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if not self._held and not again:  # schedulers may send it twice; once is enough
            raise self.stopped()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C within the block is raised at its end, a second one at once.

    For torch's readers and writers, whose C++ calls Python back: interrupted there they report a damaged file, or take
    the process down. Elsewhere than in the main thread, where nothing is interrupted, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[FrameType | None] = []

    def note(_number: int, frame: FrameType | None) -> None:
        came.append(frame)
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if came and callable(former):
        former(signal.SIGINT, came[0])
