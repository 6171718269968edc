"""Which pictures and samples are the same: by the 64-bit numbers first, and by whole content where those agree.

    pictures of equal key  --read whole-->  equal content     duplicates, and leaks
    texts of equal number, pictures of equal content          duplicate samples
    looks at most NEAR bits apart  --compared at 32 x 32 pixels-->  look-alikes

Keys tell almost all pictures apart, so few files are read whole. Looks are compared all with all in numpy, a block at a
time: about half a second for 10^9 pairs (100,000 training pictures and 10,000 of evaluation), in 30 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np

from ...errors import UserError
from ...sample import Image
from .pictures import digest, likeness

NEAR = 8
"""Looks may differ in so many of their 64 bits. Saving a picture again, smaller or worse, changes up to about 6."""
ALIKE = 0.97
"""Least correlation at 32 x 32 pixels of two pictures that are called look-alikes."""
_TRIED = 3
"""So many of the nearest are compared with a picture."""
_BLOCK = 1 << 20


def unite(names: np.ndarray, keys: np.ndarray, wholes: np.ndarray, image: Callable[[int], Image]) -> np.ndarray:
    """For each picture a number that is the same for pictures of equal content: uint64 [n].

    All uint64 [n], each name once, no key 0; `wholes` are 0 where the content has not been read. Then it is read, of
    `image(i)`, if another has its key. A picture whose file cannot be read keeps a number of its own.
    """
    found = keys.copy()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    for place in np.flatnonzero(counts[inverse] > 1).tolist():
        try:
            found[place] = wholes[place] or digest(image(place))
        except (OSError, ValueError):
            found[place] = names[place]
    return found


def mixed(texts: np.ndarray, rows: np.ndarray, numbers: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """A number for each sample that is the same for samples of equal texts and pictures: uint64 [n], 0 where texts is.

    `texts` uint64 [n]; of each picture: `rows` (its sample), `numbers` (its place among the sample's), `contents`.
    """
    found = texts.copy()
    with np.errstate(over="ignore"):
        factors = np.uint64(2) * numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        np.add.at(found, rows, (contents ^ contents >> np.uint64(31)) * factors)
    return np.where(texts == 0, np.uint64(0), found)


def copies(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """(place, place of the first that is equal) of every value but the first of its kind; zeros are not compared."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(values) else order
    first = np.repeat(order[starts], np.diff(np.concatenate([starts, [len(values)]])))
    again = (first != order) & (ordered != 0)
    yield from sorted(zip(order[again].tolist(), first[again].tolist(), strict=True))


def near(looks: np.ndarray, others: np.ndarray, *, most: int = NEAR) -> Iterator[tuple[int, list[int]]]:
    """For each of `looks` that is at most so many bits from some of `others`: its place, and theirs, nearest first."""
    if not len(others):
        return
    rows = max(_BLOCK // len(others), 1)
    for start in range(0, len(looks), rows):
        apart = np.bitwise_count(looks[start : start + rows, None] ^ others[None])
        for row in np.flatnonzero(apart.min(axis=1) <= most).tolist():
            places = np.flatnonzero(apart[row] <= most)
            yield start + row, places[np.argsort(apart[row, places], kind="stable")].tolist()


def most_alike(image: Image, others: Iterable[Image]) -> tuple[int, float] | None:
    """Which of the first few of `others` looks most like the picture, and how much; None when none is alike enough."""
    best: tuple[int, float] | None = None
    for place, other in enumerate(islice(others, _TRIED)):
        try:
            alike = likeness(image, other)
        except (UserError, OSError):
            continue
        if alike >= ALIKE and (best is None or alike > best[1]):
            best = (place, alike)
    return best
