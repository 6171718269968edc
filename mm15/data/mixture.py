"""The order of the data, computed and not remembered: draw k of an endless stream is a function of (weights, seed, k).

    k --phase, schedule--> (source, j): the j-th draw of this source --permutation--> Ref(source, index, epoch)

Weights nest as in the paper's section 3.2: group w x category alpha x source weight, each level normalised, as exact
fractions (`shares`). After any number n of draws each source has been drawn floor(n p) or ceil(n p) times, p being its
share (proof and method in `schedule`). Draws count documents: they are mixed before packing. Each pass over a source
(epoch) is a permutation of all of its samples, keyed by (seed, source name, epoch); no list of them is kept, so sources
may be of any length. A source's own order depends on no other source and on no weight.

**Limits.** A source with a limit of c passes over its n samples ends with draw floor(c n) of it. From the next draw on
a new phase runs: a schedule of its own, of the shares without that source. So counts are exact in each phase, and the
whole is less than one draw a phase from what the phases ask for. There are at most as many phases as sources with a
limit, and one more; where each ends is computed when the mixture is made, so the state is still one number. When all
sources have ended, so does the stream: `length` says where.

Cost: about 6 microseconds a draw; making a mixture takes a millisecond and 2 ms for each phase, and a draw anywhere 2
ms at the paper's weights.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor, isqrt

import numpy as np

from ..errors import UserError
from ..recipe import Group, Stage
from ..text.render import Ref
from .schedule import SMALLEST_SHARE, Schedule
from .shares import by_source, exact, nested_shares, of_draws

_ROUNDS = 6
_WORD = 2**64 - 1


@dataclass(frozen=True, eq=False)
class _Phase:
    """Draws `start` up to `end` (None: without end), in which the same sources are drawn by the same shares."""

    start: int
    end: int | None
    names: list[str]
    schedule: Schedule
    before: list[int]
    """Draws of each source before the phase."""

    def counts(self, n: int) -> dict[str, int]:
        """Draws of each of its sources among the first n of the stream, which reach into the phase or to its end."""
        counts = self.schedule.counts(n - self.start)
        return {name: a + b for name, a, b in zip(self.names, self.before, counts, strict=True)}


class Mixture:
    """The stream of draws. `groups` are a stage's, `lengths` the number of samples of each source.

    `means` are the target tokens that a draw of each source brings; given them, weights are shares of target tokens.
    `epochs` limits the passes over sources; `length` is the number of draws after which every source has reached its
    limit (None: the stream has no end). `nested` are the shares asked for (of draws, or of tokens with `means`) by
    group, category and source; `fractions` the exact shares of the draws of the sources that are drawn (weight above
    0), in order of their names, until the first reaches its limit; `shares` the same as floats; `groups` names the
    group of each (several joined by a comma). Raises UserError for weights or sources that cannot be mixed.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        lengths: Mapping[str, int],
        *,
        seed: int = 0,
        means: Mapping[str, Fraction] | None = None,
        epochs: Mapping[str, float] | None = None,
    ) -> None:
        self.nested = nested_shares(groups, {name: max(length, 1) for name, length in lengths.items()})
        self.seed = seed
        self._blocks, self._means = groups, means
        names = list(by_source(self.nested))
        for name in names:
            if not lengths.get(name):
                raise UserError(f"source {name!r} of the mixture has no samples; set its weight to 0 or give it some")
        self.lengths = {name: lengths[name] for name in names}
        self.limits = {name: self._limit(name, most) for name, most in (epochs or {}).items() if name in self.lengths}
        self.length = sum(self.limits.values()) if self.limits.keys() == self.lengths.keys() else None
        self.fractions = self._shares(())
        self.shares = {name: float(share) for name, share in self.fractions.items()}
        self.groups = {name: ", ".join(self._groups_of(name)) for name in self.fractions}
        self._phases = list(self._all_phases())
        self._starts = [phase.start for phase in self._phases]
        self._orders: dict[str, tuple[int, Permutation]] = {}

    @classmethod
    def of_stage(
        cls, stage: Stage, lengths: Mapping[str, int], *, seed: int = 0, means: Mapping[str, Fraction] | None = None
    ) -> Mixture:
        """The mixture of a recipe's stage; `means` are needed, and used, where it mixes by target tokens."""
        if stage.unit == "samples":
            means = None
        elif means is None:
            raise ValueError("a stage that mixes by target tokens needs the mean target tokens of its sources")
        return cls(stage.mixture, lengths, seed=seed, means=means, epochs=stage.epochs)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything the order depends on, except the sources' lengths."""
        key: list[object] = [self.seed, [[name, str(share)] for name, share in self.fractions.items()]]
        if self.limits:
            means = {name: str(mean) for name, mean in sorted((self._means or {}).items())}
            key += [sorted(self.limits.items()), self.nested, means]
        return hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:16]

    def draw(self, k: int) -> Ref:
        """Draw number k = 0, 1, ... Raises UserError beyond the end of a mixture all of whose sources are limited."""
        phase = self._phase_of(k)
        turn = phase.schedule[k - phase.start]
        name = phase.names[turn.source]
        epoch, position = divmod(phase.before[turn.source] + turn.occurrence, self.lengths[name])
        kept = self._orders.get(name)
        if kept is None or kept[0] != epoch:
            kept = self._orders[name] = (epoch, Permutation(self.lengths[name], self.seed, name, epoch))
        return Ref(name, kept[1][position], epoch)

    def counts(self, n: int) -> dict[str, int]:
        """How many of the first n draws come from each source."""
        last = self._phase_of(max(n - 1, 0))
        found = {**self.limits, **last.counts(n)}
        return {name: found[name] for name in self.lengths}

    def epochs(self, n: int) -> dict[str, float]:
        """How many times the first n draws go through each source."""
        return {name: count / self.lengths[name] for name, count in self.counts(n).items()}

    def rng(self, ref: Ref) -> np.random.Generator:
        """The random numbers of one example, for augmentation: a function of (seed, source, index, epoch)."""
        return np.random.default_rng(_words(self.seed, "example", ref.source, ref.index, ref.epoch))

    # --------------------------------------------------------------------------------------------------------- phases

    def _all_phases(self) -> Iterator[_Phase]:
        """One after the other, until one has no end or nothing is left."""
        phase = self._phase(0, dict.fromkeys(self.lengths, 0))
        yield phase
        while phase.end is not None and phase.end != self.length:
            phase = self._phase(phase.end, {**self.limits, **phase.counts(phase.end)})
            yield phase

    def _phase_of(self, k: int) -> _Phase:
        if self.length is not None and k >= self.length:
            raise UserError(
                f"draw {k:,} is beyond the mixture's end: after {self.length:,} draws every source has had its "
                "epochs; train fewer steps, or raise `epochs`"
            )
        return self._phases[max(bisect_right(self._starts, k) - 1, 0)]

    def _phase(self, start: int, drawn: Mapping[str, int]) -> _Phase:
        """The phase from draw `start` on, each source having been drawn so many times."""
        ended = [name for name, limit in self.limits.items() if drawn[name] == limit]
        shares = self._shares(ended)
        names = list(shares)
        schedule = Schedule(list(shares.values()))
        left = {i: self.limits[name] - drawn[name] for i, name in enumerate(names) if name in self.limits}
        length = schedule.first_to_end(left)
        return _Phase(start, None if length is None else start + length, names, schedule, [drawn[n] for n in names])

    def _shares(self, ended: Collection[str]) -> dict[str, Fraction]:
        """Shares of the draws without the sources that have ended. UserError for one that is too small."""
        shares = by_source(nested_shares(self._blocks, self.lengths, without=ended))
        if self._means is not None:
            shares = of_draws(shares, self._means)
        for name, share in shares.items():
            if share < SMALLEST_SHARE:
                raise UserError(
                    f"source {name!r} has a share of {float(share):.3g} of the draws; the least is one in "
                    f"{SMALLEST_SHARE.denominator:,}: raise its weight, or set it to 0"
                )
        return shares

    def _limit(self, name: str, most: float) -> int:
        """The draws of a source that its epochs allow."""
        draws = floor(exact(most, f"epochs of {name}") * self.lengths[name])
        if not draws:
            raise UserError(
                f"epochs of {name!r} is {most} and it has {self.lengths[name]} samples, so it is never drawn; raise "
                "it, or set the source's weight to 0"
            )
        return draws

    def _groups_of(self, source: str) -> list[str]:
        return [g for g, block in self.nested.items() if any(source in sources for sources in block.values())]


class Permutation:
    """A keyed permutation of 0..size-1 that is computed number by number.

    A Feistel network on pairs (a, b) with a < rows, b < columns and rows * columns barely above `size`; numbers that
    leave the range are sent through again until they are back in it (cycle walking; Black and Rogaway, CT-RSA 2002).
    """

    def __init__(self, size: int, *key: object) -> None:
        self.size = size
        self.columns = max(isqrt(size - 1) + 1, 1)
        self.rows = -(-size // self.columns)
        words = _words(*key)
        self._rounds = [(words[i], words[i + 1]) for i in range(0, _ROUNDS, 2)]

    def __getitem__(self, position: int) -> int:
        """The number at a position; IndexError outside 0..size-1."""
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} of a permutation of {self.size}")
        rows, columns = self.rows, self.columns
        number = position
        while True:
            a, b = divmod(number, columns)
            for one, other in self._rounds:
                a = (a + _mix(b ^ one)) % rows
                b = (b + _mix(a ^ other)) % columns
            number = a * columns + b
            if number < self.size:
                return number


def _mix(word: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31


def _words(*key: object) -> list[int]:
    """Eight 64-bit numbers that depend on everything in the key."""
    digest = hashlib.blake2b(json.dumps(key).encode()).digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 64, 8)]
