"""The progress of a stage: step, loss, speed, time left."""

from __future__ import annotations

from types import TracebackType

from ..progress import Bar
from .loop import Step


class StageProgress:
    """Shows a stage's steps; nothing at all where `shown` is False."""

    def __init__(self, stage: str, done: int, steps: int, *, shown: bool) -> None:
        self._bar = Bar(stage, total=steps, done=done, shown=shown)
        self._smooth: float | None = None

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def update(self, step: Step) -> None:
        """One step has been done."""
        self._smooth = step.loss if self._smooth is None else 0.95 * self._smooth + 0.05 * step.loss
        self._bar.update(step.step, f"loss {self._smooth:.3f}  {step.tokens / step.seconds:,.0f} tokens/s")
