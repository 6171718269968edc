"""Near duplicates among captions: MinHash finds candidates, the exact Jaccard overlap decides.

A caption is the set of its three-word runs. Each of 64 hash functions keeps its smallest value over the set; 16 bands
of 4 values are looked up, so that one in 4,000 pairs that overlap by 0.8 goes unseen, (1 - 0.8^4)^16, and none that
overlaps less than asked is ever called alike. The first of two is kept; the order decides, nothing is random.

Cost: about 0.1 ms and 2 kB a caption, all in memory: a million captions take 2 GB; do more in parts.
"""

from __future__ import annotations

import hashlib

import numpy as np

from .filters import tokens

_BANDS, _ROWS = 16, 4
_RUN = 3


class Alike:
    """Captions seen so far; `first(text)` is the number of an earlier one that is alike, or None: then it is kept."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        random = np.random.RandomState(15)  # its stream is frozen across versions of numpy
        self._a = random.randint(1, 1 << 31, (_BANDS * _ROWS, 1)).astype(np.uint64)
        self._b = random.randint(0, 1 << 31, (_BANDS * _ROWS, 1)).astype(np.uint64)
        self._sets: list[frozenset[int]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._equal: dict[frozenset[int], int] = {}

    def first(self, text: str) -> int | None:
        """Number (from 0, of those kept) of the first kept caption that is alike; else keeps this one."""
        runs = shingles(text)
        if runs in self._equal:
            return self._equal[runs]
        keys = self._keys(runs) if self.threshold < 1 else []
        candidates = sorted({number for key in keys for number in self._buckets.get(key, ())})
        for number in candidates:
            if jaccard(runs, self._sets[number]) >= self.threshold:
                return number
        self._equal[runs] = len(self._sets)
        for key in keys:
            self._buckets.setdefault(key, []).append(len(self._sets))
        self._sets.append(runs)
        return None

    def _keys(self, runs: frozenset[int]) -> list[tuple[int, bytes]]:
        values = np.fromiter(runs, np.uint64, len(runs))[None]
        smallest = ((self._a * values + self._b) & np.uint64(0xFFFFFFFF)).min(axis=1).astype(np.uint32)
        return [(band, smallest[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]


def shingles(text: str) -> frozenset[int]:
    """The three-word runs of a text as 32-bit hashes; of a shorter text, all of it."""
    words = tokens(text)
    runs = [" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))]
    return frozenset(int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest(), "little") for run in runs)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Size of the intersection by size of the union."""
    return len(one & other) / len(one | other)
