"""Which documents make which row of which step, and which of them this process has to encode.

    draws --outlined or encoded, in workers--> Planner: rows, steps --own rows' documents encoded, in workers--> steps

One process alone encodes each draw at once and packs what it gets. Of R processes each outlines all draws (packing
needs every length; that is the headers of pictures), packs the same rows as one alone would, and then encodes only
those of its own rows: rank r has rows r, r + R, ... of a step. Outlining runs ahead of encoding, in the same workers.

Cost a document for R processes: R outlines and one encoding each, so one R-th of the encoding as long as that costs
more than R outlines: up to some 50 processes for pages, 8 for photos. Text alone is encoded R times, as it always was.
Of 8 processes each takes a sixth of the time that one takes for all rows, a third of them text (bench/ranks.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from ..errors import UserError
from .packing import Outline, Packable, Packer, Skipped
from .reading import Documents, Found, Task, serve

HOPELESS = 64
"""A source is given up when this many of its samples were skipped and none was used."""
_AHEAD = 16
"""So many tasks are handed to workers ahead of their need, over all of them."""
_AT_ONCE = 8
"""So many documents a task: 1 GB of them on their way, with tiles of 672 pixels."""


@dataclass(frozen=True)
class Step:
    """The rows of a step over all processes, and the draws that were refused since the step before.

    `next` and `waiting` are where the stream stands after it: the next draw, and the draws that are in no row yet.
    """

    rows: list[list[Packable]]
    skips: list[Skipped]
    next: int
    waiting: list[int]


class Planner:
    """Takes what is found of each draw, in order, and gives steps: a function of the draws' sizes alone.

    It goes on from the draw `first`, after the draws `waiting` have been handed in again. `refused` are how many draws
    of each source were skipped before, `used` the sources of which one was not.
    """

    def __init__(
        self,
        packer: Packer,
        *,
        rows: int,
        first: int,
        waiting: Sequence[int],
        refused: Mapping[str, int],
        used: set[str],
    ) -> None:
        self.next = first
        self.skips: list[Skipped] = []
        self.rows: list[list[Packable]] = []
        self._packer, self._rows_a_step = packer, rows
        self._replay = deque(waiting)
        self._refused, self._used = dict(refused), set(used)

    def add(self, found: Found) -> Step | None:
        """One more draw; a step if it is complete now. UserError for a source that gives nothing, and for a draw that
        waited when the state was saved and cannot be read any more."""
        if self._replay:
            self._restore(found)
            return None
        self.next += 1
        if isinstance(found, Skipped):
            self._refuse(found)
            return None
        row = self._packer.add(found)
        if isinstance(row, Skipped):
            self._refuse(row)
            return None
        self._used.add(found.ref.source)
        return self._step_with(row) if row else None

    def rest(self) -> Iterator[Step]:
        """The steps that what waits makes, when there are no more draws; `rows` are left over."""
        while row := self._packer.rest():
            step = self._step_with(row)
            if step is not None:
                yield step

    def _step_with(self, row: list[Packable]) -> Step | None:
        self.rows.append(row)
        if len(self.rows) < self._rows_a_step:
            return None
        step = Step(self.rows, self.skips, self.next, [one.draw for one in self._packer.waiting])
        self.rows, self.skips = [], []
        return step

    def _restore(self, found: Found) -> None:
        if isinstance(found, Skipped):
            raise UserError(
                f"sample {found.id!r} of {found.source!r} was read before this state was saved and cannot be now: "
                f"{found.reason}"
            )
        self._packer.waiting.append(found)
        self._used.add(found.ref.source)
        self._replay.popleft()

    def _refuse(self, skipped: Skipped) -> None:
        self.skips.append(skipped)
        source = skipped.source
        self._refused[source] = self._refused.get(source, 0) + 1
        if self._refused[source] >= HOPELESS and source not in self._used:
            raise UserError(hopeless(skipped, self._refused[source]))


def hopeless(last: Skipped, skips: int) -> str:
    """The line for a source that gives nothing."""
    return (
        f"source {last.source!r}: none of the first {skips} samples can be used; the last, {last.id!r}: {last.reason}"
    )


class Pipeline:
    """Runs a planner and the workers. `draws` are those that wait, then all others in order."""

    def __init__(
        self,
        documents: Documents,
        planner: Planner,
        draws: Iterator[int],
        *,
        rank: int,
        world_size: int,
        workers: int,
        timeout: int,
    ) -> None:
        self._planner, self._draws = planner, draws
        self._rank, self._world_size = rank, world_size
        self._each = _AT_ONCE * world_size if workers else 1  # so that a task of either kind brings as much
        ahead = max(2, _AHEAD // max(workers, 1)) * (1 if world_size == 1 else 2)
        self._serve = partial(serve, documents, workers=workers, ahead=ahead, timeout=timeout)
        self._handed: deque[_Row | None] = deque()
        """What the workers are doing, in order: reading a row of ours, or (None) finding out what to plan with."""
        self._unread: deque[_Row] = deque()
        self._planned: deque[tuple[Step, list[_Row]]] = deque()
        self.stop: UserError | None = None
        self._ended = False

    def steps(self) -> Generator[tuple[Step, list[list[Packable]]], None, None]:
        """Each step with this process's rows of it, whose documents are encoded but for those that cannot be.

        It ends with the draws, or when the planner raises UserError: after the steps that were complete before, and
        `stop` is the error then.
        """
        with closing(self._serve(self._tasks())) as answers:  # so that the workers end when this does
            for found in answers:
                row = self._handed.popleft()
                if row is None:
                    self._plan(found)
                else:
                    row.fill(found)
                yield from self._complete()
        yield from self._complete()

    def _tasks(self) -> Iterator[Task]:
        """Depends on what earlier tasks found: rows of ours come first, then draws to plan more with."""
        while True:
            if self._unread:
                row = self._unread.popleft()
                self._handed.append(row)
                yield Task(row.missing, whole=True)
            elif draws := () if self.stop else tuple(islice(self._draws, self._each)):
                self._handed.append(None)
                yield Task(draws, whole=self._world_size == 1)
            elif None in self._handed:  # it may bring rows of ours, and whoever asks for tasks does not ask again
                self._handed.append(_Row([]))
                yield Task((), whole=True)
            elif self.stop or self._ended:
                return
            else:
                self._ended = True
                for step in self._planner.rest():
                    self._take(step)

    def _plan(self, found: list[Found]) -> None:
        for one in found:
            try:
                step = None if self.stop else self._planner.add(one)
            except UserError as error:
                self.stop = error
            else:
                if step is not None:
                    self._take(step)

    def _take(self, step: Step) -> None:
        own = [_Row(row) for row in step.rows[self._rank :: self._world_size]]
        self._planned.append((step, own))
        self._unread.extend(row for row in own if row.missing)

    def _complete(self) -> Iterator[tuple[Step, list[list[Packable]]]]:
        while self._planned and not any(row.missing for row in self._planned[0][1]):
            step, own = self._planned.popleft()
            yield step, [row.documents for row in own]


class _Row:
    """A row of ours while its documents are being encoded."""

    def __init__(self, documents: list[Packable]) -> None:
        self.documents = documents

    @property
    def missing(self) -> tuple[int, ...]:
        """The draws that are still to be encoded."""
        return tuple(one.draw for one in self.documents if isinstance(one, Outline) and one.why is None)

    def fill(self, found: list[Found]) -> None:
        """Takes what `missing` were encoded to. RuntimeError for one that is not as large as it was measured."""
        by_draw = {one.draw: one for one in found}
        self.documents = [
            _encoded(one, by_draw[one.draw]) if isinstance(one, Outline) and one.draw in by_draw else one
            for one in self.documents
        ]


def _encoded(outline: Outline, found: Found) -> Packable:
    if isinstance(found, Skipped):
        return replace(outline, why=found.reason)
    if (found.tokens, found.tiles) != (outline.tokens, outline.tiles):
        raise RuntimeError(
            f"sample {outline.id!r} of {outline.ref.source!r} was measured as {outline.tokens} tokens and "
            f"{outline.tiles} tiles, and encoded it has {found.tokens} and {found.tiles}; has its file changed?"
        )
    return found
