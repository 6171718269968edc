"""Who captions: something that takes pictures with prompts and gives answers, a batch at a time.

`ModelCaptioner` is a model of ours, greedy and batched. For any other model see `endpoint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image as PILImage

from ...errors import UserError
from ...sample import Image, Sample, assistant, document, user

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...processor import MM15Processor

_ENDS = 1 << 20


@dataclass(frozen=True)
class Question:
    """A picture and what is asked about it; `key` is what the answer is kept under, `where` names the picture, `draw`
    counts the answers to the same prompt."""

    key: str
    picture: PILImage.Image
    prompt: str
    where: str
    draw: int = 0


@dataclass(frozen=True)
class Answer:
    """What was said (`text`; `cut`: it was longer than allowed), or why nothing was (`refused`).

    `final` is False for what may go well another time: such answers are not kept.
    """

    key: str
    text: str = ""
    cut: bool = False
    refused: str = ""
    final: bool = True


class Captioner(Protocol):
    """Answers questions in any order; memory for `ahead` of them at a time."""

    ahead: int

    def identity(self) -> dict[str, Any]:
        """Everything about the captioner that its answers depend on, as JSON data."""
        ...

    def answer(self, questions: Iterator[Question]) -> Iterator[Answer]:
        """An answer to each question, as they come. UserError when it makes no sense to go on."""
        ...


class ModelCaptioner:
    """A model of ours, opened by name (`generate.load`): greedy, `batch` pictures at a time.

    An empty prompt shows the picture alone, as stage one taught; any other is asked as a user does.
    """

    def __init__(self, name: str | Path, *, max_new_tokens: int = 256, batch: int = 8) -> None:
        from ...generate import load

        self.model: PreTrainedModel
        self.processor: MM15Processor
        self.model, self.processor = load(name)
        self.max_new_tokens, self.ahead = max_new_tokens, batch
        self.digest = weights_digest(name)

    def identity(self) -> dict[str, Any]:
        """The weights' digest, and how far an answer may go."""
        return {"model": self.digest, "max_new_tokens": self.max_new_tokens, "decoding": "greedy"}

    def answer(self, questions: Iterator[Question]) -> Iterator[Answer]:
        """Batch by batch, in order."""
        batch: list[Question] = []
        for question in questions:
            batch.append(question)
            if len(batch) == self.ahead:
                yield from self._answer(batch)
                batch = []
        if batch:
            yield from self._answer(batch)

    def _answer(self, batch: Sequence[Question]) -> Iterator[Answer]:
        from ...generate import continue_prompts

        prompts, asked = [], []
        for question in batch:
            shown, target = Image(question.picture), "."
            parts = user(shown, question.prompt) + assistant(target) if question.prompt else document(shown, target)
            try:
                prompts.append(self.processor.prompt(Sample(question.where, "recaption", parts)))
            except UserError as error:
                yield Answer(question.key, refused=str(error))
            else:
                asked.append(question)
        said = continue_prompts(self.model, self.processor, prompts, max_new_tokens=self.max_new_tokens)
        for question, text in zip(asked, said, strict=True):
            tokens = len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            yield Answer(question.key, text, cut=tokens >= self.max_new_tokens)


def weights_digest(name: str | Path) -> str:
    """16 hex digits of a model folder: its config, and size, first and last MB of each weights file.

    A hub id is returned as it is.
    """
    from ...pretrained import find_model

    place = find_model(name)
    if isinstance(place, str):
        return place
    digest = hashlib.sha256((place / "config.json").read_bytes())
    for path in sorted(place.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            digest.update(file.read())
    return digest.hexdigest()[:16]
