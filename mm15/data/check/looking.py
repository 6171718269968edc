"""Looking at the samples of sources, in worker processes: ranges of indices in, arrays and findings out.

    tasks (source, indices) --workers--> Seen, in order of the tasks

A worker reads each sample, opens each picture file once (the last of a few hundred thousand stay in mind), counts
tokens and tiles for every tiling that asks for the source, and remembers 64-bit numbers by which equal texts and equal
pictures are found later. So what comes back is small: some 60 bytes a sample and 60 a picture, and the findings.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from ...errors import UserError
from ...image import Tiling
from ...processor import MM15Processor
from ...regions import Coordinates, Region
from ...sample import Image, Role, Sample, Video
from ...text.chat import segments
from ..sources import SourceData
from .counting import TokenCounter
from .findings import LOSING, Finding, Kind
from .pictures import Probe, is_stored, look_alike, probe, word64
from .samples import TextRules, faults

AT_ONCE = 256
"""So many samples make a task."""
_AHEAD = 3
"""So many tasks a worker wait for it."""
_KNOWN = 200_000
"""So many pictures a worker keeps in mind."""

PICTURE = np.dtype(
    [
        ("row", np.int64),  # number of its sample among those that were looked at in this source
        ("number", np.int32),  # among the pictures of the sample
        ("name", np.uint64),
        ("key", np.uint64),
        ("whole", np.uint64),
        ("look", np.uint64),
        ("plain", np.bool_),  # too plain for `look` to mean anything, or not looked at
        ("width", np.int32),
        ("height", np.int32),
        ("bytes", np.int64),
    ]
)


QUESTION = np.dtype([("row", np.int64), ("number", np.uint64)])


@dataclass(frozen=True)
class Budget:
    """What a row of a stage holds, and the number of its tiling among those of the plan."""

    stage: str
    tiling: int
    tokens: int
    tiles: int


@dataclass(frozen=True)
class SourcePlan:
    """What is done with one source: for which tilings and stages it is counted, and what its texts may hold."""

    tilings: tuple[Tiling, ...]
    budgets: tuple[Budget, ...]
    rules: TextRules
    generated: bool = False
    """Made by a function: its samples are neither compared nor do they have files."""


@dataclass(frozen=True)
class View:
    """All that a worker needs. `looks`: whether pixels are read for what pictures look like."""

    sources: Mapping[str, SourceData]
    plans: Mapping[str, SourcePlan]
    processor: MM15Processor
    looks: bool = False


@dataclass(eq=False)
class Seen:
    """What was seen of some samples of one source, in order.

    indices int64 [n]; tokens, targets, tiles int32 [n, tilings], -1 for samples that cannot be used; texts uint64 [n],
    equal for samples of equal parts whatever their pictures (0: not to be compared); pictures [m] of dtype PICTURE;
    questions [k] of dtype QUESTION, those of the user in samples without pictures.
    """

    source: str
    indices: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    tiles: np.ndarray
    texts: np.ndarray
    pictures: np.ndarray
    questions: np.ndarray
    findings: list[Finding] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------ a worker


class Looker:
    """Looks at samples in one process."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.counter = TokenCounter(view.processor)
        self.coordinates: Coordinates = view.processor.coordinates
        self._special = {name: plan.rules.special for name, plan in view.plans.items()}
        self._known: dict[str, tuple[Probe, int, bool]] = {}

    def look(self, source: str, indices: np.ndarray, first_row: int) -> Seen:
        """Samples `indices` of a source, the first of which is row `first_row` of all that are looked at."""
        plan, n = self.view.plans[source], len(indices)
        counts = np.full((3, n, len(plan.tilings)), -1, dtype=np.int32)
        texts = np.zeros(n, dtype=np.uint64)
        pictures: list[tuple[int | bool, ...]] = []
        questions: list[tuple[int, int]] = []
        findings: list[Finding] = []
        for row, index in enumerate(indices.tolist()):
            try:
                sample = self.view.sources[source][index]
            except ValueError as error:
                findings.append(Finding(Kind.ROW, source, index, " ".join(str(error).split())))
                continue
            probes = self._pictures(sample, f"{source}\0{index}", first_row + row, pictures)
            found = faults(sample, probes, plan.rules, self._special[source])
            lost = self._count(sample, probes, plan.tilings, counts[:, row])
            if lost and not any(finding.kind in LOSING for finding in found):
                found.append(Finding(Kind.ROW, source, index, lost, sample.id))
            if not lost:
                found += too_large(sample, plan.budgets, counts[:, row])
            if not plan.generated:
                texts[row] = text_number(sample)
                if not probes:
                    questions += [(first_row + row, number) for number in questions_of(sample)]
            findings += [replace(finding, source=source, index=index) for finding in found]
        return Seen(
            source,
            indices,
            counts[0],
            counts[1],
            counts[2],
            texts,
            np.array(pictures, dtype=PICTURE),
            np.array(questions, dtype=QUESTION),
            findings,
        )

    def _pictures(self, sample: Sample, name: str, row: int, into: list[tuple[int | bool, ...]]) -> list[Probe]:
        found = []
        for number, image in enumerate(sample.images):
            probed, look, plain = self._picture(image, f"{name}\0{number}")
            width, height = probed.size or (0, 0)
            into.append((row, number, probed.name, probed.key, probed.whole, look, plain, width, height, probed.bytes))
            found.append(probed)
        return found

    def _picture(self, image: Image, name: str) -> tuple[Probe, int, bool]:
        path = os.fspath(image.data) if isinstance(image.data, str | os.PathLike) else None
        kept = self._known.get(path) if path is not None else None
        if kept is not None:
            return kept
        probed, look, plain = probe(image, name), 0, True
        if self.view.looks and probed.fault is None and is_stored(image):
            try:
                look, plain = look_alike(image)
            except UserError as error:
                why = str(error).removeprefix("picture: ")
                probed = replace(probed, size=None, fault=Kind.UNREADABLE, why=why)
        if path is not None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[path] = (probed, look, plain)
        return probed, look, plain

    def _count(self, sample: Sample, probes: Sequence[Probe], tilings: Sequence[Tiling], into: np.ndarray) -> str:
        """Writes tokens, targets and tiles of each tiling; the reason where they cannot be had."""
        sizes = [probe.size for probe in probes if probe.size is not None]
        if len(sizes) < len(probes) or any(probe.fault is not None for probe in probes):
            return "a picture cannot be read"
        try:
            written = segments(sample.parts, coordinates=self.coordinates, sizes=sizes)
            lengths = self.counter.lengths(written, sizes, tilings)
        except ValueError as error:
            return " ".join(str(error).split())
        for number, length in enumerate(lengths):
            into[:, number] = length.tokens, length.target_tokens, length.tiles
        return ""


def too_large(sample: Sample, budgets: Sequence[Budget], counts: np.ndarray) -> Iterator[Finding]:
    """What of a sample is more than a row holds; `counts` int [3, tilings] are its tokens, targets and tiles."""
    for kind, unit, which in ((Kind.TOO_LONG, "tokens", 0), (Kind.TOO_MANY_TILES, "tiles", 2)):
        over = [b for b in budgets if counts[which, b.tiling] > getattr(b, unit)]
        if over:
            told = [f"{counts[which, b.tiling]:,} {unit} of {getattr(b, unit):,} in stage {b.stage}" for b in over]
            more = {"stages": {b.stage: int(counts[which, b.tiling]) for b in over}}
            yield Finding(kind, sample.source, -1, "; ".join(told), sample.id, more=more)


def text_number(sample: Sample) -> int:
    """Stands for all of a sample but its pictures and its id; 0 for samples with generated pictures."""
    written = []
    for part in sample.parts:
        content = part.content
        if isinstance(content, Image):
            if not is_stored(content):
                return 0
            said = "\x01"
        elif isinstance(content, Region):
            said = f"\x02{tuple(content.shape)}{content.image}{content.label}"
        else:
            said = f"\x03{content.path}" if isinstance(content, Video) else content
        written.append(f"{part.role.value}{part.target:d}{said}")
    return word64("\0".join(written).encode("utf-8", "surrogatepass"))


def questions_of(sample: Sample) -> list[int]:
    """A number for each turn of the user that has text, whatever its spacing."""
    found = []
    for role, parts in groupby(sample.parts, key=lambda part: part.role):
        if role is Role.USER:
            text = " ".join(" ".join(part.content for part in parts if isinstance(part.content, str)).split())
            if text:
                found.append(word64(text.encode("utf-8", "surrogatepass")))
    return found


# ------------------------------------------------------------------------------------------------------------- the pool

_looker: Looker | None = None


def _start(view: View) -> None:
    """Ctrl-C goes to every process of the terminal; only the main one shall act on it, and it ends the workers."""
    global _looker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _looker = Looker(view)


def _look(task: tuple[str, np.ndarray, int]) -> Seen:
    assert _looker is not None
    return _looker.look(*task)


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Ctrl-C waits until the block has ended: processes that start in it would not yet ignore it, and a pool that is
    interrupted while it starts them is never stopped. Blocking the signal would not do: any thread may receive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def look_through(view: View, chosen: Mapping[str, np.ndarray], *, workers: int) -> Iterator[Seen]:
    """What was seen of the samples `chosen` (indices by source), in order; 0 workers look in this process.

    Raises RuntimeError when a worker dies.
    """
    tasks = [
        (source, indices[start : start + AT_ONCE], start)
        for source, indices in chosen.items()
        for start in range(0, len(indices), AT_ONCE)
    ]
    if not workers or len(tasks) < 2:
        looker = Looker(view)
        yield from (looker.look(*task) for task in tasks)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns at each fork
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), initializer=_start, initargs=(view,))
    try:
        waiting: deque[Future[Seen]] = deque()
        for task in tasks:
            with _interrupt_later():  # the first one starts the workers
                waiting.append(pool.submit(_look, task))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RuntimeError("a worker died (killed, or out of memory); run again with fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
