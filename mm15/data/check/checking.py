"""The whole check: which samples of which sources are looked at, and what their numbers say when put together.

recipe --> sources that open --looking--> Seen --> duplicates, leaks, what each stage will see --> Report
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import UserError
from ...image import Tiling
from ...recipe import FileSource, Recipe, Source, Stage
from ...text.chat import SPECIAL_TOKENS
from ..open import Opened
from ..sources import SourceData, open_source
from .expected import Lengths, StageOutlook, outlook
from .findings import Finding, Kind
from .looking import Budget, Seen, SourcePlan, View, look_through
from .report import Histogram, PictureRef, Report, SourceSummary, histogram
from .samples import TextRules
from .table import Table, leaks, repeats

GENERATED = 1000
"""So many samples are looked at of a source that is generated: the same function makes every one."""
OUTLIERS = 4
"""So many of the largest, smallest and longest pictures are shown."""
_ID = re.compile(r" \(id (.*?)\): ")


@dataclass(frozen=True)
class _Set:
    """A source with its part in the check: what stages draw from it (none for evaluation sets), and how many of its
    samples count (None: all)."""

    settings: Source
    stages: Mapping[str, Stage] = field(default_factory=dict)
    most: int | None = None


def check(
    recipe: Recipe,
    *,
    stage: str | None = None,
    against: Mapping[str, Source] | None = None,
    limit: int | None = None,
    workers: int = 2,
    perceptual: bool = True,
    bar: Callable[[int, int], object] | None = None,
) -> Report:
    """Looks through the data of a recipe (of one `stage`), at `limit` samples a source, evenly spread, or all.

    Compared with the recipe's own evaluation sets that are stored, and with those of `against`; with `perceptual` also
    by what pictures look like, which reads pixels. `bar` is told how many samples are done, of how many. What is wrong
    with the data is in the report; UserError for a stage that does not exist, and a recipe that has no tokenizer.
    """
    started = time.monotonic()
    if stage is not None and stage not in recipe.stages:
        raise UserError(f"no stage {stage!r} in recipe {recipe.name!r}; its stages: {', '.join(recipe.stages)}")
    stages = {name: settings for name, settings in recipe.stages.items() if stage in (None, name)}
    training = _training(recipe, stages)
    evaluation, told = _evaluation(recipe, against or {})
    sets = {**training, **evaluation}
    sources, findings = _open(sets)
    data = Opened(recipe, {name: source for name, source in sources.items() if name in training})
    table = Table(sources, data.sources)
    plans = {name: _plan(data, sets[name]) for name in sources} if data.sources else {}
    if plans:
        looks = perceptual and any(name in sources for name in evaluation)
        view = View(sources, plans, data.processor_of(next(iter(stages))), looks)
        chosen = {name: _chosen(len(source), sets[name], limit) for name, source in sources.items()}
        _look(table, view, chosen, workers, bar)
        findings += [*table.findings, *repeats(table), *leaks(table)]
        told += [f"Compared with {name}: {len(chosen[name]):,} samples." for name in evaluation if name in chosen]
    outlooks, histograms, notes = _stages(data, table, stages, plans)
    order = {kind: number for number, kind in enumerate(Kind)}
    places = {name: number for number, name in enumerate(sets)}
    findings = [_located(finding, sources) for finding in findings]
    return Report(
        recipe.name,
        sorted(findings, key=lambda f: (order[f.kind], places[f.source], f.index, f.picture or 0)),
        [_summary(table, name, sets[name]) for name in table.seen],
        outlooks,
        histograms,
        _outliers(table),
        told,
        notes,
        time.monotonic() - started,
        sources,
    )


# ---------------------------------------------------------------------------------------------------- what is looked at


def _training(recipe: Recipe, stages: Mapping[str, Stage]) -> dict[str, _Set]:
    """The sources that a stage draws from, in the recipe's order."""
    used = {
        name: {key: stage for key, stage in stages.items() if name in _drawn_from(stage)} for name in recipe.sources
    }
    return {name: _Set(recipe.sources[name], by) for name, by in used.items() if by}


def _drawn_from(stage: Stage) -> set[str]:
    return {
        name
        for group in stage.mixture.values()
        for category in group.categories.values()
        for name, weight in category.sources.items()
        if group.weight and category.alpha and weight
    }


def _evaluation(recipe: Recipe, against: Mapping[str, Source]) -> tuple[dict[str, _Set], list[str]]:
    """The evaluation sets to compare with, and a word on those that are generated."""
    found, generated = {}, []
    for group, tasks in recipe.evaluation.groups.items():
        for task, settings in tasks.items():
            if isinstance(settings, FileSource):
                found[f"evaluation.{group}.{task}"] = _Set(settings, most=recipe.evaluation.limit)
            else:
                generated.append(task)
    for name, settings in against.items():
        if name in found or name in recipe.sources:
            raise UserError(f"against {name!r}: the recipe has a source of this name; choose another")
        found[name] = _Set(settings)
    told = [f"Generated evaluation sets are not compared: {', '.join(generated)}."] if generated else []
    return found, told


def _open(sets: Mapping[str, _Set]) -> tuple[dict[str, SourceData], list[Finding]]:
    sources: dict[str, SourceData] = {}
    findings = []
    for name, one in sets.items():
        try:
            sources[name] = open_source(one.settings, name)
        except UserError as error:
            findings.append(Finding(Kind.SOURCE, name, -1, " ".join(str(error).split())))
    return sources, findings


def _chosen(length: int, one: _Set, limit: int | None) -> np.ndarray:
    """The indices that are looked at."""
    if one.most is not None:
        return np.arange(min(length, one.most))
    most = min(length, limit or length, length if isinstance(one.settings, FileSource) else GENERATED)
    return np.arange(most, dtype=np.int64) * length // max(most, 1)


def _plan(data: Opened, one: _Set) -> SourcePlan:
    tilings: list[Tiling] = []
    budgets = []
    for name, stage in one.stages.items():
        tiling = data.processor_of(name).tiling
        if tiling not in tilings:
            tilings.append(tiling)
        budgets.append(Budget(name, tilings.index(tiling), stage.batch.tokens, stage.batch.tiles))
    settings = one.settings
    stored = settings if isinstance(settings, FileSource) else None
    ours = settings.format == "mm15" or getattr(settings, "layout", "") == "mm15"
    spelled = {*SPECIAL_TOKENS, *data.tokenizer.all_special_tokens}
    if data.recipe.coordinates.tokens:
        spelled |= {f"<bin_{number}>" for number in range(data.recipe.coordinates.bins)}
    rules = TextRules(
        tuple(sorted(spelled)),
        declared=ours or stored is None or stored.regions is not None,
    )
    return SourcePlan(tuple(tilings), tuple(budgets), rules, generated=stored is None)


def _look(
    table: Table,
    view: View,
    chosen: Mapping[str, np.ndarray],
    workers: int,
    bar: Callable[[int, int], object] | None,
) -> None:
    total, done = sum(map(len, chosen.values())), 0
    for seen in look_through(view, chosen, workers=workers):
        table.add(seen)
        done += len(seen.indices)
        if bar is not None:
            bar(done, total)
    table.close()


# ------------------------------------------------------------------------------------------------------- what it says


def _located(finding: Finding, sources: Mapping[str, SourceData]) -> Finding:
    """With its file and line, which the messages of sources begin with."""
    if finding.index < 0 or finding.source not in sources:
        return finding
    where, message = sources[finding.source].where(finding.index), finding.message
    if finding.kind is Kind.ROW and message.startswith(where):
        rest = message.removeprefix(where)
        named = _ID.match(rest)
        finding = replace(
            finding,
            message=rest[named.end() :] if named else rest.removeprefix(": "),
            id=finding.id or (named[1].strip("'\"") if named else ""),
        )
    return replace(finding, where=where)


def _stages(
    data: Opened, table: Table, stages: Mapping[str, Stage], plans: Mapping[str, SourcePlan]
) -> tuple[list[StageOutlook], list[Histogram], list[str]]:
    outlooks, histograms, notes = [], [], []
    for name, stage in stages.items():
        lengths = {
            source: _lengths(table.seen[source], plans[source], name)
            for source in sorted(_drawn_from(stage))
            if source in table.seen
        }
        for unit, values, budget in (
            ("tokens", [of.tokens for of in lengths.values()], stage.batch.tokens),
            ("tiles", [of.tiles for of in lengths.values()], stage.batch.tiles),
        ):
            bars = histogram(name, unit, budget, np.concatenate(values)) if values else None
            if bars is not None:
                histograms.append(bars)
        try:
            found = outlook(name, stage, data.mixture_of(name), lengths) if lengths else None
        except (UserError, KeyError) as error:
            why = str(error) if isinstance(error, UserError) else "a source cannot be opened"
            notes.append(f"What stage {name} will see cannot be told: {why}.")
            continue
        if found is None:
            notes.append(f"What stage {name} will see cannot be told: none of its first draws can be used.")
        else:
            outlooks.append(found)
    return outlooks, histograms, notes


def _lengths(seen: Seen, plan: SourcePlan, stage: str) -> Lengths:
    tiling = next(budget.tiling for budget in plan.budgets if budget.stage == stage)
    return Lengths(*(counts[:, tiling] for counts in (seen.tokens, seen.targets, seen.tiles)))


def _summary(table: Table, name: str, one: _Set) -> SourceSummary:
    seen = table.seen[name]
    usable = int((seen.tokens[:, 0] >= 0).sum()) if seen.tokens.shape[1] else len(seen.indices)
    _, first = np.unique(seen.pictures["name"], return_index=True)
    pictures = seen.pictures[first] if seen.pictures["key"].any() else seen.pictures
    pictures = pictures[pictures["width"] > 0]
    spread = [
        tuple(int(v) for v in np.percentile(pictures[key], (0, 5, 50, 95, 100), method="nearest"))
        for key in ("width", "height")
        if len(pictures)
    ] or [(), ()]
    return SourceSummary(
        name,
        "training" if one.stages else "evaluation",
        len(table.sources[name]),
        len(seen.indices),
        usable,
        len(pictures),
        int(pictures["bytes"].sum()),
        *spread,
    )


def _outliers(table: Table) -> dict[str, list[PictureRef]]:
    """The largest, smallest and longest of the stored training pictures, as far as they are not like most."""
    places = table.distinct[table.is_training(table.distinct)]
    places = places[table.pictures["width"][places] > 0]
    width, height = (table.pictures[key][places].astype(np.float64) for key in ("width", "height"))
    area, aspect = width * height, np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
    found = {}
    for name, values in (("largest", -area), ("smallest", area), ("longest", -aspect)):
        order = np.argsort(values, kind="stable")
        first = [i for i in order[:OUTLIERS].tolist() if values[i] < values[order[len(order) // 2]]]
        found[name] = [
            PictureRef(spot.source, spot.index, spot.number, int(width[i]), int(height[i]))
            for i in first
            for spot in (table.spot(int(places[i])),)
        ]
    return found
