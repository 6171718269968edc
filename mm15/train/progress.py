"""The progress bar of a stage, on stderr: step, loss, speed, time left. Without a terminal: one line every so often."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .loop import Step

QUIET_SECONDS = 20.0
"""How often a line is written when stderr is no terminal."""


class StageProgress:
    """Shows a stage's steps; nothing at all where `shown` is False."""

    def __init__(self, stage: str, done: int, steps: int, *, shown: bool) -> None:
        self.stage, self.steps, self.shown = stage, steps, shown
        self.bar: Progress | None = None
        self.smooth: float | None = None
        self.last_line = time.monotonic()
        if shown and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(stage, total=steps, completed=done, note="")

    def __enter__(self) -> StageProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, step: Step) -> None:
        """One step has been done."""
        if not self.shown:
            return
        self.smooth = step.loss if self.smooth is None else 0.95 * self.smooth + 0.05 * step.loss
        note = f"loss {self.smooth:.3f}  {step.tokens / step.seconds:,.0f} tokens/s"
        if self.bar:
            self.bar.update(self.task, completed=step.step, note=note)
        elif step.step == self.steps or time.monotonic() - self.last_line > QUIET_SECONDS:
            self.last_line = time.monotonic()
            sys.stderr.write(f"{self.stage} {step.step}/{self.steps}  {note}\n")
            sys.stderr.flush()
