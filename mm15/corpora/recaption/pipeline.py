"""A source's pictures to captions of a model: ask, keep, filter, drop duplicates, write a source.

    source[i] --pictures--> questions --captioner--> OUT/answers.jsonl --filters, duplicates--> OUT/train/shard-...

Nothing is asked twice: what is in answers.jsonl is taken from there, so the command continues where it was stopped, and
other filters cost no new answers (another OUT with `answers` of this one). With all answers there, the output is a pure
function of source and settings. Everything left out is in OUT/train/skipped.jsonl with its reason.

A question that went unanswered for reasons that may pass is an error in the end: the same command asks again,
`give_up` goes on without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from ...data.sources import SourceData
from ...errors import UserError
from ...files import alone_in
from ...image import open_picture
from ...progress import Bar
from ...sample import Image, Sample, assistant, document, user
from ..build import Made, Skip
from .alike import Alike
from .answers import Answers, key_of, picture_digest
from .captioners import Answer, Captioner, Question
from .filters import Filters, agreement


class Form(StrEnum):
    """How captions are written: as raw text after the picture (stage one), or as the answer to the prompt."""

    CAPTION = "caption"
    CHAT = "chat"


@dataclass(frozen=True)
class Asked:
    """A picture of the source that can be read: sample and picture by number, the sample's id, the keys of its answers
    (one a prompt and draw), and the caption there was."""

    sample: int
    picture: int
    id: str
    keys: tuple[str, ...]
    old: str


def recaption(
    source: SourceData,
    captioner: Captioner,
    out: Path,
    *,
    prompts: Sequence[str],
    draws: int = 1,
    filters: Filters | None = None,
    form: Form = Form.CAPTION,
    answers: Path | None = None,
    limit: int | None = None,
    give_up: bool = False,
) -> CaptionBuilder:
    """Caption all pictures of a source (of its first `limit` samples): the builder that writes what is kept, for
    `corpora.build.build(builder, out / "train")`. See the module docstring.

    Each prompt is asked `draws` times. The first answer to the first prompt is the caption; the others are only
    compared with it (`Filters.agree`). UserError when the captioner cannot be used, or questions went unanswered.
    """
    if not prompts or len(set(prompts)) < len(prompts):
        raise UserError("give at least one prompt, and none twice")
    filters = filters or Filters()
    number = len(source) if limit is None else min(limit, len(source))
    asks = [(prompt, draw) for prompt in prompts for draw in range(draws)]
    with alone_in(out, ".asking", busy="another recaption is at work here"):
        known = Answers(answers or out / "answers.jsonl")
        try:
            asked, skips = ask_all(source, captioner, known, asks, number)
        finally:
            known.close()
    left = [one for one in asked if any(key not in known.known for key in one.keys)]
    if left and not give_up:
        raise UserError(
            f"{len(left)} of {len(asked)} pictures went unanswered, the first is of sample {left[0].id!r}; the same "
            "command asks them again, --give-up goes on without them"
        )
    settings = {
        "captioner": captioner.identity(),
        "prompts": list(prompts),
        "draws": draws,
        "form": form.value,
        "filters": asdict(filters) | {"words": list(filters.words), "scripts": list(filters.scripts)},
        "source": source.fingerprint,
        "samples": number,
    }
    return CaptionBuilder(source, settings, choose(asked, known, filters, skips), form, prompts[0])


# -------------------------------------------------------------------------------------------------------------- asking


def ask_all(
    source: SourceData, captioner: Captioner, known: Answers, asks: Sequence[tuple[str, int]], number: int
) -> tuple[list[Asked], list[Skip]]:
    """(the readable pictures, what cannot be asked about), after asking each (prompt, draw) of `asks` about each
    picture that has no answer to it yet."""
    identity = captioner.identity()
    asked: list[Asked] = []
    skips: list[Skip] = []
    under_way: set[str] = set()

    def questions() -> Iterator[Question]:
        for index in range(number):
            bar.update(index)
            for one, picture in _pictures(source, index, identity, asks, skips):
                asked.append(one)
                for key, (prompt, draw) in zip(one.keys, asks, strict=True):
                    if key not in known.known and key not in under_way:
                        under_way.add(key)
                        yield Question(key, picture, prompt, f"sample {one.id!r}, picture {one.picture}", draw)

    with Bar("captions", total=number, unit="samples") as bar:
        for answer in captioner.answer(questions()):
            if answer.final:
                known.add(answer)
        bar.update(number)
    return asked, skips


def _pictures(
    source: SourceData, index: int, identity: dict[str, Any], asks: Sequence[tuple[str, int]], skips: list[Skip]
) -> Iterator[tuple[Asked, PILImage.Image]]:
    """The pictures of a sample that can be read; what cannot is added to `skips`."""
    try:
        sample = source[index]
    except UserError as error:
        skips.append(Skip(f"sample {index}", str(error)))
        return
    if not sample.images:
        skips.append(Skip(f"sample {sample.id!r}", "has no picture"))
    old = " ".join(part.content for part in sample.parts if part.target and isinstance(part.content, str)).strip()
    for number, image in enumerate(sample.images):
        what = f"sample {sample.id!r}, picture {number}"
        try:
            picture = open_picture(image, where=what)
        except UserError as error:
            skips.append(Skip(what, str(error)))
            continue
        digest = picture_digest(picture)
        keys = tuple(key_of(identity, prompt, draw, digest) for prompt, draw in asks)
        yield Asked(index, number, sample.id, keys, old), picture


# ------------------------------------------------------------------------------------------------------------ choosing


def choose(asked: Sequence[Asked], known: Answers, filters: Filters, skips: Sequence[Skip]) -> list[dict[str, Any]]:
    """Items for the builder, in the order of the source: a caption that is kept, or what was left out and why."""
    items: list[dict[str, Any]] = [{"skip": one.what, "reason": one.reason} for one in skips]
    seen = Alike(filters.alike)
    pictures: set[str] = set()
    for one in asked:
        what = f"sample {one.id!r}, picture {one.picture}"
        answers = [known.known.get(key) for key in one.keys]
        reason, share = _judge(answers, filters, one.old)
        if reason is None and one.keys[0] in pictures:
            reason = "is the picture of an earlier sample"
        text = answers[0].text if answers[0] is not None else ""
        if reason is None and seen.first(text) is not None:
            reason = "is like the caption of an earlier picture"
        if reason is not None:
            items.append({"skip": what, "reason": reason, **({"said": text} if text else {})})
            continue
        pictures.add(one.keys[0])
        item = {"sample": one.sample, "picture": one.picture, "id": one.id, "caption": text, "old": one.old}
        items.append(item | ({"agreement": round(share, 4)} if share is not None else {}))
    return items


def _judge(answers: Sequence[Answer | None], filters: Filters, old: str) -> tuple[str | None, float | None]:
    """(why the first answer is no caption, or None; how well the answers agree, where there are several)."""
    given: list[Answer] = []
    for answer in answers:
        if answer is None:
            return "was never answered", None
        if answer.refused:
            return answer.refused, None
        given.append(answer)
    if given[0].cut:
        return "was cut off at the token limit", None
    reason = filters.reason(given[0].text)
    if reason is not None:
        return reason, None
    if old and agreement(given[0].text, old) < filters.agree_old:
        return f"agrees with the old caption by less than {filters.agree_old}", None
    if len(given) < 2:
        return None, None
    pairs = [agreement(a.text, b.text) for a, b in combinations(given, 2)]
    share = sum(pairs) / len(pairs)
    return (f"the answers agree by less than {filters.agree}" if share < filters.agree else None), share


# ------------------------------------------------------------------------------------------------------------- writing


class CaptionBuilder:
    """A `corpora.build.Builder` of chosen captions: one item, one picture with its caption."""

    name = "captions"

    def __init__(
        self, source: SourceData, settings: dict[str, Any], items: list[dict[str, Any]], form: Form, prompt: str
    ) -> None:
        self.source, self.form, self.prompt = source, form, prompt
        self._settings, self._items = settings, items

    def settings(self) -> dict[str, Any]:
        """Who captioned what, how, and by which filters."""
        return self._settings

    def items(self) -> list[dict[str, Any]]:
        """Captions kept, and what was left out."""
        return self._items

    def make(self, item: dict[str, Any]) -> Made:
        """The sample of an item."""
        if "skip" in item:
            said = f': "{item["said"]}"' if "said" in item else ""
            return Made([], [Skip(item["skip"] + said, item["reason"])])
        image: Image = self.source[item["sample"]].images[item["picture"]]
        if self.form is Form.CHAT:
            parts = user(image, *([self.prompt] if self.prompt else [])) + assistant(item["caption"])
        else:
            parts = document(image, item["caption"])
        known = {"task": "caption", "from": item["id"], "old": item["old"]}
        known |= {"agreement": item["agreement"]} if "agreement" in item else {}
        return Made([Sample(f"{item['sample']}-{item['picture']}", self.name, parts, known)])
