"""From a mixture to the rows of each training step, with worker processes and exact resume.

    draw numbers --reading, in workers--> documents --planning, packing--> rows of a step --> this rank's Batches

What a draw is depends on its number alone, and rows on the sizes of documents alone, which a rank may know without
encoding them: so 0, 1 or 8 workers and 1 or 64 ranks give the same rows, bit for bit. The state of the stream is the
next draw and the draws of the documents that wait in the packer; what was read or planned ahead does not count. It is
resumed with any number of workers and of ranks: the rows of all steps are one stream, and rank r of R takes rows r,
r + R, ... of each step.

**Skips.** A sample that cannot be read or measured, or is larger than a row, goes into no row. One that was measured
and cannot be encoded (a picture that ends too early) has its place in a row by then; the rank whose row it is leaves
it out, and the row is shorter by it, however many ranks there are. Decoding every picture to know before would cost
what outlining saves; telling the others at each step would make loading wait for the slowest. A row of which nothing
is left is two tokens of padding, which neither loss nor router sees, because every rank must run the model as often.

Skips are always the same, logged, given to `on_skip`, and kept with their reason in `PackedLoader.skipped` (the first
thousand). What only the rank of a row knows is told to all when the state is asked for; so the accounts are then the
same on every rank, and for any number of them. A source none of whose first samples can be used stops the run. So does
any exception but UserError and ValueError, which then names the sample.

Cost: see `planning`; the workers' is in `reading`.
"""

from __future__ import annotations

import logging
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, count
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..sample import Sample
from ..text.render import IGNORE, Encoded, Ref
from .mixture import Mixture
from .packing import LOOKAHEAD, Document, Outline, Packable, Packer, Skipped, skipped
from .planning import HOPELESS, Pipeline, Planner, Step, hopeless
from .reading import Documents
from .sources import SourceData

if TYPE_CHECKING:
    from ..processor import Measured

log = logging.getLogger(__name__)

TIMEOUT = 600
"""Seconds after which workers that give nothing are held to hang."""
_LEDGER = 1000
"""So many skipped samples are kept and logged one by one; all are counted and given to `on_skip`."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One row of whole documents. T tokens, N tiles; nothing is padded.

    input_ids, labels, position_ids int64 [1, T]: labels are shifted inside each document and -100 where not trained
    on, positions restart at 0 with each document. tiles uint8 [N, 3, H, W]; spans int64 [N], the first placeholder of
    each tile in the row; overviews bool [N], which of them are overviews. refs name the documents in order; none for a
    row of padding, two documents of one token 0.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    tiles: Tensor
    spans: Tensor
    overviews: Tensor
    refs: list[Ref]


@dataclass
class Realised:
    """What has been trained on of one source: samples and what they held, and how many draws were skipped."""

    samples: int = 0
    tokens: int = 0
    target_tokens: int = 0
    tiles: int = 0
    skipped: int = 0


class PackedLoader:
    """Iterating gives, for each step, this rank's `rows / world_size` batches of the step; without end, unless all
    sources of the mixture are limited to so many epochs: then UserError when no whole step is left.

    `sources` may hold more than the mixture names. `measure` gives for every sample the numbers that `encode` would.
    `rows`, `tokens` and `tiles` are the recipe's `batch`: rows of a step over all ranks, and what one row holds.
    `on_skip` is called for each skipped draw. `gather` gives what each of the ranks handed in, in their order. An
    iteration continues where the last one (or the loaded state) stopped. Raises UserError when rows cannot be shared
    out evenly.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Mapping[str, SourceData],
        encode: Callable[[Sample], Encoded],
        measure: Callable[[Sample], Measured],
        *,
        tokens: int,
        tiles: int,
        rows: int,
        workers: int,
        worker_timeout: int = TIMEOUT,
        rank: int = 0,
        world_size: int = 1,
        gather: Callable[[Any], list[Any]] | None = None,
        lookahead: int = LOOKAHEAD,
        on_skip: Callable[[Skipped], object] | None = None,
    ) -> None:
        if rows < 1 or rows % world_size:
            raise UserError(
                f"batch.rows={rows} cannot be shared by {world_size} processes; make it a multiple of {world_size}"
            )
        if workers < 0:
            raise UserError(f"workers={workers}; use 0 or more")
        self.rows, self.workers, self.rank, self.world_size = rows, workers, rank, world_size
        self.realised: dict[str, Realised] = {name: Realised() for name in mixture.shares}
        self.skipped: list[Skipped] = []
        self._timeout, self._on_skip, self._gather = worker_timeout, on_skip, gather
        self._documents = Documents(mixture, sources, encode, measure)
        self._new_packer = partial(Packer, tokens=tokens, tiles=tiles, lookahead=lookahead)
        packer = self._new_packer()
        self._packing = [packer.tokens, packer.tiles, packer.lookahead, packer.patience]
        self._next = 0
        self._waiting: list[int] = []
        self._lost: list[Outline] = []
        """Documents of this rank's rows that could not be encoded, of which the others do not know yet."""
        self._told = 0
        self._useful: set[str] = set()
        self._useless: Counter[str] = Counter()
        """Sources of which this rank has encoded a document; and how many it could not."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """See the class. Between two steps nothing is half done, so that `state_dict` may be asked for."""
        planner = self._planner()
        end = self._documents.mixture.length
        draws = count(self._next) if end is None else iter(range(self._next, end))
        pipeline = Pipeline(
            self._documents,
            planner,
            chain(self._waiting, draws),
            rank=self.rank,
            world_size=self.world_size,
            workers=self.workers,
            timeout=self._timeout,
        )
        with closing(pipeline.steps()) as steps:
            for step, own in steps:
                self._count(step)
                batches = [make_batch(self._usable(row)) for row in own]
                self._next, self._waiting = step.next, step.waiting
                del step, own  # or the tiles are held twice while the step trains
                yield batches
        for one in planner.skips:
            self._skip(one)
        raise pipeline.stop or UserError(
            f"the data ends at draw {planner.next:,}, where every source has had its epochs ({len(planner.rows)} of "
            f"{self.rows} rows of a step are left over); train fewer steps, or raise `epochs`"
        )

    def _planner(self) -> Planner:
        return Planner(
            self._new_packer(),
            rows=self.rows,
            first=self._next,
            waiting=self._waiting,
            refused={name: realised.skipped for name, realised in self.realised.items()},
            used={name for name, realised in self.realised.items() if realised.samples},
        )

    def _usable(self, row: list[Packable]) -> list[Document]:
        """What of a row could be encoded."""
        for one in row:
            if isinstance(one, Outline):
                self._lose(one)
        usable = [one for one in row if isinstance(one, Document)]
        self._useful.update(one.ref.source for one in usable)
        return usable

    # ------------------------------------------------------------------------------------------------------- accounts

    def _count(self, step: Step) -> None:
        for one in step.skips:
            self._skip(one)
            if self.rank == 0:
                self._tell(one)
        for document in (document for row in step.rows for document in row):
            self._add(document, 1)

    def _add(self, document: Packable, times: int) -> None:
        realised = self.realised[document.ref.source]
        realised.samples += times
        realised.tokens += times * document.tokens
        realised.target_tokens += times * document.target_tokens
        realised.tiles += times * document.tiles

    def _skip(self, one: Skipped) -> None:
        self.realised[one.source].skipped += 1
        if self._on_skip is not None:
            self._on_skip(one)
        if len(self.skipped) < _LEDGER:
            insort(self.skipped, one, key=attrgetter("draw"))

    def _tell(self, one: Skipped) -> None:
        self._told += 1
        if self._told <= _LEDGER:
            log.warning("skipped draw %d, %s[%d] (id %r): %s", one.draw, one.source, one.index, one.id, one.reason)

    def _lose(self, outline: Outline) -> None:
        """A document of this rank's rows that cannot be encoded, as only this rank knows."""
        self._lost.append(outline)
        one = skipped(outline, outline.why or "")
        self._tell(one)
        self._useless[one.source] += 1
        if self._useless[one.source] >= HOPELESS and one.source not in self._useful:
            raise UserError(hopeless(one, self._useless[one.source]))

    def _share_losses(self) -> None:
        """Makes the accounts those of all ranks. UserError when they have not read the same."""
        mine = (self._next, self._waiting, self._lost)
        found = [mine] if self._gather is None else self._gather(mine)
        for rank, (next_, waiting, _) in enumerate(found):
            if (next_, waiting) != mine[:2]:
                raise UserError(
                    f"processes {self.rank} and {rank} have not read the same data: they are at draws "
                    f"{self._next:,} and {next_:,}; see whether every machine can read every file, then run again"
                )
        for outline in sorted((one for _, _, lost in found for one in lost), key=attrgetter("draw")):
            self._add(outline, -1)
            self._skip(skipped(outline, outline.why or ""))
        self._lost = []

    # ---------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands and what it gave, as plain JSON data; the same on every rank.

        To be asked for between steps, and with `gather` by all ranks at once.
        """
        self._share_losses()
        return {
            "next": self._next,
            "waiting": self._waiting.copy(),
            **self._identity(),
            "realised": {name: asdict(realised) for name, realised in self.realised.items()},
            "skipped": [asdict(one) for one in self.skipped],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` stood, with any number of workers and ranks.

        Raises UserError when the sources (naming the first), the mixture or the packing are not those of the state.
        """
        mine = self._identity()
        for name, fingerprint in mine["fingerprints"].items():
            saved = state["fingerprints"].get(name)
            if saved != fingerprint:
                raise UserError(
                    f"source {name!r} is not what this run was started with ({saved} then, {fingerprint} now); "
                    "restore its data or start a new run"
                )
        for key in ("mixture", "packing"):
            if state[key] != mine[key]:
                raise UserError(
                    f"the {key} has changed since this state was saved; restore its settings or start a new run"
                )
        self._next, self._waiting = state["next"], list(state["waiting"])
        self.realised = {name: Realised(**counts) for name, counts in state["realised"].items()}
        self.skipped = [Skipped(**one) for one in state["skipped"]]
        self._lost, self._useless, self._told = [], Counter(), len(self.skipped)
        self._useful = {name for name, realised in self.realised.items() if realised.samples}

    def _identity(self) -> dict[str, Any]:
        """What the stream is a function of."""
        return {
            "fingerprints": {name: source.fingerprint for name, source in self._documents.sources.items()},
            "mixture": self._documents.mixture.fingerprint,
            "packing": self._packing,
        }


def make_batch(row: list[Document]) -> Batch:
    """A row as tensors. All documents have tiles of the same size; a row of none is padding."""
    if not row:
        return _padding()
    encoded = [document.encoded for document in row]
    starts = np.cumsum([0, *(document.tokens for document in row[:-1])])
    return Batch(
        input_ids=_flat([e.input_ids for e in encoded]),
        position_ids=_flat([np.arange(len(e.input_ids)) for e in encoded]),
        labels=_flat([e.labels for e in encoded]),
        tiles=torch.from_numpy(np.concatenate([e.tiles for e in encoded])),
        spans=torch.from_numpy(np.concatenate([e.spans + start for e, start in zip(encoded, starts, strict=True)])),
        overviews=torch.from_numpy(np.concatenate([_overviews(e) for e in encoded])),
        refs=[document.ref for document in row],
    )


def _overviews(encoded: Encoded) -> np.ndarray:
    return np.zeros(len(encoded.tiles), dtype=bool) if encoded.overviews is None else encoded.overviews


def _padding() -> Batch:
    """What model and loss take for nothing: two documents of one token."""
    zeros_1T = torch.zeros(1, 2, dtype=torch.int64)
    return Batch(
        input_ids=zeros_1T,
        position_ids=zeros_1T.clone(),
        labels=torch.full_like(zeros_1T, IGNORE),
        tiles=torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        spans=torch.zeros(0, dtype=torch.int64),
        overviews=torch.zeros(0, dtype=torch.bool),
        refs=[],
    )


def _flat(pieces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64, copy=False))[None]
