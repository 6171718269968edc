"""From a mixture to the rows of each training step, with worker processes and exact resume.

    draw numbers --workers--> documents in order of their draws --packer, main process--> rows --> lists of Batches

Reading and encoding is a function of the draw number, the workers return documents in the order they were asked for,
and packing happens in one place: so 0, 1 or 8 workers give the same stream, bit for bit. The state of the stream is
the next draw and the draws of the documents that wait in the packer; what workers have fetched ahead does not count.
It is resumed with any number of workers and of ranks: the rows of all steps are one stream, whatever the number of
ranks, and rank r of R takes rows r, r + R, ... of each step.

A sample that cannot be used (UserError or ValueError while reading or encoding it, or larger than a row) is skipped:
always the same one, logged, given to `on_skip`, and kept with its reason in `PackedLoader.skipped` (the first
thousand). A source none of whose first samples can be used stops the run. Any other exception stops it too, and names
the sample.

Cost: every rank reads, encodes and packs all rows of a step (packing needs all lengths), so its workers do R times
the work of one rank's share; fine on one node, the limit beyond it. Documents come from workers as pickles through a
pipe (0.8 ms a MB of tiles), not in shared memory, which containers often lack.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from multiprocessing import get_all_start_methods
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from ..sample import Sample
from ..text.render import IGNORE, Encoded, Ref
from .mixture import Mixture
from .packing import LOOKAHEAD, Document, Packer, Skipped
from .sources import SourceData

log = logging.getLogger(__name__)

_HOPELESS = 64
"""A source is given up when this many of its samples were skipped and none was used."""
_LEDGER = 1000
"""So many skipped samples are kept and logged one by one; all are counted and given to `on_skip`."""
_AHEAD = 128
"""So many documents are fetched ahead over all workers: about 1 GB of them with tiles of 672 pixels."""
_AT_ONCE = 8
"""So many of them are made by a worker at a time."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One row of whole documents. T tokens, N tiles; nothing is padded.

    input_ids, labels, position_ids int64 [1, T]: labels are shifted inside each document and -100 where not trained
    on, positions restart at 0 with each document. tiles uint8 [N, 3, H, W]; spans int64 [N], the first placeholder of
    each tile in the row. refs name the documents in order.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    tiles: Tensor
    spans: Tensor
    refs: list[Ref]


@dataclass
class Realised:
    """What has been trained on of one source: samples and what they held, and how many draws were skipped."""

    samples: int = 0
    tokens: int = 0
    target_tokens: int = 0
    tiles: int = 0
    skipped: int = 0


class Documents(Dataset):
    """Map-style: draw numbers -> for each a Document or Skipped. Pure, so it does not matter which process asks."""

    def __init__(
        self, mixture: Mixture, sources: Mapping[str, SourceData], encode: Callable[[Sample], Encoded]
    ) -> None:
        self.mixture = mixture
        self.sources = {name: sources[name] for name in mixture.shares}
        self.encode = encode

    def __getitem__(self, draws: Sequence[int]) -> list[Document | Skipped]:
        """Several draws at once, because handing one over between processes costs as much as making a small one."""
        return [self.read(draw) for draw in draws]

    def read(self, draw: int) -> Document | Skipped:
        """Reads and encodes one draw. RuntimeError naming the sample for any failure but unusable data."""
        ref = self.mixture.draw(draw)
        sample_id = str(ref.index)
        try:
            sample = self.sources[ref.source][ref.index]
            sample_id = sample.id
            encoded = self.encode(sample)
            if not len(encoded.input_ids):
                raise ValueError("the sample has no tokens")
        except ValueError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return Skipped(draw, ref.source, ref.index, ref.epoch, sample_id, reason)
        except Exception as error:
            raise RuntimeError(
                f"draw {draw}, sample {sample_id!r} ({ref.source}[{ref.index}]): {type(error).__name__}: {error}"
            ) from error
        return Document(draw, sample_id, ref, replace(encoded, ref=ref))


class PackedLoader:
    """Iterating gives, for each step, this rank's `rows / world_size` batches of the step; without end, unless all
    sources of the mixture are limited to so many epochs: then UserError when no whole step is left.

    `sources` may hold more than the mixture names. `rows`, `tokens` and `tiles` are the recipe's `batch`: rows of a
    step over all ranks, and what one row holds. `on_skip` is called for each skipped draw, in their order. An iteration
    continues where the last one (or the loaded state) stopped. Raises UserError when rows cannot be shared out evenly.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Mapping[str, SourceData],
        encode: Callable[[Sample], Encoded],
        *,
        tokens: int,
        tiles: int,
        rows: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
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
        self._on_skip = on_skip
        self._documents = Documents(mixture, sources, encode)
        self._packer = Packer(tokens=tokens, tiles=tiles, lookahead=lookahead)
        self._next = 0
        self._replay: list[int] = []
        self._step: list[list[Document]] = []

    def __iter__(self) -> Iterator[list[Batch]]:
        """See the class. Between two steps nothing is half done, so that `state_dict` may be asked for."""
        for row in self._rows():
            self._step.append(row)
            if len(self._step) == self.rows:
                step, self._step = self._step, []
                self._count(step)
                yield [make_batch(row) for row in step[self.rank :: self.world_size]]
        raise UserError(
            f"the data ends at draw {self._next:,}, where every source has had its epochs ({len(self._step)} of "
            f"{self.rows} rows of a step are left over); train fewer steps, or raise `epochs`"
        )

    def _rows(self) -> Iterator[list[Document]]:
        """The rows from where the stream stands."""
        end = self._documents.mixture.length
        draws = count(self._next) if end is None else iter(range(self._next, end))
        for found in self._fetch(chain(self._replay.copy(), draws)):
            if self._replay:
                self._restore(found)
                continue
            self._next += 1
            row = self._packer.add(found) if isinstance(found, Document) else found
            if isinstance(row, Skipped):
                self._skip(row)
            elif row:
                yield row
        while row := self._packer.rest():
            yield row

    # ------------------------------------------------------------------------------------------------------- accounts

    def _count(self, step: list[list[Document]]) -> None:
        for document in (document for row in step for document in row):
            realised = self.realised[document.ref.source]
            realised.samples += 1
            realised.tokens += document.tokens
            realised.target_tokens += int((document.encoded.labels != IGNORE).sum())
            realised.tiles += document.tiles

    def _skip(self, skipped: Skipped) -> None:
        realised = self.realised[skipped.source]
        realised.skipped += 1
        if self._on_skip is not None:
            self._on_skip(skipped)
        if len(self.skipped) < _LEDGER:
            self.skipped.append(skipped)
            if self.rank == 0:
                place = f"draw {skipped.draw}, {skipped.source}[{skipped.index}] (id {skipped.id!r})"
                log.warning("skipped %s: %s", place, skipped.reason)
        waiting = {document.ref.source for row in [*self._step, self._packer.waiting] for document in row}
        if realised.skipped >= _HOPELESS and not realised.samples and skipped.source not in waiting:
            raise UserError(
                f"source {skipped.source!r}: none of the first {realised.skipped} samples can be used; the last, "
                f"{skipped.id!r}: {skipped.reason}"
            )

    # ---------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON data; the same on every rank. To be asked for between steps."""
        if self._step:
            raise RuntimeError(f"{len(self._step)} of the step's {self.rows} rows are made; ask between steps")
        return {
            "next": self._next,
            "waiting": [document.draw for document in self._packer.waiting] + self._replay,
            **self._identity(),
            "realised": {name: asdict(realised) for name, realised in self.realised.items()},
            "skipped": [asdict(skipped) for skipped in self.skipped],
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
        self._next, self._replay, self._packer.waiting = state["next"], list(state["waiting"]), []
        self.realised = {name: Realised(**counts) for name, counts in state["realised"].items()}
        self.skipped = [Skipped(**skipped) for skipped in state["skipped"]]

    def _identity(self) -> dict[str, Any]:
        """What the stream is a function of."""
        packer = self._packer
        return {
            "fingerprints": {name: source.fingerprint for name, source in self._documents.sources.items()},
            "mixture": self._documents.mixture.fingerprint,
            "packing": [packer.tokens, packer.tiles, packer.lookahead, packer.patience],
        }

    def _restore(self, found: Document | Skipped) -> None:
        """Puts a document that waited when the state was saved back into the packer."""
        if isinstance(found, Skipped):
            raise UserError(
                f"sample {found.id!r} of {found.source!r} was read before this state was saved and cannot be now: "
                f"{found.reason}"
            )
        self._packer.waiting.append(found)
        self._replay.pop(0)

    # -------------------------------------------------------------------------------------------------------- workers

    def _fetch(self, draws: Iterator[int]) -> Iterator[Document | Skipped]:
        """The documents of draws, in their order; the workers live as long as the iteration."""
        if not self.workers:
            yield from map(self._documents.read, draws)
            return
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns at each fork
        loader = DataLoader(
            self._documents,
            batch_size=None,
            sampler=iter(lambda: list(islice(draws, _AT_ONCE)), []),
            num_workers=self.workers,
            prefetch_factor=max(2, _AHEAD // _AT_ONCE // self.workers),
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or the loader draws from the global one, and dropout depends on workers
            multiprocessing_context="fork" if "fork" in get_all_start_methods() else "spawn",
        )
        try:
            for found in loader:
                yield from found
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
                raise
            raise RuntimeError(
                f"a loader worker died near draw {self._next} (killed, or out of memory); run again to resume, with "
                f"fewer workers than {self.workers} if it was memory"
            ) from error


def make_batch(row: list[Document]) -> Batch:
    """A row as tensors. All documents have tiles of the same size."""
    encoded = [document.encoded for document in row]
    starts = np.cumsum([0, *(document.tokens for document in row[:-1])])
    return Batch(
        input_ids=_flat([e.input_ids for e in encoded]),
        position_ids=_flat([np.arange(len(e.input_ids)) for e in encoded]),
        labels=_flat([e.labels for e in encoded]),
        tiles=torch.from_numpy(np.concatenate([e.tiles for e in encoded])),
        spans=torch.from_numpy(np.concatenate([e.spans + start for e, start in zip(encoded, starts, strict=True)])),
        refs=[document.ref for document in row],
    )


def _flat(pieces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64, copy=False))[None]


def _as_it_is(found: Any) -> Any:
    return found


def _start_worker(_: int) -> None:
    """Ctrl-C goes to every process of the terminal; only the main one shall act on it, and it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
