"""Mixture, packer and loader without pictures: how full rows are, how fast draws come, how a run resumes, what is kept.

    python -m bench.packing                       all of it, a million samples for the memory: minutes
    python -m bench.packing --samples 100000      shorter

Sizes of documents are those of tests/document_sizes.py, tiles are empty arrays. Exits with 1 when a promise is broken:
fill of 99 % of the budget that binds, or of what is attainable of it; resume at draw 10^9 within 10 ms; memory flat
within 50 MB. Times are of one processor.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from document_sizes import Size, document, half_text, mostly_tiles, papers, pictures, stream

from mm15.data.loader import PackedLoader
from mm15.data.mixture import Mixture
from mm15.data.packing import PATIENCE, Packer
from mm15.processor import Measured
from mm15.recipe import Category, Group
from mm15.sample import Sample
from mm15.text.render import Encoded

ALPHAS = {"general": 1.0, "text-rich": 3.29, "refer-ground": 2.0, "math": 0.5, "code": 0.2, "science": 0.1}
LEAST_FILL, MOST_MS, MOST_MB = 0.99, 10.0, 50.0


def paper_groups() -> dict[str, Group]:
    """The paper's SFT groups and categories, five sources in each."""
    single = {name: Category(alpha=alpha, sources=_five(name)) for name, alpha in ALPHAS.items()}
    return {
        "single": Group(weight=0.8, categories=single),
        "multi": Group(weight=0.1, categories={"multi": Category(sources=_five("multi"))}),
        "text": Group(weight=0.1, categories={"text": Category(sources=_five("text"))}),
    }


def _five(name: str) -> dict[str, float]:
    return {f"{name}-{i}": weight for i, weight in enumerate((5, 4, 3, 2, 1))}


# ------------------------------------------------------------------------------------------------------------- packing


def attainable(sizes: list[Size], budget: int) -> float:
    """No packer fills more of the tiles than this, whatever the tokens: a price for each number of tiles.

    When no row holds prices above 1, the prices of all documents are at most the rows they need (linear programming
    duality). Any prices give a bound; good ones are searched for at random.
    """
    count = Counter(tiles for _, tiles in sizes if tiles)
    kinds = sorted(count)
    number = np.array([count[n] for n in kinds], float)
    rows = np.array(list(_rows(kinds, budget)), float)
    tiles = np.array(kinds, float)
    starts = [tiles, *(np.floor(tiles * k / budget) for k in range(2, 3 * budget)), np.round(tiles * 3 / budget)]
    best, price = max((_fewest(number, rows, start), tuple(start)) for start in starts)
    rng, step, price = np.random.default_rng(0), 0.05, np.array(price) / max((rows @ np.array(price)).max(), 1e-9)
    for trial in range(30_000):
        other = np.maximum(0, price + rng.normal(0, step, len(price)) * (rng.random(len(price)) < 0.4))
        if (bound := _fewest(number, rows, other)) > best:
            best, price = bound, other / (rows @ other).max()
        step *= 0.3 if trial % 7_500 == 7_499 else 1
    return float(number @ np.array(kinds) / budget / best)


def _fewest(number: np.ndarray, rows: np.ndarray, price: np.ndarray) -> float:
    """How many rows the documents need at least, by these prices."""
    return float(number @ price / max((rows @ price).max(), 1e-9))


def _rows(kinds: list[int], room: int) -> Iterator[list[int]]:
    """All rows: how many documents of each kind."""
    if not kinds:
        yield []
        return
    for n in range(room // kinds[0] + 1):
        for rest in _rows(kinds[1:], room - n * kinds[0]):
            yield [n, *rest]


def packing(kind: Callable[[random.Random], Size], tiles: int, *, count: int, seeds: int) -> bool:
    """One line: fill of tokens and of tiles, the least over seeds; waits; cost."""
    found = [_packed(stream(kind, count, seed), tiles) for seed in range(seeds)]
    tokens, filled = min(one[0] for one in found), min(one[1] for one in found)
    most = attainable(stream(kind, count, 0), tiles)
    binding = (
        "tokens" if statistics.mean(one[0] for one in found) > statistics.mean(one[1] for one in found) else "tiles"
    )
    reached = tokens if binding == "tokens" else filled / most
    wait, longest = statistics.mean(one[2] for one in found), max(one[3] for one in found)
    print(
        f"{kind.__name__:13} 4096 tokens {tiles:2} tiles  tokens {tokens:7.2%}  tiles {filled:7.2%} (attainable "
        f"{most:6.2%})  binding: {binding:6} at {reached:7.2%}  left after {wait:3.0f} draws, at most {longest:3}  "
        f"waiting {max(one[4] for one in found):3}  {statistics.median(one[5] for one in found):4.0f} us a document"
    )
    return reached >= LEAST_FILL


def _packed(sizes: list[Size], tiles: int) -> tuple[float, float, float, int, int, float]:
    documents = [document(i, a, b) for i, (a, b) in enumerate(sizes)]
    packer, rows, waits, most = Packer(tokens=4096, tiles=tiles), 0, [], 0
    used = [0, 0]
    began = time.process_time()
    for one in documents:
        row = packer.add(one)
        most = max(most, len(packer.waiting))
        if isinstance(row, list):
            rows += 1
            waits += [one.draw - inside.draw for inside in row]
            used = [used[0] + sum(d.tokens for d in row), used[1] + sum(d.tiles for d in row)]
    cost = (time.process_time() - began) / len(sizes) * 1e6
    return used[0] / rows / 4096, used[1] / rows / tiles, statistics.mean(waits), max(waits), most, cost


# ------------------------------------------------------------------------------------------------------------- mixture


def mixtures() -> dict[str, Callable[[], Mixture]]:
    """The paper's mixture of 40 sources: plain, with every second source limited, and by target tokens."""
    groups = paper_groups()
    names = [
        source for group in groups.values() for category in group.categories.values() for source in category.sources
    ]
    lengths = {name: 5_000 + 977 * i for i, name in enumerate(names)}
    means = {name: Fraction(1_000 + 37 * i, 256) for i, name in enumerate(names)}
    limits = {name: 1.0 + i % 3 for i, name in enumerate(names) if i % 2}
    return {
        "plain": lambda: Mixture(groups, lengths),
        "limited": lambda: Mixture(groups, lengths, epochs=limits),
        "tokens": lambda: Mixture(groups, lengths, means=means),
    }


def draws() -> None:
    """Draws in sequence, making a mixture, and then the first draw at 10^9."""
    for name, make in mixtures().items():
        mixture = make()
        rate = 100_000 / _seconds(lambda mixture=mixture: [mixture.draw(k) for k in range(100_000)])
        making = statistics.median(_seconds(make) for _ in range(9))
        far = statistics.median(_seconds(partial(make().draw, 10**9)) for _ in range(9))
        print(
            f"mixture {name:8} {rate:9,.0f} draws/s   made in {making * 1e3:5.1f} ms ({len(mixture._phases)} phases)   "
            f"first draw at 10^9: {far * 1e3:5.1f} ms"
        )


def _seconds(job: Callable[[], Any]) -> float:
    """Of processor time, so that other programs do not count."""
    began = time.process_time()
    job()
    return time.process_time() - began


# -------------------------------------------------------------------------------------------------------------- loader


class Sized:
    """A source whose samples are only sizes."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length, self.fingerprint = name, length, f"{name}:{length}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        tokens, tiles = papers(random.Random(index))
        return Sample(str(index), self.name, (), {"tokens": tokens, "tiles": tiles})


def encode(sample: Sample) -> Encoded:
    """Ids of zero and tiles of one pixel."""
    ids, tiles = np.zeros(sample.meta["tokens"], np.int64), sample.meta["tiles"]
    return Encoded(ids, ids, np.zeros((tiles, 3, 1, 1), np.uint8), np.zeros(tiles, np.int64))


def measure(sample: Sample) -> Measured:
    """What `encode` gives, in numbers."""
    return Measured(sample.meta["tokens"], sample.meta["tokens"], sample.meta["tiles"])


def loader(mixture: Mixture) -> PackedLoader:
    sources = {name: Sized(name, length) for name, length in mixture.lengths.items()}
    return PackedLoader(mixture, sources, encode, measure, tokens=4096, tiles=28, rows=8, workers=0)


def resume() -> bool:
    """From a saved state at draw 10^9 to its document, in a loader that was just made."""
    good = True
    for name, make in mixtures().items():
        state = {**loader(make()).state_dict(), "next": 10**9}
        times = [_seconds(partial(_resume, loader(make()), state)) * 1e3 for _ in range(15)]
        print(f"resume {name:8} at draw 10^9: {statistics.median(times):5.2f} ms (slowest of 15: {max(times):.2f})")
        good &= statistics.median(times) < MOST_MS
    return good


def _resume(fresh: PackedLoader, state: dict[str, Any]) -> None:
    fresh.load_state_dict(state)
    fresh._documents.read(state["next"], whole=True)


def memory(samples: int) -> bool:
    """Resident memory while so many samples go through mixture, packer and loader."""
    stream_of, seen, found = loader(mixtures()["plain"]()), 0, []
    began = time.process_time()
    for step in stream_of:
        seen += sum(len(batch.refs) for batch in step)
        if seen >= samples * (len(found) + 1) / 50:
            found.append(_resident())
        if seen >= samples:
            break
    after = found[2:]  # the first pages of everything are in by then
    rate = seen / (time.process_time() - began)
    print(
        f"memory over {seen:,} samples: {after[0]:.0f} MB after {3 * samples // 50:,}, {after[-1]:.0f} MB at the end, "
        f"least {min(after):.0f}, most {max(after):.0f}; {rate:,.0f} samples/s (no pictures, no workers)"
    )
    return max(after) - min(after) < MOST_MB


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def main() -> int:
    """Prints a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000, help="for the memory")
    parser.add_argument("--documents", type=int, default=6_000, help="for each packing")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    kinds = [(papers, 16), (papers, 28), (pictures, 16), (pictures, 32), (half_text, 16), (mostly_tiles, 16)]
    good = [packing(kind, tiles, count=options.documents, seeds=options.seeds) for kind, tiles in kinds]
    packing(papers, 20, count=options.documents, seeds=options.seeds)  # both budgets are scarce: told, not promised
    print(f"guaranteed: a document leaves within {PATIENCE} draws, and one more for each that waited when it came")
    draws()
    good += [resume(), memory(options.samples)]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
