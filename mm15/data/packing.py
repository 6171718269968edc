"""Packing: whole documents into rows that hold at most `tokens` tokens and `tiles` tiles, streaming and deterministic.

Documents wait until there are `lookahead` of them and two rows' worth (of tokens or of tiles). Then one row leaves: the
oldest document, and of the others the set that fills best the budget that is scarcer among those waiting. Sets that are
equally good are told apart by the other budget where tokens are scarce; where tiles are, by taking large documents
first, because small ones fill gaps best. The set is found exactly, by dynamic programming over (tokens, tiles) in the
bits of one long integer.

Guarantees. No document is split, dropped or repeated; one that is larger than a row is handed back as Skipped. At
most max(lookahead, 2 * tokens / shortest document) documents wait. Each row takes the oldest of them, and one that is
`patience` draws old lets no further document in without a row going out; so it leaves, at the latest, `patience`
draws after it came and as many documents more as waited then.

Fill at rows of 4096 tokens: 99.99 % of tokens where they are scarce. That is so for the paper's SFT mix (5.4 tiles of
144 tokens a sample) from 28 tiles a row on. With 16 tiles a row tiles are scarce: 99.2 to 99.5 % of them where pictures
have 5 to 10 tiles in equal shares, but 94.0 % for the paper's mix, where most have 5 and no packer could fill more than
94.4 %: three of them leave one of 16 empty. A document leaves after 60 draws on average, and 150 to 300 at most.
Cost: 50 to 200 microseconds a document. Memory: the waiting documents, half a gigabyte of tiles of 672 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..text.render import IGNORE, Encoded, Ref

LOOKAHEAD = 64
PATIENCE = 1024


@dataclass(frozen=True, eq=False)
class Document:
    """An encoded sample and the number of the draw it came from."""

    draw: int
    id: str
    ref: Ref
    encoded: Encoded

    @property
    def tokens(self) -> int:
        """Its tokens, those of its pictures included."""
        return len(self.encoded.input_ids)

    @property
    def target_tokens(self) -> int:
        """Its tokens that are trained on."""
        return int((self.encoded.labels != IGNORE).sum())

    @property
    def tiles(self) -> int:
        """Its tiles, overviews included."""
        return len(self.encoded.tiles)


@dataclass(frozen=True)
class Outline:
    """A document of which only the size is known: yet to be encoded, or `why` says that and why it cannot be."""

    draw: int
    id: str
    ref: Ref
    tokens: int
    target_tokens: int
    tiles: int
    why: str | None = None


Packable = Document | Outline


@dataclass(frozen=True)
class Skipped:
    """A draw that gave nothing to train on, and why."""

    draw: int
    source: str
    index: int
    epoch: int
    id: str
    reason: str


def skipped(document: Packable, reason: str) -> Skipped:
    """That a document is left out."""
    ref = document.ref
    return Skipped(document.draw, ref.source, ref.index, ref.epoch, document.id, reason)


def too_large(tokens: int, tiles: int, *, row: tuple[int, int]) -> str | None:
    """Why a document of so many tokens and tiles goes into no row of (tokens, tiles); None when it does."""
    if tokens <= row[0] and tiles <= row[1]:
        return None
    return f"{tokens} tokens and {tiles} tiles are more than a row of {row[0]} tokens and {row[1]} tiles holds"


class Packer:
    """Takes documents one by one and gives back rows: a function of the arguments and the documents that went in.

    `waiting` are the documents that are in no row yet, oldest first; a new packer given them goes on the same way.
    """

    def __init__(self, *, tokens: int, tiles: int, lookahead: int = LOOKAHEAD, patience: int = PATIENCE) -> None:
        if tokens < 1 or tiles < 0 or lookahead < 1 or patience < 1:
            raise ValueError(f"a row of {tokens} tokens and {tiles} tiles, lookahead {lookahead}, patience {patience}")
        self.tokens, self.tiles, self.lookahead, self.patience = tokens, tiles, lookahead, patience
        self.waiting: list[Packable] = []
        self._subsets = _Subsets(tokens, tiles)

    def add(self, document: Packable) -> list[Packable] | Skipped | None:
        """Takes a document; returns a row if one is ready (in order of draws), or Skipped if it is larger than a
        row."""
        reason = too_large(document.tokens, document.tiles, row=(self.tokens, self.tiles))
        if reason is not None:
            return skipped(document, reason)
        self.waiting.append(document)
        return self._row() if self._ready() else None

    def rest(self) -> list[Packable] | None:
        """A row of what waits, when no further document will come; None when nothing waits."""
        return self._row() if self.waiting else None

    def _ready(self) -> bool:
        if self.waiting[-1].draw - self.waiting[0].draw >= self.patience:
            return True
        return len(self.waiting) >= self.lookahead and max(self._demand()) >= 2

    def _demand(self) -> tuple[float, float]:
        """How many rows the waiting documents would fill with their tokens, and with their tiles."""
        tokens, tiles = sum(d.tokens for d in self.waiting), sum(d.tiles for d in self.waiting)
        return tokens / self.tokens, tiles / max(self.tiles, 1)

    def _row(self) -> list[Packable]:
        tokens, tiles = self._demand()
        sizes = [(document.tokens, document.tiles) for document in self.waiting]
        chosen = set(self._subsets.best(sizes, tiles_first=tiles > tokens))
        row = [document for i, document in enumerate(self.waiting) if i in chosen]
        self.waiting = [document for i, document in enumerate(self.waiting) if i not in chosen]
        return row


class _Subsets:
    """Which sums (tokens, tiles) subsets of documents have: bits tokens * (budget of tiles + 1) + tiles of an
    integer."""

    def __init__(self, tokens: int, tiles: int) -> None:
        self.tiles = tiles
        self.stride = tiles + 1
        self.all = (1 << (tokens + 1) * self.stride) - 1
        self.no_tiles = self.all // ((1 << self.stride) - 1)
        self._at_most: dict[int, int] = {}

    def best(self, sizes: Sequence[tuple[int, int]], *, tiles_first: bool) -> list[int]:
        """Indices of a subset with the first document that fits and whose sum of tokens is the largest, then of tiles.

        Of equally good subsets, one of earlier documents. With `tiles_first` one whose sum of tiles is the largest, and
        of those the one with the largest document, then the next largest, and so on: small ones fill gaps best, and
        are kept for that.
        """
        order = list(range(1, len(sizes)))
        if tiles_first:
            order.sort(key=lambda i: (sizes[i][1], sizes[i][0], -i))
        reached = self._reached([sizes[0], *(sizes[i] for i in order)])
        wanted, left = self._top(reached[-1], tiles_first)
        chosen = [0]
        for before, i in zip(reversed(reached[:-1]), reversed(order), strict=True):
            tokens, tiles = sizes[i]
            without = wanted & before
            within = wanted >> tokens * self.stride + tiles & before if tiles <= left else 0
            if within and (tiles_first or not without):
                chosen.append(i)
                wanted, left = within, left - tiles
            else:
                wanted = without
        return chosen

    def _reached(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """The sums of the first document with any of the first n others, for each n = 0, 1, ..."""
        reached = [1 << sizes[0][0] * self.stride + sizes[0][1]]
        for tokens, tiles in sizes[1:]:
            before = reached[-1]
            fitting = before & self._with_at_most(self.tiles - tiles)
            reached.append(before | (fitting << tokens * self.stride + tiles) & self.all)
        return reached

    def _with_at_most(self, tiles: int) -> int:
        """All sums with at most so many tiles."""
        if tiles not in self._at_most:
            self._at_most[tiles] = self.no_tiles * ((1 << tiles + 1) - 1)
        return self._at_most[tiles]

    def _top(self, reached: int, tiles_first: bool) -> tuple[int, int]:
        """The best of the sums, and its tiles; with `tiles_first` all sums with the most tiles."""
        if tiles_first:
            columns = ((reached & self.no_tiles << n, n) for n in range(self.tiles, -1, -1))
            return next((column, n) for column, n in columns if column)
        place = reached.bit_length() - 1
        return 1 << place, place % self.stride
