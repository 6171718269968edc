"""The packer: whole documents, both budgets kept, full rows, short waits, nothing lost without a word."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from mm15.data.packing import Document, Packer, Skipped, _Subsets
from mm15.text.render import Encoded, Ref

Size = tuple[int, int]


def document(draw: int, tokens: int, tiles: int) -> Document:
    """A document of given sizes, with nothing in it."""
    empty = np.broadcast_to(np.zeros((1, 3, 1, 1), np.uint8), (tiles, 3, 1, 1))
    ids = np.broadcast_to(np.int64(draw), (tokens,))
    return Document(draw, f"id-{draw}", Ref("source", draw), Encoded(ids, ids, empty, np.zeros(tiles, np.int64)))


def pictures(rng: random.Random) -> Size:
    """80 % one picture of 5..10 tiles, 10 % several unsplit ones, 10 % text; 144 tokens a tile, then words."""
    words = int(min(1500, max(8, rng.lognormvariate(4.2, 1.0))))
    kind = rng.random()
    if kind < 0.9:
        tiles = rng.randint(5, 10) if kind < 0.8 else rng.randint(2, 6)
        return tiles * 144 + words, tiles
    return min(4096, int(max(16, rng.lognormvariate(5.5, 1.0)))), 0


def half_text(rng: random.Random) -> Size:
    """Half text, half pictures of 2..5 tiles."""
    if rng.random() < 0.5:
        return min(4096, int(max(16, rng.lognormvariate(5.8, 1.0)))), 0
    tiles = rng.randint(2, 5)
    return tiles * 144 + int(min(1500, max(8, rng.lognormvariate(4.2, 1.0)))), tiles


def mostly_tiles(rng: random.Random) -> Size:
    """Pictures of 5..10 tiles with few tokens a tile."""
    tiles = rng.randint(5, 10)
    return tiles * 64 + rng.randint(10, 200), tiles


def snippets(rng: random.Random) -> Size:
    """Very short texts: some 200 to a row."""
    return rng.randint(10, 30), 0


def pack(
    sizes: list[Size], *, tokens: int = 4096, tiles: int = 16, **more: int
) -> tuple[list[list[Document]], Packer, int]:
    """(rows, the packer, the longest wait in draws)."""
    packer, rows, wait = Packer(tokens=tokens, tiles=tiles, **more), [], 0
    for draw, (a, b) in enumerate(sizes):
        row = packer.add(document(draw, a, b))
        if isinstance(row, list):
            rows.append(row)
            wait = max(wait, draw - row[0].draw)
    return rows, packer, wait


def stream(kind: Callable[[random.Random], Size], count: int, seed: int = 0) -> list[Size]:
    rng = random.Random(seed)
    return [kind(rng) for _ in range(count)]


def fill(rows: list[list[Document]], *, tokens: int = 4096, tiles: int = 16) -> tuple[float, float]:
    """Mean share of the tokens and of the tiles of a row that are used."""
    documents = [one for row in rows for one in row]
    used = sum(d.tokens for d in documents), sum(d.tiles for d in documents)
    return used[0] / len(rows) / tokens, used[1] / len(rows) / tiles


@pytest.mark.parametrize("kind", [pictures, half_text, mostly_tiles, snippets])
def test_rows_hold_whole_documents_once_within_both_budgets(kind: Callable[[random.Random], Size]) -> None:
    """What came in is in exactly one row or still waiting; rows are in order of draws and start with the oldest."""
    sizes = stream(kind, 1500)
    rows, packer, _ = pack(sizes)
    assert sorted(d.draw for row in [*rows, packer.waiting] for d in row) == list(range(1500))
    left = set(range(1500))
    for row in rows:
        assert sum(d.tokens for d in row) <= 4096 and sum(d.tiles for d in row) <= 16
        draws = [d.draw for d in row]
        assert draws == sorted(draws) and draws[0] == min(left)
        assert [(d.tokens, d.tiles) for d in row] == [sizes[draw] for draw in draws]
        left -= set(draws)


@pytest.mark.parametrize(
    ("kind", "tiles", "scarce", "least", "longest"),
    [
        (pictures, 32, 0, 0.999, 150),
        (half_text, 16, 0, 0.999, 250),
        (snippets, 16, 0, 0.999, 700),
        (pictures, 16, 1, 0.985, 150),
        (mostly_tiles, 16, 1, 0.98, 150),
        (mostly_tiles, 32, 1, 0.999, 200),
    ],
)
def test_the_scarcer_budget_is_filled(
    kind: Callable[[random.Random], Size], tiles: int, scarce: int, least: float, longest: int
) -> None:
    """Above 99.9 % of tokens where they are scarce; above 98 % of 16 tiles where pictures have 5 to 10; short waits."""
    rows, packer, wait = pack(stream(kind, 3000), tiles=tiles)
    assert fill(rows, tiles=tiles)[scarce] > least
    assert wait < longest
    assert len(packer.waiting) < 32 or sum(d.tokens for d in packer.waiting) < 2 * 4096


def test_the_subset_is_the_best_there_is() -> None:
    """Against all subsets by brute force, with either budget first."""
    rng = random.Random(3)
    for trial in range(300):
        tokens, tiles = rng.randint(5, 60), rng.randint(0, 8)
        sizes = [(rng.randint(1, tokens), rng.randint(0, tiles)) for _ in range(rng.randint(1, 9))]
        tiles_first = bool(trial % 2)
        sums = [
            tuple(map(sum, zip(sizes[0], *others, strict=True)))
            for count in range(len(sizes))
            for others in combinations(sizes[1:], count)
        ]
        order = (lambda s: (s[1], s[0])) if tiles_first else (lambda s: s)
        wanted = max((s for s in sums if s[0] <= tokens and s[1] <= tiles), key=order)
        chosen = _Subsets(tokens, tiles).best(sizes, tiles_first=tiles_first)
        assert 0 in chosen and len(set(chosen)) == len(chosen)
        assert tuple(map(sum, zip(*(sizes[i] for i in chosen), strict=True))) == wanted


def test_no_document_waits_longer_than_patience_allows() -> None:
    """Documents that go together badly, and a packer that would like to see more of them: the bound holds."""
    rng = random.Random(4)
    sizes = [(rng.choice([1, 2, 2100, 4095]), rng.choice([0, 9, 16])) for _ in range(3000)]
    packer, held = Packer(tokens=4096, tiles=16, lookahead=1000, patience=100), 0
    waits = []
    for draw, (a, b) in enumerate(sizes):
        before = len(packer.waiting)
        row = packer.add(document(draw, a, b))
        held = max(held, before + 1)
        if isinstance(row, list):
            waits += [draw - d.draw for d in row]
    assert 100 <= max(waits) <= 100 + held
    assert held <= 110


def test_documents_larger_than_a_row_are_handed_back() -> None:
    """With both numbers; and what is not too large comes out as if they had not been there."""
    sizes = stream(pictures, 400)
    large = {7: (4097, 0), 100: (300, 17), 101: (9000, 40)}
    packer, rows, skipped = Packer(tokens=4096, tiles=16), [], []
    for draw, (a, b) in enumerate(sizes):
        if draw in large:
            skipped.append(packer.add(document(draw, *large[draw])))
        row = packer.add(document(draw, a, b))
        rows += [row] if isinstance(row, list) else []
    assert [[d.draw for d in row] for row in rows] == [[d.draw for d in row] for row in pack(sizes)[0]]
    assert all(isinstance(one, Skipped) for one in skipped)
    assert [one.id for one in skipped] == ["id-7", "id-100", "id-101"]
    assert skipped[1].reason == "300 tokens and 17 tiles are more than a row of 4096 tokens and 16 tiles holds"
    assert pack([(4096, 16)] * 40)[0]  # exactly a row is not too large


def test_a_new_packer_goes_on_from_what_waits() -> None:
    """The waiting documents are the whole state."""
    sizes = stream(pictures, 600)
    whole = [[d.draw for d in row] for row in pack(sizes)[0]]
    packer, rows = Packer(tokens=4096, tiles=16), []
    for draw, (a, b) in enumerate(sizes):
        if draw % 50 == 0:
            fresh = Packer(tokens=4096, tiles=16)
            fresh.waiting = list(packer.waiting)
            packer = fresh
        row = packer.add(document(draw, a, b))
        rows += [[d.draw for d in row]] if isinstance(row, list) else []
    assert rows == whole and len(rows) > 200


def test_without_tiles_and_with_one_document_to_a_row() -> None:
    rows, _, _ = pack([(10, 0)] * 100, tokens=10, tiles=0, lookahead=1)
    assert [[d.draw for d in row] for row in rows] == [[i] for i in range(len(rows))] and len(rows) == 99
    with pytest.raises(ValueError, match="0 tokens"):
        Packer(tokens=0, tiles=1)
