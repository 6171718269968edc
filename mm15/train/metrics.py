"""metrics.jsonl: one line a step, always; every line has `step` and `loss`.

The file follows the checkpoint: on resume the lines after the checkpoint's step are dropped, so that a run that was
killed and continued leaves the same file as one that was not (times apart).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_atomically


class Metrics:
    """Appends steps to a JSONL file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, step: int) -> None:
        """Keeps only whole lines of steps up to and including `step`."""
        if self.path.exists():
            kept = [line for line in read(self.path) if line["step"] <= step]
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def add(self, line: dict[str, Any]) -> None:
        """One step; `line` has at least `step` and `loss`."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line cut off by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
