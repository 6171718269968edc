"""The whole model of a stage: what it starts from, what a checkpoint of it holds, how it is handed on.

recipe --make_model--> fresh parts --load_stage--> with a checkpoint's weights --export--> transformers folder
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..files import replace_folder
from ..model import MM15ForConditionalGeneration, build
from ..model.loading import quiet
from ..processor import MM15Processor
from ..recipe import Recipe
from ..text.chat import IMAGE
from . import adapters, checkpoint, parallel


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


def load_stage(recipe: Recipe, stage: str, path: Path | None, tokenizer: Any) -> MM15ForConditionalGeneration:
    """The whole model that checkpoint `path` of a stage holds; without one, as the run begins with that stage.

    Any number of processes may have saved it; this one loads all of it. A stage's adapters are merged into its weights,
    so the model is plain. Raises UserError as `checkpoint.load` does.
    """
    torch.manual_seed(recipe.seed)
    model = make_model(recipe, tokenizer, tile=recipe.stage_picture(stage).tile)
    lora = None if path is None else recipe.stages[stage].lora
    if lora is not None:
        adapters.add(model, lora)
    if path is not None:
        checkpoint.load(path, model=model, world=parallel.World())
    if lora is not None:
        adapters.merge(model)
    model.config.tiling = recipe.stage_picture(stage).model_dump()
    return model


def start_stage(recipe: Recipe, stage: str, former: Path | None, tokenizer: Any) -> MM15ForConditionalGeneration:
    """The whole model a stage starts from: fresh (or loaded) parts, the former stage's weights, its own tile size."""
    names = list(recipe.stages)
    before = names[max(names.index(stage) - 1, 0)]
    model = load_stage(recipe, before, former, tokenizer)
    model.set_tile(recipe.stage_picture(stage).tile)
    model.config.tiling = recipe.stage_picture(stage).model_dump()
    return model


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
        replace_folder(folder, write)
    world.barrier()
