"""Any kept checkpoint of a run as a plain transformers folder: model and processor, as `load` and `from_pretrained`
read them.

    RUN/stages/sft/step-000200/ (DCP, of any number of processes) --> OUT/model.safetensors, config.json, tokenizer ...

Cost: the whole model once in host memory. OUT appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .. import recipe as recipes
from ..data.open import stage_processor
from ..errors import UserError
from ..files import room_in
from ..recipe import Recipe
from ..regions import Coordinates
from ..text import tokenizer as tokenizers
from . import checkpoint
from .models import export, load_stage
from .parallel import World


def export_checkpoint(run: Path, out: Path, *, stage: str | None = None, step: int | None = None) -> tuple[str, int]:
    """Writes a checkpoint of the run in folder `run` to `out`, a new or empty folder; returns its stage and step.

    By default the newest checkpoint of the last stage that has one. Raises UserError for a run, stage or step that is
    not there, for a folder that holds something, and for a checkpoint that cannot be read.
    """
    kept = run / "recipe.yaml"
    if not kept.is_file():
        raise UserError(f"{run}: not a run folder (no recipe.yaml)")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; export to a new folder")
    recipe = recipes.load(kept)
    name, path = _choose(recipe, run, stage, step)
    coordinates = Coordinates(**recipe.coordinates.model_dump())
    tokenizer = tokenizers.prepare(PreTrainedTokenizerFast.from_pretrained(run / "tokenizer"), coordinates=coordinates)
    model = load_stage(recipe, name, path, tokenizer)
    receipt = {"recipe": recipe.name, "stage": name, "step": checkpoint.step_of(path)}
    with room_in(out, then="export again"):
        export(model, stage_processor(recipe, name, tokenizer), out, World(), receipt=receipt)
    return name, checkpoint.step_of(path)


def _choose(recipe: Recipe, run: Path, stage: str | None, step: int | None) -> tuple[str, Path]:
    """The stage and checkpoint meant; UserError naming what there is."""
    if stage is not None and stage not in recipe.stages:
        raise UserError(f"no stage {stage!r} in {run}; its stages: {_listed(list(recipe.stages))}")
    found = {name: checkpoint.complete(run / "stages" / name) for name in recipe.stages}
    name = stage or next((name for name in reversed(recipe.stages) if found[name]), None)
    if name is None or not found[name]:
        have = [name for name in recipe.stages if found[name]]
        raise UserError(
            f"{run}: no checkpoint{f' of stage {stage!r}' if stage else ''}; there are some of: {_listed(have)}"
        )
    steps = {checkpoint.step_of(path): path for path in found[name]}
    if step is not None and step not in steps:
        raise UserError(f"{run}: no checkpoint of step {step} of stage {name!r}; there are: {_listed(list(steps))}")
    return name, steps[step] if step is not None else found[name][-1]


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names)) or "none"
