"""What can be wrong with a sample that could be read: its pictures, its places, its turns and its letters.

    Sample + what is known of its pictures --faults--> findings without a place (the caller knows where it stands)

Nothing is opened here. A sample with many faults of one kind gives one finding that counts them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...regions import Box, Region
from ...sample import Image, Part, Role, Sample, Video
from .findings import Finding, Kind
from .pictures import Probe

MOST_TURNS = 64
"""A conversation of more turns is pointed out."""
_DAMAGED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")
"""Control characters (not tab, line and page breaks), the replacement character, halves of surrogate pairs."""
_MARKUP = re.compile(
    r'<box>|<\|box_start\|>|<\|det\|>|<loc\d{4}>|<points? x|"(?:bbox_2d|point_2d)"|<patch_index_\d{4}>|<bbox_location'
)
"""How conventions of `mm15.regions` mark places. Bare numbers in brackets are too common to tell."""


@dataclass(frozen=True)
class TextRules:
    """What to look for in the texts of a source: spelled tokens, and places whose convention nobody declared (not
    `declared`)."""

    tokens: tuple[str, ...]
    declared: bool = True

    @property
    def special(self) -> re.Pattern[str]:
        """Any of the tokens."""
        return re.compile("|".join(re.escape(token) for token in sorted(self.tokens, key=len, reverse=True)))


def faults(sample: Sample, probes: Sequence[Probe], rules: TextRules, special: re.Pattern[str]) -> list[Finding]:
    """What is wrong with a sample; `probes` are those of its pictures in order, `special` is `rules.special`."""
    told = [*_pictures(sample, probes), *_regions(sample, probes), *_turns(sample)]
    return [*told, *_letters(sample, rules, special)]


def _finding(sample: Sample, kind: Kind, message: str, picture: int | None = None, **more: object) -> Finding:
    return Finding(kind, sample.source, -1, message, sample.id, picture=picture, more=more)


def _pictures(sample: Sample, probes: Sequence[Probe]) -> Iterator[Finding]:
    for number, probe in enumerate(probes):
        if probe.fault is not None:
            yield _finding(sample, probe.fault, probe.why, number)


def _regions(sample: Sample, probes: Sequence[Probe]) -> Iterator[Finding]:
    """One finding for each kind and picture."""
    wrong: dict[tuple[Kind, int], list[Region]] = {}
    for part in sample.parts:
        if isinstance(part.content, Region):
            kind = _region_fault(part.content, probes)
            if kind is not None:
                wrong.setdefault((kind, part.content.image), []).append(part.content)
    for (kind, picture), regions in wrong.items():
        size = probes[picture].size if kind is not Kind.REGION_NOWHERE else None
        what = {
            Kind.REGION_OUTSIDE: f"lies outside picture {picture}"
            + (f" of {size[0]}x{size[1]} pixels" if size else ""),
            Kind.REGION_EMPTY: f"of picture {picture} has no area",
            Kind.REGION_NOWHERE: f"is in picture {picture}, and the sample has {len(probes)}",
        }[kind]
        rest = f", and {len(regions) - 1} more" if len(regions) > 1 else ""
        places = [[round(value, 2) for value in region.shape] for region in regions]
        shown = picture if 0 <= picture < len(probes) else None
        yield _finding(sample, kind, f"{_shape(regions[0])} {what}{rest}", shown, places=places, size=size)


def _region_fault(region: Region, probes: Sequence[Probe]) -> Kind | None:
    if not 0 <= region.image < len(probes):
        return Kind.REGION_NOWHERE
    size = probes[region.image].size
    if size is None:
        return None
    if not all(0 <= value <= side for value, side in zip(region.shape, size * 2, strict=False)):
        return Kind.REGION_OUTSIDE
    return Kind.REGION_EMPTY if isinstance(region.shape, Box) and not region.shape.area else None


def _shape(region: Region) -> str:
    numbers = ", ".join(f"{value:g}" for value in region.shape)
    named = f" ({region.label[:40]!r})" if region.label else ""
    return f"{'box' if isinstance(region.shape, Box) else 'point'} [{numbers}]{named}"


def _turns(sample: Sample) -> Iterator[Finding]:
    turns = [(role, list(parts)) for role, parts in groupby(sample.parts, key=lambda part: part.role)]
    silent = False
    for number, (role, parts) in enumerate(turns):
        if _says_something(parts):
            continue
        if role is Role.ASSISTANT:
            silent = True
            yield _finding(sample, Kind.EMPTY_ANSWER, f"turn {number}: the assistant says nothing")
        elif role is Role.DOCUMENT or not any(isinstance(part.content, Image | Video) for part in parts):
            silent = True
            yield _finding(sample, Kind.EMPTY_TEXT, f"turn {number}: the {role.value} has no text")
    if turns and turns[-1][0] is Role.USER:
        yield _finding(sample, Kind.EMPTY_ANSWER, f"turn {len(turns) - 1}, the last one, is a question without answer")
    elif not silent and not any(part.target for part in sample.parts):
        yield _finding(sample, Kind.NO_TARGET, "no part of it is a target")
    if len(turns) > MOST_TURNS:
        yield _finding(sample, Kind.LONG, f"{len(turns)} turns")


def _says_something(parts: Sequence[Part]) -> bool:
    return any(
        isinstance(part.content, Region)
        or (isinstance(part.content, str) and not part.content.isspace() and part.content)
        for part in parts
    )


def _letters(sample: Sample, rules: TextRules, special: re.Pattern[str]) -> Iterator[Finding]:
    texts = [part.content for part in sample.parts if isinstance(part.content, str)]
    damaged = [match for text in texts for match in _DAMAGED.finditer(text)]
    if damaged:
        counts = Counter(match.group() for match in damaged)
        named = ", ".join(f"{count} x {_character(char)}" for char, count in counts.most_common(3))
        yield _finding(sample, Kind.DAMAGED_TEXT, f"{named}, first in {_around(damaged[0])}")
    spelled = [match for text in texts for match in special.finditer(text)]
    if spelled:
        yield _finding(sample, Kind.SPECIAL_TOKEN, f"{spelled[0].group()!r} in {_around(spelled[0])}")
    if not rules.declared:
        marked = next((match for text in texts if (match := _MARKUP.search(text))), None)
        if marked:
            yield _finding(sample, Kind.UNDECLARED, f"{marked.group()!r} in {_around(marked)}")


def _character(char: str) -> str:
    name = unicodedata.name(char, "half a surrogate pair" if "\ud800" <= char <= "\udfff" else "control character")
    return f"U+{ord(char):04X} {name.lower()}"


def _around(match: re.Match[str]) -> str:
    """The words around a match, safe to print."""
    text = match.string[max(match.start() - 24, 0) : match.end() + 24]
    return ascii(text) if _DAMAGED.search(text) else repr(text)
