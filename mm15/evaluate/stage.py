"""Evaluation of a whole model: after a stage of a run, or by name from the command line.

Each sample is asked twice, with its pictures and with blank ones. In the recipe's precision; where that is auto,
bfloat16 on a GPU that has it and full precision on any CPU.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import recipe as recipes
from ..errors import UserError
from ..generate.loading import load
from ..model.device import gpu
from ..model.precision import faster_in_bf16
from .examples import save_examples
from .results import Comparison
from .runner import evaluate, progress_bar, tasks_of
from .task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..processor import MM15Processor


def evaluate_stage(recipe: recipes.Recipe, stage: str, out: Path) -> Path | None:
    """Scores the model in ``out/model`` and keeps the results under ``out/evaluation`` by the stage's name.

    The JSON is written last, so where it is, everything is; its path is returned, None where the recipe asks for no
    evaluation.
    """
    if not recipe.evaluation.groups:
        return None
    model, processor = load(out)
    tasks = tasks_of(recipe.evaluation)
    comparison = compare(model, processor, recipe.evaluation, tasks=tasks, precision=recipe.precision)
    folder = out / "evaluation"
    save_examples(folder / "examples" / stage, comparison, tasks, processor.coordinates)
    return comparison.save(folder, stage)


def evaluate_model(
    model: str,
    *,
    recipe: str | None = None,
    tasks: str | None = None,
    group: str | None = None,
    limit: int | None = None,
) -> Comparison:
    """Scores a run or model folder (or hub id) on the tasks of a recipe, by default the run's own.

    `tasks` are names separated by commas, `group` one group, `limit` samples a task. Raises UserError (with the closest
    name) for a task or group that the recipe does not have.
    """
    settings = _recipe_of(model, recipe)
    evaluation = settings.evaluation
    if limit is not None:
        if limit < 1:
            raise UserError(f"--limit {limit}: ask at least 1 sample a task")
        evaluation = evaluation.model_copy(update={"limit": limit})
    chosen = _choose(evaluation, None if tasks is None else [name.strip() for name in tasks.split(",")], group)
    network, processor = load(model)
    return compare(network, processor, chosen, tasks=tasks_of(chosen), precision=settings.precision)


def compare(
    model: PreTrainedModel,
    processor: MM15Processor,
    evaluation: recipes.Evaluation,
    *,
    tasks: Sequence[Task],
    precision: str = "auto",
) -> Comparison:
    """Both evaluations of one model, on the GPU where there is one, under a progress bar."""
    started = time.perf_counter()
    device = gpu()
    bf16 = precision == "bf16" or (precision == "auto" and device is not None and faster_in_bf16(device))
    if device is not None:
        torch.nn.Module.to(model, device)
    with progress_bar() as bar:
        real, blank = (
            evaluate(model, processor, evaluation, blank=blank, progress=bar, bf16=bf16, tasks=tasks)
            for blank in (False, True)
        )
    return Comparison(real, blank, time.perf_counter() - started)


def _recipe_of(model: str, recipe: str | None) -> recipes.Recipe:
    if recipe is not None:
        return recipes.load(recipe)
    kept = Path(model) / "recipe.yaml"
    if not kept.is_file():
        raise UserError(f"{model}: no recipe.yaml to take tasks from; name a recipe with --recipe")
    return recipes.load(kept)


def _choose(evaluation: recipes.Evaluation, tasks: list[str] | None, group: str | None) -> recipes.Evaluation:
    """The evaluation with only the named tasks or group."""
    groups = evaluation.groups
    if group is not None:
        _known("group", [group], list(groups))
        groups = {group: groups[group]}
    if tasks is not None:
        _known("task", tasks, [name for sources in groups.values() for name in sources])
        kept = {name: {task: s for task, s in sources.items() if task in tasks} for name, sources in groups.items()}
        groups = {name: sources for name, sources in kept.items() if sources}
    return evaluation.model_copy(update={"groups": groups})


def _known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
            raise UserError(f"the recipe's evaluation has no {what} {name!r}; {hint}")
