"""What a stage's mixture will come to: rows, shares, epochs and steps, before anything is trained.

Shares follow from the lengths that were measured; how full rows get and how many samples they hold is found by sending
the stage's first `DRAWS` draws, with those lengths, through the real packer. Costs 0.1 ms a draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np

from ...recipe import Batch, Stage
from ...text.render import Ref
from ..mixture import Mixture
from ..packing import Packer, Skipped
from ..shares import by_source

DRAWS = 4096


@dataclass(frozen=True, eq=False)
class Lengths:
    """What one tiling makes of the samples of a source that were looked at: int [n] each, -1 for unusable ones."""

    tokens: np.ndarray
    targets: np.ndarray
    tiles: np.ndarray

    def fits(self, batch: Batch) -> np.ndarray:
        """Which samples training will use: bool [n]."""
        return (self.tokens > 0) & (self.tokens <= batch.tokens) & (self.tiles <= batch.tiles)


@dataclass(frozen=True)
class SourceOutlook:
    """What a stage will see of one source.

    `asked` is the share that the weights ask for (of the stage's `unit`); `samples`, `tokens` and `targets` its shares
    of what is trained on. `looked_at` samples were measured, of which `skipped` give nothing: those that are
    `unusable`, `too_long` or have `too_many_tiles` (some both). `mean_tokens` and `mean_targets` are those of the
    others. `epochs` passes over it in the stage; `steps_per_epoch` for one.
    """

    name: str
    group: str
    asked: float
    samples: float
    tokens: float
    targets: float
    looked_at: int
    skipped: int
    unusable: int
    too_long: int
    too_many_tiles: int
    mean_tokens: float
    mean_targets: float
    epochs: float
    steps_per_epoch: float


@dataclass(frozen=True)
class StageOutlook:
    """What a stage will see. `batch` are its settings; `token_fill` and `tile_fill` the shares of the budgets that its
    rows use; `skipped` the share of draws that give nothing; `ends_after` the steps until every source has had its
    epochs, None without such an end."""

    name: str
    steps: int
    unit: str
    batch: dict[str, int]
    samples_per_step: float
    token_fill: float
    tile_fill: float
    skipped: float
    ends_after: int | None
    sources: tuple[SourceOutlook, ...]


@dataclass(frozen=True)
class _Sized:
    """As much of a `packing.Document` as the packer asks for."""

    draw: int
    id: str
    ref: Ref
    tokens: int
    tiles: int


def outlook(name: str, stage: Stage, mixture: Mixture, lengths: Mapping[str, Lengths]) -> StageOutlook | None:
    """What the stage will see; None when all of its first draws would be skipped."""
    rows, skipped = _pack(stage.batch, mixture, lengths)
    if not rows:
        return None
    samples = sum(map(len, rows)) / len(rows) * stage.batch.rows
    draws = samples / (1 - skipped)
    total = round(draws * stage.steps)
    if mixture.length is not None:
        total = min(total, mixture.length)
    documents = list(chain.from_iterable(rows))
    return StageOutlook(
        name,
        stage.steps,
        stage.unit,
        stage.batch.model_dump(),
        samples,
        token_fill=sum(d.tokens for d in documents) / (len(rows) * stage.batch.tokens),
        tile_fill=sum(d.tiles for d in documents) / (len(rows) * max(stage.batch.tiles, 1)),
        skipped=skipped,
        ends_after=None if mixture.length is None else int(mixture.length / draws),
        sources=_sources(stage, mixture, lengths, total, draws),
    )


def _pack(batch: Batch, mixture: Mixture, lengths: Mapping[str, Lengths]) -> tuple[list[list[_Sized]], float]:
    """The rows of the first draws, and the share of draws that are skipped."""
    packer = Packer(tokens=batch.tokens, tiles=batch.tiles)
    rows: list[list[_Sized]] = []
    draws, skipped = min(DRAWS, mixture.length or DRAWS), 0
    for k in range(draws):
        ref = mixture.draw(k)
        of = lengths[ref.source]
        row = ref.index % len(of.tokens)  # where only some were looked at, they stand for the others
        if of.tokens[row] < 1:
            skipped += 1
            continue
        document: Any = _Sized(k, "", ref, int(of.tokens[row]), int(of.tiles[row]))
        found = packer.add(document)
        if isinstance(found, Skipped):
            skipped += 1
        elif found:
            rows.append(cast("list[_Sized]", found))
    while not rows and (left := packer.rest()):
        rows.append(cast("list[_Sized]", left))
    return rows, skipped / draws


def _sources(
    stage: Stage, mixture: Mixture, lengths: Mapping[str, Lengths], total: int, draws_per_step: float
) -> tuple[SourceOutlook, ...]:
    asked, counts = by_source(mixture.nested), mixture.counts(total)
    used = {name: of.fits(stage.batch) for name, of in lengths.items() if name in counts}
    seen = {name: counts[name] * float(fits.mean()) for name, fits in used.items()}
    tokens = {name: seen[name] * _mean(lengths[name].tokens, fits) for name, fits in used.items()}
    targets = {name: seen[name] * _mean(lengths[name].targets, fits) for name, fits in used.items()}
    found = []
    for name in sorted(counts, key=lambda key: (-asked[key], key)):
        of = lengths[name]
        found.append(
            SourceOutlook(
                name=name,
                group=mixture.groups[name],
                asked=float(asked[name]),
                samples=seen[name] / (sum(seen.values()) or 1),
                tokens=tokens[name] / (sum(tokens.values()) or 1),
                targets=targets[name] / (sum(targets.values()) or 1),
                looked_at=len(of.tokens),
                skipped=int((~used[name]).sum()),
                unusable=int((of.tokens < 1).sum()),
                too_long=int((of.tokens > stage.batch.tokens).sum()),
                too_many_tiles=int((of.tiles > stage.batch.tiles).sum()),
                mean_tokens=_mean(of.tokens, used[name]),
                mean_targets=_mean(of.targets, used[name]),
                epochs=counts[name] / mixture.lengths[name],
                steps_per_epoch=mixture.lengths[name] / (mixture.shares[name] * draws_per_step),
            )
        )
    return tuple(found)


def _mean(values: np.ndarray, chosen: np.ndarray) -> float:
    return float(values[chosen].mean()) if chosen.any() else 0.0
