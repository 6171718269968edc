"""Which source each draw comes from: an exact schedule that can be entered anywhere.

Source i has a share p_i, an exact fraction; the shares sum to one. **Bound:** after the first n draws the count of
source i is floor(n p_i) or ceil(n p_i), so it is *less than one draw* from n p_i: for every n, all shares, any number
of sources.

**Windows.** The j-th draw of source i (j = 1, 2, ...) is released at floor((j-1) / p_i) and due before ceil(j / p_i).
Counts are floor or ceil at every n exactly when every draw stands in its window. (These are the windows of Pfair
scheduling, Baruah et al. 1996, for the chairman assignment problem.) The stream is cut into spans of `span` >= 1 /
min p_i positions. The counts at the ends of a span are computed directly ("pins"); inside, the released draw that is
due first is taken (earliest deadline first; ties: the source that stands first).

**Pins.** At n = b * span let x_i = n p_i - floor(n p_i), and R = sum x_i. Every source has made floor(n p_i) draws; R
of those with x_i > 0 have made one more, the set X. X is chosen greedily, earliest deadline first, keeping for each
release time s

    |X with release >= s|  <=  ceil( sum of x_i with release >= s  +  (n - s) * sum of p_i with release < s )       (1)

**Why it works.** Let the draws between two pins keep to their windows, cut at the pins. By Hall's theorem they fit,
one a position, unless some interval [s, t) holds more of these windows than positions. Strictly inside a span it
holds at most sum (floor(t p_i) - ceil(s p_i))+ <= t - s. If t is the right pin n, room for X is left by the draws due
by n: over the sources with floor(n p_i) >= s p_i it is sum (x_i + ceil(s p_i) - s p_i), over the others (n - s) sum
p_i, an integer no less than (1). If s is the left pin n, it suffices that |X with deadline <= t| >= floor(sum of
their x_i). The numbers x_i themselves keep both families of conditions and sum to R; each family is a chain of sets,
two chains make a totally unimodular system, so a set X that keeps both exists; and the greedy set of the matroid (1)
has as many members in every prefix of deadlines as any. The whole span holds exactly `span` draws, and no source a
negative number, as span * p_i >= 1. Earliest deadline first finds a schedule of unit draws whenever there is one.

Cost: about a microsecond a draw in sequence; a jump to anywhere makes one span (1024 draws, or 1 / min p_i if that is
more).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from math import ceil, lcm
from typing import NamedTuple

import numpy as np

SMALLEST_SHARE = Fraction(1, 10**6)
"""Shares below this are refused: a span would have to be longer than a million draws."""
_SHORTEST_SPAN = 1024
_KEPT_SPANS = 3


class Turn(NamedTuple):
    """A draw: the number of its source, and how many draws of this source came before it."""

    source: int
    occurrence: int


class _Open(NamedTuple):
    """At a pin: a source's next draw, released before the pin and due after it."""

    deadline: int
    source: int
    release: int


class Schedule:
    """The endless sequence of turns for positive shares that sum to one; a pure function of the shares."""

    def __init__(self, shares: Sequence[Fraction]) -> None:
        if sum(shares) != 1 or min(shares) < SMALLEST_SHARE:
            raise ValueError(f"shares must sum to one, none below {SMALLEST_SHARE}: {[str(share) for share in shares]}")
        self.common = lcm(*(share.denominator for share in shares))
        self.numerators = [int(share * self.common) for share in shares]
        self.span = max(_SHORTEST_SPAN, ceil(1 / min(shares)))
        self._spans: dict[int, tuple[list[int], np.ndarray, np.ndarray]] = {}

    def __getitem__(self, position: int) -> Turn:
        """The turn at a position 0, 1, ..."""
        if position < 0:
            raise ValueError(f"draws are counted from 0, got {position}")
        number, offset = divmod(position, self.span)
        before, sources, ranks = self._at(number)
        source = int(sources[offset])
        return Turn(source, before[source] + int(ranks[offset]))

    def counts(self, n: int) -> list[int]:
        """How many of the first n draws come from each source."""
        number, offset = divmod(n, self.span)
        if not offset:
            return self.pin(n)
        before, sources, _ = self._at(number)
        inside = np.bincount(sources[:offset], minlength=len(before))
        return [a + int(b) for a, b in zip(before, inside, strict=True)]

    def position(self, source: int, occurrence: int) -> int:
        """Where the draw stands that has so many draws of its source before it."""
        number = self._release(source, occurrence) // self.span
        while self.pin((number + 1) * self.span)[source] <= occurrence:
            number += 1
        before, sources, _ = self._at(number)
        return number * self.span + int(np.flatnonzero(sources == source)[occurrence - before[source]])

    def first_to_end(self, left: Mapping[int, int]) -> int | None:
        """After how many draws the first of the sources with so many draws `left` has had them; None without such."""
        first: int | None = None
        for release, source in sorted((self._release(i, count - 1), i) for i, count in left.items()):
            if first is None or release < first:
                place = self.position(source, left[source] - 1)
                first = place if first is None else min(first, place)
        return None if first is None else first + 1

    def pin(self, n: int) -> list[int]:
        """The counts after n draws where n is a multiple of `span`, from nothing but the shares."""
        common = self.common
        counts = [n * p // common for p in self.numerators]
        spare = n - sum(counts)
        waiting = sorted(
            _Open(self._deadline(i, counts[i]), i, self._release(i, counts[i]))
            for i, p in enumerate(self.numerators)
            if n * p % common
        )
        room = self._room(n, waiting)
        for draw in waiting:
            within = [s for s in room if s <= draw.release]
            if spare and all(room[s] for s in within):
                spare -= 1
                counts[draw.source] += 1
                for s in within:
                    room[s] -= 1
        return counts

    def _room(self, n: int, waiting: list[_Open]) -> dict[int, int]:
        """The right side of (1) for each release time."""
        fraction = 0
        earlier = sum(self.numerators[draw.source] for draw in waiting)
        room = {}
        for s, group in groupby(sorted(waiting, key=lambda draw: -draw.release), key=lambda draw: draw.release):
            for draw in group:
                fraction += n * self.numerators[draw.source] % self.common
                earlier -= self.numerators[draw.source]
            room[s] = -(-(fraction + (n - s) * earlier) // self.common)
        return room

    def _release(self, source: int, occurrence: int) -> int:
        return occurrence * self.common // self.numerators[source]

    def _deadline(self, source: int, occurrence: int) -> int:
        return -(-(occurrence + 1) * self.common // self.numerators[source])

    def _at(self, number: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """A span: counts before it; for each position the source, and its draws since the span's start."""
        found = self._spans.get(number)
        if found is None:
            while len(self._spans) >= _KEPT_SPANS:
                del self._spans[next(iter(self._spans))]
            found = self._spans[number] = self._make(number * self.span)
        return found

    def _make(self, start: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Earliest deadline first from one pin to the next."""
        end = start + self.span
        before, last = self.pin(start), self.pin(end)
        sources = np.empty(self.span, dtype=np.uint16 if len(before) < 2**16 else np.uint32)
        ranks = np.empty(self.span, dtype=np.uint32)
        common, numerators, counts = self.common, self.numerators, before.copy()
        ready: list[tuple[int, int]] = []
        released: dict[int, list[int]] = {}
        for source, count in enumerate(before):
            if count == last[source]:
                continue
            released.setdefault(max(start, self._release(source, count)), []).append(source)
        for position in range(start, end):
            for source in released.pop(position, ()):
                heapq.heappush(ready, (min(end, self._deadline(source, counts[source])), source))
            _, source = heapq.heappop(ready)
            count = counts[source]
            sources[position - start], ranks[position - start] = source, count - before[source]
            counts[source] = count = count + 1
            if count < last[source]:
                release = count * common // numerators[source]
                released.setdefault(max(position + 1, release), []).append(source)
        return before, sources, ranks
