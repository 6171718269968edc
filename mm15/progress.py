"""The one bar of everything that takes time, on stderr: how far, how fast, how long yet.

It appears after two seconds and leaves nothing behind on a terminal; elsewhere a line is written every so often. It
has no thread of its own, because worker processes are forked while it stands there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_SECONDS = 2.0
"""What is over sooner shows no bar."""
QUIET_SECONDS = 20.0
"""How often a line is written when stderr is no terminal."""

Item = TypeVar("Item")


class Bar:
    """Shows `done` of `total` things of a job; `unit` names them. `shown=False` shows nothing at all."""

    def __init__(self, label: str, *, total: int = 0, done: int = 0, unit: str = "", shown: bool = True) -> None:
        self.label, self.total, self.first, self.unit = label, total, done, unit
        self._shown = shown
        self._began = self._last = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, done: int, note: str | None = None, *, total: int | None = None) -> None:
        """`done` things are done; `note` stands beside the count in place of the rate; `total` if it has become
        known."""
        self.total = self.total if total is None else total
        now = time.monotonic()
        if not self._shown or now - self._began < PATIENCE_SECONDS:
            return
        rate = (done - self.first) / max(now - self._began, 1e-9)
        note = f"{rate:,.1f} {self.unit}/s" if note is None else note
        if sys.stderr.isatty():
            self._draw(done, note)
        elif now - self._last > QUIET_SECONDS or done == self.total:
            self._last = now
            left = f"  {(self.total - done) / rate:,.0f} s left" if rate and done < self.total else ""
            sys.stderr.write(f"{self.label} {done:,}/{self.total:,}  {note}{left}\n")
            sys.stderr.flush()

    def _draw(self, done: int, note: str) -> None:
        if self._progress is None:
            columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn())
            more = (TextColumn("{task.fields[note]}"), TimeRemainingColumn())
            self._progress = Progress(*columns, *more, console=Console(stderr=True), auto_refresh=False, transient=True)
            self._task = self._progress.add_task(self.label, total=self.total, completed=self.first, note="")
            self._progress.start()
        self._progress.update(self._task, completed=done, total=self.total, note=note, refresh=True)


def track(things: Iterable[Item], label: str, *, total: int, unit: str = "") -> Iterator[Item]:
    """The things one by one, with a bar."""
    with Bar(label, total=total, unit=unit) as bar:
        for done, thing in enumerate(things, 1):
            yield thing
            bar.update(done)
