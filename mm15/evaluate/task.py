"""A task: which samples are asked, and how a reply is scored.

Every sample names its metric in ``meta["metric"]``; `score` looks it up. Text metrics compare with ``meta["answers"]``,
``meta["answer"]``, or else the sample's own last answer. ``iou`` is recall@0.5: as many places as there are true boxes
are taken from the reply in reading order (the first one, where one is asked for), up to anything that looks like
coordinates and is none; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import UserError
from ..regions import Box, Coordinates, Region, parse
from ..sample import Image, Part, Role, Sample
from . import metrics

Sizes = Sequence[tuple[int, int]]
"""(width, height) in pixels of a sample's pictures."""


@dataclass(frozen=True)
class Judgement:
    """What a reply was worth (0 to 1), whether asked-for coordinates could not be read, and the places compared."""

    score: float
    malformed: bool = False
    predicted: list[Region] = field(default_factory=list)
    true: list[Region] = field(default_factory=list)


class Samples(Protocol):
    """Anything with a length that gives samples by index; every data source is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Task(Protocol):
    """What the runner asks of a task."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...

    def __len__(self) -> int:
        """How many samples `samples` yields."""
        ...

    def samples(self) -> Iterator[Sample]:
        """The samples to ask, always the same ones in the same order."""
        ...

    def score(self, sample: Sample, reply: str, *, coordinates: Coordinates, sizes: Sizes) -> Judgement:
        """How good a reply to a sample is; `sizes` are those of its pictures."""
        ...


@dataclass(frozen=True)
class SourceTask:
    """The first `limit` samples of a data source, each scored by the metric it names."""

    name: str
    group: str
    source: Samples
    limit: int

    def __len__(self) -> int:
        return min(self.limit, len(self.source))

    def samples(self) -> Iterator[Sample]:
        """See `Task`."""
        return (self.source[index] for index in range(len(self)))

    def score(self, sample: Sample, reply: str, *, coordinates: Coordinates, sizes: Sizes) -> Judgement:
        """See `Task`. Raises UserError for a sample without a metric or with one that does not exist."""
        metric = sample.meta.get("metric") or ("iou" if answer_boxes(sample) else "exact")
        if metric == "iou":
            return _grounding(sample, reply, coordinates, sizes)
        if metric not in TEXT_METRICS:
            known = ", ".join([*TEXT_METRICS, "iou"])
            raise UserError(f"sample {sample.id!r} of task {self.name!r}: no metric is called {metric!r}; use {known}")
        answers = sample.meta.get("answers") or [sample.meta.get("answer") or answer_text(sample, coordinates, sizes)]
        return Judgement(TEXT_METRICS[metric](reply, answers))


def _exact(reply: str, answers: Sequence[str]) -> float:
    return metrics.exact_match(" ".join(reply.split()), [" ".join(answer.split()) for answer in answers])


def _any_choice(reply: str, answers: Sequence[str]) -> float:
    return max(metrics.multiple_choice(reply, answer) for answer in answers)


TEXT_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": _exact,
    "choice": _any_choice,
    "anls": metrics.anls,
    "relaxed": metrics.relaxed_accuracy,
    "vqa": metrics.vqa_accuracy,
}
"""Metric name -> (reply, answers) -> score. "exact" keeps case and punctuation and ignores spacing."""


# ------------------------------------------------------------------------------------------------------------ grounding


def _grounding(sample: Sample, reply: str, coordinates: Coordinates, sizes: Sizes) -> Judgement:
    true = true_boxes(sample)
    if not true:
        raise UserError(f"sample {sample.id!r}: metric 'iou' needs true boxes, in its answer or in meta['boxes']")
    malformed = parse(reply, sizes[true[0].image], coordinates=coordinates).malformed
    head = reply[: reply.index(malformed[0].text)] if malformed else reply
    read = {t.image: parse(head, sizes[t.image], coordinates=coordinates, image=t.image) for t in true}
    places = [read[t.image][i] for i, t in enumerate(true) if i < len(read[t.image])]
    return Judgement(_recall(places, true), bool(malformed) or not places, places, true)


def _recall(predicted: Sequence[Region], true: Sequence[Region], threshold: float = 0.5) -> float:
    """Share of the true boxes that a predicted box meets, each used once; the best pairs are matched first."""
    pairs = sorted(
        (
            (-metrics.iou(p.shape, t.shape), i, j)
            for i, p in enumerate(predicted)
            for j, t in enumerate(true)
            if isinstance(p.shape, Box) and isinstance(t.shape, Box) and p.image == t.image
        ),
    )
    used_p: set[int] = set()
    used_t: set[int] = set()
    for overlap, i, j in pairs:
        if -overlap >= threshold and i not in used_p and j not in used_t:
            used_p.add(i)
            used_t.add(j)
    return len(used_t) / len(true)


def true_boxes(sample: Sample) -> list[Region]:
    """The boxes of the last answer, else ``meta["boxes"]`` (x1, y1, x2, y2 in pixels) in the last picture."""
    boxes = answer_boxes(sample)
    if boxes or not sample.images:
        return boxes
    return [Region(Box(*box), len(sample.images) - 1) for box in sample.meta.get("boxes", [])]


def answer_boxes(sample: Sample) -> list[Region]:
    """The boxes of the last answer."""
    regions = [part.content for part in last_answer(sample) if isinstance(part.content, Region)]
    return [region for region in regions if isinstance(region.shape, Box)]


# ----------------------------------------------------------------------------------------------------- reading a sample


def last_answer(sample: Sample) -> list[Part]:
    """The last run of target parts: what the model is to write."""
    _, start, end = _spans(sample)
    return list(sample.parts[start:end])


def last_question(sample: Sample) -> list[Part]:
    """The user's turn before the last answer; for a document, everything before it."""
    start, end, _ = _spans(sample)
    return list(sample.parts[start:end])


def earlier_answers(sample: Sample) -> list[str]:
    """What the assistant said before the last question (the answers of the shots), in text."""
    said = [part.content for part in sample.parts[: _spans(sample)[0]] if part.role is Role.ASSISTANT]
    return [content for content in said if isinstance(content, str)]


def _spans(sample: Sample) -> tuple[int, int, int]:
    """Where in the parts the last question begins, where its answer begins, and where that ends."""
    parts = sample.parts
    end = max((i for i, part in enumerate(parts) if part.target), default=-1) + 1
    answer = end
    while answer > 0 and parts[answer - 1].target and parts[answer - 1].role is parts[end - 1].role:
        answer -= 1
    if not end:
        answer = end = len(parts)
    question = answer
    while question > 0 and parts[question - 1].role in (Role.USER, Role.DOCUMENT):
        question -= 1
    return question, answer, end


def answer_text(sample: Sample, coordinates: Coordinates, sizes: Sizes) -> str:
    """The last answer as the model would write it."""
    return written(last_answer(sample), coordinates, sizes)


def written(parts: Sequence[Part], coordinates: Coordinates, sizes: Sizes) -> str:
    """Text and regions of some parts as one line; pictures are left out."""
    pieces = []
    for part in parts:
        if isinstance(part.content, Region):
            pieces.append(coordinates.encode(part.content.shape, sizes[part.content.image]))
        elif isinstance(part.content, str):
            pieces.append(part.content)
    return re.sub(r"\s+", " ", "".join(pieces)).strip()


def asked_regions(sample: Sample) -> list[Region]:
    """The places that the last question points at."""
    return [part.content for part in last_question(sample) if isinstance(part.content, Region)]


def with_blank_pictures(sample: Sample, blank: Callable[[Image], Image]) -> Sample:
    """The sample with each picture replaced by `blank` of it."""
    parts = tuple(
        Part(blank(part.content), part.role, part.target) if isinstance(part.content, Image) else part
        for part in sample.parts
    )
    return Sample(sample.id, sample.source, parts, sample.meta)
