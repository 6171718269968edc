"""What to change when a plan does not fit: each suggestion is tried by planning again, and says what it brings.

From what costs least to what costs most: compute activations again, one copy of the model, experts spread over a
machine's GPUs, AdaFactor, smaller rows. They are added up one after the other until the plan fits; what saves less than
`WORTH` is left out. Last come more GPUs: alone, and with the changes that leave rows as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..recipe import Recipe, validate

MOST_GPUS = 16_384
LEAST_ROW = 512
"""Rows are not advised to be shorter than this many tokens."""
WORTH = 0.05


Settings = dict[str, str | int]
"""Changed settings: name -> value."""


@dataclass(frozen=True)
class Advice:
    """Overrides to make together and GPUs to run on, bytes that the largest stage then takes, and whether that fits."""

    changes: tuple[str, ...]
    gpus: int
    most: float
    fits: bool


def advise(
    recipe: Recipe,
    gpus: int,
    most: float,
    tight: list[str],
    again: Callable[[Recipe, int], tuple[float, bool]],
    *,
    spread: int = 1,
) -> Iterator[Advice]:
    """Suggestions in order, the changes of each with those of the ones before.

    `most` are the bytes needed now, `tight` the stages that do not fit; `again` plans a changed recipe. Over `spread`
    GPUs experts can be spread; 1: they cannot.
    """
    changes: Settings = {}
    needed, fits = most, False
    for settings in _settings(recipe, tight, spread):
        tried = {**changes, **settings}
        found, fits = again(_changed(recipe, tried), gpus)
        if not fits and found > (1 - WORTH) * needed:
            continue
        changes, needed = tried, found
        yield _advice(changes, gpus, found, fits)
        if fits:
            break
    yield from _more_gpus(recipe, {}, gpus, again)
    same_rows = {key: value for key, value in changes.items() if ".batch." not in key}
    if not fits and same_rows:
        yield from _more_gpus(_changed(recipe, same_rows), same_rows, gpus, again)


def _advice(changes: Settings, gpus: int, most: float, fits: bool) -> Advice:
    return Advice(tuple(f"{key}={value}" for key, value in changes.items()), gpus, most, fits)


def _more_gpus(
    recipe: Recipe, changes: Settings, gpus: int, again: Callable[[Recipe, int], tuple[float, bool]]
) -> Iterator[Advice]:
    """The smallest number of GPUs that fits, doubling; nothing if none does."""
    number = 2 * gpus
    while number <= MOST_GPUS:
        try:
            most, fits = again(recipe, number)
        except UserError:  # rows that so many cannot share
            return
        if fits:
            yield _advice(changes, number, most, True)
            return
        number *= 2


def _settings(recipe: Recipe, tight: list[str], spread: int) -> Iterator[Settings]:
    """Settings to try, a later one in place of an earlier of the same name."""
    kinds = ["none", "selective", "full"]
    for kind in kinds[kinds.index(recipe.parallel.activation_checkpointing) + 1 :]:
        yield {"parallel.activation_checkpointing": kind}
    if recipe.parallel.replicate > 1:
        yield {"parallel.replicate": 1}
    if spread > 1:
        copies: Settings = {"parallel.replicate": 1} if recipe.parallel.replicate > 1 else {}
        yield {"parallel.experts": spread, **copies}
    adamw = [name for name in tight if recipe.stages[name].optimizer.name == "adamw"]
    if adamw:
        yield {f"stages.{name}.optimizer.name": "adafactor" for name in adamw}
    sizes = {name: (recipe.stages[name].batch.tokens, recipe.stages[name].batch.tiles) for name in tight}
    while max(tokens for tokens, _ in sizes.values()) >= 2 * LEAST_ROW:
        sizes = {name: (max(tokens // 2, 1), max(tiles // 2, 1)) for name, (tokens, tiles) in sizes.items()}
        tokens = {f"stages.{name}.batch.tokens": tokens for name, (tokens, _) in sizes.items()}
        yield {**tokens, **{f"stages.{name}.batch.tiles": tiles for name, (_, tiles) in sizes.items()}}


def _changed(recipe: Recipe, settings: Settings) -> Recipe:
    tree = json.loads(recipe.model_dump_json())
    for key, value in settings.items():
        *path, last = key.split(".")
        inner: Any = tree
        for step in path:
            inner = inner[step]
        inner[last] = value
    return validate(tree, recipe.name)
