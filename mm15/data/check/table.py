"""What was seen of all samples, put together: arrays by source, one array of pictures; and what repeats or leaks.

    Table      rows of each source, pictures of all           repeats   duplicate pictures and samples
    leaks      training samples that show or ask what an evaluation set does

Costs some 100 bytes a sample and a picture. Samples are read again only where something was found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...sample import Image, Sample
from ..sources import SourceData
from .alike import copies, mixed, most_alike, near, unite
from .findings import Finding, Kind
from .looking import PICTURE, QUESTION, Seen, questions_of

_SOURCED = np.dtype([("source", np.int32), *PICTURE.descr])


@dataclass(frozen=True, order=True)
class Spot:
    """A picture, or with number -1 a sample, by its place."""

    source: str
    index: int
    number: int = -1


class Table:
    """Everything that was seen. `training` names the sources that are trained on; the others are evaluation sets."""

    def __init__(self, sources: Mapping[str, SourceData], training: Collection[str]) -> None:
        self.sources = sources
        self.names = list(sources)
        self.training = set(training)
        self.findings: list[Finding] = []
        self.seen: dict[str, Seen] = {}
        self._parts: dict[str, list[Seen]] = defaultdict(list)
        self._last: tuple[str, int, Sample] | None = None

    def add(self, seen: Seen) -> None:
        """Takes what was seen of the next samples of a source."""
        self.findings += seen.findings
        self._parts[seen.source].append(replace(seen, findings=[]))

    def close(self) -> None:
        """Puts the parts together, when all have been added."""
        arrays = [field.name for field in fields(Seen) if field.name not in ("source", "findings")]
        for name, parts in self._parts.items():
            joined: dict[str, Any] = {key: np.concatenate([getattr(part, key) for part in parts]) for key in arrays}
            self.seen[name] = Seen(name, **joined)
        self._parts.clear()

    @cached_property
    def pictures(self) -> np.ndarray:
        """All pictures of all samples, of dtype PICTURE with `source` (its number in `names`)."""
        found = [np.zeros(0, dtype=_SOURCED)]
        for number, name in enumerate(self.names):
            if name in self.seen:
                of = self.seen[name].pictures
                rows = np.zeros(len(of), dtype=_SOURCED)
                rows["source"] = number
                for key in PICTURE.names or ():
                    rows[key] = of[key]
                found.append(rows)
        return np.concatenate(found)

    @cached_property
    def distinct(self) -> np.ndarray:
        """Where in `pictures` each stored picture stands first; a file that several samples show is one picture."""
        stored = np.flatnonzero(self.pictures["key"])
        _, first = np.unique(self.pictures["name"][stored], return_index=True)
        return np.sort(stored[first])

    @cached_property
    def contents(self) -> np.ndarray:
        """A number for each of `pictures`, the same for pictures of equal content: uint64."""
        names, distinct = self.pictures["name"], self.pictures[self.distinct]
        of_distinct = unite(distinct["name"], distinct["key"], distinct["whole"], self._distinct_image)
        order = np.argsort(distinct["name"])
        found = names.copy()
        stored = np.flatnonzero(self.pictures["key"])
        places = np.searchsorted(distinct["name"][order], names[stored])
        found[stored] = of_distinct[order][places]
        return found

    def is_training(self, places: np.ndarray) -> np.ndarray:
        """Which of some places in `pictures` are of training sources: bool."""
        trained = np.array([name in self.training for name in self.names], dtype=bool)
        return trained[self.pictures["source"][places]]

    def spot(self, place: int) -> Spot:
        """Where a picture of `pictures` stands."""
        picture = self.pictures[place]
        name = self.names[picture["source"]]
        return Spot(name, int(self.seen[name].indices[picture["row"]]), int(picture["number"]))

    def sample(self, spot: Spot) -> Sample:
        """The sample of a place, read again."""
        if self._last is None or self._last[:2] != (spot.source, spot.index):
            self._last = (spot.source, spot.index, self.sources[spot.source][spot.index])
        return self._last[2]

    def image(self, spot: Spot) -> Image:
        """The picture of a place."""
        return self.sample(spot).images[spot.number]

    def finding(self, kind: Kind, spot: Spot, message: str, **more: Any) -> Finding:
        """A finding about a place."""
        number = spot.number if spot.number >= 0 else None
        return Finding(kind, spot.source, spot.index, message, self.sample(spot).id, picture=number, more=more)

    def _distinct_image(self, place: int) -> Image:
        return self.image(self.spot(int(self.distinct[place])))


def repeats(table: Table) -> Iterator[Finding]:
    """Training pictures whose content another file has, and training samples that are there already."""
    places = table.distinct[table.is_training(table.distinct)]
    for copy, first in copies(table.contents[places]):
        spot, original = table.spot(int(places[copy])), table.spot(int(places[first]))
        yield table.finding(
            Kind.DUPLICATE_PICTURE, spot, f"the same content as {_told(table, original)}", same_as=_plain(original)
        )
    names = [name for name in table.names if name in table.training and name in table.seen]
    numbers = np.concatenate([np.zeros(0, dtype=np.uint64), *(_sample_numbers(table, name) for name in names)])
    spots = [Spot(name, index) for name in names for index in table.seen[name].indices.tolist()]
    for copy, first in copies(numbers):
        spot, original = spots[copy], spots[first]
        yield table.finding(
            Kind.DUPLICATE_SAMPLE,
            spot,
            f"the same texts and pictures as {_told(table, original)}",
            same_as=_plain(original),
        )


def _sample_numbers(table: Table, name: str) -> np.ndarray:
    of = table.pictures["source"] == table.names.index(name)
    pictures = table.pictures[of]
    return mixed(table.seen[name].texts, pictures["row"], pictures["number"], table.contents[of])


def _told(table: Table, spot: Spot) -> str:
    where = table.sources[spot.source].where(spot.index)
    return where if spot.number < 0 else f"picture {spot.number} of {where}"


def _plain(spot: Spot) -> dict[str, Any]:
    return {"source": spot.source, "index": spot.index, "picture": max(spot.number, 0)}


# ---------------------------------------------------------------------------------------------------------------- leaks


def leaks(table: Table) -> Iterator[Finding]:
    """What training shares with evaluation sets: a picture (and then perhaps a question of it too), a picture that
    looks the same, or a question without a picture. One finding for each picture of each training sample."""
    everywhere = np.flatnonzero(table.pictures["key"])
    trained = table.is_training(everywhere)
    training, asked = everywhere[trained], everywhere[~trained]
    if len(asked):
        same = np.isin(table.contents[training], table.contents[asked])
        yield from _same_pictures(table, training[same], asked)
        yield from _look_alikes(table, training[~same], asked)
    yield from _same_questions(table)


def _same_pictures(table: Table, training: np.ndarray, asked: np.ndarray) -> Iterator[Finding]:
    wanted = set(table.contents[training].tolist())
    shown: dict[int, list[Spot]] = defaultdict(list)
    for at in asked.tolist():
        if int(table.contents[at]) in wanted:
            shown[int(table.contents[at])].append(table.spot(at))
    questions = {
        content: {number: spot for spot in reversed(spots) for number in questions_of(table.sample(spot))}
        for content, spots in shown.items()
    }
    for at in training.tolist():
        spot, content = table.spot(at), int(table.contents[at])
        common = next((n for n in questions_of(table.sample(spot)) if n in questions[content]), None)
        kind = Kind.LEAK_PICTURE if common is None else Kind.LEAK_SAMPLE
        other = shown[content][0] if common is None else questions[content][common]
        what = "the same picture as" if common is None else "the same picture and question as"
        yield table.finding(kind, spot, f"{what} {_told(table, other)}", same_as=_plain(other))


def _look_alikes(table: Table, training: np.ndarray, asked: np.ndarray) -> Iterator[Finding]:
    """Every file is compared once, and found wherever it is shown."""
    pictures = table.pictures
    training, asked = (places[~pictures["plain"][places]] for places in (training, asked))
    names, first, inverse = np.unique(pictures["name"][training], return_index=True, return_inverse=True)
    _, other_first = np.unique(pictures["name"][asked], return_index=True)
    ones, others = training[first], asked[other_first]
    members = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(names)))
    for number, nearest in near(pictures["look"][ones], pictures["look"][others]):
        spots = [table.spot(int(others[i])) for i in nearest]
        image = table.image(table.spot(int(ones[number])))
        found = most_alike(image, (table.image(spot) for spot in spots))
        if found is None:
            continue
        other, alike = spots[found[0]], found[1]
        for at in np.sort(training[members[ends[number - 1] if number else 0 : ends[number]]]).tolist():
            message = f"looks like {_told(table, other)} (correlation {alike:.3f})"
            more = {"same_as": _plain(other), "correlation": round(alike, 4)}
            yield table.finding(Kind.LEAK_NEAR, table.spot(at), message, **more)


def _same_questions(table: Table) -> Iterator[Finding]:
    """Questions of samples without pictures."""
    asked: dict[int, Spot] = {}
    for name in table.names:
        if name not in table.training and name in table.seen:
            for row, number in table.seen[name].questions.tolist():
                asked.setdefault(number, Spot(name, int(table.seen[name].indices[row])))
    known = np.fromiter(asked, dtype=np.uint64, count=len(asked))
    for name in table.names:
        questions = (
            table.seen[name].questions if name in table.training and name in table.seen else np.zeros(0, QUESTION)
        )
        for row, number in questions[np.isin(questions["number"], known)].tolist():
            spot = Spot(name, int(table.seen[name].indices[row]))
            message = f"the same question as {_told(table, asked[number])}"
            yield table.finding(Kind.LEAK_SAMPLE, spot, message, same_as=_plain(asked[number]))
