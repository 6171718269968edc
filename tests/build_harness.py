"""A builder for the tests of the engine, and a process that runs it, to be killed.

python build_harness.py OUT webdataset|parquet WORKERS
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

from mm15.corpora.build import BuildReport, Made, Skip, build
from mm15.errors import UserError
from mm15.regions import Box, Region
from mm15.sample import Image, Sample, assistant, user

TORN = b"\x89PNG\r\n\x1a\n torn"


@dataclass(frozen=True)
class Squares:
    """Item i gives i % 4 pictures. `trouble` says what happens at item 20, and `wait` how long an item takes."""

    count: int = 60
    trouble: str = ""
    wait: float = 0.0
    name: str = "squares"

    def settings(self) -> dict[str, object]:
        return {"count": self.count, "nested": {"colours": [1, 2]}}

    def items(self) -> list[int]:
        return list(range(self.count))

    def make(self, item: int) -> Made:
        time.sleep(self.wait * (1 + item % 3))
        if item % 11 == 5:
            raise UserError("no square has  eleven\nsides")
        if item == 20:
            misbehave(self.trouble)
        skipped = [Skip(f"corner of {item}", "too round")] if item % 10 == 7 else []
        return Made([self._sample(item, k) for k in range(item % 4)], skipped)

    def _sample(self, item: int, k: int) -> Sample:
        picture = io.BytesIO()
        PILImage.new("RGB", (8 + item, 9 + k), (item, 40 * k, 7)).save(picture, "PNG")
        data = TORN if (item, k) == (30, 1) else picture.getvalue()
        parts = user(Image(data), "Where?") + assistant(Region(Box(0, 1, 5 + k, 6), 0, "square"))
        return Sample(f"{item}.{k}", "squares", parts, {"task": f"task{k}", "item": item})


def misbehave(trouble: str) -> None:
    """What a maker must not do."""
    if trouble == "bug":
        raise ZeroDivisionError("a fault of ours")
    if trouble.startswith("once:"):  # crash the first time, by a file that remembers
        mark = Path(trouble.removeprefix("once:"))
        if not mark.exists():
            mark.write_text("crashed")
            os.kill(os.getpid(), signal.SIGSEGV)
    elif trouble:
        os.kill(os.getpid(), getattr(signal, trouble))


def run(out: Path, to: str, workers: int, **changes: object) -> BuildReport:
    """The build that all tests compare."""
    return build(Squares(**changes), out, to=to, shard_samples=7, workers=workers)  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), wait=0.01)
    except KeyboardInterrupt:
        sys.exit(130)
