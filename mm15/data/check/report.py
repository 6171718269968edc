"""What a check found: the report, as JSON and as a short text for a terminal. The page is `report_page`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...page import amount, duration, percent
from ..sources import SourceData
from .expected import StageOutlook
from .findings import Finding, Kind

SHOWN = 3
"""So many findings of a kind are listed in the text."""
_WIDEST = 240
_DETAIL = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|[\d.]+")
"""What differs between findings of one sort: what is quoted, paths and numbers."""


@dataclass(frozen=True)
class PictureRef:
    """A picture by its place, and its size in pixels."""

    source: str
    index: int
    number: int
    width: int
    height: int


@dataclass(frozen=True)
class SourceSummary:
    """One source: how many samples it has, how many were looked at, and how many of those give something to train on;
    its distinct pictures, their files' bytes, and their width and height at the 0, 5, 50, 95 and 100 %."""

    name: str
    role: str
    samples: int
    looked_at: int
    usable: int
    pictures: int
    picture_bytes: int
    widths: tuple[int, ...]
    heights: tuple[int, ...]


@dataclass(frozen=True)
class Histogram:
    """Samples by size. `edges` are the lower ends of the bars (and the upper end of the last); `budget` is a row's."""

    stage: str
    unit: str
    budget: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Report:
    """All that was found. `compared` says in words what was compared with the evaluation sets and what was not;
    `sources` are the opened ones, for whoever wants to look at a finding."""

    recipe: str
    findings: list[Finding]
    summaries: list[SourceSummary]
    stages: list[StageOutlook]
    histograms: list[Histogram]
    outliers: dict[str, list[PictureRef]]
    compared: list[str]
    notes: list[str]
    seconds: float
    sources: Mapping[str, SourceData] = field(repr=False)

    @property
    def status(self) -> int:
        """2 when there is a fault, else 0: the command's exit status."""
        return 2 if any(finding.kind.fault for finding in self.findings) else 0

    @property
    def counts(self) -> dict[Kind, int]:
        """How many of each kind, in the order of the kinds; kinds without any are left out."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in Kind if found[kind]}

    @property
    def looked_at(self) -> int:
        """Samples, over all sources."""
        return sum(summary.looked_at for summary in self.summaries)

    def of_kind(self, kind: Kind) -> list[Finding]:
        """The findings of a kind, in the order of sources and indices."""
        return [finding for finding in self.findings if finding.kind is kind]

    def worst(self, kind: Kind) -> list[Finding]:
        """The findings of a kind, those first that one should see: the largest, the most alike, one of each sort."""
        found = self.of_kind(kind)
        if kind in (Kind.TOO_LONG, Kind.TOO_MANY_TILES):
            return sorted(found, key=lambda finding: -max(finding.more["stages"].values()))
        if kind is Kind.LEAK_NEAR:
            return sorted(found, key=lambda finding: -finding.more["correlation"])
        seen: Counter[str] = Counter()
        ranks = []
        for finding in found:
            sort = finding.source + _DETAIL.sub("", finding.message)
            ranks.append(seen[sort])
            seen[sort] += 1
        return [found[i] for i in sorted(range(len(found)), key=lambda i: ranks[i])]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return {
            "recipe": self.recipe,
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "samples": self.looked_at,
            "counts": {kind.value: count for kind, count in self.counts.items()},
            "findings": [finding.as_dict() for finding in self.findings],
            "sources": [asdict(summary) for summary in self.summaries],
            "stages": [asdict(stage) for stage in self.stages],
            "histograms": [asdict(histogram) for histogram in self.histograms],
            "outliers": {name: [asdict(ref) for ref in refs] for name, refs in self.outliers.items()},
            "compared": self.compared,
            "notes": self.notes,
        }

    def text(self) -> str:
        """A summary for people: counts by kind with the first few, then what each stage will see."""
        rate = f" ({amount(self.looked_at / self.seconds)} samples/s)" if self.seconds > 1 else ""
        files = sum(summary.pictures for summary in self.summaries)
        lines = [
            f"{self.recipe}: looked at {self.looked_at:,} samples of {len(self.summaries)} sources with "
            f"{files:,} pictures in {duration(self.seconds)}{rate}"
        ]
        for kind, count in self.counts.items():
            lines += [
                "",
                f"{kind.heading}: {count:,}{'' if kind.fault else ' (a note, no fault)'}",
                f"    -> {kind.advice}",
            ]
            lines += [f"    {_line(finding)}" for finding in self.worst(kind)[:SHOWN]]
            if count > SHOWN:
                lines.append(f"    and {count - SHOWN:,} more")
        if not self.findings:
            lines += ["", "Nothing is wrong."]
        for stage in self.stages:
            lines += ["", *_stage(stage)]
        if self.compared or self.notes:
            lines += ["", *self.compared, *self.notes]
        return "\n".join(lines)


def _line(finding: Finding) -> str:
    named = f"{finding.where or finding.source}" + (f" (id {finding.id})" if finding.id else "")
    text = f"{finding.source}: {named}: {finding.message}" if finding.index >= 0 else f"{named}: {finding.message}"
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _stage(stage: StageOutlook) -> list[str]:
    lines = [
        f"stage {stage.name}: {stage.steps:,} steps of {stage.samples_per_step:.3g} samples; rows are "
        f"{percent(stage.token_fill, 1)} full of tokens, {percent(stage.tile_fill, 1)} of tiles"
        + (f"; {percent(stage.skipped, 1)} of the draws are skipped" if stage.skipped else "")
        + (f"; the data ends after {stage.ends_after:,} steps" if stage.ends_after is not None else ""),
    ]
    width = max(len(source.name) for source in stage.sources)
    head = f"{'asked':>8}{'samples':>9}{'targets':>9}{'tokens each':>13}{'skipped':>9}{'epochs':>8}{'steps/epoch':>13}"
    lines.append(f"  {'source':<{width}}{head}")
    for s in stage.sources:
        lines.append(
            f"  {s.name:<{width}}{percent(s.asked, 1):>8}{percent(s.samples, 1):>9}{percent(s.targets, 1):>9}"
            f"{s.mean_tokens:>13.0f}{percent(s.skipped / max(s.looked_at, 1), 1):>9}"
            f"{s.epochs:>8.2f}{number(s.steps_per_epoch):>13}"
        )
    return lines


def number(value: float) -> str:
    """A count that may be a fraction of one."""
    return amount(value) if value >= 10 else f"{value:.2g}"


def histogram(stage: str, unit: str, budget: int, values: np.ndarray) -> Histogram | None:
    """Of the values above 0; tokens in bars that double in width, tiles in bars of equal width. None without any."""
    values = values[values > 0]
    if not len(values):
        return None
    most = int(values.max())
    if unit == "tokens":
        first, last = int(values.min()).bit_length() - 1, most.bit_length()
        edges = [1 << power for power in range(first, last + 1)]
    else:
        step = -(-most // 24)
        edges = list(range(1, most + step + 1, step))
    counts, _ = np.histogram(values, bins=edges)
    return Histogram(stage, unit, budget, tuple(edges), tuple(counts.tolist()))
