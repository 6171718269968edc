"""A few of the asked samples as pictures with the places drawn, for the report and for the eye.

The first samples of every task in turn, so nobody chose them. Blue is where the model should have pointed, orange where
it did, violet what the question pointed at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from ..image import open_picture
from ..image.marking import PREDICTED, TRUE, Pen, draw_regions, strip
from ..regions import Box, Coordinates, Region
from ..sample import Sample
from .metrics import iou
from .results import Comparison, Prediction
from .task import Judgement, Task, asked_regions, earlier_answers

PER_GROUP = 4
ASKED = Pen("#7048e8", 1.6)
WIDEST = 1200
"""Longest side of a kept picture in pixels."""


def save_examples(
    folder: Path, comparison: Comparison, tasks: Sequence[Task], coordinates: Coordinates, *, per_group: int = PER_GROUP
) -> Path:
    """Writes `per_group` samples of every group to ``folder/*.png`` and their words to ``folder/examples.json``.

    Each entry: group, task, id, file (null without a picture), shots (earlier answers), question, answer, reply,
    blank_reply, score, malformed, true, predicted and asked (lists of pixel coordinates), iou (of the first true and
    predicted box, or null). Returns the JSON's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blank = {(p.group, p.task, p.id): p.reply for p in comparison.blank.predictions} if comparison.blank else {}
    entries = []
    for group in dict.fromkeys(task.group for task in tasks):
        for task, index in _turns([task for task in tasks if task.group == group], per_group):
            sample = next(islice(task.samples(), index, None))
            prediction = next(
                p for p in comparison.real.predictions if (p.group, p.task, p.id) == (group, task.name, sample.id)
            )
            entry = _entry(sample, prediction, task, coordinates, folder / f"{group}-{task.name}-{index}.png")
            entries.append({**entry, "blank_reply": blank.get((group, task.name, sample.id))})
    path = folder / "examples.json"
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return path


def _turns(tasks: Sequence[Task], n: int) -> list[tuple[Task, int]]:
    """The first sample of every task, then the second of every task, up to n."""
    longest = max((len(task) for task in tasks), default=0)
    return [(task, i) for i in range(longest) for task in tasks if i < len(task)][:n]


def _entry(sample: Sample, prediction: Prediction, task: Task, coordinates: Coordinates, path: Path) -> dict[str, Any]:
    pictures = [open_picture(image, where=f"sample {sample.id!r}") for image in sample.images]
    judged = task.score(sample, prediction.reply, coordinates=coordinates, sizes=[p.size for p in pictures])
    asked = asked_regions(sample)
    if pictures:
        _drawn(pictures, [(asked, ASKED), (judged.true, TRUE), (judged.predicted, PREDICTED)]).save(path, optimize=True)
    return {
        **{key: getattr(prediction, key) for key in ("group", "task", "id", "question", "answer", "reply")},
        **{"score": prediction.score, "malformed": prediction.malformed, "file": path.name if pictures else None},
        **{"true": _plain(judged.true), "predicted": _plain(judged.predicted), "asked": _plain(asked)},
        **{"iou": _first_iou(judged), "shots": earlier_answers(sample)},
    }


def _first_iou(judged: Judgement) -> float | None:
    if not judged.predicted or not judged.true:
        return None
    predicted, true = judged.predicted[0].shape, judged.true[0].shape
    return round(iou(predicted, true), 3) if isinstance(predicted, Box) and isinstance(true, Box) else None


def _drawn(pictures: Sequence[PILImage.Image], layers: Sequence[tuple[Sequence[Region], Pen]]) -> PILImage.Image:
    """All pictures in a row, the regions of each layer drawn in their picture."""
    drawn = []
    for i, picture in enumerate(pictures):
        marks = [(region, pen) for regions, pen in layers for region in regions if region.image == i]
        regions, pens = [region for region, _ in marks], [pen for _, pen in marks]
        drawn.append(draw_regions(picture, regions, pens=pens, labels=False))
    joined = strip(drawn)
    joined.thumbnail((WIDEST, WIDEST))
    return joined


def _plain(regions: Sequence[Region]) -> list[list[float]]:
    return [[round(value, 1) for value in region.shape] for region in regions]
