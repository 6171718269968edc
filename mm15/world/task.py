"""What a task of the world is, and the draft that its function returns.

A task's function takes dice, a level (1 easy, 2 middle, 3 hard) and the longer side of its pictures in pixels, and
returns a `Draft`: parts, the answer in words, the boxes it is about, and what was drawn. `mm15.world.make` turns that
into a `Sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..regions import Box, Region
from ..sample import Content, Image, Part, assistant, user
from .dice import Dice

LEVELS = (1, 2, 3)


@dataclass(frozen=True)
class Draft:
    """One example before it has a name.

    `answer` is the last answer without its regions; `boxes` are the true boxes that the answer gives or the question
    points at, in pixels of their picture (the first, or as extra["box_images"] says); `objects` is what was drawn, one
    mapping each with `box`, `image` and what it is.
    """

    parts: tuple[Part, ...]
    answer: str
    boxes: Sequence[Box] = ()
    objects: Sequence[dict[str, Any]] = ()
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A kind of example.

    group: evaluation group (general, text-rich, knowledge, refer-ground, multi-image, in-context), or "" for none.
    category: mixture category.
    metric: "exact", "choice" (a letter A-D, compared exactly), "iou" (recall of `boxes` at 0.5, in order), or "" for
    documents, which are not scored.
    chance: the score at level 1 of the best answer that looks only at the last question (for "iou": of the best single
    box); None for documents and texts, where there is nothing to look at.
    """

    name: str
    group: str
    category: str
    metric: str
    description: str
    function: Callable[[Dice, int, int], Draft]
    chance: float | None = None


def ask(
    pictures: Image | Sequence[Image],
    question: str | Sequence[Content],
    answer: str | Sequence[Content],
    **known: Any,
) -> Draft:
    """One question about pictures and its answer; `known` are further fields of the draft."""
    shown = [pictures] if isinstance(pictures, Image) else list(pictures)
    asked = [question] if isinstance(question, str) else list(question)
    said = [answer] if isinstance(answer, str) else list(answer)
    words = "".join(c for c in said if isinstance(c, str))
    return Draft(user(*shown, *asked) + assistant(*said), " ".join(words.split()), **known)


def place(box: Box, image: int = 0, label: str = "") -> Region:
    """A region of a box."""
    return Region(box, image, label)
