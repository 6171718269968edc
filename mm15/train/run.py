"""A run: all stages of a recipe, evaluation after each, then the report. The same command again resumes.

RUN/recipe.yaml                      resolved copy
    stages/NAME/step-000200/         DCP checkpoints     stages/NAME/metrics.jsonl, mixture.json, skipped.jsonl
                                                         (target_tokens.json where they are what is mixed by)
    model/                           the newest finished stage as a transformers folder
    evaluation/NAME.json             scores with pictures and with blank ones
    report.html
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from .. import recipe as recipes
from ..data.loader import PackedLoader
from ..data.mixture import Mixture
from ..data.open import base_tokenizer, mean_targets, open_recipe, stage_mixture, stage_processor
from ..data.skips import SkipLedger
from ..data.sources import SourceData
from ..errors import UserError
from ..files import write_atomically
from ..model import MM15ForConditionalGeneration, build
from ..model.loading import quiet
from ..processor import MM15Processor
from ..recipe import Recipe
from ..regions import Coordinates
from ..text import tokenizer as tokenizers
from ..text.chat import IMAGE
from . import checkpoint, parallel
from .loop import Step, train
from .metrics import Metrics
from .optim import make_optimizer
from .progress import StageProgress

MAY_CHANGE = ("workers:", "checkpoint.", "evaluation.", "parallel.")
"""Settings that a resumed run may have changed: they do not change what is learnt."""


def run(recipe: Recipe, out: Path, *, only: str | None = None, evaluate: Callable[..., Any] | None = None) -> None:
    """Runs (or resumes) a recipe in folder `out`; `only` stops after that stage.

    `evaluate(recipe, stage, out)` is called after each stage on the main process; it finds the model in ``out/model``.
    Raises UserError for anything the user can mend, before anything is written.
    """
    if only is not None and only not in recipe.stages:
        raise UserError(f"no stage {only!r} in recipe {recipe.name!r}; its stages: {', '.join(recipe.stages)}")
    sources = open_recipe(recipe).sources
    for name in recipe.stages:
        _check_mixture(recipe, name, sources)
    world = parallel.start()
    if recipe.threads is not None and world.device.type == "cpu":
        torch.set_num_threads(recipe.threads)
    try:
        _claim(recipe, out, world)
        tokenizer = make_tokenizer(recipe, out, sources, world)
        former: Path | None = None
        for name in recipe.stages:
            processor = stage_processor(recipe, name, tokenizer)
            if not _exported(recipe, name, out):
                model = start_stage(recipe, name, former, tokenizer)
                _train_stage(recipe, name, model, processor, sources, out, world)
            if world.is_main and evaluate is not None and not (out / "evaluation" / f"{name}.json").exists():
                evaluate(recipe, name, out)
            world.barrier()
            former = checkpoint.latest(out / "stages" / name)
            if name == only:
                break
    finally:
        parallel.stop()


def _claim(recipe: Recipe, out: Path, world: parallel.World) -> None:
    """Makes the run folder, or checks that the one there is of the same recipe."""
    kept = out / "recipe.yaml"
    changes: list[str] = []
    if kept.exists():
        changes = recipes.diff(recipes.load(kept), recipe)
        different = [change for change in changes if not change.startswith(MAY_CHANGE)]
        if different:
            shown = "; ".join(different[:3]) + (f"; and {len(different) - 3} more" if len(different) > 3 else "")
            raise UserError(
                f"{out} holds a run of another recipe ({shown}); choose another --out or restore the settings"
            )
    elif out.exists() and any(path.suffix != ".partial" for path in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no run; choose another --out")
    world.barrier()
    if world.is_main and (changes or not kept.exists()):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, recipes.dump(recipe))
    world.barrier()


def make_tokenizer(recipe: Recipe, out: Path, sources: Mapping[str, SourceData], world: parallel.World) -> Any:
    """The recipe's tokenizer; kept in the run folder for resuming."""
    from transformers import PreTrainedTokenizerFast

    kept = out / "tokenizer"
    coordinates = Coordinates(**recipe.coordinates.model_dump())
    if not kept.exists() and world.is_main:
        tokenizer = tokenizers.prepare(base_tokenizer(recipe, sources), coordinates=coordinates)
        _replace_folder(kept, tokenizer.save_pretrained)
    world.barrier()
    return tokenizers.prepare(PreTrainedTokenizerFast.from_pretrained(kept), coordinates=coordinates)


def make_model(recipe: Recipe, tokenizer: Any, *, tile: int) -> MM15ForConditionalGeneration:
    """The model of a recipe with fresh or loaded parts; deterministic after torch.manual_seed."""
    return build(
        recipe.model,
        tile=tile,
        vocab_size=len(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        coordinates=recipe.coordinates.model_dump(),
    )


def start_stage(recipe: Recipe, stage: str, former: Path | None, tokenizer: Any) -> MM15ForConditionalGeneration:
    """The whole model a stage starts from: fresh (or loaded) parts, the former stage's weights, its own tile size."""
    names = list(recipe.stages)
    before = names[max(names.index(stage) - 1, 0)]
    torch.manual_seed(recipe.seed)
    model = make_model(recipe, tokenizer, tile=recipe.stage_picture(before).tile)
    if former is not None:
        checkpoint.load(former, model=model, world=parallel.World())
    model.set_tile(recipe.stage_picture(stage).tile)
    model.config.tiling = recipe.stage_picture(stage).model_dump()
    return model


def _train_stage(
    recipe: Recipe,
    name: str,
    model: MM15ForConditionalGeneration,
    processor: MM15Processor,
    sources: Mapping[str, SourceData],
    out: Path,
    world: parallel.World,
) -> None:
    """Trains one stage from where its newest checkpoint stands, then exports the model."""
    stage, folder = recipe.stages[name], out / "stages" / name
    newest = checkpoint.latest(folder)
    state = None if newest is None else checkpoint.read_state(newest)
    done = state["step"] if state else 0
    for part in stage.freeze:
        getattr(model, part).requires_grad_(False)
    torch.nn.Module.to(model, world.device)
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and parallel.native_bf16(world.device))
    parallel.shard(model, world, bf16=bf16 and world.device.type == "cuda")
    optimizer = make_optimizer(model.parameters(), stage.optimizer)
    means = _means(recipe, name, processor, sources, folder, world)
    mixture = stage_mixture(recipe, name, sources, means=means)
    skips = SkipLedger(folder / "skipped.jsonl") if world.is_main else None
    loader = PackedLoader(
        mixture,
        sources,
        processor.encode,
        tokens=stage.batch.tokens,
        tiles=stage.batch.tiles,
        rows=stage.batch.rows,
        workers=recipe.workers,
        rank=world.rank,
        world_size=world.size,
        on_skip=None if skips is None else skips.add,
    )
    if newest is not None and state is not None:
        checkpoint.load(newest, model=model, optimizer=optimizer, world=world)
        loader.load_state_dict(state["loader"])
    metrics = Metrics(folder / "metrics.jsonl")
    if skips is not None:
        metrics.rewind(done)
        skips.rewind(state["loader"]["next"] if state else 0)

    with StageProgress(name, done, stage.steps, shown=world.is_main) as progress:

        def on_step(step: Step) -> None:
            if world.is_main:
                metrics.add(step.line())
            progress.update(step)
            if step.step % recipe.checkpoint.every == 0 or step.step == stage.steps:
                reached = {"loader": loader.state_dict(), "fingerprint": recipes.fingerprint(recipe)}
                if skips is not None:
                    skips.save()
                    _write_shares(folder, loader, mixture)
                checkpoint.save(
                    folder,
                    step.step,
                    model=model,
                    optimizer=optimizer,
                    state=reached,
                    world=world,
                    keep=recipe.checkpoint.keep,
                )

        if done < stage.steps:
            train(model, optimizer, iter(loader), stage=stage, first=done + 1, bf16=bf16, world=world, on_step=on_step)
    if skips is not None:
        skips.close()
    export(model, processor, out / "model", world, receipt={"recipe": recipe.name, "stage": name})


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


def _means(
    recipe: Recipe,
    name: str,
    processor: MM15Processor,
    sources: Mapping[str, SourceData],
    folder: Path,
    world: parallel.World,
) -> dict[str, Fraction] | None:
    """Mean target tokens of the sources, when the stage mixes by them; kept, so that a resumed run has the same."""
    if recipe.stages[name].unit != "target_tokens":
        return None
    kept = folder / "target_tokens.json"
    if world.is_main and not kept.exists():
        means = mean_targets(recipe, name, sources, processor)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps({source: str(mean) for source, mean in means.items()}, indent=1))
    world.barrier()
    return {source: Fraction(mean) for source, mean in json.loads(kept.read_text()).items()}


def _write_shares(folder: Path, loader: PackedLoader, mixture: Mixture) -> None:
    """What the mixture asked and what came."""
    shares = {"asked": mixture.shares, "groups": mixture.groups, "realised": loader.realised}
    write_atomically(folder / "mixture.json", json.dumps(shares, indent=1, default=asdict))


def export(
    model: MM15ForConditionalGeneration,
    processor: MM15Processor,
    folder: Path,
    world: parallel.World,
    *,
    receipt: dict[str, Any],
) -> None:
    """Writes model and processor as one plain transformers folder; the former one stays until the new one is whole.

    All ranks take part in gathering the weights; the main one writes. `receipt` says what the model is, in run.json.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)

    def write(to: Path) -> None:
        with quiet():
            model.save_pretrained(to, state_dict=weights)
        processor.save_pretrained(to)
        (to / "run.json").write_text(json.dumps(receipt))

    if world.is_main:
        _replace_folder(folder, write)
    world.barrier()


def _exported(recipe: Recipe, stage: str, out: Path) -> bool:
    """Whether ``out/model`` holds this stage or a later one."""
    kept = out / "model" / "run.json"
    if not kept.exists():
        return False
    names = list(recipe.stages)
    return names.index(json.loads(kept.read_text())["stage"]) >= names.index(stage)


def _replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(fresh)
        fresh.chmod(0o755)
        if folder.exists():
            old = fresh.with_name(fresh.name + "-old")
            os.replace(folder, old)
            os.replace(fresh, folder)
            shutil.rmtree(old)
        else:
            os.replace(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
