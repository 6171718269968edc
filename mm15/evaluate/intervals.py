"""How sure a score is: Wilson's interval of one, and the bootstrap interval of a paired difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a score."""

    low: float
    high: float


def wilson(successes: float, n: int) -> Interval:
    """Wilson's 95 % score interval of a proportion (Wilson 1927). `successes` may be a sum of scores from 0 to 1.

    Sums of part scores vary less than yes/no scores of the same mean, so the interval is then safe (too wide). With
    nothing measured it is 0 to 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials is not a proportion")
    if n == 0:
        return Interval(0.0, 1.0)
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences a - b with its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_difference(a: Sequence[float], b: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> Difference:
    """How much better a is than b on the same samples, by a seeded percentile bootstrap over the samples.

    Costs `draws` x n random numbers, in pieces of a few MB.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"got {len(a)} and {len(b)} scores; pairs need the same number on both sides, at least 1")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    rng = np.random.default_rng(seed)
    n = len(differences)
    rows = max(1, 1_000_000 // n)
    means = [
        differences[rng.integers(0, n, (min(rows, draws - start), n))].mean(axis=1) for start in range(0, draws, rows)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))
