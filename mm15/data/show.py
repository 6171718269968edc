"""What a stage's mixture asks for and what its first draws really bring, by group, category and source.

    draw k -> sample -> processor.measure -> samples, tokens, target tokens, tiles     no pixel is read

A draw that training would skip (unusable, or larger than a row) is counted as skipped. From the mean size of a sample
follows how many fit into the rows of the stage's steps, and so how often each source will be gone through: an estimate
for full rows, while asked and realised shares are exact. Cost: that of reading the samples and their pictures' headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from ..errors import UserError
from ..processor import MM15Processor
from ..recipe import Batch, Stage
from .loader import Realised
from .mixture import Mixture
from .open import Opened
from .packing import Skipped, too_large
from .sources import SourceData

_COUNTS = ("samples", "tokens", "target_tokens", "tiles")
_TOLD = 5
"""So many skipped draws are shown with their reasons."""


@dataclass(frozen=True)
class Line:
    """One line of the table. Shares are of the whole: `asked` of the stage's unit, `realised` of each count.

    `category` and `source` are None in the lines that sum up, as are what is known of sources only: `skipped` draws,
    and `epochs`, the passes over it in the whole stage.
    """

    group: str
    category: str | None
    source: str | None
    asked: float
    realised: dict[str, float]
    skipped: int | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class Shown:
    """The table of a stage, from its first `draws` draws.

    `stage_draws` is about how many the whole stage takes; `length` how many there are (None: without end), and
    `ends_at_step` about where they end, when that is before the stage does.
    """

    stage: str
    unit: str
    draws: int
    lines: list[Line]
    counts: dict[str, Realised]
    stage_draws: int
    length: int | None
    steps: int
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def ends_at_step(self) -> int | None:
        """The first step that there is about no data for."""
        if self.length is None or self.length >= self.stage_draws:
            return None
        return self.steps * self.length // self.stage_draws + 1

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {**asdict(self), "ends_at_step": self.ends_at_step}


def show_stage(opened: Opened, stage: str, draws: Iterable[int]) -> Shown:
    """The table of a stage from these draws (0, 1, ...). UserError for an unknown stage or a mixture that fails."""
    if stage not in opened.recipe.stages:
        raise UserError(f"no stage {stage!r} in recipe {opened.recipe.name!r}: {', '.join(opened.recipe.stages)}")
    settings, mixture = opened.recipe.stages[stage], opened.mixture_of(stage)
    counts, skipped, n = _measure(mixture, opened.sources, opened.processor_of(stage), settings.batch, draws)
    stage_draws = _draws_of(settings, counts, n)
    reached = stage_draws if mixture.length is None else min(stage_draws, mixture.length)
    lines = _lines(mixture, counts, mixture.epochs(reached))
    return Shown(
        stage, settings.unit, n, lines, counts, stage_draws, mixture.length, settings.steps, skipped=skipped[:_TOLD]
    )


def _measure(
    mixture: Mixture,
    sources: Mapping[str, SourceData],
    processor: MM15Processor,
    batch: Batch,
    draws: Iterable[int],
) -> tuple[dict[str, Realised], list[Skipped], int]:
    """Counts by source, the skipped draws, and how many draws there were (the mixture may end)."""
    counts = {name: Realised() for name in mixture.shares}
    skipped: list[Skipped] = []
    n = 0
    for k in draws:
        if mixture.length is not None and k >= mixture.length:
            break
        ref, n = mixture.draw(k), n + 1
        count, sample_id = counts[ref.source], str(ref.index)
        try:
            sample = sources[ref.source][ref.index]
            sample_id = sample.id
            found = processor.measure(sample)
            reason = too_large(found.tokens, found.tiles, row=(batch.tokens, batch.tiles))
            if reason or not found.tokens:
                raise ValueError(reason or "the sample has no tokens")
        except ValueError as error:
            count.skipped += 1
            skipped.append(Skipped(k, ref.source, ref.index, ref.epoch, sample_id, " ".join(str(error).split())))
            continue
        count.samples += 1
        count.tokens += found.tokens
        count.target_tokens += found.target_tokens
        count.tiles += found.tiles
    return counts, skipped, n


def _draws_of(stage: Stage, counts: Mapping[str, Realised], n: int) -> int:
    """About how many draws the stage takes: those that fill all rows in the scarcer budget."""
    samples, tokens, tiles = (
        sum(getattr(one, key) for one in counts.values()) for key in ("samples", "tokens", "tiles")
    )
    if not samples:
        raise UserError(f"none of the first {n:,} draws can be trained on; see why with: mm15 data check")
    rows = max(tokens / stage.batch.tokens, tiles / max(stage.batch.tiles, 1))
    return max(1, round(stage.steps * stage.batch.rows * n / rows))


def _lines(mixture: Mixture, counts: Mapping[str, Realised], epochs: Mapping[str, float]) -> list[Line]:
    """Groups, in each its categories, in each its sources, as the recipe has them."""
    whole = {key: sum(getattr(one, key) for one in counts.values()) for key in _COUNTS}
    places = _places(mixture)
    lines = []
    for group, categories in mixture.nested.items():
        inside = []
        for category, sources in categories.items():
            own = [
                Line(
                    group,
                    category,
                    source,
                    float(asked),
                    {
                        key: getattr(counts[source], key) * float(asked / places[source]) / max(whole[key], 1)
                        for key in _COUNTS
                    },
                    counts[source].skipped,
                    epochs[source],
                )
                for source, asked in sources.items()
            ]
            inside += [_sum(own, group, category), *own]
        lines += [_sum([line for line in inside if line.source is None], group, None), *inside]
    return lines


def _places(mixture: Mixture) -> dict[str, Fraction]:
    """What is asked of each source in all its places: what it brought is shared out between them as asked."""
    total: dict[str, Fraction] = {}
    for categories in mixture.nested.values():
        for sources in categories.values():
            for source, asked in sources.items():
                total[source] = total.get(source, Fraction(0)) + asked
    return total


def _sum(lines: list[Line], group: str, category: str | None) -> Line:
    realised = {key: sum(line.realised[key] for line in lines) for key in _COUNTS}
    return Line(group, category, None, sum(line.asked for line in lines), realised)


def table(shown: Shown) -> str:
    """The table as text, and what to know about it."""
    names = [
        " " * 2 * ((line.category is not None) + (line.source is not None))
        + (line.source or line.category or line.group)
        for line in shown.lines
    ]
    wide = max(map(len, names))
    unit = shown.unit.replace("_", " ")
    out = [
        f"stage {shown.stage}: {shown.draws:,} draws; asked are shares of {unit}",
        f"{'':{wide}}     asked   samples    tokens   targets     tiles    epochs   skipped",
    ]
    for name, line in zip(names, shown.lines, strict=True):
        cells = [f"{100 * share:.2f}%" for share in (line.asked, *(line.realised[key] for key in _COUNTS))]
        if line.epochs is not None:
            cells += [f"{line.epochs:.1f}" if line.epochs >= 10 else f"{line.epochs:.2g}", f"{line.skipped or ''}"]
        out.append(f"{name:{wide}}" + "".join(f"{cell:>10}" for cell in cells).rstrip())
    return "\n".join([*out, *_notes(shown)])


def _notes(shown: Shown) -> list[str]:
    total = {key: sum(getattr(one, key) for one in shown.counts.values()) for key in _COUNTS}
    notes = [
        f"{total['samples']:,} samples, {total['tokens']:,} tokens ({total['target_tokens']:,} trained on), "
        f"{total['tiles']:,} tiles; the stage's {shown.steps:,} steps take about {shown.stage_draws:,} draws"
    ]
    if shown.ends_at_step is not None:
        notes.append(
            f"every source has had its epochs after {shown.length:,} draws: the data ends at about step "
            f"{shown.ends_at_step:,} of {shown.steps:,}; raise stages.{shown.stage}.epochs or take fewer steps"
        )
    notes += [f"skipped draw {s.draw}, {s.source}[{s.index}] (id {s.id!r}): {s.reason}" for s in shown.skipped]
    more = sum(one.skipped for one in shown.counts.values()) - len(shown.skipped)
    return [*notes, f"and {more:,} more skipped"] if more else notes
