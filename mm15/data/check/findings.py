"""What can be wrong with data: the kinds of findings, and one finding.

A kind is a *fault* (the sample is lost, or teaches something wrong; the command ends with status 2) or a *note* (worth
a look; the status stays 0). Its value is its name in the JSON report.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """The kinds of findings, in the order in which they are told."""

    SOURCE = "source"
    ROW = "row"
    MISSING = "missing-picture"
    EMPTY_PICTURE = "empty-picture"
    UNREADABLE = "unreadable-picture"
    TRUNCATED = "truncated-picture"
    REGION_OUTSIDE = "region-outside"
    REGION_EMPTY = "region-empty"
    REGION_NOWHERE = "region-nowhere"
    EMPTY_ANSWER = "empty-answer"
    EMPTY_TEXT = "empty-text"
    NO_TARGET = "nothing-to-learn"
    TOO_LONG = "too-many-tokens"
    TOO_MANY_TILES = "too-many-tiles"
    LEAK_SAMPLE = "leaked-question"
    LEAK_PICTURE = "leaked-picture"
    LEAK_NEAR = "leaked-look-alike"
    DUPLICATE_SAMPLE = "duplicate-sample"
    DAMAGED_TEXT = "damaged-text"
    SPECIAL_TOKEN = "special-token"
    DUPLICATE_PICTURE = "duplicate-picture"
    UNDECLARED = "undeclared-regions"
    LONG = "long-conversation"

    @property
    def heading(self) -> str:
        """What it is, in the plural: "12 HEADING"."""
        return _TEXTS[self][0]

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _TEXTS[self][1]

    @property
    def fault(self) -> bool:
        """Whether it ends the command with status 2."""
        return self not in (Kind.DUPLICATE_PICTURE, Kind.UNDECLARED, Kind.LONG)


_TEXTS = {
    Kind.SOURCE: ("sources that cannot be opened", "mend the path or the format of the source block"),
    Kind.ROW: ("rows that cannot be used", "mend the rows or remove them; training skips them"),
    Kind.MISSING: ("pictures that are not there", "mend the path, or `images` of the source block"),
    Kind.EMPTY_PICTURE: ("pictures of 0 bytes", "fetch them again or remove their rows"),
    Kind.UNREADABLE: ("pictures that cannot be opened", "save them again, scale them down, or remove their rows"),
    Kind.TRUNCATED: ("pictures cut short", "fetch them again; training would fail on them or see grey"),
    Kind.REGION_OUTSIDE: ("places outside their picture", "check `regions` of the source block, then the numbers"),
    Kind.REGION_EMPTY: ("boxes without area", "give both sides at least a pixel, or write a point"),
    Kind.REGION_NOWHERE: ("places in pictures the sample does not have", "count the pictures of the sample from 0"),
    Kind.EMPTY_ANSWER: ("answers without a word", "write the answer or remove the turn"),
    Kind.EMPTY_TEXT: ("questions or documents without a word", "write the text or remove the turn"),
    Kind.NO_TARGET: ("samples with nothing to learn", "mark what the model shall write, or remove them"),
    Kind.TOO_LONG: ("samples of more tokens than a row holds", "raise batch.tokens of the stage or cut them"),
    Kind.TOO_MANY_TILES: ("samples of more tiles than a row holds", "raise batch.tiles or lower picture.max_tiles"),
    Kind.LEAK_SAMPLE: ("questions of an evaluation set", "remove them: scores on that set would mean nothing"),
    Kind.LEAK_PICTURE: ("pictures of an evaluation set", "remove them, or leave that set out of the evaluation"),
    Kind.LEAK_NEAR: ("pictures that look like one of an evaluation set", "compare them on the page and remove them"),
    Kind.DUPLICATE_SAMPLE: ("samples that repeat another", "remove them; for more weight, raise the source's"),
    Kind.DAMAGED_TEXT: ("texts with damaged characters", "read the original again in its own encoding"),
    Kind.SPECIAL_TOKEN: ("texts that spell a special token", "remove it: it would be trained on as plain letters"),
    Kind.DUPLICATE_PICTURE: ("pictures stored again", "no harm; one file and several questions save space"),
    Kind.UNDECLARED: ("texts with places, and no `regions` declared", "declare their convention in the source block"),
    Kind.LONG: ("very long conversations", "look whether they are what they should be"),
}


LOSING = frozenset(
    {
        Kind.ROW,
        Kind.MISSING,
        Kind.EMPTY_PICTURE,
        Kind.UNREADABLE,
        Kind.TRUNCATED,
        Kind.REGION_OUTSIDE,
        Kind.REGION_NOWHERE,
    }
)
"""Training skips a sample with one of these."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, where, and the sentence that says it.

    `source`, `index` and `id` name the sample (index -1: the source as a whole), `where` its file and line or member,
    `picture` its number in the sample; `more` is plain JSON data that depends on the kind (regions, the other sample).
    """

    kind: Kind
    source: str
    index: int
    message: str
    id: str = ""
    where: str = ""
    picture: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON data, with `fault`."""
        return {**asdict(self), "kind": self.kind.value, "fault": self.kind.fault}
