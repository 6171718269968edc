"""``mm15 plan``: what a recipe takes, before anything runs."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from .output import Json, say


def plan(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: stages.sft.steps=100")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs, each a process.")] = 8,
    memory: Annotated[float, typer.Option(help="GB of one GPU.")] = 80,
    mfu: Annotated[float, typer.Option(help="Share of the peak that is reached, recomputation counted.")] = 0.4,
    tflops: Annotated[float, typer.Option(help="Peak of one GPU in TFLOP/s; H100 in bf16: 989.")] = 989,
    json: Json = False,
) -> None:
    """Tell parameters, memory, time and cost of a recipe by stage; if it does not fit, what to change."""
    from .. import recipe as recipes
    from ..plan import plan as make
    from ..plan.table import as_dict, describe

    settings = recipes.load(recipe, overrides or [])
    found = make(settings, gpus=gpus, memory_gb=memory, mfu=mfu, peak_flops=tflops * 1e12)
    say(jsonlib.dumps(as_dict(found)) if json else describe(found))
