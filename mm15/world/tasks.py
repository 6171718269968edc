"""The registry of tasks, and `make`, which draws one sample of one of them."""

from __future__ import annotations

import difflib
from dataclasses import replace

import numpy as np

from ..errors import UserError
from ..sample import Image, Sample
from . import charts, clips, comparisons, dialogues, documents, episodes, knowledge, scenes, screens, texts
from .dice import Dice, entropy
from .task import LEVELS, Task

_ROOMS = (scenes, dialogues, documents, charts, screens, knowledge, comparisons, episodes, clips, texts)

TASKS: dict[str, Task] = {task.name: task for room in _ROOMS for task in room.TASKS}


GREY = 128
"""What a blank picture is filled with."""


def blank(sample: Sample) -> Sample:
    """The same sample with its pictures blank: uniform mid-grey, of the same sizes."""
    parts = tuple(
        replace(part, content=Image(np.full_like(part.content.data, GREY))) if isinstance(part.content, Image) else part
        for part in sample.parts
    )
    return replace(sample, parts=parts)


def make(kind: str, index: int, *, seed: int = 0, level: int = 1, size: int = 128, split: str = "train") -> Sample:
    """Sample `index` of the task `kind`: a pure function of its arguments.

    level is 1 (easy) to 3; size is the longer side of its pictures in pixels (64 to 2048); split is "train" or
    "heldout", which never share a seed sequence. UserError for a task, level, size, split or index out of range.
    """
    task = TASKS.get(kind)
    if task is None:
        near = difflib.get_close_matches(kind, TASKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(TASKS))}"
        raise UserError(f"world task {kind!r} does not exist{hint}")
    if level not in LEVELS:
        raise UserError(f"world level {level} does not exist; use 1, 2 or 3")
    if not 64 <= size <= 2048:
        raise UserError(f"world size {size} is out of range; use 64 to 2048 pixels")
    draft = task.function(Dice(entropy(kind, index, seed=seed, level=level, split=split)), level, size)
    meta = {
        "task": kind,
        "group": task.group,
        "category": task.category,
        "metric": task.metric,
        "level": level,
        "answer": draft.answer,
        "boxes": [list(box) for box in draft.boxes],
        "objects": [dict(thing) for thing in draft.objects],
        **draft.extra,
    }
    return Sample(f"{kind}/{level}/{seed}/{split}/{index}", "world", draft.parts, meta)
