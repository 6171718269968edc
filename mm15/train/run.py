"""A run: all stages of a recipe, evaluation after each, then the report. The same command again resumes.

RUN/recipe.yaml                      resolved copy
    precision.json                   what `precision: auto` came to when the run first trained, and stays
    stages/NAME/step-000200/         DCP checkpoints     stages/NAME/metrics.jsonl, mixture.json, skipped.jsonl
                                                         (target_tokens.json where they are what is mixed by)
    model/                           the newest finished stage as a transformers folder
    evaluation/NAME.json             scores with pictures and with blank ones
    report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import recipe as recipes
from ..data.open import base_tokenizer, open_recipe, stage_mixture, stage_processor
from ..data.sources import SourceData
from ..errors import UserError
from ..files import alone_in, replace_folder, room_in, write_atomically
from ..recipe import Recipe
from ..regions import Coordinates
from ..text import tokenizer as tokenizers
from . import checkpoint, parallel
from .allocator import keep_freed_memory
from .materialise import build_once
from .models import make_model, start_stage
from .precision import KEPT
from .stage import Run, train_stage
from .stopping import Stopping

__all__ = ["make_model", "make_tokenizer", "run", "stage_processor", "start_stage"]

MAY_CHANGE = ("workers:", "worker_timeout:", "checkpoint.", "evaluation.", "parallel.")
"""Settings that a resumed run may have changed: they do not change what is learnt."""
MAY_CHANGE_WHEN_ASKED = ("optimizer.lr:", "optimizer.clip:", "schedule.")
"""Settings of a stage that is not finished, which may be changed on purpose: the checkpoint does not hold them."""
LOCK = ".lock"


def run(
    recipe: Recipe,
    out: Path,
    *,
    only: str | None = None,
    evaluate: Callable[..., Any] | None = None,
    accept_changes: bool = False,
) -> None:
    """Runs (or resumes) a recipe in folder `out`; `only` stops after that stage.

    `evaluate(recipe, stage, out)` is called after each stage on the main process; it finds the model in ``out/model``.
    `accept_changes` takes another learning rate, schedule or clipping for what is still to be trained.
    Raises UserError for anything the user can mend, before anything is written; Stopped after SIGTERM.
    """
    if only is not None and only not in recipe.stages:
        raise UserError(f"no stage {only!r} in recipe {recipe.name!r}; its stages: {', '.join(recipe.stages)}")
    sources = open_recipe(recipe).sources
    for name in recipe.stages:
        _check_mixture(recipe, name, sources)
    _changes(recipe, out, accept=accept_changes)
    with Stopping() as stopping, room_in(out, then="run again; it goes on from the last whole checkpoint"):
        world = parallel.start(recipe.parallel)
        if world.device.type == "cpu":
            keep_freed_memory()
            torch.set_num_threads(recipe.threads or torch.get_num_threads())
        with ExitStack() as claim, parallel.together():
            try:
                _claim(recipe, out, world, claim, accept=accept_changes)
                _stages(Run(recipe, out, sources, world, stopping), only, evaluate)
            finally:
                parallel.stop()


def _stages(run: Run, only: str | None, evaluate: Callable[..., Any] | None) -> None:
    """All stages that are not finished, and their evaluations."""
    recipe, out, world = run.recipe, run.out, run.world
    tokenizer = make_tokenizer(recipe, out, run.sources, world)
    former: Path | None = None
    for i, name in enumerate(recipe.stages):
        processor = stage_processor(recipe, name, tokenizer)
        if not _exported(recipe, name, out):
            if i and former is None:
                raise UserError(
                    f"{run.folder(list(recipe.stages)[i - 1])}: no checkpoint is left for stage {name!r} to start "
                    "from; restore one, or choose another --out"
                )
            model = build_once(partial(start_stage, recipe, name, former, tokenizer), world)
            train_stage(run, name, model, processor)
        if world.is_main and evaluate is not None and not (out / "evaluation" / f"{name}.json").exists():
            evaluate(recipe, name, out)
        world.barrier()
        former = checkpoint.latest(run.folder(name))
        if name == only:
            break


def _changes(recipe: Recipe, out: Path, *, accept: bool) -> list[str]:
    """What differs from the run in the folder, if there is one. UserError where that must not be."""
    kept = out / "recipe.yaml"
    if not kept.exists():
        if out.exists() and any(path.suffix != ".partial" and path.name != LOCK for path in out.iterdir()):
            raise UserError(f"{out} is not empty and holds no run; choose another --out")
        return []
    changes = recipes.diff(recipes.load(kept), recipe)
    if not (out / "stages").exists():  # the run was refused before it trained: nothing is lost
        return changes
    open_stages = [name for name in recipe.stages if not _exported(recipe, name, out)]
    asked = tuple(f"stages.{name}.{setting}" for name in open_stages for setting in MAY_CHANGE_WHEN_ASKED)
    different = [change for change in changes if not change.startswith(MAY_CHANGE)]
    refused = [change for change in different if not (accept and change.startswith(asked))]
    if refused:
        shown = "; ".join(refused[:3]) + (f"; and {len(refused) - 3} more" if len(refused) > 3 else "")
        hint = " or add --accept-changes" if all(change.startswith(asked) for change in refused) else ""
        raise UserError(
            f"{out} holds a run of another recipe ({shown}); choose another --out or restore the settings{hint}"
        )
    return changes


def _claim(recipe: Recipe, out: Path, world: parallel.World, claim: ExitStack, *, accept: bool) -> None:
    """Makes the run folder or takes the one there is, for as long as `claim` is open."""
    failed: UserError | None = None
    if world.is_main:
        try:
            claim.enter_context(alone_in(out, LOCK, busy="another run is at work here"))
            changes = _changes(recipe, out, accept=accept)
            if not (out / "stages").exists():  # nothing was trained: what was made for it is made again
                (out / KEPT).unlink(missing_ok=True)
                if changes:
                    shutil.rmtree(out / "tokenizer", ignore_errors=True)
            if changes or not (out / "recipe.yaml").exists():
                write_atomically(out / "recipe.yaml", recipes.dump(recipe))
        except UserError as error:
            failed = error
    if world.total(failed is not None):
        raise failed or UserError(f"{out}: the main process has stopped; its line says why")


def make_tokenizer(recipe: Recipe, out: Path, sources: Mapping[str, SourceData], world: parallel.World) -> Any:
    """The recipe's tokenizer; kept in the run folder for resuming."""
    from transformers import PreTrainedTokenizerFast

    kept = out / "tokenizer"
    coordinates = Coordinates(**recipe.coordinates.model_dump())
    if not kept.exists() and world.is_main:
        tokenizer = tokenizers.prepare(base_tokenizer(recipe, sources), coordinates=coordinates)
        replace_folder(kept, tokenizer.save_pretrained)
    world.barrier()
    return tokenizers.prepare(PreTrainedTokenizerFast.from_pretrained(kept), coordinates=coordinates)


def _check_mixture(recipe: Recipe, name: str, sources: Mapping[str, SourceData]) -> None:
    """UserError for a stage's mixture that cannot be drawn from, or that surely ends before the stage does."""
    stage = recipe.stages[name]
    mixture = stage_mixture(recipe, name, sources, means=dict.fromkeys(sources, Fraction(1)))
    rows = stage.steps * stage.batch.rows
    if mixture.length is not None and mixture.length < rows:
        raise UserError(
            f"stage {name!r} needs {rows:,} rows of at least one sample, and the epochs of its sources allow "
            f"{mixture.length:,} samples; raise stages.{name}.epochs or take fewer steps"
        )


def _exported(recipe: Recipe, stage: str, out: Path) -> bool:
    """Whether ``out/model`` holds this stage or a later one."""
    kept = out / "model" / "run.json"
    if not kept.exists():
        return False
    names = list(recipe.stages)
    return names.index(json.loads(kept.read_text())["stage"]) >= names.index(stage)
