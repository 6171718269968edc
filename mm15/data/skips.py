"""skipped.jsonl: one line for each draw that gave nothing to train on, and why. All of them, in the order of draws but
for those that could not be encoded: these follow at the next checkpoint.

Lines are appended as they come, so their number costs no memory. Like metrics.jsonl the file follows the checkpoint:
`save` before the checkpoint is written, `rewind` to where it stood when a run goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from .packing import Skipped


class SkipLedger:
    """The file of a stage. Lines are certain to be on the disk after `save`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the stage runs

    def rewind(self, draw: int, waiting: Collection[int] = ()) -> None:
        """Keeps the lines of draws before `draw` that did not wait then; a line that a crash cut off goes too."""
        self._file.flush()
        end = 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n") or (found := json.loads(line)["draw"]) >= draw or found in waiting:
                    break
                end += len(line)
        os.truncate(self.path, end)

    def add(self, skipped: Skipped) -> None:
        """One line."""
        self._file.write(json.dumps(asdict(skipped)) + "\n")

    def save(self) -> None:
        """Brings all lines to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Saves and closes the file."""
        self.save()
        self._file.close()
