"""The runner: asks a model every task of a recipe's evaluation, greedily and in even batches.

Samples are encoded into a window of bounded memory, sorted by prompt length in it, and continued in batches of
`evaluation.batch`; so the order, the batches and the replies are the same in every run. With `blank`, each picture is
replaced by a uniform mid-grey one of its size: same tiles, same tokens, nothing to see. What the model scores then is
what language alone gives.

Of a model that is sharded over several processes, every process must call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Row
from rich.text import Text

from .. import recipe
from ..data.sources import open_source
from ..errors import UserError
from ..generate.greedy import continue_prompts
from ..image import picture_size
from ..regions import Coordinates
from ..sample import Image, Sample
from ..text.render import Encoded
from ..world import GREY
from .results import Prediction, Results
from .task import Judgement, Sizes, SourceTask, Task, answer_text, last_question, with_blank_pictures, written

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..processor import MM15Processor

WINDOW_BYTES = 256 << 20
"""Tiles held at once while prompts wait for their batch."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A sample, its pictures' sizes in pixels, the model's reply and what that was worth."""

    sample: Sample
    sizes: Sizes
    reply: str
    judgement: Judgement


_Prompt = tuple[Sample, Encoded]


def tasks_of(evaluation: recipe.Evaluation) -> list[Task]:
    """The tasks of a recipe, by group, in its order; raises UserError for a source that cannot be opened."""
    return [
        SourceTask(name, group, open_source(settings, name), evaluation.limit)
        for group, sources in evaluation.groups.items()
        for name, settings in sources.items()
    ]


def evaluate(
    model: PreTrainedModel,
    processor: MM15Processor,
    evaluation: recipe.Evaluation,
    *,
    blank: bool = False,
    progress: Progress | None = None,
    bf16: bool = False,
    tasks: Sequence[Task] | None = None,
) -> Results:
    """Every task's first `limit` samples, asked and scored; the model is left in the mode it came in.

    `tasks` are `tasks_of(evaluation)` unless given. `bf16` computes in bfloat16 by autocast. Raises UserError when
    there is nothing to ask, and for a sample that cannot be encoded or has no metric.
    """
    asked_of = tasks_of(evaluation) if tasks is None else tasks
    total = sum(len(task) for task in asked_of)
    if not total:
        raise UserError("there is nothing to evaluate: the recipe's `evaluation.groups` names no task with samples")
    label = "evaluate, blank pictures" if blank else "evaluate"
    row = progress.add_task(label, total=total) if progress else None
    predictions = []
    was_training = model.training
    model.eval()
    try:
        for task in asked_of:
            for asked in ask_all(
                model, processor, task, evaluation, blank=blank, bf16=bf16, progress=progress, row=row
            ):
                predictions.append(_prediction(task, asked, processor.coordinates))
    finally:
        model.train(was_training)
    return Results(predictions)


def ask_all(
    model: PreTrainedModel,
    processor: MM15Processor,
    task: Task,
    evaluation: recipe.Evaluation,
    *,
    blank: bool = False,
    bf16: bool = False,
    progress: Progress | None = None,
    row: TaskID | None = None,
) -> Iterator[Asked]:
    """The samples of one task with their replies and scores, in the task's order."""
    device = model.device.type
    for window in _windows(_prompts(processor, task, blank=blank)):
        order = sorted(range(len(window)), key=lambda i: (-len(window[i][1]), i))
        replies: dict[int, str] = {}
        for start in range(0, len(order), evaluation.batch):
            batch = order[start : start + evaluation.batch]
            prompts = [window[i][1] for i in batch]
            with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
                texts = continue_prompts(model, processor, prompts, max_new_tokens=evaluation.max_new_tokens)
            replies.update(zip(batch, texts, strict=True))
            if progress is not None and row is not None:
                progress.update(row, advance=len(batch))
        for i, (sample, prompt) in enumerate(window):
            judged = task.score(sample, replies[i], coordinates=processor.coordinates, sizes=prompt.sizes)
            yield Asked(sample, prompt.sizes, replies[i], judged)


def progress_bar() -> Progress:
    """A bar on stderr with a rate and the time left; silent where stderr is no terminal. Use it as a context."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


class _Rate(ProgressColumn):
    """Samples a second."""

    def render(self, task: Row) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} samples/s")


def blank_picture(image: Image) -> Image:
    """A uniform mid-grey picture of the same size."""
    width, height = picture_size(image, where="picture")
    return Image(np.full((height, width, 3), GREY, np.uint8))


def _prompts(processor: MM15Processor, task: Task, *, blank: bool) -> Iterator[_Prompt]:
    for sample in task.samples():
        yield sample, processor.prompt(with_blank_pictures(sample, blank_picture) if blank else sample)


def _windows(prompts: Iterator[_Prompt]) -> Iterator[list[_Prompt]]:
    """Lists of consecutive prompts whose tiles fill about `WINDOW_BYTES`."""
    window: list[_Prompt] = []
    size = 0
    for prompt in prompts:
        window.append(prompt)
        size += prompt[1].tiles.nbytes
        if size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _prediction(task: Task, asked: Asked, coordinates: Coordinates) -> Prediction:
    sample, sizes = asked.sample, asked.sizes
    return Prediction(
        group=task.group,
        task=task.name,
        id=sample.id,
        question=written(last_question(sample), coordinates, sizes),
        answer=answer_text(sample, coordinates, sizes) or str(sample.meta.get("answer", "")),
        reply=asked.reply,
        score=asked.judgement.score,
        malformed=asked.judgement.malformed,
    )
