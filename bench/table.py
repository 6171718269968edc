"""What every benchmark reports: lines of one table, ours beside a peer or the machine's limit."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One figure. `ratio` is how many times better ours is than `beside`; `goal` the least ratio promised, if any."""

    what: str
    unit: str
    ours: float
    beside: str
    theirs: float
    ratio: float
    goal: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the promise holds; true where there is none."""
        return self.goal is None or self.ratio >= self.goal


def table(lines: list[Line]) -> str:
    """The lines in columns."""
    head = ("what", "ours", "beside", "theirs", "ratio", "goal", "")
    rows = [
        (
            line.what,
            f"{line.ours:,.4g} {line.unit}",
            line.beside,
            f"{line.theirs:,.4g}",
            f"{line.ratio:.2f}",
            "" if line.goal is None else f"{line.goal:.2f}",
            "" if line.goal is None else ("kept" if line.kept else "NOT KEPT"),
        )
        for line in lines
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return "\n".join(shown)


def report(lines: list[Line], *, json_wanted: bool) -> int:
    """Prints the lines; the exit status is 1 when a promise is not kept."""
    print(json.dumps([asdict(line) for line in lines]) if json_wanted else table(lines))
    return int(not all(line.kept for line in lines))


def machine() -> str:
    """The processor's name and how many of it there are."""
    import os

    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} threads"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
