"""The generated world as a source: samples of one task of `mm15.world`, made when they are asked for.

Nothing is read or kept; a sample is a function of (kind, index, seed, level, size, split). The fingerprint covers
these settings.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ...recipe import WorldSource
from ...sample import Sample


class WorldData:
    """`samples` samples of one task. Raises UserError for a task, level or size that does not exist."""

    def __init__(self, settings: WorldSource, name: str) -> None:
        self.name = name
        self.settings = settings
        digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]
        self.fingerprint = f"{name}:{settings.samples}:{digest}"
        if settings.samples:
            self[0]

    def __len__(self) -> int:
        return self.settings.samples

    def where(self, index: int) -> str:
        """The source and the number."""
        return f"{self.name}[{index}]"

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the task."""
        from ...world import blank, make

        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in source {self.name!r}")
        s = self.settings
        sample = make(s.kind, index, seed=s.seed, level=s.level, size=s.size, split=s.split)
        if s.blank and index % s.blank == s.blank - 1:
            sample = blank(sample)
        return replace(sample, source=self.name)
