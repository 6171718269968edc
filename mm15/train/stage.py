"""One stage of a run: optimiser, loader and loop, from where its newest checkpoint stands to its end.

While it trains SIGTERM is noted only: the step in flight is finished, all processes save, and the run stops.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import torch

from .. import recipe as recipes
from ..data.loader import PackedLoader
from ..data.mixture import Mixture
from ..data.open import mean_targets, stage_mixture
from ..data.skips import SkipLedger
from ..data.sources import SourceData
from ..files import write_atomically
from ..model import MM15ForConditionalGeneration
from ..model.precision import faster_in_bf16, has_bf16
from ..processor import MM15Processor
from ..recipe import Recipe
from . import adapters, checkpoint, parallel
from .expert_use import ExpertUse
from .loop import NotFiniteError, Step, train
from .metrics import Metrics
from .models import export, load_stage
from .optim import make_optimizer
from .precision import KEPT, taken
from .progress import StageProgress
from .stopping import Stopping

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    recipe: Recipe
    out: Path
    sources: Mapping[str, SourceData]
    world: parallel.World
    stopping: Stopping = field(default_factory=Stopping)

    def folder(self, stage: str) -> Path:
        """Where a stage keeps its checkpoints and metrics."""
        return self.out / "stages" / stage


def train_stage(run: Run, name: str, model: MM15ForConditionalGeneration, processor: MM15Processor) -> None:
    """Trains one stage from where its newest checkpoint stands, then exports the model.

    Raises Stopped after SIGTERM, and NotFiniteError; the newest checkpoint is then of the last step that was right.
    """
    recipe, world, folder = run.recipe, run.world, run.folder(name)
    stage = recipe.stages[name]
    newest = checkpoint.latest(folder)
    state = None if newest is None else checkpoint.read_state(newest)
    done = state["step"] if state else 0
    bf16 = in_bf16(run)
    optimizer = _prepare(run, name, model, bf16=bf16)
    mixture = stage_mixture(recipe, name, run.sources, means=means(run, name, processor))
    skips = SkipLedger(folder / "skipped.jsonl") if world.is_main else None
    loader = _make_loader(run, name, mixture, processor, skips)
    if newest is not None and state is not None:
        checkpoint.load(newest, model=model, optimizer=optimizer, world=world)
        loader.load_state_dict(state["loader"])
    metrics = Metrics(folder / "metrics.jsonl")
    use = ExpertUse.of(model, stage.mixture, folder / "experts.jsonl", world=world, done=done)
    if skips is not None:
        metrics.rewind(done)
        skips.rewind(*((state["loader"]["next"], state["loader"]["waiting"]) if state else (0,)))

    def save(step: int) -> None:
        reached = {"loader": loader.state_dict(), "fingerprint": recipes.fingerprint(recipe)}
        if skips is not None:
            skips.save()
            _write_shares(folder, loader, mixture)
            _write_use(use, step)
        saver.save(step, model=model, optimizer=optimizer, state=reached)

    def on_step(step: Step) -> None:
        run.stopping.where = f" after step {step.step} of {name}"
        if world.is_main:
            metrics.add(step.line())
        progress.update(step)
        if step.stopping or step.step == stage.steps or saver.due(step.step):
            save(step.step)
        if step.stopping:
            saver.wait()
            raise run.stopping.stopped()

    saver = checkpoint.Saver(folder, recipe.checkpoint, world)
    progress = StageProgress(name, done, stage.steps, shown=world.is_main)
    with progress, run.stopping.held(), saver:
        if done < stage.steps:
            try:
                train(
                    model,
                    optimizer,
                    iter(loader),
                    stage=stage,
                    first=done + 1,
                    bf16=bf16,
                    world=world,
                    on_step=on_step,
                    asked_to_stop=run.stopping.asked,
                    use=use,
                )
            except NotFiniteError as error:  # on all processes: loss and norm are those of the whole step
                saver.wait()
                raise NotFiniteError(_mend(run, name, error)) from None
    if skips is not None:
        skips.close()
    _hand_on(run, name, model, processor)


def _prepare(run: Run, name: str, model: MM15ForConditionalGeneration, *, bf16: bool) -> torch.optim.Optimizer:
    """The model frozen, adapted, placed and sharded as its stage asks, in place; and the stage's optimiser."""
    stage, world = run.recipe.stages[name], run.world
    for part in stage.freeze:
        getattr(model, part).requires_grad_(False)
    if stage.lora is not None:
        adapters.add(model, stage.lora)
        adapters.same_row_same_dropout(model)
    parallel.prepare(model, run.recipe.parallel, world, bf16=bf16)
    return make_optimizer(model, stage.optimizer)


def _hand_on(run: Run, name: str, model: MM15ForConditionalGeneration, processor: MM15Processor) -> None:
    """Exports a finished stage. Adapters go out merged: as the next stage starts, from the stage's last checkpoint."""
    folder, receipt = run.out / "model", {"recipe": run.recipe.name, "stage": name}
    if run.recipe.stages[name].lora is None:
        export(model, processor, folder, run.world, receipt=receipt)
    elif run.world.is_main:
        plain = load_stage(run.recipe, name, checkpoint.latest(run.folder(name)), processor.tokenizer)
        export(plain, processor, folder, parallel.World(), receipt=receipt)
    run.world.barrier()


def in_bf16(run: Run) -> bool:
    """Whether the run computes in bf16. What `auto` comes to the main process decides for all, once: it is kept."""
    if run.recipe.precision == "auto":
        kept = run.out / KEPT
        if run.world.is_main and not kept.exists():
            faster = faster_in_bf16(run.world.device)
            write_atomically(kept, json.dumps({"precision": "bf16" if faster else "fp32"}))
        run.world.barrier()
    bf16 = taken(run.recipe, run.out) == "bf16"
    if bf16 and run.world.is_main and not has_bf16(run.world.device):
        log.warning(
            "torch has no kernels for bf16 on this CPU: a step takes many times as long as in fp32; better stop, and "
            "train with precision=fp32 in another --out"
        )
    return bf16


def means(run: Run, name: str, processor: MM15Processor) -> dict[str, Fraction] | None:
    """Mean target tokens of the sources, when the stage mixes by them; kept, so that a resumed run has the same."""
    if run.recipe.stages[name].unit != "target_tokens":
        return None
    kept = run.folder(name) / "target_tokens.json"
    if run.world.is_main and not kept.exists():
        found = mean_targets(run.recipe, name, run.sources, processor)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps({source: str(mean) for source, mean in found.items()}, indent=1))
    run.world.barrier()
    return {source: Fraction(mean) for source, mean in json.loads(kept.read_text()).items()}


def _make_loader(
    run: Run, name: str, mixture: Mixture, processor: MM15Processor, skips: SkipLedger | None
) -> PackedLoader:
    batch = run.recipe.stages[name].batch
    return PackedLoader(
        mixture,
        run.sources,
        processor.encode,
        processor.measure,
        tokens=batch.tokens,
        tiles=batch.tiles,
        rows=batch.rows,
        workers=run.recipe.workers,
        worker_timeout=run.recipe.worker_timeout,
        rank=run.world.rank,
        world_size=run.world.size,
        gather=run.world.gather,
        on_skip=None if skips is None else skips.add,
    )


def _write_shares(folder: Path, loader: PackedLoader, mixture: Mixture) -> None:
    """What the mixture asked and what came."""
    shares = {"asked": mixture.shares, "groups": mixture.groups, "realised": loader.realised}
    write_atomically(folder / "mixture.json", json.dumps(shares, indent=1, default=asdict))


def _write_use(use: ExpertUse | None, step: int) -> None:
    if use is not None:
        use.save(step)


def _mend(run: Run, name: str, error: NotFiniteError) -> str:
    """The line for a loss that is not finite: where the run stands, and what goes on from there."""
    newest = checkpoint.latest(run.folder(name))
    stands = "the start of the stage" if newest is None else f"step {checkpoint.step_of(newest)}"
    lower = f"stages.{name}.optimizer.lr={run.recipe.stages[name].optimizer.lr / 2:g}"
    return f"{name}, {error}; to go on from {stands} with a lower rate add {lower} --accept-changes"
