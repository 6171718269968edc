"""The engine of all builders: items to samples to shards, in order, resumable, the same bytes every time.

    builder.items() --engine, any order--> Made --in item order--> one writer --> out/shard-000000.tar ...
                                                                                 out/ledger.json   after each shard
                                                                                 out/skipped.jsonl what was left out
                                                                                 out/dataset.json  at the end

A builder is a pure function of (settings, item), so it does not matter which process makes an item; the results are
taken in the order of the items and written by this process alone. After each shard the ledger says how far that was;
running the same build again continues there, and what a killed run had begun is made again. So the shards are the same
bytes with 1 or 16 workers, locally or on Ray, in one go or after ten kills.

Nothing is dropped silently: an item that raises UserError, or whose process crashes twice (as native code may, on a
damaged file), is counted and named in skipped.jsonl. Any other exception stops the build and names the item.

Cost: memory of the results waiting for their turn (4 a worker); 1 MB of ledger for 10,000 shards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from ..data.writers.shards import ShardWriter, open_shard
from ..errors import UserError
from ..files import alone_in, write_atomically
from ..progress import Bar
from ..sample import Sample
from .engines import Engine, Failed, in_order

LEDGER, SKIPPED, DATASET = "ledger.json", "skipped.jsonl", "dataset.json"
COORDINATES = "pixels of the original picture"
"""What the places of every dataset built here are in."""
_ENDINGS = {"webdataset": "tar", "parquet": "parquet"}
_REASONS = 100
"""So many different reasons for skipping are counted apart; skipped.jsonl has them all."""
_REST = "other reasons (skipped.jsonl has them)"

Item = Any
"""JSON data that says what to make: a file and its pages, a range of seeds."""


@dataclass(frozen=True)
class Skip:
    """Something that was left out: `what` names it, `reason` says why in words that many can share."""

    what: str
    reason: str


@dataclass(frozen=True)
class Made:
    """What came of one item. Pictures are best given as encoded bytes: they travel between processes."""

    samples: list[Sample]
    skipped: list[Skip] = field(default_factory=list)


class Builder(Protocol):
    """Makes samples from items. It is pickled to other processes, and its methods depend on nothing but `settings`
    (and the content of the files that the items name)."""

    @property
    def name(self) -> str:
        """The kind of data, and the `source` of its samples: pdf, web, ..."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything the output depends on, as JSON data; no paths of this machine."""
        ...

    def items(self) -> Sequence[Item]:
        """What there is to make, small JSON values, always in the same order."""
        ...

    def make(self, item: Item) -> Made:
        """The samples of an item, a pure function. Their ids are unique in the whole dataset. UserError: it is skipped
        with that reason."""
        ...


@dataclass
class BuildReport:
    """How far a build is: whole items, samples of the next one already written, and what has been counted."""

    items: int = 0
    within: int = 0
    samples: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    """Name, samples and bytes of each shard that is whole."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Samples by their `meta["task"]`."""
    skipped: dict[str, int] = field(default_factory=dict)
    """How many by reason."""
    skipped_bytes: int = 0
    source: dict[str, str] = field(default_factory=dict)
    """The block of a recipe that reads this dataset."""


def build(
    builder: Builder,
    out: Path,
    *,
    to: Literal["webdataset", "parquet"] = "webdataset",
    shard_samples: int = 1000,
    shard_bytes: int = 2**28,
    workers: int = 2,
    engine: Engine = "local",
) -> BuildReport:
    """Make all items of a builder and write them as shards below `out`; see the module docstring.

    A shard is closed when it holds `shard_samples` samples or `shard_bytes` bytes. `workers` 0 makes everything in this
    process. Running again continues, or returns the report of the finished build. UserError when `out` holds something
    else or cannot be written.
    """
    items = builder.items()
    identity = {
        "mm15": version("mm15"),
        "builder": builder.name,
        "settings": builder.settings(),
        "items": len(items),
        "items_digest": hashlib.sha256(json.dumps(list(items)).encode()).hexdigest()[:16],
        "to": to,
        "shard_samples": shard_samples,
        "shard_bytes": shard_bytes,
    }
    with alone_in(out, ".lock", busy="another build is writing here"):
        report = _load(out, identity)
        if report.source:
            return report
        writer = _Shards(out, to, shard_samples, shard_bytes, report, identity)
        results = in_order(builder.make, items, start=report.items, workers=workers, engine=engine)
        bar = Bar(builder.name, total=len(items), done=report.items, unit="items")
        with writer, bar, closing(results):
            for item, made in zip(items[report.items :], results, strict=True):
                writer.take(Made([], [Skip(name_of(item), made.reason)]) if isinstance(made, Failed) else made)
                bar.update(report.items)
        report.source = {"format": to, "path": str(out / f"*.{_ENDINGS[to]}"), "layout": "mm15"}
        _finish(out, identity, report)
    return report


def is_heldout(key: str, share: float) -> bool:
    """Whether what `key` names (a file's digest, a seed) is kept for evaluation: about `share` of all keys are, each
    always or never, whatever else there is."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) < share * 2**64


def name_of(item: Item) -> str:
    """An item in errors: its JSON, cut."""
    text = json.dumps(item, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."


# --------------------------------------------------------------------------------------------------------------- files


class _Shards:
    """The one writer: takes results in order, closes shards when they are full, keeps the ledger."""

    def __init__(
        self,
        out: Path,
        to: Literal["webdataset", "parquet"],
        samples: int,
        size: int,
        report: BuildReport,
        identity: Any,
    ) -> None:
        self.out, self.to, self.most, self.size = out, to, samples, size
        self.report, self.identity = report, identity
        self.shard: ShardWriter | None = None

    def __enter__(self) -> _Shards:
        self.skips = open(self.out / SKIPPED, "ab")
        self.skips.truncate(self.report.skipped_bytes)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._close()
        elif self.shard is not None:
            self.shard.abort()
        self.skips.close()

    def take(self, made: Made) -> None:
        """One item's results; of an item that a shard ended in the middle of, the rest."""
        report = self.report
        for sample in made.samples[report.within :]:
            if self.shard is not None and (self.shard.samples >= self.most or self.shard.bytes >= self.size):
                self._close()
            self._add(sample)
            report.within += 1
        for skip in made.skipped:
            self._skip(skip)
        report.items, report.within = report.items + 1, 0

    def _add(self, sample: Sample) -> None:
        if self.shard is None:
            name = f"shard-{len(self.report.shards):06d}.{_ENDINGS[self.to]}"
            self.shard = open_shard(self.out / name, to=self.to)
        before = self.shard.bytes
        try:
            self.shard.add(sample)
        except UserError as error:
            self._skip(Skip(sample.id, str(error)))
            return
        except OSError as error:
            raise UserError(
                f"{self.shard.path}: cannot be written ({error.strerror}); make room and run again"
            ) from None
        self.report.samples += 1
        self.report.bytes += self.shard.bytes - before
        task = str(sample.meta.get("task", self.identity["builder"]))
        self.report.tasks[task] = self.report.tasks.get(task, 0) + 1

    def _skip(self, skip: Skip) -> None:
        line = json.dumps(asdict(skip), ensure_ascii=False).encode() + b"\n"
        self.skips.write(line)
        self.report.skipped_bytes += len(line)
        counts = self.report.skipped
        reason = skip.reason if skip.reason in counts or len(counts) < _REASONS else _REST
        counts[reason] = counts.get(reason, 0) + 1

    def _close(self) -> None:
        """Finish the open shard, then say so in the ledger: what is not in the ledger is made again."""
        if self.shard is not None:
            self.shard.close()
            shard = {"name": self.shard.path.name, "samples": self.shard.samples, "bytes": self.shard.bytes}
            self.report.shards.append(shard)
            self.shard = None
        self.skips.flush()
        os.fsync(self.skips.fileno())
        _save(self.out, self.identity, self.report)


def _load(out: Path, identity: dict[str, Any]) -> BuildReport:
    """How far the same build came before. UserError when `out` holds another one, or files of somebody else."""
    if not (out / LEDGER).exists():
        others = sorted(path.name for path in out.iterdir() if path.suffix != ".partial" and path.name != ".lock")
        if others:
            raise UserError(f"{out}: holds other files ({', '.join(others[:3])}); give an empty folder as --out")
        _save(out, identity, BuildReport())
    try:
        ledger = json.loads((out / LEDGER).read_text(encoding="utf-8"))
        saved, report = ledger["identity"], BuildReport(**ledger["report"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / LEDGER}: not a ledger of mm15 ({error}); give another --out") from None
    then, now = _flat(saved), _flat(identity)
    for key in dict.fromkeys([*now, *then]):
        was, asked = then.get(key, "nothing"), now.get(key, "nothing")
        if was != asked:
            raise UserError(
                f"{out}: was begun with {key}={was:.60} and this has {asked:.60}; give another --out, "
                "or remove the folder"
            )
    return report


def _save(out: Path, identity: dict[str, Any], report: BuildReport) -> None:
    text = json.dumps({"identity": identity, "report": asdict(report)}, ensure_ascii=False, indent=1)
    write_atomically(out / LEDGER, text + "\n")


def _finish(out: Path, identity: dict[str, Any], report: BuildReport) -> None:
    """What the dataset is, for people and programs; then the ledger with its `source`, by which it is known as done."""
    told = {
        "builder": identity["builder"],
        "mm15": identity["mm15"],
        "settings": identity["settings"],
        "coordinates": COORDINATES,
        "items": report.items,
        "samples": report.samples,
        "bytes": report.bytes,
        "tasks": report.tasks,
        "skipped": report.skipped,
        "shards": report.shards,
        "source": report.source,
    }
    write_atomically(out / DATASET, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
    _save(out, identity, report)


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Leaves by their dotted path, as JSON."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: json.dumps(tree, ensure_ascii=False)}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()}
